//! Sessions that append and wait: the queue to the wal core, and who waits for what.
//!
//! Requests go to the wal core through a bounded queue, in order; it answers in the same order with
//! the places of the records, through another. Waiting is the control plane's own affair: it knows
//! from the published positions who is to be released, and is woken once a flush.
//!
//! Invariants:
//! - At most [`APPENDS_MAX`] requests are in the two queues together, so that the answer always has
//!   room; what is more waits in the backlog, which is at most one request a session.
//! - `interest` is the number of requests and waits that have not ended; while it is not zero, the
//!   wal core tells of every position that moves.
//!
//! Not here: how records are laid out (`intake::own`), when a position is reached
//! (`walhub_proto::syncrep`).
//!
//! PostgreSQL: `SyncRepWaitForLSN`, `SyncRepWakeQueue` (src/backend/replication/syncrep.c).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use tokio::sync::oneshot;
use walhub_engine::io::Waker;
use walhub_engine::mailbox::{Receiver, Sender, mailbox};
use walhub_proto::lsn::Lsn;
use walhub_proto::syncrep::{
    CommitWaiters, SyncProgress, Wait, WaitLevel, WaitMode, WaitTicket, WaitersFull,
};
use walhub_proto::time::Timestamp;
use walhub_proto::wire::backend::Report;

use crate::api::append::{Append, AppendAnswer, Appended, NewRecord, Waited, WalRequest};
use crate::publish::commit_wakeups::CommitWakeups;

/// Requests that the wal core has not answered, at most.
pub const APPENDS_MAX: usize = 4096;
/// Waiters at most: one a session.
const WAITERS_MAX: usize = 0x3_FFFF;

/// What the wal core is to do.
#[derive(Debug)]
pub enum Job {
    /// Appends records, and a commit record of this time.
    Append {
        /// The records.
        records: Vec<NewRecord>,
        /// When the transaction commits, and whether standbys should tell at once when it is replayed.
        commit: Option<(Timestamp, bool)>,
        /// Whether somebody waits for the places alone.
        is_urgent: bool,
        /// When the session asked.
        since: Timestamp,
    },
    /// Something else.
    Wal(WalRequest),
}

/// Where the wal core put what a job appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppendedAt {
    /// One past each record.
    pub ends: Vec<Lsn>,
    /// The transaction's xid.
    pub xid: Option<u32>,
    /// One past the last.
    pub end: Lsn,
    /// What the session is to be told beside that.
    pub warning: Option<Box<Report>>,
}

impl AppendedAt {
    /// That of a job without records of its own.
    #[must_use]
    pub const fn end(end: Lsn) -> Self {
        Self { ends: Vec::new(), xid: None, end, warning: None }
    }
}

/// The wal core's answer to a [`Job`].
pub type AppendOutcome = Result<AppendedAt, Report>;

#[derive(Debug)]
struct Shared {
    placed: ArrayQueue<AppendOutcome>,
    interest: CommitWakeups,
}

/// Makes the two ends; `waker` wakes the wal core.
#[must_use]
pub fn commits<W: Waker>(waker: W) -> (Commits, CommitLink) {
    let (jobs, receiver) = mailbox(APPENDS_MAX, waker);
    let shared =
        Arc::new(Shared { placed: ArrayQueue::new(APPENDS_MAX), interest: CommitWakeups::new() });
    let link = CommitLink { jobs: receiver, shared: Arc::clone(&shared) };
    let commits = Commits {
        jobs,
        shared,
        in_queue: 0,
        backlog: VecDeque::new(),
        requests: VecDeque::new(),
        waiters: CommitWaiters::new(Lsn::INVALID, WAITERS_MAX),
        waiting: BTreeMap::new(),
        on_release: OnRelease(Box::new(|_| ())),
    };
    (commits, link)
}

/// The wal core's end.
#[derive(Debug)]
pub struct CommitLink {
    jobs: Receiver<Job>,
    shared: Arc<Shared>,
}

impl CommitLink {
    /// The next job.
    #[must_use]
    pub fn next(&self) -> Option<Job> {
        self.jobs.recv()
    }

    /// Answers the oldest job that is not answered.
    ///
    /// # Panics
    /// If there was none.
    pub fn answer(&self, placed: AppendOutcome) {
        assert!(self.shared.placed.push(placed).is_ok(), "an answer without a job");
    }

    /// Whether the control plane must be told that a position has moved or an answer is there.
    /// To be asked after that was published.
    #[must_use]
    pub fn must_tell(&self) -> bool {
        self.shared.interest.must_tell()
    }
}

