//! The connected standbys, and which positions enough of them have reached.
//!
//! Events of sessions come in. Who counts is worked out again only after an event that can change
//! that; a reply moves one standby among those that count, which costs the same however many there
//! are.
//!
//! PostgreSQL: `SyncRepGetCandidateStandbys`, `SyncRepGetSyncRecPtr`, `SyncRepReleaseWaiters`
//! (src/backend/replication/syncrep.c), `pg_stat_get_wal_senders` (walsender.c).

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::gate::Gate;
use super::latest::NthLatest;
use super::level::{ModeLsns, SyncState, Synced, WaitMode};
use super::names::{SyncRepConfig, SyncRepMethod};
use crate::lsn::Lsn;
use crate::walsender::WalSenderState;

/// Most standbys at once. PostgreSQL: `MAX_BACKENDS`.
pub const STANDBYS_MAX: usize = 0x3_FFFF;

/// A connected standby.
#[derive(Clone, Debug)]
pub(super) struct Standby {
    pub(super) application_name: String,
    pub(super) state: WalSenderState,
    pub(super) lsns: ModeLsns,
    /// 0 when the list does not name it.
    pub(super) priority: u32,
    /// Whether it is waited for, or counts for the quorum.
    pub(super) is_sync: bool,
}

impl Standby {
    /// Whether it may count. PostgreSQL: `SyncRepGetCandidateStandbys`.
    pub(super) fn is_candidate(&self) -> bool {
        // One in catchup would hold every commit until it has caught up. One without a durable
        // position, as pg_basebackup is, will never confirm anything.
        matches!(self.state, WalSenderState::Streaming | WalSenderState::Stopping)
            && self.priority > 0
            && self.lsns.flush.is_some()
    }
}

/// A standby has begun to count: to be logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Takeover {
    /// Its number among the standbys.
    pub index: usize,
    /// The name that `synchronous_standby_names` may have.
    pub application_name: String,
    /// How it was chosen.
    pub method: SyncRepMethod,
    /// Its `sync_priority`: 1 is the highest, 0 is asynchronous.
    pub priority: u32,
}

impl fmt::Display for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { application_name, priority, .. } = self;
        write!(f, "standby \"{application_name}\" is now a ")?;
        match self.method {
            SyncRepMethod::Priority => write!(f, "synchronous standby with priority {priority}"),
            SyncRepMethod::Quorum => f.write_str("candidate for quorum synchronous standby"),
        }
    }
}

/// The standbys by the slot of their session, and what `synchronous_standby_names` makes of them.
///
/// Among equal priorities the lower slot wins, so a new session takes the lowest free one, as in
/// PostgreSQL.
///
/// Invariants:
/// - While nothing is stale, `synced` is what a computation from nothing gives, up to the positions
///   that were told since: `latest` has those.
/// - Only a candidate is `is_sync`.
#[derive(Clone, Debug)]
pub struct SyncStandbys {
    config: Option<SyncRepConfig>,
    slots: Vec<Option<Standby>>,
    synced: Synced,
    /// Positions of those that count, in the order of [`WaitMode::ALL`], while enough do.
    latest: [NthLatest; 3],
    /// Other standbys may count now.
    is_stale: bool,
    takeovers: VecDeque<Takeover>,
    /// Reused by every computation.
    chosen: Vec<(u32, usize)>,
}

impl SyncStandbys {
    /// The set without a standby.
    #[must_use]
    pub const fn new(config: Option<SyncRepConfig>) -> Self {
        Self {
            config,
            slots: Vec::new(),
            synced: Synced::Undefined,
            latest: [const { NthLatest::new() }; 3],
            is_stale: true,
            takeovers: VecDeque::new(),
            chosen: Vec::new(),
        }
    }

    /// What is asked for; `None` is nothing.
    #[must_use]
    pub const fn config(&self) -> Option<&SyncRepConfig> {
        self.config.as_ref()
    }

    /// `synchronous_standby_names` was read again. PostgreSQL: `SyncRepInitConfig`.
    pub fn handle_config(&mut self, config: Option<SyncRepConfig>) {
        for standby in self.slots.iter_mut().flatten() {
            standby.priority = priority(config.as_ref(), &standby.application_name);
        }
        self.config = config;
        self.is_stale = true;
    }

    /// A standby has connected; it is in `startup`.
    ///
    /// # Panics
    /// If the slot is in use or not below [`STANDBYS_MAX`].
    pub fn handle_connected(&mut self, index: usize, application_name: &str) {
        assert!(index < STANDBYS_MAX, "slot {index}");
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        let slot = self.slots.get_mut(index).filter(|slot| slot.is_none());
        let Some(slot) = slot else { panic!("slot {index} is in use") };
        *slot = Some(Standby {
            application_name: String::from(application_name),
            state: WalSenderState::Startup,
            lsns: ModeLsns::default(),
            priority: priority(self.config.as_ref(), application_name),
            is_sync: false,
        });
    }

