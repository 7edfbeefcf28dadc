//! The values behind the keys, and what they consist of.

use std::{collections::BTreeSet, sync::Arc};

use ev_contract::{
    connector::Fault,
    ids::{ConnectorId, SessionId},
    units::Amount,
    v1::{
        Adjustment, Boot, ComponentPrice, ConnectorSpec, EndReason, Flag, IdleFee, IdleFrom,
        Limits, MeterSpan, Period, ReceiptLine, Tariff, TariffElement, TariffScope, TariffTerms,
        Tax, TaxLine,
    },
    wire::Tag,
};

use super::{Bad, Coded, Got, Pinned, Reader, Writer};
use crate::{
    frame::{Basis, Digest, Evidence, Forget},
    keys::Asker,
    model::{
        Adjustments, Answer, Bill, ChargePoint, Connector, Driver, Enrolment, Horizon, Metering,
        OtherAgent, Pause, Place, Reported, Request, ScopeTariffs, Session, SessionSet, Spool,
        Stage, StopOrder,
    },
};

/// Fields in order.
macro_rules! fields {
    ($($type:ident { $($field:ident),+ $(,)? })+) => {$(
        impl Coded for $type {
            fn put(&self, w: &mut Writer) {
                let Self { $($field),+ } = self;
                $($field.put(w);)+
            }
            fn get(r: &mut Reader<'_>) -> Got<Self> {
                Ok(Self { $($field: Coded::get(r)?),+ })
            }
        }
    )+};
}

fields! {
    Adjustments { list, meter }
    Adjustment {
        tag, number, session_id, n, by, reason, at, energy_mwh, amount, currency, total
    }
    Basis { seq, digest }
    Bill {
        number, operator, status, end, started_at, energy_ended_at, ended_at, received_at, meters,
        periods, energy_mwh, idle_s, lines, exact, net, taxes, total, rounding
    }
    Boot { id, count, after }
    ComponentPrice { component, price }
    ConnectorSpec { connector, max_ma, phases, volts, plug }
    Driver { open, blocked }
    EndReason { code, source, raw, refused }
    Enrolment { at, revoked, out_of_service, place, max_kw }
    Fault { effect, raw }
    Forget { horizon, others_until, before, sessions }
    Horizon { until }
    IdleFee { grace_s, cap, from, after_fault }
    MeterSpan { meter_id, meter_epoch, from_mwh, to_mwh }
    Metering {
        started_at, device_tx, spans, last_at, power, soc_pct, periods, stood_ms, pause
    }
    Pause { since, register_mwh }
    Period { at, phase, register_mwh }
    Place { at, site, time_zone }
    Request { content, expires_at, answer }
    OtherAgent { epoch, boot, at, next, kept }
    ScopeTariffs { current, scheduled }
    Spool { next, quarantined, missing, anomalies, last, heard, kept_on, kept_bytes, opened_on }
    StopOrder { reason, at }
    Tax { name, percent }
    TaxLine { name, percent, amount }
    TariffTerms {
        currency, elements, start_fee_min_wh, idle, min_price, max_price, taxes, prices_net
    }
}

impl Coded for Evidence {
    fn put(&self, w: &mut Writer) {
        let Self {
            cp,
            epoch,
            seq,
            why,
            raw,
        } = self;
        cp.put(w);
        epoch.put(w);
        seq.put(w);
        why.put(w);
        w.blob(raw);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        Ok(Self {
            cp: Coded::get(r)?,
            epoch: Coded::get(r)?,
            seq: Coded::get(r)?,
            why: Coded::get(r)?,
            raw: r.blob()?.to_vec(),
        })
    }
}

impl<T> Coded for Tag<T> {
    fn put(&self, _: &mut Writer) {}
    fn get(_: &mut Reader<'_>) -> Got<Self> {
        Ok(Self::new())
    }
}

impl Coded for [u8; 16] {
    fn put(&self, w: &mut Writer) {
        w.raw(self);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        r.array()
    }
}

impl Coded for Digest {
    fn put(&self, w: &mut Writer) {
        self.0.put(w);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        Coded::get(r).map(Self)
    }
}

impl Coded for SessionSet {
    fn put(&self, w: &mut Writer) {
        w.count(self.len());
        for id in self {
            id.put(w);
        }
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        let ids: Vec<SessionId> = r.list()?;
        Self::in_order(ids).ok_or(Bad("sessions are not in order"))
    }
}

impl Coded for BTreeSet<Flag> {
    fn put(&self, w: &mut Writer) {
        w.count(self.len());
        for flag in self {
            flag.put(w);
        }
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        Ok(r.list()?.into_iter().collect())
    }
}

