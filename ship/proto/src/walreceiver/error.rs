//! What an upstream can do wrong, in PostgreSQL's words.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use crate::lsn::{Lsn, SystemIdentifier, TimelineId};
use crate::segment::SegmentSize;
use crate::sqlstate::SqlState;
use crate::wire::error_response::ErrorResponse;
use crate::wire::reader::Malformed;

use super::ANSWER_BYTES_MAX;

/// What was asked of the upstream when something went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// IDENTIFY_SYSTEM.
    IdentifySystem,
    /// SHOW wal_segment_size.
    ShowSegmentSize,
    /// READ_REPLICATION_SLOT.
    ReadSlot,
    /// CREATE_REPLICATION_SLOT.
    CreateSlot,
    /// TIMELINE_HISTORY.
    TimelineHistory,
    /// START_REPLICATION.
    StartReplication,
    /// Taking WAL.
    Streaming,
    /// Waiting for the end of the command, after CopyDone.
    EndStreaming,
}

/// The upstream refused, or broke a rule; the connection is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UpstreamViolation {
    /// It sent an error.
    Server {
        /// In answer to what.
        during: Activity,
        /// The error.
        error: Box<ErrorResponse>,
    },
    /// A result of the wrong shape.
    ResultShape {
        /// In answer to what.
        during: Activity,
        /// How many rows came.
        rows: usize,
        /// How many columns the row has.
        fields: usize,
    },
    /// A value in a result that cannot be read.
    ResultValue {
        /// In answer to what.
        during: Activity,
        /// What the column holds.
        value: String,
    },
    /// It belongs to another cluster.
    SystemIdentifier {
        /// The cluster that the upstream serves.
        upstream: SystemIdentifier,
        /// The cluster whose WAL is here.
        local: SystemIdentifier,
    },
    /// Its segments have another size.
    SegmentSize {
        /// The size that the upstream has.
        upstream: SegmentSize,
        /// The size of the segments here.
        local: SegmentSize,
    },
    /// It is on an older timeline than we are.
    TimelineBehind {
        /// The newest timeline that the upstream has.
        upstream: TimelineId,
        /// The timeline of the WAL that is here.
        local: TimelineId,
    },
    /// The slot is not there and is not to be created.
    SlotMissing {
        /// Name of the slot.
        slot: String,
    },
    /// It left its timeline before a position that it had already sent.
    ForkedBehind {
        /// The timeline it went on to.
        next: TimelineId,
        /// Where the upstream's history left the timeline.
        switchpoint: Lsn,
        /// The timeline it left.
        timeline: TimelineId,
        /// Up to where the WAL is here.
        received: Lsn,
    },
    /// WAL that does not follow what came before.
    Discontinuity {
        /// The position that the message begins at.
        got: Lsn,
        /// Where it had to begin.
        want: Lsn,
    },
    /// An XLogData message too short for its header.
    WalMessage,
    /// A keepalive too short for its fields.
    Keepalive,
    /// A CopyData message of unknown type.
    MessageType {
        /// The byte that stands there.
        got: u8,
    },
    /// A frame that has no place here.
    UnexpectedFrame {
        /// Type of the message that came.
        got: u8,
        /// In answer to what.
        during: Activity,
    },
    /// A length word below its minimum or above the maximum of its type.
    FrameLength {
        /// Type of the message.
        kind: u8,
        /// What the length word said.
        got: u32,
    },
    /// A message whose fields do not fit.
    Body {
        /// Type of the message.
        kind: u8,
        /// What is wrong with it.
        malformed: Malformed,
    },
    /// It ended the stream in good order, without a new timeline: it is stopping.
    Terminated {
        /// The timeline that was streamed.
        timeline: TimelineId,
        /// The position that the stream ended at.
        end: Lsn,
    },
    /// It was silent for `wal_receiver_timeout`.
    Timeout,
    /// It has not answered a command within `wal_receiver_timeout`.
    NoAnswer {
        /// What the command was for.
        during: Activity,
    },
    /// It sent more than [`ANSWER_BYTES_MAX`](super::ANSWER_BYTES_MAX) where little was to come.
    Flood {
        /// In answer to what.
        during: Activity,
    },
    /// A history file under another timeline's name.
    HistoryName {
        /// The timeline that was asked for.
        timeline: TimelineId,
    },
}

