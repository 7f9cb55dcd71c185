//! What the cores publish: positions on cache lines of their own, and one entry per standby.
//!
//! Every field has one writing core; everyone may read. A reader that wants a position *and* the
//! mail that was sent before it was published reads the position first and its mailbox second.

use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;
use walhub_engine::io::Released;
use walhub_engine::published::Published;
use walhub_proto::convert::to_u64;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::segment::SegNo;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::syncrep::{ModeLsns, SyncProgress, Synced};
use walhub_proto::time::Timestamp;
use walhub_proto::walreceiver::WalReceiverState;
use walhub_proto::walsender::WalSenderState;
use walhub_proto::wire::backend::Report;

use crate::api::rows::{CoreStatsRow, Identity, Positions};
use crate::publish::dirty::DirtyBits;
use crate::publish::latency::Latencies;
use crate::publish::synced::PublishedSynced;
use crate::role::{PublishedRole, Role};

/// A position that one core moves and all may read, on a cache line of its own.
#[derive(Debug, Default)]
pub struct PublishedLsn(Published);

impl PublishedLsn {
    /// Publishes the position, and with it everything that its writer did before.
    pub fn store(&self, lsn: Lsn) {
        self.0.publish(lsn.0);
    }

    /// Reads the position.
    #[must_use]
    pub fn load(&self) -> Lsn {
        Lsn(self.0.load())
    }
}

/// A segment whose WAL is not what it should be: it is served to nobody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedSegment {
    /// Timeline in its name.
    pub timeline: TimelineId,
    /// Number in its name.
    pub segno: SegNo,
    /// Its name.
    pub file: String,
    /// Where it is wrong.
    pub at: Lsn,
    /// What is wrong.
    pub reason: String,
}

/// The segments that must not be served. Found at start and by whoever reads the WAL again.
#[derive(Debug, Default)]
pub struct DamagedSegments(ArcSwap<Vec<DamagedSegment>>);

impl DamagedSegments {
    /// Adds one that was found; whether it is new.
    pub fn add(&self, found: &DamagedSegment) -> bool {
        let is_same =
            |known: &DamagedSegment| known.timeline == found.timeline && known.segno == found.segno;
        let before = self.0.rcu(|known| {
            let mut known = known.as_ref().clone();
            if !known.iter().any(is_same) {
                known.push(found.clone());
            }
            known
        });
        !before.iter().any(is_same)
    }

    /// Why the segment must not be served.
    #[must_use]
    pub fn refusal(&self, timeline: TimelineId, segno: SegNo) -> Option<Report> {
        let known = self.0.load();
        let found =
            known.iter().find(|known| known.segno == segno && known.timeline == timeline)?;
        let DamagedSegment { file, at, reason, .. } = found;
        let report = Report::error(
            SqlState::DATA_CORRUPTED,
            format!("requested WAL segment {file} is damaged and is not sent"),
        );
        Some(report.detail(format!("At {at}: {reason}")))
    }

    /// Whether WAL from `segno` on cannot all be served.
    #[must_use]
    pub fn is_any_from(&self, segno: SegNo) -> bool {
        self.0.load().iter().any(|known| known.segno >= segno)
    }
}

/// Positions and facts of the whole hub. Written by the wal core only.
#[derive(Debug, Default)]
pub struct Shared {
    /// Set once, at the first contact with the upstream or from the control file.
    pub identity: OnceLock<Identity>,
    /// End of what was received and verified; zero before the first WAL.
    pub received_lsn: PublishedLsn,
    /// End of what was written.
    pub write_lsn: PublishedLsn,
    /// End of what is durable.
    pub flush_lsn: PublishedLsn,
    /// End of what some standby of this timeline was sent; see [`Shared::note_sent`].
    sent_lsn: AtomicU64,
    /// First position whose segment is still on disk.
    pub oldest_lsn: PublishedLsn,
    /// The next transaction id after `received_lsn`, with its epoch; zero while no checkpoint was seen.
    pub next_xid: AtomicU64,
    /// Timeline of `received_lsn`.
    pub timeline: AtomicU32,
    /// What the required standbys have reached.
    pub synced: PublishedSynced,
    /// Whether standbys get WAL only once it is durable here (`forward = flushed`).
    pub forward_flushed: AtomicBool,
    /// Who this server is.
    pub role: PublishedRole,
    /// Set when the hub stops.
    pub stopping: AtomicBool,
    /// Where commits' time goes.
    pub latencies: Latencies,
    /// The walreceiver, for its view.
    pub receiver: SharedReceiver,
    /// Segments that must not be served.
    pub damaged: DamagedSegments,
    /// What each ship core counts; set once at the start.
    pub ships: OnceLock<Vec<Arc<ShipStats>>>,
}

