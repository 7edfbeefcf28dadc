//! One charge point, without I/O: what its connectors, sessions, commands and spool do.
//!
//! [`ChargePoint::handle`] takes one [`Input`] with the clocks' word and what was drawn at random,
//! and returns [`Effects`] as data. The shell commits all rows of one input in one transaction
//! before anything else of it leaves. Production, tests and simulations drive the same call.
//!
//! - [`charge_point`]: the entry: boot, `handle`, ticks, what heartbeats and `status` show
//! - [`session`]: a session and its stages
//! - [`connector`]: what a connector is, its record and its row
//! - [`commands`]: commands from central, acts at the cabinet
//! - [`transactions`]: what the hardware says of its own transactions
//! - [`meter`]: a register over time, its falls, jumps and resets
//! - [`mend`]: times that were written down before central's was known
//! - [`spool`]: numbering, sending and freeing of records
//! - [`clock`]: central's time on the monotonic clock
//! - [`hardware`]: the port to charger hardware
//! - [`effects`]: rows, replies and other effects
//! - [`rates`]: how often what is said
//! - [`watched`]: when live values are sent
//! - [`limits`]: every bound of this crate

pub mod charge_point;
pub mod clock;
pub mod commands;
pub mod connector;
pub mod effects;
pub mod hardware;
pub mod limits;
pub mod mend;
pub mod meter;
pub mod rates;
pub mod session;
pub mod spool;
pub mod transactions;
pub mod watched;

pub use charge_point::{ChargePoint, Identity, Input, Standing, Stored};
pub use commands::{Command, LocalStart};
pub use effects::{Answer, Draw, Effects, LocalAnswer, ReplyTo, Row};
pub use rates::Rates;
pub use spool::{EvtOutcome, SendRun};
pub use watched::Watched;
