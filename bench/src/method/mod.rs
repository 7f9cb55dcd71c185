//! How it is measured: pairs by turns, medians with intervals, CPU time, a disturbed pair again.

pub mod machine;
pub mod pairs;
pub mod progress;
pub mod stats;
pub mod syscalls;
