//! `disk`: what a durable write costs, by primitive and by the state of the segment.
//!
//! The same blocks are written one after the other into one file that was filled with zeros before
//! (as a recycled segment is), that was only allocated, or that is sparse. Ours are plain system
//! calls, the engine's ring, and a write linked to its fdatasync; fio does the same as the peer.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use hdrhistogram::Histogram;
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use walhub_engine::buffer::Buffer;
use walhub_engine::io::{BLOCK_LEN, Done, FileId, Gather, Io as _, Op, OpenMode, Token};
use walhub_engine::trial::LinkedWriter;
use walhub_engine::uring::{Uring, UringConfig};

use walhub_proto::convert::to_u64;

use super::{Context, Scenario, Watch, parse_size, put, put_latencies};
use crate::method::pairs::{Experiment, Figure, Leg, Run};
use crate::peer::fio;
use crate::peer::pgbench::histogram;

/// Its name.
pub const NAME: &str = "disk";

const SIDES: [&str; 7] = [
    "O_DSYNC",
    "fdatasync",
    "uring dsync",
    "uring 2 steps",
    "uring linked",
    "fio O_DSYNC",
    "fio fdatasync",
];
const FIGURES: &[Figure] = &[
    Figure::more("rate", "durable writes/s"),
    Figure::less("latency_p50_us", "p50, us"),
    Figure::less("latency_p99_us", "p99, us"),
];

/// Durability primitives by segment state, against fio's figures for the same.
#[derive(Args, Clone, Debug)]
pub struct Disk {
    /// Durable writes in each run.
    #[arg(long, default_value_t = 2000)]
    pub writes: u64,
    /// Bytes of each of them.
    #[arg(long, value_delimiter = ',', default_value = "8kB,128kB", value_parser = parse_size)]
    pub blocks: Vec<usize>,
}

impl Disk {
    /// As small as it can be.
    #[must_use]
    pub fn smoke() -> Self {
        Self { writes: 20, blocks: vec![8 << 10] }
    }
}

/// What the file was before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FileState {
    /// Full of bytes, and durable: a recycled or a zero-filled segment.
    Filled,
    /// Its blocks are reserved.
    Allocated,
    /// It has a length and nothing else.
    Sparse,
}

impl Scenario for Disk {
    fn name(&self) -> &'static str {
        NAME
    }

    fn parameters(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([("writes", self.writes.to_string()), ("blocks", super::join(&self.blocks))])
    }

    fn run(&self, context: &Context) -> Result<Vec<Experiment>> {
        let mut experiments = Vec::new();
        for &block in &self.blocks {
            for (state, which) in [
                (FileState::Filled, "recycled"),
                (FileState::Allocated, "fallocated"),
                (FileState::Sparse, "sparse"),
            ] {
                let name = format!("disk {which} {} kB", block >> 10);
                let run = |run| self.one_leg(context, block, state, run);
                let experiment = Experiment::run(&name, &SIDES, FIGURES, context.plan, run)?;
                experiments.push(experiment.at(block as f64));
            }
        }
        Ok(experiments)
    }
}

impl Disk {
    fn one_leg(&self, context: &Context, block: usize, state: FileState, run: Run) -> Result<Leg> {
        let scratch = context.scratch()?;
        let len = self.writes * u64::try_from(block)?;
        let target = WrittenFile::make(scratch.path(), state, len, block)?;
        // Nothing to count: how many calls each primitive takes is known.
        let watch = Watch::start(None, scratch.path())?;
        let began = Instant::now();
        let latency_us = match run.side {
            0 => target.write_dsync()?,
            1 => target.write_and_flush()?,
            2 => target.ring(true)?,
            3 => target.ring(false)?,
            4 => target.linked()?,
            side => {
                let how = if side == 5 { "--sync=dsync" } else { "--fdatasync=1" };
                let outcome = fio::write(&target.path, len, block, target.direct, how)?;
                let mut leg = watch.stop(&[])?;
                put(&mut leg, "rate", outcome.rate);
                put(&mut leg, "latency_p50_us", outcome.p50_us);
                put(&mut leg, "latency_p99_us", outcome.p99_us);
                return Ok(leg);
            }
        };
        let elapsed = began.elapsed().as_secs_f64();
        let mut leg = watch.stop(&[])?;
        put(&mut leg, "rate", self.writes as f64 / elapsed);
        put_latencies(&mut leg, &latency_us);
        Ok(leg)
    }
}

/// A file to write to.
pub(super) struct WrittenFile {
    path: PathBuf,
    len: u64,
    block: usize,
    direct: bool,
}