impl Shared {
    /// End of what standbys may be sent now.
    #[must_use]
    pub fn sendable_lsn(&self) -> Lsn {
        if self.forward_flushed.load(Ordering::Relaxed) {
            self.flush_lsn.load()
        } else {
            self.received_lsn.load()
        }
    }

    /// A standby that streams `timeline` was sent everything before `lsn`. Of a timeline that has been left
    /// this says nothing.
    pub fn note_sent(&self, lsn: Lsn, timeline: TimelineId) {
        if self.timeline.load(Ordering::Relaxed) != timeline.to_u32() {
            return;
        }
        self.sent_lsn.fetch_max(lsn.0, Ordering::AcqRel);
        // The timeline was left meanwhile. Whoever has added to what `begin_timeline` had cleared sees
        // the new one here.
        if self.timeline.load(Ordering::Relaxed) != timeline.to_u32() {
            let (changed, same) = (Ordering::AcqRel, Ordering::Relaxed);
            // Who has sent more than that clears it.
            let _ = self.sent_lsn.compare_exchange(lsn.0, 0, changed, same);
        }
    }

    /// End of what some standby of this timeline was sent; zero before the first.
    #[must_use]
    pub fn sent_lsn(&self) -> Lsn {
        Lsn(self.sent_lsn.load(Ordering::Acquire))
    }

    /// WAL goes on on this timeline, and nobody was sent anything of it yet.
    pub fn begin_timeline(&self, timeline: TimelineId) {
        self.timeline.store(timeline.to_u32(), Ordering::Release);
        self.sent_lsn.store(0, Ordering::Release);
    }

    /// What commits may be told: the end of what is durable here, and what standbys have come to.
    #[must_use]
    pub fn acknowledged(&self) -> (Lsn, SyncProgress) {
        let (flush_lsn, progress) = (self.flush_lsn.load(), self.synced.load());
        // Read after them: what has moved since this server was fenced is acknowledged to nobody.
        match self.role.load() {
            Role::Relay | Role::Promoting | Role::Primary => (flush_lsn, progress),
            Role::Fenced => (Lsn::INVALID, SyncProgress { synced: Synced::TooFew, ..progress }),
        }
    }

    /// Whether `synchronous_standby_names` asks for anything.
    #[must_use]
    pub fn is_sync_defined(&self) -> bool {
        self.synced.is_defined()
    }

    /// All positions, or `None` before the first WAL.
    #[must_use]
    pub fn positions(&self) -> Option<Positions> {
        let received_lsn = self.received_lsn.load().valid()?;
        Some(Positions {
            timeline: TimelineId::new(self.timeline.load(Ordering::Acquire))?,
            oldest_lsn: self.oldest_lsn.load(),
            received_lsn,
            sendable_lsn: self.sendable_lsn(),
            write_lsn: self.write_lsn.load(),
            flush_lsn: self.flush_lsn.load(),
        })
    }
}

/// Numbers behind `pg_stat_wal_receiver`. Written by the wal core only.
#[derive(Debug, Default)]
pub struct SharedReceiver {
    /// `WalReceiverState` by its number.
    pub status: AtomicU8,
    /// First position of this streaming session.
    pub start_lsn: AtomicU64,
    /// Timeline it began on.
    pub start_tli: AtomicU32,
    /// Send time of the last message.
    pub last_send_time: AtomicI64,
    /// Receipt time of the last message.
    pub last_receipt_time: AtomicI64,
    /// Last end of WAL that the upstream told.
    pub latest_end_lsn: AtomicU64,
    /// When it told that.
    pub latest_end_time: AtomicI64,
}

