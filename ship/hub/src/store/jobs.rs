//! Small file jobs of a core, step by step through its `Io`: make a segment, replace a file.
//!
//! A job is a list of steps on at most one open file, and another one that it copies from. It stops at its
//! first failing step; what that means is for whoever started it. However large a copy is, one piece of it
//! is under way at a time: what else the core asks of its ring goes on beside it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use walhub_engine::buffer::Buffer;
use walhub_engine::files::reason;
use walhub_engine::io::{BLOCK_LEN, Done, FileId, Gather, Io, Op, OpenMode, Token};
use walhub_proto::convert::{to_u64, to_usize};
use walhub_proto::sqlstate::SqlState;

/// Bytes that are copied at a time.
pub const COPY_PIECE_LEN: usize = 1 << 20;
const BLOCK_BYTES: u64 = 4096;
const _: () = assert!(BLOCK_LEN == 4096 && COPY_PIECE_LEN.is_multiple_of(BLOCK_LEN));

/// One operation of a job.
#[derive(Clone, Debug)]
pub enum Step {
    /// Opens the job's file.
    Open(PathBuf, OpenMode),
    /// Writes all of the bytes to the job's file.
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: Bytes,
        /// Whether to wait until it is durable.
        durable: bool,
    },
    /// Takes room for the job's file, in which nothing is written yet. Where the file system cannot, the
    /// file is filled with zeros.
    Allocate {
        /// Its length.
        len: u64,
        /// The zeros of one write, whose length divides that of the file.
        zeros: Bytes,
    },
    /// Makes the job's file durable.
    Sync,
    /// Closes the job's file.
    Close,
    /// Reads bytes of the job's file, for [`Finished::data`].
    Read {
        /// From where.
        offset: u64,
        /// How many. The file has them.
        len: usize,
    },
    /// Opens the file that is copied from.
    OpenSource(PathBuf, OpenMode),
    /// Copies what is from `offset` to `end` in the source to the same place in the job's file. The block
    /// in which that ends is filled with zeros.
    Copy {
        /// First byte, at the start of a block.
        offset: u64,
        /// Behind the last one.
        end: u64,
    },
    /// Closes the file that was copied from.
    CloseSource,
    /// Renames a file.
    Rename(PathBuf, PathBuf),
    /// Makes a directory durable.
    SyncDir(PathBuf),
    /// Removes a file; one that is not there is as good.
    Unlink(PathBuf),
}

impl Step {
    /// What it does to which file, for messages.
    fn describe(
        &self,
        file: &std::path::Path,
        source: &std::path::Path,
    ) -> (&'static str, PathBuf) {
        match self {
            Self::Open(path, _) | Self::OpenSource(path, _) => ("open", path.clone()),
            Self::Write { .. } => ("write to", file.to_path_buf()),
            Self::Allocate { .. } => ("allocate", file.to_path_buf()),
            Self::Sync => ("fsync", file.to_path_buf()),
            Self::Close => ("close", file.to_path_buf()),
            Self::Read { .. } => ("read", file.to_path_buf()),
            Self::Copy { .. } => ("read", source.to_path_buf()),
            Self::CloseSource => ("close", source.to_path_buf()),
            Self::Rename(from, _) => ("rename", from.clone()),
            Self::SyncDir(path) => ("fsync", path.clone()),
            Self::Unlink(path) => ("remove", path.clone()),
        }
    }
}

/// The steps that fill a file with `zeros`, whose length divides `len`.
pub fn fill_steps(len: u64, zeros: &Bytes) -> impl DoubleEndedIterator<Item = Step> {
    let stride = to_u64(zeros.len());
    let step =
        move |number| Step::Write { offset: number * stride, data: zeros.clone(), durable: false };
    (0..len / stride).map(step)
}

/// The steps that fill a file with zeros from `start`, at a block, to `end`, a whole number of `zeros` from
/// the file's beginning.
#[must_use]
pub fn zero_steps(start: u64, end: u64, zeros: &Bytes) -> Vec<Step> {
    let stride = to_u64(zeros.len());
    let mut offset = start;
    let mut steps = Vec::new();
    while offset < end {
        let next = (offset / stride + 1) * stride;
        let len = to_usize(next - offset);
        steps.push(Step::Write { offset, data: zeros.slice(..len), durable: false });
        offset = next;
    }
    steps
}

/// The steps that replace a file durably. PostgreSQL: `durable_rename`.
#[must_use]
pub fn replace_steps(path: &std::path::Path, content: Vec<u8>) -> Vec<Step> {
    let temporary = temporary_name(path);
    let directory = path.parent().map(std::path::Path::to_path_buf).unwrap_or_default();
    vec![
        Step::Unlink(temporary.clone()),
        Step::Open(temporary.clone(), OpenMode { create: true, direct: false }),
        Step::Write { offset: 0, data: Bytes::from(content), durable: false },
        Step::Sync,
        Step::Close,
        Step::Rename(temporary, path.to_path_buf()),
        Step::SyncDir(directory),
    ]
}

