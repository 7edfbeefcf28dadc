//! The pages that `driver-cli` serves, over HTTP and without a script: what a browser builds on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ev_contract::connector::Phase;
use ev_e2e::{Charger, Event, Page};
use ev_testkit::{PATIENCE, wait_for};

use crate::{ended_right, metered, plugged};

/// Between two comments on a quiet stream are ten seconds.
const KEEP_ALIVE_PATIENCE: Duration = Duration::from_secs(60);

/// Where a part of a page begins that is in this state.
fn in_state(id: &str, state: &str) -> impl Fn(&str) -> bool {
    let (id, state) = (format!("id=\"{id}\""), format!("data-state=\"{state}\""));
    move |page: &str| {
        page.split_once(&id).is_some_and(|(_, rest)| {
            rest.split_once('>')
                .is_some_and(|(attributes, _)| attributes.contains(&state))
        })
    }
}

fn says_an_error(page: &str) -> bool {
    page.contains("id=\"problem-latest\"")
}

async fn start(page: &Page, cp: &str) -> Result<String> {
    let token = page.token().await?;
    let fields = [("token", token.as_str()), ("place", cp)];
    let answer = page.press_by_script("/start", &fields).await?;
    ensure!(answer.status == 200, "{}: {}", answer.head, answer.body);
    let session = answer.json()?["session_id"]
        .as_str()
        .context("a session")?
        .to_owned();
    Ok(session)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_press_at_a_price_of_before_starts_nothing_and_the_new_one_has_a_button() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let page = Page::of_driver(&site, "alice").await?;
    page.wait_shows("a free charge point", |page| {
        page.contains("value=\"CP-001/1 free@0\"")
    })
    .await?;
    let tariff = serde_json::json!({
        "tariff_id": "std", "scope": "default",
        "terms": crate::terms("0.59", "0")
    });
    alice.operate("tariff_set", tariff).await?;
    let token = page.token().await?;
    let press = async |place: &str| {
        let fields = [("token", token.as_str()), ("place", place)];
        page.press_by_script("/start", &fields).await
    };
    let refused = press("CP-001/1 free@0").await?;
    ensure!(refused.status == 409, "{}: {}", refused.head, refused.body);
    ensure!(
        refused.json()?["reason"] == "price_changed",
        "{}",
        refused.body
    );
    ensure!(alice.open().await?.is_empty() && alice.history().await?.is_empty());
    let new = "CP-001/1 std@1";
    page.wait_shows("the new price with its button", |page| {
        let button = format!("value=\"{new}\"");
        says_an_error(page)
            && page.contains("the price is now 0.59 EUR/kWh")
            // In the refusal and on the card.
            && page.matches(&button).count() == 2
    })
    .await?;
    let started = press(new).await?;
    ensure!(started.status == 200, "{}: {}", started.head, started.body);
    ensure!(alice.open().await?.len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_forms_start_and_end_a_session() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let before = site.register("CP-001").await?;
    let page = Page::of_driver(&site, "alice").await?;
    let shown = page
        .wait_shows("a free charge point", |page| {
            page.contains("name=\"place\" value=\"CP-001/1 free@0\"")
        })
        .await?;
    ensure!(shown.contains("Start Charging"), "{shown}");
    let token = page.token().await?;
    let pressed = page
        .press(
            "/start",
            &[
                ("token", &token),
                ("place", "CP-001/1 free@0"),
                ("energy", "7,5"),
                ("cost", ""),
                ("time", ""),
            ],
        )
        .await?;
    ensure!(pressed.status == 303, "{}: {}", pressed.head, pressed.body);
    ensure!(pressed.head.contains("location: /"), "{}", pressed.head);
    // As long as the charge point has not confirmed, it is pending, and at no time an error.
    let session = wait_for("the session is there", PATIENCE, async || {
        let open = alice.open().await?;
        Ok(open.first().context("none")?.session_id.to_string())
    })
    .await?;
    let card = format!("session-{session}");
    let shown = page
        .wait_shows("it charging, with its power", |page| {
            in_state(&card, "charging")(page) && page.contains("<polyline")
        })
        .await?;
    ensure!(!says_an_error(&shown), "{shown}");
    for word in ["End Charging Session", "7.500 kWh", "Cost so far"] {
        ensure!(shown.contains(word), "no {word}: {shown}");
    }
    let pressed = page
        .press("/stop", &[("token", &token), ("session", &session)])
        .await?;
    ensure!(pressed.status == 303, "{}: {}", pressed.head, pressed.body);
    let shown = page
        .wait_shows("its end and the free charge point", |page| {
            in_state(&card, "completed")(page)
                && page.contains("name=\"place\" value=\"CP-001/1 free@0\"")
                && page.contains(&format!("id=\"past-{session}\""))
        })
        .await?;
    ensure!(!says_an_error(&shown), "{shown}");
    let receipt = ended_right(&site, &alice, &session, before, "CP-001").await?;
    let saved = page.get(&format!("/receipt/{session}.json")).await?;
    ensure!(
        saved.json()?["number"] == receipt.number.as_str(),
        "{}",
        saved.body
    );
    let printed = page.get(&format!("/receipt/{session}")).await?;
    ensure!(printed.body.contains(&receipt.number), "{}", printed.body);
    let text = page.get(&format!("/receipt/{session}.txt")).await?;
    ensure!(
        text.head.contains("attachment") && text.body.contains(&receipt.number),
        "{text:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_presses_from_many_tabs_make_one_session() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let page = Page::of_driver(&site, "alice").await?;
    let token = page.token().await?;
    let fields = [("token", token.as_str()), ("place", "CP-001/1")];
    let with_limit = [
        ("token", token.as_str()),
        ("place", "CP-001/1"),
        ("energy", "3"),
    ];
    let (first, second, other, plain) = tokio::join!(
        page.press_by_script("/start", &fields),
        page.press_by_script("/start", &fields),
        page.press_by_script("/start", &with_limit),
        page.press("/start", &fields),
    );
    ensure!(plain?.status == 303, "the plain form was not answered");
    let session = first?.json()?["session_id"].clone();
    ensure!(session.is_string(), "{session}");
    for answer in [second?, other?] {
        ensure!(answer.json()?["session_id"] == session, "{}", answer.body);
    }
    let session = session.as_str().unwrap_or_default();
    alice.wait_phase(session, Phase::Charging).await?;
    let shown = page.get("/").await?.body;
    ensure!(!says_an_error(&shown), "one press was refused: {shown}");
    ensure!(start(&page, "CP-001/1").await? == session, "a late press");
    // Another run of the server knows what is open, too.
    let mut page = page;
    page.process.kill9()?;
    page.process.restart()?;
    page.wait_shows(
        "the session",
        in_state(&format!("session-{session}"), "charging"),
    )
    .await?;
    ensure!(
        start(&page, "CP-001/1").await? == session,
        "after a restart"
    );
    ensure!(alice.history().await?.len() == 1, "more than one session");
    let token = page.token().await?;
    let fields = [("token", token.as_str()), ("session", session)];
    let (once, twice) = tokio::join!(
        page.press_by_script("/stop", &fields),
        page.press_by_script("/stop", &fields),
    );
    for answer in [once?, twice?] {
        ensure!(answer.status == 200, "{}: {}", answer.head, answer.body);
    }
    alice.wait_ended(session).await?;
    page.wait_shows(
        "the end",
        in_state(&format!("session-{session}"), "completed"),
    )
    .await?;
    let late = page.press_by_script("/stop", &fields).await?;
    ensure!(late.status == 200, "a late stop: {}", late.body);
    // What has ended is over: this is another wish.
    ensure!(
        start(&page, "CP-001/1").await? != session,
        "the old session"
    );
    ensure!(alice.history().await?.len() == 2, "not two sessions");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_get_a_snapshot_then_changes_and_go_on_where_they_were() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let page = Page::of_driver(&site, "alice").await?;
    let mut events = page.listen(None).await?;
    let first = events.next().await?;
    ensure!(first.name == "snapshot", "{first:?}");
    ensure!(first.part("cp-CP-001-1").is_some(), "{first:?}");
    // Begun by another client of the same driver.
    let alice = site.driver("alice").await?;
    let session = alice.start("CP-001").await?;
    let card = format!("session-{session}");
    let mut number = first.number()?;
    let charging = loop {
        let event = events.next().await?;
        ensure!(event.name == "change", "{event:?}");
        ensure!(event.number()? > number, "{} after {number}", event.id);
        number = event.number()?;
        if event.part(&card).is_some_and(in_state(&card, "charging")) {
            break event;
        }
    };
    drop(events);
    alice.stop(&session).await?;
    alice.wait_ended(&session).await?;
    let mut events = page.listen(Some(&charging.id)).await?;
    let next = events.next().await?;
    ensure!(next.name == "change", "{next:?}");
    ensure!(
        next.number()? == charging.number()? + 1,
        "{} after {}",
        next.id,
        charging.id
    );
    let is_completed = |event: &Event| event.part(&card).is_some_and(in_state(&card, "completed"));
    if !is_completed(&next) {
        events.wait("its end", is_completed).await?;
    }
    events.wait_keep_alive(KEEP_ALIVE_PATIENCE).await?;
    let mut foreign = page.listen(Some("another-run-7")).await?;
    let snapshot = foreign.next().await?;
    ensure!(snapshot.name == "snapshot", "{snapshot:?}");
    ensure!(is_completed(&snapshot), "{snapshot:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_drivers_session_is_not_there() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let page = Page::of_driver(&site, "alice").await?;
    let mut events = page.listen(None).await?;
    let bob = site.driver("bob").await?;
    let session = bob.start("CP-002").await?;
    bob.wait_phase(&session, Phase::Charging).await?;
    let in_use = |event: &Event| {
        event
            .part("cp-CP-002-1")
            .is_some_and(in_state("cp-CP-002-1", "charging"))
    };
    let told = loop {
        let event = events.next().await?;
        ensure!(!event.data.to_string().contains(&session), "{event:?}");
        if in_use(&event) {
            break event;
        }
    };
    let card = told.part("cp-CP-002-1").unwrap_or_default().to_owned();
    ensure!(!card.contains("Start Charging"), "{card}");
    ensure!(!card.contains("bob") && card.contains("in use"), "{card}");
    let shown = page.get("/").await?.body;
    ensure!(
        !shown.contains(&session) && !shown.contains("bob"),
        "{shown}"
    );
    let token = page.token().await?;
    let fields = [("token", token.as_str()), ("session", session.as_str())];
    let pressed = page.press_by_script("/stop", &fields).await?;
    ensure!(pressed.status == 404, "{}: {}", pressed.head, pressed.body);
    bob.stop(&session).await?;
    bob.wait_ended(&session).await?;
    for name in [session.clone(), format!("{session}.json")] {
        let receipt = page.get(&format!("/receipt/{name}")).await?;
        ensure!(receipt.status == 404, "{}", receipt.head);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_page_itself_presses_its_buttons() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let page = Page::of_driver(&site, "alice").await?;
    let token = page.token().await?;
    let own = format!("Origin: http://{}\r\n", page.host());
    let evil = "Origin: http://evil.example\r\n".to_owned();
    let rebound = format!(
        "Host: evil.example:{0}\r\nOrigin: http://evil.example:{0}\r\n",
        page.port
    );
    let place = ("place", "CP-001/1");
    for (headers, token, status) in [
        (String::new(), token.as_str(), 403),
        (evil.clone(), &token, 403),
        (format!("{evil}Sec-Fetch-Site: cross-site\r\n"), &token, 403),
        (format!("{own}Sec-Fetch-Site: cross-site\r\n"), &token, 403),
        ("Origin: null\r\n".to_owned(), &token, 403),
        (own.clone(), "guessed", 403),
        (rebound, &token, 421),
    ] {
        let answer = page
            .post("/start", &headers, &[("token", token), place])
            .await?;
        ensure!(answer.status == status, "{headers:?}: {}", answer.head);
        ensure!(answer.body.len() > 20, "says nothing: {}", answer.body);
    }
    let long = "x".repeat(16 << 10);
    let answer = page
        .post("/start", &own, &[("token", &token), ("place", &long)])
        .await?;
    ensure!(answer.status == 413, "{}", answer.head);
    ensure!(
        page.get("/start").await?.status == 405,
        "a link starts nothing"
    );
    ensure!(alice.history().await?.is_empty(), "something was started");
    let shown = page.get("/").await?;
    for header in [
        "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'",
        "x-content-type-options: nosniff",
        "referrer-policy: same-origin",
        "cache-control: no-store",
    ] {
        ensure!(shown.head.contains(header), "no {header}: {}", shown.head);
    }
    for inline in ["<style", " style=", " onclick=", "http://", "https://"] {
        ensure!(!shown.body.contains(inline), "{inline}: {}", shown.body);
    }
    ensure!(!shown.body.contains("<script>"), "{}", shown.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_tells_that_central_is_away_and_catches_up_when_it_is_back() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let page = Page::of_driver(&site, "alice").await?;
    let session = start(&page, "CP-001/1").await?;
    let before = alice.wait_phase(&session, Phase::Charging).await?;
    let mut events = page.listen(None).await?;
    site.centrals[0].kill9()?;
    let away = events
        .wait("central away", |event| event.part("link-down").is_some())
        .await?;
    let banner = away.part("link-down").unwrap_or_default().to_owned();
    ensure!(banner.contains("data-link=\"central\""), "{banner}");
    ensure!(banner.contains("goes on at its charge point"), "{banner}");
    // Live values go on meanwhile, since they come from the charge point.
    metered(&site, "CP-001", site.register("CP-001").await?, 1_000).await?;
    site.central_again(0).await?;
    events
        .wait("central back", |event| event.is_gone("link-down"))
        .await?;
    ensure!(
        alice.session(&session).await?.energy_mwh >= before.energy_mwh,
        "energy was lost"
    );
    let token = page.token().await?;
    let fields = [("token", token.as_str()), ("session", session.as_str())];
    let pressed = page.press_by_script("/stop", &fields).await?;
    ensure!(pressed.status == 200, "{}: {}", pressed.head, pressed.body);
    let card = format!("session-{session}");
    events
        .wait("the end", |event| {
            event.part(&card).is_some_and(in_state(&card, "completed"))
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_tells_that_the_server_is_away_and_catches_up_when_it_is_back() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 1).await?;
    let page = Page::of_driver(&site, "alice").await?;
    let mut events = page.listen(None).await?;
    site.nats.kill()?;
    events
        .wait("the server away", |event| {
            event
                .part("link-down")
                .is_some_and(|part| part.contains("data-link=\"server\""))
        })
        .await?;
    site.nats.restart().await?;
    events
        .wait("the server back", |event| event.is_gone("link-down"))
        .await?;
    site.charge_points_online(2).await?;
    let session = start(&page, "CP-001/1").await?;
    let card = format!("session-{session}");
    events
        .wait("it charging", |event| {
            event.part(&card).is_some_and(in_state(&card, "charging"))
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_pending_until_the_charge_point_is_back_and_confirms() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 1).await?;
    let page = Page::of_driver(&site, "alice").await?;
    let session = start(&page, "CP-001/1").await?;
    let card = format!("session-{session}");
    page.wait_shows("it charging", in_state(&card, "charging"))
        .await?;
    site.uplink.cut().await;
    page.wait_shows("the charge point away", |page| {
        page.contains("data-link=\"charge-point\"")
    })
    .await?;
    let token = page.token().await?;
    let pressed = page
        .press("/stop", &[("token", &token), ("session", &session)])
        .await?;
    ensure!(pressed.status == 303, "{}", pressed.head);
    let shown = page
        .wait_shows("a pending stop", |page| {
            page.contains("waits until the charge point confirms")
        })
        .await?;
    ensure!(shown.contains("data-pending=\"true\""), "{shown}");
    ensure!(!says_an_error(&shown), "{shown}");
    site.uplink.heal().await?;
    let shown = page
        .wait_shows("its end", in_state(&card, "completed"))
        .await?;
    ensure!(!says_an_error(&shown), "{shown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_in_the_words_of_the_command_line() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let page = Page::of_driver(&site, "alice").await?;
    let bob = site.driver("bob").await?;
    let session = bob.start("CP-002").await?;
    bob.wait_phase(&session, Phase::Charging).await?;
    let token = page.token().await?;
    let fields = [("token", token.as_str()), ("place", "CP-002/1")];
    let pressed = page.press_by_script("/start", &fields).await?;
    ensure!(pressed.status == 409, "{}: {}", pressed.head, pressed.body);
    let error = pressed.json()?["error"].clone();
    ensure!(error["code"] == "occupied", "{error}");
    let shown = page.wait_shows("the refusal", says_an_error).await?;
    for text in ["message", "hint"] {
        let text = error[text].as_str().context("text")?;
        ensure!(
            shown.contains(&text.replace('\'', "&#39;")) || shown.contains(text),
            "{text}: {shown}"
        );
    }
    ensure!(shown.contains("data-code=\"occupied\""), "{shown}");
    let nonsense = [
        ("token", token.as_str()),
        ("place", "CP-001/1"),
        ("energy", "lots"),
    ];
    let pressed = page.press_by_script("/start", &nonsense).await?;
    ensure!(pressed.status == 400, "{}: {}", pressed.head, pressed.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wall_shows_who_charges_and_acts_on_charge_points() -> Result<()> {
    let site = plugged(Charger::Orderly, 1).await?;
    let alice = site.driver("alice").await?;
    let session = alice.start("CP-001").await?;
    alice.wait_phase(&session, Phase::Charging).await?;
    let wall = Page::of_operator(&site, "olga").await?;
    let mut events = wall.listen(None).await?;
    let charging = in_state("cp-CP-001", "charging");
    let shown = wall
        .wait_shows("alice, who charges", |page| {
            charging(page) && page.contains("alice") && page.contains(" kW<")
        })
        .await?;
    ensure!(in_state("cp-CP-002", "available")(&shown), "{shown}");
    let token = wall.token().await?;
    let token = ("token", token.as_str());
    let out = [token, ("wish", "disable/CP-002")];
    let pressed = wall.press_by_script("/act", &out).await?;
    ensure!(pressed.status == 200, "{}: {}", pressed.head, pressed.body);
    events
        .wait("CP-002 out of service", |event| {
            event
                .part("cp-CP-002")
                .is_some_and(|part| in_state("cp-CP-002", "unavailable")(part))
        })
        .await?;
    let without_reason = [token, ("session", session.as_str()), ("reason", " ")];
    let pressed = wall.press_by_script("/end", &without_reason).await?;
    ensure!(pressed.status == 400, "{}: {}", pressed.head, pressed.body);
    let with_reason = [
        token,
        ("session", session.as_str()),
        ("reason", "cable damaged"),
    ];
    let pressed = wall.press("/end", &with_reason).await?;
    ensure!(pressed.status == 303, "{}: {}", pressed.head, pressed.body);
    let ended = alice.wait_ended(&session).await?;
    let raw = ended.end.and_then(|end| end.raw);
    ensure!(raw.as_deref() == Some("cable damaged"), "{raw:?}");
    site.ctl(&["unplug", "CP-001"]).await?;
    let unsure = [token, ("wish", "disable/*")];
    ensure!(
        wall.press_by_script("/act", &unsure).await?.status == 400,
        "all, unasked"
    );
    for (wish, state) in [("disable/*", "unavailable"), ("enable/*", "available")] {
        let sure = [token, ("wish", wish), ("sure", "yes")];
        let pressed = wall.press_by_script("/act", &sure).await?;
        ensure!(pressed.status == 200, "{}: {}", pressed.head, pressed.body);
        let (first, second) = (in_state("cp-CP-001", state), in_state("cp-CP-002", state));
        wall.wait_shows(state, |page| {
            first(page) && second(page) && page.contains(" all 2 ")
        })
        .await?;
    }
    wall.wait_shows("what has happened", |page| {
        page.contains("data-kind=\"ended\"")
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn opposite_wishes_for_all_charge_points_do_not_mix() -> Result<()> {
    let mut site = plugged(Charger::Orderly, 1).await?;
    let wall = Page::of_operator(&site, "olga").await?;
    let is_free = in_state("cp-CP-002", "available");
    wall.wait_shows("the charge points", &is_free).await?;
    let token = wall.token().await?;
    let press = async |wish| {
        let fields = [("token", token.as_str()), ("wish", wish), ("sure", "yes")];
        wall.press_by_script("/act", &fields).await
    };
    // While central stands still nothing of it comes to its end.
    site.centrals[0].pause()?;
    for wish in ["disable/*", "disable/*"] {
        let pressed = press(wish).await?;
        ensure!(pressed.status == 200, "{}: {}", pressed.head, pressed.body);
    }
    let pressed = press("enable/*").await?;
    let said = pressed.json()?["error"]["message"].clone();
    ensure!(
        said.as_str().is_some_and(|said| said.contains("opposite")),
        "{said}"
    );
    wall.wait_shows("what was refused", |page| page.contains("opposite"))
        .await?;
    site.centrals[0].resume()?;
    let (first, second) = (
        in_state("cp-CP-001", "unavailable"),
        in_state("cp-CP-002", "unavailable"),
    );
    wall.wait_shows("both out of service", |page| first(page) && second(page))
        .await?;
    Ok(())
}
