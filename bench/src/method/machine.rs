//! CPU time of the machine and of every process, from /proc.
//!
//! A process's own time counts all its threads, io_uring workers included; the time of children
//! that ended is in the parent that waited for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

/// The kernel's threads are children of this process.
const KTHREADD: u32 = 2;

#[derive(Clone, Copy, Debug)]
struct Process {
    parent: u32,
    ticks: u64,
}

/// Counters of the whole machine at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    busy: u64,
    total: u64,
    steal: u64,
    processes: BTreeMap<u32, Process>,
}

impl Snapshot {
    /// Reads them.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn take() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let [busy, total, steal] = parse_machine(&stat).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "/proc/stat has no cpu line")
        })?;
        let mut processes = BTreeMap::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A process may end between the two reads.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            if let Some(process) = parse_process(&stat) {
                processes.insert(pid, process);
            }
        }
        Ok(Self { busy, total, steal, processes })
    }

    /// The process `root` and its descendants.
    #[must_use]
    pub fn tree(&self, root: u32) -> BTreeSet<u32> {
        let mut tree = BTreeSet::from([root]);
        loop {
            let before = tree.len();
            let children = self.processes.iter().filter(|(_, p)| tree.contains(&p.parent));
            tree.extend(children.map(|(&pid, _)| pid).collect::<Vec<_>>());
            if tree.len() == before {
                return tree;
            }
        }
    }

    fn ticks(&self, pids: &BTreeSet<u32>) -> u64 {
        self.processes.iter().filter(|(pid, _)| pids.contains(pid)).map(|(_, p)| p.ticks).sum()
    }

    /// What the machine did from here to `later`.
    #[must_use]
    pub fn until(&self, later: &Self) -> CpuUse {
        let tick = 1.0 / rustix::param::clock_ticks_per_second() as f64;
        let seconds = |ticks: u64| ticks as f64 * tick;
        let total = later.total.saturating_sub(self.total).max(1) as f64;
        let own = std::process::id();
        let strangers = |snapshot: &Self| {
            let mut known = snapshot.tree(own);
            known.extend(snapshot.tree(KTHREADD));
            let all = snapshot.processes.iter();
            all.filter(|(pid, _)| !known.contains(pid)).map(|(_, p)| p.ticks).sum::<u64>()
        };
        CpuUse {
            machine_s: seconds(later.busy.saturating_sub(self.busy)),
            steal: later.steal.saturating_sub(self.steal) as f64 / total,
            // In a run of a few ticks more may be charged to processes than have passed.
            foreign: (strangers(later).saturating_sub(strangers(self)) as f64 / total).min(1.0),
        }
    }

    /// CPU seconds that the process `root` and its descendants used from here to `later`.
    #[must_use]
    pub fn tree_until(&self, later: &Self, root: u32) -> f64 {
        let ticks = |snapshot: &Self| snapshot.ticks(&snapshot.tree(root));
        let used = ticks(later).saturating_sub(ticks(self));
        used as f64 / rustix::param::clock_ticks_per_second() as f64
    }
}

/// What the whole machine did in a while.
#[derive(Clone, Copy, Debug)]
pub struct CpuUse {
    /// CPU seconds that were not idle, steal not counted.
    pub machine_s: f64,
    /// Share of all CPU time that the hypervisor gave to others.
    pub steal: f64,
    /// Share of all CPU time that processes used which this run did not start.
    pub foreign: f64,
}

/// Ticks not idle, all ticks, and ticks stolen.
fn parse_machine(stat: &str) -> Option<[u64; 3]> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest times are inside user and nice.
    let (all, idle, steal) = (fields.get(..8)?, fields.get(3)? + fields.get(4)?, *fields.get(7)?);
    let total: u64 = all.iter().sum();
    Some([total - idle - steal, total, steal])
}

fn parse_process(stat: &str) -> Option<Process> {
    // The name may hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let parent = u32::try_from(number(1)?).ok()?;
    // utime, stime, cutime, cstime.
    let ticks = (11..15).filter_map(number).sum();
    Some(Process { parent, ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5 6 7";
        let process = parse_process(stat).unwrap();
        assert_eq!((process.parent, process.ticks), (3, 100));
    }

    #[test]
    fn guest_time_is_not_counted_twice() {
        let stat = "cpu  1 2 3 100 200 4 5 6 7 8\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(parse_machine(stat), Some([15, 321, 6]));
    }

    #[test]
    fn time_of_a_child_that_ended_stays_in_the_tree() {
        let before = Snapshot::take().unwrap();
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("sh").args(["-c", busy]).status().unwrap().success());
        let after = Snapshot::take().unwrap();
        assert!(before.tree_until(&after, std::process::id()) >= 0.01);
        let used = before.until(&after);
        assert!((0.0..=1.0).contains(&used.foreign), "{used:?}");
    }
}
