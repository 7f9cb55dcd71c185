//! WAL out: walsenders, and the cores that have them.

pub mod moves;
pub mod pace;
pub mod ship_core;
pub mod walsender;
