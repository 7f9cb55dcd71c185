//! A server that comes back in an earlier state: its files are put aside, and put back later.
//!
//! Not here: what a disk survives (`disk`), what then is the truth (`source`, `clients`).

use std::path::{Path, PathBuf};

use walhub_engine::io::Fs as _;

use crate::disk::SimFs;
use crate::hub::DATA_DIR;

/// When the files of the first hub are put aside, and when they are put back, in nanoseconds. Each time it
/// is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RestorePlan {
    pub(crate) aside_ns: u64,
    pub(crate) back_ns: u64,
}

/// How far it has come.
#[derive(Debug)]
pub(crate) enum Restore {
    /// Nothing is planned, or it is over.
    None,
    /// To be put aside when the hub next is dead.
    Planned(RestorePlan),
    /// To be put back when the hub next is dead.
    Aside(RestorePlan, Files),
    /// Put back, and not yet started from.
    Back,
}

impl Restore {
    /// Whether the hub is to die now, for what comes next.
    pub(crate) fn is_due(&self, now: u64) -> bool {
        match self {
            Self::Planned(plan) => now >= plan.aside_ns,
            Self::Aside(plan, _) => now >= plan.back_ns,
            Self::None | Self::Back => false,
        }
    }

    /// The hub is dead, and its disk is `fs`.
    pub(crate) fn handle_death(&mut self, fs: &SimFs, now: u64) {
        *self = match std::mem::replace(self, Self::None) {
            Self::Planned(plan) if now >= plan.aside_ns => Self::Aside(plan, Files::read(fs)),
            Self::Aside(plan, files) if now >= plan.back_ns => {
                files.write(fs);
                Self::Back
            }
            other => other,
        };
    }
}

/// A data directory's files.
#[derive(Debug)]
pub(crate) struct Files(Vec<(PathBuf, Vec<u8>)>);

fn paths(fs: &SimFs) -> Vec<PathBuf> {
    let data = Path::new(DATA_DIR);
    let dirs = [data.to_path_buf(), data.join("pg_wal"), data.join("slots")];
    let mut paths = Vec::new();
    for dir in &dirs {
        let entries = fs.list(dir).expect("a directory");
        paths.extend(entries.into_iter().map(|entry| dir.join(entry.name)));
    }
    paths.retain(|path| !dirs.contains(path));
    paths
}

impl Files {
    fn read(fs: &SimFs) -> Self {
        let read = |path: PathBuf| {
            let content = fs.read(&path).expect("a file");
            (path, content)
        };
        Self(paths(fs).into_iter().map(read).collect())
    }

    fn write(self, fs: &SimFs) {
        {
            let mut disk = fs.disk();
            (disk.crash_in, disk.full) = (None, false);
        }
        for path in paths(fs) {
            fs.remove(&path).expect("a file");
        }
        for (path, content) in self.0 {
            fs.write_at(&path, 0, &content).expect("room");
            fs.sync(&path).expect("a file");
            fs.sync_dir(path.parent().expect("a directory")).expect("a directory");
        }
        // Nobody has removed them.
        fs.disk().gone.clear();
    }
}
