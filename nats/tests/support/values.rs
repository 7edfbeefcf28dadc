//! The values. `full` has every field, `min` only those that must be there.

use ev_contract::{
    codes::Code,
    connector::{ConnectorState, Fault, FaultEffect, Phase, Service},
    ids::{CommandId, ConnectorId, SessionId},
    time::UnixMs,
    units::{Amount, Currency, MilliAmp, MilliWatt, Mwh},
    v1::*,
    wire::Tag,
};

use super::{Case, Shape};

const T: UnixMs = UnixMs(1_760_000_000_000);
const EXPIRES: i64 = 1_760_000_020_000;
const ONE: ConnectorId = ConnectorId(1);

/// A value of every message.
pub fn cases() -> Vec<Case> {
    let mut cases = driver();
    cases.extend(operator());
    cases.extend(commands());
    cases.extend(charge_point());
    cases.extend(audit());
    cases.extend(insight());
    cases.extend(reports());
    cases.extend(enrol());
    cases.push(Case::of("full", receipt()));
    cases.push(Case::of("min", receipt_min()));
    cases.push(Case::of("full", adjustment()));
    cases.push(Case::of(
        "min",
        Adjustment {
            energy_mwh: 0,
            ..adjustment()
        },
    ));
    cases
}

/// A value of every structure inside of messages.
pub fn shapes() -> Vec<Shape> {
    let mut shapes = vec![
        Shape::of("LimitsRequest", &limits_request()),
        Shape::of("Limits", &limits()),
        Shape::of("SessionView", &session_view()),
        Shape::of("ChargePointListing", &listing()),
        Shape::of("ConnectorListing", &listing().connectors[0]),
        Shape::of("Tariff", &tariff()),
        Shape::of(
            "TariffTerms",
            &TariffTerms {
                prices_net: true,
                ..terms()
            },
        ),
        Shape::of("TariffElement", &restricted()),
        Shape::of("ComponentPrice", &restricted().price_components[0]),
        Shape::of(
            "IdleFee",
            &IdleFee {
                after_fault: true,
                ..idle_fee()
            },
        ),
        Shape::of("Tax", &terms().taxes[0]),
        Shape::of("ScopedTariff", &scoped_tariffs()[1]),
        Shape::of("ScheduledTariff", &scoped_tariffs()[1].scheduled[0]),
        Shape::of("AuditRow", &audit_row()),
        Shape::of("WaitView", &wait()),
        Shape::of("RefusesView", &refuses()),
        Shape::of("RefusedView", &refused_start()),
        Shape::of("EventRow", &event()),
        Shape::of("UptimeChange", &uptime_change()),
        Shape::of("ReceiptLine", &receipt().lines[2]),
        Shape::of("TaxLine", &receipt().taxes[0]),
        Shape::of("MeterSpan", &receipt().meters[0]),
        Shape::of("Period", &receipt().periods[0]),
        Shape::of("EndReason", &refused()),
        Shape::of("Problem", &problem()),
        Shape::of("ChargePointView", &charge_point_view()),
        Shape::of("ConnectorView", &connector_view()),
        Shape::of("Fault", &fault()),
        Shape::of("ConnectorSpec", &connector_spec()),
        Shape::of("ConnectorBeat", &connector_beat()),
        Shape::of("Reading", &reading()),
        Shape::of("EdgeRecord", &record(7, facts().remove(0))),
    ];
    shapes.extend(facts().iter().map(|fact| Shape::variant(kind(fact), fact)));
    shapes
}

fn driver() -> Vec<Case> {
    let start = StartRequest {
        tag: Tag::new(),
        to: "central".into(),
        request_id: "r-1".into(),
        expires_at: EXPIRES,
        cp_id: "CP-001".into(),
        connector: Some(1),
        limits: Some(limits_request()),
        tariff: Some(TariffRef::from(&tariff())),
    };
    let start_min = StartRequest {
        connector: None,
        limits: None,
        tariff: None,
        ..start.clone()
    };
    let stop = StopRequest {
        tag: Tag::new(),
        to: "central".into(),
        request_id: "r-2".into(),
        expires_at: EXPIRES,
        session_id: session().to_string(),
    };
    let status = StatusRequest {
        tag: Tag::new(),
        to: "central".into(),
        session_id: Some(session().to_string()),
    };
    let status_min = StatusRequest {
        session_id: None,
        ..status.clone()
    };
    let status_reply = StatusReply {
        tag: Tag::new(),
        to: "alice".into(),
        sessions: vec![session_view(), session_view_min()],
        ts: T,
    };
    let list = ListRequest {
        tag: Tag::new(),
        to: "central".into(),
        after: Some("CP-000".into()),
        rows: Some(50),
    };
    let list_min = ListRequest {
        after: None,
        rows: None,
        ..list.clone()
    };
    let list_reply = ListReply {
        tag: Tag::new(),
        to: "alice".into(),
        charge_points: vec![listing()],
        next: Some("CP-001".into()),
        ts: T,
    };
    let list_reply_min = ListReply {
        charge_points: vec![],
        next: None,
        ..list_reply.clone()
    };
    let history = HistoryRequest {
        tag: Tag::new(),
        to: "central".into(),
        before: Some(session().to_string()),
        rows: Some(20),
    };
    let history_min = HistoryRequest {
        before: None,
        rows: None,
        ..history.clone()
    };
    let history_reply = HistoryReply {
        tag: Tag::new(),
        to: "alice".into(),
        sessions: vec![session_view()],
        next: Some(session().to_string()),
        ts: T,
    };
    let history_reply_min = HistoryReply {
        sessions: vec![],
        next: None,
        ..history_reply.clone()
    };
    let receipt_request = ReceiptRequest {
        tag: Tag::new(),
        to: "central".into(),
        session_id: session().to_string(),
    };
    let receipt_reply = ReceiptReply {
        tag: Tag::new(),
        to: "alice".into(),
        receipt: receipt(),
        adjustments: vec![adjustment()],
        ts: T,
    };
    let receipt_reply_min = ReceiptReply {
        receipt: receipt_min(),
        adjustments: vec![],
        ..receipt_reply.clone()
    };
    let error = ErrorReply {
        tag: Tag::new(),
        to: "alice".into(),
        request_id: Some("r-1".into()),
        status: Status::Denied,
        reason: Code::Occupied.to_string(),
        error: problem(),
        ts: T,
    };
    let error_min = ErrorReply {
        request_id: None,
        reason: Code::UnknownVerb.to_string(),
        error: Code::UnknownVerb.about("begin"),
        ..error.clone()
    };
    let mut cases = vec![
        Case::of("full", start),
        Case::of("min", start_min),
        Case::of("full", stop),
        Case::of("full", status),
        Case::of("min", status_min),
        Case::of("full", status_reply),
        Case::of("full", list),
        Case::of("min", list_min),
        Case::of("full", list_reply),
        Case::of("min", list_reply_min),
        Case::of("full", history),
        Case::of("min", history_min),
        Case::of("full", history_reply),
        Case::of("min", history_reply_min),
        Case::of("full", receipt_request),
        Case::of("full", receipt_reply),
        Case::of("min", receipt_reply_min),
        Case::of("full", error),
        Case::of("min", error_min),
    ];
    for &kind in UpdateType::ALL {
        cases.push(Case::update("full", DriverUpdate { kind, ..update() }));
        cases.push(Case::update(
            "min",
            DriverUpdate {
                kind,
                ..update_min()
            },
        ));
    }
    cases.push(Case::update("denied", denied()));
    cases
}

