//! Drivers, operators, and those who stand in front of the cabinets. Each does at random what
//! people do; none knows what breaks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use super::{
    caller::Caller,
    chance::Chance,
    history::{Event, History, Place, unix_ms},
    system::System,
};

/// Attempts at a wish before its asker loses patience. At the end all are asked until they answer.
const PATIENCE_ATTEMPTS: u64 = 6;
/// Attempts when everything works again.
const SETTLE_ATTEMPTS: u32 = 40;
/// A driver's car leaves a little energy for others: most sessions are short.
const LIMITS_WH: [u64; 3] = [500, 3_000, 20_000];
/// Between two looks at something that will come.
const POLL: Duration = Duration::from_millis(500);
const WAIT_POLLS_MAX: u32 = 120;

/// What all of them share.
#[derive(Debug)]
pub struct Town {
    pub system: Arc<System>,
    pub history: Arc<History>,
    /// Sessions that anybody has heard of, for those who try others' ids.
    board: Mutex<Vec<String>>,
}

impl Town {
    pub fn new(system: Arc<System>, history: Arc<History>) -> Self {
        Self {
            system,
            history,
            board: Mutex::default(),
        }
    }

    fn publish(&self, session: &str) {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        board.push(session.to_owned());
    }

    fn any_session(&self, chance: &mut Chance) -> Option<String> {
        let board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        chance.pick(&board).cloned()
    }

    fn any_place(&self, chance: &mut Chance) -> (Place, u64) {
        let all = &self.system.plan.charge_points;
        let place = all[chance.below(all.len())].clone();
        let connector = chance.between(1, place.connectors);
        (place, connector)
    }

    /// Something at a cabinet.
    pub async fn at_cabinet(&self, cp: &str, args: &[&str]) -> (bool, Value) {
        let call = self.history.number();
        self.history.note(Event::Cabinet {
            call,
            cp: cp.into(),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
        });
        let (ok, body) = self.system.ctl(cp, args).await;
        self.history.note(Event::CabinetSaid {
            call,
            ok,
            body: body.clone(),
        });
        (ok, body)
    }

    /// Reads what a cabinet says of itself.
    pub async fn look(&self, cp: &str) -> Option<Value> {
        let body = self.system.cabinet(cp).await.ok()?;
        self.history.note(Event::Status {
            cp: cp.into(),
            body: body.clone(),
        });
        Some(body)
    }
}

/// Something that must be answered the same for ever.
#[derive(Debug, Clone)]
struct Wish {
    verb: String,
    body: Value,
    answer: Option<Value>,
}

#[derive(Debug, Clone)]
struct Known {
    cp: String,
    connector: u64,
    ended: bool,
}

/// A driver and the car.
#[derive(Debug)]
pub struct Driver {
    pub id: String,
    caller: Caller,
    town: Arc<Town>,
    chance: Chance,
    wishes: Vec<Wish>,
    sessions: BTreeMap<String, Known>,
    /// Connectors that looked free in the last listing.
    free: Vec<(String, u64)>,
}

impl Driver {
    pub fn new(id: String, caller: Caller, town: Arc<Town>, seed: u64) -> Self {
        Self {
            chance: Chance::new(seed, &id),
            id,
            caller,
            town,
            wishes: Vec::new(),
            sessions: BTreeMap::new(),
            free: Vec::new(),
        }
    }

    /// Acts at random until told to stop.
    pub async fn live(mut self, stop: watch::Receiver<bool>) -> Self {
        while !*stop.borrow() {
            self.act().await;
            let pause = self.chance.duration_ms(20, 2_500);
            pause_for(pause, &stop).await;
        }
        self
    }

    async fn act(&mut self) {
        // In the order of the arms.
        let weights = [22, 22, 6, 3, 6, 8, 6, 4, 3, 5, 8, 2, 4];
        match self.chance.weighted(&weights) {
            0 => self.start().await,
            1 => self.stop_one().await,
            2 => self.repeat_a_wish().await,
            3 => self.reuse_an_id().await,
            4 => self.ask_open().await,
            5 => self.ask_one("status").await,
            6 => self.ask_history().await,
            7 => self.ask_one("receipt").await,
            8 => self.list().await,
            9 => self.try_a_wrong_id().await,
            10 => self.leave().await,
            11 => {
                // Vanishes: what runs, runs on.
                let away = self.chance.duration_ms(2_000, 15_000);
                tokio::time::sleep(Duration::from_millis(away)).await;
            }
            _ => self.start_and_stop_at_once().await,
        }
    }

