//! What `central verify` finds, and that it finds nothing in any history of the other tests.

use std::collections::BTreeMap;

use central_core::{
    decide::{Command, Wish},
    frame::{Digest, Forget, Write},
    model::{Horizon, Stage},
    state::Log,
    verify::{At, Ends, Report, Verifier, cdr_entry},
    whole::{LedgerId, Marker},
};
use ev_contract::{
    ids::SessionId,
    subjects::Subject,
    time::UnixMs,
    units::Amount,
    v1::Receipt,
    wire::{self, Encoding},
};

use crate::harness::*;

/// What central copies to the CDR stream: subject and bytes.
type Cdr = Vec<(String, Vec<u8>)>;

pub fn copied(ledger: &[Vec<u8>]) -> Cdr {
    let mut log = Log::default();
    let mut cdr = BTreeMap::new();
    let mut order = Vec::new();
    for (seq, bytes) in (1..).zip(ledger) {
        let Ok(applied) = log.apply(seq, bytes) else {
            break;
        };
        for write in applied.writes() {
            let papers = match write {
                Write::Session(session) => match &session.stage {
                    Stage::Ended { .. } => {
                        let receipt = session.receipt().unwrap();
                        vec![((session.id, None), cdr_entry(&receipt).unwrap())]
                    }
                    _ => Vec::new(),
                },
                Write::Adjustments(id, adjustments) => adjustments
                    .list
                    .iter()
                    .map(|a| ((*id, Some(a.n)), cdr_entry(a).unwrap()))
                    .collect(),
                _ => Vec::new(),
            };
            for (id, bytes) in papers {
                if cdr.insert(id, bytes).is_none() {
                    order.push(id);
                }
            }
        }
    }
    order
        .into_iter()
        .map(|id| {
            let subject = Subject::Cdr {
                session: id.0,
                adjustment: id.1,
            };
            (subject.to_string(), cdr[&id].clone())
        })
        .collect()
}

/// Reads both as the shell does: side by side.
pub fn verify(ledger: &[Vec<u8>], cdr: &Cdr) -> Report {
    let mut verifier = Verifier::new();
    let mut papers = (1..).zip(cdr);
    for (seq, bytes) in (1..).zip(ledger) {
        if verifier.ledger(seq, 0, bytes).is_err() {
            return verifier.finish(ends(ledger, cdr));
        }
        while verifier.wants_cdr()
            && let Some((seq, (subject, bytes))) = papers.next()
        {
            if verifier.cdr(seq, subject, bytes).is_err() {
                return verifier.finish(ends(ledger, cdr));
            }
        }
    }
    for (seq, (subject, bytes)) in papers {
        if verifier.cdr(seq, subject, bytes).is_err() {
            break;
        }
    }
    verifier.finish(ends(ledger, cdr))
}

fn ends(ledger: &[Vec<u8>], cdr: &Cdr) -> Ends {
    Ends {
        ledger_last: ledger.len() as u64,
        cdr_last: cdr.len() as u64,
        cdr_until_ms: 1,
    }
}

const NOWHERE: Ends = Ends {
    ledger_last: 0,
    cdr_last: 0,
    cdr_until_ms: 1_000,
};

/// Two sessions that have ended, one of them adjusted, and one that is open.
fn story() -> (World, [SessionId; 3]) {
    let (mut world, mut one, mut two) = World::with_charge_points(1);
    let first = world.charging(&mut one, "alice", "r1");
    world.take(
        0,
        &mut one,
        vec![ended(first, Some(reading(T0, 1_050_000)))],
    );
    let second = world.charging(&mut two, "bob", "r2");
    world.take(
        0,
        &mut two,
        vec![ended(second, Some(reading(T0, 1_020_000)))],
    );
    let amount = Amount("-1.00".parse().unwrap());
    let adjusting = op(
        "a1",
        Wish::Adjust {
            session: first,
            amount,
            reason: "goodwill".into(),
        },
    );
    world.ask(0, &adjusting);
    let third = world.charging(&mut one, "carol", "r3");
    (world, [first, second, third])
}

#[track_caller]
fn only_finding(report: &Report) -> (At, Option<SessionId>, &str) {
    assert_eq!(report.problems, 1, "{:?}", report.findings);
    let finding = &report.findings[0];
    (finding.at, finding.session, &finding.what)
}

