//! An open folder of keys, and who is at it: what is done is written down first.

use std::time::{Duration, SystemTime};

use ev_client::Tls;
use ev_contract::{codes::Code, ids::OperatorId, time::UnixMs};
use nix::unistd::{Uid, User};

use super::{Args, ServerArgs};
use crate::{
    audit::{EnrolVerb, Enrolment, Whose},
    certificate,
    outbox::{Kept, Urgency},
    push::{CONNECT_WAIT, PushError, Servers, push},
    realm::{Realm, RealmError},
    tell::{BRIEF_WAIT, TellError, Told, tell},
};

/// Of the refused names of one command so many are written down.
const REFUSED_MAX: usize = 100;

/// Why a command did not do all that it should.
pub(super) enum Failure {
    /// Nothing was done.
    Keys(RealmError),
    /// Nothing was done, since these names cannot be enrolled.
    Names(Vec<(String, RealmError)>),
    /// It is written and not in force.
    Push(PushError),
    /// It is done, and central or its audit have not heard of it.
    Tell(TellError),
}

impl From<RealmError> for Failure {
    fn from(error: RealmError) -> Self {
        Self::Keys(error)
    }
}

impl From<PushError> for Failure {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Realm(error) => Self::Keys(error),
            other => Self::Push(other),
        }
    }
}

/// The desk at which credentials are given out.
pub(super) struct Desk {
    pub realm: Realm,
    pub now_s: i64,
    pub now_ms: i64,
    by: OperatorId,
}

impl Desk {
    pub(super) fn open(args: &Args) -> Result<Self, RealmError> {
        let mut desk = Self::of(Realm::open(&args.dir)?, args);
        desk.make_own()?;
        Ok(desk)
    }

    /// What is made of itself, whatever the command. A full outbox does not stop it: without it
    /// nobody could be told of anything.
    fn make_own(&mut self) -> Result<(), RealmError> {
        let drafts = self.realm.own_renewals(self.now_s)?;
        let mut new = Vec::new();
        for role in self.realm.new_roles() {
            let key = self.realm.role_key(*role);
            let detail = Some("its first key".to_owned());
            new.push(self.entry(EnrolVerb::Init, Whose::Role(*role), Some(key), detail));
        }
        for draft in &drafts {
            let one = draft.issued();
            let whose = Whose::of(one.role, &one.name);
            let detail = Some("for central enrol itself".to_owned());
            new.push(self.entry(EnrolVerb::Enrol, whose, Some(&one.key), detail));
        }
        if new.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.put(new, Urgency::Urgent) {
            eprintln!(
                "central enrol: what it made for itself is not written down: {}",
                ev_client::chain(&error)
            );
        }
        self.realm.commit(drafts, self.now_s)?;
        Ok(())
    }

    pub(super) fn of(realm: Realm, args: &Args) -> Self {
        let now_ms = now_ms();
        Self {
            realm,
            now_s: now_ms / 1_000,
            now_ms,
            by: args.by.clone().unwrap_or_else(unix_user),
        }
    }

    pub(super) fn now_s() -> i64 {
        now_ms() / 1_000
    }

    pub(super) fn entry(
        &self,
        verb: EnrolVerb,
        whose: Whose,
        key: Option<&str>,
        detail: Option<String>,
    ) -> Kept {
        let act = Enrolment {
            by: self.by.clone(),
            verb,
            whose,
            key: key.map(str::to_owned),
            refused: None,
            detail,
        };
        Kept::Audit(Box::new(act.entry(UnixMs(self.now_ms))))
    }

    pub(super) fn put(&mut self, new: Vec<Kept>, urgency: Urgency) -> Result<(), RealmError> {
        self.realm.outbox().put(new, urgency)
    }

    /// Writes down why something was not done, also where it was written down that it would be.
    pub(super) fn refused(&mut self, verb: EnrolVerb, refusals: &[(Whose, &RealmError)]) {
        let new = refusals
            .iter()
            .take(REFUSED_MAX)
            .map(|(whose, error)| {
                let act = Enrolment {
                    by: self.by.clone(),
                    verb,
                    whose: whose.clone(),
                    key: None,
                    refused: Some(code(error)),
                    detail: Some(ev_client::chain(error)),
                };
                Kept::Audit(Box::new(act.entry(UnixMs(self.now_ms))))
            })
            .collect();
        if let Err(error) = self.put(new, Urgency::Usual) {
            eprintln!(
                "central enrol: the refusal is not written down: {}",
                ev_client::chain(&error)
            );
        }
    }