    async fn start(&mut self) {
        let (place, connector) = self.choose_place().await;
        let mut body = json!({
            "request_id": self.chance.id("r"),
            "expires_at": unix_ms() + i64::try_from(self.chance.between(3_000, 29_000)).unwrap_or(0),
            "cp_id": place.cp,
        });
        if place.connectors > 1 || self.chance.percent(50) {
            body["connector"] = connector.into();
        }
        if self.chance.percent(30) {
            let wh = LIMITS_WH[self.chance.below(LIMITS_WH.len())];
            body["limits"] = json!({ "energy_wh": wh });
        } else if self.chance.percent(15) {
            body["limits"] = json!({ "time_s": self.chance.between(2, 30) });
        } else if self.chance.percent(10) {
            body["limits"] = json!({ "cost": "2.50" });
        }
        if self.chance.percent(20) {
            self.plug(&place.cp, connector).await;
        }
        self.wish("start", body).await;
        if self.chance.percent(85) {
            self.plug(&place.cp, connector).await;
        }
    }

    /// Has pressed the wrong button. The stop reaches the other replica half of the time, and the
    /// charge point perhaps before the start does.
    async fn start_and_stop_at_once(&mut self) {
        self.start().await;
        let last = self.wishes.iter().rev().find(|wish| wish.verb == "start");
        let session = last
            .and_then(|wish| wish.answer.as_ref())
            .and_then(|answer| answer["session_id"].as_str())
            .map(str::to_owned);
        if let Some(session) = session {
            self.stop(&session).await;
        }
    }

    /// Asks for something that counts, patiently or not, now and then twice at once.
    async fn wish(&mut self, verb: &str, body: Value) {
        let attempts = u32::try_from(self.chance.between(1, PATIENCE_ATTEMPTS)).unwrap_or(1);
        let twice = self.chance.percent(15);
        let answer = if twice {
            let (first, second) = tokio::join!(
                self.caller.insist(verb, &body, attempts),
                self.caller.insist(verb, &body, 1)
            );
            first.or(second)
        } else {
            self.caller.insist(verb, &body, attempts).await
        };
        let wish = Wish {
            verb: verb.into(),
            body,
            answer,
        };
        self.learn(&wish);
        self.wishes.push(wish);
    }

    fn learn(&mut self, wish: &Wish) {
        let Some(answer) = &wish.answer else { return };
        if let (Some(session), true) = (
            answer["session_id"].as_str(),
            wish.verb == "start" && answer["status"] == "accepted",
        ) {
            self.town.publish(session);
            self.sessions
                .entry(session.into())
                .or_insert_with(|| Known {
                    cp: answer["cp_id"].as_str().unwrap_or_default().into(),
                    connector: answer["connector"].as_u64().unwrap_or(1),
                    ended: false,
                });
        }
    }

    fn see(&mut self, view: &Value) {
        let Some(session) = view["session_id"].as_str() else {
            return;
        };
        let ended = matches!(view["state"].as_str(), Some("completed" | "failed"));
        let known = self
            .sessions
            .entry(session.into())
            .or_insert_with(|| Known {
                cp: view["cp_id"].as_str().unwrap_or_default().into(),
                connector: view["connector"].as_u64().unwrap_or(1),
                ended,
            });
        known.ended |= ended;
    }