    /// A standby has changed its state.
    ///
    /// # Panics
    /// If no standby has this slot.
    pub fn handle_state(&mut self, index: usize, state: WalSenderState) {
        self.change(index, |standby| standby.state = state);
    }

    /// A standby has told its positions, which must be of the timeline that commits wait on.
    ///
    /// # Panics
    /// If no standby has this slot.
    pub fn handle_reply(&mut self, index: usize, lsns: ModeLsns) {
        self.change(index, |standby| standby.lsns = lsns);
        // Those that begin to count or cease to are looked at all together.
        if self.is_stale || !matches!(self.synced, Synced::Reached(_)) {
            return;
        }
        if self.standby_mut(index).is_sync {
            for (latest, mode) in self.latest.iter_mut().zip(WaitMode::ALL) {
                latest.handle_move(index, lsns.of(mode).unwrap_or_default());
            }
        }
    }

    /// A standby has gone.
    ///
    /// # Panics
    /// If no standby has this slot.
    pub fn handle_disconnected(&mut self, index: usize) {
        // From here on it counts for nothing, and the slot is free.
        self.change(index, |standby| standby.state = WalSenderState::Startup);
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = None;
        }
    }

    /// How far the configuration is fulfilled now.
    ///
    /// It may lie before an earlier answer: another standby took over, or the list has changed.
    pub fn synced(&mut self) -> Synced {
        if core::mem::take(&mut self.is_stale) {
            self.choose();
        }
        if let Synced::Reached(lsns) = &mut self.synced {
            let [write, flush, apply] = &mut self.latest;
            let [write, flush, apply] = [write.lsn(), flush.lsn(), apply.lsn()];
            *lsns = ModeLsns::of_wire(write, flush, apply);
        }
        self.synced
    }

    /// Whether a standby has this slot.
    #[must_use]
    pub fn contains(&self, index: usize) -> bool {
        self.slots.get(index).is_some_and(Option::is_some)
    }

    /// `sync_priority` and `sync_state` of a standby. PostgreSQL: `pg_stat_get_wal_senders`.
    ///
    /// # Panics
    /// If no standby has this slot.
    #[must_use]
    pub fn role(&mut self, index: usize) -> (u32, SyncState) {
        self.synced();
        let method = self.config.as_ref().map(|config| config.method);
        let standby = self.standby_mut(index);
        // A standby that cannot confirm anything is shown as an asynchronous one.
        let priority = if standby.lsns.flush.is_some() { standby.priority } else { 0 };
        let state = match (priority, standby.is_sync, method) {
            (0, ..) | (_, _, None) => SyncState::Async,
            (_, true, Some(SyncRepMethod::Priority)) => SyncState::Sync,
            (_, true, Some(SyncRepMethod::Quorum)) => SyncState::Quorum,
            (_, false, Some(_)) => SyncState::Potential,
        };
        (priority, state)
    }

    /// For whom a position still waits; `None` when no standby has to confirm anything.
    pub fn gate(&mut self, mode: WaitMode, lsn: Lsn) -> Option<Gate<'_>> {
        self.synced();
        let config = self.config.as_ref()?;
        Some(Gate::new(config, &self.slots, mode, lsn))
    }

    /// A standby that has begun to count since the last call.
    pub fn poll_takeover(&mut self) -> Option<Takeover> {
        self.synced();
        self.takeovers.pop_front()
    }

    /// Asserts the invariants.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        if self.is_stale {
            return;
        }
        let (mut same, mut fresh) = (self.clone(), self.clone());
        fresh.is_stale = true;
        assert_eq!(same.synced(), fresh.synced());
        if let Synced::Reached(_) = self.synced {
            self.latest.iter().chain(&same.latest).for_each(NthLatest::check);
        }
        for (old, new) in self.slots.iter().zip(&fresh.slots) {
            let is_sync = |slot: &Option<Standby>| slot.as_ref().is_some_and(|s| s.is_sync);
            assert_eq!(is_sync(old), is_sync(new));
            assert!(!is_sync(old) || old.as_ref().is_some_and(Standby::is_candidate));
        }
    }

    fn standby_mut(&mut self, index: usize) -> &mut Standby {
        let Some(Some(standby)) = self.slots.get_mut(index) else { panic!("no standby {index}") };
        standby
    }

    /// Makes a change that matters only if the standby begins or ceases to be a candidate.
    fn change(&mut self, index: usize, change: impl FnOnce(&mut Standby)) {
        let standby = self.standby_mut(index);
        let before = standby.is_candidate();
        change(standby);
        let role_changed = standby.is_candidate() != before;
        self.is_stale |= role_changed;
    }

    /// Works out who counts, and begins anew with their positions.
    fn choose(&mut self) {
        self.chosen.clear();
        for (index, slot) in self.slots.iter().enumerate() {
            if let Some(standby) = slot.as_ref().filter(|standby| standby.is_candidate()) {
                self.chosen.push((standby.priority, index));
            }
        }
        let Some(config) = &self.config else {
            self.synced = Synced::Undefined;
            return self.elect(None);
        };
        let SyncRepConfig { method, num_sync, .. } = *config;
        if method == SyncRepMethod::Priority && self.chosen.len() > num_sync {
            // PostgreSQL: standby_priority_comparator.
            self.chosen.select_nth_unstable(num_sync);
            self.chosen.truncate(num_sync);
            // The slots' order again, for `elect`.
            self.chosen.sort_unstable_by_key(|(_, index)| *index);
        }
        self.elect(Some(method));
        if self.chosen.len() < num_sync {
            self.synced = Synced::TooFew;
            return;
        }
        self.synced = Synced::Reached(ModeLsns::default());
        // With `FIRST n` there are just `n`, so it is the oldest of all. There PostgreSQL's
        // `SyncRepGetOldestSyncRecPtr` passes over an unknown position when a known one follows in
        // the array; here nothing is known as long as one standby says nothing, or an apply position
        // would stand for a standby that never replays.
        let slots = &self.slots;
        let lsn = |index: usize, mode| slots.get(index)?.as_ref()?.lsns.of(mode);
        for (latest, mode) in self.latest.iter_mut().zip(WaitMode::ALL) {
            let chosen = self.chosen.iter().map(|&(_, index)| index);
            let lsns = chosen.map(|index| (index, lsn(index, mode).unwrap_or_default()));
            latest.restart(num_sync, lsns);
        }
    }

    /// Those that are `chosen`, in the order of slots, count; others do not.
    fn elect(&mut self, method: Option<SyncRepMethod>) {
        let mut chosen = self.chosen.iter().map(|(_, index)| *index).peekable();
        let untold = self.takeovers.len();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let is_chosen = chosen.next_if_eq(&index).is_some();
            let Some(standby) = slot else { continue };
            let was_sync = core::mem::replace(&mut standby.is_sync, is_chosen);
            let Some(method) = method.filter(|_| is_chosen && !was_sync) else { continue };
            // A takeover that was not asked for yet need not be told twice.
            if untold > 0 {
                self.takeovers.retain(|told| told.index != index);
            }
            self.takeovers.push_back(Takeover {
                index,
                application_name: standby.application_name.clone(),
                method,
                priority: standby.priority,
            });
        }
    }
}

