//! For people: single values, tables, progress, and where they go.

pub mod format;
pub mod output;
pub mod progress;
pub mod table;
