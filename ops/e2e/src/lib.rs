//! A whole system for a test: nats-server, replicas of central, an agent with simulated charge
//! points, and drivers that speak the contract over raw NATS, or look at their page in a browser.
//! Every process is a real one.

mod browser;
mod driver;
mod site;
mod web;

pub use browser::{Browser, Element, Look, Page};
pub use driver::{Driver, StartOptions, accepted, now_ms};
pub use site::{Charger, Layout, Site};
pub use web::{Web, driver_cli};