impl Coded for Asker {
    fn put(&self, w: &mut Writer) {
        match self {
            Self::Driver(id) => {
                w.byte(0);
                id.put(w);
            }
            Self::Operator(id) => {
                w.byte(1);
                id.put(w);
            }
        }
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        match r.byte()? {
            0 => Coded::get(r).map(Self::Driver),
            1 => Coded::get(r).map(Self::Operator),
            _ => Err(Bad("it holds an asker that this build does not know")),
        }
    }
}

impl Coded for TariffScope {
    fn put(&self, w: &mut Writer) {
        match self {
            Self::Default => w.byte(0),
            Self::Site(site) => {
                w.byte(1);
                site.put(w);
            }
            Self::ChargePoint(cp) => {
                w.byte(2);
                cp.put(w);
            }
        }
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        match r.byte()? {
            0 => Ok(Self::Default),
            1 => Coded::get(r).map(Self::Site),
            2 => Coded::get(r).map(Self::ChargePoint),
            _ => Err(Bad("it holds a scope that this build does not know")),
        }
    }
}

/// A tariff with restrictions is refused, so that none is ever written.
impl Coded for TariffElement {
    fn put(&self, w: &mut Writer) {
        let Self {
            price_components,
            restrictions: _,
        } = self;
        price_components.put(w);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        Ok(Self {
            price_components: Coded::get(r)?,
            restrictions: std::collections::BTreeMap::new(),
        })
    }
}

impl Coded for IdleFrom {
    fn put(&self, w: &mut Writer) {
        match self {
            Self::EnergyEnded => w.byte(0),
            Self::WithoutPowerS(s) => {
                w.byte(1);
                s.put(w);
            }
        }
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        match r.byte()? {
            0 => Ok(Self::EnergyEnded),
            1 => Coded::get(r).map(Self::WithoutPowerS),
            _ => Err(Bad("it holds an idle fee that this build does not know")),
        }
    }
}

/// Shared by the sessions that pin it.
impl Coded for Arc<Tariff> {
    fn put(&self, w: &mut Writer) {
        let pinned = Pinned(Self::clone(self));
        let distance = w.written.tariffs.distance(&pinned, Pinned::clone);
        if w.named(distance) {
            let Tariff {
                tariff_id,
                version,
                terms,
            } = &**self;
            tariff_id.put(w);
            version.put(w);
            terms.put(w);
        }
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        let distance = r.number()?;
        if distance > 0 {
            return r.read.tariffs.at(distance).map(|pinned| pinned.0);
        }
        let tariff = Self::new(Tariff {
            tariff_id: Coded::get(r)?,
            version: Coded::get(r)?,
            terms: Coded::get(r)?,
        });
        let tariff = r.interner.tariff(&tariff);
        r.read.tariffs.add(Pinned(Self::clone(&tariff)));
        Ok(tariff)
    }
}

impl Coded for Arc<[ConnectorSpec]> {
    fn put(&self, w: &mut Writer) {
        w.list(self);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        let specs = Self::from(r.list::<ConnectorSpec>()?);
        Ok(r.interner.specs(&specs))
    }
}

impl Coded for ChargePoint {
    fn put(&self, w: &mut Writer) {
        let Self {
            site,
            time_zone,
            connectors,
            version,
            epoch,
            boot,
            other,
        } = self;
        site.put(w);
        time_zone.put(w);
        connectors.put(w);
        version.put(w);
        epoch.put(w);
        boot.put(w);
        other.put(w);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        Ok(Self {
            site: Coded::get(r)?,
            time_zone: Coded::get(r)?,
            connectors: Coded::get(r)?,
            version: Coded::get(r)?,
            epoch: Coded::get(r)?,
            boot: Coded::get(r)?,
            other: Coded::get(r)?,
        })
    }
}

impl Coded for ReceiptLine {
    fn put(&self, w: &mut Writer) {
        let Self {
            component,
            quantity,
            unit,
            price,
            amount,
            note,
        } = self;
        component.put(w);
        quantity.put(w);
        w.word(unit);
        price.put(w);
        amount.put(w);
        note.put(w);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        Ok(Self {
            component: Coded::get(r)?,
            quantity: Coded::get(r)?,
            unit: r.word()?,
            price: Coded::get(r)?,
            amount: Coded::get(r)?,
            note: Coded::get(r)?,
        })
    }
}

/// Bits that say what follows.
struct Bits(u64);

impl Bits {
    fn of(bits: &[bool]) -> Self {
        Self(
            bits.iter()
                .rev()
                .fold(0, |all, bit| all << 1 | u64::from(*bit)),
        )
    }

    /// As many as there are; others are of another format.
    fn get<const N: usize>(r: &mut Reader<'_>) -> Got<[bool; N]> {
        let mut bits = r.number()?;
        let mut all = [false; N];
        for bit in &mut all {
            *bit = bits & 1 == 1;
            bits >>= 1;
        }
        if bits == 0 {
            Ok(all)
        } else {
            Err(Bad("it holds a field that this build does not know"))
        }
    }
}