    fn any_own(&mut self, open_only: bool) -> Option<(String, Known)> {
        let all: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, known)| !open_only || !known.ended)
            .map(|(id, known)| (id.clone(), known.clone()))
            .collect();
        self.chance.pick(&all).cloned()
    }

    async fn stop_one(&mut self) {
        let open_only = self.chance.percent(90);
        if let Some((session, _)) = self.any_own(open_only) {
            self.stop(&session).await;
        }
    }

    async fn stop(&mut self, session: &str) {
        let body = json!({
            "request_id": self.chance.id("s"),
            "expires_at": unix_ms() + 20_000,
            "session_id": session,
        });
        self.wish("stop", body).await;
    }

    async fn repeat_a_wish(&mut self) {
        if self.wishes.is_empty() {
            return;
        }
        let index = self.chance.below(self.wishes.len());
        let wish = self.wishes[index].clone();
        let answer = self.caller.insist(&wish.verb, &wish.body, 2).await;
        if self.wishes[index].answer.is_none() {
            self.wishes[index].answer = answer;
            let wish = self.wishes[index].clone();
            self.learn(&wish);
        }
    }

    /// The same id with another content.
    async fn reuse_an_id(&mut self) {
        let answered: Vec<Wish> = self
            .wishes
            .iter()
            .filter(|w| {
                w.verb == "start"
                    && w.answer
                        .as_ref()
                        .is_some_and(|a| a["reason"] != "request_id_reused")
            })
            .cloned()
            .collect();
        let Some(wish) = self.chance.pick(&answered) else {
            return;
        };
        let mut body = wish.body.clone();
        body["limits"] = json!({ "energy_wh": 77_777 });
        let answer = self.caller.insist("start", &body, 2).await;
        self.wishes.push(Wish {
            verb: "start".into(),
            body,
            answer,
        });
    }

    async fn ask_open(&mut self) {
        if let Some(answer) = self.caller.ask("status", &json!({})).await {
            self.see_all(&answer);
        }
    }

    async fn ask_history(&mut self) {
        if let Some(answer) = self.caller.ask("history", &json!({})).await {
            self.see_all(&answer);
        }
    }

    fn see_all(&mut self, answer: &Value) {
        for view in answer["sessions"].as_array().into_iter().flatten() {
            self.see(view);
        }
    }

    async fn ask_one(&mut self, verb: &str) {
        let Some((session, _)) = self.any_own(false) else {
            return;
        };
        let body = json!({ "session_id": session });
        if let Some(answer) = self.caller.ask(verb, &body).await {
            self.see_all(&answer);
        }
    }

    async fn list(&mut self) {
        let Some(answer) = self.caller.ask("list", &json!({})).await else {
            return;
        };
        self.free.clear();
        for cp in answer["charge_points"].as_array().into_iter().flatten() {
            let id = cp["cp_id"].as_str().unwrap_or_default();
            for connector in cp["connectors"].as_array().into_iter().flatten() {
                let n = connector["connector"].as_u64().unwrap_or(1);
                if matches!(
                    connector["state"].as_str(),
                    Some("available" | "plugged" | "finishing")
                ) {
                    self.free.push((id.to_owned(), n));
                }
            }
        }
    }

    /// Mostly one that looked free, now and then any.
    async fn choose_place(&mut self) -> (Place, u64) {
        if self.chance.percent(50) {
            self.list().await;
        }
        let all = &self.town.system.plan.charge_points;
        if self.chance.percent(80)
            && let Some((cp, connector)) = self.chance.pick(&self.free)
            && let Some(place) = all.iter().find(|place| place.cp == *cp)
        {
            return (place.clone(), *connector);
        }
        self.town.any_place(&mut self.chance)
    }

    async fn try_a_wrong_id(&mut self) {
        let session = match self.town.any_session(&mut self.chance) {
            Some(session) if self.chance.percent(70) => session,
            _ => uuid::Uuid::now_v7().to_string(),
        };
        match self.chance.below(3) {
            0 => self.stop(&session).await,
            1 => {
                let body = json!({ "session_id": session });
                self.caller.ask("status", &body).await;
            }
            _ => {
                let body = json!({ "session_id": session });
                self.caller.ask("receipt", &body).await;
            }
        }
    }

    /// Unplugs where the driver has, or had, a session.
    async fn leave(&mut self) {
        let open_only = self.chance.percent(60);
        if let Some((_, known)) = self.any_own(open_only) {
            let connector = known.connector.to_string();
            let args = ["unplug", &known.cp, "--connector", &connector];
            self.town.at_cabinet(&known.cp, &args).await;
        }
    }

    async fn plug(&mut self, cp: &str, connector: u64) {
        let connector = connector.to_string();
        let mut args = vec!["plug", cp, "--connector", &connector];
        // Some cars are nearly full and end by themselves.
        if self.chance.percent(20) {
            args.extend(["--soc", "97"]);
        }
        self.town.at_cabinet(cp, &args).await;
    }

    /// Asks every wish once more until it is answered, the answered ones too.
    pub async fn settle(&mut self) {
        for index in 0..self.wishes.len() {
            let wish = self.wishes[index].clone();
            let answer = self
                .caller
                .insist(&wish.verb, &wish.body, SETTLE_ATTEMPTS)
                .await;
            if wish.answer.is_none() {
                self.wishes[index].answer = answer;
                let wish = self.wishes[index].clone();
                self.learn(&wish);
            }
        }
    }

    /// Stops most of what is open; the rest ends when its car goes.
    pub async fn stop_most(&mut self) {
        let Some(answer) = self
            .caller
            .insist("status", &json!({}), SETTLE_ATTEMPTS)
            .await
        else {
            return;
        };
        self.see_all(&answer);
        for view in answer["sessions"].as_array().into_iter().flatten() {
            let Some(session) = view["session_id"].as_str() else {
                continue;
            };
            if self.chance.percent(67) {
                let body = json!({
                    "request_id": self.chance.id("s"),
                    "expires_at": unix_ms() + 20_000,
                    "session_id": session,
                });
                let answer = self.caller.insist("stop", &body, SETTLE_ATTEMPTS).await;
                self.wishes.push(Wish {
                    verb: "stop".into(),
                    body,
                    answer,
                });
            }
        }
    }

    /// Reads all that a driver can read.
    pub async fn collect(&mut self) {
        let mut before: Option<String> = None;
        let mut ids: Vec<String> = Vec::new();
        loop {
            let body = before
                .as_ref()
                .map_or_else(|| json!({}), |before| json!({ "before": before }));
            let answer = self.caller.insist("history", &body, SETTLE_ATTEMPTS).await;
            let Some(answer) = answer else { break };
            let rows = answer["sessions"].as_array().into_iter().flatten();
            ids.extend(rows.filter_map(|v| v["session_id"].as_str().map(str::to_owned)));
            match answer["next"].as_str() {
                Some(next) => before = Some(next.into()),
                None => break,
            }
        }
        for id in ids {
            let body = json!({ "session_id": id });
            for verb in ["status", "receipt"] {
                self.caller.insist(verb, &body, SETTLE_ATTEMPTS).await;
            }
        }
    }
}

