//! A fleet that charges, decided by central's own core: real records, in frames as a central
//! appends them, without I/O.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use central_core::{
    decide::{Ask, Command, Ctx, Incoming, Run, Settings, Wish, decide},
    frame::FrameBuilder,
    keys::{Asker, EventId},
    state::{Log, State},
    tx::Overlay,
};
use ev_contract::{
    connector::Service,
    ids::{BootId, ConnectorId, CpId, DriverId, Epoch, ReplicaId, RequestId, SessionId},
    time::{Now, UnixMs},
    units::{MilliAmp, MilliWatt, Mwh},
    v1::{
        Boot, ConnectorSpec, EdgeFact, EdgeRecord, EndCode, EndReason, EndSource, IdleFee,
        IdleFrom, LimitsRequest, Origin, PriceComponent, Reach, Reading, SyncRequest, TariffScope,
        TariffTerms, TimeQuality,
    },
    wire::{CENTRAL, Tag},
};
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

/// As many records as a crowd puts into a frame.
pub const IN_FRAME: usize = 250;
/// Between two steps of a charge point.
const MINUTE_MS: i64 = 60_000;
/// Between two frames of one minute.
const FRAME_MS: i64 = 3;
/// Minutes of a session with a record in each: start, taken, charging, checkpoints, stop, end.
const SESSION: usize = 50;
/// From the start of a session to that of the next at the same charge point: a fifth of the fleet
/// charges at any time.
const CYCLE: usize = 5 * SESSION;
/// Keeps the phases of neighbours apart; it has no divisor in common with [`CYCLE`].
const STRIDE: usize = 97;

/// What a charge point, or its driver, asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It presents itself.
    Present,
    /// It reports its connector.
    Report,
    /// Its driver starts a session.
    Start,
    /// It has taken the session.
    Taken,
    /// Energy begins.
    Charging,
    /// Energy so far.
    Checkpoint,
    /// The driver stops it.
    Stop,
    /// The session has ended.
    End,
}

impl Step {
    /// In a minute of the cycle of a charge point.
    const fn at(minute: usize) -> Option<Self> {
        const STOP: usize = SESSION - 2;
        const END: usize = SESSION - 1;
        match minute {
            0 => Some(Self::Start),
            1 => Some(Self::Taken),
            2 => Some(Self::Charging),
            3..STOP => Some(Self::Checkpoint),
            STOP => Some(Self::Stop),
            END => Some(Self::End),
            _ => None,
        }
    }
}

/// Charge points with one connector each, and central's state of them.
#[derive(Debug)]
pub struct World {
    settings: Settings,
    now: UnixMs,
    by: ReplicaId,
    log: Log,
    builder: FrameBuilder,
    fleet: Vec<Cabinet>,
    drawn: u64,
    /// The next step of [`World::live`]: minute and charge point.
    at: (usize, usize),
}

#[derive(Debug)]
struct Cabinet {
    cp: CpId,
    epoch: Epoch,
    driver: DriverId,
    next: u64,
    register: u64,
    session: Option<SessionId>,
}

/// Processor time spent on records, and their bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Deciding.
    pub decide: Duration,
    /// Writing them into a frame.
    pub encode: Duration,
    /// Applying the frame.
    pub apply: Duration,
    /// Records.
    pub records: usize,
    /// Bytes of the frames.
    pub bytes: usize,
}

impl World {
    /// So many charge points of which nothing is known yet; its time begins at `from`.
    ///
    /// # Errors
    /// Never: the ids are valid.
    pub fn new(fleet: usize, from: UnixMs) -> Result<Self> {
        let mut world = Self {
            settings: Settings::default(),
            now: from,
            by: ReplicaId::new("central-of-the-bench")?,
            log: Log::default(),
            builder: FrameBuilder::default(),
            fleet: Vec::with_capacity(fleet),
            drawn: 0,
            at: (0, 0),
        };
        for n in 0..fleet {
            let epoch = world.uuid().to_string();
            world.fleet.push(Cabinet {
                cp: CpId::new(format!("CP-{n:06}"))?,
                epoch: Epoch::new(epoch)?,
                driver: DriverId::new(format!("driver-{n:06}"))?,
                next: 1,
                register: 1_000_000_000 + n as u64,
                session: None,
            });
        }
        Ok(world)
    }

