//! How it is measured: pairs by turns, medians with intervals, CPU time, a disturbed pair again.

pub mod cache;
pub mod machine;
pub mod memory;
pub mod pairs;
pub mod progress;
pub mod stats;
pub mod syscalls;
