//! Many at once, over several replicas.

use anyhow::{Result, ensure};
use ev_contract::{
    codes::Code,
    v1::{ErrorReply, Status},
    wire::{self, Encoding},
};
use ev_e2e::{Charger, Driver, Layout, Site, StartOptions};
use futures::future::{join_all, try_join_all};
use uuid::Uuid;

crate::with_both_chargers! {
    fifty_drivers_race_for_one_connector_and_one_gets_it;
    one_driver_on_two_charge_points_at_once_gets_one_session;
    the_same_request_many_times_at_once_makes_one_session;
    one_request_id_with_two_contents_gets_one_answer_and_one_refusal;
    a_start_whose_reply_is_lost_is_found_by_repeating_it;
    nobody_stops_anothers_session_or_one_that_never_was;
}

async fn fifty_drivers_race_for_one_connector_and_one_gets_it(charger: Charger) -> Result<()> {
    let site = Site::start(&Layout::small(charger).centrals(2)).await?;
    let drivers =
        try_join_all((0..50).map(async |n| site.driver(&format!("driver-{n}")).await)).await?;
    let answers = try_join_all(
        drivers
            .iter()
            .map(async |d| d.start_with("CP-001", &StartOptions::default()).await),
    )
    .await?;
    let accepted = answers
        .iter()
        .filter(|a| a.status == Status::Accepted)
        .count();
    let occupied = answers
        .iter()
        .filter(|a| a.reason.as_deref() == Some(Code::Occupied.as_str()))
        .count();
    ensure!(
        (accepted, occupied) == (1, 49),
        "{accepted} accepted, {occupied} occupied"
    );
    Ok(())
}

async fn one_driver_on_two_charge_points_at_once_gets_one_session(charger: Charger) -> Result<()> {
    let site = Site::start(&Layout::small(charger).centrals(2)).await?;
    for n in 0..25 {
        let driver = site.driver(&format!("driver-{n}")).await?;
        let both = ["CP-001", "CP-002"];
        let answers = try_join_all(
            both.map(async |cp| driver.start_with(cp, &StartOptions::default()).await),
        )
        .await?;
        let accepted: Vec<_> = answers
            .iter()
            .filter(|a| a.status == Status::Accepted)
            .collect();
        let limited = answers
            .iter()
            .filter(|a| a.reason.as_deref() == Some(Code::LimitReached.as_str()))
            .count();
        ensure!(accepted.len() == 1 && limited == 1, "{answers:?}");
        let session = accepted[0]
            .session_id
            .map(|id| id.to_string())
            .unwrap_or_default();
        driver.stop(&session).await?;
        driver.wait_ended(&session).await?;
    }
    Ok(())
}

async fn the_same_request_many_times_at_once_makes_one_session(charger: Charger) -> Result<()> {
    let site = Site::start(&Layout::small(charger).centrals(2)).await?;
    let alice = site.driver("alice").await?;
    let options = StartOptions::default();
    let answers =
        try_join_all((0..20).map(async |_| alice.start_with("CP-001", &options).await)).await?;
    let mut ids: Vec<_> = answers.iter().map(|a| (a.status, a.session_id)).collect();
    ids.dedup();
    ensure!(ids.len() == 1 && ids[0].0 == Status::Accepted, "{ids:?}");
    ensure!(alice.history().await?.len() == 1);
    Ok(())
}

async fn one_request_id_with_two_contents_gets_one_answer_and_one_refusal(
    charger: Charger,
) -> Result<()> {
    let site = Site::start(&Layout::small(charger).centrals(2)).await?;
    for n in 0..25 {
        let driver = site.driver(&format!("driver-{n}")).await?;
        let options = StartOptions::default();
        let answers = join_all(["CP-001", "CP-002"].map(async |cp| {
            let request = Driver::start_request(cp, &options);
            let bytes = wire::encode(&request, Encoding::MsgPack)?;
            driver
                .raw(
                    format!("ev.v1.driver.{}.start", driver.id),
                    bytes,
                    Encoding::MsgPack,
                )
                .await
        }))
        .await;
        let mut accepted = None;
        let mut reused = 0;
        for answer in answers {
            let answer = answer?;
            if let Ok(error) = wire::decode::<ErrorReply>(&answer, Encoding::MsgPack) {
                ensure!(error.error.code == Code::RequestIdReused, "{error:?}");
                reused += 1;
            } else {
                let update: ev_contract::v1::DriverUpdate =
                    wire::decode(&answer, Encoding::MsgPack)?;
                ensure!(update.status == Status::Accepted, "{update:?}");
                accepted = update.session_id;
            }
        }
        ensure!(reused == 1 && accepted.is_some(), "{reused} reused");
        let session = accepted.map(|id| id.to_string()).unwrap_or_default();
        driver.stop(&session).await?;
        driver.wait_ended(&session).await?;
    }
    Ok(())
}

async fn a_start_whose_reply_is_lost_is_found_by_repeating_it(charger: Charger) -> Result<()> {
    let site = Site::start(&Layout::small(charger).centrals(2)).await?;
    let alice = site.driver("alice").await?;
    let options = StartOptions::default();
    let request = wire::encode(
        &Driver::start_request("CP-001", &options),
        Encoding::MsgPack,
    )?;
    // A driver that is gone before the answer comes.
    let gone = site.driver("alice").await?;
    let inbox = gone.nats.new_inbox();
    gone.nats
        .publish_with_reply("ev.v1.driver.alice.start", inbox, request.into())
        .await?;
    gone.nats.flush().await?;
    drop(gone);
    ev_testkit::wait_for("the session is there", ev_testkit::PATIENCE, async || {
        ensure!(alice.open().await?.len() == 1, "not yet");
        Ok(())
    })
    .await?;
    let update = alice.start_with("CP-001", &options).await?;
    ensure!(update.status == Status::Accepted);
    ensure!(update.session_id == Some(alice.open().await?[0].session_id));
    // Another wish for the same connector is another matter.
    let other = alice.start_with("CP-001", &StartOptions::default()).await?;
    ensure!(
        other.reason.as_deref() == Some(Code::OccupiedByYou.as_str()),
        "{other:?}"
    );
    Ok(())
}

async fn nobody_stops_anothers_session_or_one_that_never_was(charger: Charger) -> Result<()> {
    let site = Site::start(&Layout::small(charger).centrals(2)).await?;
    let (alice, mallory) = (site.driver("alice").await?, site.driver("mallory").await?);
    let session = alice.start("CP-001").await?;
    let never = Uuid::now_v7().to_string();
    let foreign = mallory
        .stop_with(&session, &Uuid::new_v4().to_string())
        .await?;
    let unknown = mallory
        .stop_with(&never, &Uuid::new_v4().to_string())
        .await?;
    for (answer, id) in [(&foreign, &session), (&unknown, &never)] {
        ensure!(answer.status == Status::Denied, "{answer:?}");
        ensure!(answer.reason.as_deref() == Some(Code::SessionNotFound.as_str()));
        let error = answer
            .error
            .as_ref()
            .map(|e| e.message.replace(id.as_str(), "ID"));
        ensure!(
            error.as_deref() == Some("you have no session ID"),
            "{error:?}"
        );
        ensure!(
            answer.session_id.is_none() && answer.cp_id.is_empty(),
            "{answer:?}"
        );
    }
    ensure!(mallory.session(&session).await.is_err());
    ensure!(mallory.receipt(&session).await.is_err());
    ensure!(mallory.open().await?.is_empty() && mallory.history().await?.is_empty());
    ensure!(!alice.session(&session).await?.stopping);
    Ok(())
}