impl SharedReceiver {
    /// Publishes the state.
    pub fn set_state(&self, state: WalReceiverState) {
        let number = RECEIVER_STATES.iter().position(|&known| known == state).unwrap_or(0);
        self.status.store(u8::try_from(number).expect("there are few states"), Ordering::Relaxed);
    }

    /// The state's PostgreSQL name.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        RECEIVER_STATES
            .get(usize::from(self.status.load(Ordering::Relaxed)))
            .copied()
            .unwrap_or(WalReceiverState::Stopped)
            .as_str()
    }
}

const RECEIVER_STATES: [WalReceiverState; 6] = [
    WalReceiverState::Stopped,
    WalReceiverState::Starting,
    WalReceiverState::Streaming,
    WalReceiverState::Waiting,
    WalReceiverState::Restarting,
    WalReceiverState::Stopping,
];

/// Where bytes that were sent came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendPath {
    /// From memory: the tail cache, or a message without WAL.
    Tail,
    /// From the tail cache, by the kernel itself.
    ZeroCopy,
    /// From the page cache, without a copy.
    SendFile,
    /// Read from a segment into a buffer.
    Read,
}

/// What a ship core counts, on cache lines of its own. Written by that core only.
#[derive(Debug, Default)]
pub struct ShipStats {
    counts: CachePadded<ShipCounts>,
}

/// Numbers behind `walhub.core_stats`.
#[derive(Debug, Default)]
pub struct ShipCounts {
    /// Sessions there are.
    pub sessions: AtomicU64,
    /// Rounds over all sessions.
    pub rounds: AtomicU64,
    /// Rounds put off, to go with the next one.
    pub rounds_put_off: AtomicU64,
    /// Sends completed.
    pub sends: AtomicU64,
    /// Bytes by [`SendPath::Tail`], and those by [`SendPath::ZeroCopy`] that were copied after all.
    pub tail_bytes: AtomicU64,
    /// Bytes by [`SendPath::ZeroCopy`] that really were not copied.
    pub zerocopy_bytes: AtomicU64,
    /// Bytes by [`SendPath::SendFile`].
    pub sendfile_bytes: AtomicU64,
    /// Bytes by [`SendPath::Read`].
    pub read_bytes: AtomicU64,
    /// Bytes of records, by whichever path what is in them came.
    pub tls_bytes: AtomicU64,
    /// Sessions taken over from another core.
    pub moved_in: AtomicU64,
}

impl ShipStats {
    /// The numbers.
    #[must_use]
    pub fn counts(&self) -> &ShipCounts {
        &self.counts
    }

    /// The numbers as a row.
    #[must_use]
    pub fn row(&self, core: u64) -> CoreStatsRow {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        CoreStatsRow {
            core,
            sessions: count(&self.counts.sessions),
            rounds: count(&self.counts.rounds),
            rounds_put_off: count(&self.counts.rounds_put_off),
            sends: count(&self.counts.sends),
            tail_bytes: count(&self.counts.tail_bytes),
            zerocopy_bytes: count(&self.counts.zerocopy_bytes),
            sendfile_bytes: count(&self.counts.sendfile_bytes),
            read_bytes: count(&self.counts.read_bytes),
            tls_bytes: count(&self.counts.tls_bytes),
            moved_in: count(&self.counts.moved_in),
        }
    }

    /// Counts a send. Whether bytes by [`SendPath::ZeroCopy`] were copied is known only later.
    pub fn count_sent(&self, path: SendPath, bytes: usize) {
        let of_path = match path {
            SendPath::Tail => Some(&self.counts.tail_bytes),
            SendPath::ZeroCopy => None,
            SendPath::SendFile => Some(&self.counts.sendfile_bytes),
            SendPath::Read => Some(&self.counts.read_bytes),
        };
        if let Some(of_path) = of_path {
            Self::add(of_path, to_u64(bytes));
        }
        Self::add(&self.counts.sends, 1);
    }