fn put_some<T: Coded>(value: Option<&T>, w: &mut Writer) {
    if let Some(value) = value {
        value.put(w);
    }
}

fn some<T: Coded>(there: bool, r: &mut Reader<'_>) -> Got<Option<T>> {
    there.then(|| T::get(r)).transpose()
}

impl Coded for Reported {
    fn put(&self, w: &mut Writer) {
        let Self {
            plugged,
            service,
            service_revision,
            fault,
            charger_online,
            ended_since_plug,
        } = self;
        let bits = [
            *plugged,
            fault.is_some(),
            *charger_online,
            *ended_since_plug,
        ];
        w.number(Bits::of(&bits).0);
        service.put(w);
        service_revision.put(w);
        put_some(fault.as_ref(), w);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        let [plugged, fault, charger_online, ended_since_plug] = Bits::get(r)?;
        Ok(Self {
            plugged,
            service: Coded::get(r)?,
            service_revision: Coded::get(r)?,
            fault: some(fault, r)?.map(Box::new),
            charger_online,
            ended_since_plug,
        })
    }
}

impl Coded for Connector {
    fn put(&self, w: &mut Writer) {
        let Self {
            open,
            standing_stops,
            receipts,
            service,
            service_revision,
            busy_until,
            reported,
        } = self;
        let bits = [
            !open.is_empty(),
            !standing_stops.is_empty(),
            reported.is_some(),
        ];
        w.number(Bits::of(&bits).0);
        put_some((!open.is_empty()).then_some(open), w);
        put_some((!standing_stops.is_empty()).then_some(standing_stops), w);
        receipts.put(w);
        service.put(w);
        service_revision.put(w);
        busy_until.put(w);
        put_some(reported.as_ref(), w);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        let [open, standing_stops, reported] = Bits::get(r)?;
        Ok(Self {
            open: some(open, r)?.unwrap_or_default(),
            standing_stops: some(standing_stops, r)?.unwrap_or_default(),
            receipts: Coded::get(r)?,
            service: Coded::get(r)?,
            service_revision: Coded::get(r)?,
            busy_until: Coded::get(r)?,
            reported: some(reported, r)?,
        })
    }
}

impl Coded for Limits {
    fn put(&self, w: &mut Writer) {
        let Self {
            energy_mwh,
            energy_from_cost,
            time_s,
            cost,
        } = self;
        let bits = [
            energy_mwh.is_some(),
            *energy_from_cost,
            time_s.is_some(),
            cost.is_some(),
        ];
        w.number(Bits::of(&bits).0);
        // No register: it would only lead away from those around it.
        put_some(energy_mwh.map(|energy| energy.0).as_ref(), w);
        put_some(time_s.as_ref(), w);
        put_some(cost.as_ref(), w);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        let [energy, energy_from_cost, time_s, cost] = Bits::get(r)?;
        Ok(Self {
            energy_mwh: some(energy, r)?.map(ev_contract::units::Mwh),
            energy_from_cost,
            time_s: some(time_s, r)?,
            cost: some::<Amount>(cost, r)?,
        })
    }
}

impl Coded for Answer {
    fn put(&self, w: &mut Writer) {
        let place = |w: &mut Writer,
                     tag,
                     session: &SessionId,
                     cp: &ev_contract::ids::CpId,
                     connector: &ConnectorId| {
            w.byte(tag);
            session.put(w);
            cp.put(w);
            connector.put(w);
        };
        match self {
            Self::Started {
                session,
                cp,
                connector,
            } => place(w, 0, session, cp, connector),
            Self::Stopping {
                session,
                cp,
                connector,
            } => place(w, 1, session, cp, connector),
            Self::Done { session, detail } => {
                w.byte(2);
                session.put(w);
                detail.put(w);
            }
            Self::Refused {
                code,
                what,
                session,
                cp,
                tariff,
            } => {
                w.byte(3);
                code.put(w);
                what.put(w);
                session.put(w);
                cp.put(w);
                tariff.put(w);
            }
        }
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        match r.byte()? {
            0 => Ok(Self::Started {
                session: Coded::get(r)?,
                cp: Coded::get(r)?,
                connector: Coded::get(r)?,
            }),
            1 => Ok(Self::Stopping {
                session: Coded::get(r)?,
                cp: Coded::get(r)?,
                connector: Coded::get(r)?,
            }),
            2 => Ok(Self::Done {
                session: Coded::get(r)?,
                detail: Coded::get(r)?,
            }),
            3 => Ok(Self::Refused {
                code: Coded::get(r)?,
                what: Coded::get(r)?,
                session: Coded::get(r)?,
                cp: Coded::get(r)?,
                tariff: Coded::get(r)?,
            }),
            _ => Err(Bad("it holds an answer that this build does not know")),
        }
    }
}

