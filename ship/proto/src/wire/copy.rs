//! Messages inside the CopyBoth stream of physical replication.
//!
//! The encoders wrap each message in its CopyData frame; the decoders take the body of that
//! frame, as PostgreSQL does: bytes after the last known field are ignored, so that a later
//! release may add fields.
//!
//! Not here: when to send which (`walsender`, `walreceiver`).
//!
//! PostgreSQL: documentation "Streaming Replication Protocol"; `XLogSendPhysical`,
//! `ProcessStandbyMessage` (walsender.c), `XLogWalRcvProcessMsg` (walreceiver.c).

use crate::lsn::Lsn;
use crate::time::Timestamp;
use crate::wire::reader::{FRAME_HEADER_LEN, Malformed, Reader};

/// Type byte of a CopyData frame.
pub const COPY_DATA: u8 = b'd';
/// Type byte of a CopyDone frame.
pub const COPY_DONE: u8 = b'c';

/// Type byte, start, end and send time of an XLogData message.
pub const XLOGDATA_FIELDS_LEN: usize = 1 + 8 + 8 + 8;
/// Everything before the WAL in an XLogData message, its CopyData frame included.
pub const XLOGDATA_HEADER_LEN: usize = FRAME_HEADER_LEN + XLOGDATA_FIELDS_LEN;
/// Body of a PrimaryKeepalive.
pub const KEEPALIVE_FIELDS_LEN: usize = 1 + 8 + 8 + 1;
/// A PrimaryKeepalive with its frame.
pub const KEEPALIVE_LEN: usize = FRAME_HEADER_LEN + KEEPALIVE_FIELDS_LEN;
/// Body of a StandbyStatusUpdate.
pub const STATUS_FIELDS_LEN: usize = 1 + 8 + 8 + 8 + 8 + 1;
/// A StandbyStatusUpdate with its frame.
pub const STATUS_LEN: usize = FRAME_HEADER_LEN + STATUS_FIELDS_LEN;
/// Body of a HotStandbyFeedback.
pub const FEEDBACK_FIELDS_LEN: usize = 1 + 8 + 4 + 4 + 4 + 4;
/// A HotStandbyFeedback with its frame.
pub const FEEDBACK_LEN: usize = FRAME_HEADER_LEN + FEEDBACK_FIELDS_LEN;

const _: () = assert!(XLOGDATA_HEADER_LEN == 30);
const _: () = assert!(KEEPALIVE_LEN == 23);
const _: () = assert!(STATUS_LEN == 39);
const _: () = assert!(FEEDBACK_LEN == 30);

/// The CopyDone message, from either side.
pub const COPY_DONE_MESSAGE: [u8; FRAME_HEADER_LEN] = [COPY_DONE, 0, 0, 0, 4];

/// The Terminate message of a frontend.
pub const TERMINATE_MESSAGE: [u8; FRAME_HEADER_LEN] = [b'X', 0, 0, 0, 4];

/// Fills an array from the front; what is left of it stays zero.
struct Writer<const N: usize> {
    buf: [u8; N],
    len: usize,
}

impl<const N: usize> Writer<N> {
    /// Starts a CopyData frame of `frame_len` bytes whose body begins with `kind`.
    fn copy_data(frame_len: usize, kind: u8) -> Self {
        // The length word counts itself and not the type byte.
        let length = u32::try_from(frame_len - 1).unwrap_or(u32::MAX);
        let writer = Self { buf: [0; N], len: 0 };
        writer.put(&[COPY_DATA]).put(&length.to_be_bytes()).put(&[kind])
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        let end = self.len + bytes.len();
        if let Some(slot) = self.buf.get_mut(self.len..end) {
            slot.copy_from_slice(bytes);
        }
        self.len = end;
        self
    }

    fn lsn(self, lsn: Lsn) -> Self {
        self.put(&lsn.0.to_be_bytes())
    }

    fn time(self, time: Timestamp) -> Self {
        self.put(&time.0.to_be_bytes())
    }

    fn finish(self) -> [u8; N] {
        assert!(self.len == N, "a message of {} bytes in {N}", self.len);
        self.buf
    }
}

/// What comes before the WAL in an XLogData message, `w`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XLogData {
    /// Position of the first byte of WAL that follows.
    pub start: Lsn,
    /// End of WAL on the sender.
    pub end: Lsn,
    /// When it was sent.
    pub sent: Timestamp,
}

impl XLogData {
    /// Type byte.
    pub const KIND: u8 = b'w';

