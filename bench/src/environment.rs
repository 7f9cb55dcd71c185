//! The machine and the programs of a run, recorded with its figures.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::peer::program::{FIO, IPERF3, PG_RECEIVEWAL, PGBENCH, POSTGRES, Program};
use crate::scenario::{Mount, mount_of};

/// Settings of the kernel that move the figures.
const SYSCTLS: &[&str] = &[
    "kernel/io_uring_disabled",
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
    "net/ipv4/tcp_congestion_control",
    "vm/dirty_background_ratio",
    "vm/dirty_ratio",
    "fs/pipe-max-size",
];
/// Attributes of the disk's queue that move the figures.
const QUEUE: &[&str] = &["scheduler", "write_cache", "fua", "rotational", "nr_requests"];

/// Everything that a figure depends on.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// When the run began.
    pub date: String,
    /// A word for the machine: number of CPUs, virtual or not.
    pub host: String,
    /// Kernel release.
    pub kernel: String,
    /// Model of the CPU.
    pub cpu: String,
    /// CPUs that may be used.
    pub cpus: usize,
    /// Frequency governor, when there is one.
    pub governor: Option<String>,
    /// Memory.
    pub memory_mb: u64,
    /// Where data directories lay.
    pub mount: Option<Mount>,
    /// The disk's queue.
    pub queue: BTreeMap<String, String>,
    /// Kernel settings.
    pub sysctls: BTreeMap<String, String>,
    /// Versions of the peers.
    pub versions: BTreeMap<String, String>,
    /// Commit of this tree, `+` after it when files were changed.
    pub commit: Option<String>,
}

impl Environment {
    /// Looks at the machine.
    #[must_use]
    pub fn look(dir: &Path, walhub: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let is_virtual = field("flags").is_some_and(|flags| flags.contains(" hypervisor"));
        let mount = mount_of(dir);
        Self {
            date: jiff::Zoned::now().strftime("%Y-%m-%d").to_string(),
            host: format!("{cpus}cpu-{}", if is_virtual { "vm" } else { "metal" }),
            kernel: trimmed("/proc/sys/kernel/osrelease").unwrap_or_default(),
            cpu: field("model name").unwrap_or_default(),
            cpus,
            governor: trimmed("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            memory_mb: memory_mb().unwrap_or(0),
            queue: mount.as_ref().map(|mount| queue(&mount.device)).unwrap_or_default(),
            mount,
            sysctls: SYSCTLS
                .iter()
                .filter_map(|name| {
                    Some(((*name).to_owned(), trimmed(&format!("/proc/sys/{name}"))?))
                })
                .collect(),
            versions: versions(walhub),
            commit: commit(),
        }
    }
}

fn trimmed(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().replace('\t', " "))
}

fn memory_mb() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let kb: u64 = info.split_whitespace().nth(1)?.parse().ok()?;
    Some(kb / 1024)
}

fn queue(device: &str) -> BTreeMap<String, String> {
    let name = device.trim_start_matches("/dev/");
    // A partition has no queue of its own.
    let disk = [name, name.trim_end_matches(|c: char| c.is_ascii_digit())];
    let attribute = |attribute: &&str| {
        let mut paths = disk.iter().map(|disk| format!("/sys/block/{disk}/queue/{attribute}"));
        Some(((**attribute).to_owned(), paths.find_map(|path| trimmed(&path))?))
    };
    QUEUE.iter().filter_map(attribute).collect()
}

fn versions(walhub: &Path) -> BTreeMap<String, String> {
    let of = |program: &Program| Some((program.name.to_owned(), program.version()?));
    let mut versions: BTreeMap<_, _> =
        [POSTGRES, PGBENCH, PG_RECEIVEWAL, FIO, IPERF3].iter().filter_map(of).collect();
    if let Some(version) = said(Command::new(walhub).arg("--version")) {
        versions.insert("walhub".to_owned(), version);
    }
    versions
}

fn commit() -> Option<String> {
    let tree = env!("CARGO_MANIFEST_DIR");
    let hash = said(Command::new("git").args(["-C", tree, "rev-parse", "--short=12", "HEAD"]))?;
    let changed = said(Command::new("git").args(["-C", tree, "status", "--porcelain"])).is_some();
    Some(if changed { format!("{hash}+") } else { hash })
}

/// What a program printed; `None` when it printed nothing.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}
