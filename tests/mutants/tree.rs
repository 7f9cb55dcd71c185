//! The scratch copy of the tree in which mutations are built, and what is built there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::SWITCH;
use crate::table::Mutation;

/// In a mutation's text: whether it is on.
const MARK: &str = "MUTANT";

/// A copy of the tree, beside its target directory, which stays from one time to the next.
pub(crate) struct Tree {
    root: PathBuf,
}

/// What is run for each mutation.
pub(crate) struct Programs {
    pub(crate) simulator: PathBuf,
    units: BTreeMap<String, PathBuf>,
}

impl Programs {
    /// The unit tests of a package.
    pub(crate) fn units(&self, package: &str) -> &Path {
        self.units.get(package).expect("a package that is built")
    }
}

impl Tree {
    /// Copies what version control knows or would take, with every mutation behind its switch.
    pub(crate) fn copy(mutations: &[Mutation]) -> Result<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        let root = source.join(target).join("mutants/tree");
        let mutated = mutate(&source, mutations)?;
        let output = Command::new("git")
            .current_dir(&source)
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .output()
            .context("git lists the files")?;
        if !output.status.success() {
            bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr));
        }
        let listed = String::from_utf8(output.stdout)?;
        let names: BTreeSet<&str> = listed.split_terminator('\0').collect();
        remove_others(&root, &names)?;
        for name in names {
            let from = source.join(name);
            if let Some(text) = mutated.get(name) {
                write_if_other(&root.join(name), text.as_bytes())?;
            } else if from.is_file() {
                // One that is deleted is still listed.
                write_if_other(&root.join(name), &fs::read(&from)?)?;
            }
        }
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Builds the simulator and the unit tests.
    pub(crate) fn build(&self) -> Result<Programs> {
        let mut programs = Programs { simulator: PathBuf::new(), units: BTreeMap::new() };
        let sets: [&[&str]; 2] = [
            &["-p", "walhub-tests", "--test", "sim"],
            &["-p", "walhub-hub", "-p", "walhub-proto", "-p", "walhub-engine", "--lib"],
        ];
        for set in sets {
            let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
                .current_dir(&self.root)
                .args(["test", "--no-run", "--quiet", "--message-format=json"])
                .args(set)
                .env("CARGO_TARGET_DIR", self.root.with_file_name("target"))
                .env("CARGO_INCREMENTAL", "1")
                .stderr(Stdio::inherit())
                .output()?;
            for line in String::from_utf8(output.stdout)?.lines() {
                let message: serde_json::Value = serde_json::from_str(line)?;
                if let Some(text) = message["message"]["rendered"].as_str()
                    && message["message"]["level"] == "error"
                {
                    eprintln!("{text}");
                }
                let (name, program) = (&message["target"]["name"], &message["executable"]);
                let (Some(name), Some(program)) = (name.as_str(), program.as_str()) else {
                    continue;
                };
                if name == "sim" {
                    programs.simulator = program.into();
                } else if message["profile"]["test"] == true {
                    programs.units.insert(name.replace('_', "-"), program.into());
                }
            }
            if !output.status.success() {
                bail!("the mutated tree does not build");
            }
        }
        Ok(programs)
    }
}

/// The files that mutations change, as they are with all of them.
fn mutate(source: &Path, mutations: &[Mutation]) -> Result<BTreeMap<String, String>> {
    let read = |name: &str| fs::read_to_string(source.join(name)).with_context(|| name.to_owned());
    let mut mutated = BTreeMap::new();
    for (number, mutation) in mutations.iter().enumerate() {
        let Mutation { name, file, find, replace, .. } = mutation;
        let original = read(file)?;
        let times = original.matches(find).count();
        if times != 1 {
            bail!(
                "{name} no longer applies: its text must be in {file} once, and is {times} times"
            );
        }
        let text = mutated.entry((*file).to_owned()).or_insert(original);
        let is_on = format!("crate::mutant::is({number})");
        if !replace.contains(MARK) || !text.contains(find) {
            bail!("{name} has no switch, or another mutation of {file} has changed its text");
        }
        *text = text.replacen(find, &replace.replace(MARK, &is_on), 1);
    }
    for package in ["engine", "ship/proto", "ship/hub"] {
        let name = format!("{package}/src/lib.rs");
        let text = mutated.remove(&name).map_or_else(|| read(&name), Ok)?;
        mutated.insert(name, text + &switch());
    }
    Ok(mutated)
}

/// Removes sources of the last time that are not in the tree any more.
fn remove_others(root: &Path, names: &BTreeSet<&str>) -> Result<()> {
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry?.path();
            let name = path.strip_prefix(root)?.to_str().unwrap_or_default();
            if path.is_dir() {
                dirs.push(path);
            } else if name.ends_with(".rs") && !names.contains(name) {
                fs::remove_file(&path)?;
            }
        }
    }
    Ok(())
}

/// Asks the environment, once, which mutation is on.
fn switch() -> String {
    format!(
        "
#[doc(hidden)]
#[allow(clippy::all, missing_docs, reason = \"not for people\")]
pub mod mutant {{
    extern crate std as a_std;
    use a_std::sync::OnceLock;

    static ON: OnceLock<Option<usize>> = OnceLock::new();

    #[must_use]
    pub fn is(number: usize) -> bool {{
        let read = || a_std::env::var(\"{SWITCH}\").ok().and_then(|text| text.parse().ok());
        *ON.get_or_init(read) == Some(number)
    }}
}}
"
    )
}

/// Writes a file unless it is so already: what is older than its build is not built again.
fn write_if_other(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, content).with_context(|| path.display().to_string())
}
