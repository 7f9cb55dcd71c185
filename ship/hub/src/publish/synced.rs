//! What the required standbys have reached, as the wal core publishes it.
//!
//! Positions are worth something within one generation only: that of a timeline and of a
//! `synchronous_standby_names`. Whoever keeps a position keeps the generation with it. Nobody reads a
//! new generation with a position of an old one: `interleavings` tries all orders.
//!
//! Not here: who counts (`walhub_proto::syncrep`), when a generation begins (`policy::sync`).
//!
//! PostgreSQL: `WalSndCtlData.lsn`, `WalSndCtlData.sync_standbys_defined`, both under `SyncRepLock`.

use crossbeam_utils::CachePadded;
use walhub_proto::lsn::Lsn;
use walhub_proto::syncrep::{ModeLsns, SyncProgress, Synced, WaitMode};

use super::atomics::{AtomicU64, Ordering};

const UNDEFINED: u64 = 0;
const TOO_FEW: u64 = 1;
const REACHED: u64 = 2;

/// Published by one core, read by any.
///
/// Invariant: within a generation no position goes back; what was reached once stays reached.
#[derive(Debug)]
pub struct PublishedSynced {
    generation: CachePadded<AtomicU64>,
    /// Which [`Synced`] it is.
    state: CachePadded<AtomicU64>,
    /// In the order of [`WaitMode::ALL`]; zero when nothing is known.
    lsns: [CachePadded<AtomicU64>; 3],
}

impl PublishedSynced {
    /// Nothing is asked for.
    #[must_use]
    pub fn new() -> Self {
        let zero = || CachePadded::new(AtomicU64::new(0));
        Self { generation: zero(), state: zero(), lsns: [zero(), zero(), zero()] }
    }

    /// How far `synchronous_standby_names` is fulfilled, and of which generation that is.
    #[must_use]
    pub fn load(&self) -> SyncProgress {
        // First: whoever sees a generation sees that the positions of the one before are gone.
        let generation = self.generation.load(Ordering::Acquire);
        let synced = match self.state.load(Ordering::Acquire) {
            UNDEFINED => Synced::Undefined,
            REACHED => {
                let [write, flush, apply] =
                    self.lsns.each_ref().map(|lsn| Lsn(lsn.load(Ordering::Acquire)));
                Synced::Reached(ModeLsns::of_wire(write, flush, apply))
            }
            _ => Synced::TooFew,
        };
        SyncProgress { generation, synced }
    }

    /// Whether `synchronous_standby_names` asks for anything.
    #[must_use]
    pub fn is_defined(&self) -> bool {
        self.state.load(Ordering::Acquire) != UNDEFINED
    }

    /// Publishes how far `synchronous_standby_names` is fulfilled.
    pub fn publish(&self, synced: Synced) {
        let state = match synced {
            Synced::Undefined => UNDEFINED,
            Synced::TooFew => TOO_FEW,
            Synced::Reached(lsns) => {
                for (published, mode) in self.lsns.iter().zip(WaitMode::ALL) {
                    let lsn = lsns.of(mode).unwrap_or_default().0;
                    if lsn > published.load(Ordering::Relaxed) {
                        published.store(lsn, Ordering::Release);
                    }
                }
                REACHED
            }
        };
        if self.state.load(Ordering::Relaxed) != state {
            self.state.store(state, Ordering::Release);
        }
    }

    /// Begins a generation in which nothing is reached yet.
    pub fn restart(&self, defined: bool) {
        self.state.store(if defined { TOO_FEW } else { UNDEFINED }, Ordering::Release);
        for published in &self.lsns {
            published.store(0, Ordering::Release);
        }
        // Last, for who reads it first.
        let generation = self.generation.load(Ordering::Relaxed);
        self.generation.store(generation.wrapping_add(1), Ordering::Release);
    }
}

impl Default for PublishedSynced {
    fn default() -> Self {
        Self::new()
    }
}
