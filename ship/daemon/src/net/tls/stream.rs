//! How the control plane speaks TLS through a socket.
//!
//! Memory is held only while something is on its way: bytes that were received and not taken yet, records that the
//! socket has not taken yet.
//!
//! Not here: the records (`records`).

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::server::UnbufferedServerConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use walhub_hub::api::tls::{RECORD_BYTES_MAX, sealed_len_max};

use super::records::{Records, Unbuffered};

/// What is read of a socket at a time.
const READ_BYTES: usize = 16 << 10;
/// What is encrypted of a write at a time.
const WRITE_BYTES_MAX: usize = 4 * RECORD_BYTES_MAX;

/// The server's side of a connection.
pub(in crate::net) type ServerRecords = Records<UnbufferedServerConnection>;

/// The TLS on a socket.
pub(in crate::net) struct Tls<C = UnbufferedServerConnection> {
    records: Records<C>,
    /// Decrypted, and not taken yet.
    plain: Vec<u8>,
}

impl<C> fmt::Debug for Tls<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Tls");
        debug.field("records", &self.records).field("plain", &self.plain.len()).finish()
    }
}

impl<C: Unbuffered> Tls<C> {
    /// Of a connection whose handshake is done, and what was decrypted already.
    pub(in crate::net) const fn new(records: Records<C>, plain: Vec<u8>) -> Self {
        Self { records, plain }
    }

    /// The records, and what was decrypted and not taken yet.
    pub(in crate::net) fn into_parts(self) -> (Records<C>, Vec<u8>) {
        (self.records, self.plain)
    }

    /// The last words, encrypted: nothing can be said after them.
    pub(in crate::net) fn last_words(&mut self, bytes: &[u8]) -> io::Result<&[u8]> {
        self.encrypt(bytes)?;
        self.records.close();
        Ok(self.records.outgoing())
    }

    fn encrypt(&mut self, bytes: &[u8]) -> io::Result<()> {
        let own = self.records.outgoing().len();
        let mut room = vec![0; own + sealed_len_max(bytes.len(), 1)];
        let len = self.records.seal(&[bytes], &mut room)?;
        room.truncate(len);
        // It begins with what was there.
        *self.records.outgoing() = room;
        Ok(())
    }

    fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.records.outgoing().is_empty() {
            let outgoing = self.records.outgoing();
            let count = ready!(Pin::new(&mut *socket).poll_write(context, outgoing))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if count == outgoing.len() {
                *outgoing = Vec::new();
            } else {
                outgoing.drain(..count);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Receives once; `false` at the end.
    fn poll_receive<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        let mut memory = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut received = ReadBuf::uninit(&mut memory);
        ready!(Pin::new(&mut *socket).poll_read(context, &mut received))?;
        // PostgreSQL, too, takes a connection that just ends for one that was ended.
        if received.filled().is_empty() {
            return Poll::Ready(Ok(false));
        }
        let opened = self.records.open(received.filled_mut(), &mut self.plain);
        if opened.is_err() {
            // The peer is told what is wrong with what it sent, if its socket takes it at once.
            let _ = self.poll_send(socket, context);
        }
        Poll::Ready(opened.map(|()| true))
    }

    /// Reads. Who waits for an answer waits for what was said to be heard, too: if the socket takes nothing, it wakes
    /// the reader.
    pub(in crate::net) fn poll_read<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_send(socket, context) {
            return Poll::Ready(Err(error));
        }
        while self.plain.is_empty() && !self.records.is_closed_by_peer() {
            if !ready!(self.poll_receive(socket, context))? {
                return Poll::Ready(Ok(()));
            }
        }
        let count = self.plain.len().min(buf.remaining());
        buf.put_slice(&self.plain[..count]);
        if count == self.plain.len() {
            self.plain = Vec::new();
        } else {
            self.plain.drain(..count);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes bytes once all that was written before is with the kernel. What it took may wait here until it is flushed,
    /// or something is read.
    pub(in crate::net) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(socket, context))?;
        let count = bytes.len().min(WRITE_BYTES_MAX);
        self.encrypt(&bytes[..count])?;
        if let Poll::Ready(Err(error)) = self.poll_send(socket, context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(count))
    }

    /// Waits until all that was written is with the kernel.
    pub(in crate::net) fn poll_flush<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_send(socket, context)
    }

    /// Says that nothing more comes. PostgreSQL: `be_tls_close`.
    pub(in crate::net) fn poll_shutdown<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.records.close();
        ready!(self.poll_send(socket, context))?;
        Pin::new(socket).poll_shutdown(context)
    }
}
