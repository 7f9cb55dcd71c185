//! Small file systems for a hub's data directory; only root can mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{run, run_ok};
use crate::scratch::Scratch;

/// A mounted file system, unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
}

impl Mount {
    /// A tmpfs of `megabytes`.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn tmpfs(scratch: &Scratch, megabytes: u32) -> Self {
        let size = format!("size={megabytes}m,mode=0755");
        Self::at(scratch, "tmpfs", &["-t", "tmpfs", "-o", &size, "tmpfs"])
    }

    /// A ramfs, which knows no O_DIRECT.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn ramfs(scratch: &Scratch) -> Self {
        Self::at(scratch, "ramfs", &["-t", "ramfs", "ramfs"])
    }

    /// An ext4 of `megabytes` in a file.
    ///
    /// # Panics
    /// When it cannot be made or mounted.
    #[must_use]
    pub fn ext4(scratch: &Scratch, megabytes: u64) -> Self {
        let image = scratch.path("ext4.image");
        let file = fs::File::create(&image).expect("an image");
        file.set_len(megabytes << 20).expect("an image");
        let mut mkfs = Command::new("mkfs.ext4");
        run_ok(mkfs.args(["-q", "-F", "-m", "0"]).arg(&image));
        let image = image.display().to_string();
        Self::at(scratch, "ext4", &["-t", "ext4", "-o", "loop", &image])
    }

    fn at(scratch: &Scratch, name: &str, arguments: &[&str]) -> Self {
        let path = scratch.path(name);
        fs::create_dir(&path).expect("a mount point");
        run_ok(Command::new("mount").args(arguments).arg(&path));
        Self { path }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes `megabytes` of its room, until the returned file is removed.
    ///
    /// # Panics
    /// When there is not enough.
    #[must_use]
    pub fn take_room(&self, megabytes: u32) -> PathBuf {
        let ballast = self.path.join("ballast");
        let mut fallocate = Command::new("fallocate");
        run_ok(fallocate.args(["-l", &format!("{megabytes}MiB")]).arg(&ballast));
        ballast
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = run(Command::new("umount").arg(&self.path)).status.success();
        if !unmounted {
            run(Command::new("umount").arg("--lazy").arg(&self.path));
        }
    }
}
