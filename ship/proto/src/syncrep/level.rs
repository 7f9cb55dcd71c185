//! Words of synchronous replication: modes, levels, positions of each mode, roles.

use crate::lsn::Lsn;

/// What a standby must have done with a position. PostgreSQL: `SyncRepWaitMode`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WaitMode {
    /// Written: `remote_write`.
    Write,
    /// Made durable: `on`.
    Flush,
    /// Replayed: `remote_apply`.
    Apply,
}

impl WaitMode {
    /// Every mode, weakest first.
    pub const ALL: [Self; 3] = [Self::Write, Self::Flush, Self::Apply];
}

/// `synchronous_commit`. PostgreSQL: `SyncCommitLevel`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum SynchronousCommit {
    /// A commit waits for nothing.
    Off,
    /// For the own disk.
    Local,
    /// And for standbys to write.
    RemoteWrite,
    /// And for standbys to make it durable.
    #[default]
    On,
    /// And for standbys to replay it.
    RemoteApply,
}

impl SynchronousCommit {
    /// Every level, in the order in which PostgreSQL offers the words.
    /// PostgreSQL: `synchronous_commit_options`.
    pub const ALL: [Self; 5] =
        [Self::Local, Self::RemoteWrite, Self::RemoteApply, Self::On, Self::Off];
    /// Further words, which PostgreSQL reads and does not offer.
    pub const ALIASES: [(&'static str, Self); 6] = [
        ("true", Self::On),
        ("false", Self::Off),
        ("yes", Self::On),
        ("no", Self::Off),
        ("1", Self::On),
        ("0", Self::Off),
    ];

    /// The level that `value` names.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let offered = Self::ALL.into_iter().map(|level| (level.as_str(), level));
        let named = offered.chain(Self::ALIASES).find(|(name, _)| value.eq_ignore_ascii_case(name));
        named.map(|(_, level)| level)
    }

    /// As `SHOW` shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Local => "local",
            Self::RemoteWrite => "remote_write",
            Self::On => "on",
            Self::RemoteApply => "remote_apply",
        }
    }

    /// What standbys must do; `None` when they do not matter.
    /// PostgreSQL: `assign_synchronous_commit`.
    #[must_use]
    pub const fn wait_mode(self) -> Option<WaitMode> {
        match self {
            Self::Off | Self::Local => None,
            Self::RemoteWrite => Some(WaitMode::Write),
            Self::On => Some(WaitMode::Flush),
            Self::RemoteApply => Some(WaitMode::Apply),
        }
    }
}

/// One position for each mode; `None` where nothing is known, which is before every position.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ModeLsns {
    /// Written up to here.
    pub write: Option<Lsn>,
    /// Durable up to here.
    pub flush: Option<Lsn>,
    /// Replayed up to here.
    pub apply: Option<Lsn>,
}

impl ModeLsns {
    /// Positions as a status update carries them, zero where nothing is known.
    #[must_use]
    pub const fn of_wire(write: Lsn, flush: Lsn, apply: Lsn) -> Self {
        Self { write: write.valid(), flush: flush.valid(), apply: apply.valid() }
    }

    /// The position of `mode`.
    #[must_use]
    pub const fn of(&self, mode: WaitMode) -> Option<Lsn> {
        match mode {
            WaitMode::Write => self.write,
            WaitMode::Flush => self.flush,
            WaitMode::Apply => self.apply,
        }
    }

    /// Combines each position with that of `other`.
    #[must_use]
    pub(super) fn zip(
        self,
        other: Self,
        combine: fn(Option<Lsn>, Option<Lsn>) -> Option<Lsn>,
    ) -> Self {
        Self {
            write: combine(self.write, other.write),
            flush: combine(self.flush, other.flush),
            apply: combine(self.apply, other.apply),
        }
    }
}

/// What `synchronous_standby_names` asks for, and how far it is fulfilled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Synced {
    /// It asks for nothing.
    Undefined,
    /// It asks for more standbys than are streaming: nothing new is reached.
    TooFew,
    /// Enough standbys have reached these.
    Reached(ModeLsns),
}

/// How far it is fulfilled, and of which generation that is.
///
/// A position says nothing beyond the timeline and the list that it was reached under. With either of
/// them another generation begins, and what was reached in an earlier one is worth nothing in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SyncProgress {
    /// Grows with each new timeline and each new `synchronous_standby_names`.
    pub generation: u64,
    /// What is reached in it.
    pub synced: Synced,
}

/// The role of a standby. PostgreSQL: `pg_stat_get_wal_senders`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncState {
    /// No commit waits for it.
    Async,
    /// It would be waited for if others went away.
    Potential,
    /// It is waited for.
    Sync,
    /// It counts for a quorum.
    Quorum,
}

impl SyncState {
    /// As `pg_stat_replication.sync_state` shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Potential => "potential",
            Self::Sync => "sync",
            Self::Quorum => "quorum",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_has_the_word_of_the_view() {
        let all = [SyncState::Async, SyncState::Potential, SyncState::Sync, SyncState::Quorum];
        assert_eq!(all.map(SyncState::as_str), ["async", "potential", "sync", "quorum"]);
    }

    #[test]
    fn levels_parse_in_any_case_and_name_their_mode() {
        for level in [
            SynchronousCommit::Off,
            SynchronousCommit::Local,
            SynchronousCommit::RemoteWrite,
            SynchronousCommit::On,
            SynchronousCommit::RemoteApply,
        ] {
            let upper = level.as_str().to_ascii_uppercase();
            assert_eq!(SynchronousCommit::parse(&upper), Some(level));
        }
        assert_eq!(SynchronousCommit::parse("yes"), Some(SynchronousCommit::On));
        assert_eq!(SynchronousCommit::parse("0"), Some(SynchronousCommit::Off));
        for value in ["", "t", "remote_flush", " on", "of"] {
            assert_eq!(SynchronousCommit::parse(value), None, "{value:?}");
        }
        assert_eq!(SynchronousCommit::Local.wait_mode(), None);
        assert_eq!(SynchronousCommit::default().wait_mode(), Some(WaitMode::Flush));
    }
}
