//! Kernel profiles for walhub as data, and what checks, applies and undoes them.
//!
//! Everything goes through [`system::System`], so a scratch directory does as well as a machine.
//!
//! Not here: the command line (`walhub::cli::tune`), measuring (`walhub-bench`).

#![forbid(unsafe_code)]

pub mod apply;
pub mod check;
pub mod journal;
pub mod limits;
pub mod machine;
pub mod persist;
pub mod profile;
pub mod system;
pub mod table;
pub mod target;
pub mod undo;

#[cfg(test)]
mod scratch;

pub use apply::{Outcome, Step, apply};
pub use check::{Report, Row, State, check};
pub use machine::Machine;
pub use profile::{Kind, Knob, PROFILE_NAMES, Profile, Rule};
pub use system::{System, Tree};
pub use undo::undo;
