//! What the answer to START_REPLICATION changes: the first WAL, the next timeline, its history.
//!
//! Not here: the connection that the answer comes on (`upstream`), going over to a timeline (`switch`).
//!
//! PostgreSQL: `WalRcvFetchTimeLineHistoryFiles`, `XLogFileCopy`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use walhub_engine::io::{FileId, Io, Waker};
use walhub_proto::history;
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::record::RecordReader;
use walhub_proto::recovery::ControlFile;
use walhub_proto::rmgr::facts::DatabaseFacts;
use walhub_proto::segment::SegNo;
use walhub_proto::time::Now;

use super::histories::HISTORY_BYTES_MAX;
use super::switch::Purpose;
use super::upstream::{Drop, State};
use super::{FirstContact, SYNC_TOKEN, Store, WRITE_TOKEN, WalCore};
use crate::api::hub::Identity;
use crate::mail::{Timelines, ToControl, ToShip};
use crate::store::control_file::ControlFileKeeper;
use crate::store::jobs::{JobError, replace_steps};
use crate::store::local::LocalWal;
use crate::store::recover::RecoveredWal;
use crate::store::segments::{FileJob, Segments};
use crate::store::tail::Tail;
use crate::store::writer::{Writer, WriterTokens};

/// Reads the WAL of the cluster that `control` names, from `lsn` on.
pub(super) fn reader_at(
    control: &ControlFile,
    lsn: Lsn,
    last_record: Option<Lsn>,
    timeline: TimelineId,
) -> RecordReader {
    let mut reader = RecordReader::new(lsn, control.segment_size, walhub_engine::crc::crc32c)
        .with_timeline(timeline)
        .with_system_identifier(control.system_identifier);
    if let Some(version) = control.wal_version {
        reader = reader.with_version(version);
    }
    if let Some(last_record) = last_record {
        reader = reader.with_prev(last_record);
    }
    reader
}