    /// Counts the bytes of a send by [`SendPath::ZeroCopy`], once it is known what came of it.
    pub fn count_released(&self, released: Released) {
        let of_path = match released.copied {
            true => &self.counts.tail_bytes,
            false => &self.counts.zerocopy_bytes,
        };
        Self::add(of_path, to_u64(released.bytes));
    }

    /// Adds to a number. There is one writer, so this is no locked instruction.
    pub fn add(number: &AtomicU64, more: u64) {
        number.store(number.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }
}

/// Lag that is not known.
pub const LAG_UNKNOWN: i64 = -1;

/// One standby, as its ship core last saw it.
///
/// Written by the ship core that serves it; `in_use` is set by the control plane and cleared by the
/// wal core. The positions are the standby's claims: data, never asserted.
#[derive(Debug)]
pub struct Standby {
    /// Whether a session has this entry.
    pub in_use: AtomicBool,
    /// [`WalSenderState`] by its number.
    pub state: AtomicU8,
    /// Sent to it.
    pub sent_lsn: AtomicU64,
    /// Written by it.
    pub write_lsn: AtomicU64,
    /// Made durable by it.
    pub flush_lsn: AtomicU64,
    /// Replayed by it.
    pub apply_lsn: AtomicU64,
    /// End of the WAL that it has and did not get from here, or zero: `WalSender::seam`.
    seam: AtomicU64,
    /// Send time of its last reply; `i64::MIN` before the first.
    pub reply_time: AtomicI64,
    /// Lag of write, flush and apply in microseconds, or [`LAG_UNKNOWN`].
    pub lag_us: [AtomicI64; 3],
    /// Oldest transaction it needs, its epoch in the upper half; zero for none.
    pub xmin: AtomicU64,
    /// The same for catalogue rows.
    pub catalog_xmin: AtomicU64,
    /// Whether it has said what it needs in this session.
    pub has_fed_back: AtomicBool,
    /// The core for live standbys that it belongs to, by number. The wal core's to set.
    pub home: AtomicUsize,
    /// Whether its session is to end: on whichever core it is, or arrives next. The wal core's to set.
    pub must_end: AtomicBool,
}

impl Standby {
    fn new() -> Self {
        Self {
            in_use: AtomicBool::new(false),
            state: AtomicU8::new(0),
            sent_lsn: AtomicU64::new(0),
            write_lsn: AtomicU64::new(0),
            flush_lsn: AtomicU64::new(0),
            apply_lsn: AtomicU64::new(0),
            seam: AtomicU64::new(0),
            reply_time: AtomicI64::new(i64::MIN),
            lag_us: [const { AtomicI64::new(LAG_UNKNOWN) }; 3],
            xmin: AtomicU64::new(0),
            catalog_xmin: AtomicU64::new(0),
            has_fed_back: AtomicBool::new(false),
            home: AtomicUsize::new(0),
            must_end: AtomicBool::new(false),
        }
    }

