//! Who may do what on NATS. Accounts keep kinds of parties apart, a role is a signing key with a
//! template of subjects, and a credential is a name signed by it. Everything is decided in
//! [`roles`]; [`realm`] keeps the keys and what was issued; [`push`] puts it in force on running
//! servers.
#![forbid(unsafe_code)]

mod cli;
mod jwt;
pub mod push;
pub mod realm;
pub mod roles;

pub use cli::{Args, run};
pub use realm::{Enrolled, Realm, RealmError};
pub use roles::{Account, Role};
