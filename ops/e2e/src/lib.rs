//! A whole system for a test: nats-server, replicas of central, an agent with simulated charge
//! points, and drivers that speak the contract over raw NATS, or look at their page in a browser.
//! Every process is a real one.

mod browser;
mod command;
mod driver;
mod page;
mod site;

pub use browser::{Browser, Element, Look, Tab};
pub use command::driver_cli;
pub use driver::{Driver, StartOptions, accepted, now_ms};
pub use page::{Answer, Event, Events, Page};
pub use site::{Charger, Layout, Site};
