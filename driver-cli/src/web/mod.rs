//! Web pages over one identity's desk: what the driver's page and the operator's wall stand on.
//!
//! A page is a [`board::Board`]: parts of HTML with ids, in regions. Whoever asks for the page gets
//! the parts as they are; whoever listens at `/events` gets them as a snapshot and then what
//! changes. Both are the same text from the same renderer, so that a page with scripts and one
//! without say the same. One task owns what is shown and puts parts on the board; requests reach it
//! as messages. The credentials stay here.

pub mod board;
pub mod driver;
pub mod feed;
pub mod guard;
pub mod outcome;
pub mod server;
pub mod task;
pub mod wall;
