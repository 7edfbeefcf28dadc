//! Real parts for tests: a nats-server with the shipped configuration and keys
//! of its own, a cluster of three, a TCP proxy that breaks on demand, and our
//! own programs as child processes. As in production nobody gets in without a
//! credential: [`Keys`] hands them out by role and name.
//!
//! Nothing here is a stand-in: promises about crashes are only worth testing
//! against what crashes in production. Whatever is started is killed and its
//! data removed when its handle is dropped. The tail of its log is then written
//! to the test's standard error, which the test runner shows for a failed test
//! only.

mod cluster;
mod keys;
mod leaf;
mod monitor;
mod nats;
mod ports;
mod process;
mod programs;
mod proxy;
mod wait;

pub use cluster::Cluster;
pub use ev_enrol::{Role, certificate};
pub use keys::Keys;
pub use leaf::LeafServer;
pub use nats::NatsServer;
pub use ports::free_port;
pub use process::{Process, ProcessBuilder, hush};
pub use programs::{
    crash_program, nats_server_program, our_program, workspace_root, wrong_clock_env,
    wrong_clock_library,
};
pub use proxy::{TcpProxy, Traffic};
pub use wait::{PATIENCE, wait_for, wait_until};
