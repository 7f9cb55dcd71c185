//! What a start-up finds in the data directory, read with blocking calls before any core runs.
//!
//! Not here: what it means (`walhub_proto::recovery`).

mod damage;
mod heads;
mod mark;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use walhub_engine::crc::crc32c;
use walhub_engine::io::{DirEntry, Fs};
use walhub_proto::convert::{to_u64, to_usize};
use walhub_proto::history::{self, TimelineHistory};
use walhub_proto::lsn::{Lsn, LsnRange, SystemIdentifier, TimelineId};
use walhub_proto::page::{LONG_HEADER_LEN, PAGE_BYTES, PageHeader, SHORT_HEADER_LEN, WalVersion};
use walhub_proto::recovery::{
    self, CONTROL_COPY_LEN, CheckpointSeen, ControlFile, ControlFileError, DurableMark, EndOfWal,
    FoundSegment, RecoveryError, RecoveryPlan, StopReason, WalEnd,
};
use walhub_proto::rmgr::counters::Counters;
use walhub_proto::rmgr::facts::{DatabaseFacts, Facts};
use walhub_proto::segment::{SegNo, SegmentSize};
use walhub_proto::slot::{Slot, decode_slot};

use crate::publish::positions::DamagedSegment;
use crate::role::Role;
use crate::store::segments::is_temporary;
use crate::store::timelines::Timelines;
use crate::store::writer::is_disk_full;
use damage::Wal;

pub use damage::Damage;
pub use heads::head_fault;
pub use mark::{MARK_FILE, read_mark, write_mark};

/// The control file's name in the data directory.
pub const CONTROL_FILE: &str = "walhub.control";
const BLOCK_BYTES: u64 = 4096;
const LONG_HEADER_BYTES: u64 = 40;
const _: () = assert!(LONG_HEADER_BYTES == LONG_HEADER_LEN as u64);
/// Bytes of one read of a segment.
const SCAN_LEN: usize = 1 << 20;

/// What a hub with WAL of its own begins with.
#[derive(Clone, Copy, Debug)]
pub struct NewCluster {
    /// What no other cluster has.
    pub system_identifier: SystemIdentifier,
    /// Size of its segments.
    pub segment_size: SegmentSize,
    /// PostgreSQL major that could have written its WAL.
    pub version: WalVersion,
}

/// Makes a new data directory a primary's. The first WAL comes with the first start.
/// PostgreSQL: `BootStrapXLOG`.
///
/// # Errors
/// As the operating system's.
pub fn create_cluster(fs: &dyn Fs, data_dir: &Path, new: &NewCluster) -> io::Result<()> {
    // Segment 0 stays unused, so that 0/0 is never a record. PostgreSQL does the same.
    let start = Lsn(new.segment_size.bytes());
    let major = new.version.major().ok_or_else(|| {
        let text = format!("no PostgreSQL release has the page magic {:?}", new.version);
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    let (id, size) = (new.system_identifier, new.segment_size);
    let control = ControlFile {
        server_version_num: major * 10_000,
        server_version: format!("{major}.0 ({MADE_HERE}{})", env!("CARGO_PKG_VERSION")),
        wal_version: Some(new.version),
        own_wal: true,
        counters: Some(Counters::first()),
        database: DatabaseFacts::of_own_wal(),
        ..ControlFile::beginning(id, size, TimelineId::FIRST, start)
    };
    write_control(fs, data_dir, &control)
}

/// What the server version of a cluster that [`create_cluster`] made has before walhub's. Relays pass it on.
const MADE_HERE: &str = "walhub ";

/// Whether the WAL is, or once was, that of a PostgreSQL server with tables: in a cluster that walhub made
/// nobody ever wrote a row.
#[must_use]
pub fn has_database(control: &ControlFile) -> bool {
    !control.server_version.contains(MADE_HERE)
}

/// What the operator has said about a start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choices {
    /// Damaged WAL after this position is given up.
    pub accept_loss_after: Option<Lsn>,
    /// There is an upstream, from which WAL can be received again.
    pub has_upstream: bool,
}

/// What a start-up found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// WAL, unless the directory is new.
    pub wal: Option<RecoveredWal>,
    /// Slots.
    pub slots: Vec<Slot>,
    /// The timeline history files that can be read; of none before there is WAL: nobody knows whose they are.
    pub histories: Vec<TimelineHistory>,
    /// Timelines that have a history file, of whichever history.
    pub history_files: BTreeSet<TimelineId>,
}

