//! `run FILE`: one session after another.

use std::{collections::BTreeMap, fs, io, io::Read, path::Path};

use ev_contract::{
    ids::RequestId,
    units::Amount,
    v1::{DriverUpdate, SessionView},
};
use rust_decimal::Decimal;
use tokio::time::sleep;

use super::{
    Ctx,
    start::place_of,
    start_wish,
    wait::{Until, wait},
};
use crate::{
    args::{LimitArgs, RunArgs},
    command::Command,
    desk::Desk,
    doc::{ActionDoc, Milli, RunDoc, RunRow},
    exit::Exit,
    failure::Failure,
    price::money,
    quantity::Place,
    render::{format::kwh, table},
    words,
};

/// Most lines of a file. A file with more is not a list of charge points.
const LINES_MAX: usize = 10_000;

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How often a start whose outcome is unknown is repeated before the next one is begun. Each
/// repeat lasts `--timeout`, and after 30 s central's answer can no longer be "accepted", unless
/// it was before.
const REPEATS_MAX: u32 = 6;

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stop {
    line: usize,
    place: Place,
}

/// What is known of a session when it is left behind.
#[derive(Debug)]
enum Left {
    Ended(DriverUpdate, Box<SessionView>),
    NotWaitedFor(DriverUpdate),
    Failed(Failure),
}

pub(super) async fn run(ctx: &Ctx, args: RunArgs) -> Result<Exit, Failure> {
    let plan = parse(&read(&args.file)?)?;
    let desk = ctx.driver_desk().await?;
    let mut left: Vec<(Stop, Left)> = Vec::new();
    let mut interrupted = None;
    for (at, stop) in plan.iter().enumerate() {
        if at > 0 {
            let pause = async {
                sleep(args.pause).await;
                Ok(())
            };
            if let Err(failure) = ctx.query(pause).await {
                interrupted = Some(failure);
                break;
            }
        }
        ctx.output.message(&format!(
            "[{}/{}] {}",
            at + 1,
            plan.len(),
            words_of(&stop.place)
        ));
        match one(ctx, &desk, &stop.place, &args.limits).await {
            Err(failure @ (Failure::Interrupted { .. } | Failure::BrokenPipe)) => {
                let about = failure.about();
                if about.session_id.is_some() || about.request_id.is_some() {
                    left.push((stop.clone(), Left::Failed(failed_copy(&failure))));
                }
                interrupted = Some(failure);
                break;
            }
            Err(failure) => {
                ctx.output.error(&failure);
                left.push((stop.clone(), Left::Failed(failure)));
            }
            Ok(outcome) => {
                if let Left::Ended(_, view) = &outcome {
                    ctx.output.message(&format!(
                        "  {}: {}, {}: {}",
                        view.state,
                        kwh(view.energy_mwh),
                        money(view.cost, view.currency),
                        words::how_it_ended(view)
                    ));
                }
                left.push((stop.clone(), outcome));
            }
        }
    }
    let exit = summarise(ctx, plan.len(), &left)?;
    match interrupted {
        Some(failure) => {
            ctx.output.error(&failure);
            Ok(failure.exit())
        }
        None => Ok(exit),
    }
}

/// One session from start to end.
async fn one(ctx: &Ctx, desk: &Desk, place: &Place, limits: &LimitArgs) -> Result<Left, Failure> {
    let wish = start_wish(place, None, limits, None)?;
    let update = started(ctx, desk, &wish).await?;
    let Some(session) = update.session_id else {
        ctx.output.message(
            "central is of an older version and gave no session id: its end cannot be waited for",
        );
        return Ok(Left::NotWaitedFor(update));
    };
    ctx.output.message(&format!(
        "  accepted: session {session} on {}",
        place_of(&update)
    ));
    let view = wait(ctx, desk, session, Until::Ended, None).await?;
    Ok(Left::Ended(update, Box::new(view)))
}

/// A start whose outcome stays unknown may be running: the next must not begin before that is
/// known, if it can be known.
async fn started(ctx: &Ctx, desk: &Desk, wish: &Command) -> Result<DriverUpdate, Failure> {
    let mut named: Option<RequestId> = None;
    let mut repeats = 0;
    loop {
        match ctx.carry_out(desk, wish, None, named.as_ref()).await {
            Err(failure @ Failure::Unknown { .. }) if repeats < REPEATS_MAX => {
                repeats += 1;
                named = failure.about().request_id.and_then(|id| id.parse().ok());
                ctx.output
                    .message(&format!("  {}; repeating it", failure.message()));
            }
            other => return other,
        }
    }
}

