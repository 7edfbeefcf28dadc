//! `central enrol …`.

mod acts;
mod desk;
mod names;

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;
use ev_client::chain;
use ev_contract::{
    ids::{OperatorId, SiteId},
    limits::{ENROLLED_KW_MAX, TIME_ZONE_BYTES_MAX},
};

use self::desk::Failure;
use crate::{certificate, realm::DIR_DEFAULT, roles::Role};

/// Exit status for what is written but not in force, or not told, yet (`EX_TEMPFAIL` of
/// sysexits.h).
const EXIT_NOT_IN_FORCE: u8 = 75;
const EXIT_FAILED: u8 = 1;

/// Keys and credentials: who may connect, and as whom.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  central enrol init
  central enrol certificate --host nats-1.ev.internal
  central enrol charge-point CP-001
  central enrol driver alice bob --days 30
  central enrol charge-point --from cabinets.txt
  central enrol list
  central enrol revoke charge-point CP-001
  central enrol rotate charge-point --all")]
pub struct Args {
    /// The folder of keys.
    #[arg(long, global = true, env = "EV_KEYS_DIR", default_value = DIR_DEFAULT)]
    dir: PathBuf,
    /// Who does it, for the audit [default: the Unix user]
    #[arg(long, global = true, value_name = "NAME")]
    by: Option<OperatorId>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make all keys, and what nats-server needs to trust them. Once per installation.
    Init,
    /// Enrol replicas of central.
    #[command(before_help = "Example:\n  central enrol central central-a central-b")]
    Central(Somebody),
    /// Enrol charge points; central knows them from then on.
    #[command(before_help = "Examples:
  central enrol charge-point CP-001
  central enrol charge-point CP-001 --site SITE-A --time-zone Europe/Berlin --max-kw 22
  central enrol charge-point --from cabinets.txt --missing")]
    ChargePoint(ChargePoints),
    /// Enrol drivers.
    #[command(before_help = "Examples:
  central enrol driver alice bob carol
  central enrol driver alice --days 7
  central enrol driver --from - < names.txt")]
    Driver(Somebody),
    /// Enrol operators.
    #[command(before_help = "Example:\n  central enrol operator olga")]
    Operator(Somebody),
    /// Enrol somebody who repairs streams by hand: can destroy the ledger.
    #[command(before_help = "Example:\n  central enrol maintainer mona")]
    Maintainer(Somebody),
    /// Enrol the eyes of a replica of central at the door: sees who connects, closes connections.
    Doorkeeper(Somebody),
    /// Enrol a site's leaf node, for the charge points behind it and no others.
    #[command(before_help = "Examples:
  central enrol leaf SITE-A --charge-point CP-001 --charge-point CP-002
  central enrol leaf SITE-A --from cabinets.txt
  central enrol leaf SITE-A --charge-point CP-001 --again     another list")]
    Leaf(Leaf),
    /// Make credentials for a program that is many charge points at once. Only on a hub that is
    /// there to be tested: whoever holds one is each of them.
    #[command(before_help = "Example:
  edge-cp swarm --count 1000 --names | central enrol load SWARM --from -")]
    Load(Load),
    /// Say who has which credential, and until when.
    List {
        /// Only this role.
        role: Option<Role>,
        /// Revoked and expired ones too.
        #[arg(long)]
        all: bool,
    },
    /// Forget credentials that expired long ago. Nothing that is needed to keep anybody out goes.
    #[command(before_help = "Example:\n  central enrol forget --expired")]
    Forget {
        /// Those that expired more than so many days ago.
        #[arg(long, required = true, num_args = 0..=1, default_missing_value = "30", value_name = "DAYS")]
        expired: u32,
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
    RotateSigning {
        #[command(flatten)]
        servers: ServerArgs,
    },
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
        #[command(flatten)]
        servers: ServerArgs,
    },
    /// Put in force on the servers what is written here, and tell central and its audit what they
    /// have not heard yet.
    Push {
        /// Tell central of every charge point again.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        servers: ServerArgs,
    },
}