/// Where a file's new content is before it replaces the old one.
#[must_use]
pub fn temporary_name(path: &std::path::Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// A finished job.
#[derive(Debug)]
pub struct Finished<K> {
    /// What the job was for.
    pub kind: K,
    /// The file it left open, or the step that failed.
    pub result: Result<Option<FileId>, JobError>,
    /// What it read.
    pub data: Vec<u8>,
}

/// A step that failed. The job's file was closed.
#[derive(Debug)]
pub struct JobError {
    /// What was to be done.
    pub step: &'static str,
    /// To which file.
    pub path: PathBuf,
    /// What the operating system said.
    pub error: io::Error,
}

impl JobError {
    /// Whether the disk was full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        crate::store::writer::is_disk_full(&self.error)
    }

    /// PostgreSQL: `errcode_for_file_access`.
    #[must_use]
    pub fn sqlstate(&self) -> SqlState {
        if self.is_disk_full() { SqlState::DISK_FULL } else { SqlState::IO_ERROR }
    }
}

impl std::fmt::Display for JobError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "could not {} file \"{}\": {}",
            self.step,
            self.path.display(),
            reason(&self.error)
        )
    }
}

#[derive(Debug)]
struct Job<K> {
    kind: K,
    steps: VecDeque<Step>,
    file: Option<FileId>,
    path: PathBuf,
    /// The file that is copied from, and whether past the page cache.
    source: Option<(FileId, bool)>,
    source_path: PathBuf,
    data: Vec<u8>,
    failed: Option<JobError>,
}

impl<K> Job<K> {
    fn new(kind: K, steps: VecDeque<Step>, file: Option<FileId>) -> Self {
        let (path, source_path) = (PathBuf::new(), PathBuf::new());
        let data = Vec::new();
        Self { kind, steps, file, path, source: None, source_path, data, failed: None }
    }
}

/// The jobs of one core. Tokens of their operations are `tag | job number`.
#[derive(Debug)]
pub struct Jobs<K> {
    tag: u64,
    next: u64,
    jobs: BTreeMap<u64, Job<K>>,
}

impl<K> Jobs<K> {
    /// Jobs whose tokens carry `tag` in their upper bits.
    #[must_use]
    pub fn new(tag: u64) -> Self {
        Self { tag, next: 0, jobs: BTreeMap::new() }
    }

    /// Whether no job is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Starts a job.
    pub fn start<I: Io>(&mut self, io: &mut I, kind: K, steps: Vec<Step>) {
        self.begin(io, Job::new(kind, steps.into(), None));
    }

    /// Starts a job that closes a file.
    pub fn close<I: Io>(&mut self, io: &mut I, kind: K, file: FileId) {
        self.begin(io, Job::new(kind, VecDeque::from([Step::Close]), Some(file)));
    }

    fn begin<I: Io>(&mut self, io: &mut I, job: Job<K>) {
        assert!(!job.steps.is_empty(), "a job of no steps never ends");
        let number = self.next;
        self.next += 1;
        self.jobs.insert(number, job);
        self.submit_step(io, number);
    }

    /// Takes a completion whose token carries the tag; the job's end when it was the last.
    pub fn handle<I: Io>(
        &mut self,
        io: &mut I,
        token: Token,
        result: io::Result<Done>,
    ) -> Option<Finished<K>> {
        let number = token.0 & !self.tag;
        let job = self.jobs.get_mut(&number)?;
        let step = job.steps.pop_front();
        match result {
            Ok(done) => advance(job, step, done),
            Err(error) => fail(job, step, error),
        }
        if job.steps.is_empty() {
            let job = self.jobs.remove(&number)?;
            let result = job.failed.map_or(Ok(job.file), Err);
            return Some(Finished { kind: job.kind, result, data: job.data });
        }
        self.submit_step(io, number);
        None
    }

