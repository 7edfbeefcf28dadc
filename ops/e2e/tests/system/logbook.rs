//! One id finds a session's way through the logs of all programs.

use anyhow::{Context as _, Result, ensure};
use ev_contract::connector::Phase;
use ev_e2e::Charger;
use ev_testkit::PATIENCE;

use crate::{ended_right, metered, plugged};

/// What is to be found, in this order, in the lines that name the session.
const PHASES: [&str; 5] = [
    "session written",
    "phase=charging",
    "phase=stopping",
    "phase=completed",
    "receipt written",
];
/// What was asked of the charge point; a record of it may overtake its answer.
const COMMANDS: [&str; 2] = [
    "verb=\"start\" outcome=taken",
    "verb=\"stop\" outcome=stopping",
];
const AGENT: [&str; 5] = [
    "-start outcome=taken",
    "session taken",
    "energy begins",
    "-stop outcome=stopping",
    "session has ended",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_sessions_id_finds_its_steps_in_the_logs_of_central_and_of_the_agent() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    metered(&site, "CP-001", before, 5_000).await?;
    alice.stop(&session).await?;
    ended_right(&site, &alice, &session, before, "CP-001").await?;
    site.centrals[0]
        .wait_for_log("receipt written", PATIENCE)
        .await?;
    in_order(&site.centrals[0].log(), &session, &PHASES).context("central")?;
    in_order(&site.centrals[0].log(), &session, &COMMANDS).context("central's commands")?;
    in_order(&site.agent.log(), &session, &AGENT).context("the agent")
}

fn in_order(log: &str, session: &str, steps: &[&str]) -> Result<()> {
    let name = format!("session_id={session}");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&name)).collect();
    let way = lines.join("\n");
    let mut rest = way.as_str();
    for step in steps {
        let at = rest.find(step);
        ensure!(at.is_some(), "no `{step}` in its place:\n{way}");
        rest = at.and_then(|at| rest.get(at + step.len()..)).unwrap_or("");
    }
    Ok(())
}