fn summarise(ctx: &Ctx, planned: usize, left: &[(Stop, Left)]) -> Result<Exit, Failure> {
    let rows: Vec<RunRow> = left.iter().map(|(stop, left)| row(stop, left)).collect();
    let mut energy = 0_i128;
    let mut cost: BTreeMap<String, Amount> = BTreeMap::new();
    for row in &rows {
        energy += row.outcome.energy_wh.map_or(0, |wh| wh.0);
        if let (Some(amount), Some(currency)) = (row.outcome.cost, row.outcome.currency) {
            let sum = cost.entry(currency.to_string()).or_default();
            sum.0 = sum.0.checked_add(amount.0).unwrap_or(Decimal::MAX);
        }
    }
    let count = |status: &str| rows.iter().filter(|r| r.outcome.status == status).count();
    let doc = RunDoc {
        planned,
        completed: count("completed"),
        energy_wh: Milli(energy),
        cost,
        sessions: rows,
    };
    ctx.output.data(&doc, || text(&doc))?;
    Ok(if doc.completed == planned {
        Exit::Ok
    } else if doc.sessions.iter().any(|r| r.outcome.status == "unknown") {
        Exit::Unknown
    } else {
        Exit::Refused
    })
}

fn row(stop: &Stop, left: &Left) -> RunRow {
    let outcome = match left {
        Left::Ended(update, view) => ActionDoc::outcome(update, view),
        Left::NotWaitedFor(update) => ActionDoc::answer(update),
        Left::Failed(failure) => {
            let mut doc = ActionDoc::failed(failure);
            doc.cp_id.get_or_insert_with(|| stop.place.cp_id.clone());
            doc.connector = doc.connector.or(stop.place.connector);
            doc
        }
    };
    RunRow {
        line: stop.line,
        outcome,
    }
}

fn text(doc: &RunDoc) -> String {
    let rows: Vec<[String; 6]> = doc
        .sessions
        .iter()
        .enumerate()
        .map(|(at, row)| {
            let o = &row.outcome;
            let place = Place {
                cp_id: o.cp_id.clone().unwrap_or_default(),
                connector: o.connector,
            };
            [
                (at + 1).to_string(),
                words_of(&place),
                o.status.clone(),
                o.energy_wh.map(|wh| format!("{wh} Wh")).unwrap_or_default(),
                o.cost
                    .zip(o.currency)
                    .map(|(cost, currency)| money(cost, currency))
                    .unwrap_or_default(),
                o.reason.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let costs: Vec<String> = doc
        .cost
        .iter()
        .map(|(currency, amount)| match currency.parse() {
            Ok(currency) => money(*amount, currency),
            Err(_) => format!("{amount} {currency}"),
        })
        .collect();
    let mut total = format!(
        "{} of {} completed, {} Wh",
        doc.completed, doc.planned, doc.energy_wh
    );
    if !costs.is_empty() {
        total.push_str(&format!(", {}", costs.join(" + ")));
    }
    format!("{}\n\n{total}", table::run(&rows))
}

/// The failure of a row: the original is still needed for the end.
fn failed_copy(failure: &Failure) -> Failure {
    Failure::Interrupted {
        message: failure.message(),
        hint: failure.hint().to_owned(),
        about: Box::new(failure.about()),
    }
}

fn words_of(place: &Place) -> String {
    place
        .connector
        .map_or_else(|| place.cp_id.clone(), |n| format!("{}/{n}", place.cp_id))
}

fn read(file: &Path) -> Result<String, Failure> {
    let is_stdin = file.as_os_str() == "-";
    let text = |source: &mut dyn Read| {
        let mut text = String::new();
        source
            .take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map(|_| text)
    };
    let result = if is_stdin {
        text(&mut io::stdin().lock())
    } else {
        fs::File::open(file).and_then(|mut file| text(&mut file))
    };
    result.map_err(|source| Failure::File {
        doing: format!("read {}", file.display()),
        hint: "name a text file with one charge point a line".to_owned(),
        source,
    })
}

/// The whole file is read before the first session starts: a mistake on line 9 is no reason to
/// have charged at lines 1 to 8.
fn parse(text: &str) -> Result<Vec<Stop>, Failure> {
    let mut plan = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let words = line.split('#').next().unwrap_or_default().trim();
        if words.is_empty() {
            continue;
        }
        let line = at + 1;
        let place: Place = words
            .parse()
            .map_err(|e| Failure::usage(format!("line {line}: {e}"), "correct the file"))?;
        ev_contract::ids::CpId::new(&place.cp_id)
            .map_err(|e| Failure::usage(format!("line {line}: {e}"), "correct the file"))?;
        plan.push(Stop { line, place });
    }
    match plan.len() {
        0 => Err(Failure::usage(
            "the file names no charge point",
            "write one charge point id a line, such as CP-001",
        )),
        n if n > LINES_MAX => Err(Failure::usage(
            format!("the file names {n} charge points, more than {LINES_MAX}"),
            "split it",
        )),
        _ => Ok(plan),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_have_comments_blanks_and_connectors() {
        let plan = parse("# today\nCP-001\n\n  CP-002/2   # the left one\r\n#CP-003\n").unwrap();
        let places: Vec<(usize, String)> = plan
            .iter()
            .map(|stop| (stop.line, words_of(&stop.place)))
            .collect();
        assert_eq!(places, [(2, "CP-001".into()), (4, "CP-002/2".into())]);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_refused_with_its_line() {
        let message = |text: &str| parse(text).unwrap_err().message();
        assert!(message("CP-001\nCP 002\n").starts_with("line 2"));
        assert!(message("CP-001/left").starts_with("line 1"));
        assert!(message("# nothing\n").contains("no charge point"));
    }
}
