//! WAL out: walsenders, and the cores that have them.

pub mod moves;
pub mod pace;
pub mod placement;
pub mod ship_core;
pub mod ships;
pub mod walsender;
