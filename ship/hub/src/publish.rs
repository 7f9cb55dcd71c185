//! What the cores and the control plane tell each other without mail: positions, replies of standbys,
//! commits and who waits for them.

mod atomics;
pub mod commits;
pub mod dirty;
pub mod front;
pub mod in_transit;
pub mod interest;
#[cfg(test)]
mod interleavings;
pub mod latency;
pub mod positions;
pub mod synced;
