use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use rand::Rng;

/// Below Linux's range for outgoing connections (from 32768). A port from
/// inside that range can be taken by any outgoing connection while its server
/// is down, and a client that keeps reconnecting to it can even meet itself.
const PORTS: Range<u16> = 15_000..32_000;

/// Of 17,000 ports a few are in use; more misses than this mean that binding
/// fails for another reason.
const ATTEMPTS_MAX: u32 = 200;

/// A loopback port on which nothing listens at this moment.
///
/// Picked at random, since test processes run side by side and do not know of
/// each other.
///
/// # Panics
/// When no port of the range can be bound.
#[must_use]
pub fn free_port() -> u16 {
    let mut rng = rand::rng();
    for _ in 0..ATTEMPTS_MAX {
        let port = rng.random_range(PORTS);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free loopback port in {PORTS:?} after {ATTEMPTS_MAX} attempts");
}