#[test]
fn a_clean_history_is_clean_and_adds_up() {
    let (world, _) = story();
    let cdr = copied(&world.ledger);
    let report = verify(&world.ledger, &cdr);
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!((report.ended, report.completed, report.open), (2, 2, 1));
    assert_eq!((report.receipts, report.adjustments), (2, 1));
    assert_eq!(report.last, world.ledger.len() as u64);
    let energy: u64 = report.months.values().map(|m| m.energy_mwh).sum();
    let receipts: u64 = cdr
        .iter()
        .filter_map(|(_, bytes)| wire::decode::<Receipt>(bytes, Encoding::MsgPack).ok())
        .map(|r| r.energy_mwh.0)
        .sum();
    assert!(energy > 0);
    assert_eq!(energy, receipts);
}

#[test]
fn receipts_in_any_order_are_found() {
    let (world, _) = story();
    let mut cdr = copied(&world.ledger);
    cdr.reverse();
    let report = verify(&world.ledger, &cdr);
    assert!(report.is_clean(), "{:?}", report.findings);
}

#[test]
fn a_receipt_that_is_gone_is_named() {
    let (world, [first, ..]) = story();
    let mut cdr = copied(&world.ledger);
    cdr.remove(0);
    let report = verify(&world.ledger, &cdr);
    let (at, session, what) = only_finding(&report);
    assert!(matches!(at, At::Ledger(_)), "{at}");
    assert_eq!(session, Some(first));
    assert!(what.contains("is not in the CDR stream"), "{what}");
}

#[test]
fn what_was_removed_from_the_receipts_is_not_taken_for_late() {
    let (world, [first, ..]) = story();
    let cdr = copied(&world.ledger);
    let mut verifier = Verifier::new();
    for (seq, bytes) in (1..).zip(&world.ledger) {
        verifier.ledger(seq, 1_000, bytes).unwrap();
    }
    for (seq, (subject, bytes)) in (1..).zip(&cdr).skip(1) {
        verifier.cdr(seq, subject, bytes).unwrap();
    }
    let report = verifier.finish(Ends {
        cdr_last: cdr.len() as u64,
        ..NOWHERE
    });
    assert_eq!(report.problems, 2, "{:?}", report.findings);
    assert_eq!(report.findings[0].at, At::Cdr(1));
    assert_eq!(report.findings[1].session, Some(first));
}

#[test]
fn a_receipt_that_was_altered_is_named() {
    let (world, [_, second, _]) = story();
    let mut cdr = copied(&world.ledger);
    let entry = cdr
        .iter_mut()
        .find(|(subject, _)| subject.ends_with(&second.to_string()))
        .unwrap();
    let mut receipt: Receipt = wire::decode(&entry.1, Encoding::MsgPack).unwrap();
    receipt.total = Amount::ZERO;
    entry.1 = cdr_entry(&receipt).unwrap();
    let report = verify(&world.ledger, &cdr);
    let (at, session, what) = only_finding(&report);
    assert!(matches!(at, At::Cdr(_)), "{at}");
    assert_eq!(session, Some(second));
    assert!(what.contains("another one than in ledger"), "{what}");
}

#[test]
fn a_receipt_that_the_ledger_does_not_know_is_named() {
    let (world, [.., third]) = story();
    let mut cdr = copied(&world.ledger);
    let bytes = cdr[0].1.clone();
    let subject = Subject::Cdr {
        session: third,
        adjustment: None,
    };
    cdr.push((subject.to_string(), bytes));
    let at_end = cdr.len() as u64;
    let report = verify(&world.ledger, &cdr);
    assert_eq!(
        only_finding(&report).0,
        At::Cdr(at_end),
        "{:?}",
        report.findings
    );
    // A copy of a good one is one too many as well.
    let mut cdr = copied(&world.ledger);
    cdr.push(cdr[0].clone());
    assert_eq!(verify(&world.ledger, &cdr).problems, 1);
}

