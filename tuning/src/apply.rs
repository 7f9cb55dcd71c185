//! Sets a machine to a profile, announcing each change in the journal first.
//!
//! Values come first, so that only what the kernel took is kept over a reboot. An apply that was
//! interrupted is finished by applying again, or taken back by undo.

use std::error::Error;
use std::fmt;
use std::io;

use serde::Serialize;

use crate::journal::{Change, ChangeKind, Counterpart, JOURNAL, JOURNAL_DIRECTORY, Journal};
use crate::limits;
use crate::machine::Machine;
use crate::persist::{self, FileToWrite, MARK, Setting};
use crate::profile::{Knob, Profile, Rule};
use crate::system::{System, normalized, parent_of};
use crate::target::{sysctl_path, targets};

/// Why nothing more was changed.
#[derive(Debug)]
pub enum ApplyError {
    /// This other profile is applied.
    OtherProfile(String),
    /// There is a file of this name that walhub did not write.
    ForeignFile(String),
    /// This file could not be read or written.
    Io(String, io::Error),
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherProfile(name) => {
                write!(f, "profile \"{name}\" is applied: run \"walhub tune undo\" first")
            }
            Self::ForeignFile(path) => {
                write!(f, "\"{path}\" was not written by walhub: move it away first")
            }
            Self::Io(path, error) => write!(f, "\"{path}\": {error}"),
        }
    }
}

impl Error for ApplyError {}

/// How a step went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// It would be done.
    Planned,
    /// It was done.
    Done,
    /// It was done, but the kernel made this of the value.
    Took(String),
    /// It was not possible, for this reason.
    Failed(String),
    /// It was left alone, for this reason.
    LeftAlone(String),
}

/// One change to the machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Step {
    /// What is done, such as `set`.
    pub verb: &'static str,
    /// The file or directory.
    pub path: String,
    /// The value before.
    pub from: Option<String>,
    /// The value after.
    pub to: Option<String>,
    /// How it went.
    pub state: StepState,
}

/// What an apply or undo did, or would do.
#[derive(Clone, Default, Debug, Serialize)]
pub struct Outcome {
    /// The changes.
    pub steps: Vec<Step>,
    /// What else there is to know or to do.
    pub notes: Vec<String>,
}

impl Outcome {
    /// Whether every step was possible.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.steps.iter().any(|step| matches!(step.state, StepState::Failed(_)))
    }
}

/// A value to set.
struct ValueToSet {
    path: String,
    now: String,
    setting: Setting,
    counterpart: Option<Counterpart>,
}

/// What an apply is to do.
#[derive(Default)]
struct Plan {
    values: Vec<ValueToSet>,
    directives: Vec<Setting>,
    notes: Vec<String>,
}

/// Sets `machine` to `profile`; with `dry_run`, says only what it would do.
///
/// # Errors
/// When it must not begin or cannot go on. What was done until then is in the journal.
pub fn apply(
    system: &dyn System,
    machine: &Machine,
    profile: &Profile,
    dry_run: bool,
) -> Result<Outcome, ApplyError> {
    let journal = Journal::load(system).map_err(|error| ApplyError::Io(JOURNAL.into(), error))?;
    let journal = match journal {
        Some(journal) if journal.profile != profile.name => {
            return Err(ApplyError::OtherProfile(journal.profile));
        }
        Some(journal) => journal,
        None => Journal::new(&profile.name),
    };
    let plan = plan(system, machine, profile, &journal);
    let all = plan.values.iter().map(|value| &value.setting).chain(&plan.directives).cloned();
    let files = persist::files(system, &profile.name, &all.collect::<Vec<_>>());
    refuse_foreign(system, &files)?;
    let mut run = Run { system, journal, dry_run, outcome: Outcome::default() };
    run.outcome.notes = plan.notes;
    if plan.values.is_empty() && files.is_empty() {
        return Ok(run.outcome);
    }
    run.make_directories(JOURNAL_DIRECTORY)?;
    run.journal.complete = false;
    let mut kept = Vec::new();
    for value in plan.values {
        if run.set(&value)? {
            kept.push(value.setting);
        }
    }
    kept.extend(plan.directives);
    let files = persist::files(system, &profile.name, &kept);
    for file in &files {
        run.make_directories(parent_of(&file.path))?;
        run.write(file)?;
    }
    run.journal.complete = run.outcome.is_complete();
    run.store()?;
    run.outcome.notes.extend(next_steps(&files));
    Ok(run.outcome)
}

