//! The one door to the machine: files below a root, and ethtool.
//!
//! Paths are absolute and as on the machine itself; a root other than `/` makes them mean a scratch
//! tree. Writes of files are durable before they return, because the journal of an apply is only
//! worth what survives a power cut.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What checking, applying and undoing need of a machine.
pub trait System {
    /// Whether it is the running machine, not a scratch tree.
    fn is_live(&self) -> bool;

    /// The whole file.
    ///
    /// # Errors
    /// As the operating system says.
    fn read(&self, path: &str) -> io::Result<String>;

    /// Whether there is anything at `path`.
    fn exists(&self, path: &str) -> bool;

    /// Names in a directory, sorted; none when there is no such directory.
    fn list(&self, directory: &str) -> Vec<String>;

    /// Writes to a file of /proc or /sys, which has to exist.
    ///
    /// # Errors
    /// As the operating system says.
    fn write_value(&self, path: &str, value: &str) -> io::Result<()>;

    /// Makes or replaces a file, atomically and durably.
    ///
    /// # Errors
    /// As the operating system says.
    fn write_file(&self, path: &str, content: &str) -> io::Result<()>;

    /// Removes a file durably; that there is none is no error.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove_file(&self, path: &str) -> io::Result<()>;

    /// Makes one directory durably.
    ///
    /// # Errors
    /// As the operating system says.
    fn make_directory(&self, path: &str) -> io::Result<()>;

    /// Removes a directory that is empty.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove_directory(&self, path: &str) -> io::Result<()>;

    /// What `ethtool` prints; `None` without ethtool, or when it fails.
    fn ethtool(&self, arguments: &[&str]) -> Option<String>;
}

/// The file that [`System::write_file`] writes before it renames; an interrupted write leaves it.
#[must_use]
pub fn temporary_of(path: &str) -> String {
    format!("{path}.tmp")
}

/// The directory of an absolute path.
#[must_use]
pub fn parent_of(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}

/// A value as it compares: of a menu the bracketed choice, white space reduced to single spaces.
///
/// The kernel shows `none [mq-deadline]` for a scheduler and tabs between the numbers of tcp_rmem.
#[must_use]
pub fn normalized(text: &str) -> String {
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    let text = chosen.map_or(text, |(chosen, _)| chosen);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A directory tree: the machine itself below `/`.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree below `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where `path` really is.
    #[must_use]
    pub fn place(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn sync_directory_of(&self, path: &str) -> io::Result<()> {
        File::open(self.place(parent_of(path)))?.sync_all()
    }
}

impl System for Tree {
    fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    fn read(&self, path: &str) -> io::Result<String> {
        fs::read(self.place(path)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn exists(&self, path: &str) -> bool {
        self.place(path).exists()
    }

    fn list(&self, directory: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.place(directory)) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    fn write_value(&self, path: &str, value: &str) -> io::Result<()> {
        // Never created: a knob that is missing stays missing.
        let mut file = OpenOptions::new().write(true).truncate(true).open(self.place(path))?;
        // One write, as the kernel takes one write for one value.
        file.write_all(format!("{value}\n").as_bytes())
    }

    fn write_file(&self, path: &str, content: &str) -> io::Result<()> {
        let temporary = self.place(&temporary_of(path));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o644);
        let mut file = options.open(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, self.place(path))?;
        self.sync_directory_of(path)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        match fs::remove_file(self.place(path)) {
            Ok(()) => self.sync_directory_of(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn make_directory(&self, path: &str) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o755).create(self.place(path))?;
        self.sync_directory_of(path)
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        fs::remove_dir(self.place(path))?;
        self.sync_directory_of(path)
    }

    fn ethtool(&self, arguments: &[&str]) -> Option<String> {
        if !self.is_live() {
            return None;
        }
        let output = Command::new("ethtool").args(arguments).stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_compare_as_the_kernel_means_them() {
        for (shown, means) in [
            ("none [mq-deadline] kyber bfq\n", "mq-deadline"),
            ("[none]\n", "none"),
            ("4096\t131072\t33554432\n", "4096 131072 33554432"),
            ("write back\n", "write back"),
            ("", ""),
        ] {
            assert_eq!(normalized(shown), means);
        }
    }

    #[test]
    fn a_value_is_written_to_an_existing_file_only() {
        let root = tempfile::tempdir().unwrap();
        let tree = Tree::new(root.path());
        assert_eq!(tree.write_value("/a", "1").unwrap_err().kind(), io::ErrorKind::NotFound);
        tree.write_file("/a", "a long line\n").unwrap();
        tree.write_value("/a", "1").unwrap();
        assert_eq!(tree.read("/a").unwrap(), "1\n");
        assert_eq!(tree.list("/"), ["a"]);
        tree.remove_file("/a").unwrap();
        tree.remove_file("/a").unwrap();
        assert!(!tree.exists("/a") && tree.list("/none").is_empty());
    }

    #[test]
    fn parents_of_paths() {
        assert_eq!(parent_of("/a/b"), "/a");
        assert_eq!(parent_of("/a"), "/");
    }
}
