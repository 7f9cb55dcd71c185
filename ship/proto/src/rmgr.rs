//! The records that walhub writes into WAL of its own, and reads in anybody's.
//!
//! A record's body is everything after its 24 bytes of header: block references (the records here
//! have none), then the main data behind a short or a long length. [`main_data`] takes a body apart;
//! [`message`], [`xact`], [`xlog`], [`standby`] and [`slru`] know what the main data of a record means,
//! [`counters`] and [`prepared`] what it adds up to, [`xid_limits`] how far ids may go, and [`facts`] shows
//! them the records.
//!
//! Not here: headers, checksums and pages (`record`, `generate`).
//!
//! PostgreSQL: `XLogRecordAssemble` (src/backend/access/transam/xloginsert.c), `DecodeXLogRecord`
//! (xlogreader.c).

pub mod counters;
pub mod facts;
pub mod message;
pub mod prepared;
pub mod slru;
pub mod standby;
pub mod xact;
pub mod xid_limits;
pub mod xlog;

use alloc::vec::Vec;
use core::fmt;

use crate::convert::{low_u32, to_u32, to_u64};
use crate::record::RECORD_HEADER_LEN;
use crate::sqlstate::SqlState;

/// Resource manager of transactions. PostgreSQL: `RM_XACT_ID`.
pub const RM_XACT: u8 = 1;
/// Resource manager of transactions' states. PostgreSQL: `RM_CLOG_ID`.
pub const RM_CLOG: u8 = 3;
/// Resource manager of multixacts. PostgreSQL: `RM_MULTIXACT_ID`.
pub const RM_MULTIXACT: u8 = 6;
/// Resource manager of what hot standby needs. PostgreSQL: `RM_STANDBY_ID`.
pub const RM_STANDBY: u8 = 8;
/// Resource manager of commit times. PostgreSQL: `RM_COMMIT_TS_ID`.
pub const RM_COMMIT_TS: u8 = 18;
/// Resource manager of logical messages. PostgreSQL: `RM_LOGICALMSG_ID`.
pub const RM_LOGICALMSG: u8 = 21;

/// The first transaction id that a transaction can have. PostgreSQL: `FirstNormalTransactionId`.
pub const FIRST_NORMAL_XID: u32 = 3;

/// The transaction id of one with an epoch. PostgreSQL: `XidFromFullTransactionId`.
#[must_use]
pub const fn xid_of(full_xid: u64) -> u32 {
    low_u32(full_xid)
}

/// How far `to` lies ahead of `from`, or behind. PostgreSQL: `TransactionIdPrecedes`.
fn distance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from).cast_signed()
}

/// The longest record that is written, header included. PostgreSQL: `XLogRecordMaxSize`.
pub const OWN_RECORD_LEN_MAX: u64 = 1020 << 20;

/// Main data of up to 255 bytes follows its length byte. PostgreSQL: `XLR_BLOCK_ID_DATA_SHORT`.
const DATA_SHORT: u8 = 255;
/// Main data follows its length word. PostgreSQL: `XLR_BLOCK_ID_DATA_LONG`.
const DATA_LONG: u8 = 254;
/// A replication origin follows. PostgreSQL: `XLR_BLOCK_ID_ORIGIN`.
const ORIGIN: u8 = 253;
/// The top-level transaction's id follows. PostgreSQL: `XLR_BLOCK_ID_TOPLEVEL_XID`.
const TOPLEVEL_XID: u8 = 252;

/// A record that would be longer than [`OWN_RECORD_LEN_MAX`]. `Display` is PostgreSQL's message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLong {
    /// Bytes that it would have, header included.
    pub len: u64,
    /// The resource manager of the record.
    pub rmid: u8,
    /// The `xl_info` of the record.
    pub info: u8,
}

impl TooLong {
    /// What PostgreSQL gives as the error's code: none of its own.
    #[must_use]
    pub const fn sqlstate(&self) -> SqlState {
        SqlState::INTERNAL_ERROR
    }