fn enrol() -> Vec<Case> {
    let request = EnrolRequest {
        tag: Tag::new(),
        to: "central".into(),
        at: T,
        charge_points: vec!["CP-001".into(), "CP-002".into()],
        revoked: true,
        site_id: Some("north".into()),
        time_zone: Some("Europe/Berlin".into()),
        max_kw: Some(22),
    };
    let request_min = EnrolRequest {
        revoked: false,
        site_id: None,
        time_zone: None,
        max_kw: None,
        ..request.clone()
    };
    let reply = EnrolReply {
        tag: Tag::new(),
        to: "registrar".into(),
        ts: T,
    };
    vec![
        Case::of("full", request),
        Case::of("min", request_min),
        Case::of("full", reply),
    ]
}

fn audit() -> Vec<Case> {
    let request = AuditRequest {
        tag: Tag::new(),
        to: "central".into(),
        after: Some(1_207),
        before: Some(1_300),
        since: Some(T),
        who: Some("olga".into()),
        verb: Some("session_end".into()),
        rows: Some(50),
    };
    let request_min = AuditRequest {
        after: None,
        before: None,
        since: None,
        who: None,
        verb: None,
        rows: None,
        ..request.clone()
    };
    let reply = AuditReply {
        tag: Tag::new(),
        to: "olga".into(),
        entries: vec![audit_row()],
        first_seq: 1_208,
        last_seq: 1_257,
        more: true,
        ts: T,
    };
    let reply_min = AuditReply {
        entries: vec![],
        more: false,
        ..reply.clone()
    };
    let entry = audit_row().entry;
    let entry_min = AuditEntry {
        name: None,
        subject: None,
        credential: None,
        cp_id: None,
        connector: None,
        session_id: None,
        driver_id: None,
        operator_id: None,
        tariff_id: None,
        key: None,
        request_id: None,
        code: None,
        repeat: false,
        detail: None,
        ..entry.clone()
    };
    vec![
        Case::of("full", request),
        Case::of("min", request_min),
        Case::of("full", reply),
        Case::of("min", reply_min),
        Case::of("full", entry),
        Case::of("connection", audit_of_connection(&entry_min)),
        Case::of("min", entry_min),
    ]
}

fn wait() -> WaitView {
    WaitView {
        awaited: Awaited::Stop,
        since: T,
        heard_at: Some(T),
        attempts: 12,
        code: Some(Code::ClockUnsure),
    }
}

fn refuses() -> RefusesView {
    RefusesView {
        connector: Some(ONE),
        code: Code::Faulted,
        since: Some(T),
        session_id: Some(session()),
        raw: Some("HighTemperature".into()),
    }
}

fn refused_start() -> RefusedView {
    RefusedView {
        at: T,
        driver_id: Some("bob".parse().expect("an id")),
        code: Code::Faulted,
    }
}

fn event() -> EventRow {
    EventRow {
        at: T,
        kind: EventKind::Refused,
        pos: Some(1_207),
        cp_id: Some("CP-001".parse().expect("an id")),
        connector: Some(ONE),
        session_id: Some(session()),
        driver_id: Some("bob".parse().expect("an id")),
        operator_id: Some("olga".into()),
        code: Some(Code::Faulted),
        detail: Some("session_start".into()),
    }
}

fn insight() -> Vec<Case> {
    let request = EventsRequest {
        tag: Tag::new(),
        to: "central".into(),
        after: Some("1207.2".into()),
        since: Some(T),
        cp_id: Some("CP-001".into()),
        session_id: Some(session().to_string()),
        rows: Some(50),
    };
    let request_min = EventsRequest {
        after: None,
        since: None,
        cp_id: None,
        session_id: None,
        rows: None,
        ..request.clone()
    };
    let blank = EventRow {
        kind: EventKind::Online,
        pos: None,
        cp_id: None,
        connector: None,
        session_id: None,
        driver_id: None,
        operator_id: None,
        code: None,
        detail: None,
        ..event()
    };
    let reply = EventsReply {
        tag: Tag::new(),
        to: "olga".into(),
        events: vec![event(), blank],
        next: "1208.1".into(),
        more: true,
        remembers_from: T,
        listens_from: T,
        ts: T,
    };
    let reply_min = EventsReply {
        events: vec![],
        more: false,
        ..reply.clone()
    };
    vec![
        Case::of("full", request),
        Case::of("min", request_min),
        Case::of("full", reply),
        Case::of("min", reply_min),
    ]
}

