//! `walhub demo`: the main job on this machine, as a new user sees it first.
//!
//! [`embedded`] runs a source and standbys inside this process around a hub that is a process of its
//! own; [`postgres`] does the same with PostgreSQL on both sides. In both the hub is killed and
//! started again in the middle, and everything that arrived is compared with what was sent.
//!
//! [`hub`] is the process between the two sides, [`screen`] is what the user sees, [`workdir`]
//! chooses where files go and [`leftovers`] sees to it that none stays.
//!
//! Not here: the source, the standbys and the launchers, which tests and benchmarks use too
//! (`walhub-peers`).

mod embedded;
mod hub;
mod leftovers;
mod postgres;
mod screen;
mod workdir;

use std::process::ExitCode;

use crate::settings::definition::Unit;
use crate::settings::value::parse_int;

/// What `walhub demo` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// How much WAL to ship, as "512MB" or "4GB" [default: 2GB; with --postgres, about 512MB].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub size: Option<u64>,
    /// How many standbys to attach; with --postgres it is one.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub standbys: u16,
    /// Use a PostgreSQL primary and standby instead of the embedded ones.
    #[arg(long)]
    pub postgres: bool,
    /// Keep the files, and say where they are.
    #[arg(long)]
    pub keep: bool,
}

/// Runs the demo.
///
/// # Errors
/// What keeps it from its end.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    leftovers::watch(args.keep)?;
    let result = if args.postgres { postgres::run(args) } else { embedded::run(args) };
    drop(leftovers::clean_up());
    result
}

/// Reads a size in bytes by PostgreSQL's grammar; a bare number is megabytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let megabytes = parse_int(text, Some(Unit::Megabytes))
        .map_err(|objection| objection.hint.unwrap_or_else(|| "not a size".to_owned()))?;
    match u64::try_from(megabytes) {
        Ok(megabytes) if megabytes > 0 => Ok(megabytes << 20),
        _ => Err("a size must be at least 1MB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_in_megabytes_unless_it_says_otherwise() {
        assert_eq!(parse_size("1.5GB"), Ok(1536 << 20));
        assert_eq!(parse_size("3"), Ok(3 << 20));
        assert!(parse_size("0").is_err());
        assert!(parse_size("2gb").unwrap_err().contains("\"GB\""));
    }
}