    /// Encodes frame and header of a message that carries `payload_len` bytes of WAL.
    ///
    /// # Panics
    /// If the frame's length word cannot count the payload.
    #[must_use]
    pub fn encode_header(self, payload_len: u64) -> [u8; XLOGDATA_HEADER_LEN] {
        let frame_len = usize::try_from(payload_len).map(|len| len + XLOGDATA_HEADER_LEN);
        let frame_len = frame_len.unwrap_or(usize::MAX);
        assert!(frame_len < 1 << 31, "an XLogData message of {payload_len} bytes");
        Writer::copy_data(frame_len, Self::KIND)
            .lsn(self.start)
            .lsn(self.end)
            .time(self.sent)
            .finish()
    }

    /// Decodes the body of a CopyData frame; the WAL is what follows the first
    /// [`XLOGDATA_FIELDS_LEN`] bytes.
    ///
    /// # Errors
    /// When `body` is shorter than the fields.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = body_of(body, Self::KIND)?;
        Ok(Self {
            start: Lsn(reader.u64()?),
            end: Lsn(reader.u64()?),
            sent: Timestamp(reader.i64()?),
        })
    }
}

/// Where the sender's WAL ends, `k`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrimaryKeepalive {
    /// End of WAL on the sender; PostgreSQL puts what it has sent there.
    pub end: Lsn,
    /// When it was sent.
    pub sent: Timestamp,
    /// Whether the standby shall answer at once.
    pub reply_requested: bool,
}

impl PrimaryKeepalive {
    /// Type byte.
    pub const KIND: u8 = b'k';

    /// Encodes the message in its frame.
    #[must_use]
    pub fn encode(self) -> [u8; KEEPALIVE_LEN] {
        Writer::copy_data(KEEPALIVE_LEN, Self::KIND)
            .lsn(self.end)
            .time(self.sent)
            .put(&[u8::from(self.reply_requested)])
            .finish()
    }

    /// Decodes the body of a CopyData frame.
    ///
    /// # Errors
    /// When `body` is shorter than the fields.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = body_of(body, Self::KIND)?;
        Ok(Self {
            end: Lsn(reader.u64()?),
            sent: Timestamp(reader.i64()?),
            reply_requested: reader.u8()? != 0,
        })
    }
}

/// How far a standby is, `r`. Its positions are claims, never trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StandbyStatusUpdate {
    /// Written by the standby.
    pub write: Lsn,
    /// Made durable by it; invalid for a client that never flushes.
    pub flush: Lsn,
    /// Replayed by it.
    pub apply: Lsn,
    /// When it was sent.
    pub sent: Timestamp,
    /// Whether the sender shall answer at once.
    pub reply_requested: bool,
}

impl StandbyStatusUpdate {
    /// Type byte.
    pub const KIND: u8 = b'r';

    /// Encodes the message in its frame.
    #[must_use]
    pub fn encode(self) -> [u8; STATUS_LEN] {
        Writer::copy_data(STATUS_LEN, Self::KIND)
            .lsn(self.write)
            .lsn(self.flush)
            .lsn(self.apply)
            .time(self.sent)
            .put(&[u8::from(self.reply_requested)])
            .finish()
    }

    /// Decodes the body of a CopyData frame.
    ///
    /// # Errors
    /// When `body` is shorter than the fields.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = body_of(body, Self::KIND)?;
        Ok(Self {
            write: Lsn(reader.u64()?),
            flush: Lsn(reader.u64()?),
            apply: Lsn(reader.u64()?),
            sent: Timestamp(reader.i64()?),
            reply_requested: reader.u8()? != 0,
        })
    }
}

/// Which rows a standby's queries still need, `h`. Zero is no transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HotStandbyFeedback {
    /// When it was sent.
    pub sent: Timestamp,
    /// Oldest transaction needed.
    pub xmin: u32,
    /// How often transaction ids had wrapped around at `xmin`.
    pub xmin_epoch: u32,
    /// Oldest transaction needed for the catalogue.
    pub catalog_xmin: u32,
    /// How often transaction ids had wrapped around at `catalog_xmin`.
    pub catalog_xmin_epoch: u32,
}

impl HotStandbyFeedback {
    /// Type byte.
    pub const KIND: u8 = b'h';

    /// Encodes the message in its frame.
    #[must_use]
    pub fn encode(self) -> [u8; FEEDBACK_LEN] {
        Writer::copy_data(FEEDBACK_LEN, Self::KIND)
            .time(self.sent)
            .put(&self.xmin.to_be_bytes())
            .put(&self.xmin_epoch.to_be_bytes())
            .put(&self.catalog_xmin.to_be_bytes())
            .put(&self.catalog_xmin_epoch.to_be_bytes())
            .finish()
    }

