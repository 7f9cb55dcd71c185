//! Scratch trees, and a system that stops at any step, for tests.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::system::{System, Tree, temporary_of};

/// A tree in a temporary directory.
pub(crate) struct Scratch {
    directory: tempfile::TempDir,
    pub(crate) tree: Tree,
}

impl Scratch {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        // Memory, where there is such a directory: every write of a tree is synced.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let directory = tempfile::tempdir_in(parent).unwrap();
        let tree = Tree::new(directory.path());
        for (path, content) in files {
            let place = tree.place(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, content).unwrap();
        }
        Self { directory, tree }
    }

    /// Every path with its content; directories have none.
    pub(crate) fn snapshot(&self) -> BTreeMap<String, Option<String>> {
        let mut all = BTreeMap::new();
        walk(self.directory.path(), self.directory.path(), &mut all);
        all
    }
}

fn walk(root: &Path, directory: &Path, all: &mut BTreeMap<String, Option<String>>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("/{}", path.strip_prefix(root).unwrap().display());
        if path.is_dir() {
            all.insert(name, None);
            walk(root, &path, all);
        } else {
            // As the kernel would show it: what is written ends in one newline.
            let text = fs::read_to_string(&path).unwrap();
            all.insert(name, Some(text.trim_end().to_owned()));
        }
    }
}

/// A tree that behaves as a kernel does, and stops after a number of changes.
pub(crate) struct Kernel<'a> {
    tree: &'a Tree,
    /// Changes that still succeed.
    left: Cell<usize>,
    /// Files that refuse a write, and with what.
    pub(crate) refusing: RefCell<BTreeMap<String, i32>>,
    /// The most that a file takes: more is written as that.
    pub(crate) clamped: RefCell<BTreeMap<String, u64>>,
}

impl<'a> Kernel<'a> {
    pub(crate) fn new(tree: &'a Tree, changes: usize) -> Self {
        Self {
            tree,
            left: Cell::new(changes),
            refusing: RefCell::default(),
            clamped: RefCell::default(),
        }
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.left.get() == 0
    }

    fn change(&self) -> io::Result<()> {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        if left == 0 { Err(io::Error::other("the power is out")) } else { Ok(()) }
    }
}

impl System for Kernel<'_> {
    fn is_live(&self) -> bool {
        false
    }

    fn read(&self, path: &str) -> io::Result<String> {
        self.tree.read(path)
    }

    fn exists(&self, path: &str) -> bool {
        self.tree.exists(path)
    }

    fn list(&self, directory: &str) -> Vec<String> {
        self.tree.list(directory)
    }

    fn write_value(&self, path: &str, value: &str) -> io::Result<()> {
        self.change()?;
        if let Some(errno) = self.refusing.borrow().get(path) {
            return Err(io::Error::from_raw_os_error(*errno));
        }
        if let Some(pair) = path.strip_prefix("/proc/sys/vm/dirty_") {
            // Linux: dirty_bytes_handler; 0 is below the least that dirty_bytes takes.
            if pair.ends_with("bytes") && value == "0" {
                return Err(io::Error::from_raw_os_error(22));
            }
            let other = match pair {
                "bytes" => "ratio",
                "ratio" => "bytes",
                "background_bytes" => "background_ratio",
                _ => "background_bytes",
            };
            self.tree.write_value(&format!("/proc/sys/vm/dirty_{other}"), "0")?;
        }
        let most = self.clamped.borrow().get(path).copied();
        let value = match (most, value.parse::<u64>()) {
            (Some(most), Ok(asked)) => asked.min(most).to_string(),
            _ => value.to_owned(),
        };
        self.tree.write_value(path, &value)
    }

    fn write_file(&self, path: &str, content: &str) -> io::Result<()> {
        if let Err(error) = self.change() {
            // What a crash in the middle of a write leaves, if the directory is there.
            let _ = fs::write(self.tree.place(&temporary_of(path)), &content[..content.len() / 2]);
            return Err(error);
        }
        self.tree.write_file(path, content)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.change()?;
        self.tree.remove_file(path)
    }

    fn make_directory(&self, path: &str) -> io::Result<()> {
        self.change()?;
        self.tree.make_directory(path)
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        self.change()?;
        self.tree.remove_directory(path)
    }

    fn ethtool(&self, _: &[&str]) -> Option<String> {
        None
    }
}
