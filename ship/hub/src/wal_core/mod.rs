//! The wal core: receives WAL, makes it durable, acknowledges it, and decides who may have it.
//!
//! It alone writes segments, the control file, slots and every published position.
//!
//! It never calls the file system: files are worked on by jobs, steps of which go through its ring, and what
//! must wait for one goes on when that has ended.
//!
//! Not here: what the upstream says (`upstream`), WAL of its own (`own`), first WAL and timelines
//! (`timeline`, `switch`), becoming a primary (`promotion`), the control file (`control`), the mark beside it
//! (`mark`), who may stream
//! (`sessions`), slots (`slots`), which standbys commits wait for (`sync`), when an upstream waits in
//! vain (`requests`), what becomes of a failed attempt (`trouble`), history files (`histories`), which segments may go (`keep`), what a start-up finds (`crate::store::recover`).

mod duty;
mod histories;
mod keep;
mod own;
mod promotion;
mod reason;
mod sessions;
mod slot_files;
mod slots;
mod switch;
mod sync;
mod timeline;
mod trouble;
mod upstream;
mod vouch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use walhub_engine::buffer::{Buffer, BufferPool, SlabPool};
use walhub_engine::files::reason;
use walhub_engine::io::{Completion, FileId, Io, Token, Waker};
use walhub_engine::mailbox::{Receiver, Sender};
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::TimelineId;
use walhub_proto::segment::SegNo;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::syncrep::{ModeLsns, Synced};
use walhub_proto::time::{Instant, Now};

use crate::api::settings::{Forward, HubSettings};
use crate::mail::{ConnectAnswer, StopMode, Timelines, ToControl, ToShip, ToWal};
use crate::publish::commits::CommitLink;
use crate::publish::front::PublishedSlots;
use crate::publish::latency::{Followed, Reached};
use crate::publish::positions::{Shared, StandbyTable};
use crate::serve::moves::Serves;
use crate::serve::walsender::ZEROCOPY_UNACKED_BYTES_MAX;
use crate::store::control_file::ControlFileKeeper;
use crate::store::jobs::{Finished, JobError, Jobs};
use crate::store::local::LocalWal;
use crate::store::mark::{Durable, Mark};
use crate::store::recover::{Recovered, RecoveredWal};
use crate::store::segments::{FileJob, Prepared};
use crate::store::tail::{SLAB_LEN, TailSlab};
use crate::store::writer::{FlushMethod, Flushed};
use duty::Duty;
use histories::Histories;
pub use keep::MAX_WAL_SIZE;
use slots::SlotTable;
use switch::Switch;
use sync::SyncRep;
use trouble::Fault;
use upstream::Link;

/// Upper bits of the wal core's tokens.
pub const WAL_TAG: u64 = 1 << 63;
const JOB_TAG: u64 = WAL_TAG | 1 << 60;
const WRITE_TOKEN: Token = Token(WAL_TAG | 1);
const SYNC_TOKEN: Token = Token(WAL_TAG | 4);
const LINK_RECV: Token = Token(WAL_TAG | 2);
const LINK_SEND: Token = Token(WAL_TAG | 3);
const MARK_TOKEN: Token = Token(WAL_TAG | 5);

/// Bytes of one receive from the upstream.
const RECEIVE_LEN: usize = 256 << 10;
const RECEIVE_BUFFERS: usize = 4;
/// Unwritten bytes above which a write does not wait for the socket to be empty.
const DRAIN_BYTES_MAX: u64 = 256 << 10;
/// How often a full or failing disk is tried again.
const DISK_RETRY: Duration = Duration::from_secs(1);
/// Messages that are read in one turn: more of them do not keep WAL from being written.
const MAIL_PER_TURN_MAX: usize = 64;
/// How often standbys' replies move slots, feedback and removal.
const HOUSEKEEPING: Duration = Duration::from_millis(200);

/// A ship core, as the wal core knows it.
#[derive(Debug)]
pub struct ShipLink<C: Send, W> {
    /// Where the wal core mails it.
    pub mail: Sender<ToShip<C>>,
    /// Wakes it when a position moved.
    pub waker: W,
    /// Which standbys it serves. All begin on a core for live ones.
    pub serves: Serves,
    /// Sessions that began on it.
    pub sessions: usize,
}

/// Tells the control plane something.
pub type Control = Box<dyn Fn(ToControl) + Send>;