    /// Forgets what an earlier session left.
    pub fn reset(&self) {
        self.state.store(0, Ordering::Relaxed);
        let numbers = [&self.sent_lsn, &self.write_lsn, &self.flush_lsn, &self.apply_lsn];
        for number in numbers.into_iter().chain([&self.seam, &self.xmin, &self.catalog_xmin]) {
            number.store(0, Ordering::Relaxed);
        }
        self.has_fed_back.store(false, Ordering::Relaxed);
        self.must_end.store(false, Ordering::Relaxed);
        self.reply_time.store(i64::MIN, Ordering::Relaxed);
        for lag in &self.lag_us {
            lag.store(LAG_UNKNOWN, Ordering::Relaxed);
        }
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> WalSenderState {
        let number = usize::from(self.state.load(Ordering::Relaxed));
        STATES.get(number).copied().unwrap_or(WalSenderState::Startup)
    }

    /// Publishes the state, and says whether it is another one.
    pub fn set_state(&self, state: WalSenderState) -> bool {
        let number = STATES.iter().position(|&known| known == state).unwrap_or(0);
        let number = u8::try_from(number).expect("there are few states");
        let changed = self.state.load(Ordering::Relaxed) != number;
        if changed {
            self.state.store(number, Ordering::Relaxed);
        }
        changed
    }

    /// Publishes the positions that it has told.
    pub fn set_mode_lsns(&self, write: Lsn, flush: Lsn, apply: Lsn) {
        // What is durable was written: in this order nobody sees the one without the other.
        self.write_lsn.store(write.0, Ordering::Release);
        self.flush_lsn.store(flush.0, Ordering::Release);
        self.apply_lsn.store(apply.0, Ordering::Release);
    }

    /// Publishes up to where its WAL did not come from here, before any position that it has told of
    /// that, and says whether this is another one.
    pub fn set_seam(&self, seam: Option<Lsn>) -> bool {
        let seam = seam.unwrap_or_default().0;
        let changed = self.seam.load(Ordering::Relaxed) != seam;
        if changed {
            self.seam.store(seam, Ordering::Relaxed);
        }
        changed
    }

    /// The positions that it has told.
    #[must_use]
    pub fn mode_lsns(&self) -> ModeLsns {
        let apply = self.apply_lsn.load(Ordering::Acquire);
        let flush = self.flush_lsn.load(Ordering::Acquire);
        let write = self.write_lsn.load(Ordering::Acquire);
        ModeLsns::of_wire(Lsn(write), Lsn(flush), Lsn(apply))
    }

    /// What the positions that it has told are worth, as `WalSender::counted` says: what commits, the
    /// reply upstream and slots may be moved by.
    #[must_use]
    pub fn counted(&self) -> ModeLsns {
        let told = self.mode_lsns();
        let sent = Lsn(self.sent_lsn.load(Ordering::Relaxed));
        let seam = Lsn(self.seam.load(Ordering::Relaxed));
        let counted = |told: Option<Lsn>| told.map(|lsn| lsn.min(sent)).filter(|&lsn| lsn > seam);
        ModeLsns {
            write: counted(told.write),
            flush: counted(told.flush),
            apply: counted(told.apply),
        }
    }

    /// Send time of the last reply.
    #[must_use]
    pub fn reply_time(&self) -> Option<Timestamp> {
        let time = self.reply_time.load(Ordering::Relaxed);
        (time != i64::MIN).then_some(Timestamp(time))
    }
}

const STATES: [WalSenderState; 5] = [
    WalSenderState::Startup,
    WalSenderState::Backup,
    WalSenderState::Catchup,
    WalSenderState::Streaming,
    WalSenderState::Stopping,
];

/// The ack queue: one entry per standby, and one bit per entry that says "look again".
///
/// The latest value wins, so it can never overflow: a reply costs a few stores to its own cache
/// lines and one bit; the wal core drains all replies of a moment in one pass over the bitmap.
#[derive(Debug)]
pub struct StandbyTable {
    standbys: Box<[CachePadded<Standby>]>,
    dirty: DirtyBits,
}

impl StandbyTable {
    /// Room for `standbys_max` sessions.
    #[must_use]
    pub fn new(standbys_max: usize) -> Self {
        Self {
            standbys: (0..standbys_max).map(|_| CachePadded::new(Standby::new())).collect(),
            dirty: DirtyBits::new(standbys_max),
        }
    }

    /// How many sessions there can be.
    #[must_use]
    pub fn len(&self) -> usize {
        self.standbys.len()
    }

    /// Whether there can be none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.standbys.is_empty()
    }

    /// The entry of one session.
    ///
    /// # Panics
    /// If `index` was not claimed from this table.
    #[must_use]
    pub fn standby(&self, index: usize) -> &Standby {
        &self.standbys[index]
    }

    /// Claims a free entry. Called by the control plane only.
    #[must_use]
    pub fn claim(&self) -> Option<usize> {
        let index = self.standbys.iter().position(|standby| {
            // Looked at first: of ten thousand entries few are free, and a swap is dear.
            !standby.in_use.load(Ordering::Relaxed)
                && standby
                    .in_use
                    .compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
        })?;
        self.standbys[index].reset();
        Some(index)
    }

    /// Frees an entry.
    pub fn free(&self, index: usize) {
        self.standbys[index].in_use.store(false, Ordering::Release);
    }

    /// Says that the entry has news.
    pub fn mark(&self, index: usize) {
        self.dirty.mark(index);
    }

