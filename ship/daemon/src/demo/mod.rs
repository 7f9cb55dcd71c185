//! `walhub demo`: the main job on this machine, as a new user sees it first.
//!
//! [`embedded`] runs a source and standbys inside this process around a hub that is a process of its
//! own; [`postgres`] does the same with PostgreSQL on both sides. In both the hub is killed and
//! started again in the middle, and everything that arrived is compared with what was sent.
//!
//! [`wal`] is what the source sends, [`source`] and [`standby`] are the two ends of the protocol,
//! [`hub`] is the process between them, [`programs`] finds and runs PostgreSQL's, [`screen`] is what the user sees, [`workdir`] chooses where
//! files go and [`leftovers`] sees to it that none stays.

mod embedded;
mod hub;
mod leftovers;
mod postgres;
mod programs;
mod screen;
mod source;
mod standby;
mod wal;
mod workdir;

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;

use walhub_engine::clock;
use walhub_proto::time::{Instant, Now, Timestamp};

/// What `walhub demo` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// How much WAL to ship, as "512MB" or "4GB" [default: 2GB; with --postgres, about 512MB].
    #[arg(long, value_name = "SIZE", value_parser = crate::cli::parse_size)]
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
    leftovers::clean_up();
    result
}

/// Both clocks, now.
fn now() -> Now {
    Now {
        instant: Instant(clock::monotonic_ns()),
        wall: Timestamp::from_unix_micros(clock::unix_micros()),
    }
}

/// A port of this machine that nobody uses.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
