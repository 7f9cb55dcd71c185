//! TLS towards clients, and what TLS both ways has in common.
//!
//! `server` reads what connections are accepted with, `accept` does the handshake, `stream` is the connection
//! afterwards. The connection itself is in `records`, which goes to a ship core with its socket.
//!
//! Not here: TLS towards the upstream (`connect::tls`).
//!
//! PostgreSQL: src/backend/libpq/be-secure-openssl.c.

pub(super) mod accept;
pub(super) mod certificate;
mod ciphers;
mod facts;
mod key_file;
mod names;
mod records;
mod server;
pub(super) mod stream;

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::server::ProducesTickets;

pub(crate) use facts::TlsFacts;
pub(super) use records::Records;
pub(crate) use server::{Acceptor, When};

use crate::settings::files;
use crate::strerror::strerror;

/// Who computes.
pub(super) fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// Who seals tickets with which sessions are resumed.
fn ticketer() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    rustls::crypto::aws_lc_rs::Ticketer::new()
}

/// Every PEM section of one kind in a file.
pub(super) fn pem_file<T: PemObject>(file: &Path) -> Result<Vec<T>, String> {
    let pem = files::read(file).map_err(|error| strerror(&error))?;
    T::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

#[cfg(test)]
pub(super) use server::tests as test_files;
