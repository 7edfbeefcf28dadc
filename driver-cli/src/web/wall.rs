//! The operator's wall.