#[derive(Debug, clap::Args)]
struct Somebody {
    /// The ids, as in subjects: A-Z a-z 0-9 _ -
    #[arg(value_name = "NAME", required_unless_present = "from")]
    names: Vec<String>,
    /// A file with a name on each line; `-` is standard input. Blank lines and # are passed over.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// For how many days the credentials are good.
    #[arg(long)]
    days: Option<u32>,
    /// Add a credential beside those that are good.
    #[arg(long, conflicts_with = "missing")]
    again: bool,
    /// Pass over who has a credential that is good.
    #[arg(long)]
    missing: bool,
    #[command(flatten)]
    servers: ServerArgs,
}

#[derive(Debug, clap::Args)]
struct ChargePoints {
    #[command(flatten)]
    who: Somebody,
    /// The site where they stand, and so which prices apply [default: `default`, until
    /// `driver-cli op cp site` says another]
    #[arg(long, value_name = "SITE")]
    site: Option<SiteId>,
    /// The site's IANA time zone [default: UTC]
    #[arg(long, value_name = "ZONE", value_parser = time_zone)]
    time_zone: Option<String>,
    /// The most power of each, in kilowatts: what a charge point reports beyond it is flagged and
    /// not billed [default: what the strongest connector that is sold gives]
    #[arg(long, value_name = "KW", value_parser = clap::value_parser!(u32).range(1..=i64::from(ENROLLED_KW_MAX)))]
    max_kw: Option<u32>,
}

fn time_zone(name: &str) -> Result<String, String> {
    if name.len() > TIME_ZONE_BYTES_MAX || jiff::tz::TimeZone::get(name).is_err() {
        return Err("it is no IANA time zone; for instance Europe/Berlin".into());
    }
    Ok(name.to_owned())
}

#[derive(Debug, clap::Args)]
struct Leaf {
    /// The site's id, as in subjects: A-Z a-z 0-9 _ -
    site: String,
    /// A charge point behind it; several times for several.
    #[arg(
        long = "charge-point",
        value_name = "NAME",
        required_unless_present = "from"
    )]
    charge_points: Vec<String>,
    /// A file with a charge point on each line; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// For how many days the credential is good.
    #[arg(long)]
    days: Option<u32>,
    /// Add a credential beside one that is good.
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    servers: ServerArgs,
}

#[derive(Debug, clap::Args)]
struct Load {
    /// What the credentials are called, with -1, -2 and so on: A-Z a-z 0-9 _ -
    name: String,
    /// A file with a charge point on each line; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// For how many days the credentials are good.
    #[arg(long)]
    days: Option<u32>,
    #[command(flatten)]
    servers: ServerArgs,
}

#[derive(Debug, clap::Args)]
struct ServerArgs {
    /// Where nats-server is; several of one cluster with commas between.
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
    /// Only write it and ask no server; `push` does the rest.
    #[arg(long)]
    no_push: bool,
}

/// Does what was asked and says it.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let Err(failure) = acts::act(args) else {
        return ExitCode::SUCCESS;
    };
    match failure {
        Failure::Keys(error) => {
            eprintln!("central enrol: {}", chain(&error));
            if let Some(hint) = error.hint() {
                eprintln!("central enrol: {hint}");
            }
            ExitCode::from(EXIT_FAILED)
        }
        Failure::Names(refused) => {
            for (name, error) in &refused {
                eprintln!("central enrol: {name:?}: {}", chain(error));
            }
            eprintln!("central enrol: nobody was enrolled");
            ExitCode::from(EXIT_FAILED)
        }
        Failure::Push(error) => {
            eprintln!(
                "central enrol: written, but not in force: {}\n\
                 central enrol: `central enrol push` puts it in force",
                chain(&error)
            );
            ExitCode::from(EXIT_NOT_IN_FORCE)
        }
        Failure::Tell(error) => {
            eprintln!(
                "central enrol: done, but not told yet: {}\n\
                 central enrol: it is kept for central and its audit; the next command or `central \
                 enrol push` tells them",
                chain(&error)
            );
            ExitCode::from(EXIT_NOT_IN_FORCE)
        }
    }
}