/// An operator.
#[derive(Debug)]
pub struct Operator {
    caller: Caller,
    town: Arc<Town>,
    chance: Chance,
    drivers: Vec<String>,
    wishes: Vec<Wish>,
}

impl Operator {
    pub fn new(caller: Caller, town: Arc<Town>, drivers: Vec<String>, seed: u64) -> Self {
        Self {
            chance: Chance::new(seed, &caller.who),
            caller,
            town,
            drivers,
            wishes: Vec::new(),
        }
    }

    pub async fn live(mut self, stop: watch::Receiver<bool>) -> Self {
        while !*stop.borrow() {
            pause_for(self.chance.duration_ms(500, 9_000), &stop).await;
            self.act(&stop).await;
        }
        self
    }

    async fn act(&mut self, stop: &watch::Receiver<bool>) {
        let (place, connector) = self.town.any_place(&mut self.chance);
        let driver = self.drivers[self.chance.below(self.drivers.len())].clone();
        let session = self.town.any_session(&mut self.chance);
        match (self.chance.weighted(&[4, 5, 3, 2, 4, 2, 2, 3, 2]), session) {
            (0, _) => {
                self.wish("cp_disable", json!({ "cp_id": place.cp })).await;
                pause_for(self.chance.duration_ms(1_000, 8_000), stop).await;
                self.wish("cp_enable", json!({ "cp_id": place.cp })).await;
            }
            (1, Some(session)) => {
                let write_off = self.chance.percent(30);
                let body = json!({
                    "session_id": session, "reason": "asked by phone", "write_off": write_off,
                });
                self.wish("session_end", body).await;
            }
            (2, _) => {
                let price = format!("0.{:02}", self.chance.between(10, 99));
                let body = json!({
                    "tariff_id": "day", "scope": "default",
                    "terms": {
                        "currency": "EUR",
                        "elements": [{"price_components": [
                            {"component": "energy", "price": price},
                            {"component": "start_fee", "price": "0.50"},
                            {"component": "idle", "price": "0.10"},
                        ]}],
                        "idle": {"grace_s": 2, "cap": "0.20", "from": {"without_power_s": 5}},
                        "max_price": "40",
                        "taxes": [{"name": "VAT", "percent": "19"}],
                    },
                });
                self.wish("tariff_set", body).await;
            }
            (3, _) => {
                let body = json!({ "driver_id": driver, "reason": "the card was lost" });
                self.wish("driver_block", body).await;
                pause_for(self.chance.duration_ms(500, 5_000), stop).await;
                self.wish("driver_unblock", json!({ "driver_id": driver }))
                    .await;
            }
            (4, _) => {
                let body = json!({
                    "driver_id": driver, "cp_id": place.cp, "connector": connector,
                });
                self.wish("session_start", body).await;
            }
            (5, Some(session)) => {
                let body = json!({
                    "session_id": session, "amount": "0.10", "reason": "a test of the counter",
                });
                self.wish("session_adjust", body).await;
            }
            (6, _) => {
                let body = json!({ "cp_id": place.cp, "connector": connector });
                self.wish("cp_unlock", body).await;
            }
            (7, _) => {
                self.caller.ask("session_ls", &json!({})).await;
                self.caller.ask("cp_ls", &json!({})).await;
            }
            // A reset of an unruly charger may turn its register to zero. What the meter had then
            // is known to nobody, so that nothing could be judged.
            (8, _) if !place.unruly => {
                self.wish("cp_reset", json!({ "cp_id": place.cp })).await;
            }
            _ => {}
        }
    }

