//! The wal core: receives WAL, makes it durable, acknowledges it, and decides who may have it.
//!
//! It alone writes segments, the control file, slots and every published position.
//!
//! Each of its parts decides one thing and knows no other part: what comes from the upstream
//! (`crate::intake`), what is here (`crate::store`), who may stream, what stays and on which timeline it goes
//! on (`crate::policy`), who serves it (`crate::serve::ships`). Here it is said what one part's outcome is to
//! the others, and in which order: nothing is told before it is so.
//!
//! It never calls the file system: files are worked on by jobs, steps of which go through its ring, and what
//! must wait for one goes on when that has ended.
//!
//! Not here: what a start-up finds (`crate::store::recover`).

mod duty;
mod receiving;
mod standbys;
mod stopping;
#[cfg(test)]
mod tests;
mod timelines;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use walhub_engine::buffer::SlabPool;
use walhub_engine::fatal::{FatalReason, fatal};
use walhub_engine::files::reason;
use walhub_engine::io::{Completion, FileId, Io, Token, Waker};
use walhub_engine::mailbox::Receiver;
use walhub_proto::convert::to_usize;
use walhub_proto::segment::SegNo;
use walhub_proto::syncrep::{ModeLsns, Synced};
use walhub_proto::time::{Instant, Now};

use crate::api::settings::{Forward, HubSettings};
use crate::intake::first_contact::FirstContact;
use crate::intake::trouble::Fault;
use crate::intake::upstream::{Link, LinkEnd, LinkTokens};
use crate::mail::{ConnectAnswer, ToControl, ToShip, ToWal};
use crate::policy::attached::Walsenders;
use crate::policy::histories::Histories;
use crate::policy::promotion;
use crate::policy::retention::Keeper;
use crate::policy::slots::SlotTable;
use crate::policy::switch::{Purpose, Switch};
use crate::policy::sync::SyncRep;
use crate::publish::commits::CommitLink;
use crate::publish::handle::PublishedSlots;
use crate::publish::latency::{Followed, Reached};
use crate::publish::positions::{Shared, StandbyTable};
use crate::role::Role;
use crate::serve::ships::{ShipCores, ShipLink};
use crate::serve::walsender::ZEROCOPY_UNACKED_BYTES_MAX;
use crate::store::control_file::{ControlFileKeeper, ControlSave, may_pass};
use crate::store::disk_trouble::{DiskFault, DiskTrouble};
use crate::store::jobs::{Finished, JobError, Jobs};
use crate::store::local::LocalWal;
use crate::store::mark::Mark;
use crate::store::recover::{Recovered, RecoveredWal};
use crate::store::segments::{FileJob, Prepared};
use crate::store::tail::SLAB_LEN;
use crate::store::timelines::Timelines;
use crate::store::writer::{FlushMethod, Flushed, WriterTokens};
use crate::store::{Store, StoreConfig};
use duty::Duty;

pub use crate::policy::retention::MAX_WAL_SIZE;

/// Upper bits of the wal core's tokens.
pub const WAL_TAG: u64 = 1 << 63;
const JOB_TAG: u64 = WAL_TAG | 1 << 60;
const WRITE_TOKEN: Token = Token(WAL_TAG | 1);
const SYNC_TOKEN: Token = Token(WAL_TAG | 4);
const LINK_RECV: Token = Token(WAL_TAG | 2);
const LINK_SEND: Token = Token(WAL_TAG | 3);
const MARK_TOKEN: Token = Token(WAL_TAG | 5);

/// Unwritten bytes above which a write does not wait for the socket to be empty.
const DRAIN_BYTES_MAX: u64 = 256 << 10;
/// Messages that are read in one turn: more of them do not keep WAL from being written.
const MAIL_PER_TURN_MAX: usize = 64;
/// How often standbys' replies move slots, feedback and removal.
const HOUSEKEEPING: Duration = Duration::from_millis(200);

/// Tells the control plane something.
pub type Control = Box<dyn Fn(ToControl) + Send>;