fn priority(config: Option<&SyncRepConfig>, application_name: &str) -> u32 {
    config.map_or(0, |config| config.priority(application_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(names: &str) -> Option<SyncRepConfig> {
        SyncRepConfig::parse(names).unwrap()
    }

    fn streaming(standbys: &mut SyncStandbys, index: usize, name: &str, lsn: u64) {
        standbys.handle_connected(index, name);
        standbys.handle_state(index, WalSenderState::Streaming);
        standbys.handle_reply(index, ModeLsns::of_wire(Lsn(lsn), Lsn(lsn), Lsn(lsn)));
    }

    #[test]
    fn a_slot_holds_a_standby_from_its_coming_to_its_going() {
        let mut standbys = SyncStandbys::new(None);
        standbys.handle_connected(2, "a");
        assert_eq!([0, 1, 2, 3].map(|index| standbys.contains(index)), [false, false, true, false]);
        standbys.handle_disconnected(2);
        assert!(!standbys.contains(2));
    }

    #[test]
    fn who_took_over_twice_before_anybody_asked_is_told_once_and_last() {
        let mut standbys = SyncStandbys::new(config("2 (a, b)"));
        streaming(&mut standbys, 0, "a", 1);
        streaming(&mut standbys, 1, "b", 1);
        standbys.synced();
        standbys.handle_state(0, WalSenderState::Catchup);
        standbys.synced();
        standbys.handle_state(0, WalSenderState::Streaming);
        let told = core::iter::from_fn(|| standbys.poll_takeover());
        assert_eq!(told.map(|it| it.index).collect::<Vec<_>>(), [1, 0]);
    }

    /// Two standbys that count, and what is wrong with one of them.
    fn checked(damage: impl FnOnce(&mut SyncStandbys)) {
        let mut standbys = SyncStandbys::new(config("2 (a, b)"));
        streaming(&mut standbys, 0, "a", 1);
        streaming(&mut standbys, 1, "b", 2);
        standbys.synced();
        standbys.check();
        damage(&mut standbys);
        standbys.check();
    }

    #[test]
    #[should_panic(expected = "left == right")]
    fn a_standby_that_counts_and_is_not_marked_is_found() {
        checked(|standbys| standbys.standby_mut(0).is_sync = false);
    }

    #[test]
    #[should_panic(expected = "left == right")]
    fn positions_that_nobody_told_are_found() {
        checked(|standbys| standbys.synced = Synced::TooFew);
    }

    #[test]
    fn what_is_stale_is_not_asserted() {
        checked(|standbys| {
            standbys.handle_state(0, WalSenderState::Catchup);
            standbys.synced = Synced::TooFew;
        });
    }
}
