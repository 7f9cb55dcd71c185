//! Carries bytes between a TLS session and a plain socket that a ring can read.
//!
//! rustls wants `AsyncRead`, the data plane wants a descriptor: a socketpair joins them, at the
//! price of one more copy on encrypted connections.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf};
use tokio::net::UnixStream;

/// Bytes held on the way from the upstream: WAL comes this way.
const TOWARDS_HUB_BYTES: usize = 256 << 10;
/// Bytes held on the way to the upstream: replies go this way.
const TOWARDS_UPSTREAM_BYTES: usize = 64 << 10;
/// How long an upstream may read nothing before it is given up: the data plane, which is told of no progress,
/// may have left long ago.
const SEND_PATIENCE: Duration = Duration::from_secs(300);
/// How long an upstream that we leave has to take the last of what it is told. It may be one that reads
/// nothing any more, and says nothing.
const FAREWELL: Duration = Duration::from_secs(5);

/// Starts the pump on the current `LocalSet`, and returns the plain end in blocking mode.
pub(super) fn start(
    tls: impl AsyncRead + AsyncWrite + Unpin + 'static,
    upstream: String,
) -> io::Result<OwnedFd> {
    let (ours, theirs) = net::UnixStream::pair()?;
    for end in [&ours, &theirs] {
        SockRef::from(end).set_send_buffer_size(TOWARDS_HUB_BYTES)?;
    }
    ours.set_nonblocking(true)?;
    let plain = UnixStream::from_std(ours)?;
    tokio::task::spawn_local(async move {
        match run(tls, plain).await {
            Ok(()) => {}
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

/// Ends once the data plane has closed its end: it closes both directions at once, and then nobody is there
/// to wait for the upstream. Until then the end of what the upstream sends is passed on, and what is said to
/// it still goes out.
async fn run(tls: impl AsyncRead + AsyncWrite + Unpin, mut plain: UnixStream) -> io::Result<()> {
    let (from_upstream, mut to_upstream) = tokio::io::split(tls);
    let (from_hub, mut to_hub) = plain.split();
    let mut from_upstream = BufReader::with_capacity(TOWARDS_HUB_BYTES, from_upstream);
    let mut from_hub = BufReader::with_capacity(TOWARDS_UPSTREAM_BYTES, from_hub);
    let inward = async {
        copy_buf(&mut from_upstream, &mut to_hub).await?;
        to_hub.shutdown().await
    };
    let outward = async {
        loop {
            let bytes = from_hub.fill_buf().await?;
            let count = bytes.len();
            if count == 0 {
                // After the time has passed it is closed all the same.
                let farewell = tokio::time::timeout(FAREWELL, to_upstream.shutdown()).await;
                return farewell.unwrap_or(Ok(()));
            }
            let sent = async {
                to_upstream.write_all(bytes).await?;
                to_upstream.flush().await
            };
            tokio::time::timeout(SEND_PATIENCE, sent).await??;
            from_hub.consume(count);
        }
    };
    tokio::pin!(inward, outward);
    tokio::select! {
        ended = &mut inward => {
            ended?;
            outward.await
        }
        ended = &mut outward => ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use tokio::io::AsyncReadExt;
    use tokio::task::LocalSet;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, future)
    }

    #[test]
    fn an_upstream_that_says_nothing_is_let_go_once_the_data_plane_has_closed() {
        block_on(async {
            let (tls, mut upstream) = tokio::io::duplex(1 << 10);
            let plain = start(tls, "test".to_owned()).unwrap();
            let mut plain = net::UnixStream::from(plain);
            plain.write_all(b"farewell").unwrap();
            drop(plain);
            let mut said = Vec::new();
            // Ends only because the pump has let go of its end.
            upstream.read_to_end(&mut said).await.unwrap();
            assert_eq!(said, b"farewell");
        });
    }

    #[test]
    fn what_comes_is_passed_on_to_its_end() {
        block_on(async {
            let (tls, mut upstream) = tokio::io::duplex(1 << 10);
            let plain = start(tls, "test".to_owned()).unwrap();
            let mut plain = net::UnixStream::from(plain);
            let reader = tokio::task::spawn_blocking(move || {
                let mut got = Vec::new();
                plain.read_to_end(&mut got).unwrap();
                // Our direction is still open.
                plain.write_all(b"late").unwrap();
                got
            });
            upstream.write_all(&[7; 100_000]).await.unwrap();
            upstream.shutdown().await.unwrap();
            let mut said = Vec::new();
            upstream.read_to_end(&mut said).await.unwrap();
            assert_eq!(reader.await.unwrap(), [7; 100_000]);
            assert_eq!(said, b"late");
        });
    }
}
