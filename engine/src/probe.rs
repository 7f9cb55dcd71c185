//! Finds out what a directory's file system and device do best.
//!
//! On a device with FUA or without a volatile cache one O_DIRECT write with RWF_DSYNC is the fastest
//! durable write; some consumer drives are twice as fast with a write and a flush. Only measuring
//! tells, and only in the very directory.
//!
//! Not here: choosing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use crate::buffer::{BLOCK_LEN, Buffer};
use crate::clock;
use crate::cpu;

/// Rounds of each method, when the device is fast enough.
const ROUNDS_MAX: usize = 30;

/// Rounds of each method, however slow the device is.
const ROUNDS_MIN: usize = 3;

/// No new round begins after this long.
const BUDGET_NS: u64 = 80_000_000;

/// Blocks that are overwritten in turn.
const BLOCKS: usize = 16;

/// A CPU is nearer to the device when a write from it takes less than this much of one from any other,
/// in percent,
const CLEARLY_NEARER_PERCENT: u64 = 85;

/// and is quicker by more than this: on what is memory in truth, all are the same.
const CLEARLY_NEARER_NS: u64 = 10_000;

/// What was found out about a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskProbe {
    /// Whether files can bypass the page cache. What follows was measured with such a file if so.
    pub direct: bool,
    /// Median microseconds of overwriting one block with RWF_DSYNC.
    pub dsync_us: u64,
    /// Median microseconds of overwriting one block and then calling fdatasync.
    pub fdatasync_us: u64,
}

/// Where durable writes are fastest, and how much that is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NearestCpu {
    /// The number of the CPU.
    pub cpu: usize,
    /// Least microseconds of a durable write of one block from there.
    pub us: u64,
    /// The same from the next best CPU.
    pub elsewhere_us: u64,
}

/// Measures durable writes in `dir` for less than a tenth of a second, on all but the slowest
/// devices. The file for it is gone afterwards.
///
/// # Errors
/// When the directory cannot be written to, or the file system has no RWF_DSYNC.
pub fn probe_directory(dir: &Path) -> io::Result<DiskProbe> {
    let scratch = Scratch::create(dir)?;
    let block = zeroed_block();
    let direct = scratch.fill_and_open_direct(&block)?;
    let file = direct.as_ref().unwrap_or(&scratch.file);
    let (dsync_us, fdatasync_us) = measure(file, &block)?;
    Ok(DiskProbe { direct: direct.is_some(), dsync_us, fdatasync_us })
}

/// The CPU from which durable writes in `dir` are clearly faster than from all others of `cpus`: the one
/// that takes the device's interrupts, where it has one queue and an idle CPU is slow to wake.
///
/// # Errors
/// As [`probe_directory`].
pub fn nearest_cpu(dir: &Path, cpus: &[usize]) -> io::Result<Option<NearestCpu>> {
    let scratch = Scratch::create(dir)?;
    let block = zeroed_block();
    let direct = scratch.fill_and_open_direct(&block)?;
    let file = direct.as_ref().unwrap_or(&scratch.file);
    // The caller stays where it may be.
    let measured = thread::scope(|scope| scope.spawn(|| least_ns(file, &block, cpus)).join());
    let mut least_ns = measured.expect("measuring does not panic")?;
    least_ns.sort_unstable();
    let [(best_ns, cpu), (next_ns, _), ..] = least_ns[..] else { return Ok(None) };
    let is_clear =
        best_ns * 100 < next_ns * CLEARLY_NEARER_PERCENT && next_ns - best_ns > CLEARLY_NEARER_NS;
    let nearest = NearestCpu { cpu, us: best_ns / 1000, elsewhere_us: next_ns / 1000 };
    Ok(is_clear.then_some(nearest))
}

/// Least nanoseconds of a durable write from each CPU, in turn: whatever disturbs makes it slower.
fn least_ns(file: &File, block: &[u8], cpus: &[usize]) -> io::Result<Vec<(u64, usize)>> {
    let begin_ns = clock::monotonic_ns();
    let mut least: Vec<_> = cpus.iter().map(|&cpu| (u64::MAX, cpu)).collect();
    for round in 0..ROUNDS_MAX {
        if round >= ROUNDS_MIN && clock::monotonic_ns() - begin_ns > BUDGET_NS {
            break;
        }
        for (least_ns, cpu) in &mut least {
            cpu::pin_current_thread(*cpu)?;
            // The first one from a CPU pays for the move.
            write_dsync(file, block, 0)?;
            let first_ns = clock::monotonic_ns();
            write_dsync(file, block, 0)?;
            *least_ns = clock::monotonic_ns().saturating_sub(first_ns).min(*least_ns);
        }
    }
    Ok(least)
}

