//! A downstream socket, TCP, TLS or unix, and the two buffers of its conversation.
//!
//! A socket leaves tokio as a file descriptor when a ship core takes it over, with the keys of its TLS if it has any,
//! and comes back as one when the stream has ended.

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use walhub_hub::api::tls::TlsRecords;
use walhub_proto::wire::backend::{Encoder, Report};

use super::tls::accept::{Accepted, NoTls, accept};
use super::tls::stream::{ServerRecords, Tls};
use super::tls::{Acceptor, TlsFacts};

/// Bytes that a read makes room for.
const READ_BYTES: usize = 8 * 1024;

/// Of a connection that may yet turn out to be nobody's.
const SMALL_READ_BYTES: usize = 1024;

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connected socket, encrypted or not.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    tls: Option<Box<Tls>>,
}

/// Which kind of socket a descriptor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StreamKind {
    Tcp,
    Unix,
}

/// A socket that has left tokio.
#[derive(Debug)]
pub(crate) struct Detached {
    /// In blocking mode: the rings of the ship cores wait for it themselves.
    pub(crate) fd: OwnedFd,
    pub(crate) kind: StreamKind,
    /// What encrypts on it.
    pub(crate) tls: Option<Box<dyn TlsRecords>>,
    /// What was decrypted and not taken.
    pub(crate) unread: Vec<u8>,
}

impl Stream {
    /// One over TCP.
    pub(crate) const fn tcp(socket: TcpStream) -> Self {
        Self { socket: Socket::Tcp(socket), tls: None }
    }

    /// A Unix socket.
    pub(crate) const fn unix(socket: UnixStream) -> Self {
        Self { socket: Socket::Unix(socket), tls: None }
    }

    /// The TCP socket; `None` when it is a Unix socket.
    pub(crate) const fn tcp_socket(&self) -> Option<&TcpStream> {
        match &self.socket {
            Socket::Tcp(socket) => Some(socket),
            Socket::Unix(_) => None,
        }
    }

    /// The Unix socket; `None` when it is one of TCP.
    pub(crate) const fn unix_socket(&self) -> Option<&UnixStream> {
        match &self.socket {
            Socket::Unix(socket) => Some(socket),
            Socket::Tcp(_) => None,
        }
    }

    /// Takes it out of tokio.
    pub(crate) fn detach(self) -> io::Result<Detached> {
        let (fd, kind): (OwnedFd, _) = match self.socket {
            Socket::Tcp(socket) => {
                let socket = socket.into_std()?;
                socket.set_nonblocking(false)?;
                (socket.into(), StreamKind::Tcp)
            }
            Socket::Unix(socket) => {
                let socket = socket.into_std()?;
                socket.set_nonblocking(false)?;
                (socket.into(), StreamKind::Unix)
            }
        };
        let Some(tls) = self.tls else {
            return Ok(Detached { fd, kind, tls: None, unread: Vec::new() });
        };
        let (records, unread) = tls.into_parts();
        Ok(Detached { fd, kind, tls: Some(Box::new(records)), unread })
    }

    /// Takes a socket back, with the records that encrypt on it.
    pub(crate) fn attach(
        fd: OwnedFd,
        kind: StreamKind,
        tls: Option<Box<dyn TlsRecords>>,
    ) -> io::Result<Self> {
        let socket = match kind {
            StreamKind::Tcp => {
                let socket = std::net::TcpStream::from(fd);
                socket.set_nonblocking(true)?;
                Socket::Tcp(TcpStream::from_std(socket)?)
            }
            StreamKind::Unix => {
                let socket = std::os::unix::net::UnixStream::from(fd);
                socket.set_nonblocking(true)?;
                Socket::Unix(UnixStream::from_std(socket)?)
            }
        };
        let Some(tls) = tls else { return Ok(Self { socket, tls: None }) };
        // The hub gives back what it was given.
        let tls: Box<dyn Any> = tls;
        let records = tls.downcast::<ServerRecords>().map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Self { socket, tls: Some(Box::new(Tls::new(*records, Vec::new()))) })
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.socket {
            Socket::Tcp(socket) => socket.try_write(bytes),
            Socket::Unix(socket) => socket.try_write(bytes),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(context, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(context, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Unix(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(context),
            Self::Unix(socket) => Pin::new(socket).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { socket, tls } = self.get_mut();
        match tls {
            Some(tls) => tls.poll_read(socket, context, buf),
            None => Pin::new(socket).poll_read(context, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { socket, tls } = self.get_mut();
        match tls {
            Some(tls) => tls.poll_write(socket, context, bytes),
            None => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, tls } = self.get_mut();
        match tls {
            Some(tls) => tls.poll_flush(socket, context),
            None => Pin::new(socket).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, tls } = self.get_mut();
        match tls {
            Some(tls) => tls.poll_shutdown(socket, context),
            None => Pin::new(socket).poll_shutdown(context),
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
    is_handshaking: bool,
}

impl Connection {
    pub(crate) const fn new(stream: Stream, read: Vec<u8>) -> Self {
        Self { stream, read, out: Encoder::new(), tls: None, is_handshaking: false }
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
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await
    }

    /// Says a last word without waiting: a fresh socket has room for it, or it is lost. In the middle of a handshake
    /// nothing can be said.
    pub(crate) fn refuse_at_once(&mut self, report: &Report) {
        if self.is_handshaking {
            return;
        }
        self.out.report(report);
        let bytes = self.out.take();
        let words = match &mut self.stream.tls {
            Some(tls) => tls.last_words(&bytes).map(<[u8]>::to_vec),
            None => Ok(bytes),
        };
        words.and_then(|words| self.stream.try_write(&words)).ok();
    }

    /// Makes TLS of a plain stream; `early` was read of it already. Whether the client has named PostgreSQL's protocol.
    pub(super) async fn begin_tls(
        &mut self,
        acceptor: &Acceptor,
        early: Vec<u8>,
    ) -> Result<bool, NoTls> {
        self.is_handshaking = true;
        let Accepted { tls, facts, has_alpn } =
            accept(acceptor, &mut self.stream.socket, early).await?;
        self.stream.tls = Some(Box::new(tls));
        self.tls = Some(Arc::new(facts));
        self.is_handshaking = false;
        Ok(has_alpn)
    }

    /// Says a last word and closes the sending side. A client that is gone does not hear it.
    pub(crate) async fn farewell(&mut self, report: &Report) {
        self.out.report(report);
        if self.flush().await.is_ok() {
            self.stream.shutdown().await.ok();
        }
    }
}
