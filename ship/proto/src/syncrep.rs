//! Synchronous replication: which standbys count, what they have all reached, and who waits for it.
//!
//! - `names`: `synchronous_standby_names`, parsed.
//! - `standbys`: the connected standbys, their roles, and the positions that enough of them reached.
//! - `latest`: the position that enough of them reached, kept up to date by each reply.
//! - `gate`: for whom a position still waits.
//! - `relay`: what a hub may tell its upstream.
//! - `waiters`: transactions that wait for their commit to get there.
//!
//! Not here: the queue by which replies reach their owner, sessions, warnings to clients.
//!
//! PostgreSQL: src/backend/replication/syncrep.c.

mod gate;
mod latest;
mod level;
mod names;
mod relay;
mod standbys;
mod waiters;

#[cfg(test)]
mod model;

pub use gate::Gate;
pub use level::{ModeLsns, SyncProgress, SyncState, Synced, SynchronousCommit, WaitMode};
pub use names::{NamesError, SyncRepConfig, SyncRepMethod};
pub use relay::{RelayPolicy, RelayReply};
pub use standbys::{STANDBYS_MAX, SyncStandbys, Takeover};
pub use waiters::{CommitWaiters, Released, Wait, WaitLevel, WaitTicket, WaitersFull};
