//! What an apply changed, and what was there before: the durable record that undo works from.
//!
//! A change is written here before it is made. So at any moment every change that was made is known,
//! and at most the last one known was not made.

use std::io;

use serde::{Deserialize, Serialize};

use crate::persist;
use crate::system::{System, temporary_of};

/// Where it is.
pub const JOURNAL: &str = "/var/lib/walhub/tune-undo.json";
/// The directory it is in.
pub const JOURNAL_DIRECTORY: &str = "/var/lib/walhub";
/// Where values are.
const VALUES: [&str; 4] =
    ["/proc/sys/", "/sys/block/", "/sys/devices/system/cpu/cpufreq/", "/sys/module/"];
/// The form of the file.
const VERSION: u32 = 1;

/// What a change is made to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// A value in /proc or /sys, as it compares.
    Value,
    /// A file with all its content.
    File,
}

/// Another knob to write in order to get the old value of this one back.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
pub struct Counterpart {
    /// Its file.
    pub path: String,
    /// Its value before.
    pub old: String,
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
pub struct Change {
    /// What it is made to.
    pub kind: ChangeKind,
    /// The file.
    pub path: String,
    /// What was there; nothing when there was no such file.
    pub old: Option<String>,
    /// What is written.
    pub new: String,
    /// What was there afterwards; nothing when that was not seen any more.
    pub took: Option<String>,
    /// Present when the old value cannot be written itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counterpart: Option<Counterpart>,
}

/// All changes since the machine was as its administrator had it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
pub struct Journal {
    version: u32,
    /// The profile applied.
    pub profile: String,
    /// Whether the apply came to its end.
    pub complete: bool,
    /// Directories made.
    pub directories: Vec<String>,
    /// Changes, oldest first.
    pub changes: Vec<Change>,
}

impl Journal {
    /// A journal without changes.
    #[must_use]
    pub fn new(profile: &str) -> Self {
        Self {
            version: VERSION,
            profile: profile.to_owned(),
            complete: false,
            directories: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// The journal of an apply that was not undone.
    ///
    /// # Errors
    /// When it cannot be read; nothing may then be changed.
    pub fn load(system: &dyn System) -> io::Result<Option<Self>> {
        let text = match system.read(JOURNAL) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let journal: Self = serde_json::from_str(&text).map_err(io::Error::from)?;
        if journal.version != VERSION {
            let message = format!("its version is {}, not {VERSION}", journal.version);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        if let Some(path) = journal.unknown_path() {
            let message = format!("it names \"{path}\", which walhub does not change");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Some(journal))
    }

    /// A path that no apply of any version of walhub would change, if there is one: the record was
    /// then made or edited by somebody else.
    fn unknown_path(&self) -> Option<&str> {
        let is_file = |path: &str| persist::FILES.contains(&path);
        let is_value = |path: &str| {
            VALUES.iter().any(|tree| path.starts_with(tree))
                && !path.split('/').any(|part| part == "..")
        };
        let is_directory = |path: &str| {
            let below =
                |file: &str| file.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
            below(JOURNAL) || persist::FILES.iter().any(|file| below(file))
        };
        let mut changes = self.changes.iter().flat_map(|change| {
            let is_known = match change.kind {
                ChangeKind::Value => is_value(&change.path),
                ChangeKind::File => is_file(&change.path),
            };
            let counterpart = change.counterpart.as_ref().map(|other| &other.path);
            let unknown = (!is_known).then_some(&change.path);
            unknown.into_iter().chain(counterpart.filter(|path| !is_value(path)))
        });
        let mut directories = self.directories.iter().filter(|path| !is_directory(path));
        changes.next().or_else(|| directories.next()).map(String::as_str)
    }

    /// Makes it durable as it is.
    ///
    /// # Errors
    /// As the operating system says; the change it announces must then not be made.
    pub fn store(&self, system: &dyn System) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self).map_err(io::Error::from)?;
        text.push('\n');
        system.write_file(JOURNAL, &text)
    }

    /// Removes it, after everything was undone.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn remove(system: &dyn System) -> io::Result<()> {
        system.remove_file(&temporary_of(JOURNAL))?;
        system.remove_file(JOURNAL)
    }

    /// The change made to a file, if there was one.
    #[must_use]
    pub fn change_of(&self, path: &str) -> Option<&Change> {
        self.changes.iter().find(|change| change.path == path)
    }

    /// Announces a change. What was there before the first change to a file stays known.
    pub fn announce(&mut self, change: Change) {
        match self.changes.iter_mut().find(|known| known.path == change.path) {
            Some(known) => {
                known.new = change.new;
                known.took = None;
            }
            None => self.changes.push(change),
        }
    }

    /// Notes what a change led to; durable with the next [`Journal::store`].
    pub fn note(&mut self, path: &str, took: String) {
        if let Some(change) = self.changes.iter_mut().find(|change| change.path == path) {
            change.took = Some(took);
        }
    }

    /// Takes back the announcement of a change that was not possible.
    pub fn withdraw(&mut self, path: &str, before: Option<Change>) {
        match before {
            Some(before) => {
                if let Some(change) = self.changes.iter_mut().find(|change| change.path == path) {
                    *change = before;
                }
            }
            None => self.changes.retain(|change| change.path != path),
        }
    }
}
