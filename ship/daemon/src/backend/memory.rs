//! The memory that the SQL sessions share: what `sql_memory_limit` allows.
//!
//! Sessions are tasks of one process, so what one of them holds is missing for the standbys. Whatever grows with what
//! a client sends or asks for is reserved here before it is there: messages that are read, bound parameters, a
//! transaction's records, rows, prepared statements. A reservation is given back when it is dropped.
//!
//! Each session has [`OWN_BYTES`] that are not counted, so that small statements (`pg_terminate_backend`) work when
//! others have used everything up.
//!
//! PostgreSQL: `MemoryContextAllocationFailure` (src/backend/utils/mmgr/mcxt.c); it has a process per session, and
//! the operating system's limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use walhub_sql::failure::Result;

/// What a session may hold before it counts: its buffers, and a small statement.
pub(super) const OWN_BYTES: usize = 256 << 10;
/// Reservations that grow do so by this much, so that most growth touches no counter.
const GRAIN: usize = 64 << 10;
/// `sql_memory_limit` where nobody has set it.
pub(super) const LIMIT_DEFAULT: usize = 128 << 20;

/// Bytes held and refused, for the view.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) used: usize,
    /// The most that was ever held.
    pub(super) peak: usize,
    /// Requests that were refused.
    pub(super) refused: u64,
}

/// What all sessions hold.
#[derive(Debug)]
pub struct Memory {
    limit: AtomicUsize,
    used: AtomicUsize,
    peak: AtomicUsize,
    refused: AtomicU64,
    /// The log has said that everything is used up, and it still is, or nearly.
    told: AtomicBool,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            limit: AtomicUsize::new(LIMIT_DEFAULT),
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            told: AtomicBool::new(false),
        }
    }
}

impl Memory {
    /// Sets `sql_memory_limit`. What is held beyond a lower one stays held.
    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// The most that all sessions may hold.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Takes `bytes`; `false` when the limit is in the way.
    fn take(&self, bytes: usize) -> bool {
        let limit = self.limit();
        let more = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= limit);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if let Ok(before) = taken {
            self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    fn take_anyway(&self, bytes: usize) {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        self.peak.fetch_max(before + bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        if before - bytes <= self.limit() / 2 && self.told.load(Ordering::Relaxed) {
            self.told.store(false, Ordering::Relaxed);
        }
    }

    /// What all sessions hold now.
    pub(super) fn usage(&self) -> Usage {
        Usage {
            used: self.used.load(Ordering::Relaxed),
            peak: self.peak.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    fn refuse(&self, bytes: usize) -> Report {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let limit = shown(self.limit());
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                hint = "walhub.sql_memory shows which sessions hold how much.",
                "SQL sessions have used up sql_memory_limit ({limit}): what needs more fails with \"out of memory\""
            );
        }
        let used = shown(self.used.load(Ordering::Relaxed));
        Report::error(SqlState::OUT_OF_MEMORY, "out of memory").detail(format!(
            "Failed on request of size {bytes}: SQL sessions hold {used} of sql_memory_limit ({limit})."
        ))
    }
}

/// As a size is written in the settings, rounded up.
fn shown(bytes: usize) -> String {
    if bytes >= 1 << 20 {
        format!("{}MB", bytes.div_ceil(1 << 20))
    } else {
        format!("{}kB", bytes.div_ceil(1024))
    }
}

/// What one session holds.
#[derive(Debug)]
pub(super) struct Account {
    memory: Arc<Memory>,
    held: AtomicUsize,
    peak: AtomicUsize,
    refused: AtomicU64,
}

/// The part of `pending` that counts.
const fn counted(held: usize) -> usize {
    held.saturating_sub(OWN_BYTES)
}

impl Account {
    /// Of a new session.
    pub(super) fn new(memory: Arc<Memory>) -> Arc<Self> {
        Arc::new(Self {
            memory,
            held: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// What the session holds now.
    pub(super) fn usage(&self) -> Usage {
        Usage {
            used: self.held.load(Ordering::Relaxed),
            peak: self.peak.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// A reservation of nothing yet.
    pub(super) fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation { account: Arc::clone(self), bytes: 0 }
    }

    /// A reservation of `bytes`.
    pub(super) fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation> {
        let mut reservation = self.reservation();
        reservation.grow_to(bytes)?;
        Ok(reservation)
    }

    /// The error for something that is larger than everything that there is; nobody needs to wait for it.
    pub(super) fn check_fits(&self, bytes: usize) -> Result<()> {
        if counted(bytes) <= self.memory.limit() { Ok(()) } else { Err(self.refuse(bytes)) }
    }

    fn refuse(&self, bytes: usize) -> Box<Report> {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Box::new(self.memory.refuse(bytes))
    }

    fn add(&self, bytes: usize) -> Result<()> {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        let more = counted(before + bytes) - counted(before);
        if more > 0 && !self.memory.take(more) {
            // The other way round: another thread of the session may have changed `held` meanwhile.
            self.memory.used.fetch_add(more, Ordering::Relaxed);
            self.remove(bytes);
            return Err(self.refuse(bytes));
        }
        self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        Ok(())
    }

    fn add_anyway(&self, bytes: usize) {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        self.memory.take_anyway(counted(before + bytes) - counted(before));
    }

    fn remove(&self, bytes: usize) {
        let before = self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.give_back(counted(before) - counted(before - bytes));
    }
}

/// Memory that is set aside, until it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    account: Arc<Account>,
    bytes: usize,
}

impl Reservation {
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) const fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Sets at least `bytes` aside; some more when that is more than before.
    ///
    /// # Errors
    /// `out of memory`; then it is as before.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<()> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let wanted = if bytes < GRAIN { bytes } else { bytes.next_multiple_of(GRAIN) };
        self.account.add(wanted - self.bytes)?;
        self.bytes = wanted;
        Ok(())
    }

    /// As [`Reservation::grow_to`], for what is there already and cannot be refused.
    pub(super) fn grow_anyway(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.account.add_anyway(bytes - self.bytes);
            self.bytes = bytes;
        }
    }

    /// Gives back what is more than `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        if bytes < self.bytes {
            self.account.remove(self.bytes - bytes);
            self.bytes = bytes;
        }
    }

