//! Starts the data plane: one thread a core, each with a ring of its own.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc as channel;
use std::thread;

use anyhow::Context as _;
use tokio::sync::mpsc;
use walhub_engine::cpu;
use walhub_engine::files::reason;
use walhub_engine::mailbox::{Sender, mailbox};
use walhub_engine::probe::{nearest_cpu, probe_directory};
use walhub_engine::uring::{Uring, UringConfig, UringWaker};

use crate::hub::commits::{Commits, commits};
use crate::hub::core_loop::{Core, now};
use crate::hub::front::PublishedSlots;
use crate::hub::messages::{MAILBOX_MESSAGES_MAX, ToControl, ToWal};
use crate::hub::moves::places;
use crate::hub::recover::Recovered;
use crate::hub::shared::{Shared, StandbyTable};
use crate::hub::ship_core::{ShipConfig, ShipCore};
use crate::hub::wal_core::{MAX_WAL_SIZE, ShipLink, WalConfig, WalCore, slabs_max};
use crate::hub::writer::FlushMethod;
use crate::limits::thread_refused;
use crate::settings::{Cores as CoresSetting, DedicatedWalCore, Settings, WalSyncMethod};

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

/// The running data plane, as the control plane holds it.
pub(super) struct Cores {
    pub(super) shared: Arc<Shared>,
    pub(super) standbys: Arc<StandbyTable>,
    pub(super) slots: PublishedSlots,
    pub(super) to_wal: Sender<ToWal<OwnedFd>>,
    pub(super) commits: Commits,
    /// The wal core's loop, where it has no thread of its own.
    pub(super) shared_loop: Option<SharedLoop>,
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
        CoresSetting::Count(count) => usize::from(count),
        // On two CPUs or fewer one loop does everything: a second one would only compete with it.
        CoresSetting::Auto if cpus <= FEW_CPUS => 1,
        CoresSetting::Auto => (cpus / 2).clamp(2, AUTO_CORES_MAX),
    }
}

/// Whether the wal core shares the control plane's thread.
fn is_shared(settings: &Settings, cpus: usize, is_primary: bool) -> bool {
    match settings.dedicated_wal_core {
        DedicatedWalCore::On => false,
        DedicatedWalCore::Off => true,
        // A relay's sessions do not commit: it has nothing to gain by it.
        DedicatedWalCore::Auto => {
            is_primary && cpus <= FEW_CPUS && settings.cores == CoresSetting::Auto
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

impl Cores {
    /// Starts all threads.
    pub(super) fn start(
        data_dir: &Path,
        settings: &Arc<Settings>,
        disk: Disk,
        recovered: Recovered,
        to_control: mpsc::UnboundedSender<ToControl>,
    ) -> anyhow::Result<Self> {
        let cpus = cpu::allowed_cpus();
        let count = core_count(settings, cpus.len());
        let pinned = cpus.len() >= PIN_CPUS_MIN;
        let is_shared = is_shared(settings, cpus.len(), recovered.is_primary());
        // With more CPUs there is no telling which of them other programs need.
        let nearest = if is_shared && cpus.len() <= FEW_CPUS {
            nearest_cpu(data_dir, &cpus).context("could not probe the CPUs")?
        } else {
            None
        };
        let shared_wakeup = is_shared.then(Wakeup::new);
        let mut threads = Vec::new();
        for index in usize::from(shared_wakeup.is_some())..count {
            let cpu = pinned.then(|| cpus.get(index % cpus.len()).copied()).flatten();
            threads.push(start_thread(
                index,
                cpu,
                ring_config(settings, index),
                to_control.clone(),
            )?);
        }
        if is_shared && settings.busy_poll_us.is_some_and(|us| us > 0) {
            tracing::warn!(
                hint = "Set dedicated_wal_core = on.",
                "busy_poll_us has no effect on core 0, which shares the thread of the SQL sessions"
            );
        }
        // Not pinned, and never looking for work: they take what the others leave.
        for index in count..count + catchup_core_count(settings, cpus.len()) {
            threads.push(start_thread(index, None, UringConfig::default(), to_control.clone())?);
        }
        let mut wakers: Vec<UringWaker> =
            threads.iter().map(|thread| thread.waker.clone()).collect();
        if let Some(wakeup) = &shared_wakeup {
            wakers.insert(0, wakeup.waker.clone());
        }
        let shared = Arc::new(Shared::default());
        // The first client may come before the wal core has had its first turn.
        shared.is_primary.store(recovered.is_primary(), Ordering::Release);
        let standbys_max = usize::try_from(settings.max_wal_senders).unwrap_or(usize::MAX);
        let standbys = Arc::new(StandbyTable::new(standbys_max));
        let slots = PublishedSlots::default();
        let wal_waker = wakers[0].clone();
        let (to_wal, wal_mail) = mailbox(MAILBOX_MESSAGES_MAX, wal_waker.clone());
        let (commits, commit_link) = commits(wal_waker);
        // One core does both; with more, core 0 is the wal core alone.
        let first_ship = if count == 1 { 0 } else { 1 };
        let live = count - first_ship;
        let ship_wakers = &wakers[first_ship..];
        let places = places(ship_wakers, live);
        let _ =
            shared.ships.set(places.iter().map(|(_, place)| Arc::clone(&place.stats)).collect());
        let (mut ships, mut ship_cores) = (Vec::new(), VecDeque::new());
        for ((mail, place), waker) in places.into_iter().zip(ship_wakers) {
            ships.push(ShipLink { mail, waker: waker.clone(), serves: place.serves, sessions: 0 });
            ship_cores.push_back(ShipCore::new(ShipConfig {
                shared: Arc::clone(&shared),
                standbys: Arc::clone(&standbys),
                place,
                to_wal: to_wal.clone(),
                wal_dir: data_dir.join("pg_wal"),
                slabs_max: slabs_max(settings),
                settings: Arc::clone(settings),
                direct: disk.direct,
            }));
        }
        let control: Box<dyn Fn(ToControl) + Send> = match &shared_wakeup {
            Some(wakeup) => wakeup.control(to_control.clone()),
            None => {
                let control = to_control.clone();
                // The control plane ends only with the process.
                Box::new(move |ask| drop(control.send(ask)))
            }
        };
        let config = WalConfig {
            data_dir: data_dir.to_path_buf(),
            shared: Arc::clone(&shared),
            standbys: Arc::clone(&standbys),
            mail: wal_mail,
            ships,
            control,
            slots: Arc::clone(&slots),
            commits: commit_link,
            settings: Arc::clone(settings),
            direct: disk.direct,
            method: disk.method,
            max_wal_size: MAX_WAL_SIZE,
        };
        let own_ship = if count == 1 { ship_cores.pop_front() } else { None };
        let mut threads = threads.into_iter();
        let wal_work: Work = Box::new(move |io| {
            let wal = WalCore::new(config, recovered, now(io));
            Core { wal: Some(wal), ship: own_ship }
        });
        let shared_loop = match shared_wakeup {
            Some(wakeup) => Some(wakeup.begin(wal_work, to_control, nearest)),
            None => {
                hand_over(&threads.next().context("no core to run on")?, wal_work)?;
                None
            }
        };
        for (thread, ship) in threads.zip(ship_cores) {
            hand_over(&thread, Box::new(move |_| Core { wal: None, ship: Some(ship) }))?;
        }
        Ok(Self { shared, standbys, slots, to_wal, commits, shared_loop })
    }
}

fn hand_over(thread: &Started, work: Work) -> anyhow::Result<()> {
    thread.work.send(work).map_err(|_| anyhow::anyhow!("a core ended before it began"))
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
