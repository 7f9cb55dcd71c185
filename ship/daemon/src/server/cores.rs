//! Starts the data plane: one thread a core, each with a ring of its own.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc as channel;
use std::thread;

use anyhow::Context as _;
use tokio::sync::mpsc;
use walhub_engine::cpu;
use walhub_engine::files::{OsFs, reason};
use walhub_engine::probe::{nearest_cpu, probe_directory};
use walhub_engine::uring::{Uring, UringConfig, UringWaker};

use crate::clock;
use crate::limits::thread_refused;
use crate::settings::{DedicatedWalCore, Settings, WalSyncMethod};
use walhub_hub::assemble::{Assembled, Assembly};
use walhub_hub::mail::ToControl;
use walhub_hub::publish::handle::{Clock, Handle};
use walhub_hub::role::Role;
use walhub_hub::store::recover::Recovered;
use walhub_hub::store::writer::FlushMethod;
use walhub_hub::wal_core::{Control, MAX_WAL_SIZE};

use super::shared_loop::{SharedLoop, Wakeup, Work};

/// From this many CPUs on, each core loop has one of its own; below, the scheduler knows better.
const PIN_CPUS_MIN: usize = 4;
/// Up to this many CPUs there is one core loop, unless more are asked for.
const FEW_CPUS: usize = 2;
/// Core loops that `cores = auto` starts at most.
const AUTO_CORES_MAX: usize = 8;
/// Core loops for standbys that are behind, that `catchup_cores = auto` starts at least and at most.
const AUTO_CATCHUP_CORES: (usize, usize) = (2, 4);
/// A durable write must be cheaper than a write and fdatasync by this much, in percent, to be chosen:
/// the flush of the second can overlap the next write, that of the first cannot.
const CLEARLY_CHEAPER_PERCENT: u64 = 70;
/// Commits are small and wait for their flush: one operation in place of two is worth more to them than
/// the overlap, even where the device takes somewhat longer for it.
const NOT_DEARER_PERCENT: u64 = 130;

/// For how many microseconds core 0 looks for work where `busy_poll_us = auto`: what a client that
/// commits again and again leaves between two pieces of work, and a flush.
const AUTO_SPIN_US: u32 = 400;

/// How segments are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Disk {
    direct: bool,
    method: FlushMethod,
}

/// Probes the data directory's file system and says what is used.
pub(super) fn choose_disk(data_dir: &Path, settings: &Settings) -> anyhow::Result<Disk> {
    let probe = probe_directory(data_dir)
        .with_context(|| format!("could not probe data directory \"{}\"", data_dir.display()))?;
    if !probe.direct {
        tracing::warn!(
            hint = "Put the data directory on a file system with direct I/O, such as ext4 or XFS.",
            "data directory \"{}\" is on a file system without O_DIRECT, using buffered writes",
            data_dir.display()
        );
        return Ok(Disk { direct: false, method: FlushMethod::WriteThenSync });
    }
    let method = match settings.wal_sync_method {
        WalSyncMethod::OpenDatasync | WalSyncMethod::OpenSync => FlushMethod::DurableWrite,
        WalSyncMethod::Fdatasync | WalSyncMethod::Fsync => FlushMethod::WriteThenSync,
        // On drives with power-loss protection FUA saves the flush; on others it can be far dearer.
        WalSyncMethod::Auto
            if probe.dsync_us * 100 < probe.fdatasync_us * CLEARLY_CHEAPER_PERCENT =>
        {
            FlushMethod::DurableWrite
        }
        WalSyncMethod::Auto if probe.dsync_us * 100 < probe.fdatasync_us * NOT_DEARER_PERCENT => {
            FlushMethod::BySize
        }
        WalSyncMethod::Auto => FlushMethod::WriteThenSync,
    };
    let name = match method {
        FlushMethod::DurableWrite => "open_datasync",
        FlushMethod::WriteThenSync => "fdatasync",
        FlushMethod::BySize => "open_datasync for small writes and fdatasync for large ones",
    };
    tracing::info!(
        "wal_sync_method is {name}: a durable 4 kB write takes {} us with open_datasync, {} us with fdatasync",
        probe.dsync_us,
        probe.fdatasync_us
    );
    Ok(Disk { direct: true, method })
}

/// Number of core loops.
fn core_count(settings: &Settings, cpus: usize) -> usize {
    match settings.cores {
        Some(count) => usize::from(count),
        // On two CPUs or fewer one loop does everything: a second one would only compete with it.
        None if cpus <= FEW_CPUS => 1,
        None => (cpus / 2).clamp(2, AUTO_CORES_MAX),
    }
}

/// Whether the wal core shares the control plane's thread.
fn is_shared(settings: &Settings, cpus: usize, role: Role) -> bool {
    match settings.dedicated_wal_core {
        DedicatedWalCore::On => false,
        DedicatedWalCore::Off => true,
        // A relay's sessions do not commit: it has nothing to gain by it.
        DedicatedWalCore::Auto => {
            role == Role::Primary && cpus <= FEW_CPUS && settings.cores.is_none()
        }
    }
}

/// Number of further core loops, for standbys that are behind the tail cache. They sleep while there
/// are none.
fn catchup_core_count(settings: &Settings, cpus: usize) -> usize {
    match settings.catchup_cores {
        Some(count) => usize::from(count),
        None if cpus == 1 => 0,
        None => (cpus / 4).clamp(AUTO_CATCHUP_CORES.0, AUTO_CATCHUP_CORES.1),
    }
}

