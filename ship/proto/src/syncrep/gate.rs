//! For whom a position still waits: for views and the log.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::level::WaitMode;
use super::names::{SyncRepConfig, matches};
use super::standbys::Standby;
use crate::lsn::Lsn;

/// Who has to do something until a position is reached in a mode.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Gate<'a> {
    /// How many standbys still have to confirm it; zero when it is reached.
    pub missing: usize,
    /// Standbys that count and have not confirmed it, nearest first.
    pub behind: Vec<&'a str>,
    /// Standbys on the list that are connected and do not count yet: in catchup, or without a
    /// durable position. Only when too few count.
    pub unready: Vec<&'a str>,
    /// Members of the list without a connection. Only when too few count.
    pub absent: Vec<&'a str>,
}

impl<'a> Gate<'a> {
    pub(super) fn new(
        config: &'a SyncRepConfig,
        slots: &'a [Option<Standby>],
        mode: WaitMode,
        lsn: Lsn,
    ) -> Self {
        let standbys = || slots.iter().flatten();
        let (mut behind, mut reached) = (Vec::new(), 0);
        for standby in standbys().filter(|standby| standby.is_sync) {
            if standby.lsns.of(mode) >= Some(lsn) {
                reached += 1;
            } else {
                behind.push((standby.lsns.of(mode), standby.application_name.as_str()));
            }
        }
        let counting = reached + behind.len();
        let missing = config.num_sync.saturating_sub(reached);
        if missing == 0 {
            return Self::default();
        }
        behind.sort_by(|one, other| other.cmp(one));
        let behind = behind.into_iter().map(|(_, name)| name).collect();
        let mut gate = Self { missing, behind, ..Self::default() };
        if counting < config.num_sync {
            let named = |standby: &&Standby| standby.priority > 0 && !standby.is_sync;
            gate.unready = standbys().filter(named).map(|s| s.application_name.as_str()).collect();
            let connected = |member: &str| standbys().any(|s| matches(member, &s.application_name));
            // There may always be one more that `*` means.
            let absent = |member: &&str| *member == "*" || !connected(member);
            gate.absent = config.members.iter().map(String::as_str).filter(absent).collect();
        }
        gate
    }

    /// The one standby that will be the last to confirm it if all keep their order: the one that
    /// gates. `None` when it is reached; a member of the list when that is not connected.
    #[must_use]
    pub fn standby(&self) -> Option<&'a str> {
        let last = self.missing.checked_sub(1)?;
        let mut all = self.behind.iter().chain(&self.unready).chain(&self.absent);
        all.clone().nth(last).or_else(|| all.next_back()).copied()
    }
}

impl fmt::Display for Gate<'_> {
    /// As a log line names them: `2 of "a", "b", "c" (not ready), "d" (not connected)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.missing == 0 {
            return f.write_str("no standby");
        }
        let groups = [
            (&self.behind, ""),
            (&self.unready, " (not ready)"),
            (&self.absent, " (not connected)"),
        ];
        let names = groups.iter().flat_map(|(names, note)| names.iter().map(move |n| (n, note)));
        if names.clone().count() != self.missing {
            write!(f, "{} of ", self.missing)?;
        }
        for (i, (name, note)) in names.enumerate() {
            write!(f, "{}\"{name}\"{note}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