impl WrittenFile {
    /// Makes a file of `len` bytes in `dir`, to be written in blocks of `block` bytes.
    pub(super) fn make(dir: &Path, state: FileState, len: u64, block: usize) -> Result<Self> {
        if !block.is_multiple_of(BLOCK_LEN) {
            bail!("blocks of {block} bytes: must be a multiple of {BLOCK_LEN}");
        }
        let path = dir.join("segment");
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        match state {
            FileState::Filled => {
                let zeros = vec![0; 1 << 20];
                let mut offset = 0;
                while offset < len {
                    let count = usize::try_from(len - offset)?.min(zeros.len());
                    file.write_all_at(zeros.get(..count).unwrap_or_default(), offset)?;
                    offset += u64::try_from(count)?;
                }
            }
            FileState::Allocated => fallocate(&file, FallocateFlags::empty(), 0, len)?,
            FileState::Sparse => file.set_len(len)?,
        }
        file.sync_all()?;
        // Cached pages would have to be thrown out by each direct write.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        let direct = OpenOptions::new().write(true).custom_flags(direct_flag()?).open(&path);
        Ok(Self { path, len, block, direct: direct.is_ok() })
    }

    fn open(&self, flags: OFlags) -> Result<File> {
        let flags = i32::try_from(flags.bits())?;
        let direct = if self.direct { direct_flag()? } else { 0 };
        Ok(OpenOptions::new().write(true).custom_flags(flags | direct).open(&self.path)?)
    }

    /// A block in memory that direct writes take.
    fn block(&self) -> Buffer {
        let mut buffer = Buffer::with_capacity(self.block);
        while buffer.len() < self.block {
            buffer.extend_from_slice(&[b'w'; BLOCK_LEN]);
        }
        buffer
    }

    fn offsets(&self) -> impl Iterator<Item = u64> {
        let step = to_u64(self.block);
        (0..self.len / step).map(move |index| index * step)
    }

    /// One system call for each: the file is open with O_DSYNC.
    fn write_dsync(&self) -> Result<Histogram<u64>> {
        let (file, block) = (self.open(OFlags::DSYNC)?, self.block());
        self.timed(|offset| Ok(file.write_all_at(&block, offset)?))
    }

    /// Two system calls for each.
    pub(super) fn write_and_flush(&self) -> Result<Histogram<u64>> {
        let (file, block) = (self.open(OFlags::empty())?, self.block());
        self.timed(|offset| {
            file.write_all_at(&block, offset)?;
            Ok(file.sync_data()?)
        })
    }

    fn timed(&self, mut write: impl FnMut(u64) -> Result<()>) -> Result<Histogram<u64>> {
        let mut latency_us = histogram();
        for offset in self.offsets() {
            let began = Instant::now();
            write(offset)?;
            latency_us.saturating_record(u64::try_from(began.elapsed().as_micros())?);
        }
        Ok(latency_us)
    }

    /// Through the engine's ring: one operation for each, or a write and then an fdatasync.
    fn ring(&self, durable: bool) -> Result<Histogram<u64>> {
        let mut ring = Uring::new(UringConfig::default())?;
        let mode = OpenMode { create: false, direct: self.direct };
        let path = self.path.clone();
        let Done::Opened(file) = one(&mut ring, Op::Open { path, mode })? else {
            bail!("the ring did not open a file");
        };
        let data = self.block().freeze();
        let latency_us = self.timed(|offset| {
            let data = Gather::from_iter([data.clone()]);
            let written = one(&mut ring, Op::Write { file, offset, data, durable })?;
            if !matches!(written, Done::Wrote(count) if count == self.block) {
                bail!("the ring wrote {written:?} of {} bytes", self.block);
            }
            if !durable {
                one(&mut ring, Op::Sync { file })?;
            }
            Ok(())
        });
        close(&mut ring, file)?;
        latency_us
    }

    /// A write and its fdatasync as two linked operations: one system call for both.
    fn linked(&self) -> Result<Histogram<u64>> {
        let mut writer = LinkedWriter::new(self.open(OFlags::empty())?)?;
        let data = self.block().freeze();
        self.timed(|offset| {
            let linked = writer.write_and_sync(&data, offset)?;
            let written = linked.written?;
            if written != self.block {
                bail!("the ring wrote {written} of {} bytes", self.block);
            }
            Ok(linked.synced?)
        })
    }
}

/// Submits one operation and waits for it.
pub(super) fn one(ring: &mut Uring, op: Op) -> Result<Done> {
    ring.submit(Token(0), op);
    let mut completions = Vec::new();
    while completions.is_empty() {
        ring.wait(None, &mut completions)?;
    }
    let completion = completions.pop().context("no completion")?;
    Ok(completion.result?)
}

fn close(ring: &mut Uring, file: FileId) -> Result<()> {
    one(ring, Op::Close { file }).map(drop)
}

fn direct_flag() -> Result<i32> {
    Ok(i32::try_from(OFlags::DIRECT.bits())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_primitive_writes_the_whole_file() {
        for state in [FileState::Filled, FileState::Allocated, FileState::Sparse] {
            for how in [0, 1, 2, 3, 4] {
                let dir = tempfile::tempdir().unwrap();
                let target = WrittenFile::make(dir.path(), state, 32 << 10, 8 << 10).unwrap();
                let latency_us = match how {
                    0 => target.write_dsync(),
                    1 => target.write_and_flush(),
                    4 => target.linked(),
                    _ => target.ring(how == 2),
                };
                assert_eq!(latency_us.unwrap().len(), 4);
                assert_eq!(std::fs::read(&target.path).unwrap(), vec![b'w'; 32 << 10]);
            }
        }
    }
}