impl<C: Send + 'static, W: Waker> WalCore<C, W> {
    /// Keeps a history file, before any WAL of its timeline. Nothing is taken from the upstream until it is
    /// durable. PostgreSQL: `WalRcvFetchTimeLineHistoryFiles`.
    pub(super) fn keep_history<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        timeline: TimelineId,
        content: &[u8],
    ) -> Result<(), Drop> {
        let name = history::file_name(timeline);
        let history = match read_history(timeline, content) {
            Ok(history) => history,
            Err(why) => {
                let State::Live(live) = &self.link.state else { return Ok(()) };
                let text = format!("invalid timeline history file {name}: {why}");
                if live.receiver.needs_history(timeline) {
                    return Err(Drop::Refused { text, detail: None, hint: None });
                }
                self.note_history_absent(timeline, text);
                return Ok(());
            }
        };
        if self.histories.has(&history) {
            self.histories.keep(history);
        } else {
            tracing::info!(
                "fetching timeline history file for timeline {timeline} from primary server"
            );
            self.histories_saving.insert(timeline, history);
            let steps = replace_steps(&self.wal_dir().join(&name), content.to_vec());
            self.jobs.start(io, FileJob::History(timeline), steps);
        }
        Ok(())
    }

    /// Standbys that ask for it are told what is known, so that they do not wait for it for ever.
    pub(super) fn note_history_absent(&mut self, timeline: TimelineId, detail: String) {
        if self.histories.note_absent(timeline) {
            tracing::info!(detail, "there is no timeline history file for timeline {timeline}");
        }
    }

    /// Takes the end of a [`FileJob::History`].
    pub(super) fn handle_history_kept<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        timeline: TimelineId,
        result: Result<(), JobError>,
    ) {
        let Some(history) = self.histories_saving.remove(&timeline) else { return };
        match result {
            Ok(()) => {
                self.history_files.insert(timeline);
                self.histories.keep(history);
                self.resume_receiving(io, now);
            }
            Err(error) => {
                let text = format!("could not write timeline history file: {error}");
                self.drop_link(io, now, Drop::Reason { text, detail: None, hint: None });
            }
        }
    }

    /// Whether files are being worked on that the upstream's next words depend on.
    pub(super) fn must_wait_for_files(&self) -> bool {
        self.first_contact.is_some() || !self.histories_saving.is_empty()
    }

    pub(super) fn handle_started<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        timeline: TimelineId,
        start: Lsn,
    ) -> Result<(), Drop> {
        if self.store.is_none() {
            self.begin_first_contact(io, timeline, start)?;
        } else if self.timelines().is_some_and(|timelines| timelines.current != timeline) {
            self.follow_timeline(io, now, timeline, start)?;
        } else {
            self.note_started(now, timeline, start);
        }
        Ok(())
    }

    /// WAL of this timeline streams from there on, if the connection is still there.
    pub(super) fn note_started(&mut self, now: Now, timeline: TimelineId, start: Lsn) {
        if !matches!(self.link.state, State::Live(_)) {
            return;
        }
        self.note_server_version();
        let receiver = &self.config.shared.receiver;
        receiver.start_lsn.store(start.0, Ordering::Relaxed);
        receiver.start_tli.store(timeline.to_u32(), Ordering::Relaxed);
        // An upstream that lets a stream begin and then ends it for the same reason each time is not logged
        // each time.
        let again =
            self.link.trouble.is_old_news() && self.link.last_start == Some((start, timeline));
        self.link.last_start = Some((start, timeline));
        if !again {
            tracing::info!("started streaming WAL from primary at {start} on timeline {timeline}");
        }
        (self.config.control)(ToControl::Status);
        self.sync.restart_policy();
        self.tell_progress(now);
    }

    /// The first contact: from now on this data directory belongs to that cluster. The control file says so
    /// before any WAL is taken.
    fn begin_first_contact<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        timeline: TimelineId,
        start: Lsn,
    ) -> Result<(), Drop> {
        let State::Live(live) = &mut self.link.state else { return Ok(()) };
        let (Some(system_identifier), Some(size)) = (live.identified, live.segment_size) else {
            return Ok(());
        };
        let refuse = |text| Drop::Refused { text, detail: None, hint: None };
        let history = self.histories.of_first(timeline).map_err(refuse)?;
        let control = ControlFile {
            system_identifier,
            segment_size: size,
            server_version_num: live.server_version_num,
            server_version: live.server_version.clone(),
            wal_version: None,
            timeline,
            start_lsn: start,
            flush_lsn: start,
            last_record: None,
            own_wal: false,
            counters: None,
            database: DatabaseFacts::default(),
            checkpoint_lsn: None,
            redo_lsn: None,
            sequence: 0,
        };
        let mut control = ControlFileKeeper::new(&self.config.data_dir, control);
        control.save(io, &mut self.jobs);
        let wal = RecoveredWal::fresh(system_identifier, size, timeline, history, start);
        self.first_contact = Some(FirstContact { control, wal });
        Ok(())
    }

    /// The control file of the first contact is durable.
    pub(super) fn finish_first_contact<I: Io<Conn = C>>(&mut self, io: &mut I, now: Now) {
        let Some(FirstContact { control, wal }) = self.first_contact.take() else { return };
        let (timeline, start) = (wal.timelines.current, wal.end);
        self.adopt_recovered(control, wal);
        self.histories.adopt(timeline);
        self.note_started(now, timeline, start);
        self.resume_receiving(io, now);
    }

    /// It could not be saved: there was no first contact.
    pub(super) fn give_up_first_contact<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        error: &JobError,
    ) {
        self.first_contact = None;
        let text = format!("could not write control file: {error}");
        self.drop_link(io, now, Drop::Reason { text, detail: None, hint: None });
    }

    /// Takes up WAL that is on disk, or the place where the first will be.
    pub(super) fn adopt_recovered(&mut self, mut keeper: ControlFileKeeper, wal: RecoveredWal) {
        let control = &mut keeper.wanted;
        control.wal_version = control.wal_version.or(wal.version);
        let identity = Identity {
            system_identifier: control.system_identifier,
            segment_size: control.segment_size,
            server_version: control.server_version.clone(),
            server_version_num: control.server_version_num,
        };
        let size = control.segment_size;
        let reader = reader_at(control, wal.end, wal.last_record, wal.timelines.current);
        let (tail, first) = Tail::new(self.slabs.clone(), self.slabs_max, wal.end, &wal.block);
        let mut zeros =
            walhub_engine::buffer::Buffer::with_capacity(crate::store::segments::ZEROS_LEN);
        zeros.zero_pad_to(crate::store::segments::ZEROS_LEN);
        let mut segments = Segments::new(
            self.wal_dir(),
            size,
            wal.timelines.current,
            self.config.direct,
            wal.held,
            wal.spare,
            zeros.freeze(),
        );
        wal.partial.into_iter().for_each(|(segno, name)| segments.hold_partial(segno, name));
        // The next segment may be made ready before a page header was read.
        if let Some(version) = wal.version {
            segments.set_format(wal.timelines.system_identifier, version);
        }
        let tokens = WriterTokens { write: WRITE_TOKEN, sync: SYNC_TOKEN };
        let writer = Writer::new(tokens, self.config.method, self.config.direct, wal.end);
        let unverified_bytes_max = self.config.settings.tail_cache_size / 4;
        let oldest =
            segments.oldest().map_or_else(|| size.start_of(wal.end), |segno| segno.start(size));
        let local = LocalWal::new(
            tail,
            reader,
            segments,
            writer,
            wal.timelines.system_identifier,
            unverified_bytes_max,
            wal.facts,
        )
        .with_page_version(wal.page_version);
        let shared = &self.config.shared;
        let _ = shared.identity.set(identity);
        shared.begin_timeline(wal.timelines.current);
        shared.oldest_lsn.store(oldest);
        let next_xid = local.next_xid().unwrap_or(0);
        let timelines = Arc::new(wal.timelines);
        self.store = Some(Store { local, timelines: Arc::clone(&timelines), control: keeper });
        self.mark.begin(wal.end, wal.lost_to);
        for segment in &wal.damaged {
            shared.damaged.add(segment);
        }
        self.mail_ships(|| ToShip::Begin(Arc::clone(&timelines)));
        self.announce_slabs([first]);
        let shared = &self.config.shared;
        shared.write_lsn.store(wal.end);
        shared.flush_lsn.store(wal.end);
        shared.next_xid.store(next_xid, Ordering::Release);
        shared.received_lsn.store(wal.end);
        self.wake_ships();
    }

    /// Begins to go over to the upstream's next timeline.
    fn follow_timeline<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        now: Now,
        timeline: TimelineId,
        start: Lsn,
    ) -> Result<(), Drop> {
        let Some(Store { local, .. }) = &mut self.store else { return Ok(()) };
        let refuse = |text| Drop::Refused { text, detail: None, hint: None };
        let current = local.segments.timeline();
        let history = self.histories.of_next(timeline, current, start).map_err(refuse)?;
        if local.flush_lsn() != start || local.received_lsn() != start || !local.is_flushed() {
            let text = format!(
                "timeline {timeline} begins at {start}, but local WAL ends at {}",
                local.flush_lsn()
            );
            return Err(Drop::Reason { text, detail: None, hint: None });
        }
        // What comes now is the new timeline's.
        local.set_timeline(timeline);
        self.begin_switch(io, now, Purpose::Follow, history, start);
        Ok(())
    }

    /// Goes on on a timeline that the control file knows, in the segment that was `copied`, if any.
    pub(super) fn adopt_timeline<I: Io<Conn = C>>(
        &mut self,
        io: &mut I,
        timeline: TimelineId,
        history: TimelineHistory,
        copied: Option<(SegNo, FileId)>,
    ) {
        self.histories.adopt(timeline);
        let Some(Store { local, timelines, .. }) = &mut self.store else { return };
        local.segments.switch_timeline(io, &mut self.jobs, timeline, copied);
        local.set_timeline(timeline);
        let flush_lsn = local.flush_lsn();
        let new = Arc::new(Timelines { current: timeline, history, ..(**timelines).clone() });
        *timelines = Arc::clone(&new);
        // Before any position of the new timeline is published.
        self.mail_ships(|| ToShip::Timelines(Arc::clone(&new)));
        self.config.shared.begin_timeline(timeline);
        self.forget_replies();
        self.hold_slots_from(flush_lsn, timeline);
        self.save_slots(io);
        self.publish_slots();
    }

    pub(super) fn note_server_version(&mut self) {
        let State::Live(live) = &self.link.state else { return };
        if let Some(Store { control, .. }) = &mut self.store {
            control.wanted.server_version.clone_from(&live.server_version);
            control.wanted.server_version_num = live.server_version_num;
        }
    }
}

/// What a history file says that the upstream has sent.
fn read_history(timeline: TimelineId, content: &[u8]) -> Result<TimelineHistory, String> {
    if content.len() > HISTORY_BYTES_MAX {
        return Err(format!(
            "it has {} bytes, at most {HISTORY_BYTES_MAX} are taken",
            content.len()
        ));
    }
    TimelineHistory::parse(content, timeline).map_err(|error| error.to_string())
}