    /// What came of a step; a failure is written down.
    pub(super) fn tried<T>(
        &mut self,
        verb: EnrolVerb,
        whose: &Whose,
        result: Result<T, RealmError>,
    ) -> Result<T, RealmError> {
        if let Err(error) = &result {
            self.refused(verb, &[(whose.clone(), error)]);
        }
        result
    }

    fn servers(&self, args: &ServerArgs) -> Result<Servers, PushError> {
        let own = certificate::ca(self.realm.dir());
        if args.ca.is_none() && !own.exists() {
            return Err(PushError::NoCertificates);
        }
        let ca = args.ca.clone().unwrap_or(own);
        Ok(Servers {
            url: args.url.clone(),
            tls: Tls::new(ca, args.certificate.clone(), args.key.clone())?,
        })
    }

    /// Puts accounts in force, and tells what there is to tell.
    pub(super) fn put_in_force(&mut self, args: &ServerArgs) -> Result<(), Failure> {
        if args.no_push {
            println!("not in force yet: `central enrol push`");
            return Ok(());
        }
        let servers = self.servers(args)?;
        let now_s = self.now_s;
        let names = runtime(&servers)?.block_on(push(&mut self.realm, &servers, now_s))?;
        println!("in force on {}", names.join(", "));
        self.tell(args, CONNECT_WAIT).map_err(Failure::Tell)
    }

    /// Tells what there is to tell, after something that needs nobody to know of it at once.
    pub(super) fn tell_later(&mut self, args: &ServerArgs) {
        if let Err(error) = self.tell(args, BRIEF_WAIT) {
            eprintln!(
                "central enrol: not told yet: {}\n\
                 central enrol: it is kept in {} for central and its audit; the next command or \
                 `central enrol push` tells them",
                ev_client::chain(&error),
                self.realm.outbox().path().display()
            );
        }
    }

    /// Tells of a refusal where that is possible: who was refused is told why, and no more.
    pub(super) fn tell_of_refusal(&mut self, args: &ServerArgs) {
        // Kept for the next command.
        let _ = self.tell(args, BRIEF_WAIT);
    }

    fn tell(&mut self, args: &ServerArgs, wait: Duration) -> Result<(), TellError> {
        if args.no_push {
            return Ok(());
        }
        let servers = self.servers(args)?;
        let told: Told = runtime(&servers)?.block_on(tell(&mut self.realm, &servers, wait))?;
        for why in &told.refused {
            eprintln!("central enrol: central does not take it: {why}");
        }
        match told.charge_points {
            0 => {}
            1 => println!("central has heard of the charge point"),
            n => println!("central has heard of {n} charge points"),
        }
        Ok(())
    }
}

fn runtime(servers: &Servers) -> Result<tokio::runtime::Runtime, PushError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| PushError::Connect {
            url: servers.url.clone(),
            why: e.to_string(),
        })
}

const fn code(error: &RealmError) -> Code {
    match error {
        RealmError::Name(_) => Code::InvalidId,
        RealmError::Days(_)
        | RealmError::Carries(_)
        | RealmError::Enrolled { .. }
        | RealmError::Unknown { .. }
        | RealmError::Host(_)
        | RealmError::FirstHost(_)
        | RealmError::ChangeOfAuthority { .. }
        | RealmError::Exists(_) => Code::InvalidRequest,
        RealmError::File { .. }
        | RealmError::Missing(_)
        | RealmError::Unfinished(_)
        | RealmError::OutboxFull(_)
        | RealmError::Content { .. }
        | RealmError::Certificate(_)
        | RealmError::Sign(_) => Code::Internal,
    }
}

/// Who is at the shell. Behind `sudo` that is who called it.
fn unix_user() -> OperatorId {
    let uid = Uid::current();
    let caller = std::env::var("SUDO_USER").ok().filter(|_| uid.is_root());
    let name = caller.or_else(|| User::from_uid(uid).ok().flatten().map(|user| user.name));
    // A name of Unix may have more in it than an id.
    let id: String = name
        .unwrap_or_default()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        })
        .take(64)
        .collect();
    OperatorId::new(id)
        .or_else(|_| OperatorId::new(format!("uid-{uid}")))
        .unwrap_or_else(|_| unreachable!("a number is an id"))
}

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}
