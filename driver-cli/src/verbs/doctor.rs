//! `doctor`: which piece is wrong, and one thing to do about each.
//!
//! Nothing is concluded from this machine's clock as long as somebody else can be asked: a clock
//! that is ahead makes a good credential look expired.

use std::time::{Duration, Instant};

use ev_client::{Access, AccessError, Credential, Piece, SERVER_MIN, Trouble, Version, shown_time};
use ev_contract::{
    limits::{CLOCK_TOLERANCE_MS, REQUEST_BYTES_MAX},
    subjects::PREFIX,
};
use serde::Serialize;
use tokio::time::timeout;

use super::{Ctx, cannot_connect, ends_soon};
use crate::{
    client::Client,
    desk::{Desk, wall_now},
    exit::Exit,
    failure::Failure,
    identity::Who,
    journal::Journal,
};

/// A server that does not answer within this is no server to work with. It looks for the account of
/// a credential that it does not know for two seconds before it refuses.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// As whom nothing works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patient {
    /// A driver.
    Driver,
    /// An operator.
    Operator,
}

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

    /// Something that is good, and will not be for long.
    fn good_until(&mut self, piece: &'static str, detail: impl Into<String>, fix: Option<String>) {
        self.checks.push(Check {
            piece,
            ok: true,
            detail: detail.into(),
            fix,
        });
    }

    fn trouble(&mut self, trouble: &Trouble, exit: Exit) {
        let (piece, options) = piece(trouble.piece);
        let fix = format!("{} ({options})", trouble.fix);
        self.bad(piece, &trouble.what, fix, exit);
    }

    fn failed(&mut self, piece: &'static str, failure: &Failure) {
        self.bad(piece, failure.message(), failure.hint(), failure.exit());
    }
}

/// What the doctor calls a piece, and where it is named.
fn piece(piece: Piece) -> (&'static str, &'static str) {
    match piece {
        Piece::Credentials => ("credentials", "--credentials or EV_CREDENTIALS"),
        Piece::Ca => ("ca", "--ca or EV_NATS_CA"),
        Piece::ClientCertificate => ("certificate", "--certificate and --key"),
        Piece::Server => ("server", "--nats-url or EV_NATS_URL"),
    }
}

pub(super) async fn doctor(ctx: &Ctx, patient: Patient) -> Result<Exit, Failure> {
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
    if let Some(who) = identity(ctx, patient, &mut findings) {
        state(ctx, &who, &mut findings);
        if let Some(opened) = files(ctx, &who, &mut findings)
            && let Some(client) = server(ctx, &who, &opened, &mut findings).await?
        {
            central(ctx, client, who, &mut findings).await?;
        }
    }
    let doc = DoctorDoc {
        ok: findings.exit == Exit::Ok,
        checks: findings.checks,
    };
    ctx.output.data(&doc, || text(&doc))?;
    Ok(findings.exit)
}

fn identity(ctx: &Ctx, patient: Patient, findings: &mut Findings) -> Option<Who> {
    let (who, named) = match patient {
        Patient::Driver => (ctx.driver().map(Who::Driver), ctx.global.driver.is_some()),
        Patient::Operator => (
            ctx.operator().map(Who::Operator),
            ctx.global.operator.is_some(),
        ),
    };
    match who {
        Ok(who) => {
            findings.good("identity", format!("{} {}", who.role(), who.id()));
            Some(who)
        }
        Err(failure) => {
            // Who is not named is whose the file is, where it is one.
            let from_file = !named && ctx.credentials().is_ok_and(|path| path.is_file());
            let piece = if from_file { "credentials" } else { "identity" };
            findings.failed(piece, &failure);
            None
        }
    }
}

