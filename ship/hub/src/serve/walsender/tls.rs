//! How a session encrypts what it sends.
//!
//! A message is encrypted when its turn to be sent comes, a bounded piece at a time, from where its WAL is in memory into
//! a buffer that goes when it is sent: a standby that has everything holds no memory.
//!
//! Not here: keys and records (`crate::api::tls`).

use std::io;

use bytes::Bytes;
use smallvec::SmallVec;
use walhub_engine::buffer::BufferPool;
use walhub_engine::io::Head;

use super::Sending;
use crate::api::tls::{TlsRecords, sealed_len_max};
use crate::store::writer::drop_front;

/// What is encrypted for one send at most: a message of the default size with its header.
const PLAIN_BYTES_MAX: usize = (128 << 10) + (4 << 10);
/// Pieces of memory that such a message may be in.
const PIECES_MAX: usize = 16;
/// Bytes of a buffer for records.
pub const SEALED_BUFFER_LEN: usize = sealed_len_max(PLAIN_BYTES_MAX, PIECES_MAX);
/// Less is encrypted into memory of its own size.
const POOLED_LEN_MIN: usize = 16 << 10;

/// What came of bytes that were received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Open {
    /// More may come.
    More,
    /// The standby has said that it sends no more.
    Closed,
}

/// The TLS of one session.
#[derive(Debug)]
pub(super) struct Tls {
    records: Box<dyn TlsRecords>,
    closed: bool,
}

impl Tls {
    pub(super) fn new(records: Box<dyn TlsRecords>) -> Self {
        Self { records, closed: false }
    }

    pub(super) fn into_records(self) -> Box<dyn TlsRecords> {
        self.records
    }

    /// Whether the connection has something to say for itself.
    pub(super) fn has_words(&self) -> bool {
        self.records.has_words()
    }

    /// Has the connection say that nothing more comes. `false` when it has said so.
    pub(super) fn close(&mut self) -> bool {
        if std::mem::replace(&mut self.closed, true) {
            return false;
        }
        self.records.close();
        self.records.has_words()
    }

    /// Decrypts what was received.
    pub(super) fn open(&mut self, received: &mut [u8], plain: &mut Vec<u8>) -> io::Result<Open> {
        self.records.open(received, plain)?;
        Ok(if self.records.is_closed_by_peer() { Open::Closed } else { Open::More })
    }

    /// Encrypts the next piece of a message, unless one is on its way.
    pub(super) fn seal(&mut self, sending: &mut Sending, pool: &BufferPool) -> io::Result<()> {
        if !sending.sealed.is_empty() {
            return Ok(());
        }
        let len = sending.rest.min(PLAIN_BYTES_MAX);
        let head = sending.head;
        let of_head = head.as_slice().len();
        let mut pieces: SmallVec<[&[u8]; PIECES_MAX]> = SmallVec::new();
        let mut left = len;
        for piece in std::iter::once(head.as_slice()).chain(sending.body.iter().map(Bytes::as_ref))
        {
            let piece = piece.get(..left.min(piece.len())).unwrap_or_default();
            left -= piece.len();
            if !piece.is_empty() {
                pieces.push(piece);
            }
        }
        sending.sealed = self.seal_pieces(&pieces, sealed_len_max(len, pieces.len()), pool)?;
        drop(pieces);
        let whole_head = len >= of_head;
        assert!(whole_head, "a header is longer than what is sent at a time");
        sending.head = Head::new(&[]);
        drop_front(&mut sending.body, len - of_head);
        sending.rest -= len;
        Ok(())
    }

    fn seal_pieces(
        &mut self,
        pieces: &[&[u8]],
        room: usize,
        pool: &BufferPool,
    ) -> io::Result<Bytes> {
        let pooled = (POOLED_LEN_MIN..=pool.capacity_each()).contains(&room);
        if let Some(mut buffer) = pooled.then(|| pool.take()).flatten() {
            buffer.append_with(|room| self.records.seal(pieces, room))?;
            return Ok(buffer.freeze());
        }
        let mut sealed = vec![0; room];
        let len = self.records.seal(pieces, &mut sealed)?;
        sealed.truncate(len);
        Ok(Bytes::from(sealed))
    }
}