impl Coded for Stage {
    fn put(&self, w: &mut Writer) {
        match self {
            Self::Ordered => w.byte(0),
            Self::Taken { phase } => {
                w.byte(1);
                phase.put(w);
            }
            Self::Energy { phase, meter } => {
                w.byte(2);
                phase.put(w);
                meter.put(w);
            }
            Self::Standing {
                meter,
                energy_ended_at,
                reason,
            } => {
                w.byte(3);
                meter.put(w);
                energy_ended_at.put(w);
                reason.put(w);
            }
            Self::Ended { receipt } => {
                w.byte(4);
                receipt.put(w);
            }
        }
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        match r.byte()? {
            0 => Ok(Self::Ordered),
            1 => Ok(Self::Taken {
                phase: Coded::get(r)?,
            }),
            2 => Ok(Self::Energy {
                phase: Coded::get(r)?,
                meter: Coded::get(r)?,
            }),
            3 => Ok(Self::Standing {
                meter: Coded::get(r)?,
                energy_ended_at: Coded::get(r)?,
                reason: Coded::get(r)?,
            }),
            4 => Ok(Self::Ended {
                receipt: Coded::get(r)?,
            }),
            _ => Err(Bad("it holds a stage that this build does not know")),
        }
    }
}

impl Coded for Session {
    fn put(&self, w: &mut Writer) {
        let Self {
            id,
            origin,
            driver,
            request,
            token,
            cp,
            connector,
            site,
            time_zone,
            epoch,
            tariff,
            limits,
            accepted_at,
            learned_at,
            flows_from,
            start_by,
            idle_s_max,
            plug_wait_s,
            stage,
            stop,
            counts,
            flags,
            json,
        } = self;
        let limited = *limits != Limits::default();
        id.put(w);
        let bits = [
            driver.is_some(),
            request.is_some(),
            token.is_some(),
            stop.is_some(),
            *counts,
            !flags.is_empty(),
            limited,
            *json,
        ];
        w.number(Bits::of(&bits).0);
        origin.put(w);
        put_some(driver.as_ref(), w);
        if let Some((asker, request)) = request {
            asker.put(w);
            request.put(w);
        }
        put_some(token.as_ref(), w);
        cp.put(w);
        connector.put(w);
        site.put(w);
        time_zone.put(w);
        epoch.put(w);
        tariff.put(w);
        put_some(limited.then_some(limits), w);
        accepted_at.put(w);
        w.signed(learned_at.0.wrapping_sub(accepted_at.0));
        w.signed(flows_from.0.wrapping_sub(accepted_at.0));
        w.signed(start_by.0.wrapping_sub(accepted_at.0));
        idle_s_max.put(w);
        plug_wait_s.put(w);
        stage.put(w);
        put_some(stop.as_ref(), w);
        put_some((!flags.is_empty()).then_some(flags), w);
    }

    fn get(r: &mut Reader<'_>) -> Got<Self> {
        let id = Coded::get(r)?;
        let [driver, request, token, stop, counts, flags, limits, json] = Bits::get(r)?;
        let origin = Coded::get(r)?;
        let driver = some(driver, r)?;
        let request = if request {
            Some((Coded::get(r)?, Coded::get(r)?))
        } else {
            None
        };
        let token = some(token, r)?;
        let cp = Coded::get(r)?;
        let connector = Coded::get(r)?;
        let site = Coded::get(r)?;
        let time_zone = Coded::get(r)?;
        let epoch = Coded::get(r)?;
        let tariff = Coded::get(r)?;
        let limits = some(limits, r)?.unwrap_or_default();
        let accepted_at: ev_contract::time::UnixMs = Coded::get(r)?;
        let learned_at = ev_contract::time::UnixMs(accepted_at.0.wrapping_add(r.signed()?));
        let flows_from = ev_contract::time::UnixMs(accepted_at.0.wrapping_add(r.signed()?));
        let start_by = ev_contract::time::UnixMs(accepted_at.0.wrapping_add(r.signed()?));
        Ok(Self {
            id,
            origin,
            driver,
            request,
            token,
            cp,
            connector,
            site,
            time_zone,
            epoch,
            tariff,
            limits,
            accepted_at,
            learned_at,
            flows_from,
            start_by,
            idle_s_max: Coded::get(r)?,
            plug_wait_s: Coded::get(r)?,
            stage: Coded::get(r)?,
            stop: some(stop, r)?,
            counts,
            flags: some(flags, r)?.unwrap_or_default(),
            json,
        })
    }
}