fn uptime_change() -> UptimeChange {
    UptimeChange {
        cp: "CP-001".parse().expect("an id"),
        site: "north".parse().expect("an id"),
        connector: ONE,
        availability: Availability::Offline,
    }
}

fn reports() -> Vec<Case> {
    let request = ReceiptsRequest {
        tag: Tag::new(),
        to: "central".into(),
        adjustments: true,
        after: Some(1_207),
        kept_from: Some(T),
        from: Some(T),
        until: Some(T.plus_ms(86_400_000)),
        site_id: Some("north".into()),
        rows: Some(50),
    };
    let request_min = ReceiptsRequest {
        adjustments: false,
        after: None,
        kept_from: None,
        from: None,
        until: None,
        site_id: None,
        rows: None,
        ..request.clone()
    };
    let reply = ReceiptsReply {
        tag: Tag::new(),
        to: "olga".into(),
        receipts: vec![receipt_min()],
        adjustments: vec![adjustment()],
        last_seq: 1_257,
        more: true,
        not_kept: 1,
        strange: 1,
        ts: T,
    };
    let reply_min = ReceiptsReply {
        receipts: vec![],
        adjustments: vec![],
        more: false,
        not_kept: 0,
        strange: 0,
        ..reply.clone()
    };
    let record = UptimeRecord {
        tag: Tag::new(),
        replica: "central-1".parse().expect("an id"),
        run: "0199c8f1-7a00-7abc-8def-0123456789ab".into(),
        n: 7,
        from: 29_333_333,
        until: 29_333_343,
        full: true,
        changes: vec![uptime_change()],
    };
    let record_min = UptimeRecord {
        full: false,
        changes: vec![],
        ..record.clone()
    };
    let uptime = UptimeRequest {
        tag: Tag::new(),
        to: "central".into(),
        after: Some(1_207),
        kept_from: Some(T),
        rows: Some(50),
    };
    let uptime_min = UptimeRequest {
        after: None,
        kept_from: None,
        rows: None,
        ..uptime.clone()
    };
    let uptime_reply = UptimeReply {
        tag: Tag::new(),
        to: "olga".into(),
        records: vec![record.clone()],
        last_seq: 1_257,
        more: true,
        ts: T,
    };
    let uptime_reply_min = UptimeReply {
        records: vec![],
        more: false,
        ..uptime_reply.clone()
    };
    vec![
        Case::of("full", request),
        Case::of("min", request_min),
        Case::of("full", reply),
        Case::of("min", reply_min),
        Case::of("full", uptime),
        Case::of("min", uptime_min),
        Case::of("full", uptime_reply),
        Case::of("min", uptime_reply_min),
        Case::of("full", record),
        Case::of("min", record_min),
    ]
}

fn audit_of_connection(blank: &AuditEntry) -> AuditEntry {
    AuditEntry {
        kind: AuditKind::Connection,
        name: Some("alice".into()),
        credential: Some("UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4".into()),
        verb: "closed".into(),
        outcome: AuditOutcome::Denied,
        detail: Some("driver, revoked".into()),
        ..blank.clone()
    }
}

fn audit_row() -> AuditRow {
    AuditRow {
        seq: 1_208,
        entry: AuditEntry {
            tag: Tag::new(),
            entry_id: "0199c8f1-7a00-7fff-8def-0123456789ab"
                .parse()
                .expect("an id"),
            at: T,
            replica: "central-1".parse().expect("an id"),
            kind: AuditKind::Op,
            name: Some("olga".into()),
            subject: Some("ev.v1.op.olga.session_end".into()),
            credential: Some("UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4".into()),
            verb: "session_end".into(),
            cp_id: Some("CP-001".into()),
            connector: Some(1),
            session_id: Some(session().to_string()),
            driver_id: Some("alice".into()),
            operator_id: Some("otto".into()),
            tariff_id: Some("day".into()),
            key: Some("UAH42UG6PV552P5SWLWTBP3H3S5BHAVCO2IEKEXUANJXR75J63RQ5WM6".into()),
            request_id: Some("r-5".into()),
            outcome: AuditOutcome::Denied,
            code: Some(Code::ReasonRequired),
            repeat: true,
            detail: Some("write-off".into()),
        },
    }
}

