//! The rules of the core, one by one, and its invariants under anything at all.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod anything;
mod bench;
mod clocks;
mod commands;
mod sessions;
