//! How a connection comes to be encrypted, before it has said who it is.
//!
//! PostgreSQL: `ProcessSSLStartup`, `ProcessStartupPacket` (src/backend/tcop/backend_startup.c).

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use super::{Ended, FIRST_PACKET_BYTES_MAX, Services};
use crate::backend::SslStatus;
use crate::net::stream::Connection;
use crate::net::tls::accept::NoTls;
use crate::net::tls::{Acceptor, TlsFacts};

/// The first byte of a TLS handshake. A startup packet that began with it would have hundreds of megabytes.
const TLS_HANDSHAKE: u8 = 0x16;

/// What this connection can be encrypted with. PostgreSQL: no SSL when disabled or on Unix sockets.
fn acceptor(connection: &Connection, services: &Services) -> Option<Arc<Acceptor>> {
    let acceptor = services.guard.tls.borrow().clone();
    acceptor.filter(|_| connection.tls.is_none() && connection.stream.tcp_socket().is_some())
}

/// Looks whether the client begins with TLS and without a word before, as `sslnegotiation=direct` has it.
pub(super) async fn begin_direct_tls(
    connection: &mut Connection,
    services: &Services,
) -> Result<(), Ended> {
    if connection.read.is_empty() && !connection.fill_within(FIRST_PACKET_BYTES_MAX).await? {
        return Err(Ended::Quietly);
    }
    if connection.read.first() != Some(&TLS_HANDSHAKE) {
        return Ok(());
    }
    let Some(acceptor) = acceptor(connection, services) else { return Err(Ended::Quietly) };
    let early = std::mem::take(&mut connection.read);
    let has_alpn = connection.begin_tls(&acceptor, early).await.map_err(no_tls)?;
    if has_alpn {
        return Ok(());
    }
    let message =
        "received direct SSL connection request without ALPN protocol negotiation extension";
    tracing::info!(sqlstate = SqlState::PROTOCOL_VIOLATION.0, "{message}");
    connection.stream.shutdown().await.ok();
    Err(Ended::Quietly)
}

/// Whether the connection is encrypted now.
pub(super) async fn answer_ssl_request(
    connection: &mut Connection,
    services: &Services,
) -> Result<bool, Ended> {
    let Some(acceptor) = acceptor(connection, services) else {
        return decline_encryption(connection, "SSL request").await.map(|()| false);
    };
    connection.stream.write_all(b"S").await?;
    // What came before the handshake was not encrypted, whoever has sent it.
    let is_injected = !connection.read.is_empty();
    connection.begin_tls(&acceptor, Vec::new()).await.map_err(no_tls)?;
    if is_injected { Err(unencrypted_data("SSL request")) } else { Ok(true) }
}

pub(super) async fn decline_encryption(
    connection: &mut Connection,
    what: &str,
) -> Result<(), Ended> {
    connection.stream.write_all(b"N").await?;
    connection.stream.flush().await?;
    if connection.read.is_empty() { Ok(()) } else { Err(unencrypted_data(what)) }
}

fn unencrypted_data(what: &str) -> Ended {
    let message = format!("received unencrypted data after {what}");
    Ended::Fatal(Report::fatal(SqlState::PROTOCOL_VIOLATION, message).detail(
        "This could be either a client-software bug or evidence of an attempted \
         man-in-the-middle attack.",
    ))
}

/// Nobody can be told but by an alert, and that was sent. PostgreSQL: `be_tls_open_server`.
fn no_tls(why: NoTls) -> Ended {
    let why = match why {
        NoTls::Left => "EOF detected".to_owned(),
        NoTls::Refused(why) => why,
    };
    tracing::info!(
        sqlstate = SqlState::PROTOCOL_VIOLATION.0,
        "could not accept SSL connection: {why}"
    );
    Ended::Quietly
}

/// As `pg_stat_ssl` shows it.
pub(super) fn ssl_status(facts: &TlsFacts) -> SslStatus {
    SslStatus {
        version: facts.version,
        cipher: facts.cipher,
        bits: facts.bits,
        client_dn: facts.client_subject.clone(),
        client_serial: facts.client_serial.clone(),
        issuer_dn: facts.issuer_dn.clone(),
    }
}