fn operator() -> Vec<Case> {
    let cp_ls = CpLsRequest {
        tag: Tag::new(),
        to: "central".into(),
        cp_id: Some("CP-001".into()),
        after: Some("CP-000".into()),
        rows: Some(50),
    };
    let cp_ls_min = CpLsRequest {
        cp_id: None,
        after: None,
        rows: None,
        ..cp_ls.clone()
    };
    let cp_ls_reply = CpLsReply {
        tag: Tag::new(),
        to: "olga".into(),
        charge_points: vec![charge_point_view(), charge_point_view_min()],
        next: Some("CP-002".into()),
        ts: T,
    };
    let cp_ls_reply_min = CpLsReply {
        charge_points: vec![],
        next: None,
        ..cp_ls_reply.clone()
    };
    let cp_act = CpActRequest {
        tag: Tag::new(),
        to: "central".into(),
        request_id: "r-3".into(),
        expires_at: EXPIRES,
        cp_id: "CP-001".into(),
        connector: Some(1),
    };
    let cp_act_min = CpActRequest {
        connector: None,
        ..cp_act.clone()
    };
    let cp_site = CpSiteRequest {
        tag: Tag::new(),
        to: "central".into(),
        request_id: "r-4".into(),
        expires_at: EXPIRES,
        cp_id: "CP-001".into(),
        site_id: "north".into(),
        time_zone: Some("Europe/Berlin".into()),
    };
    let cp_site_min = CpSiteRequest {
        time_zone: None,
        ..cp_site.clone()
    };
    let session_ls = SessionLsRequest {
        tag: Tag::new(),
        to: "central".into(),
        driver_id: Some("alice".into()),
        cp_id: Some("CP-001".into()),
        session_id: Some(session().to_string()),
        all: true,
        before: Some(session().to_string()),
        rows: Some(50),
    };
    let session_ls_min = SessionLsRequest {
        driver_id: None,
        cp_id: None,
        session_id: None,
        all: false,
        before: None,
        rows: None,
        ..session_ls.clone()
    };
    let session_ls_reply = SessionLsReply {
        tag: Tag::new(),
        to: "olga".into(),
        sessions: vec![session_view()],
        next: Some(session().to_string()),
        ts: T,
    };
    let session_ls_reply_min = SessionLsReply {
        sessions: vec![],
        next: None,
        ..session_ls_reply.clone()
    };
    let start = OpStartRequest {
        tag: Tag::new(),
        to: "central".into(),
        request_id: "r-4".into(),
        expires_at: EXPIRES,
        driver_id: "alice".into(),
        cp_id: "CP-001".into(),
        connector: Some(1),
        limits: Some(limits_request()),
        tariff: Some(TariffRef::from(&tariff())),
    };
    let start_min = OpStartRequest {
        connector: None,
        limits: None,
        tariff: None,
        ..start.clone()
    };
    let end = SessionEndRequest {
        tag: Tag::new(),
        to: "central".into(),
        request_id: "r-5".into(),
        expires_at: EXPIRES,
        session_id: session().to_string(),
        reason: "the cabinet is being replaced".into(),
        write_off: true,
    };
    let end_min = SessionEndRequest {
        write_off: false,
        ..end.clone()
    };
    let adjust = SessionAdjustRequest {
        tag: Tag::new(),
        to: "central".into(),
        request_id: "r-6".into(),
        expires_at: EXPIRES,
        session_id: session().to_string(),
        amount: "-2.50".into(),
        reason: "the display was dark".into(),
    };
    let block = DriverBlockRequest {
        tag: Tag::new(),
        to: "central".into(),
        request_id: "r-7".into(),
        expires_at: EXPIRES,
        driver_id: "alice".into(),
        reason: Some("the card was lost".into()),
    };
    let block_min = DriverBlockRequest {
        reason: None,
        ..block.clone()
    };
    let set = TariffSetRequest {
        tag: Tag::new(),
        to: "central".into(),
        request_id: "r-8".into(),
        expires_at: EXPIRES,
        tariff_id: "day".into(),
        scope: TariffScope::Site("north".parse().expect("an id")),
        from: Some(1_760_600_000_000),
        terms: terms(),
    };
    let set_min = TariffSetRequest {
        scope: TariffScope::Default,
        from: None,
        terms: terms_min(),
        ..set.clone()
    };
    let rm = TariffRmRequest {
        tag: Tag::new(),
        to: "central".into(),
        request_id: "r-9".into(),
        expires_at: EXPIRES,
        scope: TariffScope::ChargePoint("CP-001".parse().expect("an id")),
        scheduled_only: true,
    };
    let rm_min = TariffRmRequest {
        scheduled_only: false,
        ..rm.clone()
    };
    let tariff_ls = TariffLsRequest {
        tag: Tag::new(),
        to: "central".into(),
    };
    let tariff_ls_reply = TariffLsReply {
        tag: Tag::new(),
        to: "olga".into(),
        tariffs: scoped_tariffs(),
        ts: T,
    };
    let reply = OpReply {
        tag: Tag::new(),
        to: "olga".into(),
        request_id: "r-5".into(),
        status: Status::Denied,
        reason: Some(Code::Occupied.to_string()),
        error: Some(problem()),
        session_id: Some(session()),
        detail: Some("nothing was done".into()),
        tariff: Some(tariff()),
        ts: T,
    };
    let reply_min = OpReply {
        status: Status::Accepted,
        reason: None,
        error: None,
        session_id: None,
        detail: None,
        tariff: None,
        ..reply.clone()
    };
    vec![
        Case::of("full", cp_ls),
        Case::of("min", cp_ls_min),
        Case::of("full", cp_ls_reply),
        Case::of("min", cp_ls_reply_min),
        Case::of("full", cp_act),
        Case::of("min", cp_act_min),
        Case::of("full", cp_site),
        Case::of("min", cp_site_min),
        Case::of("full", session_ls),
        Case::of("min", session_ls_min),
        Case::of("full", session_ls_reply),
        Case::of("min", session_ls_reply_min),
        Case::of("full", start),
        Case::of("min", start_min),
        Case::of("full", end),
        Case::of("min", end_min),
        Case::of("full", adjust),
        Case::of("full", block),
        Case::of("min", block_min),
        Case::of("full", set),
        Case::of("min", set_min),
        Case::of("full", rm),
        Case::of("min", rm_min),
        Case::of("full", tariff_ls),
        Case::of("full", tariff_ls_reply),
        Case::of("full", reply),
        Case::of("min", reply_min),
    ]
}