/// The ring of core `index`, by `busy_poll_us`.
fn ring_config(settings: &Settings, index: usize) -> UringConfig {
    let (spin_us, napi_us) = match settings.busy_poll_us {
        Some(us) => (us, us),
        // Every commit of a primary that waits for this server waits for its wal core's wakes. The
        // kernel's polling does not adapt.
        None if index == 0 => (AUTO_SPIN_US, 0),
        None => (0, 0),
    };
    UringConfig { spin_us, napi_us, ..UringConfig::default() }
}

/// A core's thread that has its ring and waits for its work.
struct Started {
    waker: UringWaker,
    work: channel::Sender<Work>,
}

/// Starts all threads; returns the hub, and the wal core's loop where that has no thread of its own.
pub(super) fn start(
    data_dir: &Path,
    settings: &Settings,
    disk: Disk,
    recovered: Recovered,
    to_control: mpsc::UnboundedSender<ToControl>,
) -> anyhow::Result<(Handle<OwnedFd>, Option<SharedLoop>)> {
    let cpus = cpu::allowed_cpus();
    let count = core_count(settings, cpus.len());
    let catchup_cores = catchup_core_count(settings, cpus.len());
    let is_shared = is_shared(settings, cpus.len(), recovered.role());
    // With more CPUs there is no telling which of them other programs need.
    let nearest = if is_shared && cpus.len() <= FEW_CPUS {
        nearest_cpu(data_dir, &cpus).context("could not probe the CPUs")?
    } else {
        None
    };
    let wakeup = is_shared.then(Wakeup::new);
    if is_shared && settings.busy_poll_us.is_some_and(|us| us > 0) {
        tracing::warn!(
            hint = "Set dedicated_wal_core = on.",
            "busy_poll_us has no effect on core 0, which shares the thread of the SQL sessions"
        );
    }
    let threads = start_threads(settings, &cpus, count, catchup_cores, is_shared, &to_control)?;
    let shared_waker = wakeup.iter().map(|wakeup| wakeup.waker.clone());
    let wakers = shared_waker.chain(threads.iter().map(|thread| thread.waker.clone())).collect();
    let control: Control = match &wakeup {
        Some(wakeup) => wakeup.control(to_control.clone()),
        None => {
            let control = to_control.clone();
            // The control plane ends only with the process.
            Box::new(move |ask| drop(control.send(ask)))
        }
    };
    let assembly = Assembly {
        data_dir: data_dir.to_path_buf(),
        recovered,
        fs: Box::new(OsFs),
        clock: Clock(Box::new(clock::now)),
        settings: Arc::new(settings.hub.clone()),
        wakers,
        catchup_cores,
        direct: disk.direct,
        method: disk.method,
        max_wal_size: MAX_WAL_SIZE,
        control,
    };
    let Assembled { front, cores } = assembly.assemble();
    let mut works =
        cores.into_iter().map(|core| Box::new(move |io: &Uring| core.begin(io)) as Work);
    let shared_loop = match wakeup {
        Some(wakeup) => {
            let work = works.next().context("a hub has a wal core")?;
            Some(wakeup.begin(work, to_control, nearest))
        }
        None => None,
    };
    for (thread, work) in threads.iter().zip(works) {
        thread.work.send(work).map_err(|_| anyhow::anyhow!("a core ended before it began"))?;
    }
    Ok((front, shared_loop))
}

/// Starts the threads of the cores, of which the wal core may have none.
fn start_threads(
    settings: &Settings,
    cpus: &[usize],
    count: usize,
    catchup_cores: usize,
    is_shared: bool,
    to_control: &mpsc::UnboundedSender<ToControl>,
) -> anyhow::Result<Vec<Started>> {
    let pinned = cpus.len() >= PIN_CPUS_MIN;
    let mut threads = Vec::new();
    for index in usize::from(is_shared)..count {
        let cpu = pinned.then(|| cpus.get(index % cpus.len()).copied()).flatten();
        let ring = ring_config(settings, index);
        threads.push(start_thread(index, cpu, ring, to_control.clone())?);
    }
    // Not pinned, and never looking for work: they take what the others leave.
    for index in count..count + catchup_cores {
        threads.push(start_thread(index, None, UringConfig::default(), to_control.clone())?);
    }
    Ok(threads)
}

/// Starts a core's thread; it makes its ring there, because a ring has one owner for life.
fn start_thread(
    index: usize,
    cpu: Option<usize>,
    config: UringConfig,
    to_control: mpsc::UnboundedSender<ToControl>,
) -> anyhow::Result<Started> {
    let (ready, is_ready) = channel::channel();
    let (work, has_work) = channel::channel::<Work>();
    let body = move || {
        if let Some(cpu) = cpu
            && let Err(error) = cpu::pin_current_thread(cpu)
        {
            tracing::warn!("could not pin core {index} to CPU {cpu}: {error}");
        }
        let mut io = match Uring::new(config) {
            Ok(io) => io,
            Err(error) => return drop(ready.send(Err(error))),
        };
        if let Some(error) = io.busy_poll_refusal() {
            tracing::warn!(
                detail = "busy_poll_us is that of the core alone.",
                hint = "Install Linux 6.9 or newer with CONFIG_NET_RX_BUSY_POLL, or set busy_poll_us = 0.",
                "the kernel does not poll network cards for core {index}: {}",
                reason(error)
            );
        }
        if ready.send(Ok(walhub_engine::io::Io::waker(&io))).is_err() {
            return;
        }
        let Ok(work) = has_work.recv() else { return };
        let mut core = work(&io);
        if let Err(error) = core.run(&mut io) {
            let _ = to_control
                .send(ToControl::Failed(format!("core {index} could not wait for I/O: {error}")));
        }
    };
    thread::Builder::new()
        .name(format!("walhub-core-{index}"))
        .spawn(body)
        .map_err(|error| thread_refused(&error))?;
    let waker = is_ready.recv().context("a core ended before it began")??;
    Ok(Started { waker, work })
}