/// What `profile` changes, from what the administrator had.
fn plan(system: &dyn System, machine: &Machine, profile: &Profile, journal: &Journal) -> Plan {
    let mut plan = Plan::default();
    let applied = profile.knobs.iter().filter(|knob| knob.kind.is_applied());
    for knob in applied.filter(|knob| knob.rule != Rule::Report) {
        if knob.kind.is_of_unit() {
            plan.add_directive(system, knob);
            continue;
        }
        let places = targets(system, machine, knob);
        if places.iter().all(|target| target.now.is_none()) {
            plan.notes.push(format!("{}: there is no such knob here", knob.name));
        }
        for target in places {
            let (Some(path), Some(now)) = (target.path, target.now) else { continue };
            let before = journal.change_of(&path);
            let original = before.and_then(|change| change.old.clone()).unwrap_or(now.clone());
            let value = knob.target(&original);
            if value == original {
                continue;
            }
            let counterpart = match before {
                Some(change) => change.counterpart.clone(),
                None => counterpart(system, knob, &now),
            };
            let setting = Setting { knob: knob.clone(), place: target.place, value };
            plan.values.push(ValueToSet { path, now, setting, counterpart });
        }
    }
    plan
}

impl Plan {
    fn add_directive(&mut self, system: &dyn System, knob: &Knob) {
        let now = limits::now(system, knob, false);
        let value = now.as_deref().map_or_else(|| knob.value.clone(), |now| knob.target(now));
        if now.as_ref() == Some(&value) {
            return;
        }
        if limits::has_systemd(system) {
            let place = "walhub@.service".to_owned();
            self.directives.push(Setting { knob: knob.clone(), place, value });
        } else {
            self.notes.push(format!("{}: no systemd here; {}", knob.name, knob.scope));
        }
    }
}

/// The other knob of a pair, when that is the one in charge: the old value of this one is then 0,
/// which the kernel shows but does not take.
fn counterpart(system: &dyn System, knob: &Knob, now: &str) -> Option<Counterpart> {
    let path = sysctl_path(knob.zeroes.as_ref()?);
    if now != "0" {
        return None;
    }
    let old = normalized(&system.read(&path).ok()?);
    Some(Counterpart { path, old })
}

