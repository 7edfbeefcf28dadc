//! `central verify`: reads the ledger and the receipts side by side. What must hold is in
//! [`central_core::verify`].

use std::path::Path;

use async_nats::jetstream;
use central_core::{
    verify::{Ends, Report, Verifier},
    whole::Shown,
};
use ev_contract::streams;

use super::{
    manifest::Manifest,
    progress::Progress,
    tape::{Extent, Tape},
    wall,
};
use crate::{Config, ledger, whole::Marks};

/// A receipt is in the CDR stream some seconds after its session's end, half a minute when the replica
/// that ended it died; central's clock and this one may differ, too.
const COPYING_MS: i64 = 120_000;

/// Verifies what a server has, also against what the replica of this configuration says that it served.
///
/// # Errors
/// When it cannot be read.
pub(super) async fn of_server(
    nats: &async_nats::Client,
    config: &Config,
) -> anyhow::Result<Report> {
    let js = jetstream::new(nats.clone());
    let there = ledger::find(&js, streams::LEDGER.name).await?;
    // What was given up since counts no more, as for the replica itself.
    let decided = match ledger::shown(there.as_ref()).await? {
        Shown::Ledger { given_up, .. } => given_up,
        Shown::Absent | Shown::Empty | Shown::Holed { .. } | Shown::Nameless => None,
    };
    let marks = Marks::of(config);
    let marker = marks.read()?.filter(|marker| marker.counts(decided));
    let verifier = match marker {
        Some(marker) => Verifier::against(marker, marks.path().display().to_string()),
        None => Verifier::new(),
    };
    // Receipts first: the ledger knows of all that are there.
    let cdr = Extent::ask(&js, streams::CDR.name).await?;
    let cdr_until_ms = wall().plus_ms(-COPYING_MS).0;
    let ledger = Extent::ask(&js, streams::LEDGER.name).await?;
    let ends = Ends {
        ledger_last: ledger.last,
        cdr_last: cdr.last,
        cdr_until_ms,
    };
    let ledger = Tape::of_stream(nats.clone(), ledger);
    let cdr = Tape::of_stream(nats.clone(), cdr);
    side_by_side(verifier, ledger, cdr, ends).await
}

/// Verifies a backup whose checksums are right.
///
/// # Errors
/// When it cannot be read.
pub(super) async fn of_backup(manifest: &Manifest, dir: &Path) -> anyhow::Result<Report> {
    let (ledger, ledger_at) = manifest.stream(dir, streams::LEDGER.name)?;
    let (cdr, cdr_at) = manifest.stream(dir, streams::CDR.name)?;
    let ends = Ends {
        ledger_last: ledger.said_last(),
        cdr_last: cdr.said_last(),
        // All that was written before copying began is in it.
        cdr_until_ms: cdr.begun_at_ms - COPYING_MS,
    };
    let (ledger, cdr) = (Tape::of_file(ledger_at), Tape::of_file(cdr_at));
    side_by_side(Verifier::new(), ledger, cdr, ends).await
}

async fn side_by_side(
    mut verifier: Verifier,
    mut ledger: Tape,
    mut cdr: Tape,
    ends: Ends,
) -> anyhow::Result<Report> {
    let mut progress = Progress::of("verifying".into());
    let mut cdr_ended = false;
    while let Some(frame) = ledger.next().await? {
        if verifier
            .ledger(frame.seq, frame.at_ms, &frame.payload)
            .is_err()
        {
            return Ok(verifier.finish(ends));
        }
        progress.at(frame.seq, "messages of the ledger");
        while verifier.wants_cdr() && !cdr_ended {
            let Some(paper) = cdr.next().await? else {
                cdr_ended = true;
                break;
            };
            if verifier
                .cdr(paper.seq, &paper.subject, &paper.payload)
                .is_err()
            {
                return Ok(verifier.finish(ends));
            }
        }
    }
    while let Some(paper) = cdr.next().await? {
        if verifier
            .cdr(paper.seq, &paper.subject, &paper.payload)
            .is_err()
        {
            break;
        }
    }
    Ok(verifier.finish(ends))
}

/// The report for people.
pub(super) fn print(report: &Report, of: &str) {
    println!("{of}");
    if let Some(ledger) = report.ledger {
        println!("            {ledger}");
    }
    println!(
        "ledger      {} to {}: {} records, {} void{}",
        report.first,
        report.last,
        report.records,
        report.void,
        if report.junk == 0 {
            String::new()
        } else {
            format!(", {} messages that are no frames", report.junk)
        }
    );
    println!(
        "            its own digests vouch for everything up to {}",
        report.vouched
    );
    println!(
        "sessions    {} ended, {} of them delivered; {} open",
        report.ended, report.completed, report.open
    );
    println!(
        "receipts    {} and {} adjustments; {} about to be copied",
        report.receipts, report.adjustments, report.waiting
    );
    println!(
        "spools      {} records kept aside, {} missing",
        report.quarantined, report.missing
    );
    for (month, sums) in &report.months {
        let money: Vec<String> = sums
            .money
            .iter()
            .map(|(currency, amount)| format!("{amount} {currency}"))
            .collect();
        println!(
            "{month}     {} receipts {} kWh, {} adjustments {} kWh, {}",
            sums.receipts,
            kwh(i128::from(sums.energy_mwh)),
            sums.adjustments,
            kwh(i128::from(sums.adjustments_mwh)),
            money.join(", ")
        );
    }
    if report.is_clean() {
        println!("in order");
        return;
    }
    println!("{} problems", report.problems);
    for finding in &report.findings {
        let session = finding
            .session
            .map(|id| format!(" session {id}"))
            .unwrap_or_default();
        println!("  {}{session}: {}", finding.at, finding.what);
    }
    let more = report.problems.saturating_sub(report.findings.len() as u64);
    if more > 0 {
        println!("  and {more} more");
    }
}

/// Energy with three decimals, the last one cut.
fn kwh(mwh: i128) -> String {
    let sign = if mwh < 0 { "-" } else { "" };
    let wh = mwh.abs() / 1_000;
    format!("{sign}{}.{:03}", wh / 1_000, wh % 1_000)
}

#[cfg(test)]
mod tests {
    use super::kwh;

    #[test]
    fn energy_is_shown_in_kilowatt_hours() {
        assert_eq!(kwh(1_234_567_890), "1234.567");
        assert_eq!(kwh(-5_000), "-0.005");
        assert_eq!(kwh(0), "0.000");
    }
}