impl Recovered {
    /// Who this server is.
    #[must_use]
    pub fn role(&self) -> Role {
        let control = self.wal.as_ref().and_then(|wal| wal.control.as_ref());
        if control.is_some_and(|control| control.own_wal) { Role::Primary } else { Role::Relay }
    }

    /// Whether it was a relay's before: WAL of its own begins on timeline 1 otherwise.
    #[must_use]
    pub fn is_promoted(&self) -> bool {
        let control = self.wal.as_ref().and_then(|wal| wal.control.as_ref());
        control.is_some_and(|control| control.own_wal && control.timeline > TimelineId::FIRST)
    }
}

/// Local WAL, or the place where the first will be.
#[derive(Debug)]
pub struct RecoveredWal {
    /// The control file as it was, unless this is the first contact.
    pub control: Option<ControlFile>,
    /// Timelines that can be served.
    pub timelines: Timelines,
    /// End of the last valid record.
    pub end: Lsn,
    /// Its start.
    pub last_record: Option<Lsn>,
    /// The bytes of the block that `end` lies in, before it.
    pub block: Vec<u8>,
    /// Segments with WAL, and the timelines under whose names there is a file.
    pub held: BTreeMap<SegNo, Vec<TimelineId>>,
    /// Segment files without WAL.
    pub spare: Vec<String>,
    /// Version of its pages, when one is known.
    pub version: Option<WalVersion>,
    /// What the last page header says, when there is no record yet that vouches for it.
    pub page_version: Option<WalVersion>,
    /// Names of files that hold the end of a timeline that was left, by their segments.
    pub partial: Vec<(SegNo, String)>,
    /// What the WAL says about the database.
    pub facts: Facts,
    /// The transaction that its last record of any belongs to, when nothing has ended it.
    pub last_open: Option<u32>,
    /// The newest checkpoint record that was read.
    pub checkpoint: Option<CheckpointSeen>,
    /// WAL up to here was durable once, and has to be received again.
    pub lost_to: Option<Lsn>,
    /// Segments that must not be served.
    pub damaged: Vec<DamagedSegment>,
}

impl RecoveredWal {
    /// No WAL yet: it will begin at `start`.
    #[must_use]
    pub fn fresh(
        system_identifier: SystemIdentifier,
        segment_size: SegmentSize,
        current: TimelineId,
        history: TimelineHistory,
        start: Lsn,
    ) -> Self {
        Self {
            control: None,
            timelines: Timelines { system_identifier, segment_size, current, history },
            end: start,
            last_record: None,
            block: Vec::new(),
            held: BTreeMap::new(),
            spare: Vec::new(),
            version: None,
            page_version: None,
            partial: Vec::new(),
            facts: Facts::default(),
            last_open: None,
            checkpoint: None,
            lost_to: None,
            damaged: Vec::new(),
        }
    }
}

/// A data directory that cannot be started from.
#[derive(Debug)]
pub enum RecoverError {
    /// The operating system refused.
    Io(io::Error),
    /// The control file is no control file.
    Control {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: ControlFileError,
    },
    /// There is WAL but no control file.
    NoControl {
        /// Where the WAL is.
        dir: PathBuf,
    },
    /// A history file is missing or wrong.
    History {
        /// The file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A slot's file is wrong.
    Slot {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The WAL cannot be gone on with.
    Wal(RecoveryError),
    /// This is a primary, and what its next record must say is not known.
    OwnWal {
        /// What is not known.
        unknown: &'static str,
    },
    /// WAL that was durable is damaged.
    Damaged(Box<Damage>),
}

impl From<RecoveryError> for RecoverError {
    fn from(error: RecoveryError) -> Self {
        Self::Wal(error)
    }
}

impl From<io::Error> for RecoverError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Control { path, error } => {
                write!(f, "control file \"{}\": {error}", path.display())
            }
            Self::NoControl { dir } => write!(
                f,
                "there is WAL in \"{}\" but no control file \"{CONTROL_FILE}\" beside it",
                dir.display()
            ),
            Self::History { name, reason } => {
                write!(f, "timeline history file \"{name}\": {reason}")
            }
            Self::Slot { path, reason } => {
                write!(f, "{reason} (replication slot file \"{}\")", path.display())
            }
            Self::Wal(error) => write!(f, "{error}"),
            Self::OwnWal { unknown } => {
                write!(f, "neither control file \"{CONTROL_FILE}\" nor the WAL says {unknown}")
            }
            Self::Damaged(damage) => write!(f, "{damage}"),
        }
    }
}