    async fn wish(&mut self, verb: &str, mut body: Value) {
        body["request_id"] = self.chance.id("o").into();
        body["expires_at"] = (unix_ms() + 20_000).into();
        let answer = self.caller.insist(verb, &body, 4).await;
        self.learn(verb, answer.as_ref());
        self.wishes.push(Wish {
            verb: verb.into(),
            body,
            answer,
        });
    }

    fn learn(&self, verb: &str, answer: Option<&Value>) {
        if let (Some(session), "session_start") =
            (answer.and_then(|a| a["session_id"].as_str()), verb)
        {
            self.town.publish(session);
        }
    }

    /// Answers to everything, and every charge point and driver back in service.
    pub async fn settle(&mut self) {
        for index in 0..self.wishes.len() {
            let wish = self.wishes[index].clone();
            let answer = self
                .caller
                .insist(&wish.verb, &wish.body, SETTLE_ATTEMPTS)
                .await;
            self.learn(&wish.verb, answer.as_ref());
        }
        for place in self.town.system.plan.charge_points.clone() {
            self.wish("cp_enable", json!({ "cp_id": place.cp })).await;
        }
        for driver in self.drivers.clone() {
            self.wish("driver_unblock", json!({ "driver_id": driver }))
                .await;
        }
    }

    /// Until central has heard of all charge points.
    pub async fn wait_for_charge_points(&self) -> anyhow::Result<()> {
        let wanted = self.town.system.plan.charge_points.len();
        for _ in 0..WAIT_POLLS_MAX {
            let answer = self
                .caller
                .ask("cp_ls", &json!({}))
                .await
                .unwrap_or_default();
            let all = answer["charge_points"].as_array().into_iter().flatten();
            if all.filter(|cp| cp["link"] == "online").count() == wanted {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        anyhow::bail!("not all of {wanted} charge points are online")
    }

    /// Open sessions of everybody.
    pub async fn open(&self) -> Option<usize> {
        let answer = self.caller.ask("session_ls", &json!({})).await?;
        answer["sessions"].as_array().map(Vec::len)
    }

    /// Until nothing that was stopped still takes energy. No car goes before: a stop that was lost
    /// would not be seen.
    pub async fn wait_for_stops(&self, deadline: Instant) {
        while Instant::now() < deadline {
            if let Some(answer) = self.caller.ask("session_ls", &json!({})).await
                && let Some(sessions) = answer["sessions"].as_array()
                && !sessions.iter().any(|view| view["state"] == "stopping")
            {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Reads all sessions of everybody.
    pub async fn collect(&self) {
        let mut before: Option<String> = None;
        loop {
            let mut body = json!({ "all": true });
            if let Some(before) = &before {
                body["before"] = before.clone().into();
            }
            let answer = self
                .caller
                .insist("session_ls", &body, SETTLE_ATTEMPTS)
                .await;
            match answer.as_ref().and_then(|a| a["next"].as_str()) {
                Some(next) => before = Some(next.into()),
                None => break,
            }
        }
    }
}

/// Those who stand in front of the cabinets, and the chargers' own troubles.
pub async fn passers_by(town: Arc<Town>, seed: u64, stop: watch::Receiver<bool>) {
    let mut chance = Chance::new(seed, "passers-by");
    while !*stop.borrow() {
        pause_for(chance.duration_ms(100, 3_000), &stop).await;
        let (place, connector) = town.any_place(&mut chance);
        let (cp, n) = (place.cp.as_str(), connector.to_string());
        let at = [cp, "--connector", &n];
        let act = |verb: &'static str, more: &[&'static str]| {
            let mut args: Vec<String> = vec![verb.into()];
            args.extend(at.iter().map(|a| (*a).to_owned()));
            args.extend(more.iter().map(|a| (*a).to_owned()));
            args
        };
        let args = match chance.weighted(&[6, 4, 5, 3, 3, 4, 4, 2, 2, 2, 1, 1]) {
            0 => act("start", &["--token", "04A2B3"]),
            1 => act("stop", &[]),
            2 => act("unplug", &[]),
            3 => act("pause", &[]),
            4 => act("resume", &[]),
            5 => act("fault", &["--effect", "suspends", "--raw", "GroundFailure"]),
            6 => act("clear", &[]),
            7 => act("fault", &["--effect", "ended", "--raw", "OverCurrent"]),
            8 => vec!["link".into(), "down".into(), cp.into()],
            9 => vec!["link".into(), "up".into(), cp.into()],
            10 => vec![
                "power-cut".into(),
                cp.into(),
                "--seconds".into(),
                "2".into(),
            ],
            _ => {
                let mut args = vec![
                    "power-cut".into(),
                    cp.into(),
                    "--seconds".into(),
                    "1".into(),
                ];
                args.push("--lose".into());
                args
            }
        };
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        town.at_cabinet(cp, &args).await;
        // Nobody stands in front of a faulted charger for ever.
        if matches!(args[0], "fault") || args.get(1) == Some(&"down") {
            let (town, stop, cp, n) = (town.clone(), stop.clone(), place.cp.clone(), n.clone());
            let later = chance.duration_ms(500, 10_000);
            tokio::spawn(async move {
                pause_for(later, &stop).await;
                town.at_cabinet(&cp, &["clear", &cp, "--connector", &n])
                    .await;
                town.at_cabinet(&cp, &["link", "up", &cp]).await;
            });
        }
    }
}

/// Reads the meters now and then, for whoever reads the history.
pub async fn meter_reader(town: Arc<Town>, stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        for cp in town.system.agent_names() {
            town.look(&cp).await;
            pause_for(200, &stop).await;
        }
        pause_for(2_000, &stop).await;
    }
}

/// Everything at the cabinets as at the end of a day: chargers in order, cars gone.
pub async fn go_home(town: &Town) {
    for place in town.system.plan.charge_points.clone() {
        for connector in 1..=place.connectors {
            let n = connector.to_string();
            for _ in 0..20 {
                let args = ["unplug", &place.cp, "--connector", &n];
                if town.at_cabinet(&place.cp, &args).await.0 {
                    break;
                }
                tokio::time::sleep(POLL).await;
            }
        }
        // Who has pressed start and has no car would otherwise be waited for for two minutes.
        let body = town.look(&place.cp).await.unwrap_or_default();
        for connector in body["connectors"].as_array().into_iter().flatten() {
            if connector["plugged"] == false && connector["origin"] == "local" {
                let n = connector["id"].to_string();
                town.at_cabinet(&place.cp, &["stop", &place.cp, "--connector", &n])
                    .await;
            }
        }
    }
}

/// Faults of chargers clear.
pub async fn repair(town: &Town) {
    for place in town.system.plan.charge_points.clone() {
        for connector in 1..=place.connectors {
            let n = connector.to_string();
            let at = ["--connector", &n];
            for args in [
                ["clear", &place.cp, at[0], at[1]],
                ["resume", &place.cp, at[0], at[1]],
            ] {
                town.at_cabinet(&place.cp, &args).await;
            }
        }
        town.at_cabinet(&place.cp, &["link", "up", &place.cp]).await;
    }
}

async fn pause_for(ms: u64, stop: &watch::Receiver<bool>) {
    let mut stop = stop.clone();
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(ms)) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
