//! Who may do what on NATS. Accounts keep kinds of parties apart, a role is a signing key with a
//! template of subjects, and a credential is a name signed by it. Everything is decided in
//! [`roles`]; [`realm`] keeps the keys and what was issued; [`push`] puts it in force on running
//! servers; [`tell`] brings central and its audit what was done, kept in the [`outbox`] meanwhile;
//! [`certificate`] makes what TLS needs.
#![forbid(unsafe_code)]

pub mod audit;
pub mod certificate;
mod cli;
mod files;
mod issued;
mod jwt;
pub mod outbox;
pub mod push;
pub mod realm;
pub mod roles;
pub mod tell;

pub use cli::{Args, run};
pub use realm::{Enrolled, Realm, RealmError};
pub use roles::{Account, Role};