fn commands() -> Vec<Case> {
    let start = StartCommand {
        tag: Tag::new(),
        boot: "00c0ffee00c0ffee".parse().expect("an id"),
        to: "CP-001".parse().expect("an id"),
        command_id: CommandId::start(session()),
        session_id: session(),
        connector: ONE,
        driver_id: Some("alice".parse().expect("an id")),
        epoch: "e-7f3a".parse().expect("an id"),
        expires_at: UnixMs(EXPIRES),
        limits: limits(),
        idle_s_max: 3_600,
        plug_wait_s: 300,
        ts: T,
    };
    let start_min = StartCommand {
        driver_id: None,
        limits: Limits::default(),
        idle_s_max: 0,
        ..start.clone()
    };
    let stop = StopCommand {
        tag: Tag::new(),
        boot: "00c0ffee00c0ffee".parse().expect("an id"),
        to: "CP-001".parse().expect("an id"),
        command_id: CommandId::stop(session()),
        session_id: session(),
        reason: EndReason::new(EndCode::Driver, EndSource::Driver),
        ts: T,
    };
    let limit = LimitCommand {
        tag: Tag::new(),
        boot: "00c0ffee00c0ffee".parse().expect("an id"),
        to: "CP-001".parse().expect("an id"),
        command_id: "c-1".parse().expect("an id"),
        connector: ONE,
        max_ma: MilliAmp(10_000),
        phases: Some(1),
        valid_until: T.plus_ms(900_000),
        fallback_ma: MilliAmp(6_000),
        ts: T,
    };
    let limit_min = LimitCommand {
        phases: None,
        ..limit.clone()
    };
    let unlock = UnlockCommand {
        tag: Tag::new(),
        boot: "00c0ffee00c0ffee".parse().expect("an id"),
        to: "CP-001".parse().expect("an id"),
        command_id: "r-9".parse().expect("an id"),
        connector: ONE,
        expires_at: UnixMs(EXPIRES),
        ts: T,
    };
    let service = ServiceCommand {
        tag: Tag::new(),
        boot: "00c0ffee00c0ffee".parse().expect("an id"),
        to: "CP-001".parse().expect("an id"),
        command_id: "r-10".parse().expect("an id"),
        connector: ONE,
        service: Service::Out,
        revision: 4,
        ts: T,
    };
    let reset = ResetCommand {
        tag: Tag::new(),
        boot: "00c0ffee00c0ffee".parse().expect("an id"),
        to: "CP-001".parse().expect("an id"),
        command_id: "r-11".parse().expect("an id"),
        expires_at: UnixMs(EXPIRES),
        ts: T,
    };
    let ping = PingCommand {
        tag: Tag::new(),
        to: "CP-001".parse().expect("an id"),
        ts: T,
    };
    let reply = CommandReply {
        tag: Tag::new(),
        to: "central".into(),
        cp_id: "CP-001".parse().expect("an id"),
        boot: "00c0ffee00c0ffee".parse().expect("an id"),
        epoch: "e-7f3a".parse().expect("an id"),
        command_id: Some(CommandId::start(session())),
        outcome: Outcome::Refused,
        code: Some(Code::RejectedByCharger),
        raw: Some("ConnectorLockFailure".into()),
        ts: T,
    };
    let reply_min = CommandReply {
        command_id: None,
        outcome: Outcome::Done,
        code: None,
        raw: None,
        ..reply.clone()
    };
    vec![
        Case::of("full", start),
        Case::of("min", start_min),
        Case::of("full", stop),
        Case::of("full", limit),
        Case::of("min", limit_min),
        Case::of("full", unlock),
        Case::of("full", service),
        Case::of("full", reset),
        Case::of("full", ping),
        Case::of("full", reply),
        Case::of("min", reply_min),
    ]
}

fn charge_point() -> Vec<Case> {
    let sync = SyncRequest {
        tag: Tag::new(),
        to: "central".into(),
        cp_id: "CP-001".parse().expect("an id"),
        boot: Boot {
            id: "00c0ffee00c0ffee".parse().expect("an id"),
            count: 7,
            after: Some("0123456789abcdef".parse().expect("an id")),
        },
        epoch: "e-7f3a".parse().expect("an id"),
        connectors: vec![connector_spec()],
        version: "0.1.0".into(),
        first: 5,
        next: 8,
        sessions: vec![session()],
    };
    let sync_min = SyncRequest {
        boot: Boot {
            after: None,
            ..sync.boot
        },
        sessions: vec![],
        ..sync.clone()
    };
    let sync_reply = SyncReply {
        tag: Tag::new(),
        to: "CP-001".into(),
        epoch: "e-7f3a".into(),
        next: 5,
        error: Some(Code::NotReady.about("the ledger is being read")),
        ts: T,
    };
    let sync_reply_min = SyncReply {
        error: None,
        ..sync_reply.clone()
    };
    let records = (1..)
        .zip(facts())
        .map(|(seq, fact)| record(seq, fact).to_value().expect("a record is encodable"));
    let evt = EvtRequest {
        tag: Tag::new(),
        to: "central".into(),
        boot: "00c0ffee00c0ffee".parse().expect("an id"),
        epoch: "e-7f3a".parse().expect("an id"),
        first: 1,
        from: 1,
        records: records.collect(),
    };
    let evt_empty = EvtRequest {
        records: vec![],
        ..evt.clone()
    };
    let evt_reply = EvtReply {
        tag: Tag::new(),
        to: "CP-001".into(),
        epoch: "e-7f3a".into(),
        next: 11,
        aside: Some(9),
        error: Some(Code::Overloaded.about("500 records wait")),
        ts: T,
    };
    let evt_reply_min = EvtReply {
        aside: None,
        error: None,
        ..evt_reply.clone()
    };
    let hb = Heartbeat {
        tag: Tag::new(),
        to: "central".into(),
        cp_id: "CP-001".parse().expect("an id"),
        boot: "00c0ffee00c0ffee".parse().expect("an id"),
        epoch: "e-7f3a".parse().expect("an id"),
        ts: T,
        clock_offset_ms: Some(-12),
        every_s: 60,
        uptime_s: 86_400,
        version: "0.1.0".into(),
        spool_depth: 3,
        health: vec![Code::StorageFailed.to_string()],
        access_expires_at: Some(T),
        connectors: vec![connector_beat()],
    };
    let hb_min = Heartbeat {
        clock_offset_ms: None,
        health: vec![],
        access_expires_at: None,
        connectors: vec![],
        ..hb.clone()
    };
    let live = Live {
        tag: Tag::new(),
        to: "alice".into(),
        session_id: session(),
        cp_id: "CP-001".parse().expect("an id"),
        connector: ONE,
        ts: T,
        phase: Phase::Charging,
        energy_mwh: Mwh(1_234_567),
        power_mw: Some(MilliWatt(11_040_000)),
        soc_pct: Some(54),
    };
    let live_min = Live {
        power_mw: None,
        soc_pct: None,
        ..live.clone()
    };
    vec![
        Case::of("full", sync),
        Case::of("min", sync_min),
        Case::of("full", sync_reply),
        Case::of("min", sync_reply_min),
        Case::of("full", evt),
        Case::of("empty", evt_empty),
        Case::of("full", evt_reply),
        Case::of("min", evt_reply_min),
        Case::of("full", hb),
        Case::of("min", hb_min),
        Case::of("full", live),
        Case::of("min", live_min),
    ]
}

