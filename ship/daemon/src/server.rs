//! One run of a server.

use std::process::ExitCode;

use crate::datadir::DataDir;
use crate::settings::{Reloader, Settings};

/// What a server starts with.
#[derive(Debug)]
pub struct ServeConfig {
    /// The data directory, locked until this is dropped: drop it last.
    pub data_dir: DataDir,
    /// The settings at start.
    pub settings: Settings,
    /// Reads them again.
    pub reloader: Reloader,
}

/// Serves until a signal stops the server.
///
/// # Errors
/// What ends the server early.
pub fn run(_: ServeConfig) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not wired")
}
