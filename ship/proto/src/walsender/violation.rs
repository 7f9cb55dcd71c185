//! What a standby can do wrong.

use core::fmt;

use crate::sqlstate::SqlState;
use crate::wire::reader::Malformed;

/// A standby broke a rule of the protocol; its session ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerViolation {
    /// A frame type that has no place in the stream.
    FrameType {
        /// The byte that came.
        got: u8,
    },
    /// A CopyData message of unknown type.
    MessageType {
        /// The byte that came.
        got: u8,
    },
    /// A length word below its minimum or above [`super::STANDBY_MESSAGE_BYTES_MAX`].
    MessageLength {
        /// What the length word said.
        got: u32,
    },
    /// A message that ends before its last field.
    Body(Malformed),
}

impl PeerViolation {
    /// SQLSTATE of the report.
    #[must_use]
    pub const fn sqlstate(self) -> SqlState {
        match self {
            Self::FrameType { .. }
            | Self::MessageType { .. }
            | Self::MessageLength { .. }
            | Self::Body(_) => SqlState::PROTOCOL_VIOLATION,
        }
    }
}

impl fmt::Display for PeerViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::FrameType { got } => {
                write!(f, "invalid standby message type \"{}\"", PrintableByte(got))
            }
            Self::MessageType { got } => {
                write!(f, "unexpected message type \"{}\"", PrintableByte(got))
            }
            Self::MessageLength { .. } => f.write_str("invalid message length"),
            Self::Body(malformed) => fmt::Display::fmt(&malformed, f),
        }
    }
}

/// A byte as `%c` prints it, except that one that would spoil a log line is shown as its number.
struct PrintableByte(u8);

impl fmt::Display for PrintableByte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == b' ' || self.0.is_ascii_graphic() {
            write!(f, "{}", char::from(self.0))
        } else {
            write!(f, "\\x{:02x}", self.0)
        }
    }
}