/// Whom an answer goes to.
#[derive(Debug)]
enum Reply {
    Append(oneshot::Sender<Result<Appended, Report>>),
    Wal(oneshot::Sender<Result<Lsn, Report>>),
    Wait(oneshot::Sender<Waited>),
}

/// A job that is not answered yet.
#[derive(Debug)]
struct Request {
    reply: Reply,
    wait: Option<WaitLevel>,
    owner: Option<u32>,
    since: Timestamp,
    canceled: bool,
}

/// A session that waits.
#[derive(Debug)]
pub struct Waiter {
    reply: Reply,
    place: AppendedAt,
    /// [`Client::pid`](crate::api::hub::Client::pid), when a session waits.
    pub owner: Option<u32>,
    /// Since when.
    pub since: Timestamp,
    /// What it waited for in vain, once its wait was cancelled.
    canceled: Option<WaitLevel>,
}

/// The control plane's end.
#[derive(Debug)]
pub struct Commits {
    jobs: Sender<Job>,
    shared: Arc<Shared>,
    /// Jobs that were sent and whose answer was not taken.
    in_queue: usize,
    backlog: VecDeque<Job>,
    /// In the order of the jobs.
    requests: VecDeque<Request>,
    waiters: CommitWaiters<Waiter>,
    waiting: BTreeMap<u32, WaitTicket>,
    on_release: OnRelease,
}

/// Is told of each append that is answered, and when it was asked for.
struct OnRelease(Box<dyn Fn(Timestamp) + Send>);

impl fmt::Debug for OnRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnRelease")
    }
}

impl Commits {
    /// From now on `on_release` is told of each append that is answered, and when it was asked for.
    pub fn tell_releases(&mut self, on_release: impl Fn(Timestamp) + Send + 'static) {
        self.on_release = OnRelease(Box::new(on_release));
    }

    /// Appends records. PostgreSQL: `XLogInsert`, `RecordTransactionCommit`.
    pub fn append(&mut self, append: Append, now: Timestamp) -> AppendAnswer {
        let (reply, answer) = oneshot::channel();
        let Append { records, commit, wait, owner } = append;
        let replayed = wait == Some(WaitLevel::Standbys(WaitMode::Apply));
        let commit = commit.map(|time| (time, replayed));
        let owner = Some(owner);
        self.request(
            Job::Append { records, commit, is_urgent: wait.is_none(), since: now },
            Request { reply: Reply::Append(reply), wait, owner, since: now, canceled: false },
        );
        answer
    }

    /// Has the wal core do something else.
    pub fn wal(
        &mut self,
        request: WalRequest,
        now: Timestamp,
    ) -> oneshot::Receiver<Result<Lsn, Report>> {
        let (reply, answer) = oneshot::channel();
        // PostgreSQL flushes a switch record, too: `XLogInsertRecord`.
        let wait = Some(WaitLevel::LocalFlush);
        self.request(
            Job::Wal(request),
            Request { reply: Reply::Wal(reply), wait, owner: None, since: now, canceled: false },
        );
        answer
    }

    /// Waits until `lsn` is reached.
    pub fn wait(
        &mut self,
        lsn: Lsn,
        level: WaitLevel,
        owner: u32,
        now: Timestamp,
        positions: impl FnOnce() -> (Lsn, SyncProgress),
    ) -> oneshot::Receiver<Waited> {
        let (reply, answer) = oneshot::channel();
        self.shared.interest.begin();
        self.take_positions(positions());
        let place = AppendedAt::end(lsn);
        let (reply, owner) = (Reply::Wait(reply), Some(owner));
        self.begin_wait(level, Waiter { reply, place, owner, since: now, canceled: None });
        answer
    }

    /// Ends the session's wait for standbys: it is answered as soon as what it waits for is durable
    /// here. PostgreSQL: `SyncRepCancelWait`.
    pub fn cancel(&mut self, owner: u32) {
        for request in &mut self.requests {
            if request.owner == Some(owner) {
                request.canceled |= matches!(request.wait, Some(WaitLevel::Standbys(_)));
            }
        }
        let Some(&ticket) = self.waiting.get(&owner) else { return };
        // What is only a wait has nothing to lose by being left at once.
        let Some(waiter) = self.waiters.cancel(ticket) else { return };
        self.waiting.remove(&owner);
        let is_commit = !matches!(waiter.reply, Reply::Wait(_));
        let level = ticket.level();
        match level {
            WaitLevel::LocalFlush if is_commit => self.begin_wait(level, waiter),
            WaitLevel::Standbys(_) if is_commit => {
                let waiter = Waiter { canceled: Some(level), ..waiter };
                self.begin_wait(WaitLevel::LocalFlush, waiter);
            }
            WaitLevel::LocalFlush | WaitLevel::Standbys(_) => {
                self.end(Waiter { canceled: Some(level), ..waiter });
            }
        }
    }

