//! Deterministic simulation: drivers, central replicas, a ledger, charge points with their
//! chargers, and everything between them, driven by a seed. No runtime, no clock, no thread: an
//! event at a time, and after each one the judge is asked whether all promises hold.
//!
//! - [`script`]: what happens, as data
//! - [`world`]: the loop, and whether everything ends when faults do
//! - [`net`]: time, messages, the ledger
//! - [`replica`], [`cabinet`], [`charger`]: the parts
//! - [`judge`]: what must be true
//! - [`shrink`]: a failing script, made smaller
//! - [`command`]: the command line

pub mod cabinet;
pub mod charger;
pub mod command;
pub mod dice;
pub mod judge;
pub mod net;
pub mod replica;
pub mod script;
pub mod shrink;
pub mod world;

pub use judge::Broken;
pub use script::{Mix, Script};
pub use world::{Totals, run};
