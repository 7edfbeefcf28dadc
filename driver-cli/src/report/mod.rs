//! What reports say, without a terminal and without NATS.
//!
//! - [`month`]: when a month is, at a site
//! - [`rows`]: sessions, receipts and energy as rows; [`csv_row`]: a row as CSV
//! - [`uptime`]: minutes of connectors

pub mod csv_row;
pub mod month;
pub mod rows;
pub mod uptime;
