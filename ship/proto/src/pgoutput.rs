//! PostgreSQL's own output plugin, as far as messages go.
//!
//! In all versions of its protocol, 1 to 4, a transaction that is sent at its commit looks the
//! same: what later versions added is about transactions that are sent before.
//!
//! Not here: what happened (`decode`), the frames that carry this (`wire`).
//!
//! PostgreSQL: `logicalrep_write_begin`, `logicalrep_write_commit`, `logicalrep_write_message`
//! (src/backend/replication/logical/proto.c).

mod options;

pub use options::{OptionsError, PgoutputOptions, Streaming};

use alloc::vec::Vec;

use crate::convert::to_u32;
use crate::decode::{Begin, Change, Commit, Message};

/// What the plugin is called.
pub const PLUGIN_NAME: &str = "pgoutput";

/// PostgreSQL: `LOGICAL_REP_MSG_BEGIN` and its neighbours.
const BEGIN: u8 = b'B';
const COMMIT: u8 = b'C';
const MESSAGE: u8 = b'M';
/// PostgreSQL: `MESSAGE_TRANSACTIONAL`.
const TRANSACTIONAL: u8 = 1;

/// Appends the beginning of a transaction.
pub fn encode_begin(begin: &Begin, out: &mut Vec<u8>) {
    out.push(BEGIN);
    out.extend_from_slice(&begin.commit_lsn.0.to_be_bytes());
    out.extend_from_slice(&begin.commit_time.0.to_be_bytes());
    out.extend_from_slice(&begin.xid.to_be_bytes());
}

/// Appends the end of a transaction.
pub fn encode_commit(commit: &Commit, out: &mut Vec<u8>) {
    out.push(COMMIT);
    out.push(0); // flags
    out.extend_from_slice(&commit.commit_lsn.0.to_be_bytes());
    out.extend_from_slice(&commit.end_lsn.0.to_be_bytes());
    out.extend_from_slice(&commit.commit_time.0.to_be_bytes());
}

/// Appends the pgoutput form of a message.
pub fn encode_message(message: &Message, out: &mut Vec<u8>) {
    out.reserve(19 + message.prefix.len() + message.content.len());
    out.push(MESSAGE);
    out.push(if message.transactional { TRANSACTIONAL } else { 0 });
    out.extend_from_slice(&message.lsn.0.to_be_bytes());
    out.extend_from_slice(&message.prefix);
    out.push(0);
    out.extend_from_slice(&to_u32(message.content.len()).to_be_bytes());
    out.extend_from_slice(&message.content);
}

/// Appends a change; nothing for a [`Change::Reread`], which stands for messages.
pub fn encode_change(change: &Change, out: &mut Vec<u8>) {
    match change {
        Change::Begin(begin) => encode_begin(begin, out),
        Change::Message(message) => encode_message(message, out),
        Change::Reread(_) => {}
        Change::Commit(commit) => encode_commit(commit, out),
    }
}
