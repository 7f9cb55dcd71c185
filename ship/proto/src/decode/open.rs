//! Transactions that have messages and are not at their end, and those whose end the client has
//! not confirmed.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::Message;
use crate::lsn::Lsn;

/// What a kept message takes beside its prefix and content.
const MESSAGE_OVERHEAD: usize = size_of::<Message>();

/// A transaction or subtransaction.
#[derive(Clone, Debug)]
struct OpenXact {
    /// Start of the record of its first message.
    start: Lsn,
    /// Position of its first message.
    first_lsn: Lsn,
    /// In order; `None` once they were let go.
    messages: Option<Vec<Message>>,
    bytes: usize,
}

/// Messages of transactions that have not ended.
///
/// Invariant: `kept_bytes` is the sum of all `bytes`, and at most `kept_bytes_max` between calls.
#[derive(Clone, Debug)]
pub(super) struct OpenXacts {
    xacts: BTreeMap<u32, OpenXact>,
    kept_bytes: usize,
    kept_bytes_max: usize,
}

/// The messages of a transaction that has ended.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    /// Here they are.
    Kept {
        /// Start of the first one's record.
        start: Lsn,
        /// Position of the first.
        first_lsn: Lsn,
        /// In order.
        messages: Vec<Message>,
    },
    /// They are in the WAL.
    LetGo {
        /// Start of the first one's record.
        start: Lsn,
        /// Position of the first.
        first_lsn: Lsn,
        /// The transaction and its subtransactions.
        xids: BTreeSet<u32>,
    },
}

impl Ended {
    pub(super) const fn start(&self) -> Lsn {
        match self {
            Self::Kept { start, .. } | Self::LetGo { start, .. } => *start,
        }
    }

    pub(super) const fn first_lsn(&self) -> Lsn {
        match self {
            Self::Kept { first_lsn, .. } | Self::LetGo { first_lsn, .. } => *first_lsn,
        }
    }
}

impl OpenXacts {
    pub(super) const fn new(kept_bytes_max: usize) -> Self {
        Self { xacts: BTreeMap::new(), kept_bytes: 0, kept_bytes_max }
    }

    pub(super) const fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    pub(super) fn oldest_start(&self) -> Option<Lsn> {
        self.xacts.values().map(|xact| xact.start).min()
    }

    pub(super) fn push(&mut self, xid: u32, start: Lsn, message: Message) {
        let xact = self.xacts.entry(xid).or_insert_with(|| OpenXact {
            start,
            first_lsn: message.lsn,
            messages: Some(Vec::new()),
            bytes: 0,
        });
        let Some(messages) = &mut xact.messages else { return };
        let bytes = MESSAGE_OVERHEAD + message.prefix.len() + message.content.len();
        messages.push(message);
        xact.bytes += bytes;
        self.kept_bytes += bytes;
        while self.kept_bytes > self.kept_bytes_max {
            self.let_go_of_largest();
        }
    }

    /// PostgreSQL: `ReorderBufferCheckMemoryLimit`, which writes it to a file instead.
    fn let_go_of_largest(&mut self) {
        let Some(largest) = self.xacts.values_mut().max_by_key(|xact| xact.bytes) else { return };
        self.kept_bytes -= largest.bytes;
        largest.bytes = 0;
        largest.messages = None;
    }

    fn remove(&mut self, xid: u32) -> Option<OpenXact> {
        let xact = self.xacts.remove(&xid)?;
        self.kept_bytes -= xact.bytes;
        Some(xact)
    }

    /// Ends a transaction; `None` when neither it nor these of its subtransactions have messages.
    pub(super) fn end(&mut self, xid: u32, subxacts: &[u32]) -> Option<Ended> {
        let all = || core::iter::once(xid).chain(subxacts.iter().copied());
        let parts: Vec<OpenXact> = all().filter_map(|xid| self.remove(xid)).collect();
        let start = parts.iter().map(|part| part.start).min()?;
        let first_lsn = parts.iter().map(|part| part.first_lsn).min()?;
        let kept: Option<Vec<Vec<Message>>> = parts.into_iter().map(|part| part.messages).collect();
        Some(match kept {
            Some(kept) => {
                let mut messages = kept.concat();
                messages.sort_by_key(|message| message.lsn);
                Ended::Kept { start, first_lsn, messages }
            }
            None => Ended::LetGo { start, first_lsn, xids: all().collect() },
        })
    }

    /// Forgets transactions that are older than `oldest`, as ids in a circle are.
    pub(super) fn abort_older_than(&mut self, oldest: u32) {
        let older = |xid: &u32| xid.wrapping_sub(oldest).cast_signed() < 0;
        let gone: Vec<u32> = self.xacts.keys().copied().filter(older).collect();
        for xid in gone {
            self.remove(xid);
        }
    }
}

/// Commits that the client has not confirmed, so that they come out again after a new start.
///
/// Of transactions that do not overlap there are as many as the client is behind, so two are made
/// one when there are [`UNCONFIRMED_MAX`]: that keeps WAL longer than need be and loses nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Unconfirmed {
    /// Ordered by commit, and by start: one that starts after a later one does not matter.
    xacts: VecDeque<Started>,
}

#[derive(Clone, Copy, Debug)]
struct Started {
    /// Start of the commit record.
    commit: Lsn,
    /// Start of the first message's record.
    start: Lsn,
}

/// How many commits are told apart.
const UNCONFIRMED_MAX: usize = 1024;

impl Unconfirmed {
    pub(super) fn push(&mut self, commit: Lsn, start: Lsn) {
        while self.xacts.back().is_some_and(|last| last.start >= start) {
            self.xacts.pop_back();
        }
        if self.xacts.len() == UNCONFIRMED_MAX
            && let Some(last) = self.xacts.back_mut()
        {
            last.commit = commit;
            return;
        }
        self.xacts.push_back(Started { commit, start });
    }

    /// Forgets what will not come out again. PostgreSQL: `SnapBuildXactNeedsSkip`.
    pub(super) fn confirm(&mut self, lsn: Lsn) {
        while self.xacts.front().is_some_and(|first| first.commit < lsn) {
            self.xacts.pop_front();
        }
    }

    pub(super) fn oldest_start(&self, confirmed: Lsn) -> Option<Lsn> {
        self.xacts.iter().find(|xact| xact.commit >= confirmed).map(|xact| xact.start)
    }
}