    /// Minutes until [`World::live`] has come to so many records of each charge point.
    #[must_use]
    pub const fn minutes(records_each: usize) -> usize {
        // Who is in the middle of a cycle at the beginning waits for the next one.
        records_each * CYCLE / SESSION + SESSION
    }

    /// Everything that was decided and applied.
    #[must_use]
    pub const fn state(&self) -> &State {
        self.log.state()
    }

    /// A driver with an open session, and that.
    #[must_use]
    pub fn charging(&self) -> Option<(&DriverId, SessionId)> {
        let open = |cabinet: &'_ &Cabinet| cabinet.session.is_some();
        let cabinet = self.fleet.iter().rfind(open)?;
        Some((&cabinet.driver, cabinet.session?))
    }

    /// Applies what another replica has appended. That names what its appender had applied, and how
    /// it had judged each record.
    ///
    /// # Errors
    /// When the appender's state was another one, or a record is void.
    pub fn hear(&mut self, pos: u64, bytes: &[u8]) -> Result<()> {
        let applied = self.log.apply(pos, bytes)?;
        ensure!(applied.frame.is_some(), "message {pos} is no frame");
        ensure!(
            applied.void().count() == 0,
            "message {pos} has void records"
        );
        Ok(())
    }

    /// The tariff of all sessions, as a frame.
    ///
    /// # Errors
    /// When it is not decided.
    pub fn tariff(&mut self, spent: &mut Spent) -> Result<Vec<u8>> {
        let tariff = self.asked(
            Asker::Operator("olga".parse()?),
            Wish::SetTariff {
                tariff: "day".parse()?,
                scope: TariffScope::Default,
                from: None,
                terms: terms()?,
            },
        )?;
        self.commit(&[(None, tariff)], spent)
    }

    /// One record each of the first so many charge points, in frames.
    ///
    /// # Errors
    /// When one is not decided, or is void.
    pub fn round(&mut self, step: Step, many: usize, spent: &mut Spent) -> Result<Vec<Vec<u8>>> {
        self.now = self.now.plus_ms(MINUTE_MS);
        (0..many)
            .step_by(IN_FRAME)
            .map(|from| self.slice(step, from..many.min(from + IN_FRAME), spent))
            .collect()
    }

    /// One record each of some charge points, in a frame.
    ///
    /// # Errors
    /// When one is not decided, or is void.
    pub fn slice(
        &mut self,
        step: Step,
        of: std::ops::Range<usize>,
        spent: &mut Spent,
    ) -> Result<Vec<u8>> {
        self.now = self.now.plus_ms(FRAME_MS);
        let commands = of
            .map(|n| Ok((Some(n), self.command(step, n)?)))
            .collect::<Result<Vec<_>>>()?;
        self.commit(&commands, spent)
    }

    /// The next frame of a fleet in its everyday life, with `most` records at most: each charge
    /// point has a session, then none for four times as long, and none begins when its neighbour
    /// does. A frame ends with its minute.
    ///
    /// # Errors
    /// When a record is not decided, or is void.
    pub fn live(&mut self, most: usize, spent: &mut Spent) -> Result<Vec<u8>> {
        self.now = self.now.plus_ms(FRAME_MS);
        let most = most.min(IN_FRAME);
        let mut commands = Vec::with_capacity(most);
        // Two cycles without a record would be a fleet without charge points.
        let minutes_max = self.at.0 + 2 * CYCLE;
        while commands.len() < most {
            let (minute, n) = self.at;
            ensure!(minute < minutes_max, "nothing happens any more");
            if n == self.fleet.len() {
                if !commands.is_empty() {
                    // What was asked in this minute would have expired in the next.
                    break;
                }
                self.at = (minute + 1, 0);
                self.now = self.now.plus_ms(MINUTE_MS);
                continue;
            }
            self.at.1 += 1;
            let step = Step::at((minute + n * STRIDE) % CYCLE);
            if let Some(step) = step
                && (step == Step::Start || self.fleet[n].session.is_some())
            {
                commands.push((Some(n), self.command(step, n)?));
            }
        }
        self.commit(&commands, spent)
    }

