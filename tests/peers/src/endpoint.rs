//! Where a server listens.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::{Mutex, PoisonError};

/// An address and a port of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Address.
    pub host: Ipv4Addr,
    /// Port.
    pub port: u16,
}

impl From<u16> for Endpoint {
    /// A port on loopback.
    fn from(port: u16) -> Self {
        Self { host: Ipv4Addr::LOCALHOST, port }
    }
}

impl From<Endpoint> for SocketAddrV4 {
    fn from(Endpoint { host, port }: Endpoint) -> Self {
        Self::new(host, port)
    }
}

impl Endpoint {
    /// A port of `host` that nobody has, and that this process is given once.
    ///
    /// # Errors
    /// When the kernel has none.
    pub fn free(host: Ipv4Addr) -> io::Result<Self> {
        static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
        loop {
            let port = TcpListener::bind((host, 0))?.local_addr()?.port();
            if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
                return Ok(Self { host, port });
            }
        }
    }

    /// A connection string for replication, with an application name.
    #[must_use]
    pub fn conninfo(&self, application_name: &str) -> String {
        let Self { host, port } = self;
        format!("host={host} port={port} user=postgres application_name={application_name}")
    }

    /// A connection string for SQL.
    #[must_use]
    pub fn database(&self) -> String {
        let Self { host, port } = self;
        format!("host={host} port={port} user=postgres dbname=postgres")
    }
}