fn zeroed_block() -> Buffer {
    let mut block = Buffer::with_capacity(BLOCK_LEN);
    block.zero_pad_to(BLOCK_LEN);
    block
}

/// Medians of both methods, in turn so that both see the same noise.
fn measure(file: &File, block: &[u8]) -> io::Result<(u64, u64)> {
    let begin_ns = clock::monotonic_ns();
    let mut dsync_ns = Vec::with_capacity(ROUNDS_MAX);
    let mut fdatasync_ns = Vec::with_capacity(ROUNDS_MAX);
    for round in 0..ROUNDS_MAX {
        if round >= ROUNDS_MIN && clock::monotonic_ns() - begin_ns > BUDGET_NS {
            break;
        }
        let offset = u64::try_from(round % BLOCKS * BLOCK_LEN).expect("a small offset");
        let first_ns = clock::monotonic_ns();
        write_dsync(file, block, offset)?;
        let second_ns = clock::monotonic_ns();
        file.write_all_at(block, offset)?;
        file.sync_data()?;
        dsync_ns.push(second_ns - first_ns);
        fdatasync_ns.push(clock::monotonic_ns() - second_ns);
    }
    Ok((median(&mut dsync_ns) / 1000, median(&mut fdatasync_ns) / 1000))
}

fn write_dsync(file: &File, block: &[u8], offset: u64) -> io::Result<()> {
    let piece = libc::iovec { iov_base: block.as_ptr().cast_mut().cast(), iov_len: block.len() };
    let offset = libc::off_t::try_from(offset).expect("a small offset");
    // SAFETY: the kernel reads one iovec and the bytes it points to, both of which outlive the call.
    let count =
        unsafe { libc::pwritev2(file.as_raw_fd(), &raw const piece, 1, offset, libc::RWF_DSYNC) };
    match usize::try_from(count) {
        Ok(count) if count == block.len() => Ok(()),
        Ok(_) => Err(io::Error::from(io::ErrorKind::WriteZero)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// A file that is removed when it is no longer needed.
struct Scratch {
    path: PathBuf,
    file: File,
}

impl Scratch {
    fn create(dir: &Path) -> io::Result<Self> {
        let path = dir.join(format!(".walhub-probe.{}.tmp", std::process::id()));
        let mut options = OpenOptions::new();
        // A file left by a process of the same number that was killed is used again.
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&path)?;
        Ok(Self { path, file })
    }

    /// Gives the file its blocks, and opens it once more with O_DIRECT where that can be written to.
    fn fill_and_open_direct(&self, block: &[u8]) -> io::Result<Option<File>> {
        self.file.write_all_at(&vec![0; BLOCKS * BLOCK_LEN], 0)?;
        self.file.sync_all()?;
        let Some(file) = self.open_direct()? else { return Ok(None) };
        // Some file systems open with O_DIRECT and refuse only the write.
        match file.write_at(block, 0) {
            Ok(_) => Ok(Some(file)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same file once more with O_DIRECT, or `None` when the file system has no such thing.
    fn open_direct(&self) -> io::Result<Option<File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DIRECT);
        match options.open(&self.path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing depends on its absence; the next probe would use it again.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let probe = probe_directory(dir.path()).unwrap();
        assert!(probe.dsync_us > 0 && probe.fdatasync_us > 0, "{probe:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn direct_is_what_the_file_system_says() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        fs::write(&path, [0; BLOCK_LEN]).unwrap();
        let mut options = OpenOptions::new();
        let direct = options.write(true).custom_flags(libc::O_DIRECT).open(&path).is_ok();
        assert_eq!(probe_directory(dir.path()).unwrap().direct, direct);
    }

    #[test]
    fn the_nearest_cpu_is_one_of_those_asked_for_and_the_caller_stays() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let cpus = cpu::allowed_cpus();
        if let Some(nearest) = nearest_cpu(dir.path(), &cpus).unwrap() {
            assert!(
                cpus.contains(&nearest.cpu) && nearest.us < nearest.elsewhere_us,
                "{nearest:?}"
            );
        }
        assert_eq!(nearest_cpu(dir.path(), &cpus[..1]).unwrap(), None);
        assert_eq!(cpu::allowed_cpus(), cpus);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let error = probe_directory(Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn median_ignores_outliers() {
        assert_eq!(median(&mut [900, 1, 3, 2, 800]), 3);
    }
}