impl std::error::Error for RecoverError {}

/// Reads everything that the hub needs to go on.
///
/// # Errors
/// When the directory cannot be read or is damaged: starting from it would lose or alter WAL.
pub fn recover(fs: &dyn Fs, data_dir: &Path) -> Result<Recovered, RecoverError> {
    recover_as(fs, data_dir, &Choices { accept_loss_after: None, has_upstream: true })
}

/// As [`recover`], as the operator has chosen.
///
/// # Errors
/// As [`recover`].
pub fn recover_as(
    fs: &dyn Fs,
    data_dir: &Path,
    choices: &Choices,
) -> Result<Recovered, RecoverError> {
    let wal_dir = data_dir.join("pg_wal");
    let Some(control) = read_control(fs, data_dir)? else {
        let has_wal = fs
            .list(&wal_dir)?
            .iter()
            .any(|entry| SegNo::parse_file_name(&entry.name, SegmentSize::MIN).is_some());
        if has_wal {
            return Err(RecoverError::NoControl { dir: wal_dir });
        }
        let history_files = history_files(fs, &wal_dir)?;
        let slots = read_slots(fs, data_dir)?;
        return Ok(Recovered { slots, history_files, ..Recovered::default() });
    };
    let Whole { control, mark, found, mut listing } = look(fs, data_dir, control, choices)?;
    let size = control.segment_size;
    // A relay receives it again, and may have less of it at the next start, which would take what is left of it
    // now for a proof that everything before was durable.
    let is_unverifiable = matches!(found.stop, Some((_, StopReason::Unverifiable { .. })));
    let has_rest = control.own_wal || is_unverifiable;
    if has_rest && remove_after(fs, &wal_dir, &control, found.end, &listing)? {
        listing = fs.list(&wal_dir)?;
    }
    if control.own_wal {
        zero_after(fs, &wal_dir, &control, found.end)?;
    }
    make_durable(fs, data_dir, &control, &found, &listing)?;
    let lost_to = renew_mark(fs, data_dir, &control, mark, found.end)?;
    // A crash in the middle of a promotion may have left it. Not before the control file is durable:
    // without that this is the relay, which goes on in that segment.
    if control.own_wal && keep_partial(fs, &wal_dir, size, &found.history)?.is_some() {
        listing = fs.list(&wal_dir)?;
    }
    let (end, last_record) = (found.end, found.last_record);
    let mut block = vec![0; to_usize(end - end.align_down(BLOCK_BYTES))];
    if !block.is_empty() {
        let path = wal_dir.join(SegNo::of_start(end, size).file_name(control.timeline, size));
        fs.read_at(&path, size.offset(end.align_down(BLOCK_BYTES)), &mut block)?;
    }
    let partial = partial_files(&listing, size);
    let histories = read_histories(fs, &wal_dir, &listing)?;
    let Sorted { held, spare, damaged } = sort_segments(fs, &wal_dir, &control, &found, listing)?;
    let version = version_of(fs, &wal_dir, &control, &found)?;
    let (facts, last_open, checkpoint) = (found.facts, found.last_open, found.checkpoint);
    let unknown = |unknown| Err(RecoverError::OwnWal { unknown });
    match (version, facts.counters) {
        (None, _) if control.own_wal => {
            return unknown("which version of PostgreSQL the WAL is of");
        }
        (_, None) if control.own_wal => return unknown("which transaction ids were given out"),
        _ => {}
    }
    let history = found.history;
    let timelines = Timelines {
        system_identifier: control.system_identifier,
        segment_size: size,
        current: control.timeline,
        history,
    };
    let wal = RecoveredWal {
        control: Some(control),
        timelines,
        end,
        last_record,
        block,
        held,
        spare,
        version,
        page_version: found.version.filter(|_| last_record.is_none()),
        partial,
        facts,
        last_open,
        checkpoint,
        lost_to,
        damaged,
    };
    let history_files = history_files(fs, &wal_dir)?;
    let slots = read_slots(fs, data_dir)?;
    Ok(Recovered { wal: Some(wal), slots, histories, history_files })
}