    /// Ends all waits that are nothing but that.
    pub fn cancel_waits(&mut self) {
        let is_wait = |waiter: &Waiter| matches!(waiter.reply, Reply::Wait(_));
        let waits = self.waiters.iter().filter(|(_, _, waiter)| is_wait(waiter));
        let owners: Vec<u32> = waits.filter_map(|(_, _, waiter)| waiter.owner).collect();
        owners.into_iter().for_each(|owner| self.cancel(owner));
    }

    /// Everyone who waits, and for what.
    pub fn waiters(&self) -> impl Iterator<Item = (WaitLevel, Lsn, &Waiter)> {
        self.waiters.iter()
    }

    fn request(&mut self, job: Job, request: Request) {
        self.shared.interest.begin();
        self.requests.push_back(request);
        self.backlog.push_back(job);
        self.send_jobs();
    }

    fn send_jobs(&mut self) {
        while self.in_queue < APPENDS_MAX
            && let Some(job) = self.backlog.pop_front()
        {
            match self.jobs.send(job) {
                Ok(()) => self.in_queue += 1,
                // The wal core has ended, and with it the process.
                Err(_) => return,
            }
        }
    }

    /// Takes the wal core's answers, and releases who has waited long enough.
    pub fn look(&mut self, positions: impl FnOnce() -> (Lsn, SyncProgress)) {
        self.shared.interest.begin_look();
        let mut answers = Vec::new();
        while let Some(placed) = self.shared.placed.pop() {
            answers.push(placed);
        }
        self.take_positions(positions());
        self.in_queue -= answers.len();
        for placed in answers {
            self.take_answer(placed);
        }
        self.send_jobs();
    }

    fn take_positions(&mut self, (flush_lsn, synced): (Lsn, SyncProgress)) {
        self.waiters.handle_flushed(flush_lsn);
        self.waiters.handle_synced(synced);
        while let Some(released) = self.waiters.poll_released() {
            if let Some(owner) = released.id.owner {
                self.waiting.remove(&owner);
            }
            self.end(released.id);
        }
    }

    fn take_answer(&mut self, placed: AppendOutcome) {
        let request = self.requests.pop_front().expect("an answer has its request");
        let Request { reply, wait, owner, since, canceled } = request;
        let place = match placed {
            Ok(place) => place,
            Err(report) => {
                self.shared.interest.end();
                return match reply {
                    Reply::Append(reply) => drop(reply.send(Err(report))),
                    Reply::Wal(reply) => drop(reply.send(Err(report))),
                    Reply::Wait(_) => unreachable!("a wait has no job"),
                };
            }
        };
        let canceled = wait.filter(|_| canceled);
        let waiter = Waiter { reply, place, owner, since, canceled };
        match wait {
            None => self.end(waiter),
            Some(_) if canceled.is_some() => self.begin_wait(WaitLevel::LocalFlush, waiter),
            Some(level) => self.begin_wait(level, waiter),
        }
    }

    fn begin_wait(&mut self, level: WaitLevel, waiter: Waiter) {
        let (lsn, owner) = (waiter.place.end, waiter.owner);
        if self.waiters.released_lsn(level).unwrap_or_default() >= lsn {
            return self.end(waiter);
        }
        match self.waiters.wait(level, lsn, waiter) {
            Ok(Wait::Pending(ticket)) => {
                if let Some(owner) = owner {
                    self.waiting.insert(owner, ticket);
                }
            }
            // Its answer channel is gone with it, and the session sees that.
            Ok(Wait::Done) | Err(WaitersFull) => {
                self.shared.interest.end();
            }
        }
    }

    /// Answers one who has waited long enough; a session that is gone does not mind.
    fn end(&mut self, waiter: Waiter) {
        self.shared.interest.end();
        let AppendedAt { ends, xid, end, warning } = waiter.place;
        // What is there in spite of the cancel needs no warning. PostgreSQL: SyncRepWaitForLSN looks at
        // the queue before it looks at interrupts.
        let released = |level| self.waiters.released_lsn(level).unwrap_or_default();
        let in_vain = waiter.canceled.is_some_and(|level| released(level) < end);
        let waited = if in_vain { Waited::Canceled } else { Waited::Reached };
        match waiter.reply {
            Reply::Append(reply) => {
                (self.on_release.0)(waiter.since);
                drop(reply.send(Ok(Appended { ends, xid, end, waited, warning })));
            }
            Reply::Wal(reply) => drop(reply.send(Ok(end))),
            Reply::Wait(reply) => drop(reply.send(waited)),
        }
    }
}

#[cfg(test)]
mod tests;