/// What the wal core is made of.
pub struct WalConfig<C: Send, W> {
    /// Data directory.
    pub data_dir: PathBuf,
    /// Positions.
    pub shared: Arc<Shared>,
    /// All standbys.
    pub standbys: Arc<StandbyTable>,
    /// What others mail to the wal core.
    pub mail: Receiver<ToWal<C>>,
    /// The ship cores.
    pub ships: Vec<ShipLink<C, W>>,
    /// The control plane.
    pub control: Control,
    /// Rows of `pg_replication_slots`.
    pub slots: PublishedSlots,
    /// Sessions that append.
    pub commits: CommitLink,
    /// Settings.
    pub settings: Arc<HubSettings>,
    /// Whether segments are written past the page cache.
    pub direct: bool,
    /// How they are made durable.
    pub method: FlushMethod,
    /// Bytes of WAL that connected standbys without a slot may hold back at most, and beyond which a slot
    /// is `extended`.
    pub max_wal_size: u64,
}

/// A session that a ship core has.
#[derive(Debug)]
struct Attached {
    /// Its client's.
    pid: u32,
    ship: usize,
    timeline: TimelineId,
    slot: Option<String>,
}

/// What this server has of a cluster.
#[derive(Debug)]
struct Store {
    local: LocalWal,
    timelines: Arc<Timelines>,
    control: ControlFileKeeper,
}

/// The upstream has said whose WAL this will be, and the control file that says so is being saved.
#[derive(Debug)]
struct FirstContact {
    control: ControlFileKeeper,
    wal: RecoveredWal,
}

/// Where stopping stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stopping {
    No,
    /// Receiving ends and what was received becomes durable.
    Flushing,
    /// The ship cores send it and wait for it to be acknowledged.
    Draining {
        ships: usize,
    },
    /// The slots and the control file are saved for the last time.
    Closing,
    Done,
}

/// The wal core of a hub.
pub struct WalCore<C: Send, W> {
    config: WalConfig<C, W>,
    jobs: Jobs<FileJob>,
    /// From the first contact with an upstream on.
    store: Option<Store>,
    first_contact: Option<FirstContact>,
    mark: Mark,
    /// Timelines that have a history file here.
    history_files: BTreeSet<TimelineId>,
    /// Histories whose files are being written.
    histories_saving: BTreeMap<TimelineId, TimelineHistory>,
    /// On the way to another timeline.
    switch: Option<Switch>,
    slots: SlotTable,
    link: Link<C>,
    histories: Histories,
    duty: Duty,
    /// After a promotion: the old timeline's last segment has its old name.
    must_keep_partial: bool,
    attached: BTreeMap<usize, Attached>,
    sync: SyncRep,
    followed: Followed,
    stopping: Stopping,
    retry_disk_at: Option<Instant>,
    disk_trouble_logged: bool,
    housekeeping_at: Instant,
    slabs: SlabPool,
    slabs_max: usize,
    receive_buffers: BufferPool,
    /// WAL was received since the last turn.
    received: bool,
    /// The socket is looked at once more before the next write.
    draining: bool,
    /// More mail than for one turn.
    has_mail: bool,
}