fn history_files(fs: &dyn Fs, wal_dir: &Path) -> io::Result<BTreeSet<TimelineId>> {
    let files = fs.list(wal_dir)?;
    Ok(files.iter().filter_map(|file| history::parse_file_name(&file.name)).collect())
}

/// The version of the WAL, when a whole record of it is there.
///
/// A control file of before it was kept does not say, and after a clean stop there is nothing to scan that
/// has a page header: then the page says on which the last record begins.
fn version_of(
    fs: &dyn Fs,
    wal_dir: &Path,
    control: &ControlFile,
    found: &Found,
) -> io::Result<Option<WalVersion>> {
    let (size, Some(last_record)) = (control.segment_size, found.last_record) else {
        return Ok(control.wal_version);
    };
    if let Some(version) = control.wal_version.or(found.version) {
        return Ok(Some(version));
    }
    let page_addr = last_record.align_down(PAGE_BYTES);
    // The segment in which a timeline begins has the newest one's name, or the one's before.
    for entry in found.history.entries().iter().rev() {
        let path = wal_dir.join(SegNo::of_start(page_addr, size).file_name(entry.tli, size));
        let mut bytes = [0; LONG_HEADER_LEN];
        match fs.read_at(&path, size.offset(page_addr), &mut bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        let header = PageHeader::decode(&bytes).filter(|header| header.page_addr == page_addr);
        if let Some(header) = header {
            return Ok(WalVersion::from_magic(header.magic));
        }
    }
    Ok(None)
}

/// The WAL, whole up to its end.
struct Whole {
    control: ControlFile,
    mark: Option<DurableMark>,
    found: Found,
    listing: Vec<DirEntry>,
}

/// Finds the end of the WAL, past damage if that is possible or chosen.
fn look(
    fs: &dyn Fs,
    data_dir: &Path,
    mut control: ControlFile,
    choices: &Choices,
) -> Result<Whole, RecoverError> {
    let mut is_accepted = choices.accept_loss_after.is_none();
    loop {
        let listing = fs.list(&data_dir.join("pg_wal"))?;
        let mut mark = read_mark(fs, data_dir, &control)?;
        let wal = Wal { fs, data_dir, control: &control, mark, listing: &listing };
        let damage = match wal.look()? {
            Err(damage) => damage,
            Ok(found) => {
                if let Some((_, reason)) = found.stop {
                    tracing::info!("local WAL ends at {}: {reason}", found.end);
                }
                wal.zero_filling(&found)?;
                if control.own_wal
                    && let Some(to) = wal.first_record_in_segment_after(&found)?
                {
                    let kept = wal.keep_copy(&found)?;
                    tracing::warn!(
                        detail = "Nothing says that they were durable, so it is taken for what a crash leaves.",
                        "WAL ends at {}, and there are valid records after it, such as the one that ends at {to}; \
                         a copy of the segment is kept in \"{kept}\"",
                        found.end
                    );
                }
                if !is_accepted {
                    let lost = mark.and_then(|mark| mark.lost_to).filter(|&lost| lost > found.end);
                    if lost.is_some() && choices.accept_loss_after == Some(found.end) {
                        mark = mark.map(|mark| DurableMark { lost_to: None, ..mark });
                        if let Some(mark) = &mark {
                            write_mark(fs, data_dir, mark)?;
                        }
                    } else {
                        tracing::warn!(
                            "--accept-loss-after has no effect: no durable WAL is damaged"
                        );
                    }
                }
                return Ok(Whole { control, mark, found, listing });
            }
        };
        wal.settle(&damage, choices)?;
        is_accepted = true;
        let path = data_dir.join(CONTROL_FILE);
        control = read_control(fs, data_dir)?.ok_or(RecoverError::NoControl { dir: path })?;
    }
}

/// Makes the file of the mark, which the server overwrites, and says up to where WAL is to come again.
fn renew_mark(
    fs: &dyn Fs,
    data_dir: &Path,
    control: &ControlFile,
    mark: Option<DurableMark>,
    end: Lsn,
) -> io::Result<Option<Lsn>> {
    let lost_to = mark.and_then(|mark| mark.lost_to).filter(|&lost| lost > end);
    let renewed = DurableMark {
        system_identifier: control.system_identifier,
        timeline: control.timeline,
        flush_lsn: end,
        lost_to,
    };
    if mark != Some(renewed) {
        match write_mark(fs, data_dir, &renewed) {
            // It is a help and not a need: what is durable is served from a full disk, too.
            Err(error) if is_disk_full(&error) => {
                tracing::warn!("could not note what is durable: {error}");
            }
            written => written?,
        }
    }
    Ok(lost_to)
}

/// The newest whole copy of the control file; `None` when there is none.
///
/// # Errors
/// When the file cannot be read or is damaged.
pub fn read_control(fs: &dyn Fs, data_dir: &Path) -> Result<Option<ControlFile>, RecoverError> {
    let path = data_dir.join(CONTROL_FILE);
    let bytes = match fs.read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let copy_b = bytes.get(CONTROL_COPY_LEN..).unwrap_or_default();
    let copy_a = bytes.get(..CONTROL_COPY_LEN.min(bytes.len())).unwrap_or_default();
    ControlFile::choose(copy_a, copy_b, crc32c)
        .map(|found| found.map(|(control, _)| control))
        .map_err(|error| RecoverError::Control { path, error })
}

/// Where the copy with this sequence number is, and its bytes.
#[must_use]
pub fn control_block(control: &ControlFile) -> (u64, Vec<u8>) {
    let offset = if control.sequence.is_multiple_of(2) { 0 } else { BLOCK_BYTES };
    (offset, control.encode(crc32c))
}

/// Saves the control file and waits until it is durable.
///
/// # Errors
/// As the operating system's; the other copy is still good.
pub fn write_control(fs: &dyn Fs, data_dir: &Path, control: &ControlFile) -> io::Result<()> {
    let path = data_dir.join(CONTROL_FILE);
    let (offset, block) = control_block(control);
    if matches!(fs.read(&path), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        // The first copy has no other to fall back on.
        return fs.replace(&path, &block.repeat(2));
    }
    fs.write_at(&path, offset, &block)?;
    fs.sync(&path)?;
    fs.sync_dir(data_dir)
}

/// Zeros what a crash has left after the end of the own WAL.
///
/// A block that was written while the one before it was not may hold whole records. Were the same
/// records appended again up to that block, and then another crash, they would be found there, valid
/// and never asked for.
fn zero_after(fs: &dyn Fs, wal_dir: &Path, control: &ControlFile, end: Lsn) -> io::Result<()> {
    let size = control.segment_size;
    if size.offset(end) == 0 {
        return Ok(());
    }
    let path = wal_dir.join(SegNo::of_start(end, size).file_name(control.timeline, size));
    let mut piece = vec![0; SCAN_LEN];
    let mut offset = size.offset(end);
    while offset < size.bytes() {
        let len = to_usize(size.bytes() - offset).min(SCAN_LEN);
        let count = fs.read_at(&path, offset, piece.get_mut(..len).unwrap_or_default())?;
        let found = piece.get_mut(..count).unwrap_or_default();
        if found.iter().any(|&byte| byte != 0) {
            found.fill(0);
            fs.write_at(&path, offset, found)?;
        }
        if count < len {
            break;
        }
        offset += to_u64(count);
    }
    Ok(())
}

/// Removes the segments after the end of the own WAL, if a crash may have left anything in them: for the
/// reason of [`zero_after`]. Returns whether there were any.
///
/// A segment is written only once the one before it is durable to its end, by a record that goes on
/// in the next one or ends with the segment.
fn remove_after(
    fs: &dyn Fs,
    wal_dir: &Path,
    control: &ControlFile,
    end: Lsn,
    listing: &[DirEntry],
) -> io::Result<bool> {
    let size = control.segment_size;
    let last = SegNo::of_start(end, size);
    let first = if size.offset(end) == 0 {
        last
    } else if is_written_to_its_end(fs, wal_dir, control, last)? {
        last.next()
    } else {
        return Ok(false);
    };
    let after = |entry: &&DirEntry| {
        let parsed = SegNo::parse_file_name(&entry.name, size);
        parsed.is_some_and(|(tli, segno)| tli == control.timeline && segno >= first)
    };
    let mut found = false;
    for entry in listing.iter().filter(after) {
        fs.remove(&wal_dir.join(&entry.name))?;
        found = true;
    }
    if found {
        fs.sync_dir(wal_dir)?;
    }
    Ok(found)
}

/// Whether the last page of a segment is the one that belongs there, and not one of before it was
/// recycled.
fn is_written_to_its_end(
    fs: &dyn Fs,
    wal_dir: &Path,
    control: &ControlFile,
    segno: SegNo,
) -> io::Result<bool> {
    let size = control.segment_size;
    let path = wal_dir.join(segno.file_name(control.timeline, size));
    let mut header = [0; SHORT_HEADER_LEN];
    let count = fs.read_at(&path, size.bytes() - PAGE_BYTES, &mut header)?;
    let page_addr = Lsn(segno.end(size).0 - PAGE_BYTES);
    // `xlp_pageaddr`
    Ok(count == header.len() && header.get(8..16) == Some(&page_addr.0.to_le_bytes()))
}

/// The history of a timeline; the first has no file.
///
/// # Errors
/// When the file is missing or wrong.
pub fn read_history(
    fs: &dyn Fs,
    wal_dir: &Path,
    timeline: TimelineId,
) -> Result<TimelineHistory, RecoverError> {
    if timeline == TimelineId::FIRST {
        return Ok(TimelineHistory::single(timeline));
    }
    let name = history::file_name(timeline);
    let fault = |reason: String| RecoverError::History { name: name.clone(), reason };
    let content = fs.read(&wal_dir.join(&name)).map_err(|error| fault(error.to_string()))?;
    TimelineHistory::parse(content, timeline).map_err(|error| fault(error.to_string()))
}

/// Every history file that makes sense; another one is fetched again.
fn read_histories(
    fs: &dyn Fs,
    wal_dir: &Path,
    listing: &[DirEntry],
) -> io::Result<Vec<TimelineHistory>> {
    let mut histories = Vec::new();
    for entry in listing {
        let Some(timeline) = history::parse_file_name(&entry.name) else { continue };
        let content = fs.read(&wal_dir.join(&entry.name))?;
        match TimelineHistory::parse(content, timeline) {
            Ok(history) => histories.push(history),
            Err(error) => tracing::warn!("timeline history file \"{}\": {error}", entry.name),
        }
    }
    Ok(histories)
}

/// Makes durable what was read: the process that wrote it may have been killed before its flush, and
/// from now on it counts as flushed. PostgreSQL: `SyncDataDirectory`.
fn make_durable(
    fs: &dyn Fs,
    data_dir: &Path,
    control: &ControlFile,
    found: &Found,
    listing: &[DirEntry],
) -> io::Result<()> {
    let (wal_dir, slots_dir) = (data_dir.join("pg_wal"), data_dir.join("slots"));
    let size = control.segment_size;
    let first = SegNo::of_start(control.flush_lsn, size);
    for entry in listing {
        let parsed = SegNo::parse_file_name(&entry.name, size);
        if parsed.is_some_and(|(tli, segno)| segno >= first && found.history.contains(tli)) {
            fs.sync(&wal_dir.join(&entry.name))?;
        }
    }
    for entry in fs.list(&slots_dir)? {
        fs.sync(&slots_dir.join(&entry.name))?;
    }
    fs.sync(&data_dir.join(CONTROL_FILE))?;
    [wal_dir.as_path(), slots_dir.as_path(), data_dir].iter().try_for_each(|dir| fs.sync_dir(dir))
}

/// Finds where the WAL ends, and on which timeline it goes on, by reading records from where the control
/// file says.
///
/// WAL before `bound` was durable, beside what the control file says.
fn find_end(
    fs: &dyn Fs,
    wal_dir: &Path,
    control: &ControlFile,
    bound: Lsn,
    listing: &[DirEntry],
) -> Result<Found, RecoverError> {
    let size = control.segment_size;
    let segments: Vec<FoundSegment> = listing
        .iter()
        .filter_map(|entry| {
            let (tli, segno) = SegNo::parse_file_name(&entry.name, size)?;
            Some(FoundSegment { tli, segno, len: entry.len })
        })
        .collect();
    let history = read_history(fs, wal_dir, control.timeline)?;
    match recovery::plan(Some(control), &segments, std::slice::from_ref(&history), size)? {
        RecoveryPlan::Fresh | RecoveryPlan::NoWal { .. } => {
            let oldest_lsn = size.start_of(control.start_lsn);
            if bound > control.start_lsn {
                let segno = SegNo::of_start(control.start_lsn, size);
                let (tli, segment_size) = (control.timeline, size);
                return Err(
                    RecoveryError::SegmentMissing { tli, segno, segment_size, bound }.into()
                );
            }
            Ok(Found {
                end: control.start_lsn,
                last_record: None,
                oldest_lsn,
                history,
                version: None,
                facts: control.facts(),
                last_open: None,
                checkpoint: None,
                read_to: control.start_lsn,
                stop: None,
                filling: None,
            })
        }
        RecoveryPlan::Scan(mut plan) => {
            let oldest_lsn = plan.oldest_lsn;
            plan.bound = plan.bound.max(bound);
            let found = scan(fs, wal_dir, EndOfWal::new(plan, control, crc32c), size)?;
            let WalEnd { end, last_record, version, facts, last_open, checkpoint, .. } = found;
            let WalEnd { reason, read_to, filling, .. } = found;
            let at = match reason {
                StopReason::Violation(violation) => violation.lsn(),
                StopReason::FileEnd { .. }
                | StopReason::Unverifiable { .. }
                | StopReason::SegmentsEnd
                | StopReason::Switchpoint { .. } => read_to,
            };
            Ok(Found {
                end,
                last_record,
                oldest_lsn,
                history,
                version,
                facts,
                last_open,
                checkpoint,
                read_to,
                stop: Some((at, reason)),
                filling,
            })
        }
    }
}

/// What is known about the local WAL.
struct Found {
    end: Lsn,
    last_record: Option<Lsn>,
    oldest_lsn: Lsn,
    history: TimelineHistory,
    version: Option<WalVersion>,
    facts: Facts,
    last_open: Option<u32>,
    checkpoint: Option<CheckpointSeen>,
    /// How far was read.
    read_to: Lsn,
    /// Where and why reading stopped.
    stop: Option<(Lsn, StopReason)>,
    /// The end of the WAL that is filling.
    filling: Option<LsnRange>,
}

fn scan(
    fs: &dyn Fs,
    wal_dir: &Path,
    mut end_of_wal: EndOfWal,
    size: SegmentSize,
) -> Result<WalEnd, RecoverError> {
    let mut buf = vec![0; SCAN_LEN];
    while let Some(want) = end_of_wal.poll_read() {
        let path = wal_dir.join(want.segno.file_name(want.tli, size));
        let len = to_usize(want.len_max).min(SCAN_LEN);
        let piece = buf.get_mut(..len).unwrap_or_default();
        let count = fs.read_at(&path, want.offset, piece)?;
        end_of_wal.handle_read(piece.get(..count).unwrap_or_default());
    }
    Ok(end_of_wal.finish()?)
}

/// What a file's name ends with that holds the end of a timeline that was left.
const PARTIAL_SUFFIX: &str = ".partial";

/// The name under which the end of the last timeline's WAL is kept, and its name before; `None` when the
/// timeline was left between two segments.
#[must_use]
pub fn partial_name(
    size: SegmentSize,
    history: &TimelineHistory,
) -> Option<(SegNo, String, String)> {
    let [.., parent, _] = history.entries() else { return None };
    let switchpoint = parent.end.filter(|&end| size.offset(end) != 0)?;
    let segno = SegNo::of_start(switchpoint, size);
    let name = segno.file_name(parent.tli, size);
    let partial = format!("{name}{PARTIAL_SUFFIX}");
    Some((segno, name, partial))
}

/// Renames the segment in which a server's own timeline began, under the name of the timeline before:
/// the server that wrote it may yet archive a complete one of that name. Does nothing when that is done.
/// Returns the file's segment and name.
///
/// PostgreSQL: `CleanupAfterArchiveRecovery` (src/backend/access/transam/xlog.c).
///
/// # Errors
/// As the operating system's.
pub fn keep_partial(
    fs: &dyn Fs,
    wal_dir: &Path,
    size: SegmentSize,
    history: &TimelineHistory,
) -> io::Result<Option<(SegNo, String)>> {
    let Some((segno, name, partial)) = partial_name(size, history) else { return Ok(None) };
    match fs.rename(&wal_dir.join(name), &wal_dir.join(&partial)) {
        Ok(()) => fs.sync_dir(wal_dir)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(Some((segno, partial)))
}

fn partial_files(listing: &[DirEntry], size: SegmentSize) -> Vec<(SegNo, String)> {
    let files = listing.iter().filter_map(|entry| {
        let name = entry.name.strip_suffix(PARTIAL_SUFFIX)?;
        let (_, segno) = SegNo::parse_file_name(name, size)?;
        Some((segno, entry.name.clone()))
    });
    files.collect()
}

/// The files of segments.
#[derive(Debug, Default)]
struct Sorted {
    held: BTreeMap<SegNo, Vec<TimelineId>>,
    spare: Vec<String>,
    damaged: Vec<DamagedSegment>,
}

/// Tells segments with WAL from files that were made ready or recycled for later.
fn sort_segments(
    fs: &dyn Fs,
    wal_dir: &Path,
    control: &ControlFile,
    found: &Found,
    listing: Vec<DirEntry>,
) -> io::Result<Sorted> {
    let size = control.segment_size;
    let Sorted { mut held, mut spare, mut damaged } = Sorted::default();
    let mut is_cut_off = false;
    let first = SegNo::of_start(found.oldest_lsn, size);
    let last = SegNo::of_end(found.end.max(control.start_lsn + 1), size);
    for entry in listing {
        if is_temporary(&entry.name) {
            fs.remove(&wal_dir.join(&entry.name))?;
            continue;
        }
        let Some((timeline, segno)) = SegNo::parse_file_name(&entry.name, size) else { continue };
        let ours = found.history.contains(timeline);
        let is_wal = (first..=last).contains(&segno) && ours;
        let fault = if entry.len != size.bytes() {
            Some(format!("file has the wrong size: {} instead of {}", entry.len, size.bytes()))
        } else if is_wal && segno.start(size) + LONG_HEADER_BYTES <= found.end {
            head_fault(fs, &wal_dir.join(&entry.name), control, timeline, segno)
        } else {
            None
        };
        if let Some(reason) = &fault {
            tracing::error!("WAL segment \"{}\" is damaged: {reason}", entry.name);
        }
        if let Some(reason) = fault.clone().filter(|_| is_wal) {
            let file = entry.name.clone();
            damaged.push(DamagedSegment { timeline, segno, file, at: segno.start(size), reason });
        }
        if entry.len != size.bytes() {
            continue;
        }
        if is_wal {
            held.entry(segno).or_default().push(timeline);
        } else if segno > last || timeline > control.timeline {
            spare.push(entry.name);
        } else {
            is_cut_off |= ours && segno < first;
            tracing::warn!(
                "file \"{}\" does not belong to the WAL that ends at {}",
                entry.name,
                found.end
            );
        }
    }
    if is_cut_off && let Some(missing) = first.0.checked_sub(1).map(SegNo) {
        let name = missing.file_name(found.history.timeline_of(missing.start(size)), size);
        tracing::error!("WAL segment \"{name}\" is missing: WAL before it cannot be served");
    }
    Ok(Sorted { held, spare, damaged })
}

fn read_slots(fs: &dyn Fs, data_dir: &Path) -> Result<Vec<Slot>, RecoverError> {
    let dir = data_dir.join("slots");
    let mut slots = Vec::new();
    for entry in fs.list(&dir)? {
        let path = dir.join(&entry.name);
        if entry.name.ends_with(".tmp") {
            fs.remove(&path)?;
            continue;
        }
        let content = fs.read(&path)?;
        let slot = decode_slot(&content, crc32c).map_err(|error| RecoverError::Slot {
            reason: error.message(&path.display().to_string()),
            path,
        })?;
        slots.push(slot);
    }
    Ok(slots)
}

/// Makes the segment in which a new timeline begins: what the old one has before `start`, then
/// zeros. A running server does it piece by piece (`crate::store::segments`). PostgreSQL: `XLogFileCopy`.
///
/// # Errors
/// As the operating system's.
pub fn copy_segment_start(
    fs: &dyn Fs,
    from: &Path,
    to: &Path,
    size: SegmentSize,
    start: Lsn,
) -> io::Result<()> {
    let temporary = to.with_file_name("xlogtemp");
    let mut offset = 0;
    let keep = size.offset(start);
    while offset < size.bytes() {
        let mut piece = vec![0; SCAN_LEN];
        let copied = to_usize(keep.saturating_sub(offset)).min(SCAN_LEN);
        if copied > 0 {
            fs.read_at(from, offset, piece.get_mut(..copied).unwrap_or_default())?;
        }
        fs.write_at(&temporary, offset, &piece)?;
        offset += to_u64(SCAN_LEN);
    }
    fs.sync(&temporary)?;
    fs.rename(&temporary, to)?;
    match to.parent() {
        Some(dir) => fs.sync_dir(dir),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
