//! `central enrol …`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use clap::Subcommand;
use ev_client::{Tls, chain, shown_time};

use crate::{
    certificate,
    push::{PushError, Servers, push},
    realm::{DIR_DEFAULT, Enrolled, Issued, Realm, RealmError},
    roles::Role,
};

/// Exit status for what is written but not in force yet (`EX_TEMPFAIL` of sysexits.h).
const EXIT_NOT_IN_FORCE: u8 = 75;
const EXIT_FAILED: u8 = 1;

/// Keys and credentials: who may connect, and as whom.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  central enrol init
  central enrol certificate --host nats-1.ev.internal
  central enrol charge-point CP-001
  central enrol driver alice --days 30
  central enrol list
  central enrol revoke charge-point CP-001
  central enrol rotate charge-point --all")]
pub struct Args {
    /// The folder of keys.
    #[arg(long, global = true, env = "EV_KEYS_DIR", default_value = DIR_DEFAULT)]
    dir: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make all keys, and what nats-server needs to trust them. Once per installation.
    Init,
    /// Enrol a replica of central.
    Central(Somebody),
    /// Enrol a charge point.
    ChargePoint(Somebody),
    /// Enrol a driver.
    Driver(Somebody),
    /// Enrol an operator.
    Operator(Somebody),
    /// Enrol somebody who repairs streams by hand: can destroy the ledger.
    Maintainer(Somebody),
    /// Enrol the eyes of a replica of central at the door: sees who connects, closes connections.
    Doorkeeper(Somebody),
    /// Say who has which credential, and until when.
    List {
        /// Only this role.
        role: Option<Role>,
        /// Revoked and expired ones too.
        #[arg(long)]
        all: bool,
    },
    /// Make somebody's credentials void; whoever is connected with one is dropped.
    Revoke {
        /// As what.
        role: Role,
        /// Who.
        name: String,
        #[command(flatten)]
        servers: ServerArgs,
    },
    /// Replace somebody's credentials, or with --all a role's signing key and all it signed.
    Rotate {
        /// As what.
        role: Role,
        /// Who.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Option<String>,
        /// The role's signing key: all of its credentials are replaced.
        #[arg(long)]
        all: bool,
        /// For how many days the new ones are good.
        #[arg(long)]
        days: Option<u32>,
        #[command(flatten)]
        servers: ServerArgs,
    },
    /// Replace the key that signs accounts, after it was stolen. Needs operator/root.nk.
    RotateSigning,
    /// Make a server's certificate, or with --client a client's; the first makes the authority.
    #[command(before_help = "Examples:
  central enrol certificate --host nats-1.ev.internal --host 10.0.0.1
  central enrol certificate --client central-1
  central enrol certificate --next-authority      then all get the new tls/ca.crt, then the
                                                  servers new certificates, then
  central enrol certificate --forget-authority    and all get that tls/ca.crt")]
    Certificate {
        /// A name or an address by which clients reach the server; the first names the files.
        #[arg(
            long = "host",
            value_name = "HOST",
            required_unless_present_any = ["client", "next_authority", "forget_authority"]
        )]
        hosts: Vec<String>,
        /// A client's, for servers that ask for one.
        #[arg(long, value_name = "NAME", conflicts_with = "hosts")]
        client: Option<String>,
        /// For how many days it is good.
        #[arg(long, default_value_t = certificate::DAYS)]
        days: u32,
        /// Make the next authority of servers; tls/ca.crt then holds both.
        #[arg(long, conflicts_with_all = ["hosts", "client"])]
        next_authority: bool,
        /// Take the former authority of servers out of tls/ca.crt.
        #[arg(long, conflicts_with_all = ["hosts", "client", "next_authority"])]
        forget_authority: bool,
    },
    /// Put in force on the servers what is written here.
    Push {
        #[command(flatten)]
        servers: ServerArgs,
    },
}

#[derive(Debug, clap::Args)]
struct Somebody {
    /// The id, as in subjects: A-Z a-z 0-9 _ -
    name: String,
    /// For how many days the credential is good.
    #[arg(long)]
    days: Option<u32>,
    /// Add a credential beside those that are good.
    #[arg(long)]
    again: bool,
}

#[derive(Debug, clap::Args)]
struct ServerArgs {
    /// Where nats-server is.
    #[arg(
        long = "nats-url",
        env = "EV_NATS_URL",
        default_value = "nats://127.0.0.1:4222"
    )]
    url: String,
    /// Who may vouch for the servers, PEM [default: tls/ca.crt in the folder of keys]
    #[arg(long, env = "EV_NATS_CA")]
    ca: Option<PathBuf>,
    /// A client's certificate, PEM, where the servers ask for one.
    #[arg(long, env = "EV_NATS_CERTIFICATE")]
    certificate: Option<PathBuf>,
    /// Its key.
    #[arg(long, env = "EV_NATS_KEY")]
    key: Option<PathBuf>,
    /// Only write it; `push` puts it in force.
    #[arg(long)]
    no_push: bool,
}

/// Does what was asked and says it.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    match act(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Keys(error)) => {
            eprintln!("central enrol: {}", chain(&error));
            ExitCode::from(EXIT_FAILED)
        }
        Err(Failure::Push(error)) => {
            eprintln!(
                "central enrol: written, but not in force: {}\n\
                 central enrol: `central enrol push` puts it in force",
                chain(&error)
            );
            ExitCode::from(EXIT_NOT_IN_FORCE)
        }
    }
}

