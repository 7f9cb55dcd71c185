//! TLS of a standby's connection, as the data plane needs it: bytes in, records out, and back.
//!
//! Not here: how they are encrypted, keys, handshakes (the daemon's `net::tls`); when (`serve::walsender`).

use std::any::Any;
use std::fmt;
use std::io;

/// The most bytes one record may carry. PostgreSQL knows this as OpenSSL's `SSL3_RT_MAX_PLAIN_LENGTH`.
pub const RECORD_BYTES_MAX: usize = 16 << 10;
/// The most bytes a record is longer than what it carries.
const RECORD_OVERHEAD_MAX: usize = 64;
/// The most bytes that the connection may have to say for itself, between two records.
const OWN_WORDS_MAX: usize = 1 << 10;

/// The most bytes that the records have which carry so many bytes in so many pieces.
#[must_use]
pub const fn sealed_len_max(plain_len: usize, pieces: usize) -> usize {
    // A piece may begin a record.
    let records = plain_len / RECORD_BYTES_MAX + 1 + pieces;
    plain_len + records * RECORD_OVERHEAD_MAX + OWN_WORDS_MAX
}

/// The keys of one TLS connection whose handshake is done, and how far it is in both directions.
///
/// What was encrypted must be sent, in the order of the calls, or the connection is lost.
pub trait TlsRecords: Any + Send + fmt::Debug {
    /// Encrypts all pieces into `room`, in front of which it puts what the connection has to say for itself,
    /// and gives the length. The room is at least [`sealed_len_max`].
    ///
    /// # Errors
    /// When the connection is at its end.
    fn seal(&mut self, pieces: &[&[u8]], room: &mut [u8]) -> io::Result<usize>;

    /// Takes what was received, and appends what is in the whole records of it to `plain`. What is no whole record
    /// is kept.
    ///
    /// # Errors
    /// When it is not what the peer has sent, or no TLS: nothing can be received any more.
    fn open(&mut self, received: &mut [u8], plain: &mut Vec<u8>) -> io::Result<()>;

    /// Whether the peer has said that it sends no more.
    fn is_closed_by_peer(&self) -> bool;

    /// Whether the connection has something to say for itself: [`TlsRecords::seal`] nothing, then.
    fn has_words(&self) -> bool;

    /// From now on it has: that we send no more.
    fn close(&mut self);
}
