//! The programs that are measured: walhub and its peers.

pub mod client;
pub mod fio;
pub mod iperf;
pub mod pgbench;
pub mod postgres;
pub mod program;
pub mod walhub;

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::Result;

/// A port that nobody uses now.
///
/// # Errors
/// When the kernel has none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Lets PostgreSQL use the file or directory when the harness is root.
///
/// # Errors
/// When chown fails, or there is no user postgres.
pub fn give_to_postgres(path: &Path) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        program::run(std::process::Command::new("chown").arg("postgres:").arg(path))?;
    }
    Ok(())
}
