//! The driver's page: charge points, the sessions of one driver, history and receipts.

pub mod due;
pub mod hub;
pub mod intents;
pub mod routes;
pub mod shown;
pub mod view;