impl UpstreamViolation {
    /// SQLSTATE of the report.
    #[must_use]
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::SystemIdentifier { .. } | Self::SegmentSize { .. } => {
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Self::TimelineBehind { .. } | Self::ForkedBehind { .. } => {
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Self::SlotMissing { .. } => SqlState::UNDEFINED_OBJECT,
            Self::Timeout | Self::NoAnswer { .. } => SqlState::CONNECTION_FAILURE,
            Self::Terminated { .. } => SqlState::SUCCESSFUL_COMPLETION,
            Self::Server { .. }
            | Self::ResultShape { .. }
            | Self::ResultValue { .. }
            | Self::Discontinuity { .. }
            | Self::WalMessage
            | Self::Keepalive
            | Self::MessageType { .. }
            | Self::UnexpectedFrame { .. }
            | Self::FrameLength { .. }
            | Self::Flood { .. }
            | Self::HistoryName { .. }
            | Self::Body { .. } => SqlState::PROTOCOL_VIOLATION,
        }
    }

    /// Whether another attempt may soon end otherwise: the upstream comes or goes, has no room just now, or
    /// has not yet noticed that the last connection is gone, or the connection broke.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Terminated { .. } | Self::Timeout | Self::NoAnswer { .. } => true,
            Self::Server { error, .. } => {
                error.is(SqlState::OBJECT_IN_USE)
                    || ["08", "53", "57"].iter().any(|class| error.sqlstate.starts_with(class))
            }
            Self::ResultShape { .. }
            | Self::ResultValue { .. }
            | Self::SystemIdentifier { .. }
            | Self::SegmentSize { .. }
            | Self::TimelineBehind { .. }
            | Self::SlotMissing { .. }
            | Self::ForkedBehind { .. }
            | Self::Discontinuity { .. }
            | Self::WalMessage
            | Self::Keepalive
            | Self::MessageType { .. }
            | Self::UnexpectedFrame { .. }
            | Self::FrameLength { .. }
            | Self::Flood { .. }
            | Self::HistoryName { .. }
            | Self::Body { .. } => false,
        }
    }

    /// Secondary message with details.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Server { error, .. } => error.detail.clone(),
            Self::ResultShape { during, rows, fields } => {
                Some(shape_detail(*during, *rows, *fields))
            }
            Self::SystemIdentifier { upstream, local } => Some(format!(
                "The primary's identifier is {upstream}, the standby's identifier is {local}."
            )),
            Self::SegmentSize { upstream, local } => Some(format!(
                "The primary's segment size is {upstream}, the standby's segment size is {local}."
            )),
            Self::Terminated { timeline, end } => {
                Some(format!("End of WAL reached on timeline {timeline} at {end}."))
            }
            Self::NoAnswer { .. } => {
                Some("Nothing complete came within \"wal_receiver_timeout\".".to_string())
            }
            Self::Flood { .. } => {
                Some(format!("More than {ANSWER_BYTES_MAX} bytes came where little was expected."))
            }
            Self::ResultValue { .. }
            | Self::HistoryName { .. }
            | Self::TimelineBehind { .. }
            | Self::SlotMissing { .. }
            | Self::ForkedBehind { .. }
            | Self::Discontinuity { .. }
            | Self::WalMessage
            | Self::Keepalive
            | Self::MessageType { .. }
            | Self::UnexpectedFrame { .. }
            | Self::FrameLength { .. }
            | Self::Body { .. }
            | Self::Timeout => None,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Server { error, .. } => error.hint.clone().or_else(|| {
                error.is_wal_removed().then(|| {
                    "The upstream no longer has the WAL that comes next here. Stop walhub and copy \
                     the missing segments from a WAL archive into its \"pg_wal\" directory, or begin \
                     again with an empty data directory. A slot (\"primary_slot_name\") keeps this \
                     from happening."
                        .to_string()
                })
            }),
            Self::SlotMissing { .. } => Some(
                "Create it on the primary, or set \"primary_slot_create\" to have it created."
                    .to_string(),
            ),
            _ => None,
        }
    }
}

