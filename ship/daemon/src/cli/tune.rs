//! `walhub tune check | apply | undo`: kernel settings that suit walhub.
//!
//! Exit codes: `check` gives 0 when everything holds that `apply` would set, 1 when not; `apply` and
//! `undo` give 0 when everything was possible, 1 when something was not.
//!
//! Not here: what is set and how (`walhub_tuning`).

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use walhub_tuning::journal::JOURNAL;
use walhub_tuning::table::{check_table, outcome_lines};
use walhub_tuning::{Machine, Outcome, PROFILE_NAMES, Profile, Tree};

use super::DataDirArgs;

/// Where a package puts data directories; used when none is named.
const DATA_DIR_DEFAULT: &str = "/var/lib/walhub";

#[derive(Subcommand, Debug)]
pub(super) enum TuneCommand {
    /// Compare this machine with a profile.
    Check(CheckArgs),
    /// Set this machine to a profile, and record what was there before.
    Apply(ApplyArgs),
    /// Restore what was there before "apply", also after one that was interrupted.
    Undo(UndoArgs),
}

#[derive(Args, Debug)]
struct ProfileArgs {
    #[command(flatten)]
    data_dir: DataDirArgs,
    /// Profile; without one the machine is recognised.
    #[arg(short, long, value_name = "NAME", value_parser = PROFILE_NAMES)]
    profile: Option<String>,
    /// Work on the tree below this directory instead of the machine.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Debug)]
pub(super) struct UndoArgs {
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Work on the tree below this directory instead of the machine.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// Runs one of the commands.
pub(super) fn run(command: &TuneCommand, out: &mut impl Write) -> ExitCode {
    let result = match command {
        TuneCommand::Check(args) => check(args, out),
        TuneCommand::Apply(args) => apply(args, out),
        TuneCommand::Undo(args) => undo(args, out),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "walhub: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The directory that walhub's files are in, or would be: absolute, without links as far as it exists.
pub(super) fn place_of_data(given: Option<PathBuf>) -> PathBuf {
    let path = given.unwrap_or_else(|| DATA_DIR_DEFAULT.into());
    let path = std::path::absolute(&path).unwrap_or(path);
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    match existing.and_then(|existing| Some((existing, existing.canonicalize().ok()?))) {
        Some((existing, real)) => match path.strip_prefix(existing) {
            Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
            Ok(_) | Err(_) => real,
        },
        None => path,
    }
}

/// Recognises the machine in `tree`.
pub(super) fn recognise(tree: &Tree, data_dir: Option<PathBuf>, root: &Path) -> Machine {
    let is_live = root == Path::new("/");
    let path = if is_live {
        place_of_data(data_dir)
    } else {
        data_dir.unwrap_or_else(|| DATA_DIR_DEFAULT.into())
    };
    Machine::recognise(tree, &path.to_string_lossy())
}

fn tree_below(root: &Path) -> anyhow::Result<Tree> {
    if !root.is_dir() {
        bail!("\"{}\" is not a directory", root.display());
    }
    Ok(Tree::new(root))
}

impl ProfileArgs {
    /// The tree to work on, the machine in it, the profile, and why it is that one.
    fn resolve(&self) -> anyhow::Result<(Tree, Machine, Profile, String)> {
        let tree = tree_below(&self.root)?;
        let machine = recognise(&tree, self.data_dir.path_if_given(), &self.root);
        let (name, why) = match &self.profile {
            Some(name) => (name.as_str(), "as asked for".to_owned()),
            None => (machine.profile, machine.because.clone()),
        };
        let profile = Profile::named(name)?;
        let headline = format!("Profile {name} ({why}): {}\n", profile.summary);
        Ok((tree, machine, profile, headline))
    }
}

/// Keeps two of these commands from working on one tree, and others than root from trying.
fn take_hold(root: &Path, dry_run: bool) -> anyhow::Result<Option<File>> {
    if dry_run {
        return Ok(None);
    }
    if root == Path::new("/") && !rustix::process::geteuid().is_root() {
        bail!("only root can change the machine: use sudo, or --dry-run to see what it would do");
    }
    if root == Path::new("/") {
        trust_journal()?;
    }
    let directory = File::open(root).with_context(|| format!("\"{}\"", root.display()))?;
    match directory.try_lock() {
        Ok(()) => Ok(Some(directory)),
        Err(TryLockError::WouldBlock) => bail!("another \"walhub tune\" is running"),
        Err(TryLockError::Error(error)) => Err(error).context("could not lock the machine"),
    }
}

/// Refuses a record of old values that root did not write: it would have root write what it says.
fn trust_journal() -> anyhow::Result<()> {
    match fs::symlink_metadata(JOURNAL) {
        Ok(journal) if journal.uid() == 0 && journal.is_file() && journal.mode() & 0o022 == 0 => {
            Ok(())
        }
        Ok(_) => bail!("\"{JOURNAL}\" was not written by root, and is not believed"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("\"{JOURNAL}\"")),
    }
}

fn check(args: &CheckArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let (tree, machine, profile, headline) = args.profile.resolve()?;
    let report = walhub_tuning::check(&tree, &machine, &profile);
    let text = if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        let verdict = if report.holds {
            "Everything holds that \"walhub tune apply\" would set.\n"
        } else {
            "Not everything holds: \"walhub tune apply\" (as root) sets what differs.\n"
        };
        format!("{headline}\n{}\n{verdict}", check_table(&report))
    };
    // A reader such as head may close the pipe early.
    let _ = out.write_all(text.as_bytes());
    Ok(report.holds)
}

fn apply(args: &ApplyArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let (tree, machine, profile, headline) = args.profile.resolve()?;
    let _hold = take_hold(&args.profile.root, args.dry_run)?;
    let _ = out.write_all(headline.as_bytes());
    let outcome = walhub_tuning::apply(&tree, &machine, &profile, args.dry_run)
        .context("could not apply; \"walhub tune undo\" takes back what was done")?;
    Ok(tell(&outcome, "nothing to change", out))
}

fn undo(args: &UndoArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let tree = tree_below(&args.root)?;
    let _hold = take_hold(&args.root, args.dry_run)?;
    let outcome = walhub_tuning::undo(&tree, args.dry_run)?;
    Ok(tell(&outcome, "nothing to restore", out))
}

/// Says what was done; whether all of it was possible.
fn tell(outcome: &Outcome, nothing: &str, out: &mut impl Write) -> bool {
    if outcome.steps.is_empty() {
        let _ = writeln!(out, "{nothing}");
    }
    let _ = out.write_all(outcome_lines(outcome).as_bytes());
    outcome.is_complete()
}