/// The session of every value.
pub fn session() -> SessionId {
    "0199c8f1-7a00-7abc-8def-0123456789ab"
        .parse()
        .expect("a session id")
}

fn limits_request() -> LimitsRequest {
    LimitsRequest {
        energy_wh: Some(20_000),
        time_s: Some(7_200),
        cost: Some("10.00".into()),
        currency: Some("EUR".into()),
    }
}

fn limits() -> Limits {
    Limits {
        energy_mwh: Some(Mwh(20_000_000)),
        energy_from_cost: true,
        time_s: Some(7_200),
        cost: Some(amount("10.00")),
    }
}

fn session_view() -> SessionView {
    SessionView {
        session_id: session(),
        driver_id: Some("alice".parse().expect("an id")),
        cp_id: "CP-001".parse().expect("an id"),
        connector: ONE,
        site_id: "north".parse().expect("an id"),
        time_zone: "Europe/Berlin".into(),
        state: Phase::Completed,
        status: Status::Completed,
        origin: Origin::App,
        stopping: false,
        reachable: true,
        energy_mwh: Mwh(7_123_456),
        cost: amount("3.99"),
        currency: Currency::EUR,
        standing_costs_from: Some(T.plus_ms(3_004_000)),
        tariff_id: "day".parse().expect("an id"),
        tariff_version: 3,
        limits: limits(),
        accepted_at: T,
        started_at: Some(T.plus_ms(4_000)),
        energy_ended_at: Some(T.plus_ms(2_404_000)),
        ended_at: Some(T.plus_ms(2_700_000)),
        last_value_at: Some(T.plus_ms(2_404_000)),
        power_mw: Some(MilliWatt(0)),
        soc_pct: Some(80),
        reason: Some("driver".into()),
        end: Some(EndReason::new(EndCode::Driver, EndSource::Driver)),
        receipt: Some("CP-001-1-000042".into()),
        waits: Some(wait()),
        pos: 1_207,
    }
}

fn session_view_min() -> SessionView {
    SessionView {
        driver_id: None,
        state: Phase::Preparing,
        status: Status::Accepted,
        energy_mwh: Mwh(0),
        cost: amount("0.00"),
        limits: Limits::default(),
        standing_costs_from: None,
        started_at: None,
        energy_ended_at: None,
        ended_at: None,
        last_value_at: None,
        power_mw: None,
        soc_pct: None,
        reason: None,
        end: None,
        receipt: None,
        waits: None,
        ..session_view()
    }
}

fn listing() -> ChargePointListing {
    ChargePointListing {
        cp_id: "CP-001".parse().expect("an id"),
        site_id: "north".parse().expect("an id"),
        time_zone: "Europe/Berlin".into(),
        tariff: tariff(),
        connectors: vec![
            ConnectorListing {
                connector: ONE,
                state: ConnectorState::Charging,
                max_ma: MilliAmp(32_000),
                phases: 3,
                session_id: Some(session()),
            },
            ConnectorListing {
                connector: ConnectorId(2),
                state: ConnectorState::Available,
                max_ma: MilliAmp(16_000),
                phases: 1,
                session_id: None,
            },
        ],
    }
}

fn idle_fee() -> IdleFee {
    IdleFee {
        grace_s: 600,
        cap: amount("12.00"),
        from: IdleFrom::WithoutPowerS(600),
        after_fault: false,
    }
}

/// As it will be once prices may depend on the time.
fn restricted() -> TariffElement {
    let mut element = terms().elements.remove(0);
    element
        .restrictions
        .insert("start_time".into(), "22:00".into());
    element
}

fn terms() -> TariffTerms {
    TariffTerms {
        idle: Some(idle_fee()),
        min_price: Some(amount("1.00")),
        max_price: Some(amount("40.00")),
        ..TariffTerms::free(Currency::EUR)
    }
    .with(PriceComponent::Energy, amount("0.49"))
    .with(PriceComponent::StartFee, amount("0.50"))
    .with(PriceComponent::Idle, amount("0.10"))
    .taxed("VAT", amount("19"))
}

fn terms_min() -> TariffTerms {
    TariffTerms::free(Currency::EUR).with(PriceComponent::Energy, amount("0.49"))
}

fn tariff() -> Tariff {
    Tariff {
        tariff_id: "day".parse().expect("an id"),
        version: 3,
        terms: terms(),
    }
}

fn scoped_tariffs() -> Vec<ScopedTariff> {
    let flat = Tariff {
        tariff_id: "flat".parse().expect("an id"),
        version: 1,
        terms: terms_min(),
    };
    let next = ScheduledTariff {
        from: UnixMs(1_760_600_000_000),
        tariff: Tariff {
            version: 4,
            ..tariff()
        },
    };
    vec![
        ScopedTariff {
            scope: TariffScope::ChargePoint("CP-001".parse().expect("an id")),
            tariff: None,
            scheduled: vec![next.clone()],
        },
        ScopedTariff {
            scope: TariffScope::Site("north".parse().expect("an id")),
            tariff: Some(tariff()),
            scheduled: vec![next],
        },
        ScopedTariff {
            scope: TariffScope::Default,
            tariff: Some(flat),
            scheduled: vec![],
        },
    ]
}

fn refused() -> EndReason {
    EndReason {
        code: EndCode::Refused,
        source: EndSource::ChargePoint,
        raw: Some("ConnectorLockFailure".into()),
        refused: Some(Code::RejectedByCharger),
    }
}

fn problem() -> ev_contract::codes::Problem {
    let mut problem = Code::Occupied.about("CP-001/1");
    problem.retry_after_ms = Some(5_000);
    problem
}

fn line(component: PriceComponent, unit: &str, [quantity, price, exact]: [&str; 3]) -> ReceiptLine {
    ReceiptLine {
        component,
        quantity: amount(quantity),
        unit: unit.into(),
        price: amount(price),
        amount: amount(exact),
        note: None,
    }
}

