//! Small file jobs of a core, step by step through its `Io`: make a segment, replace a file.
//!
//! A job is a list of steps on at most one open file. It stops at its first failing step; what
//! that means is for whoever started it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use walhub_engine::files::reason;
use walhub_engine::io::{BLOCK_LEN, Done, FileId, Gather, Io, Op, OpenMode, Token};

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
    /// Renames a file.
    Rename(PathBuf, PathBuf),
    /// Makes a directory durable.
    SyncDir(PathBuf),
    /// Removes a file; one that is not there is as good.
    Unlink(PathBuf),
}

/// The steps that fill a file with `zeros`, whose length divides `len`.
pub fn fill_steps(len: u64, zeros: &Bytes) -> impl DoubleEndedIterator<Item = Step> {
    let stride = u64::try_from(zeros.len()).unwrap_or(u64::MAX);
    let step =
        move |number| Step::Write { offset: number * stride, data: zeros.clone(), durable: false };
    (0..len / stride).map(step)
}

/// The steps that replace a file durably. PostgreSQL: `durable_rename`.
#[must_use]
pub fn replace_steps(path: &std::path::Path, content: Vec<u8>) -> Vec<Step> {
    let temporary = path.with_extension("tmp");
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

/// A finished job.
#[derive(Debug)]
pub struct Finished<K> {
    /// What the job was for.
    pub kind: K,
    /// The file it left open, or the step that failed.
    pub result: Result<Option<FileId>, JobError>,
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
        super::writer::is_disk_full(&self.error)
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
    failed: Option<JobError>,
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
        let number = self.next;
        self.next += 1;
        let job = Job { kind, steps: steps.into(), file: None, path: PathBuf::new(), failed: None };
        self.jobs.insert(number, job);
        self.submit_step(io, number);
    }

    /// Starts a job that closes a file.
    pub fn close<I: Io>(&mut self, io: &mut I, kind: K, file: FileId) {
        let number = self.next;
        self.next += 1;
        let steps = VecDeque::from([Step::Close]);
        let job = Job { kind, steps, file: Some(file), path: PathBuf::new(), failed: None };
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
            Ok(done) => advance(job, step, &done),
            Err(error) => fail(job, step, error),
        }
        if job.steps.is_empty() {
            let job = self.jobs.remove(&number)?;
            let result = job.failed.map_or(Ok(job.file), Err);
            return Some(Finished { kind: job.kind, result });
        }
        self.submit_step(io, number);
        None
    }

    fn submit_step<I: Io>(&mut self, io: &mut I, number: u64) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let Some(step) = job.steps.front() else { return };
        let file = job.file.unwrap_or(FileId(u32::MAX));
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
            Step::Rename(from, to) => Op::Rename { from, to },
            Step::SyncDir(path) => Op::SyncDir { path },
            Step::Unlink(path) => Op::Unlink { path },
        };
        io.submit(Token(self.tag | number), op);
    }
}

/// Remembers what the step did, and puts the rest of a short write in front again.
fn advance<K>(job: &mut Job<K>, step: Option<Step>, done: &Done) {
    match (step, done) {
        (Some(Step::Write { offset, data, durable }), Done::Wrote(count))
            if *count < data.len() =>
        {
            if *count == 0 {
                let step = Some(Step::Write { offset, data, durable });
                return fail(job, step, io::Error::from(io::ErrorKind::WriteZero));
            }
            // A short direct write may end inside a block; the next one may not begin there.
            let count = count - count % BLOCK_LEN;
            let rest = data.slice(count..);
            let offset = offset + u64::try_from(count).unwrap_or(0);
            job.steps.push_front(Step::Write { offset, data: rest, durable });
        }
        (Some(Step::Open(..)), Done::Opened(file)) => job.file = Some(*file),
        (Some(Step::Close), _) => job.file = None,
        _ => {}
    }
}

fn fail<K>(job: &mut Job<K>, step: Option<Step>, error: io::Error) {
    let (name, path) = match step {
        // Removing what is not there is no failure.
        Some(Step::Unlink(_)) if error.kind() == io::ErrorKind::NotFound => return,
        Some(Step::Allocate { len, zeros }) if error.kind() == io::ErrorKind::Unsupported => {
            return fill_steps(len, &zeros).rev().for_each(|step| job.steps.push_front(step));
        }
        Some(Step::Allocate { .. }) => ("allocate", job.path.clone()),
        Some(Step::Unlink(path)) => ("remove", path),
        Some(Step::Open(path, _)) => ("open", path),
        Some(Step::Write { .. }) => ("write to", job.path.clone()),
        Some(Step::Sync) => ("fsync", job.path.clone()),
        Some(Step::Close) | None => ("close", job.path.clone()),
        Some(Step::Rename(from, _)) => ("rename", from),
        Some(Step::SyncDir(path)) => ("fsync", path),
    };
    if job.failed.is_none() {
        job.failed = Some(JobError { step: name, path, error });
    }
    job.steps.clear();
    if job.file.is_some() {
        job.steps.push_back(Step::Close);
    }
}