fn state(ctx: &Ctx, who: &Who, findings: &mut Findings) {
    let probed = ctx.state_dir().and_then(|state_dir| {
        let journal = Journal::new(&state_dir, who);
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

/// The files that open the server, each by itself. What the server thinks of the credential is
/// asked before anything is said in its favour.
fn files(ctx: &Ctx, who: &Who, findings: &mut Findings) -> Option<(Access, Credential)> {
    let access = match ctx.opens(who) {
        Ok(access) => access,
        Err(failure) => {
            findings.failed("credentials", &failure);
            return None;
        }
    };
    let mut wrong = |error: &AccessError| {
        findings.failed(piece(error.piece()).0, &cannot_connect(error));
    };
    let credential = Credential::read(&access.credentials)
        .map_err(AccessError::from)
        .and_then(|credential| {
            credential.check(&access.credentials, who.role(), who.id())?;
            Ok(credential)
        })
        .inspect_err(&mut wrong);
    let tls = access.tls.check().inspect_err(&mut wrong);
    let servers = access.servers().inspect_err(&mut wrong);
    match (credential, tls, servers) {
        (Ok(credential), Ok(()), Ok(_)) => Some((access, credential)),
        _ => None,
    }
}

async fn server(
    ctx: &Ctx,
    who: &Who,
    (access, credential): &(Access, Credential),
    findings: &mut Findings,
) -> Result<Option<Client>, Failure> {
    let patience = ctx.global.timeout.min(CONNECT_PATIENCE);
    let looked = ctx
        .query(async { Ok(look(access, patience).await) })
        .await?;
    let until = match looked {
        Ok(until) => until,
        Err(trouble) => {
            findings.trouble(&trouble, Exit::Unreachable);
            return Ok(None);
        }
    };
    let client = match ctx.connect(access, patience).await {
        Ok(client) => client,
        Err(failure @ Failure::Interrupted { .. }) => return Err(failure),
        Err(failure) => {
            match ctx.query(async { Ok(access.why_not().await) }).await? {
                Some(trouble) => findings.trouble(&trouble, failure.exit()),
                None => findings.failed("server", &failure),
            }
            return Ok(None);
        }
    };
    findings.good_until(
        "credentials",
        format!("the server takes {}", access.credentials.display()),
        ends_soon(access, credential, who),
    );
    let info = client.server_info();
    let until = until.map_or_else(String::new, |at_s| {
        format!(", its certificate is good until {}", shown_time(at_s))
    });
    let detail = format!("nats-server {} at {}{until}", info.version, client.url());
    if let Some(fix) = unfit(&info.version, info.max_payload) {
        findings.bad("server", detail, fix, Exit::Other);
    } else {
        findings.good("server", detail);
    }
    Ok(Some(client))
}

/// Until when the certificate of the first server that can be used is good, or what is wrong with
/// the first of all.
async fn look(access: &Access, patience: Duration) -> Result<Option<i64>, Trouble> {
    let mut first = None;
    for server in access.servers().map_err(|e| Trouble::from(&e))? {
        let looked = timeout(patience, access.tls.look(&server)).await;
        match looked.unwrap_or_else(|_| Err(Trouble::silent())) {
            Ok(seen) => return Ok(seen.expires_at_s),
            Err(trouble) => {
                first.get_or_insert(trouble);
            }
        }
    }
    Err(first.unwrap_or_else(Trouble::silent))
}

/// Why a server that lets people in will not do all the same.
fn unfit(version: &str, max_payload: usize) -> Option<String> {
    if Version::parse(version).is_some_and(|version| version < SERVER_MIN) {
        Some(format!(
            "install nats-server {SERVER_MIN} or newer; older ones have known holes"
        ))
    } else if max_payload < REQUEST_BYTES_MAX {
        Some(format!(
            "set max_payload to 1MiB, as the shipped configuration does; it takes messages of \
             {max_payload} bytes only"
        ))
    } else {
        None
    }
}

async fn central(
    ctx: &Ctx,
    client: Client,
    who: Who,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let state_dir = ctx.state_dir().unwrap_or_default();
    let link = client.link();
    let role = who.role();
    let desk = Desk::new(
        client,
        who,
        &state_dir,
        ctx.invocation(),
        ctx.global.timeout,
    );
    let (asked_at, asked) = (wall_now(), Instant::now());
    let (any, ts) = match ctx.query(desk.probe()).await {
        Ok(probed) => probed,
        Err(failure @ Failure::Interrupted { .. }) => return Err(failure),
        Err(failure) => {
            let denied = link.borrow().denied.clone();
            if let Some(denied) = denied {
                findings.bad(
                    "permission",
                    ev_client::LinkEvent::Denied(denied).to_string(),
                    format!(
                        "whoever runs the system puts in force what a {role} may do: `central \
                         enrol push`"
                    ),
                    Exit::NotAllowed,
                );
                return Ok(());
            }
            match failure {
                Failure::Unreachable { .. } | Failure::Unknown { .. } => findings.bad(
                    "central",
                    failure.message(),
                    "start central; on its host /readyz says what it waits for",
                    failure.exit(),
                ),
                failure => findings.failed("central", &failure),
            }
            return Ok(());
        }
    };
    let round_trip_ms = i64::try_from(asked.elapsed().as_millis()).unwrap_or(i64::MAX);
    findings.good("central", format!("answers within {round_trip_ms} ms"));
    // Half the round trip is the best guess at when central wrote the time down, and the other
    // half how wrong the guess can be.
    let offset_ms = asked_at.plus_ms(round_trip_ms / 2).ms_since(ts);
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
    if !any {
        findings.bad(
            "charge points",
            "central knows of none",
            "enrol one with `central enrol charge-point`, and start edge-cp with what it wrote",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_and_one_for_short_messages_are_unfit() {
        let payload = REQUEST_BYTES_MAX;
        assert_eq!(unfit(&SERVER_MIN.to_string(), payload), None);
        assert_eq!(unfit("what is this", payload), None);
        let fix = unfit("2.9.25", payload).unwrap_or_default();
        assert!(fix.contains("install nats-server"), "{fix}");
        let fix = unfit("3.0.0", payload - 1).unwrap_or_default();
        assert!(fix.contains("max_payload"), "{fix}");
    }
}