fn receipt() -> Receipt {
    let mut idle = line(PriceComponent::Idle, "min", ["150.0000", "0.10", "12.00"]);
    idle.note = Some("cap; from the end of energy or 10 min without power, 10 min free".into());
    Receipt {
        tag: Tag::new(),
        number: "CP-001-1-000042".into(),
        session_id: session(),
        driver_id: Some("alice".parse().expect("an id")),
        operator: "Example Charging".into(),
        site_id: "north".parse().expect("an id"),
        time_zone: "Europe/Berlin".into(),
        cp_id: "CP-001".parse().expect("an id"),
        connector: ONE,
        origin: Origin::App,
        status: Status::Completed,
        end: EndReason::new(EndCode::Driver, EndSource::Driver),
        accepted_at: T,
        started_at: Some(T.plus_ms(4_000)),
        energy_ended_at: Some(T.plus_ms(2_404_000)),
        ended_at: T.plus_ms(12_004_000),
        received_at: T.plus_ms(12_005_000),
        meters: vec![MeterSpan {
            meter_id: "M-4711".into(),
            meter_epoch: 1,
            from_mwh: Mwh(100_000_000),
            to_mwh: Mwh(107_123_456),
        }],
        energy_mwh: Mwh(7_123_456),
        idle_s: 9_600,
        tariff: tariff(),
        lines: vec![
            line(PriceComponent::StartFee, "start", ["1", "0.50", "0.50"]),
            line(
                PriceComponent::Energy,
                "kWh",
                ["7.123456", "0.49", "3.49049344"],
            ),
            idle,
        ],
        exact: amount("15.99049344"),
        net: amount("13.44"),
        taxes: vec![TaxLine {
            name: "VAT".into(),
            percent: amount("19"),
            amount: amount("2.55"),
        }],
        total: amount("15.99"),
        currency: Currency::EUR,
        rounding: ev_contract::price::ROUNDING.into(),
        flags: vec![Flag::MeterReset],
        periods: vec![Period {
            at: T.plus_ms(4_000),
            phase: Phase::Charging,
            register_mwh: Mwh(100_000_000),
        }],
    }
}

fn receipt_min() -> Receipt {
    Receipt {
        driver_id: None,
        status: Status::Failed,
        end: EndReason::new(EndCode::PlugTimeout, EndSource::ChargePoint),
        started_at: None,
        energy_ended_at: None,
        meters: vec![],
        energy_mwh: Mwh(0),
        idle_s: 0,
        lines: vec![],
        exact: amount("0.00"),
        net: amount("0.00"),
        taxes: vec![],
        total: amount("0.00"),
        flags: vec![],
        periods: vec![],
        ..receipt()
    }
}

fn adjustment() -> Adjustment {
    Adjustment {
        tag: Tag::new(),
        number: "CP-001-1-000042-A1".into(),
        session_id: session(),
        n: 1,
        by: "olga".into(),
        reason: "the display was dark".into(),
        at: T.plus_ms(86_400_000),
        energy_mwh: -500_000,
        amount: amount("-2.50"),
        currency: Currency::EUR,
        total: amount("13.49"),
    }
}

/// An update with every field.
pub fn update() -> DriverUpdate {
    DriverUpdate {
        kind: UpdateType::Update,
        to: Some("alice".into()),
        request_id: "r-1".parse().expect("an id"),
        driver_id: "alice".parse().expect("an id"),
        cp_id: "CP-001".into(),
        status: Status::Failed,
        reason: Some(Code::RejectedByCharger.to_string()),
        session_id: Some(session()),
        ts: T,
        connector: Some(ONE),
        error: Some(Code::RejectedByCharger.about("CP-001/1")),
        tariff: Some(tariff()),
        phase: Some(Phase::Failed),
        stopping: true,
        energy_mwh: Some(Mwh(0)),
        cost: Some(amount("0.00")),
        currency: Some(Currency::EUR),
        standing_costs_from: Some(T.plus_ms(3_004_000)),
        soc_pct: Some(54),
        pos: Some(1_207),
        prev: Some(1_201),
    }
}

/// An update as an older peer writes it, but for its type and addressee.
pub fn update_min() -> DriverUpdate {
    DriverUpdate {
        kind: UpdateType::Update,
        to: None,
        request_id: "r-1".parse().expect("an id"),
        driver_id: "alice".parse().expect("an id"),
        cp_id: "CP-001".into(),
        status: Status::InProgress,
        reason: None,
        session_id: None,
        ts: T,
        connector: None,
        error: None,
        tariff: None,
        phase: None,
        stopping: false,
        energy_mwh: None,
        cost: None,
        currency: None,
        standing_costs_from: None,
        soc_pct: None,
        pos: None,
        prev: None,
    }
}

fn denied() -> DriverUpdate {
    DriverUpdate {
        kind: UpdateType::StartReply,
        to: Some("alice".into()),
        status: Status::Denied,
        reason: Some(Code::Occupied.to_string()),
        error: Some(problem()),
        connector: Some(ONE),
        ..update_min()
    }
}

fn charge_point_view() -> ChargePointView {
    ChargePointView {
        cp_id: "CP-001".parse().expect("an id"),
        site_id: "north".parse().expect("an id"),
        time_zone: "Europe/Berlin".into(),
        link: Reach::Online,
        last_heard_at: Some(T),
        version: Some("0.1.0".into()),
        spool_depth: Some(3),
        clock_offset_ms: Some(-12),
        health: vec![Code::StorageFailed.to_string()],
        access_expires_at: Some(T),
        epoch: Some("e-7f3a".into()),
        boot: Some("00c0ffee00c0ffee".parse().expect("an id")),
        other_agent: Some(OtherAgentView {
            epoch: "e-7f3a".into(),
            boot: "0123456789abcdef".parse().expect("an id"),
            since: T,
            last_heard_at: Some(T),
            kept: 12,
        }),
        next_record: 8,
        quarantined: 1,
        missing: 2,
        anomalies: 3,
        link_since: Some(T),
        cut_from: Some(T),
        cut_until: Some(T.plus_ms(7_560_000)),
        refuses: vec![refuses()],
        refused: vec![refused_start()],
        tariff: tariff(),
        enrolment: Some(CpEnrolment::Enrolled),
        out_of_service: true,
        connectors: vec![connector_view()],
    }
}

