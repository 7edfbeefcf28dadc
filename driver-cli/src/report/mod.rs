//! What reports say, without a terminal and without NATS.
//!
//! - [`month`]: when a month is, at a site
//! - [`rows`]: sessions, receipts and energy as rows
//! - [`uptime`]: minutes of connectors

pub mod month;
pub mod rows;
pub mod uptime;
