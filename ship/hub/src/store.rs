//! WAL here: in memory, on its way to the disk, in files, and found again after a crash.
//!
//! [`Store`] is what this server has of one cluster: the WAL, the timelines that it is on, and the control
//! file that says how much of it is durable. There is none before the first contact with an upstream.
//!
//! Not here: where the WAL comes from (`crate::intake`), when it is told to whom (`crate::wal_core`).

pub mod control_file;
pub mod disk_trouble;
pub mod jobs;
pub mod local;
pub mod mark;
pub mod recover;
pub mod segments;
pub mod tail;
pub mod timelines;
pub mod verify;
pub mod wal_reader;
pub mod writer;

use std::path::Path;
use std::sync::Arc;

use walhub_engine::buffer::{Buffer, SlabPool};
use walhub_engine::crc::crc32c;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::record::RecordReader;

use crate::api::rows::Identity;
use control_file::ControlFileKeeper;
use local::LocalWal;
use mark::Durable;
use recover::RecoveredWal;
use segments::{Segments, ZEROS_LEN};
use tail::{Tail, TailSlab};
use timelines::Timelines;
use writer::{FlushMethod, Writer, WriterTokens};

/// How WAL is written, and what of it is held in memory.
#[derive(Debug)]
pub struct StoreConfig<'a> {
    /// Data directory.
    pub data_dir: &'a Path,
    /// Whether segments are written past the page cache.
    pub direct: bool,
    /// How they are made durable.
    pub method: FlushMethod,
    /// Of the writer's operations.
    pub tokens: WriterTokens,
    /// Memory of the tail.
    pub slabs: SlabPool,
    /// Slabs that the tail may hold.
    pub slabs_max: usize,
    /// Bytes of an unverified record that are held back from the disk at most.
    pub unverified_bytes_max: u64,
}

/// What this server has of a cluster.
#[derive(Debug)]
pub struct Store {
    /// Its WAL.
    pub local: LocalWal,
    /// Its timelines.
    pub timelines: Arc<Timelines>,
    /// What the control file says of it.
    pub control: ControlFileKeeper,
}

impl Store {
    /// Takes up WAL that is on disk, or the place where the first will be. The slab is the tail's first.
    #[must_use]
    pub fn open(
        mut keeper: ControlFileKeeper,
        wal: RecoveredWal,
        config: StoreConfig<'_>,
    ) -> (Self, TailSlab) {
        let control = &mut keeper.wanted;
        control.wal_version = control.wal_version.or(wal.version);
        let current = wal.timelines.current;
        let reader = reader_at(&keeper, wal.end, wal.last_record, current);
        let (tail, first) = Tail::new(config.slabs, config.slabs_max, wal.end, &wal.block);
        let mut zeros = Buffer::with_capacity(ZEROS_LEN);
        zeros.zero_pad_to(ZEROS_LEN);
        let mut segments = Segments::new(
            config.data_dir.join("pg_wal"),
            wal.timelines.segment_size,
            current,
            config.direct,
            wal.held,
            wal.spare,
            zeros.freeze(),
        );
        wal.partial.into_iter().for_each(|(segno, name)| segments.hold_partial(segno, name));
        // The next segment may be made ready before a page header was read.
        if let Some(version) = wal.version {
            segments.set_format(wal.timelines.system_identifier, version);
        }
        let writer = Writer::new(config.tokens, config.method, config.direct, wal.end);
        let local = LocalWal::new(
            tail,
            reader,
            segments,
            writer,
            wal.timelines.system_identifier,
            config.unverified_bytes_max,
            wal.facts,
        )
        .with_page_version(wal.page_version);
        (Self { local, timelines: Arc::new(wal.timelines), control: keeper }, first)
    }

    /// Whose WAL this is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let control = &self.control.wanted;
        Identity {
            system_identifier: control.system_identifier,
            segment_size: control.segment_size,
            server_version: control.server_version.clone(),
            server_version_num: control.server_version_num,
        }
    }

    /// Where the oldest WAL here begins.
    #[must_use]
    pub fn oldest_lsn(&self) -> Lsn {
        let (segments, end) = (&self.local.segments, self.local.received_lsn());
        let size = segments.size();
        segments.oldest().map_or_else(|| size.start_of(end), |segno| segno.start(size))
    }

    /// What is noted beside the control file: WAL up to `flush_lsn`, which was published, is durable.
    #[must_use]
    pub fn durable(&self, flush_lsn: Lsn) -> Durable {
        let system_identifier = self.control.wanted.system_identifier;
        Durable { system_identifier, timeline: self.timelines.current, flush_lsn }
    }

    /// A reader that goes on where the valid WAL ends.
    #[must_use]
    pub fn next_reader(&self) -> RecordReader {
        let local = &self.local;
        let (verified, last) = (local.verified_lsn(), local.last_record());
        let timeline = local.segments.timeline();
        let reader = reader_at(&self.control, verified.align_down(8), last, timeline);
        let in_filling = local.segments.size().offset(verified) != 0;
        match local.reader().filling().filter(|_| in_filling) {
            Some(filling) => reader.with_filling(filling, verified),
            None => reader,
        }
    }

    /// Whether the control file vouches for everything that is durable. If not, it must be saved, and what
    /// is durable is not told before.
    ///
    /// A record that began before the first WAL here cannot be verified after a crash, unless the
    /// control file says that it was durable. A checkpoint of this server's own WAL, which begins and has
    /// its redo position there, must be found by the next start.
    pub fn is_vouched_for(&mut self, checkpoint: Option<(Lsn, Lsn)>) -> bool {
        let Self { control, local, .. } = self;
        let Some(saved) = control.saved() else { return true };
        let unseen = local.unseen_end();
        let first = unseen.is_some_and(|end| end > saved.flush_lsn && end <= local.flush_lsn());
        let checkpoint = checkpoint.filter(|(start, _)| saved.checkpoint_lsn != Some(*start));
        if !first && checkpoint.is_none() {
            return true;
        }
        control.move_bound(local);
        if let Some((start, redo)) = checkpoint {
            (control.wanted.checkpoint_lsn, control.wanted.redo_lsn) = (Some(start), Some(redo));
        }
        control.wait();
        false
    }

    /// Everything that is durable becomes the control file's bound, when it is saved next.
    pub fn move_bound(&mut self) {
        self.control.move_bound(&self.local);
    }
}

/// Reads the WAL of the cluster that the control file names, from `lsn` on.
fn reader_at(
    keeper: &ControlFileKeeper,
    lsn: Lsn,
    last_record: Option<Lsn>,
    timeline: TimelineId,
) -> RecordReader {
    let control = &keeper.wanted;
    let mut reader = RecordReader::new(lsn, control.segment_size, crc32c)
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
