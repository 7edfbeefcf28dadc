//! Central's core: what is decided and what is remembered. No runtime, no clock, no random source:
//! time, ids and what the network showed come in as arguments, effects go out as data.
//!
//! - [`keys`], [`model`]: what the state consists of
//! - [`frame`]: how decisions are written to the ledger
//! - [`snapshot`]: the state as bytes
//! - [`state`]: applying the ledger; validity by position; the digest
//! - [`whole`]: whether the ledger that is there is the one that was served
//! - [`tx`]: a decision under way; collects what it read and what it writes
//! - [`decide`]: the business, one file per kind of question
//! - [`pricing`]: what a session costs, and its receipt
//! - [`verify`]: whether a ledger and its receipts are what they should be
//! - [`view`]: answers to questions; [`insight`] and [`trail`]: those that explain
//! - [`effects`]: what is to be done because the state is what it is
//! - [`overdue`]: sessions that have been in a phase for longer than can be meant
//! - [`ripe`]: what is due because time has passed
//! - [`clocks`]: whether this replica's clock is right, as far as others show

pub mod clocks;
mod codec;
pub mod decide;
pub mod effects;
pub mod frame;
pub mod insight;
pub mod keys;
pub mod model;
pub mod overdue;
pub mod pricing;
pub mod ripe;
pub mod snapshot;
pub mod state;
pub mod trail;
pub mod tx;
pub mod verify;
pub mod view;
pub mod whole;