    /// Decodes the body of a CopyData frame.
    ///
    /// # Errors
    /// When `body` is shorter than the fields.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = body_of(body, Self::KIND)?;
        Ok(Self {
            sent: Timestamp(reader.i64()?),
            xmin: reader.u32()?,
            xmin_epoch: reader.u32()?,
            catalog_xmin: reader.u32()?,
            catalog_xmin_epoch: reader.u32()?,
        })
    }
}

fn body_of(body: &[u8], kind: u8) -> Result<Reader<'_>, Malformed> {
    let mut reader = Reader::new(body);
    match reader.u8()? {
        got if got == kind => Ok(reader),
        got => Err(Malformed::MessageType { got }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::reader::decode_frame;
    use std::vec::Vec;

    fn body(message: &[u8]) -> Vec<u8> {
        let frame = decode_frame(message, 1000).unwrap().unwrap();
        assert_eq!((frame.kind, frame.len), (COPY_DATA, message.len()));
        frame.body.to_vec()
    }

    const STATUS: StandbyStatusUpdate = StandbyStatusUpdate {
        write: Lsn(0x0102_0304_0506_0708),
        flush: Lsn(2),
        apply: Lsn(3),
        sent: Timestamp(-4),
        reply_requested: true,
    };

    #[test]
    fn bytes_are_as_postgres_sends_them() {
        let data = XLogData { start: Lsn(1), end: Lsn(0x0102), sent: Timestamp(3) };
        assert_eq!(
            data.encode_header(0x10),
            *b"d\0\0\0\x2dw\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x03"
        );
        let keepalive = PrimaryKeepalive { end: Lsn(1), sent: Timestamp(2), reply_requested: true };
        assert_eq!(keepalive.encode(), *b"d\0\0\0\x16k\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\x01");
        assert_eq!(
            STATUS.encode(),
            *b"d\0\0\0\x26r\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\
               \xff\xff\xff\xff\xff\xff\xff\xfc\x01"
        );
        let feedback = HotStandbyFeedback {
            sent: Timestamp(1),
            xmin: 2,
            xmin_epoch: 3,
            catalog_xmin: 4,
            catalog_xmin_epoch: 5,
        };
        assert_eq!(
            feedback.encode(),
            *b"d\0\0\0\x1dh\0\0\0\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05"
        );
    }

    #[test]
    fn every_message_round_trips_and_no_truncation_decodes() {
        let data = XLogData { start: Lsn(7), end: Lsn(9), sent: Timestamp(i64::MIN) };
        let keepalive =
            PrimaryKeepalive { end: Lsn::MAX, sent: Timestamp(5), reply_requested: false };
        let feedback = HotStandbyFeedback {
            sent: Timestamp(1),
            xmin: u32::MAX,
            xmin_epoch: 3,
            catalog_xmin: 4,
            catalog_xmin_epoch: u32::MAX,
        };
        let bytes = body(&data.encode_header(0));
        assert_eq!(XLogData::decode(&bytes), Ok(data));
        let cuts = |bytes: &[u8], decodes: &dyn Fn(&[u8]) -> bool| {
            assert!(decodes(bytes));
            for cut in 0..bytes.len() {
                assert!(!decodes(&bytes[..cut]), "cut at {cut}");
            }
        };
        cuts(&bytes, &|bytes| XLogData::decode(bytes) == Ok(data));
        cuts(&body(&keepalive.encode()), &|bytes| PrimaryKeepalive::decode(bytes) == Ok(keepalive));
        cuts(&body(&STATUS.encode()), &|bytes| StandbyStatusUpdate::decode(bytes) == Ok(STATUS));
        cuts(&body(&feedback.encode()), &|bytes| HotStandbyFeedback::decode(bytes) == Ok(feedback));
    }

    #[test]
    fn bytes_after_the_last_field_are_ignored() {
        let mut bytes = body(&STATUS.encode());
        bytes.extend_from_slice(b"later release");
        assert_eq!(StandbyStatusUpdate::decode(&bytes), Ok(STATUS));
    }

    #[test]
    fn one_message_is_not_taken_for_another() {
        let bytes = body(&STATUS.encode());
        let wrong = Err(Malformed::MessageType { got: b'r' });
        assert_eq!(PrimaryKeepalive::decode(&bytes), wrong);
    }
}