fn charge_point_view_min() -> ChargePointView {
    ChargePointView {
        cp_id: "CP-002".parse().expect("an id"),
        link: Reach::Unknown,
        last_heard_at: None,
        version: None,
        spool_depth: None,
        clock_offset_ms: None,
        health: vec![],
        access_expires_at: None,
        epoch: None,
        boot: None,
        other_agent: None,
        next_record: 0,
        quarantined: 0,
        missing: 0,
        anomalies: 0,
        link_since: None,
        cut_from: None,
        cut_until: None,
        refuses: vec![],
        refused: vec![],
        enrolment: None,
        out_of_service: false,
        connectors: vec![ConnectorView {
            fault: None,
            sessions: vec![],
            register_mwh: None,
            power_mw: None,
            ..connector_view()
        }],
        ..charge_point_view()
    }
}

fn connector_view() -> ConnectorView {
    ConnectorView {
        connector: ONE,
        state: ConnectorState::SuspendedEvse,
        service: Service::OutAfterSession,
        service_confirmed: true,
        fault: Some(fault()),
        charger_online: true,
        plugged: true,
        max_ma: MilliAmp(32_000),
        phases: 3,
        sessions: vec![session()],
        register_mwh: Some(Mwh(107_123_456)),
        power_mw: Some(MilliWatt(0)),
    }
}

fn fault() -> Fault {
    Fault {
        effect: FaultEffect::Suspends,
        raw: "HighTemperature".into(),
    }
}

fn connector_spec() -> ConnectorSpec {
    ConnectorSpec {
        connector: ONE,
        max_ma: MilliAmp(32_000),
        phases: 3,
        volts: 230,
        plug: Some("type2".into()),
    }
}

fn connector_beat() -> ConnectorBeat {
    ConnectorBeat {
        connector: ONE,
        state: ConnectorState::Charging,
        session_id: Some(session()),
        register_mwh: Some(Mwh(101_234_567)),
        power_mw: Some(MilliWatt(11_040_000)),
    }
}

fn reading() -> Reading {
    Reading {
        signed: Some(vec![0x00, 0x7f, 0x80, 0xff]),
        ..unsigned_reading()
    }
}

/// Without the signed bytes, which JSON writes as a list of numbers.
fn unsigned_reading() -> Reading {
    Reading {
        at: T,
        quality: TimeQuality::Synced,
        register_mwh: Mwh(101_234_567),
        meter_id: "M-4711".into(),
        meter_epoch: 1,
        power_mw: Some(MilliWatt(11_040_000)),
        current_ma: vec![MilliAmp(16_000), MilliAmp(16_000), MilliAmp(16_000)],
        soc_pct: Some(54),
        signed: None,
    }
}

/// A spool record.
pub fn record(seq: u64, fact: EdgeFact) -> EdgeRecord {
    EdgeRecord {
        seq,
        at: T,
        quality: TimeQuality::Synced,
        fact,
    }
}

/// One of each.
pub fn facts() -> Vec<EdgeFact> {
    vec![
        EdgeFact::Accepted {
            session_id: session(),
            connector: ONE,
        },
        EdgeFact::OpenedAtEdge {
            session_id: session(),
            connector: ONE,
            origin: Origin::Local,
            driver_id: Some("alice".parse().expect("an id")),
            token: Some("04A2B3C4".into()),
        },
        EdgeFact::Started {
            session_id: session(),
            device_tx: "tx-17".into(),
            reading: unsigned_reading(),
        },
        EdgeFact::Phase {
            session_id: session(),
            phase: Phase::SuspendedEv,
            reading: Some(unsigned_reading()),
        },
        EdgeFact::Checkpoint {
            session_id: session(),
            reading: unsigned_reading(),
        },
        EdgeFact::EnergyEnded {
            session_id: session(),
            reading: Some(unsigned_reading()),
            reason: EndReason::new(EndCode::Driver, EndSource::Driver),
        },
        EdgeFact::Ended {
            session_id: session(),
            completed: true,
            reason: EndReason::new(EndCode::Driver, EndSource::Driver),
            reading: Some(unsigned_reading()),
            stood_s: Some(900),
        },
        EdgeFact::Connector {
            connector: ONE,
            plugged: true,
            service: Service::In,
            service_revision: 4,
            fault: Some(fault()),
            charger_online: true,
            ended_since_plug: false,
        },
        EdgeFact::Booted {
            raw: Some("PowerUp".into()),
        },
        EdgeFact::Anomaly {
            connector: Some(ONE),
            session_id: Some(session()),
            what: "the register fell from 101234567 to 100000000 mWh".into(),
        },
    ]
}

/// The word of a fact. The compiler asks for a line here, and the README's test for a table.
fn kind(fact: &EdgeFact) -> &'static str {
    match fact {
        EdgeFact::Accepted { .. } => "accepted",
        EdgeFact::OpenedAtEdge { .. } => "opened_at_edge",
        EdgeFact::Started { .. } => "started",
        EdgeFact::Phase { .. } => "phase",
        EdgeFact::Checkpoint { .. } => "checkpoint",
        EdgeFact::EnergyEnded { .. } => "energy_ended",
        EdgeFact::Ended { .. } => "ended",
        EdgeFact::Connector { .. } => "connector",
        EdgeFact::Booted { .. } => "booted",
        EdgeFact::Anomaly { .. } => "anomaly",
    }
}

/// An exact amount. Not through `FromStr`, which takes only what a person may give.
fn amount(text: &str) -> Amount {
    serde_json::from_value(serde_json::Value::from(text)).expect("a decimal")
}
