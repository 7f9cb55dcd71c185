//! A downstream socket, TCP or unix, and the two buffers of its conversation.
//!
//! A socket leaves tokio as a file descriptor when a ship core takes it over, and comes back as
//! one when the stream has ended.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use walhub_proto::wire::backend::{Encoder, Report};

use super::tls::TlsFacts;

/// Bytes that a read makes room for.
const READ_BYTES: usize = 8 * 1024;

/// Of a connection that may yet turn out to be nobody's.
const SMALL_READ_BYTES: usize = 1024;

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// One over TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

/// Which kind of [`Stream`] a descriptor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StreamKind {
    Tcp,
    Unix,
}

impl Stream {
    pub(crate) const fn kind(&self) -> StreamKind {
        match self {
            Self::Tcp(_) => StreamKind::Tcp,
            Self::Unix(_) => StreamKind::Unix,
        }
    }

    /// The descriptor, in blocking mode: the rings of the ship cores wait for it themselves.
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(stream) => {
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                Ok(stream.into())
            }
            Self::Unix(stream) => {
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                Ok(stream.into())
            }
        }
    }

    pub(crate) fn from_fd(fd: OwnedFd, kind: StreamKind) -> io::Result<Self> {
        match kind {
            StreamKind::Tcp => {
                let stream = std::net::TcpStream::from(fd);
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream).map(Self::Tcp)
            }
            StreamKind::Unix => {
                let stream = std::os::unix::net::UnixStream::from(fd);
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(Self::Unix)
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// A socket with what was read and not yet understood, and what was said and not yet sent.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    pub(crate) read: Vec<u8>,
    pub(crate) out: Encoder,
    /// What TLS tells about it, if it is encrypted.
    pub(crate) tls: Option<Arc<TlsFacts>>,
}

impl Connection {
    pub(crate) const fn new(stream: Stream, read: Vec<u8>) -> Self {
        Self { stream, read, out: Encoder::new(), tls: None }
    }

    /// Reads what there is; `false` at the end. Dropping the future loses nothing.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        self.read.reserve(READ_BYTES);
        Ok(self.stream.read_buf(&mut self.read).await? > 0)
    }

    /// Reads what there is, up to `max` bytes with those that were read before; `false` at the end. Dropping the future
    /// loses nothing.
    pub(crate) async fn fill_within(&mut self, max: usize) -> io::Result<bool> {
        let room = max.saturating_sub(self.read.len());
        if self.read.len() == self.read.capacity() {
            self.read.reserve_exact(room.min(self.read.len().max(SMALL_READ_BYTES)));
        }
        let room = u64::try_from(room).unwrap_or(u64::MAX);
        Ok((&mut self.stream).take(room).read_buf(&mut self.read).await? > 0)
    }

    pub(crate) fn consume(&mut self, len: usize) {
        self.read.drain(..len);
    }

    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        let bytes = self.out.take();
        self.stream.write_all(&bytes).await
    }

    /// Says a last word without waiting: a fresh socket has room for it, or it is lost.
    pub(crate) fn refuse_at_once(&mut self, report: &Report) {
        self.out.report(report);
        let bytes = self.out.take();
        let sent = match &self.stream {
            Stream::Tcp(stream) => stream.try_write(&bytes),
            Stream::Unix(stream) => stream.try_write(&bytes),
        };
        sent.ok();
    }

    /// Says a last word and closes the sending side. A client that is gone does not hear it.
    pub(crate) async fn farewell(&mut self, report: &Report) {
        self.out.report(report);
        if self.flush().await.is_ok() {
            self.stream.shutdown().await.ok();
        }
    }
}