    /// What PostgreSQL gives as the error's detail.
    #[must_use]
    pub const fn detail(&self) -> TooLongDetail {
        TooLongDetail(*self)
    }
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("oversized WAL record")
    }
}

impl core::error::Error for TooLong {}

/// The detail of a [`TooLong`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLongDetail(TooLong);

impl fmt::Display for TooLongDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooLong { len, rmid, info } = self.0;
        write!(
            f,
            "WAL record would be {len} bytes (of maximum {OWN_RECORD_LEN_MAX} bytes); \
             rmid {rmid} flags {info}."
        )
    }
}

/// What a record's body holds beside block references.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MainData<'a> {
    /// What the record's resource manager gave; empty when it gave nothing.
    pub data: &'a [u8],
    /// The replication origin that the change came from.
    pub origin: Option<u16>,
    /// The top-level transaction, when the record's is a subtransaction that was not yet known.
    pub toplevel_xid: Option<u32>,
}

/// Takes apart the body of a record without block references.
///
/// `None` when it has one, or is not laid out as a body is.
#[must_use]
pub fn main_data(body: &[u8]) -> Option<MainData<'_>> {
    let (mut main, len, rest) = main_data_head(body)?;
    if rest.len() != len {
        return None;
    }
    main.data = rest;
    Some(main)
}

/// As [`main_data`], of a body of which only the beginning is there.
///
/// [`MainData::data`] is that beginning; with it comes how long the whole is.
#[must_use]
pub fn main_data_start(body: &[u8]) -> Option<(MainData<'_>, usize)> {
    let (mut main, len, rest) = main_data_head(body)?;
    main.data = rest.get(..len).unwrap_or(rest);
    Some((main, len))
}

/// What stands before the main data, its length, and what follows.
fn main_data_head(body: &[u8]) -> Option<(MainData<'_>, usize, &[u8])> {
    let (mut main, mut fields) = (MainData::default(), Fields(body));
    loop {
        if fields.0.is_empty() {
            return Some((main, 0, fields.0));
        }
        match u8::from_le_bytes(fields.take()?) {
            ORIGIN => main.origin = Some(u16::from_le_bytes(fields.take()?)),
            TOPLEVEL_XID => main.toplevel_xid = Some(fields.u32()?),
            DATA_SHORT => {
                let len = u8::from_le_bytes(fields.take()?);
                return Some((main, usize::from(len), fields.0));
            }
            DATA_LONG => {
                let len = usize::try_from(fields.u32()?).ok()?;
                return Some((main, len, fields.0));
            }
            _ => return None,
        }
    }
}

/// Begins a body whose main data has `len` bytes, of which `room` will be pushed.
fn begin_body(len: usize, room: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(5 + room);
    match u8::try_from(len) {
        Ok(len) => body.extend_from_slice(&[DATA_SHORT, len]),
        Err(_) => {
            body.push(DATA_LONG);
            body.extend_from_slice(&to_u32(len).to_le_bytes());
        }
    }
    body
}

/// A body that is this main data.
fn body_of(data: &[u8]) -> Vec<u8> {
    let mut body = begin_body(data.len(), data.len());
    body.extend_from_slice(data);
    body
}

/// Bytes of a record whose main data has `len` bytes.
fn record_len(len: u64) -> u64 {
    let head = if len <= 255 { 2 } else { 5 };
    to_u64(RECORD_HEADER_LEN).saturating_add(head).saturating_add(len)
}

/// Cuts little-endian fields off the front of a slice.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    /// So many transaction ids.
    fn xids(&mut self, count: u32) -> Option<Vec<u32>> {
        let len = usize::try_from(count).ok()?.checked_mul(4)?;
        let (xids, _) = self.bytes(len)?.as_chunks::<4>();
        Some(xids.iter().map(|xid| u32::from_le_bytes(*xid)).collect())
    }

    /// Passes over an array: its number of items, then the items.
    fn array(&mut self, item_len: usize) -> Option<&'a [u8]> {
        let items = usize::try_from(self.u32()?).ok()?;
        self.bytes(items.checked_mul(item_len)?)
    }
}

#[cfg(test)]
mod tests;
