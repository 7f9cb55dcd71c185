//! Whether somebody waits for what a core publishes, and whether that is to be told.
//!
//! The one who waits registers and looks at the positions; the one who publishes a position asks
//! whether anybody is registered. Neither takes a lock, and no order of the two loses a wake-up:
//! `interleavings` tries them all.
//!
//! Not here: the positions (`shared`), how it is told (`messages::ToControl::Commits`).

use crossbeam_utils::CachePadded;

use super::atomics::{AtomicBool, AtomicUsize, Ordering, fence};

/// How many wait, and whether the control plane is about to look.
///
/// The control plane registers and looks, the wal core tells. Each field on a cache line of its own:
/// every flush reads the one and every commit writes the other.
#[derive(Debug)]
pub struct CommitWakeups {
    waiting: CachePadded<AtomicUsize>,
    /// The control plane was told to look, and has not begun to.
    told: CachePadded<AtomicBool>,
}

impl CommitWakeups {
    /// Nobody waits.
    #[must_use]
    pub fn new() -> Self {
        Self {
            waiting: CachePadded::new(AtomicUsize::new(0)),
            told: CachePadded::new(AtomicBool::new(false)),
        }
    }

    /// Registers one who waits. Positions are to be read afterwards.
    pub fn begin(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Ends one wait.
    pub fn end(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Begins a look: what moves from now on is told again. Positions are to be read afterwards.
    pub fn begin_look(&self) {
        self.told.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Whether the control plane must be told that a position has moved. To be asked after that was
    /// published.
    #[must_use]
    pub fn must_tell(&self) -> bool {
        // Pairs with the fences of `begin` and `begin_look`: either they see the position, or what
        // they did is seen here.
        fence(Ordering::SeqCst);
        self.waiting.load(Ordering::Relaxed) > 0 && !self.told.swap(true, Ordering::AcqRel)
    }
}

impl Default for CommitWakeups {
    fn default() -> Self {
        Self::new()
    }
}