/// PostgreSQL: `libpqrcv_identify_system`, `libpqrcv_readtimelinehistoryfile`.
fn shape_detail(during: Activity, rows: usize, fields: usize) -> String {
    match during {
        Activity::IdentifySystem => format!(
            "Could not identify system: got {rows} rows and {fields} fields, \
             expected 1 rows and 3 or more fields."
        ),
        Activity::TimelineHistory => {
            format!("Expected 1 tuple with 2 fields, got {rows} tuples with {fields} fields.")
        }
        Activity::ShowSegmentSize => {
            format!("Expected 1 tuple with 1 field, got {rows} tuples with {fields} fields.")
        }
        Activity::ReadSlot => {
            format!("Expected 1 tuple with 3 fields, got {rows} tuples with {fields} fields.")
        }
        Activity::CreateSlot => {
            format!("Expected 1 tuple with 4 fields, got {rows} tuples with {fields} fields.")
        }
        Activity::StartReplication | Activity::Streaming | Activity::EndStreaming => format!(
            "Expected at most 1 tuple with 2 fields, got {rows} tuples with {fields} fields."
        ),
    }
}

impl fmt::Display for UpstreamViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { during, error } => write!(f, "{during}: {error}"),
            // PostgreSQL: libpqrcv_endstreaming.
            Self::ResultShape { during: Activity::EndStreaming, .. } => {
                f.write_str("unexpected result set after end-of-streaming")
            }
            Self::ResultShape { .. } => f.write_str("invalid response from primary server"),
            Self::ResultValue { value, .. } => {
                write!(f, "invalid response from primary server: \"{value}\"")
            }
            Self::SystemIdentifier { .. } => {
                f.write_str("database system identifier differs between the primary and standby")
            }
            Self::SegmentSize { .. } => {
                f.write_str("WAL segment size differs between the primary and standby")
            }
            Self::TimelineBehind { upstream, local } => write!(
                f,
                "highest timeline {upstream} of the primary is behind recovery timeline {local}"
            ),
            Self::SlotMissing { slot } => {
                write!(f, "replication slot \"{slot}\" does not exist")
            }
            Self::ForkedBehind { next, timeline, received, .. } => write!(
                f,
                "new timeline {next} forked off current database system timeline {timeline} \
                 before current recovery point {received}"
            ),
            Self::Discontinuity { got, want } => {
                write!(f, "unexpected WAL position {got} from primary, expected {want}")
            }
            Self::WalMessage => f.write_str("invalid WAL message received from primary"),
            Self::Keepalive => f.write_str("invalid keepalive message received from primary"),
            Self::MessageType { got } => write!(f, "invalid replication message type {got}"),
            Self::UnexpectedFrame { got, during } => write!(
                f,
                "{during}: unexpected response from server; first received character was \"{}\"",
                got.escape_ascii()
            ),
            Self::FrameLength { kind, got } => write!(
                f,
                "lost synchronization with server: got message type \"{}\", length {got}",
                kind.escape_ascii()
            ),
            Self::Body { kind, .. } => write!(
                f,
                "message contents do not agree with length in message type \"{}\"",
                kind.escape_ascii()
            ),
            Self::Terminated { .. } => f.write_str("replication terminated by primary server"),
            Self::Timeout => f.write_str("terminating walreceiver due to timeout"),
            Self::NoAnswer { during } => write!(f, "{during}: timeout expired"),
            Self::Flood { during } => write!(f, "{during}: too much data from server"),
            Self::HistoryName { timeline } => write!(
                f,
                "primary reported unexpected file name for timeline history file of timeline \
                 {timeline}"
            ),
        }
    }
}

impl fmt::Display for Activity {
    /// What libpqwalreceiver says could not be done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IdentifySystem => {
                "could not receive database system identifier and timeline ID from the primary \
                 server"
            }
            Self::ShowSegmentSize => "could not fetch WAL segment size from the primary server",
            Self::ReadSlot => "could not read replication slot on the primary server",
            Self::CreateSlot => "could not create replication slot on the primary server",
            Self::TimelineHistory => {
                "could not receive timeline history file from the primary server"
            }
            Self::StartReplication => "could not start WAL streaming",
            Self::Streaming => "could not receive data from WAL stream",
            Self::EndStreaming => "error reading result of streaming command",
        })
    }
}
