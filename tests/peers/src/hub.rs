//! walhub itself, started as a user would start it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::endpoint::Endpoint;

/// The walhub program: `WALHUB_BIN`, else the one of the cargo profile that this program was built
/// in, built by cargo if that started this program.
///
/// # Errors
/// When it is not there or does not build.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WALHUB_BIN").map(PathBuf::from) {
        // Programs are started in other directories.
        return fs::canonicalize(&path).with_context(|| format!("WALHUB_BIN: {}", path.display()));
    }
    let own = std::env::current_exe()?;
    // A test's executable lies one directory deeper.
    let profile = own.ancestors().find(|dir| dir.ends_with("release") || dir.ends_with("debug"));
    let profile = profile.context("not started from cargo's target directory: set WALHUB_BIN")?;
    let path = profile.join("walhub");
    // What is run is what the sources say.
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "walhub", "--bin", "walhub", "--target-dir"]);
        build.arg(profile.parent().context("a target directory")?);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status()?;
        anyhow::ensure!(status.success(), "{build:?}: {status}");
    }
    if !path.is_file() {
        bail!(
            "{} is not there: build it with cargo build -p walhub, or set WALHUB_BIN",
            path.display()
        );
    }
    Ok(path)
}

/// How `walhub serve` is to run.
#[derive(Clone, Debug)]
pub struct Serve {
    /// Its data directory.
    pub data: PathBuf,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Connection string of its upstream; without one it writes WAL of its own.
    pub upstream: Option<String>,
    /// `--config`.
    pub config_file: Option<PathBuf>,
    /// Settings, as `name=value`; the last one of a name wins.
    pub settings: Vec<String>,
}

impl Serve {
    /// A server of its own WAL, with nothing set.
    #[must_use]
    pub fn new(data: &Path, endpoint: Endpoint) -> Self {
        let data = data.to_owned();
        Self { data, endpoint, upstream: None, config_file: None, settings: Vec::new() }
    }

    /// Its arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let Endpoint { host, port } = self.endpoint;
        let mut arguments: Vec<OsString> = vec!["serve".into(), "-D".into(), (&self.data).into()];
        arguments.extend(["--listen".into(), format!("{host}:{port}").into()]);
        if let Some(upstream) = &self.upstream {
            arguments.extend(["--upstream".into(), upstream.into()]);
        }
        if let Some(file) = &self.config_file {
            arguments.extend(["--config".into(), file.into()]);
        }
        for setting in &self.settings {
            arguments.extend(["-c".into(), setting.into()]);
        }
        arguments
    }
}
