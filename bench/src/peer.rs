//! The programs that are measured: walhub and its peers.

pub mod fio;
pub mod iperf;
pub mod pgbench;
pub mod postgres;
pub mod program;
pub mod walhub;

use std::net::Ipv4Addr;

use anyhow::Result;
use walhub_peers::endpoint::Endpoint;

/// A port that no program uses now.
///
/// # Errors
/// When the kernel has none.
pub fn free_port() -> Result<u16> {
    Ok(Endpoint::free(Ipv4Addr::LOCALHOST)?.port)
}
