//! `doctor`: which piece is wrong, and one thing to do about each.

use std::time::{Duration, Instant};

use ev_client::Access;
use ev_contract::{
    limits::{CLOCK_TOLERANCE_MS, REQUEST_BYTES_MAX},
    subjects::PREFIX,
};
use serde::Serialize;

use super::Ctx;
use crate::{
    client::Client,
    desk::{Desk, wall_now},
    exit::Exit,
    failure::Failure,
    identity::Who,
    journal::Journal,
};

/// A server that does not answer within this is no server to work with.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// One piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    piece: &'static str,
    ok: bool,
    detail: String,
    fix: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct DoctorDoc {
    ok: bool,
    checks: Vec<Check>,
}

/// The checks so far, and how the program will end.
struct Findings {
    checks: Vec<Check>,
    exit: Exit,
}

impl Findings {
    fn good(&mut self, piece: &'static str, detail: impl Into<String>) {
        self.checks.push(Check {
            piece,
            ok: true,
            detail: detail.into(),
            fix: None,
        });
    }

    fn bad(
        &mut self,
        piece: &'static str,
        detail: impl Into<String>,
        fix: impl Into<String>,
        exit: Exit,
    ) {
        self.checks.push(Check {
            piece,
            ok: false,
            detail: detail.into(),
            fix: Some(fix.into()),
        });
        if self.exit == Exit::Ok {
            self.exit = exit;
        }
    }

    fn failed(&mut self, piece: &'static str, failure: &Failure) {
        self.bad(piece, failure.message(), failure.hint(), failure.exit());
    }
}

pub(super) async fn doctor(ctx: &Ctx) -> Result<Exit, Failure> {
    let mut findings = Findings {
        checks: Vec::new(),
        exit: Exit::Ok,
    };
    findings.good(
        "versions",
        format!(
            "driver-cli {}, contract {PREFIX}",
            env!("CARGO_PKG_VERSION")
        ),
    );
    let who = identity(ctx, &mut findings);
    state(ctx, who.as_ref(), &mut findings);
    if let Some(who) = who
        && let Some(access) = credentials(ctx, &who, &mut findings)
        && let Some(client) = server(ctx, &access, &mut findings).await?
    {
        central(ctx, client, who, &mut findings).await?;
    }
    let doc = DoctorDoc {
        ok: findings.exit == Exit::Ok,
        checks: findings.checks,
    };
    ctx.output.data(&doc, || text(&doc))?;
    Ok(findings.exit)
}

fn identity(ctx: &Ctx, findings: &mut Findings) -> Option<Who> {
    match ctx.driver() {
        Ok(driver) => {
            findings.good("identity", format!("driver {driver}"));
            Some(Who::Driver(driver))
        }
        Err(failure) => {
            findings.failed("identity", &failure);
            None
        }
    }
}

fn state(ctx: &Ctx, who: Option<&Who>, findings: &mut Findings) {
    let probed = ctx.state_dir().and_then(|state_dir| {
        let operator = Who::Operator(ctx.operator()?);
        let journal = Journal::new(&state_dir, who.unwrap_or(&operator));
        let folder = journal.probe()?.display().to_string();
        Ok((journal, folder))
    });
    match probed {
        Err(failure) => findings.failed("state folder", &failure),
        Ok((journal, folder)) => {
            findings.good("state folder", format!("{folder} can be written"));
            if let Some(command) = journal.unanswered(wall_now(), |_| true) {
                findings.bad(
                    "requests",
                    format!("the outcome of {} is not known", command.in_words()),
                    format!("repeat it: {}", ctx.invocation().repeat(&command)),
                    Exit::Unknown,
                );
            }
        }
    }
}

fn credentials(ctx: &Ctx, who: &Who, findings: &mut Findings) -> Option<Access> {
    match ctx.access(who) {
        Ok((access, credential)) => {
            let path = access.credentials.display();
            if let Some(at) = credential.expired_at() {
                findings.bad(
                    "credentials",
                    format!("{path} expired at {at}"),
                    "whoever runs the system makes new ones with `central enrol`",
                    Exit::NotAllowed,
                );
            } else {
                findings.good("credentials", path.to_string());
            }
            Some(access)
        }
        Err(failure) => {
            findings.failed("credentials", &failure);
            None
        }
    }
}

async fn server(
    ctx: &Ctx,
    access: &Access,
    findings: &mut Findings,
) -> Result<Option<Client>, Failure> {
    let patience = ctx.global.timeout.min(CONNECT_PATIENCE);
    match ctx.connect(access, patience).await {
        Ok(client) => {
            let info = client.server_info();
            let detail = format!("nats-server {} at {}", info.version, client.url());
            if info.max_payload < REQUEST_BYTES_MAX {
                findings.bad(
                    "server",
                    format!("{detail} takes messages of {} bytes only", info.max_payload),
                    "set max_payload to 1MiB, as the shipped configuration does",
                    Exit::Other,
                );
            } else {
                findings.good("server", detail);
            }
            Ok(Some(client))
        }
        Err(failure @ Failure::Interrupted { .. }) => Err(failure),
        Err(failure) => {
            findings.failed("server", &failure);
            Ok(None)
        }
    }
}

async fn central(
    ctx: &Ctx,
    client: Client,
    who: Who,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let state_dir = ctx.state_dir().unwrap_or_default();
    let desk = Desk::new(
        client,
        who,
        &state_dir,
        ctx.invocation(),
        ctx.global.timeout,
    );
    let (asked_at, asked) = (wall_now(), Instant::now());
    let reply = match ctx.query(desk.list_page(None, Some(1))).await {
        Ok(reply) => reply,
        Err(failure @ Failure::Interrupted { .. }) => return Err(failure),
        Err(failure @ Failure::Unreachable { .. }) => {
            findings.bad(
                "central",
                failure.message(),
                "start central; on its host /readyz says what it waits for",
                failure.exit(),
            );
            return Ok(());
        }
        Err(failure) => {
            findings.failed("central", &failure);
            return Ok(());
        }
    };
    let round_trip_ms = i64::try_from(asked.elapsed().as_millis()).unwrap_or(i64::MAX);
    findings.good("central", format!("answers within {round_trip_ms} ms"));
    // Half the round trip is the best guess at when central wrote the time down, and the other
    // half how wrong the guess can be.
    let offset_ms = asked_at.plus_ms(round_trip_ms / 2).ms_since(reply.ts);
    let detail = format!(
        "this clock is {} ms {} central's",
        offset_ms.abs(),
        if offset_ms < 0 { "behind" } else { "ahead of" }
    );
    if offset_ms.abs() > CLOCK_TOLERANCE_MS + round_trip_ms / 2 {
        findings.bad(
            "clock",
            detail,
            "let the system set its clock (timedatectl set-ntp true): requests may be refused \
             as expired or as too far ahead",
            Exit::Other,
        );
    } else {
        findings.good("clock", detail);
    }
    if reply.charge_points.is_empty() {
        findings.bad(
            "charge points",
            "none has ever presented itself to central",
            "start edge-cp with this server's URL",
            Exit::Other,
        );
    }
    Ok(())
}

fn text(doc: &DoctorDoc) -> String {
    let mut lines = Vec::new();
    for check in &doc.checks {
        let verdict = if check.ok { "ok " } else { "BAD" };
        lines.push(format!("{verdict}  {:<13}  {}", check.piece, check.detail));
        if let Some(fix) = &check.fix {
            lines.push(format!("     {:<13}  fix: {fix}", ""));
        }
    }
    crate::render::format::harmless(&lines.join("\n"))
}