fn refuse_foreign(system: &dyn System, files: &[FileToWrite]) -> Result<(), ApplyError> {
    for file in files {
        match system.read(&file.path) {
            Ok(content) if !content.starts_with(MARK) => {
                return Err(ApplyError::ForeignFile(file.path.clone()));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ApplyError::Io(file.path.clone(), error));
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// What has to be run for a file to count.
fn next_steps(files: &[FileToWrite]) -> Vec<String> {
    let has = |path: &str| files.iter().any(|file| file.path == path);
    let mut notes = Vec::new();
    if has(limits::DROP_IN) {
        notes.push(
            "what is in the unit counts from the next start of the service: systemctl \
             daemon-reload, then systemctl restart walhub@NAME"
                .to_owned(),
        );
    }
    if files.iter().any(|file| file.path.ends_with("/walhub/tuned.conf")) {
        notes.push(
            "tuned is installed: \"tuned-adm profile walhub\" keeps it from setting other values"
                .to_owned(),
        );
    }
    notes
}

/// An apply under way.
struct Run<'a> {
    system: &'a dyn System,
    journal: Journal,
    dry_run: bool,
    outcome: Outcome,
}

impl Run<'_> {
    fn store(&self) -> Result<(), ApplyError> {
        if self.dry_run {
            return Ok(());
        }
        let stored = self.journal.store(self.system);
        stored.map_err(|error| ApplyError::Io(JOURNAL.to_owned(), error))
    }

    fn step(
        &mut self,
        verb: &'static str,
        path: &str,
        values: (Option<String>, Option<String>),
        state: StepState,
    ) {
        let (from, to) = values;
        self.outcome.steps.push(Step { verb, path: path.to_owned(), from, to, state });
    }

    /// Makes a directory and those above it, as far as they are missing.
    fn make_directories(&mut self, path: &str) -> Result<(), ApplyError> {
        if path == "/" || self.system.exists(path) {
            return Ok(());
        }
        self.make_directories(parent_of(path))?;
        if self.dry_run {
            return Ok(());
        }
        let is_own_home = JOURNAL_DIRECTORY.starts_with(path);
        if !self.journal.directories.iter().any(|known| known == path) {
            self.journal.directories.push(path.to_owned());
        }
        // The journal cannot announce the directory that it is to be in.
        if !is_own_home {
            self.store()?;
        }
        let made = self.system.make_directory(path);
        made.map_err(|error| ApplyError::Io(path.to_owned(), error))?;
        self.step("make directory", path, (None, None), StepState::Done);
        Ok(())
    }

    /// Sets a value; false when the kernel refuses.
    fn set(&mut self, value: &ValueToSet) -> Result<bool, ApplyError> {
        let ValueToSet { path, now, setting, counterpart } = value;
        let before = self.journal.change_of(path).cloned();
        let wanted = &setting.value;
        // What the kernel made of it the last time counts as set.
        let is_set = before
            .as_ref()
            .is_some_and(|change| change.new == *wanted && change.took.as_ref() == Some(now));
        if is_set {
            return Ok(true);
        }
        let values = (Some(now.clone()), Some(wanted.clone()));
        if self.dry_run {
            self.step("set", path, values, StepState::Planned);
            return Ok(true);
        }
        self.journal.announce(Change {
            kind: ChangeKind::Value,
            path: path.clone(),
            old: Some(now.clone()),
            new: wanted.clone(),
            took: None,
            counterpart: counterpart.clone(),
        });
        self.store()?;
        if let Err(error) = self.system.write_value(path, wanted) {
            self.journal.withdraw(path, before);
            self.store()?;
            self.step("set", path, values, StepState::Failed(error.to_string()));
            return Ok(false);
        }
        let took = self.system.read(path).map(|text| normalized(&text));
        let took = took.map_err(|error| ApplyError::Io(path.clone(), error))?;
        let state = if took == *wanted { StepState::Done } else { StepState::Took(took.clone()) };
        self.journal.note(path, took);
        self.step("set", path, values, state);
        Ok(true)
    }

    /// Writes a file that keeps settings.
    fn write(&mut self, file: &FileToWrite) -> Result<(), ApplyError> {
        let FileToWrite { path, content } = file;
        let old = self.system.read(path).ok();
        if old.as_ref() == Some(content) && self.journal.change_of(path).is_some() {
            self.journal.note(path, content.clone());
            return Ok(());
        }
        if self.dry_run {
            self.step("write", path, (None, None), StepState::Planned);
            return Ok(());
        }
        self.journal.announce(Change {
            kind: ChangeKind::File,
            path: path.clone(),
            old,
            new: content.clone(),
            took: None,
            counterpart: None,
        });
        self.store()?;
        let written = self.system.write_file(path, content);
        written.map_err(|error| ApplyError::Io(path.clone(), error))?;
        self.journal.note(path, content.clone());
        self.step("write", path, (None, None), StepState::Done);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
