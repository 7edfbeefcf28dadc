//! The operator's wall: every charge point, who charges where, what happens; out of service and back,
//! and the end of a session with a reason.

pub mod hub;
pub mod routes;
pub mod shown;
pub mod view;
