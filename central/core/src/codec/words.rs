//! The numbers of words. A number is never used for another word; a word that is added gets a new
//! one, and raises the digit of the format.

use ev_contract::{
    codes::Code,
    connector::{FaultEffect, Phase, Service},
    v1::{EndCode, EndSource, Flag, Origin, PriceComponent, Status},
};

use super::{Bad, Coded, Got, Reader, Writer};
use crate::frame::Kind;

macro_rules! words {
    ($($type:ident { $($variant:ident = $number:literal,)+ })+) => {$(
        impl Coded for $type {
            fn put(&self, w: &mut Writer) {
                w.byte(match self {
                    $(Self::$variant => $number,)+
                });
            }
            fn get(r: &mut Reader<'_>) -> Got<Self> {
                match r.byte()? {
                    $($number => Ok(Self::$variant),)+
                    _ => Err(Bad("it holds a word that this build does not know")),
                }
            }
        }
    )+};
}

words! {
    Kind {
        Refused = 1,
        Started = 2,
        Stopping = 3,
        Operated = 4,
        Synced = 5,
        Intake = 6,
        CommandAnswered = 7,
        Released = 8,
        Forget = 9,
        Enrolled = 10,
    }
    Origin {
        Unrecognised = 0,
        App = 1,
        Operator = 2,
        Local = 3,
        Free = 4,
        Unknown = 5,
    }
    Phase {
        Unrecognised = 0,
        Preparing = 1,
        Charging = 2,
        SuspendedEv = 3,
        SuspendedEvse = 4,
        Stopping = 5,
        Idle = 6,
        Completed = 7,
        Failed = 8,
    }
    Status {
        Unrecognised = 0,
        Accepted = 1,
        Denied = 2,
        Unknown = 3,
        InProgress = 4,
        Completed = 5,
        Failed = 6,
    }
    Service {
        Unrecognised = 0,
        In = 1,
        Out = 2,
        OutAfterSession = 3,
    }
    FaultEffect {
        Unrecognised = 0,
        Warning = 1,
        Suspends = 2,
        Ended = 3,
    }
    EndSource {
        Unrecognised = 0,
        Driver = 1,
        Operator = 2,
        Central = 3,
        ChargePoint = 4,
        Charger = 5,
        Vehicle = 6,
        Technician = 7,
    }
    EndCode {
        Unrecognised = 0,
        Driver = 1,
        Operator = 2,
        Local = 3,
        Deauthorised = 4,
        EvUnplugged = 5,
        EvStopped = 6,
        EnergyLimit = 7,
        TimeLimit = 8,
        CostLimit = 9,
        PlugTimeout = 10,
        PowerLoss = 11,
        Reboot = 12,
        Reset = 13,
        Unlock = 14,
        Emergency = 15,
        Fault = 16,
        OccupiedLocally = 17,
        Refused = 18,
        WrittenOff = 19,
        Other = 20,
    }
    PriceComponent {
        Unrecognised = 0,
        Energy = 1,
        StartFee = 2,
        Idle = 3,
        Minimum = 4,
        Maximum = 5,
    }
    Flag {
        Unrecognised = 0,
        RegisterFell = 1,
        RegisterJumped = 2,
        TimeWentBack = 3,
        ClockUnsure = 4,
        MeterReset = 5,
        WrittenOff = 6,
        RecordsMissing = 7,
        Overlap = 8,
        NoEndReading = 9,
        DriverClaimed = 10,
    }
    Code {
        Unrecognised = 0,
        InvalidRequest = 1,
        InvalidId = 2,
        TooLarge = 3,
        UnknownVerb = 4,
        RequestIdReused = 5,
        Expired = 6,
        ExpiryTooFar = 7,
        InvalidTime = 8,
        LimitInvalid = 9,
        LimitBelowFee = 10,
        CurrencyMismatch = 11,
        UnknownChargePoint = 12,
        UnknownConnector = 13,
        ConnectorRequired = 14,
        ChargePointOffline = 15,
        ChargerOffline = 16,
        Occupied = 17,
        OccupiedByYou = 18,
        Faulted = 19,
        OutOfService = 20,
        LimitReached = 21,
        DriverBlocked = 22,
        SessionNotFound = 23,
        SessionEnded = 24,
        ReceiptNotReady = 25,
        SessionOpen = 26,
        NotAllowed = 27,
        OutcomeUnknown = 28,
        Forgotten = 29,
        Overloaded = 30,
        NotReady = 31,
        Internal = 32,
        Late = 33,
        StoppedBeforeStart = 34,
        WrongEpoch = 35,
        OccupiedLocally = 36,
        ClockUnsure = 37,
        StorageFailed = 38,
        RejectedByCharger = 39,
        Unsupported = 40,
        NoAnswer = 41,
        TariffInvalid = 42,
        TariffNotFound = 43,
        DriverNotFound = 44,
        ReasonRequired = 45,
        AmountInvalid = 46,
        IdentityInUse = 47,
        PriceChanged = 48,
    }
}
