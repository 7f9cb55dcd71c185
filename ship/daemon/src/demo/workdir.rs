//! Where the demo's files go.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::statfs;

use super::leftovers;

/// File systems in memory, by the kernel's numbers for them: tmpfs and ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58F6];
/// Names of those that demos meet most.
const NAMES: [(u64, &str); 7] = [
    (0xEF53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683E, "btrfs"),
    (0x2FC1_2FC1, "zfs"),
    (0x794C_7630, "overlay"),
    (IN_MEMORY[0], "tmpfs"),
    (IN_MEMORY[1], "ramfs"),
];

/// A directory of the demo's own, and what it lies on.
#[derive(Debug)]
pub(super) struct WorkDir {
    /// Path of the directory.
    pub(super) path: PathBuf,
    /// The file system, and why this one, in words.
    pub(super) about: String,
}

struct Medium {
    kind: u64,
    available: u64,
}

impl Medium {
    fn of(directory: &Path) -> Option<Self> {
        let stat = statfs(directory).ok()?;
        let unit = u64::try_from(stat.f_bsize).ok()?;
        // The width of the type differs between architectures; the number has 32 bits.
        let kind = u64::try_from(i128::from(stat.f_type) & 0xFFFF_FFFF).ok()?;
        Some(Self { kind, available: stat.f_bavail.saturating_mul(unit) })
    }

    fn is_in_memory(&self) -> bool {
        IN_MEMORY.contains(&self.kind)
    }

    fn name(&self) -> &'static str {
        NAMES.iter().find(|(kind, _)| *kind == self.kind).map_or("file system", |(_, name)| name)
    }
}

impl WorkDir {
    /// Makes the directory, with room for `bytes` at least.
    ///
    /// $TMPDIR (or /tmp) is the place unless it is in memory: O_DIRECT, which the hub writes with,
    /// wants a disk. Then /var/tmp is, or the current directory.
    pub(super) fn create(bytes: u64) -> anyhow::Result<Self> {
        let first = std::env::temp_dir();
        let mut candidates = vec![first.clone(), PathBuf::from("/var/tmp")];
        candidates.extend(std::env::current_dir());
        let mut refused = Vec::new();
        let mut in_memory = None;
        for candidate in candidates {
            let Some(medium) = Medium::of(&candidate) else { continue };
            if medium.available < bytes {
                refused.push(format!("{} has {}", candidate.display(), mb(medium.available)));
            } else if medium.is_in_memory() {
                in_memory.get_or_insert((candidate, medium));
            } else if let Ok(path) = make_in(&candidate) {
                let why = if candidate == first {
                    String::new()
                } else {
                    format!("; {} would not do", first.display())
                };
                return Ok(Self { path, about: format!("{}{why}", medium.name()) });
            } else {
                refused.push(format!("{} cannot be written", candidate.display()));
            }
        }
        if let Some((candidate, medium)) = in_memory {
            let path = make_in(&candidate)?;
            let about = format!("{}: in memory, nothing is a disk here", medium.name());
            return Ok(Self { path, about });
        }
        let (need, refused) = (mb(bytes), refused.join(", "));
        anyhow::bail!(
            "the demo needs {need} of disk space for a while: {refused}; set TMPDIR to a directory \
             on a disk with room"
        )
    }
}

fn make_in(parent: &Path) -> anyhow::Result<PathBuf> {
    let made = tempfile::Builder::new().prefix("walhub-demo-").tempdir_in(parent);
    let made =
        made.with_context(|| format!("could not make a directory in {}", parent.display()))?;
    let path = made.keep();
    leftovers::set_directory(&path);
    Ok(path)
}

fn mb(bytes: u64) -> String {
    format!("{} MB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_numbers_are_read() {
        assert!(Medium::of(Path::new("/proc")).is_some_and(|medium| !medium.is_in_memory()));
        let memory = Medium::of(Path::new("/dev/shm"));
        assert!(memory.is_none_or(|medium| medium.is_in_memory()));
    }

    #[test]
    fn too_little_room_is_told() {
        let error = WorkDir::create(u64::MAX).unwrap_err().to_string();
        assert!(error.contains("set TMPDIR"), "{error}");
    }
}