    /// All of it, leaving nothing.
    pub(super) fn take(&mut self) -> Self {
        let bytes = std::mem::take(&mut self.bytes);
        Self { account: Arc::clone(&self.account), bytes }
    }

    /// Takes over what another reservation of the session holds.
    pub(super) fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(memory: &Memory) -> usize {
        memory.used.load(Ordering::Relaxed)
    }

    #[test]
    fn all_sessions_share_one_limit_and_each_has_a_little_of_its_own() {
        let memory = Arc::new(Memory::default());
        memory.set_limit(1 << 20);
        let (first, second) =
            (Account::new(Arc::clone(&memory)), Account::new(Arc::clone(&memory)));
        let mut small = first.reserve(OWN_BYTES).unwrap();
        assert_eq!(used(&memory), 0);
        small.grow_to(OWN_BYTES + (1 << 20)).unwrap();
        assert_eq!(used(&memory), 1 << 20);
        let refused = second.reserve(OWN_BYTES + 1).unwrap_err();
        assert_eq!((refused.sqlstate.0, &*refused.message), ("53200", "out of memory"));
        let detail = refused.detail.unwrap();
        assert!(detail.contains("sql_memory_limit (1MB)"), "{detail}");
        // The refusal has left nothing behind, and what is its own it still gets.
        assert_eq!(used(&memory), 1 << 20);
        let own = second.reserve(OWN_BYTES).unwrap();
        assert!(small.grow_to(OWN_BYTES + (1 << 20) + 1).is_err());
        assert_eq!(small.bytes(), OWN_BYTES + (1 << 20));
        drop(small);
        assert_eq!(used(&memory), 0);
        let mut more = second.reserve(1 << 19).unwrap();
        assert_eq!(used(&memory), 1 << 19);
        more.shrink_to(0);
        drop((own, more));
        assert_eq!(used(&memory), 0);
        assert_eq!(memory.peak.load(Ordering::Relaxed), 1 << 20);
    }

    #[test]
    fn what_changes_hands_is_counted_once() {
        let memory = Arc::new(Memory::default());
        let account = Account::new(Arc::clone(&memory));
        let mut read = account.reserve(1 << 20).unwrap();
        let mut kept = account.reservation();
        kept.absorb(read.take());
        assert_eq!((read.bytes(), kept.bytes()), (0, 1 << 20));
        drop(read);
        assert_eq!(used(&memory), (1 << 20) - OWN_BYTES);
        kept.grow_anyway(LIMIT_DEFAULT * 2);
        assert!(account.check_fits(LIMIT_DEFAULT * 2).is_err());
        memory.set_limit(1);
        drop(kept);
        assert_eq!(used(&memory), 0);
    }
}
