//! Transactions that wait for their commit to be safe.
//!
//! One queue for each level, ordered by LSN; those that are released are always the first of it.
//!
//! Not here: the warnings of a wait that is given up, and who sends them.
//!
//! PostgreSQL: `SyncRepWaitForLSN`, `SyncRepQueueInsert`, `SyncRepWakeQueue`, `SyncRepCancelWait`
//! (src/backend/replication/syncrep.c).

use alloc::collections::VecDeque;

use super::level::{ModeLsns, SyncProgress, Synced, SynchronousCommit, WaitMode};
use crate::lsn::Lsn;

/// What a transaction waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WaitLevel {
    /// A flush to the disk of this server.
    LocalFlush,
    /// The own disk and the synchronous standbys.
    Standbys(WaitMode),
}

impl WaitLevel {
    const ALL: [Self; 4] = [
        Self::LocalFlush,
        Self::Standbys(WaitMode::Write),
        Self::Standbys(WaitMode::Flush),
        Self::Standbys(WaitMode::Apply),
    ];

    /// What a commit at this level waits for; `None` is nothing.
    #[must_use]
    pub const fn of_commit(level: SynchronousCommit) -> Option<Self> {
        match (level, level.wait_mode()) {
            (SynchronousCommit::Off, _) => None,
            (_, Some(mode)) => Some(Self::Standbys(mode)),
            (_, None) => Some(Self::LocalFlush),
        }
    }

    /// The level of a commit that waits for this.
    #[must_use]
    pub const fn commit(self) -> SynchronousCommit {
        match self {
            Self::LocalFlush => SynchronousCommit::Local,
            Self::Standbys(WaitMode::Write) => SynchronousCommit::RemoteWrite,
            Self::Standbys(WaitMode::Flush) => SynchronousCommit::On,
            Self::Standbys(WaitMode::Apply) => SynchronousCommit::RemoteApply,
        }
    }
}

/// What became of a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a waiter that forgets its ticket cannot be cancelled"]
pub enum Wait {
    /// There is nothing to wait for.
    Done,
    /// It goes on until it is released or cancelled.
    Pending(WaitTicket),
}

/// Names one wait, for taking it back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitTicket {
    level: WaitLevel,
    key: (Lsn, u64),
}

impl WaitTicket {
    /// What it waits for.
    #[must_use]
    pub const fn level(self) -> WaitLevel {
        self.level
    }

    /// The position that is waited for.
    #[must_use]
    pub const fn lsn(self) -> Lsn {
        self.key.0
    }
}

/// There are as many waiters as there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitersFull;

/// A wait that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Released<T> {
    /// The waiter, as it named itself.
    pub id: T,
    /// What was waited for.
    pub level: WaitLevel,
    /// The position that was waited for.
    pub lsn: Lsn,
}

/// An entry of a queue; one that was cancelled stays, empty, until it is first or too many are.
#[derive(Clone, Debug)]
struct Waiter<T> {
    key: (Lsn, u64),
    id: Option<T>,
}

/// Invariants: keys grow; the first waiter is not a cancelled one; at most half are.
#[derive(Clone, Debug)]
struct Queue<T> {
    waiters: VecDeque<Waiter<T>>,
    cancelled: usize,
}

impl<T> Queue<T> {
    const fn new() -> Self {
        Self { waiters: VecDeque::new(), cancelled: 0 }
    }

    fn len(&self) -> usize {
        self.waiters.len() - self.cancelled
    }

    fn first(&self) -> Option<Lsn> {
        self.waiters.front().map(|waiter| waiter.key.0)
    }

    fn insert(&mut self, key: (Lsn, u64), id: T) {
        let waiter = Waiter { key, id: Some(id) };
        // Commits arrive nearly in the order of their LSNs.
        if self.waiters.back().is_none_or(|last| last.key < key) {
            self.waiters.push_back(waiter);
        } else {
            let at = self.waiters.partition_point(|other| other.key < key);
            self.waiters.insert(at, waiter);
        }
    }

