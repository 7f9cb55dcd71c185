//! What the cores and the control plane tell each other without mail: positions, replies of standbys,
//! commits and who waits for them.

mod atomics;
pub mod commit_wakeups;
pub mod commits;
pub mod dirty;
pub mod handle;
pub mod in_transit;
#[cfg(test)]
mod interleavings;
pub mod latency;
pub mod positions;
pub mod synced;
