//! `walhub demo`: the main job on embedded defaults.

use std::process::ExitCode;

/// What `walhub demo` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// How much WAL to ship, as "512MB" or "4GB".
    #[arg(long, value_name = "SIZE", default_value = "2GB", value_parser = crate::cli::parse_size)]
    pub size: u64,
    /// How many standbys to attach.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub standbys: u16,
    /// Use a PostgreSQL primary and standby instead of the embedded ones.
    #[arg(long)]
    pub postgres: bool,
    /// Keep the files.
    #[arg(long)]
    pub keep: bool,
}

/// Runs the demo.
///
/// # Errors
/// What keeps it from its end.
pub fn run(_: &DemoArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not wired")
}
