//! A whole system for a test: nats-server, replicas of central, an agent with simulated charge
//! points, and drivers that speak the contract over raw NATS. Every process is a real one.

mod driver;
mod page;
mod site;

pub use driver::{Driver, StartOptions, accepted, now_ms};
pub use page::{Answer, Event, Events, Page};
pub use site::{Charger, Layout, Site};