    fn pop(&mut self) -> Option<(Lsn, T)> {
        let waiter = self.waiters.pop_front()?;
        self.drop_cancelled();
        Some((waiter.key.0, waiter.id?))
    }

    fn cancel(&mut self, key: (Lsn, u64)) -> Option<T> {
        let at = self.waiters.binary_search_by(|waiter| waiter.key.cmp(&key)).ok()?;
        let id = self.waiters.get_mut(at)?.id.take()?;
        self.cancelled += 1;
        self.drop_cancelled();
        Some(id)
    }

    /// Restores the invariants after a waiter has gone. What it costs, cancelled waiters that go
    /// with it have paid.
    fn drop_cancelled(&mut self) {
        while self.waiters.front().is_some_and(|waiter| waiter.id.is_none()) {
            self.waiters.pop_front();
            self.cancelled -= 1;
        }
        if self.cancelled > self.waiters.len() / 2 {
            self.waiters.retain(|waiter| waiter.id.is_some());
            self.cancelled = 0;
        }
    }

    fn check(&self) {
        assert!(self.waiters.iter().is_sorted_by(|one, next| one.key < next.key));
        let cancelled = self.waiters.iter().filter(|waiter| waiter.id.is_none()).count();
        assert_eq!(cancelled, self.cancelled);
        assert!(cancelled <= self.waiters.len() / 2);
        assert!(self.waiters.front().is_none_or(|waiter| waiter.id.is_some()));
    }
}

/// Transactions that wait, each known by a `T`.
///
/// A wait for standbys is one for the own disk too: they may be faster.
///
/// Invariants:
/// - The own position only grows. What standbys have reached only grows within one generation, whatever
///   becomes of them, and is forgotten with it.
/// - There are at most `waiters_max` waiters.
#[derive(Clone, Debug)]
pub struct CommitWaiters<T> {
    queues: [Queue<T>; 4],
    flush_lsn: Lsn,
    /// PostgreSQL: `WalSndCtlData.lsn`.
    reached: ModeLsns,
    /// Of which generation that is.
    generation: u64,
    /// Whether standbys matter. PostgreSQL: `WalSndCtlData.sync_standbys_defined`.
    standbys_defined: bool,
    waiters_max: usize,
    next: u64,
}