/// What the wal core is made of, beside the ship cores.
pub struct WalConfig<C> {
    /// Data directory.
    pub data_dir: PathBuf,
    /// Positions.
    pub shared: Arc<Shared>,
    /// All standbys.
    pub standbys: Arc<StandbyTable>,
    /// What others mail to the wal core.
    pub mail: Receiver<ToWal<C>>,
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

impl<C> WalConfig<C> {
    /// What decides how long WAL stays.
    fn keeper(&self) -> Keeper<'_> {
        Keeper {
            settings: &self.settings,
            max_wal_size: self.max_wal_size,
            shared: &self.shared,
            standbys: &self.standbys,
        }
    }
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
    config: WalConfig<C>,
    ships: ShipCores<C, W>,
    jobs: Jobs<FileJob>,
    /// From the first contact with an upstream on.
    store: Option<Store>,
    first_contact: Option<FirstContact>,
    disk: DiskTrouble,
    mark: Mark,
    /// On the way to another timeline.
    switch: Option<Switch>,
    slots: SlotTable,
    link: Link,
    histories: Histories,
    duty: Duty,
    /// After a promotion: the old timeline's last segment has its old name.
    must_keep_partial: bool,
    attached: Walsenders,
    sync: SyncRep,
    followed: Followed,
    stopping: Stopping,
    housekeeping_at: Instant,
    slabs: SlabPool,
    slabs_max: usize,
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
    to_usize(settings.tail_cache_size) / SLAB_LEN
}

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    /// Takes over what start-up found.
    pub fn new(
        config: WalConfig<C>,
        ships: Vec<ShipLink<C, W>>,
        recovered: Recovered,
        now: Now,
    ) -> Self {
        let slabs_max = slabs_max(&config.settings);
        // Every standby may pin one message while its socket is full, and what it has not acknowledged
        // of what is sent without a copy.
        let slabs_of = |bytes| to_usize(bytes) / SLAB_LEN + 2;
        let message_slabs_max = slabs_of(config.settings.wal_sender_message_size);
        let unacked_slabs_max = slabs_of(ZEROCOPY_UNACKED_BYTES_MAX);
        let pinned_max = config.standbys.len() * (message_slabs_max + unacked_slabs_max);
        let slabs = SlabPool::new(SLAB_LEN, slabs_max + pinned_max + 8);
        let found = recovered.wal.and_then(|wal| Some((wal.control.clone()?, wal)));
        let timelines = found.as_ref().map(|(_, wal)| &wal.timelines);
        let histories = Histories::found(
            timelines.map(|timelines| timelines.system_identifier),
            timelines.map(|timelines| timelines.current),
            recovered.histories,
            recovered.history_files,
        );
        let mut core = Self {
            ships: ShipCores::new(ships),
            jobs: Jobs::new(JOB_TAG),
            store: None,
            first_contact: None,
            disk: DiskTrouble::default(),
            mark: Mark::new(MARK_TOKEN, &config.data_dir, config.direct),
            switch: None,
            slots: SlotTable::new(config.data_dir.join("slots"), recovered.slots),
            link: Link::new(LinkTokens { receive: LINK_RECV, send: LINK_SEND }),
            histories,
            duty: Duty::Receive,
            must_keep_partial: false,
            attached: Walsenders::new(),
            sync: SyncRep::new(config.settings.synchronous_standby_names.clone()),
            followed: Followed::default(),
            stopping: Stopping::No,
            housekeeping_at: now.instant,
            slabs,
            slabs_max,
            received: false,
            draining: false,
            has_mail: false,
            config,
        };
        let forward_flushed = core.config.settings.forward == Forward::Flushed;
        core.config.shared.forward_flushed.store(forward_flushed, Ordering::Relaxed);
        core.sync.restart(&core.config.shared.synced);
        if let Some((control, wal)) = found {
            let is_own = control.own_wal;
            let (checkpoint, last_open) = (wal.checkpoint, wal.last_open);
            let (end, timeline) = (wal.end, wal.timelines.current);
            let control = ControlFileKeeper::found(&core.config.data_dir, control);
            core.open_store(control, wal);
            // A standby may have more than a relay has kept: until it says so again, nothing of what is
            // still to come may go.
            core.slots.hold_from(end, timeline);
            core.publish_slots();
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

    /// The control file, from the first contact on.
    fn control_file(&self) -> Option<&ControlFileKeeper> {
        let of_contact = self.first_contact.as_ref().map(|contact| &contact.control);
        of_contact.or(self.store.as_ref().map(|store| &store.control))
    }

    fn wal_dir(&self) -> PathBuf {
        self.config.data_dir.join("pg_wal")
    }

    const fn role(&self) -> Role {
        self.duty.role()
    }

    /// Takes over another role, and tells everybody. Returns what the last one had.
    fn take_duty(&mut self, duty: Duty) -> Duty {
        self.config.shared.role.store(duty.role());
        std::mem::replace(&mut self.duty, duty)
    }

    /// Whether files are being worked on that the upstream's next words depend on.
    fn must_wait_for_files(&self) -> bool {
        self.first_contact.is_some() || self.histories.is_saving()
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
        let others = [upstream, self.disk.deadline(), self.mark.deadline()];
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
        if self.disk.handle_timeout(now) {
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
        if let Some(store) = &self.store {
            // What could not be vouched for is not published.
            let durable = store.durable(self.config.shared.flush_lsn.load());
            self.mark.note(io, now, &durable);
        }
        self.turn_stopping(io, now);
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
            LINK_RECV => {
                let mut opened = Vec::new();
                let (link, mut intake) = self.intake(now, &mut opened);
                let received = link.handle_received(io, completion.result, &mut intake);
                self.ships.announce(opened);
                match received {
                    Ok(true) => {
                        self.received = true;
                        self.resume_receiving(io, now);
                    }
                    Ok(false) => {}
                    Err(why) => self.end_link(io, now, why),
                }
            }
            LINK_SEND => {
                if let Err(why) = self.link.handle_sent(io, now, completion.result) {
                    self.end_link(io, now, why);
                }
            }
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
        self.slots.start_job(io, &mut self.jobs);
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
            ToWal::EndStream { pid, report } => {
                self.end_streams(|attached| attached.pid == pid, Some(&report));
            }
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
        let shared = &self.config.shared;
        shared.forward_flushed.store(forward_flushed, Ordering::Relaxed);
        self.ships.mail(|| ToShip::Settings(Arc::clone(&new)));
        self.link.settings_changed(io, now, &old, &new);
        self.histories.ask_again();
        if self.sync.handle_config(new.synchronous_standby_names.as_ref(), &shared.synced) {
            self.settle_sync(io, now);
            self.tell_commits();
            // What was told may have been less than is true without a list.
            self.acknowledge(io, now);
        }
    }

    /// Takes up WAL that is on disk, or the place where the first will be.
    fn open_store(&mut self, keeper: ControlFileKeeper, wal: RecoveredWal) {
        let (end, lost_to, damaged) = (wal.end, wal.lost_to, wal.damaged.clone());
        let config = StoreConfig {
            data_dir: &self.config.data_dir,
            direct: self.config.direct,
            method: self.config.method,
            tokens: WriterTokens { write: WRITE_TOKEN, sync: SYNC_TOKEN },
            slabs: self.slabs.clone(),
            slabs_max: self.slabs_max,
            unverified_bytes_max: self.config.settings.tail_cache_size / 4,
        };
        let (store, first) = Store::open(keeper, wal, config);
        let shared = &self.config.shared;
        let _ = shared.identity.set(store.identity());
        shared.begin_timeline(store.timelines.current);
        shared.oldest_lsn.store(store.oldest_lsn());
        self.mark.begin(end, lost_to);
        for segment in &damaged {
            shared.damaged.add(segment);
        }
        self.ships.mail(|| ToShip::Begin(Arc::clone(&store.timelines)));
        self.ships.announce([first]);
        shared.write_lsn.store(end);
        shared.flush_lsn.store(end);
        shared.next_xid.store(store.local.next_xid().unwrap_or(0), Ordering::Release);
        shared.received_lsn.store(end);
        self.ships.wake_live();
        self.store = Some(store);
    }

    fn publish_received(&self) {
        let Some(Store { local, .. }) = &self.store else { return };
        // What a relay receives on the way to another timeline is that one's: nobody has it before that is
        // this server's.
        if self.switch.as_ref().is_some_and(|switch| switch.purpose == Purpose::Follow) {
            return;
        }
        let (shared, verified) = (&self.config.shared, local.verified_lsn());
        if shared.received_lsn.load() != verified {
            // First: a standby that has replayed the WAL may speak of its transactions.
            shared.next_xid.store(local.next_xid().unwrap_or(0), Ordering::Release);
            shared.received_lsn.store(verified);
            if !shared.forward_flushed.load(Ordering::Relaxed) {
                self.ships.wake_live();
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
        let Some(Store { local, .. }) = &mut self.store else { return };
        let (fault, error) = match flushed {
            Flushed::NotYet => {
                self.config.shared.write_lsn.store(local.write_lsn());
                return self.reach(now);
            }
            Flushed::Done => {
                self.note_disk_has_room();
                return self.publish_flushed(io, now);
            }
            Flushed::DiskFull(error) => (DiskFault::Full, error),
            Flushed::Busy(error) => (DiskFault::Passing, error),
            Flushed::Failed(step, error) => {
                let segno = SegNo::of_start(local.write_lsn(), local.segments.size());
                let path = local.segments.segment_path(segno);
                let path = path.display();
                let text = format!("could not {step} file \"{path}\": {}", reason(&error));
                fatal(FatalReason::WalFlushFailed, &text)
            }
        };
        local.pause();
        let text = format!("could not write to WAL: {}", reason(&error));
        self.disk.handle_fault(now, fault, &text);
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
            self.ships.wake_live();
        }
        self.tell_commits();
        let size = local.segments.size();
        if SegNo::of_start(before, size) != SegNo::of_start(flush_lsn, size) {
            // The control file's bound follows. PostgreSQL: UpdateMinRecoveryPoint.
            self.move_bound();
            self.save_control(io);
            self.remove_old_segments(io);
        }
        self.reach(now);
        self.acknowledge(io, now);
        self.resume_receiving(io, now);
    }

    /// Whether the control file vouches for everything that is durable; if not, it is saved.
    fn is_vouched_for<I: Io<Conn = C>>(&mut self, io: &mut I) -> bool {
        let Some(store) = &mut self.store else { return true };
        let own = self.duty.own_mut();
        let flush_lsn = store.local.flush_lsn();
        let checkpoint = own.as_ref().and_then(|own| own.durable_checkpoint(flush_lsn));
        let is_vouched_for = store.is_vouched_for(checkpoint);
        if is_vouched_for {
            let saved = store.control.saved().and_then(|saved| saved.checkpoint_lsn);
            own.into_iter().for_each(|own| own.handle_checkpoint_saved(saved));
        } else {
            self.save_control(io);
        }
        is_vouched_for
    }

    fn move_bound(&mut self) {
        if let Some(store) = &mut self.store {
            store.move_bound();
        }
    }

    /// Saves the control file, if it is to say something else than it does.
    fn save_control<I: Io<Conn = C>>(&mut self, io: &mut I) {
        let Some(store) = &mut self.store else { return };
        match self.switch.as_ref().and_then(|switch| switch.control(store)) {
            Some(content) => store.control.save_as(io, &mut self.jobs, content),
            None => store.control.save(io, &mut self.jobs),
        }
    }

    fn handle_control_saved<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        result: Result<(), JobError>,
    ) {
        if let Some(contact) = self.first_contact.take() {
            return match contact.handle_saved(result) {
                Ok(contact) => self.finish_first_contact(io, now, contact),
                Err(error) if may_pass(&error) => {
                    let text = format!("could not write control file: {error}");
                    self.end_link(io, now, LinkEnd::lost(text));
                }
                Err(error) => end_process(&error),
            };
        }
        let Some(Store { control, .. }) = &mut self.store else { return };
        match control.handle_saved(result) {
            None => {}
            Some(ControlSave::Saved { was_awaited }) => {
                self.go_on_switching(io, now);
                if was_awaited {
                    self.publish_flushed(io, now);
                }
            }
            Some(ControlSave::Failed { error, was_awaited: true }) if may_pass(&error) => {
                let what = format!("could not write control file: {error}");
                self.disk.handle_fault(now, DiskFault::of(&error), &what);
            }
            Some(ControlSave::Failed { error, was_awaited: true }) => end_process(&error),
            // The older bound is good, too.
            Some(ControlSave::Failed { error, was_awaited: false }) => {
                tracing::error!(sqlstate = error.sqlstate().0, "{error}");
            }
        }
    }

    fn note_disk_has_room(&mut self) {
        // A flush into the current segment says nothing about room for the next one.
        if self.local().is_none_or(|local| !local.segments.is_blocked()) {
            self.disk.handle_written();
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
                    Prepared::Failed(error) => self.handle_disk_error(now, &error),
                }
            }
            FileJob::Control => self.handle_control_saved(io, now, finished.result.map(drop)),
            FileJob::Slots => self.handle_slots_done(io, &finished.result.map(drop)),
            FileJob::History(timeline) => {
                match self.histories.handle_saved(timeline, finished.result.map(drop)) {
                    Ok(()) => self.resume_receiving(io, now),
                    Err(text) => self.end_link(io, now, LinkEnd::lost(text)),
                }
            }
            FileJob::Switch => self.handle_switch_files(io, now, finished),
            FileJob::Partial(segno, name) => {
                let Some(Store { local, .. }) = &mut self.store else { return };
                promotion::handle_partial_kept(local, segno, name, finished.result.map(drop));
            }
            FileJob::ReadBack => {
                if let Err(error) = self.link.handle_read_back(finished) {
                    self.handle_disk_error(now, &error);
                }
            }
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

    fn handle_disk_error(&mut self, now: Now, error: &JobError) {
        self.disk.handle_fault(now, DiskFault::of(error), &error.to_string());
    }
}

fn log_failure(result: &Result<Option<FileId>, JobError>) {
    if let Err(error) = result {
        tracing::error!(sqlstate = error.sqlstate().0, "{error}");
    }
}

fn end_process(error: &JobError) {
    let text = format!("could not write control file: {error}");
    fatal(FatalReason::ControlFileFailed, &text);
}