    fn submit_step<I: Io>(&mut self, io: &mut I, number: u64) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let Some(step) = job.steps.front() else { return };
        let file = job.file.unwrap_or(FileId(u32::MAX));
        let source = job.source.map_or(FileId(u32::MAX), |(source, _)| source);
        let op = match step.clone() {
            Step::Open(path, mode) => {
                job.path.clone_from(&path);
                Op::Open { path, mode }
            }
            Step::Write { offset, data, durable } => {
                Op::Write { file, offset, data: Gather::from_iter([data]), durable }
            }
            Step::Allocate { len, .. } => Op::Allocate { file, len },
            Step::Sync => Op::Sync { file },
            Step::Close => Op::Close { file },
            Step::Read { offset, len } => {
                Op::Read { file, offset, buf: Buffer::with_capacity(len.max(1)) }
            }
            Step::OpenSource(path, mode) => {
                job.source_path.clone_from(&path);
                Op::Open { path, mode }
            }
            Step::Copy { offset, end } => {
                let buf = Buffer::with_capacity(copy_piece_len(offset, end));
                Op::Read { file: source, offset, buf }
            }
            Step::CloseSource => Op::Close { file: source },
            Step::Rename(from, to) => Op::Rename { from, to },
            Step::SyncDir(path) => Op::SyncDir { path },
            Step::Unlink(path) => Op::Unlink { path },
        };
        io.submit(Token(self.tag | number), op);
    }
}

/// Bytes that are read next of what is to be copied: whole blocks.
fn copy_piece_len(offset: u64, end: u64) -> usize {
    let left = to_usize(end.saturating_sub(offset));
    let into_block = to_usize(offset % BLOCK_BYTES);
    (left.min(COPY_PIECE_LEN) + into_block).next_multiple_of(BLOCK_LEN)
}

/// Remembers what the step did, and puts what is left of it in front again.
fn advance<K>(job: &mut Job<K>, step: Option<Step>, done: Done) {
    match (step, done) {
        (Some(Step::Write { offset, data, durable }), Done::Wrote(count)) if count < data.len() => {
            if count == 0 {
                let step = Some(Step::Write { offset, data, durable });
                return fail(job, step, io::Error::from(io::ErrorKind::WriteZero));
            }
            // A short direct write may end inside a block; the next one may not begin there.
            let count = count - count % BLOCK_LEN;
            let rest = data.slice(count..);
            let offset = offset + to_u64(count);
            job.steps.push_front(Step::Write { offset, data: rest, durable });
        }
        (Some(Step::Open(..)), Done::Opened(file)) => job.file = Some(file),
        (Some(Step::Close), _) => job.file = None,
        (Some(Step::OpenSource(_, mode)), Done::Opened(file)) => {
            job.source = Some((file, mode.direct));
        }
        (Some(Step::CloseSource), _) => job.source = None,
        (Some(Step::Read { offset, len }), Done::Read(buf)) => {
            let count = buf.len().min(len);
            job.data.extend_from_slice(buf.get(..count).unwrap_or_default());
            let rest = Step::Read { offset: offset + to_u64(count), len: len - count };
            if count == 0 {
                return fail(job, Some(rest), io::ErrorKind::UnexpectedEof.into());
            }
            if count < len {
                job.steps.push_front(rest);
            }
        }
        (Some(Step::Copy { offset, end }), Done::Read(buf)) => copy_piece(job, offset, end, buf),
        _ => {}
    }
}

/// Writes what was read of the source, and reads on behind it.
fn copy_piece<K>(job: &mut Job<K>, offset: u64, end: u64, mut buf: Buffer) {
    let left = to_usize(end - offset);
    let mut count = buf.len().min(left).min(COPY_PIECE_LEN);
    let is_direct = job.source.is_some_and(|(_, direct)| direct);
    if count < left && is_direct {
        count -= count % BLOCK_LEN;
    }
    if count == 0 {
        let step = Some(Step::Copy { offset, end });
        return fail(job, step, io::ErrorKind::UnexpectedEof.into());
    }
    buf.truncate(count);
    let next = offset + to_u64(count);
    if next < end {
        job.steps.push_front(Step::Copy { offset: next, end });
    } else {
        let padding = to_usize(next.next_multiple_of(BLOCK_BYTES) - next);
        buf.zero_pad_to(count + padding);
    }
    job.steps.push_front(Step::Write { offset, data: buf.freeze(), durable: false });
}

fn fail<K>(job: &mut Job<K>, step: Option<Step>, error: io::Error) {
    match step {
        // Removing what is not there is no failure.
        Some(Step::Unlink(_)) if error.kind() == io::ErrorKind::NotFound => return,
        Some(Step::Allocate { len, zeros }) if error.kind() == io::ErrorKind::Unsupported => {
            return fill_steps(len, &zeros).rev().for_each(|step| job.steps.push_front(step));
        }
        step => {
            let step = step.unwrap_or(Step::Close);
            // A file that could not be closed is closed.
            match &step {
                Step::Close => job.file = None,
                Step::CloseSource => job.source = None,
                _ => {}
            }
            let (step, path) = step.describe(&job.path, &job.source_path);
            job.failed.get_or_insert(JobError { step, path, error });
        }
    }
    job.steps.clear();
    job.steps.extend(job.file.is_some().then_some(Step::Close));
    job.steps.extend(job.source.is_some().then_some(Step::CloseSource));
}

#[cfg(test)]
mod tests;