impl<T> CommitWaiters<T> {
    /// Without a waiter, where everything before `flush_lsn` is on disk. Standbys do not matter
    /// until [`CommitWaiters::handle_synced`] says so.
    #[must_use]
    pub const fn new(flush_lsn: Lsn, waiters_max: usize) -> Self {
        Self {
            queues: [Queue::new(), Queue::new(), Queue::new(), Queue::new()],
            flush_lsn,
            reached: ModeLsns { write: None, flush: None, apply: None },
            generation: 0,
            standbys_defined: false,
            waiters_max,
            next: 0,
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queues.iter().map(Queue::len).sum()
    }

    /// Whether there is no waiter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to where waits of this level end; `None` when nothing was ever reached.
    #[must_use]
    pub fn released_lsn(&self, level: WaitLevel) -> Option<Lsn> {
        match level {
            WaitLevel::Standbys(mode) if self.standbys_defined => {
                Some(self.reached.of(mode)?.min(self.flush_lsn))
            }
            WaitLevel::Standbys(_) | WaitLevel::LocalFlush => Some(self.flush_lsn),
        }
    }

    /// Waits until `lsn` is reached.
    ///
    /// # Errors
    /// When there are too many waiters: the caller must take no more commits.
    pub fn wait(&mut self, level: WaitLevel, lsn: Lsn, id: T) -> Result<Wait, WaitersFull> {
        if self.released_lsn(level).unwrap_or_default() >= lsn {
            return Ok(Wait::Done);
        }
        if self.len() >= self.waiters_max {
            return Err(WaitersFull);
        }
        let key = (lsn, self.next);
        self.next += 1;
        self.queue(level).insert(key, id);
        Ok(Wait::Pending(WaitTicket { level, key }))
    }

    /// The own disk has everything before `flush_lsn`.
    pub fn handle_flushed(&mut self, flush_lsn: Lsn) {
        self.flush_lsn = self.flush_lsn.max(flush_lsn);
    }

    /// The standbys have got further, are too few, or matter no more.
    ///
    /// A reload with an empty list lets every wait end with the own disk, and no new one begin.
    /// PostgreSQL: `SyncRepReleaseWaiters`, `SyncRepUpdateSyncStandbysDefined`.
    ///
    /// Progress of an earlier generation than one that was given before changes nothing.
    pub fn handle_synced(&mut self, SyncProgress { generation, synced }: SyncProgress) {
        if generation < self.generation {
            return;
        }
        if generation > self.generation {
            self.generation = generation;
            self.reached = ModeLsns::default();
        }
        self.standbys_defined = match synced {
            Synced::Undefined => false,
            Synced::TooFew | Synced::Reached(_) => true,
        };
        if let Synced::Reached(lsns) = synced {
            self.reached = self.reached.zip(lsns, Ord::max);
        }
    }

    /// Takes a waiter whose position is reached.
    ///
    /// Costs one comparison a queue when there is none.
    pub fn poll_released(&mut self) -> Option<Released<T>> {
        WaitLevel::ALL.into_iter().find_map(|level| {
            let released = self.released_lsn(level);
            let queue = self.queue(level);
            queue.first().filter(|first| Some(*first) <= released)?;
            let (lsn, id) = queue.pop()?;
            Some(Released { id, level, lsn })
        })
    }

    /// Ends one wait: its transaction is committed here and perhaps nowhere else.
    ///
    /// `None` when it had already ended.
    pub fn cancel(&mut self, ticket: WaitTicket) -> Option<T> {
        self.queue(ticket.level).cancel(ticket.key)
    }

    /// Ends any one wait, the first of its level; again and again, all: the server stops.
    pub fn cancel_next(&mut self) -> Option<Released<T>> {
        WaitLevel::ALL.into_iter().find_map(|level| {
            let (lsn, id) = self.queue(level).pop()?;
            Some(Released { id, level, lsn })
        })
    }

    /// Everyone who waits, by level and position: for a view.
    pub fn iter(&self) -> impl Iterator<Item = (WaitLevel, Lsn, &T)> {
        WaitLevel::ALL.into_iter().zip(&self.queues).flat_map(|(level, queue)| {
            let waiters = queue.waiters.iter();
            waiters.filter_map(move |waiter| Some((level, waiter.key.0, waiter.id.as_ref()?)))
        })
    }

    /// Asserts the invariants.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        self.queues.iter().for_each(Queue::check);
        assert!(self.len() <= self.waiters_max);
    }

    fn queue(&mut self, level: WaitLevel) -> &mut Queue<T> {
        let [local, write, flush, apply] = &mut self.queues;
        match level {
            WaitLevel::LocalFlush => local,
            WaitLevel::Standbys(WaitMode::Write) => write,
            WaitLevel::Standbys(WaitMode::Flush) => flush,
            WaitLevel::Standbys(WaitMode::Apply) => apply,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(len: u64) -> Queue<u64> {
        let mut queue = Queue::new();
        (0..len).for_each(|key| queue.insert((Lsn(key), key), key));
        queue.check();
        queue
    }

    #[test]
    fn cancelled_waiters_go_when_they_are_more_than_half() {
        let mut queue = queue(10);
        for key in (5..10).rev() {
            assert_eq!(queue.cancel((Lsn(key), key)), Some(key));
        }
        assert_eq!((queue.waiters.len(), queue.cancelled, queue.len()), (10, 5, 5));
        queue.cancel((Lsn(4), 4));
        assert_eq!((queue.waiters.len(), queue.cancelled, queue.len()), (4, 0, 4));
        queue.check();
    }

    #[test]
    #[should_panic(expected = "is_sorted_by")]
    fn waiters_that_are_out_of_order_are_found() {
        let mut queue = queue(3);
        queue.waiters.swap(0, 2);
        queue.check();
    }

    #[test]
    #[should_panic(expected = "left == right")]
    fn cancelled_waiters_that_were_not_counted_are_found() {
        let mut queue = queue(3);
        queue.waiters[1].id = None;
        queue.check();
    }
}