#[test]
fn a_message_of_the_ledger_that_is_gone_or_altered_is_named() {
    let (world, _) = story();
    let cdr = copied(&world.ledger);
    for place in 0..world.ledger.len() - 1 {
        let mut ledger = world.ledger.clone();
        ledger[place] = b"nobody's frame".to_vec();
        let report = verify(&ledger, &cdr);
        assert!(!report.is_clean(), "{place} altered");
    }
    // The last ones.
    let mut short = verify(&world.ledger, &cdr);
    assert!(short.is_clean());
    let mut verifier = Verifier::new();
    verifier.ledger(1, 0, &world.ledger[0]).unwrap();
    short = verifier.finish(ends(&world.ledger, &Vec::new()));
    assert_eq!(only_finding(&short).0, At::Ledger(1));
    // In its place there is none.
    let mut verifier = Verifier::new();
    verifier.ledger(1, 0, &world.ledger[0]).unwrap();
    verifier.ledger(3, 0, &world.ledger[2]).unwrap_err();
    let report = verifier.finish(NOWHERE);
    let (at, _, what) = only_finding(&report);
    assert_eq!(at, At::Ledger(3));
    assert!(what.contains("misses messages"), "{what}");
    // At the beginning.
    let mut verifier = Verifier::new();
    verifier.ledger(2, 0, &world.ledger[1]).unwrap_err();
    let what = verifier.finish(NOWHERE).findings[0].what.clone();
    assert!(what.contains("begins at 2"), "{what}");
}

#[test]
fn an_emptied_world_is_not_in_order() {
    let report = Verifier::new().finish(NOWHERE);
    let (at, _, what) = only_finding(&report);
    assert_eq!((at, report.ledger), (At::Ledger(0), None));
    assert!(what.contains("no first frame"), "{what}");
}

#[test]
fn a_ledger_is_held_against_what_was_served() {
    let (world, ..) = story();
    let cdr = copied(&world.ledger);
    let basis = world.state(0).basis();
    let served = Marker {
        ledger: world.state(0).ledger().unwrap(),
        seq: basis.seq,
        digest: basis.digest,
        given_up: None,
    };
    let against = |served: Marker, ledger: &[Vec<u8>]| {
        let mut verifier = Verifier::against(served, "central-1".into());
        for (seq, bytes) in (1..).zip(ledger) {
            if verifier.ledger(seq, 0, bytes).is_err() {
                break;
            }
        }
        for (seq, (subject, bytes)) in (1..).zip(&cdr) {
            if verifier.cdr(seq, subject, bytes).is_err() {
                break;
            }
        }
        let report = verifier.finish(ends(ledger, &cdr));
        report
            .findings
            .iter()
            .map(|f| f.what.clone())
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(against(served, &world.ledger), "");
    let short = &world.ledger[..world.ledger.len() - 1];
    let said = against(served, short);
    assert!(said.contains("was served and is gone"), "{said}");
    let changed = Marker {
        digest: Digest([1; 16]),
        ..served
    };
    let said = against(changed, &world.ledger);
    assert!(said.contains("another history"), "{said}");
    let elsewhere = Marker {
        ledger: LedgerId(uuid::Uuid::from_u128(9)),
        ..served
    };
    let said = against(elsewhere, &world.ledger);
    assert!(said.contains("was served"), "{said}");
}

#[test]
fn what_is_about_to_be_copied_is_no_problem_until_it_is_forgotten() {
    let (mut world, ..) = story();
    let feed = |ledger: &[Vec<u8>]| {
        let mut verifier = Verifier::new();
        for (seq, bytes) in (1..).zip(ledger) {
            verifier.ledger(seq, 1_000, bytes).unwrap();
        }
        verifier
    };
    let report = feed(&world.ledger).finish(NOWHERE);
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!(report.waiting, 3);
    assert_eq!(
        feed(&world.ledger)
            .finish(Ends {
                cdr_until_ms: 1_001,
                ..NOWHERE
            })
            .problems,
        3
    );
    let sessions = world
        .state(0)
        .sessions_oldest_first()
        .filter(|s| s.is_ended())
        .map(|s| s.id)
        .collect();
    let forget = Forget {
        horizon: Horizon { until: UnixMs(0) },
        others_until: UnixMs(0),
        before: world.state(0).basis().seq,
        sessions,
    };
    assert!(world.run(0, &Command::Forget(forget)));
    assert_eq!(feed(&world.ledger).finish(NOWHERE).problems, 3);
}

impl Drop for World {
    /// Whatever a test has done, the ledger and its receipts come out even.
    fn drop(&mut self) {
        if std::thread::panicking() || self.uneven || self.ledger.is_empty() {
            return;
        }
        let report = verify(&self.ledger, &copied(&self.ledger));
        assert!(report.is_clean(), "{:#?}", report.findings);
    }
}