enum Failure {
    Keys(RealmError),
    Push(PushError),
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

fn act(args: &Args) -> Result<(), Failure> {
    let now_s = now_s();
    let open = || Realm::open(&args.dir);
    match &args.verb {
        Verb::Init => {
            let realm = Realm::create(&args.dir, now_s)?;
            println!(
                "keys are in {}\n\
                 give {} to every nats-server, beside its configuration\n\
                 take {} to a safe place: only a new operator/signing.nk needs it",
                args.dir.display(),
                realm.auth_conf().display(),
                args.dir.join("operator/root.nk").display()
            );
        }
        Verb::Central(who) => enrol(&mut open()?, Role::Central, who, now_s)?,
        Verb::ChargePoint(who) => enrol(&mut open()?, Role::ChargePoint, who, now_s)?,
        Verb::Driver(who) => enrol(&mut open()?, Role::Driver, who, now_s)?,
        Verb::Operator(who) => enrol(&mut open()?, Role::Operator, who, now_s)?,
        Verb::Maintainer(who) => enrol(&mut open()?, Role::Maintainer, who, now_s)?,
        Verb::Doorkeeper(who) => enrol(&mut open()?, Role::Doorkeeper, who, now_s)?,
        Verb::List { role, all } => list(open()?.issued(), *role, *all, now_s),
        Verb::Revoke {
            role,
            name,
            servers,
        } => {
            let mut realm = open()?;
            let count = realm.revoke(*role, name, now_s)?;
            println!("{role} {name}: {count} revoked");
            put_in_force(&mut realm, &args.dir, servers, now_s)?;
        }
        Verb::Rotate {
            role,
            name,
            days,
            servers,
            all: _,
        } => {
            let mut realm = open()?;
            let days = days.unwrap_or_else(|| role.days());
            match name {
                Some(name) => say(&realm.rotate(*role, name, days, now_s)?),
                None => realm.rotate_key(*role, days, now_s)?.iter().for_each(say),
            }
            put_in_force(&mut realm, &args.dir, servers, now_s)?;
        }
        Verb::RotateSigning => {
            let mut realm = open()?;
            realm.rotate_signing(now_s)?;
            println!(
                "stop every nats-server, remove its folder of accounts, give it {}, and start it",
                realm.auth_conf().display()
            );
        }
        Verb::Certificate {
            next_authority: true,
            ..
        } => {
            let path = certificate::next_authority(&args.dir, now_s)?;
            println!(
                "{} holds the next authority and the present one\ngive it to every client and \
                 server, then make new certificates for the servers",
                path.display()
            );
        }
        Verb::Certificate {
            forget_authority: true,
            ..
        } => {
            let path = certificate::forget_former_authority(&args.dir)?;
            println!(
                "{} holds the present authority alone\ngive it to every client and server",
                path.display()
            );
        }
        Verb::Certificate {
            hosts,
            client,
            days,
            ..
        } => {
            let made = match client {
                Some(name) => certificate::client(&args.dir, name, *days, now_s)?,
                None => certificate::server(&args.dir, hosts, *days, now_s)?,
            };
            println!(
                "{} and {} are good until {}\nwhoever it speaks to needs {}",
                made.certificate.display(),
                made.key.display(),
                shown_time(made.expires_at_s),
                made.ca.display()
            );
        }
        Verb::Push { servers } => put_in_force(&mut open()?, &args.dir, servers, now_s)?,
    }
    Ok(())
}

fn enrol(realm: &mut Realm, role: Role, who: &Somebody, now_s: i64) -> Result<(), RealmError> {
    let days = who.days.unwrap_or_else(|| role.days());
    let enrolled = if who.again {
        realm.enrol_again(role, &who.name, days, now_s)?
    } else {
        realm.enrol(role, &who.name, days, now_s)?
    };
    say(&enrolled);
    Ok(())
}

fn say(enrolled: &Enrolled) {
    println!(
        "{} is good until {}",
        enrolled.path.display(),
        shown_time(enrolled.expires_at_s)
    );
}

fn list(issued: &[Issued], role: Option<Role>, all: bool, now_s: i64) {
    println!("{:<13} {:<24} {:<9} UNTIL", "ROLE", "NAME", "STATE");
    let shown = issued
        .iter()
        .filter(|i| role.is_none_or(|role| i.role == role))
        .filter(|i| all || i.is_good(now_s));
    for one in shown {
        let (state, at) = match one.revoked_at_s {
            Some(at) => ("revoked", at),
            None if one.is_good(now_s) => ("good", one.expires_at_s),
            None => ("expired", one.expires_at_s),
        };
        println!(
            "{:<13} {:<24} {state:<9} {}",
            one.role,
            one.name,
            shown_time(at)
        );
    }
}

fn put_in_force(
    realm: &mut Realm,
    dir: &Path,
    args: &ServerArgs,
    now_s: i64,
) -> Result<(), PushError> {
    if args.no_push {
        println!("not in force yet: `central enrol push`");
        return Ok(());
    }
    let ca = args.ca.clone().unwrap_or_else(|| certificate::ca(dir));
    let tls = Tls::new(ca, args.certificate.clone(), args.key.clone())?;
    let servers = Servers {
        url: args.url.clone(),
        tls,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| PushError::Connect {
            url: servers.url.clone(),
            why: e.to_string(),
        })?;
    let names = runtime.block_on(push(realm, &servers, now_s))?;
    println!("in force on {}", names.join(", "));
    Ok(())
}

fn now_s() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}
