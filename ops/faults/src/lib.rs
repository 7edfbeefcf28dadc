//! Machines that look for the fault that breaks a promise.

pub mod sim;