    /// A UUIDv7 of this world's time, its rest without a pattern (splitmix64).
    fn uuid(&mut self) -> Uuid {
        let mut random = || {
            self.drawn = self.drawn.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.drawn;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let ms = u128::from(self.now.0.unsigned_abs()) << 80;
        let rest = u128::from(random()) << 64 | u128::from(random());
        let rest = rest & 0x0fff_3fff_ffff_ffff_ffff;
        Uuid::from_u128(ms | 0x7000_8000_0000_0000_0000 | rest)
    }

    /// Decides, writes and applies a frame.
    fn commit(
        &mut self,
        commands: &[(Option<usize>, Command)],
        spent: &mut Spent,
    ) -> Result<Vec<u8>> {
        let ids: Vec<_> = commands
            .iter()
            .map(|_| (EventId(self.uuid()), SessionId::from_uuid(self.uuid())))
            .collect();
        let frame_id = self.uuid();
        let began = worked();
        let mut overlay = Overlay::new(self.log.state());
        let mut records = Vec::with_capacity(commands.len());
        for ((_, command), (event, session)) in commands.iter().zip(&ids) {
            let ctx = Ctx {
                now: Now {
                    mono_ms: 0,
                    wall: self.now,
                },
                settings: &self.settings,
                event: *event,
                session: *session,
            };
            let record = decide(&overlay, ctx, command).record;
            let record = record.context("nothing was decided")?;
            overlay.push(&record);
            records.push(record);
        }
        drop(overlay);
        let decided = worked();
        self.builder.begin(self.now);
        for record in records {
            self.builder.push(record)?;
        }
        let basis = self.log.state().basis();
        let (frame, bytes) = self.builder.finish(frame_id, self.by.clone(), basis);
        let encoded = worked();
        let applied = self.log.apply_frame(basis.seq + 1, frame, &bytes)?;
        let done = worked();
        spent.decide += decided.saturating_sub(began);
        spent.encode += encoded.saturating_sub(decided);
        spent.apply += done.saturating_sub(encoded);
        spent.records += commands.len();
        spent.bytes += bytes.len();
        if let Some(kind) = applied.void().next() {
            bail!("a record of kind {kind:?} is void");
        }
        for ((n, command), (_, session)) in commands.iter().zip(ids) {
            let Some(n) = *n else { continue };
            match command {
                Command::Request(_, Wish::Start { .. }) => {
                    ensure!(
                        self.log.state().session(session).is_some(),
                        "a start was refused"
                    );
                    self.fleet[n].session = Some(session);
                }
                Command::Intake(run) if run.records.iter().any(is_end) => {
                    self.fleet[n].session = None;
                }
                _ => {}
            }
        }
        Ok(bytes)
    }

    fn command(&mut self, step: Step, n: usize) -> Result<Command> {
        match step {
            Step::Present => self.present(n),
            Step::Report => Ok(self.fact(n, |_| EdgeFact::Connector {
                connector: ConnectorId(1),
                plugged: false,
                service: Service::In,
                service_revision: 0,
                fault: None,
                charger_online: true,
                ended_since_plug: false,
            })),
            Step::Start => {
                let (driver, cp) = (self.fleet[n].driver.clone(), self.fleet[n].cp.clone());
                let wish = Wish::Start {
                    driver: driver.clone(),
                    origin: Origin::App,
                    cp,
                    connector: None,
                    limits: LimitsRequest::default(),
                    seen: None,
                    reach: Reach::Online,
                    json: false,
                };
                self.asked(Asker::Driver(driver), wish)
            }
            Step::Taken => {
                let session_id = self.session(n)?;
                Ok(self.fact(n, |_| EdgeFact::Accepted {
                    session_id,
                    connector: ConnectorId(1),
                }))
            }
            Step::Charging => {
                let session_id = self.session(n)?;
                Ok(self.fact(n, |reading| EdgeFact::Started {
                    session_id,
                    device_tx: format!("tx-{session_id}"),
                    reading,
                }))
            }
            Step::Checkpoint => {
                let session_id = self.session(n)?;
                Ok(self.fact(n, |reading| EdgeFact::Checkpoint {
                    session_id,
                    reading,
                }))
            }
            Step::Stop => {
                let session = self.session(n)?;
                let driver = self.fleet[n].driver.clone();
                self.asked(Asker::Driver(driver), Wish::Stop { session })
            }
            Step::End => {
                let session_id = self.session(n)?;
                Ok(self.fact(n, |reading| EdgeFact::Ended {
                    session_id,
                    completed: true,
                    reason: EndReason::new(EndCode::Driver, EndSource::Driver),
                    reading: Some(reading),
                    stood_s: None,
                }))
            }
        }
    }

    fn session(&self, n: usize) -> Result<SessionId> {
        self.fleet[n].session.context("no session is open")
    }

    fn asked(&mut self, asker: Asker, wish: Wish) -> Result<Command> {
        let expires_at = self.now.plus_ms(20_000);
        let content = wish.content(expires_at);
        let request = RequestId::new(self.uuid().to_string())?;
        let ask = Ask {
            asker,
            request,
            expires_at,
            content,
        };
        Ok(Command::Request(ask, wish))
    }

    fn present(&self, n: usize) -> Result<Command> {
        let cabinet = &self.fleet[n];
        let sync = SyncRequest {
            tag: Tag::new(),
            to: CENTRAL.to_owned(),
            cp_id: cabinet.cp.clone(),
            boot: Boot {
                id: BootId::from_number(1),
                count: 1,
                after: None,
            },
            epoch: cabinet.epoch.clone(),
            version: "0.1.0".into(),
            connectors: vec![ConnectorSpec {
                connector: ConnectorId(1),
                max_ma: MilliAmp(32_000),
                phases: 3,
                volts: 230,
                plug: Some("type2".into()),
            }],
            first: 1,
            next: 1,
            sessions: Vec::new(),
        };
        Ok(Command::Sync(cabinet.cp.clone(), sync))
    }

    /// The next record of a spool.
    fn fact(&mut self, n: usize, fact: impl FnOnce(Reading) -> EdgeFact) -> Command {
        let now = self.now;
        let cabinet = &mut self.fleet[n];
        cabinet.register += 100_000;
        let reading = Reading {
            at: now,
            quality: TimeQuality::Synced,
            register_mwh: Mwh(cabinet.register),
            meter_id: format!("meter-{n:06}"),
            meter_epoch: 1,
            power_mw: Some(MilliWatt(11_000_000 + n as u64)),
            current_ma: Vec::new(),
            soc_pct: Some(55),
            signed: None,
        };
        let record = EdgeRecord {
            seq: cabinet.next,
            at: now,
            quality: TimeQuality::Synced,
            fact: fact(reading),
        };
        cabinet.next += 1;
        Command::Intake(Run {
            cp: cabinet.cp.clone(),
            boot: BootId::from_number(1),
            epoch: cabinet.epoch.clone(),
            first: 1,
            from: record.seq,
            records: vec![Incoming {
                raw: bytes::Bytes::new(),
                record: Ok(record),
            }],
        })
    }
}

fn is_end(incoming: &Incoming) -> bool {
    let record = incoming.record.as_ref();
    record.is_ok_and(|record| matches!(record.fact, EdgeFact::Ended { .. }))
}

fn terms() -> Result<TariffTerms> {
    let mut terms = TariffTerms::free("EUR".parse()?)
        .with(PriceComponent::Energy, "0.49".parse()?)
        .with(PriceComponent::StartFee, "1.00".parse()?)
        .with(PriceComponent::Idle, "0.10".parse()?)
        .taxed("VAT", "19".parse()?);
    terms.idle = Some(IdleFee {
        grace_s: 600,
        cap: "12".parse()?,
        from: IdleFrom::default(),
        after_fault: false,
    });
    Ok(terms)
}

/// The time that this thread has worked: others on the machine do not count.
#[must_use]
pub fn worked() -> Duration {
    let at = clock_gettime(ClockId::ThreadCPUTime);
    let s = u64::try_from(at.tv_sec).unwrap_or(0);
    Duration::new(s, u32::try_from(at.tv_nsec).unwrap_or(0))
}