/// Slabs that the tail may hold under these settings.
#[must_use]
pub fn slabs_max(settings: &HubSettings) -> usize {
    usize::try_from(settings.tail_cache_size).unwrap_or(usize::MAX) / SLAB_LEN
}

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    /// Takes over what start-up found.
    pub fn new(config: WalConfig<C, W>, recovered: Recovered, now: Now) -> Self {
        let slabs_max = slabs_max(&config.settings);
        // Every standby may pin one message while its socket is full, and what it has not acknowledged
        // of what is sent without a copy.
        let slabs_of = |bytes| usize::try_from(bytes).unwrap_or(0) / SLAB_LEN + 2;
        let message_slabs_max = slabs_of(config.settings.wal_sender_message_size);
        let unacked_slabs_max = slabs_of(ZEROCOPY_UNACKED_BYTES_MAX);
        let pinned_max = config.standbys.len() * (message_slabs_max + unacked_slabs_max);
        let slabs = SlabPool::new(SLAB_LEN, slabs_max + pinned_max + 8);
        let mut core = Self {
            jobs: Jobs::new(JOB_TAG),
            store: None,
            first_contact: None,
            mark: Mark::new(MARK_TOKEN, &config.data_dir, config.direct),
            history_files: recovered.history_files,
            histories_saving: BTreeMap::new(),
            switch: None,
            slots: SlotTable::new(config.data_dir.join("slots"), recovered.slots),
            link: Link::new(),
            histories: Histories::default(),
            duty: Duty::Receive,
            must_keep_partial: false,
            attached: BTreeMap::new(),
            sync: SyncRep::new(config.settings.synchronous_standby_names.clone()),
            followed: Followed::default(),
            stopping: Stopping::No,
            retry_disk_at: None,
            disk_trouble_logged: false,
            housekeeping_at: now.instant,
            slabs,
            slabs_max,
            receive_buffers: BufferPool::new(RECEIVE_LEN, RECEIVE_BUFFERS),
            received: false,
            draining: false,
            has_mail: false,
            config,
        };
        let forward_flushed = core.config.settings.forward == Forward::Flushed;
        core.config.shared.forward_flushed.store(forward_flushed, Ordering::Relaxed);
        core.restart_sync();
        if let Some((control, wal)) =
            recovered.wal.and_then(|wal| Some((wal.control.clone()?, wal)))
        {
            let of = Some(wal.timelines.system_identifier);
            let current = Some(wal.timelines.current);
            core.histories = Histories::found(of, current, recovered.histories);
            let is_own = control.own_wal;
            let (checkpoint, last_open) = (wal.checkpoint, wal.last_open);
            let (end, timeline) = (wal.end, wal.timelines.current);
            let control = ControlFileKeeper::found(&core.config.data_dir, control);
            core.adopt_recovered(control, wal);
            // A standby may have more than a relay has kept: until it says so again, nothing of what is
            // still to come may go.
            core.hold_slots_from(end, timeline);
            if is_own {
                core.begin_own(now, checkpoint, last_open);
            }
        }
        core
    }

    fn local(&self) -> Option<&LocalWal> {
        self.store.as_ref().map(|store| &store.local)
    }

    fn timelines(&self) -> Option<&Timelines> {
        self.store.as_ref().map(|store| &*store.timelines)
    }

    fn wal_dir(&self) -> PathBuf {
        self.config.data_dir.join("pg_wal")
    }

    /// When [`WalCore::turn`] must be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.draining || self.has_mail {
            return Some(Instant(0));
        }
        // The end of a job is a turn, too.
        let waits_for_job =
            self.link.is_closed() && (self.switch.is_some() || self.must_wait_for_files());
        let has_time = self.stopping == Stopping::No && !waits_for_job;
        let upstream = if has_time { self.link.deadline() } else { None };
        let others = [upstream, self.retry_disk_at, self.mark.deadline()];
        others.into_iter().flatten().chain([self.housekeeping_at]).min()
    }

    /// Whether nothing is left to do but to end the process.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopping == Stopping::Done
    }

    /// Does everything that can be done now.
    pub fn turn<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        self.read_mail(io, now);
        self.take_replies(io, now);
        if self.retry_disk_at.is_some_and(|at| at <= now.instant) {
            self.retry_disk_at = None;
            self.retry_switch(io, now);
            if let Some(Store { local, .. }) = &mut self.store {
                local.resume();
                local.segments.retry(io, &mut self.jobs);
                self.publish_flushed(io, now);
            }
        }
        if self.housekeeping_at <= now.instant {
            self.housekeeping_at = now.instant + HOUSEKEEPING;
            self.housekeep(io, now);
        }
        self.turn_link(io, now);
        self.turn_promotion(io, now);
        self.turn_own(now);
        self.follow(now);
        // What else has arrived goes with the same write, as long as it is little: one look costs far
        // less than a flush. PostgreSQL: WalReceiverMain flushes once the socket has no more.
        let fresh = std::mem::take(&mut self.received);
        let little = self.local().is_some_and(|local| local.unwritten() < DRAIN_BYTES_MAX);
        self.draining = fresh && little;
        self.pump(io);
        if let Some(durable) = self.durable() {
            self.mark.note(io, now, &durable);
        }
        self.turn_stopping(io, now);
    }

    /// What is published as durable: what could not be vouched for is not.
    fn durable(&self) -> Option<Durable> {
        let Store { timelines, control, .. } = self.store.as_ref()?;
        let flush_lsn = self.config.shared.flush_lsn.load();
        let system_identifier = control.wanted.system_identifier;
        Some(Durable { system_identifier, timeline: timelines.current, flush_lsn })
    }

    /// Takes a completion whose token carries [`WAL_TAG`].
    pub fn handle<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now, completion: Completion) {
        match completion.token {
            WRITE_TOKEN | SYNC_TOKEN => {
                let Some(Store { local, .. }) = &mut self.store else { return };
                let flushed = if completion.token == WRITE_TOKEN {
                    local.handle_write(io, completion.result)
                } else {
                    local.handle_sync(io, completion.result)
                };
                self.handle_flushed(io, now, flushed);
            }
            LINK_RECV => self.handle_link_received(io, now, completion.result),
            LINK_SEND => self.handle_link_sent(io, now, completion.result),
            MARK_TOKEN => self.mark.handle(now, completion.result),
            token => {
                if let Some(finished) = self.jobs.handle(io, token, completion.result) {
                    self.handle_job(io, now, finished);
                }
            }
        }
        self.pump(io);
    }

    /// Some of what has come; what is left has its turn after the next look at what has completed.
    fn read_mail<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        for _ in 0..MAIL_PER_TURN_MAX {
            let Some(mail) = self.config.mail.recv() else { break };
            self.handle_mail(io, now, mail);
        }
        self.has_mail = !self.config.mail.is_empty();
        self.work_on_slots(io);
    }

    fn handle_mail<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now, mail: ToWal<C>) {
        match mail {
            ToWal::Connect(ConnectAnswer::Connected(upstream)) => {
                self.handle_connected(io, now, upstream);
            }
            ToWal::Connect(ConnectAnswer::Failed(reason)) => {
                self.handle_not_connected(now, &reason, Fault::Nobodys);
            }
            ToWal::Connect(ConnectAnswer::Refused(reason)) => {
                self.handle_not_connected(now, &reason, Fault::Peers);
            }
            ToWal::Slot(request, reply) => self.handle_slot_request(request, reply),
            ToWal::Start(session) => self.handle_start(session),
            ToWal::Ended { standby, reply, end } => self.handle_ended(io, standby, reply, end),
            ToWal::EndStream { pid, report } => self.end_stream(pid, &report),
            ToWal::Settings(settings) => self.handle_settings(io, now, settings),
            ToWal::Promote(reply) => self.handle_promote(io, now, reply),
            ToWal::Stop(mode) => self.handle_stop(io, now, mode),
            ToWal::Drained => {
                if let Stopping::Draining { ships } = &mut self.stopping {
                    *ships = ships.saturating_sub(1);
                }
            }
        }
    }

    fn handle_not_connected(&mut self, now: Now, reason: &str, fault: Fault) {
        let verified = self.local().map(LocalWal::verified_lsn);
        self.link.fail(now, &self.config.settings, reason, fault, verified);
    }

    fn handle_settings<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        settings: Arc<HubSettings>,
    ) {
        let old = std::mem::replace(&mut self.config.settings, settings);
        let new = Arc::clone(&self.config.settings);
        // A primary sends what it has flushed, whatever the setting.
        let forward_flushed = new.forward == Forward::Flushed || !self.role().in_recovery();
        self.config.shared.forward_flushed.store(forward_flushed, Ordering::Relaxed);
        self.mail_ships(|| ToShip::Settings(Arc::clone(&new)));
        self.link.settings_changed(io, now, &old, &new);
        self.histories.ask_again();
        self.handle_standby_names(io, now);
    }

    /// Mails every ship core. They read their mail at each turn, so it is never full.
    fn mail_ships(&self, mut mail: impl FnMut() -> ToShip<C>) {
        for ship in &self.config.ships {
            let sent = ship.mail.send(mail());
            // One that is drained has ended.
            assert!(
                sent.is_ok()
                    || matches!(self.stopping, Stopping::Draining { .. } | Stopping::Closing),
                "a ship core does not read its mail"
            );
        }
    }

    fn publish_received(&self) {
        let Some(Store { local, .. }) = &self.store else { return };
        // What is of the next timeline is nobody's before that is this server's.
        if self.follows_switch() {
            return;
        }
        let verified = local.verified_lsn();
        if self.config.shared.received_lsn.load() != verified {
            // First: a standby that has replayed the WAL may speak of its transactions.
            let next_xid = local.next_xid().unwrap_or(0);
            self.config.shared.next_xid.store(next_xid, Ordering::Release);
            self.config.shared.received_lsn.store(verified);
            if !self.config.shared.forward_flushed.load(Ordering::Relaxed) {
                self.wake_ships();
            }
        }
    }

    /// Remembers when what is new came into the tail.
    fn follow(&mut self, now: Now) {
        let end = self.config.shared.received_lsn.load();
        if end.is_valid() {
            self.followed.begin(end, now.instant);
        }
    }

    /// Counts what has got further on its way.
    fn reach(&mut self, now: Now) {
        let shared = &self.config.shared;
        let reached = Reached {
            write: shared.write_lsn.load(),
            flush: shared.flush_lsn.load(),
            sent: (!self.attached.is_empty()).then(|| shared.sent_lsn()),
            downstream: match shared.synced.load().synced {
                Synced::Reached(lsns) => lsns,
                Synced::Undefined | Synced::TooFew => ModeLsns::default(),
            },
        };
        self.followed.reach(&reached, now.instant, &shared.latencies);
    }

    fn wake_ships(&self) {
        for ship in self.config.ships.iter().filter(|ship| ship.serves == Serves::Live) {
            ship.waker.wake();
        }
    }

    /// Starts whatever write is due.
    fn pump<I: Io<Conn = C>>(&mut self, io: &mut I) {
        // What comes after a switch belongs into the segment that is being made.
        if self.received || self.draining || self.switch.is_some() {
            return;
        }
        if let Some(Store { local, .. }) = &mut self.store {
            local.pump(io, &mut self.jobs);
        }
    }

    fn handle_flushed<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now, flushed: Flushed) {
        match flushed {
            Flushed::NotYet => {
                if let Some(Store { local, .. }) = &self.store {
                    self.config.shared.write_lsn.store(local.write_lsn());
                }
                self.reach(now);
            }
            Flushed::Done => {
                self.note_disk_has_room();
                self.publish_flushed(io, now);
            }
            Flushed::DiskFull(error) => {
                if let Some(Store { local, .. }) = &mut self.store {
                    local.pause();
                }
                self.wait_for_disk(
                    now,
                    true,
                    &format!("could not write to WAL: {}", reason(&error)),
                );
            }
            Flushed::Busy(error) => {
                if let Some(Store { local, .. }) = &mut self.store {
                    local.pause();
                }
                let text = format!("could not write to WAL: {}", reason(&error));
                self.wait_for_disk(now, false, &text);
            }
            Flushed::Failed(step, error) => {
                let name = self.local().map(|local| {
                    let segno = SegNo::of_start(local.write_lsn(), local.segments.size());
                    local.segments.segment_path(segno).display().to_string()
                });
                let text = format!(
                    "could not {step} file \"{}\": {}",
                    name.unwrap_or_default(),
                    reason(&error)
                );
                walhub_engine::fatal::fatal(
                    walhub_engine::fatal::FatalReason::WalFlushFailed,
                    &text,
                );
            }
        }
    }

    /// Tells everybody what is durable now.
    fn publish_flushed<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        // It comes here again when the control file is saved, or when the disk is tried again.
        if !self.is_vouched_for(io) {
            return;
        }
        let Some(Store { local, .. }) = &self.store else { return };
        let (before, flush_lsn) = (self.config.shared.flush_lsn.load(), local.flush_lsn());
        self.config.shared.write_lsn.store(local.write_lsn());
        self.config.shared.flush_lsn.store(flush_lsn);
        if self.config.shared.forward_flushed.load(Ordering::Relaxed) {
            self.wake_ships();
        }
        self.tell_commits();
        let size = local.segments.size();
        if SegNo::of_start(before, size) != SegNo::of_start(flush_lsn, size) {
            self.note_segment_switch(io);
        }
        self.reach(now);
        self.acknowledge(io, now);
        self.resume_receiving(io, now);
    }

    /// Tries again in a moment, and says once why.
    fn wait_for_disk(&mut self, now: Now, full: bool, what: &str) {
        self.retry_disk_at = Some(now.instant + DISK_RETRY);
        if std::mem::replace(&mut self.disk_trouble_logged, true) {
            return;
        }
        let detail = "Receiving WAL pauses when memory is full. What is durable is still served, and nothing more \
                      is acknowledged to the upstream.";
        if full {
            tracing::error!(
                sqlstate = SqlState::DISK_FULL.0,
                detail,
                hint = "Free space on the file system of the data directory, or lower wal_keep_size or \
                        max_slot_wal_keep_size; of \"File too large\", raise LimitFSIZE= (prlimit --fsize). \
                        Receiving resumes by itself.",
                "{what}"
            );
        } else {
            tracing::error!(sqlstate = SqlState::IO_ERROR.0, detail, "{what}");
        }
    }

    fn note_disk_has_room(&mut self) {
        // A flush into the current segment says nothing about room for the next one.
        let blocked = self.local().is_some_and(|local| local.segments.is_blocked());
        if !blocked && std::mem::take(&mut self.disk_trouble_logged) {
            tracing::info!("there is room for WAL again, receiving resumes");
        }
    }

    fn handle_job<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        mut finished: Finished<FileJob>,
    ) {
        match std::mem::replace(&mut finished.kind, FileJob::Close) {
            FileJob::Prepare(segno) => {
                finished.kind = FileJob::Prepare(segno);
                let Some(Store { local, .. }) = &mut self.store else { return };
                match local.segments.handle_prepared(io, &mut self.jobs, finished) {
                    Prepared::Ready => {
                        self.note_disk_has_room();
                        self.resume_receiving(io, now);
                    }
                    // The current segment is still written to its end.
                    Prepared::Failed(error) => {
                        self.wait_for_disk(now, error.is_disk_full(), &error.to_string())
                    }
                }
            }
            FileJob::Control => self.handle_control_saved(io, now, finished.result.map(drop)),
            FileJob::Slots => self.handle_slots_done(io, &finished.result.map(drop)),
            FileJob::History(timeline) => {
                self.handle_history_kept(io, now, timeline, finished.result.map(drop));
            }
            FileJob::Switch => self.handle_switch_files(io, now, finished),
            FileJob::Partial(segno, name) => {
                self.handle_partial_kept(segno, name, finished.result.map(drop));
            }
            FileJob::ReadBack => self.handle_read_back(now, finished),
            FileJob::Recycle(name) => {
                let done = finished.result.is_ok();
                log_failure(&finished.result);
                if let Some(Store { local, .. }) = &mut self.store {
                    local.segments.handle_recycled(io, &mut self.jobs, name, done);
                }
            }
            FileJob::Remove | FileJob::Close => log_failure(&finished.result),
        }
    }

    fn handle_stop<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now, mode: StopMode) {
        if self.stopping != Stopping::No || mode == StopMode::Immediate {
            return;
        }
        self.config.shared.stopping.store(true, Ordering::Release);
        self.stopping = Stopping::Flushing;
        // A promotion whose files are being made goes on: the next start may be a primary's already.
        if !self.is_switching() {
            self.give_up_promotion();
        }
        self.link.stop(io, now);
    }

    fn turn_stopping<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        match self.stopping {
            Stopping::No | Stopping::Done => {}
            Stopping::Flushing if self.is_switching() => {}
            Stopping::Flushing => {
                self.give_up_promotion();
                self.close_own(now);
                self.turn_own(now);
                self.pump(io);
                // What was durable last is not told before the control file says so, if it can.
                if self.control_file().is_some_and(ControlFileKeeper::is_awaited) {
                    return;
                }
                let is_stuck = self.switch.is_some();
                let settled = self.local().is_none_or(|local| {
                    local.is_flushed() || local.is_paused() || is_stuck && local.is_idle()
                });
                if !self.link.is_closed() || !self.is_own_closed() || !settled {
                    return;
                }
                // Not what is durable but could not be vouched for on a full disk.
                let end = self.config.shared.flush_lsn.load();
                self.stopping = Stopping::Draining { ships: self.config.ships.len() };
                self.mail_ships(|| ToShip::Stop { end });
            }
            Stopping::Draining { ships: 0 } => {
                if !self.jobs.is_idle() {
                    return;
                }
                self.housekeep(io, now);
                self.move_control_bound();
                self.save_control(io);
                self.stopping = Stopping::Closing;
                self.turn_stopping(io, now);
            }
            // If it could not be saved, the next start reads from the older bound.
            Stopping::Closing => {
                if self.jobs.is_idle() && !self.mark.is_busy() {
                    self.stopping = Stopping::Done;
                    (self.config.control)(ToControl::Stopped);
                }
            }
            Stopping::Draining { .. } => {}
        }
    }

    fn receive_buffer(&self) -> Buffer {
        self.receive_buffers.take().unwrap_or_else(|| Buffer::with_capacity(RECEIVE_LEN))
    }

    fn announce_slabs(&self, slabs: impl IntoIterator<Item = TailSlab>) {
        for slab in slabs {
            self.mail_ships(|| ToShip::Slab(slab.clone()));
        }
    }
}

fn log_failure(result: &Result<Option<FileId>, JobError>) {
    if let Err(error) = result {
        tracing::error!(sqlstate = error.sqlstate().0, "{error}");
    }
}
