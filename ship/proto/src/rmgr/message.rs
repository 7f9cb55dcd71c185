//! Logical messages: `pg_logical_emit_message`.
//!
//! PostgreSQL: `xl_logical_message` (src/include/replication/message.h), `LogLogicalMessage`
//! (src/backend/replication/logical/message.c).

use alloc::vec::Vec;

use crate::convert::to_u64;

use super::{
    Fields, MainData, OWN_RECORD_LEN_MAX, RM_LOGICALMSG, TooLong, begin_body, main_data, record_len,
};

/// The only kind of record of its resource manager. PostgreSQL: `XLOG_LOGICAL_MESSAGE`.
pub const XLOG_LOGICAL_MESSAGE: u8 = 0;

/// Bytes before the prefix. PostgreSQL: `SizeOfLogicalMessage`.
pub(crate) const HEADER_LEN: usize = 24;

/// The body of a message's record.
///
/// # Errors
/// When the record would be too long.
///
/// # Panics
/// If `prefix` holds a NUL.
pub fn logical_message(
    database: u32,
    transactional: bool,
    prefix: &str,
    content: &[u8],
) -> Result<Vec<u8>, TooLong> {
    let mut body = logical_message_head(database, transactional, prefix, content.len())?;
    body.extend_from_slice(content);
    Ok(body)
}

/// What stands before the content in the body of a message's record: for content that is to be
/// copied once, into the WAL.
///
/// # Errors
/// When the record would be too long.
///
/// # Panics
/// If `prefix` holds a NUL.
pub fn logical_message_head(
    database: u32,
    transactional: bool,
    prefix: &str,
    content_len: usize,
) -> Result<Vec<u8>, TooLong> {
    assert!(!prefix.as_bytes().contains(&0), "a prefix with a NUL");
    let len = HEADER_LEN.saturating_add(prefix.len() + 1).saturating_add(content_len);
    let record = record_len(to_u64(len));
    if record > OWN_RECORD_LEN_MAX {
        return Err(TooLong { len: record, rmid: RM_LOGICALMSG, info: XLOG_LOGICAL_MESSAGE });
    }
    let mut head = begin_body(len, len - content_len);
    head.extend_from_slice(&database.to_le_bytes());
    head.extend_from_slice(&[u8::from(transactional), 0, 0, 0]);
    head.extend_from_slice(&to_u64(prefix.len() + 1).to_le_bytes());
    head.extend_from_slice(&to_u64(content_len).to_le_bytes());
    head.extend_from_slice(prefix.as_bytes());
    head.push(0);
    Ok(head)
}

/// A message as it is in the WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogicalMessage<'a> {
    /// The database it was emitted in.
    pub database: u32,
    /// Whether it belongs to its transaction.
    pub transactional: bool,
    /// Its prefix, without the NUL.
    pub prefix: &'a [u8],
    /// The bytes after the prefix.
    pub content: &'a [u8],
    /// The replication origin it came from.
    pub origin: Option<u16>,
    /// The top-level transaction, when a subtransaction emitted it and nothing before told whose.
    pub toplevel_xid: Option<u32>,
}

impl<'a> LogicalMessage<'a> {
    /// Decodes the body of a record of [`RM_LOGICALMSG`]; `None` when it is no message.
    #[must_use]
    pub fn decode(body: &'a [u8]) -> Option<Self> {
        let MainData { data, origin, toplevel_xid } = main_data(body)?;
        let mut fields = Fields(data);
        let head = MessageHead::decode(&mut fields)?;
        let (prefix, content) = fields.0.split_at_checked(head.prefix_len)?;
        let (&0, prefix) = prefix.split_last()? else { return None };
        (content.len() == head.content_len).then_some(Self {
            database: head.database,
            transactional: head.transactional,
            prefix,
            content,
            origin,
            toplevel_xid,
        })
    }
}

/// What stands before a message's prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MessageHead {
    pub database: u32,
    pub transactional: bool,
    /// How many bytes the prefix has, its NUL among them.
    pub prefix_len: usize,
    pub content_len: usize,
}

impl MessageHead {
    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let database = fields.u32()?;
        let [transactional, ..] = fields.take::<4>()?;
        let prefix_len = usize::try_from(fields.u64()?).ok()?;
        let content_len = usize::try_from(fields.u64()?).ok()?;
        Some(Self { database, transactional: transactional != 0, prefix_len, content_len })
    }
}
