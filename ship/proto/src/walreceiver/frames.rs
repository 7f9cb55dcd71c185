//! Splits what an upstream sends into frames, of which WAL is passed through piece by piece.

use alloc::vec::Vec;

use crate::convert::to_u32;
use crate::wire::copy::{COPY_DATA, XLOGDATA_FIELDS_LEN, XLogData};
use crate::wire::reader::{FRAME_HEADER_LEN, Reader};

use super::error::UpstreamViolation;

/// Largest body of a message that has a row, a report or a timeline history in it.
pub(super) const LONG_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Largest body of any other message. libpq: `VALID_LONG_MESSAGE_TYPE`.
pub(super) const SHORT_MESSAGE_BYTES_MAX: usize = 30_000;
/// Largest body of an XLogData message. PostgreSQL: `MaxAllocSize`.
pub(super) const WAL_MESSAGE_BYTES_MAX: usize = 0x3FFF_FFFF;

/// A piece of the byte stream.
#[derive(Debug)]
pub(super) enum Part<'a> {
    /// A message other than WAL, whole.
    Message { kind: u8, body: Vec<u8> },
    /// The header of an XLogData message whose WAL has this length.
    WalHeader { data: XLogData, len: usize },
    /// The next piece of its WAL. Never empty.
    Wal(&'a [u8]),
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    /// Type byte and length word.
    Header,
    /// The first byte of a CopyData body.
    CopyKind { body_len: usize },
    /// What comes before the WAL.
    WalFields { body_len: usize },
    /// The WAL of a message, of which so many bytes are still to come.
    Wal { left: usize },
    /// A body to be kept until it is whole.
    Body { kind: u8, body_len: usize },
}

/// Keeps what a message needs to be understood, and never WAL.
#[derive(Debug)]
pub(super) struct FrameSplitter {
    expect: Expect,
    kept: Vec<u8>,
}

impl FrameSplitter {
    pub(super) const fn new() -> Self {
        Self { expect: Expect::Header, kept: Vec::new() }
    }

    /// Takes bytes from the front until there is a part; `None` when all are taken.
    pub(super) fn next<'a>(
        &mut self,
        bytes: &mut &'a [u8],
    ) -> Result<Option<Part<'a>>, UpstreamViolation> {
        loop {
            match self.expect {
                Expect::Header => {
                    if !self.keep(bytes, FRAME_HEADER_LEN) {
                        return Ok(None);
                    }
                    self.expect = self.decode_header()?;
                    self.kept.clear();
                }
                Expect::CopyKind { body_len } => {
                    if !self.keep(bytes, body_len.min(1)) {
                        return Ok(None);
                    }
                    self.expect = if self.kept.first() == Some(&XLogData::KIND) {
                        Expect::WalFields { body_len }
                    } else if body_len <= SHORT_MESSAGE_BYTES_MAX {
                        Expect::Body { kind: COPY_DATA, body_len }
                    } else {
                        let got = to_u32(body_len + 4);
                        return Err(UpstreamViolation::FrameLength { kind: COPY_DATA, got });
                    };
                }
                Expect::WalFields { body_len } => {
                    if !self.keep(bytes, body_len.min(XLOGDATA_FIELDS_LEN)) {
                        return Ok(None);
                    }
                    let data = XLogData::decode(&self.kept);
                    let data = data.map_err(|_| UpstreamViolation::WalMessage)?;
                    self.kept.clear();
                    let len = body_len.saturating_sub(XLOGDATA_FIELDS_LEN);
                    self.expect = Self::wal_or_header(len);
                    return Ok(Some(Part::WalHeader { data, len }));
                }
                Expect::Wal { left } => {
                    if bytes.is_empty() {
                        return Ok(None);
                    }
                    let (wal, rest) = bytes.split_at(left.min(bytes.len()));
                    *bytes = rest;
                    self.expect = Self::wal_or_header(left - wal.len());
                    return Ok(Some(Part::Wal(wal)));
                }
                Expect::Body { kind, body_len } => {
                    if !self.keep(bytes, body_len) {
                        return Ok(None);
                    }
                    self.expect = Expect::Header;
                    let body = core::mem::take(&mut self.kept);
                    return Ok(Some(Part::Message { kind, body }));
                }
            }
        }
    }

    /// How many bytes of WAL come next, and how many after them, or before the next ones, would be a WAL
    /// message's header. `None` inside another message.
    pub(super) fn ahead(&self) -> Option<(usize, usize)> {
        let of_header = |len: usize| len.saturating_sub(self.kept.len());
        match self.expect {
            Expect::Header => Some((0, of_header(FRAME_HEADER_LEN + XLOGDATA_FIELDS_LEN))),
            Expect::CopyKind { .. } | Expect::WalFields { .. } => {
                Some((0, of_header(XLOGDATA_FIELDS_LEN)))
            }
            Expect::Wal { left } => Some((left, FRAME_HEADER_LEN + XLOGDATA_FIELDS_LEN)),
            Expect::Body { .. } => None,
        }
    }

    const fn wal_or_header(left: usize) -> Expect {
        if left == 0 { Expect::Header } else { Expect::Wal { left } }
    }

    /// Moves bytes to `kept` until it has `want`; whether it has.
    fn keep(&mut self, bytes: &mut &[u8], want: usize) -> bool {
        let missing = want.saturating_sub(self.kept.len());
        let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
        self.kept.extend_from_slice(taken);
        *bytes = rest;
        self.kept.len() >= want
    }

    fn decode_header(&self) -> Result<Expect, UpstreamViolation> {
        let mut reader = Reader::new(&self.kept);
        let body = |kind| move |malformed| UpstreamViolation::Body { kind, malformed };
        let kind = reader.u8().map_err(body(0))?;
        let got = reader.u32().map_err(body(kind))?;
        let max = match kind {
            COPY_DATA => WAL_MESSAGE_BYTES_MAX,
            b'T' | b'D' | b'E' | b'N' | b'A' => LONG_MESSAGE_BYTES_MAX,
            _ => SHORT_MESSAGE_BYTES_MAX,
        };
        let body_len = usize::try_from(got).ok().and_then(|length| length.checked_sub(4));
        let body_len = body_len
            .filter(|&len| len <= max)
            .ok_or(UpstreamViolation::FrameLength { kind, got })?;
        Ok(if kind == COPY_DATA {
            Expect::CopyKind { body_len }
        } else {
            Expect::Body { kind, body_len }
        })
    }
}
