//! Takes back what the journal says was changed, newest first.
//!
//! What somebody else has changed since is left as they have it. Every restore may be repeated, so an
//! interrupted undo is finished by the next one; the journal goes last.

use std::io;

use crate::apply::{ApplyError, Outcome, Step, StepState};
use crate::journal::{Change, ChangeKind, JOURNAL, JOURNAL_DIRECTORY, Journal};
use crate::system::{System, normalized, temporary_of};

/// Restores what was there before the apply; with `dry_run`, says only what it would do.
///
/// # Errors
/// When the journal cannot be read or removed.
pub fn undo(system: &dyn System, dry_run: bool) -> Result<Outcome, ApplyError> {
    let failed = |error| ApplyError::Io(JOURNAL.to_owned(), error);
    let mut outcome = Outcome::default();
    let Some(journal) = Journal::load(system).map_err(failed)? else {
        outcome.notes.push("nothing is applied".to_owned());
        return Ok(outcome);
    };
    for change in journal.changes.iter().rev() {
        outcome.steps.extend(restore(system, change, dry_run));
    }
    let is_home = |path: &str| JOURNAL_DIRECTORY.starts_with(path);
    let (homes, others): (Vec<_>, Vec<_>) =
        journal.directories.iter().rev().partition(|path| is_home(path));
    remove_directories(system, &others, dry_run, &mut outcome);
    if dry_run {
        return Ok(outcome);
    }
    if !outcome.is_complete() {
        outcome.notes.push(format!("\"{JOURNAL}\" stays, for the next undo"));
        return Ok(outcome);
    }
    Journal::remove(system).map_err(failed)?;
    remove_directories(system, &homes, dry_run, &mut outcome);
    Ok(outcome)
}

/// Removes directories that the apply made, unless somebody has put something there.
fn remove_directories(
    system: &dyn System,
    paths: &[&String],
    dry_run: bool,
    outcome: &mut Outcome,
) {
    for path in paths {
        if dry_run || !system.exists(path) || !system.list(path).is_empty() {
            continue;
        }
        let state = match system.remove_directory(path) {
            Ok(()) => StepState::Done,
            Err(error) => StepState::Failed(error.to_string()),
        };
        let path = (*path).clone();
        outcome.steps.push(Step { verb: "remove directory", path, from: None, to: None, state });
    }
}

fn restore(system: &dyn System, change: &Change, dry_run: bool) -> Option<Step> {
    match change.kind {
        ChangeKind::Value => restore_value(system, change, dry_run),
        ChangeKind::File => restore_file(system, change, dry_run),
    }
}

fn restore_value(system: &dyn System, change: &Change, dry_run: bool) -> Option<Step> {
    let old = change.old.as_ref()?;
    let step = |from: Option<String>, state| {
        let path = change.path.clone();
        Some(Step { verb: "restore", path, from, to: Some(old.clone()), state })
    };
    let now = match system.read(&change.path) {
        Ok(text) => normalized(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return step(None, StepState::LeftAlone("it is not here any more".to_owned()));
        }
        Err(error) => return step(None, StepState::Failed(error.to_string())),
    };
    if now == *old {
        return None;
    }
    // Without a look afterwards the change was the last one, and how far it came is unknown.
    if change.took.as_ref().is_some_and(|took| now != *took && now != change.new) {
        let reason = format!("somebody has set it to {now} since");
        return step(Some(now), StepState::LeftAlone(reason));
    }
    if dry_run {
        return step(Some(now), StepState::Planned);
    }
    let (path, value) = match &change.counterpart {
        Some(counterpart) => (&counterpart.path, &counterpart.old),
        None => (&change.path, old),
    };
    match system.write_value(path, value) {
        Ok(()) => step(Some(now), StepState::Done),
        Err(error) => step(Some(now), StepState::Failed(error.to_string())),
    }
}

fn restore_file(system: &dyn System, change: &Change, dry_run: bool) -> Option<Step> {
    let (path, old) = (&change.path, &change.old);
    let verb = if old.is_some() { "restore" } else { "remove" };
    let step = |state| Some(Step { verb, path: path.clone(), from: None, to: None, state });
    let temporary = temporary_of(path);
    if !dry_run && system.exists(&temporary) {
        // Half of what an interrupted apply was writing.
        if let Err(error) = system.remove_file(&temporary) {
            return step(StepState::Failed(error.to_string()));
        }
    }
    let now = match system.read(path) {
        Ok(content) => Some(content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return step(StepState::Failed(error.to_string())),
    };
    if now == *old || now.is_none() {
        return None;
    }
    let is_ours = now.as_ref() == Some(&change.new) || now == change.took;
    if !is_ours {
        return step(StepState::LeftAlone("somebody has changed it since".to_owned()));
    }
    if dry_run {
        return step(StepState::Planned);
    }
    let restored = match old {
        Some(old) => system.write_file(path, old),
        None => system.remove_file(path),
    };
    step(match restored {
        Ok(()) => StepState::Done,
        Err(error) => StepState::Failed(error.to_string()),
    })
}
