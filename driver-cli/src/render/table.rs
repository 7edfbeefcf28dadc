//! Tables for people.

use comfy_table::{CellAlignment, Table, presets};
use ev_contract::{
    time::UnixMs,
    units::Mwh,
    v1::{
        AuditEntry, AuditRow, ChargePointListing, ChargePointView, CpEnrolment, EventRow, Reach,
        ReceiptReply, ScopedTariff, SessionView,
    },
};

use super::format::{connector, duration, harmless, kw, kwh, local, phase, standing};
use crate::{
    doc::{self, energy_adjusted, total_adjusted},
    price::{self, money},
    why, words,
};

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.to_vec());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn right(table: &mut Table, columns: &[usize]) {
    for &index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Rows of a name and a value.
fn pairs(rows: &[(&str, String)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in rows {
        table.add_row([(*name).to_owned(), harmless(value)]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// `list`.
#[must_use]
pub fn charge_points(listing: &[ChargePointListing]) -> String {
    let mut table = table(&[
        "CONNECTOR",
        "STATE",
        "UP TO",
        "PRICE",
        "SITE",
        "YOUR SESSION",
    ]);
    for cp in listing {
        for c in &cp.connectors {
            table.add_row([
                format!("{}/{}", cp.cp_id, c.connector),
                connector(c.state).to_owned(),
                format!("{} A x{}", c.max_ma.0 / 1_000, c.phases),
                price::in_words(&cp.tariff),
                cp.site_id.to_string(),
                c.session_id.map(|id| id.to_string()).unwrap_or_default(),
            ]);
        }
    }
    table.trim_fmt()
}

/// `status`, `history`; for operators, who give the time, with the drivers' names and what each
/// session waits for.
#[must_use]
pub fn sessions(sessions: &[SessionView], operator: Option<UnixMs>) -> String {
    let with_driver = operator.is_some();
    let mut header = vec!["SESSION"];
    if with_driver {
        header.push("DRIVER");
    }
    header.extend([
        "CONNECTOR",
        "STATE",
        "ENERGY",
        "COST",
        "BEGAN",
        "ENDED",
        if with_driver { "WHY" } else { "REASON" },
    ]);
    let energy_at = if with_driver { 4 } else { 3 };
    let mut table = table(&header);
    for s in sessions {
        let mut row = vec![s.session_id.to_string()];
        if with_driver {
            row.push(
                s.driver_id
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            );
        }
        let ended = s.state.is_ended();
        row.extend([
            format!("{}/{}", s.cp_id, s.connector),
            phase(s, s.state),
            kwh(s.energy_mwh),
            money(s.cost, s.currency),
            local(s.started_at.unwrap_or(s.accepted_at), &s.time_zone),
            s.ended_at
                .map(|at| local(at, &s.time_zone))
                .unwrap_or_default(),
            match operator {
                _ if ended => harmless(&words::how_it_ended(s)),
                Some(now) => why::waits(s, now).map(|why| why.text).unwrap_or_default(),
                None => String::new(),
            },
        ]);
        table.add_row(row);
    }
    right(&mut table, &[energy_at, energy_at + 1]);
    table.trim_fmt()
}

/// `status SESSION`.
#[must_use]
pub fn session(s: &SessionView) -> String {
    let at = |time| local(time, &s.time_zone);
    let mut rows = vec![
        ("session", s.session_id.to_string()),
        (
            "connector",
            format!("{}/{} at {}", s.cp_id, s.connector, s.site_id),
        ),
        ("state", phase(s, s.state)),
        ("energy", kwh(s.energy_mwh)),
        ("cost", money(s.cost, s.currency)),
        (
            "tariff",
            format!("{} version {}", s.tariff_id, s.tariff_version),
        ),
        ("accepted", at(s.accepted_at)),
    ];
    rows.extend(limits(s).map(|limits| ("limits", limits)));
    rows.extend(s.started_at.map(|t| ("energy began", at(t))));
    rows.extend(s.energy_ended_at.map(|t| ("energy ended", at(t))));
    rows.extend(s.ended_at.map(|t| ("ended", at(t))));
    if s.state.is_ended() {
        rows.push(("reason", words::how_it_ended(s)));
        rows.extend(s.receipt.clone().map(|number| ("receipt", number)));
    } else {
        rows.extend(standing(s).map(|words| ("standing", words)));
        rows.extend(s.power_mw.map(|power| ("power", kw(power))));
        rows.extend(s.soc_pct.map(|soc| ("battery", format!("{soc} %"))));
        rows.extend(s.last_value_at.map(|t| ("last value", at(t))));
        if !s.reachable {
            rows.push((
                "note",
                "the charge point cannot be reached; the session goes on there".to_owned(),
            ));
        }
    }
    pairs(&rows)
}

/// The limits of a session, where it has any.
#[must_use]
pub fn limits(s: &SessionView) -> Option<String> {
    let mut limits = Vec::new();
    match (s.limits.cost, s.limits.energy_mwh) {
        (Some(cost), Some(energy)) if s.limits.energy_from_cost => {
            limits.push(format!(
                "{}, that is {}",
                money(cost, s.currency),
                kwh(energy)
            ));
        }
        (cost, energy) => {
            limits.extend(cost.map(|cost| money(cost, s.currency)));
            limits.extend(energy.map(kwh));
        }
    }
    if let Some(time_s) = s.limits.time_s {
        limits.push(duration(i64::from(time_s) * 1_000));
    }
    (!limits.is_empty()).then(|| limits.join(", "))
}

/// `op session show`.
#[must_use]
pub fn session_for_operators(s: &SessionView, events: &[EventRow], now: UnixMs) -> String {
    let mut text = session(s);
    if let Some(driver) = &s.driver_id {
        text.push_str(&format!("\ndriver  {driver}"));
    }
    if let Some(why) = why::waits(s, now) {
        text.push_str(&format!("\n\n{}", harmless(&why.text)));
        if !why.hint.is_empty() {
            text.push_str(&format!("\n  what to do: {}", harmless(&why.hint)));
        }
    }
    if !events.is_empty() {
        text.push_str(&format!("\n\n{}", self::events(events)));
    }
    text
}

/// `op events`.
#[must_use]
pub fn events(events: &[EventRow]) -> String {
    let mut table = table(&["WHEN", "WHAT", "WHERE", "WHO", "SESSION", "DETAIL"]);
    for event in events {
        table.add_row(event_cells(event));
    }
    table.trim_fmt()
}

/// `op events --follow`: an event on a line, in columns that are wide enough for most.
#[must_use]
pub fn event_line(event: &EventRow) -> String {
    let [when, what, place, who, session, detail] = event_cells(event);
    format!("{when}  {what:<12}  {place:<12}  {who:<12}  {session:<36}  {detail}")
        .trim_end()
        .to_owned()
}

fn event_cells(event: &EventRow) -> [String; 6] {
    let place = event.cp_id.as_ref().map(|cp| match event.connector {
        Some(connector) => format!("{cp}/{connector}"),
        None => cp.to_string(),
    });
    let operator = event.operator_id.as_ref().map(|id| format!("op {id}"));
    let driver = event.driver_id.as_ref().map(ToString::to_string);
    let who: Vec<_> = [operator, driver].into_iter().flatten().collect();
    let why = [
        event.code.map(|code| code.to_string()),
        event.detail.clone(),
    ];
    let why: Vec<_> = why.into_iter().flatten().collect();
    [
        doc::Time(event.at).to_string(),
        event.kind.to_string().replace('_', " "),
        place.unwrap_or_default(),
        who.join(" for "),
        event
            .session_id
            .map(|id| id.to_string())
            .unwrap_or_default(),
        why.join(", "),
    ]
    .map(|cell| harmless(&cell).replace('\n', " "))
}

/// Every digit of a register, to the milliwatt-hour: whoever pays may want to check the sum.
fn exact(energy: Mwh) -> String {
    format!("{} kWh", energy.kwh())
}

/// `receipt`.
#[must_use]
pub fn receipt(reply: &ReceiptReply) -> String {
    let r = &reply.receipt;
    let at = |time| local(time, &r.time_zone);
    let mut rows = vec![
        ("receipt", r.number.clone()),
        ("session", r.session_id.to_string()),
        ("seller", r.operator.clone()),
        (
            "connector",
            format!("{}/{} at {}", r.cp_id, r.connector, r.site_id),
        ),
        ("accepted", at(r.accepted_at)),
    ];
    rows.extend(r.started_at.map(|t| ("energy began", at(t))));
    rows.extend(r.energy_ended_at.map(|t| ("energy ended", at(t))));
    rows.push(("ended", at(r.ended_at)));
    let refused = r.end.refused.map(|code| format!(" ({code})"));
    rows.push((
        "reason",
        format!(
            "{}{}",
            words::end_in_full(&r.end),
            refused.unwrap_or_default()
        ),
    ));
    for meter in &r.meters {
        rows.push((
            "meter",
            format!(
                "{}: {} to {}",
                meter.meter_id,
                exact(meter.from_mwh),
                exact(meter.to_mwh)
            ),
        ));
    }
    rows.push(("energy", exact(r.energy_mwh)));
    rows.push((
        "tariff",
        format!("{} version {}", r.tariff.tariff_id, r.tariff.version),
    ));

    let mut lines = table(&["", "QUANTITY", "PRICE", "AMOUNT", ""]);
    for line in &r.lines {
        lines.add_row([
            line.component.to_string().replace('_', " "),
            format!("{} {}", line.quantity, line.unit),
            money(line.price, r.currency),
            money(line.amount, r.currency),
            harmless(line.note.as_deref().unwrap_or_default()),
        ]);
    }
    let taxes = r.taxes.iter().map(|tax| {
        let rate = format!("{} %", tax.percent.0.normalize());
        (format!("  {}", tax.name), tax.amount, rate)
    });
    let sums = [("total".to_owned(), r.total, String::new())]
        .into_iter()
        .chain([("  net".to_owned(), r.net, String::new())])
        .chain(taxes);
    for (name, amount, note) in sums {
        lines.add_row([
            harmless(&name),
            String::new(),
            String::new(),
            money(amount, r.currency),
            harmless(&note),
        ]);
    }
    right(&mut lines, &[1, 2, 3]);
    let mut text = format!("{}\n\n{}", pairs(&rows), lines.trim_fmt());
    if !r.rounding.is_empty() {
        text.push_str(&format!("\n\nrounding: {}", harmless(&r.rounding)));
    }
    if !r.flags.is_empty() {
        let flags: Vec<String> = r
            .flags
            .iter()
            .map(|f| f.to_string().replace('_', " "))
            .collect();
        text.push_str(&format!("\n\nnoticed: {}", flags.join(", ")));
    }
    if !reply.adjustments.is_empty() {
        let mut table = table(&["ADJUSTMENT", "WHEN", "BY", "AMOUNT", "TOTAL", "REASON"]);
        for a in &reply.adjustments {
            table.add_row([
                a.number.clone(),
                at(a.at),
                a.by.clone(),
                money(a.amount, a.currency),
                money(a.total, a.currency),
                harmless(&a.reason),
            ]);
        }
        right(&mut table, &[3, 4]);
        text.push_str(&format!(
            "\n\n{}\n\nowed after adjustments: {} for {} Wh",
            table.trim_fmt(),
            money(total_adjusted(reply), r.currency),
            energy_adjusted(reply),
        ));
    }
    text
}

/// `op cp ls`.
#[must_use]
pub fn charge_points_for_operators(views: &[ChargePointView]) -> String {
    let mut table = table(&[
        "CONNECTOR",
        "STATE",
        "LINK",
        "SERVICE",
        "POWER",
        "REGISTER",
        "SPOOL",
        "SITE",
        "NOTES",
    ]);
    for cp in views {
        for c in &cp.connectors {
            let mut notes = Vec::new();
            notes.extend(revoked(cp));
            if !c.charger_online {
                notes.push("charger offline".to_owned());
            }
            if let Some(fault) = &c.fault {
                notes.push(format!("fault {} ({})", fault.raw, fault.effect));
            }
            if !c.service_confirmed {
                notes.push("service not confirmed".to_owned());
            }
            if cp.quarantined > 0 {
                notes.push(format!("{} records in quarantine", cp.quarantined));
            }
            if cp.missing > 0 {
                notes.push(format!("{} records missing", cp.missing));
            }
            notes.extend(cp.health.iter().cloned());
            table.add_row([
                format!("{}/{}", cp.cp_id, c.connector),
                connector(c.state).to_owned(),
                cp.link.to_string(),
                c.service.to_string().replace('_', " "),
                c.power_mw.map(kw).unwrap_or_default(),
                c.register_mwh.map(kwh).unwrap_or_default(),
                cp.spool_depth.map(|n| n.to_string()).unwrap_or_default(),
                cp.site_id.to_string(),
                harmless(&notes.join(", ")),
            ]);
        }
        if cp.connectors.is_empty() {
            let state = if cp.epoch.is_none() {
                "never seen"
            } else {
                "no connectors"
            };
            let service = if cp.out_of_service { "out" } else { "in" };
            table.add_row([
                cp.cp_id.to_string(),
                state.to_owned(),
                cp.link.to_string(),
                service.to_owned(),
                String::new(),
                String::new(),
                String::new(),
                cp.site_id.to_string(),
                revoked(cp).unwrap_or_default(),
            ]);
        }
    }
    right(&mut table, &[4, 5, 6]);
    table.trim_fmt()
}

fn revoked(cp: &ChargePointView) -> Option<String> {
    (cp.enrolment == Some(CpEnrolment::Revoked)).then(|| "credential revoked".to_owned())
}

/// `op cp show`.
#[must_use]
pub fn charge_point(cp: &ChargePointView, now: UnixMs) -> String {
    let at = |time| local(time, &cp.time_zone);
    let since = cp.link_since.map(|t| format!(" since {}", at(t)));
    let mut rows = vec![
        ("charge point", cp.cp_id.to_string()),
        ("site", format!("{} ({})", cp.site_id, cp.time_zone)),
        ("link", format!("{}{}", cp.link, since.unwrap_or_default())),
    ];
    rows.extend(why::last_cut(cp).map(|cut| ("last cut", cut)));
    rows.push(("records", why::records(cp)));
    rows.extend(cp.enrolment.map(|e| ("credential", e.to_string())));
    rows.extend(cp.last_heard_at.map(|t| ("last heard", at(t))));
    rows.extend(cp.version.clone().map(|v| ("agent", v)));
    rows.extend(
        cp.clock_offset_ms
            .map(|ms| ("clock", format!("{ms} ms off"))),
    );
    rows.extend(
        cp.spool_depth
            .map(|n| ("spool", format!("{n} records wait"))),
    );
    if cp.link == Reach::Online && cp.last_heard_at.is_some() && cp.clock_offset_ms.is_none() {
        rows.push(("clock", "not known yet".to_owned()));
    }
    rows.extend(cp.access_expires_at.map(|t| {
        let word = if t <= now { "ended at" } else { "until" };
        ("access", format!("{word} {}", at(t)))
    }));
    rows.extend(cp.epoch.clone().map(|e| ("epoch", e)));
    rows.extend(cp.boot.map(|b| ("boot", b.to_string())));
    rows.extend(cp.other_agent.as_ref().map(|other| {
        let heard = other.last_heard_at.map_or_else(
            || "not heard now".to_owned(),
            |t| format!("last heard {}", at(t)),
        );
        let text = format!(
            "boot {} (epoch {}) is not obeyed since {}, {heard}; {} records are kept aside",
            other.boot,
            other.epoch,
            at(other.since),
            other.kept
        );
        ("second agent", text)
    }));
    rows.push(("next record", cp.next_record.to_string()));
    rows.push(("quarantined", cp.quarantined.to_string()));
    rows.push(("missing", cp.missing.to_string()));
    rows.push(("anomalies", cp.anomalies.to_string()));
    rows.push((
        "tariff",
        format!("{}: {}", cp.tariff.tariff_id, price::in_words(&cp.tariff)),
    ));
    if !cp.health.is_empty() {
        rows.push(("health", cp.health.join(", ")));
    }
    for c in &cp.connectors {
        for session in &c.sessions {
            rows.push(("session", format!("{session} on connector {}", c.connector)));
        }
    }
    let mut text = String::new();
    for why in why::refuses(cp, now) {
        text.push_str(&format!(
            "{}\n  what to do: {}\n",
            harmless(&why.text),
            harmless(&why.hint)
        ));
    }
    if text.is_empty() {
        text.push_str("drivers can start here\n");
    }
    text.push_str(&format!(
        "\n{}\n\n{}",
        pairs(&rows),
        charge_points_for_operators(std::slice::from_ref(cp))
    ));
    if !cp.refused.is_empty() {
        let mut refused = table(&["REFUSED", "DRIVER", "WHY"]);
        for r in &cp.refused {
            let driver = r.driver_id.as_ref().map(ToString::to_string);
            refused.add_row([
                at(r.at),
                driver.unwrap_or_default(),
                harmless(&r.code.message(cp.cp_id.as_str())),
            ]);
        }
        text.push_str(&format!("\n\n{}", refused.trim_fmt()));
    }
    text
}

/// `op tariff ls`.
#[must_use]
pub fn tariffs(tariffs: &[ScopedTariff]) -> String {
    let mut table = table(&["SCOPE", "TARIFF", "VERSION", "FROM", "PRICE"]);
    for (scope, from, tariff) in doc::versions(tariffs) {
        table.add_row([
            scope.to_string(),
            tariff.tariff_id.to_string(),
            tariff.version.to_string(),
            since(from),
            harmless(&price::in_words(tariff)),
        ]);
    }
    table.trim_fmt()
}

fn since(from: Option<UnixMs>) -> String {
    from.map_or_else(|| "now".to_owned(), |from| doc::Time(from).to_string())
}

/// `op tariff show`.
#[must_use]
pub fn tariff(tariffs: &[ScopedTariff]) -> String {
    let in_full = doc::versions(tariffs).map(|(scope, from, tariff)| {
        let terms = &tariff.terms;
        let mut rows = vec![
            ("tariff", tariff.tariff_id.to_string()),
            ("version", tariff.version.to_string()),
            ("scope", scope.to_string()),
            ("from", since(from)),
            ("price", harmless(&price::in_words(tariff))),
            (
                "fees",
                format!("owed from {} Wh on", terms.start_fee_min_wh),
            ),
        ];
        if terms.prices_net {
            rows.push(("set", "without the taxes, which come on top".to_owned()));
        }
        if terms.idle.is_some_and(|idle| idle.after_fault) {
            rows.push(("standing", "costs also after a fault".to_owned()));
        }
        pairs(&rows)
    });
    in_full.collect::<Vec<_>>().join("\n\n")
}

/// `op audit`.
#[must_use]
pub fn audit(rows: &[AuditRow]) -> String {
    let mut table = table(&["WHEN", "WHO", "VERB", "ON", "OUTCOME", "WHY", "CREDENTIAL"]);
    for row in rows {
        table.add_row(audit_cells(&row.entry));
    }
    table.trim_fmt()
}

/// `op audit --follow`: an entry on a line, in columns that are wide enough for most.
#[must_use]
pub fn audit_line(row: &AuditRow) -> String {
    let [when, who, verb, on, outcome, why, credential] = audit_cells(&row.entry);
    format!("{when}  {who:<20}  {verb:<14}  {on:<44}  {outcome:<8}  {why}  {credential}")
        .trim_end()
        .to_owned()
}

fn audit_cells(entry: &AuditEntry) -> [String; 7] {
    let named = |what: &str, id: &Option<String>| id.as_ref().map(|id| format!("{what} {id}"));
    let place = entry.cp_id.as_ref().map(|cp| match entry.connector {
        Some(connector) => format!("{cp}/{connector}"),
        None => cp.clone(),
    });
    let on = [
        place,
        named("session", &entry.session_id),
        named("driver", &entry.driver_id),
        named("operator", &entry.operator_id),
        named("tariff", &entry.tariff_id),
        named("key", &entry.key),
    ];
    let why = [
        entry.code.map(|code| code.to_string()),
        entry.detail.clone(),
        entry.repeat.then(|| "a repeat".to_owned()),
    ];
    let joined = |words: &[Option<String>]| {
        let words: Vec<_> = words.iter().flatten().map(String::as_str).collect();
        words.join(", ")
    };
    [
        doc::Time(entry.at).to_string(),
        format!("{} {}", entry.kind, entry.name.as_deref().unwrap_or("?")),
        entry.verb.clone(),
        joined(&on),
        entry.outcome.to_string(),
        joined(&why),
        // As much of it as tells two apart.
        entry
            .credential
            .iter()
            .flat_map(|key| key.chars().take(12))
            .collect(),
    ]
    .map(|cell| harmless(&cell).replace('\n', " "))
}

/// `run`'s summary.
#[must_use]
pub fn run(rows: &[[String; 6]]) -> String {
    let mut table = table(&["#", "CONNECTOR", "RESULT", "ENERGY", "COST", "REASON"]);
    for row in rows {
        table.add_row(row.iter().map(|cell| harmless(cell)).collect::<Vec<_>>());
    }
    right(&mut table, &[0, 3, 4]);
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use ev_contract::{
        codes::Code,
        time::UnixMs,
        v1::{AuditKind, AuditOutcome},
        wire::Tag,
    };

    use super::*;

    fn row() -> AuditRow {
        AuditRow {
            seq: 7,
            entry: AuditEntry {
                tag: Tag::new(),
                entry_id: "e-1".parse().unwrap(),
                at: UnixMs(1_760_000_000_000),
                replica: "central-1".parse().unwrap(),
                kind: AuditKind::Op,
                name: Some("olga".into()),
                subject: Some("ev.v1.op.olga.cp_unlock".into()),
                credential: Some("UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4".into()),
                verb: "cp_unlock".into(),
                cp_id: Some("CP-001".into()),
                connector: Some(2),
                session_id: None,
                driver_id: None,
                operator_id: None,
                tariff_id: None,
                key: None,
                request_id: Some("r-1".into()),
                outcome: AuditOutcome::Denied,
                code: Some(Code::Unsupported),
                repeat: true,
                detail: Some("by\u{1b}[2J hand\n".into()),
            },
        }
    }

    #[test]
    fn an_entry_is_one_line_and_does_what_a_terminal_may_do() {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let expected = "2025-10-09T08:53:20.000Z op olga cp_unlock CP-001/2 denied \
                        unsupported, by\u{fffd}[2J hand , a repeat UDXU4RCSJNZO";
        assert_eq!(words(&audit_line(&row())), expected);
        let table = audit(&[row()]);
        let lines: Vec<_> = table.lines().map(words).collect();
        assert_eq!(lines, ["WHEN WHO VERB ON OUTCOME WHY CREDENTIAL", expected]);
        let mut stranger = row();
        stranger.entry.name = None;
        stranger.entry.credential = None;
        assert!(audit_line(&stranger).contains("op ?"));
    }
}
