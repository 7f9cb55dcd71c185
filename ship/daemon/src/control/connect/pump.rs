//! Carries bytes between a TLS session and a plain socket that a ring can read.
//!
//! rustls wants `AsyncRead`, the data plane wants a descriptor: a socketpair joins them, at the
//! price of one more copy on encrypted connections.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net;

use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// Bytes held on the way from the upstream: WAL comes this way.
const TOWARDS_HUB_BYTES: usize = 256 << 10;
/// Bytes held on the way to the upstream: replies go this way.
const TOWARDS_UPSTREAM_BYTES: usize = 64 << 10;

/// Starts the pump on the current `LocalSet`, and returns the plain end in blocking mode.
pub(super) fn start(mut tls: TlsStream<TcpStream>, upstream: String) -> io::Result<OwnedFd> {
    let (ours, theirs) = net::UnixStream::pair()?;
    for end in [&ours, &theirs] {
        SockRef::from(end).set_send_buffer_size(TOWARDS_HUB_BYTES)?;
    }
    ours.set_nonblocking(true)?;
    let mut plain = UnixStream::from_std(ours)?;
    tokio::task::spawn_local(async move {
        // The end of one direction is passed on while the other still runs: CopyDone may be
        // followed by more in the other direction.
        let result = tokio::io::copy_bidirectional_with_sizes(
            &mut tls,
            &mut plain,
            TOWARDS_HUB_BYTES,
            TOWARDS_UPSTREAM_BYTES,
        )
        .await;
        match result {
            Ok(_) => {}
            // The data plane closed its end first: it has already said why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            // PostgreSQL does not send close_notify when it dies.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                tracing::info!("SSL connection to {upstream} has been closed unexpectedly");
            }
            Err(error) => tracing::warn!("SSL error on connection to {upstream}: {error}"),
        }
    });
    Ok(theirs.into())
}
