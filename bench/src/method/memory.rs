//! Memory of a process and its descendants, and of the machine.

use std::fs;

use anyhow::{Context as _, Result};

use super::machine::Snapshot;

/// Kilobytes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Memory {
    /// Resident in the processes; what they share is counted in each.
    pub rss_kb: f64,
    /// The same, what they share counted once, without files: their pages are shared with whatever
    /// other process has the same program, and come and go with it.
    pub pss_kb: f64,
    /// What the whole machine can still give.
    pub available_kb: f64,
}

impl Memory {
    /// Of the process `root` and its descendants.
    ///
    /// # Errors
    /// When /proc does not let it be read.
    pub fn of(root: u32) -> Result<Self> {
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let available_kb = field(&meminfo, "MemAvailable:").context("no MemAvailable")?;
        let mut memory = Self { rss_kb: 0.0, pss_kb: 0.0, available_kb };
        for pid in Snapshot::take()?.tree(root) {
            let path = format!("/proc/{pid}/smaps_rollup");
            match fs::read_to_string(&path) {
                Ok(text) => {
                    memory.rss_kb += field(&text, "Rss:").unwrap_or(0.0);
                    memory.pss_kb += field(&text, "Pss_Anon:").unwrap_or(0.0);
                    memory.pss_kb += field(&text, "Pss_Shmem:").unwrap_or(0.0);
                }
                // A descendant may end meanwhile; its maps are then empty or gone.
                Err(_) if pid != root => {}
                Err(error) => return Err(error).context(path),
            }
        }
        Ok(memory)
    }
}

fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_is_counted() {
        let before = Memory::of(std::process::id()).unwrap();
        let touched = vec![1_u8; 64 << 20];
        let after = Memory::of(std::process::id()).unwrap();
        assert!(after.pss_kb - before.pss_kb > 60_000.0, "{} {before:?} {after:?}", touched.len());
        assert!(after.rss_kb >= after.pss_kb);
    }
}