    /// Calls `visit` for each entry with news, once.
    pub fn drain(&self, mut visit: impl FnMut(usize, &Standby)) {
        self.dirty.drain(|index| visit(index, &self.standbys[index]));
    }

    /// The sessions there are.
    pub fn in_use(&self) -> impl Iterator<Item = (usize, &Standby)> {
        self.standbys
            .iter()
            .enumerate()
            .filter(|(_, standby)| standby.in_use.load(Ordering::Acquire))
            .map(|(index, standby)| (index, &**standby))
    }
}

#[cfg(test)]
mod tests {
    use walhub_proto::syncrep::{SyncProgress, Synced};

    use super::*;

    #[test]
    fn what_standbys_have_reached_is_published_and_stays_within_one_policy() {
        let published = PublishedSynced::new();
        assert!(!published.is_defined());
        assert_eq!(published.load().synced, Synced::Undefined);
        let reached =
            |write, flush| Synced::Reached(ModeLsns::of_wire(Lsn(write), Lsn(flush), Lsn(0)));
        published.publish(Synced::TooFew);
        assert!(published.is_defined());
        published.publish(reached(90, 70));
        assert_eq!(published.load().synced, reached(90, 70));
        published.publish(Synced::TooFew);
        assert_eq!(published.load().synced, Synced::TooFew);
        published.publish(reached(80, 75));
        assert_eq!(published.load().synced, reached(90, 75));
        published.restart(true);
        assert_eq!(published.load().synced, Synced::TooFew);
        published.publish(reached(10, 10));
        assert_eq!(published.load().synced, reached(10, 10));
        published.restart(false);
        assert_eq!(published.load(), SyncProgress { generation: 2, synced: Synced::Undefined });
    }

    #[test]
    fn what_was_sent_on_a_timeline_that_was_left_is_not_what_was_sent() {
        let tli = |number| TimelineId::new(number).unwrap();
        let shared = Shared::default();
        shared.begin_timeline(tli(1));
        shared.note_sent(Lsn(900), tli(1));
        shared.note_sent(Lsn(800), tli(1));
        assert_eq!(shared.sent_lsn(), Lsn(900));
        shared.begin_timeline(tli(2));
        shared.note_sent(Lsn(950), tli(1));
        assert_eq!(shared.sent_lsn(), Lsn(0));
        shared.note_sent(Lsn(700), tli(2));
        assert_eq!(shared.sent_lsn(), Lsn(700));
    }

    #[test]
    fn a_position_that_a_standby_told_counts_as_far_as_it_was_sent_beyond_the_seam() {
        let standby = Standby::new();
        standby.sent_lsn.store(500, Ordering::Relaxed);
        standby.set_mode_lsns(Lsn(600), Lsn(400), Lsn(0));
        let counted = |write, flush, apply| ModeLsns::of_wire(Lsn(write), Lsn(flush), Lsn(apply));
        assert_eq!(standby.counted(), counted(500, 400, 0));
        assert!(standby.set_seam(Some(Lsn(400))) && !standby.set_seam(Some(Lsn(400))));
        assert_eq!(standby.counted(), counted(500, 0, 0));
        assert!(standby.set_seam(None));
        assert_eq!(standby.counted(), counted(500, 400, 0));
        standby.set_seam(Some(Lsn(9)));
        standby.reset();
        assert!(!standby.set_seam(None));
    }

    #[test]
    fn drain_visits_each_marked_entry_once() {
        let table = StandbyTable::new(130);
        for index in [0, 63, 64, 129, 64] {
            table.mark(index);
        }
        let mut seen = Vec::new();
        table.drain(|index, _| seen.push(index));
        assert_eq!(seen, [0, 63, 64, 129]);
        table.drain(|index, _| panic!("{index} twice"));
    }

    #[test]
    fn entries_are_claimed_until_none_is_left() {
        let table = StandbyTable::new(2);
        let (first, second) = (table.claim(), table.claim());
        assert_eq!((first, second, table.claim()), (Some(0), Some(1), None));
        table.free(0);
        assert_eq!(table.claim(), Some(0));
    }
}
