//! What is wrong with a client's SCRAM message, in PostgreSQL's words.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use crate::sqlstate::SqlState;
use crate::wire::backend::Report;

/// A message that breaks a rule. A wrong password is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScramViolation {
    /// A mechanism that was not offered.
    Mechanism,
    /// Nothing in it.
    Empty,
    /// A zero byte in it.
    Length,
    /// After the last one.
    State,
    /// Another attribute than the one that must come.
    Attribute {
        /// The one that must.
        name: u8,
        /// What came, 0 at the end.
        got: u8,
    },
    /// No value for it.
    Equals {
        /// The attribute.
        name: u8,
    },
    /// The end where an attribute must come.
    AttributeAtEnd,
    /// No letter where one must come.
    AttributeName {
        /// What came.
        got: u8,
    },
    /// No comma after the binding flag.
    Comma {
        /// What came, 0 at the end.
        got: u8,
    },
    /// Another binding flag than `n`, `y` and `p`.
    BindingFlag {
        /// What came.
        got: u8,
    },
    /// Binding was selected, and its message has none.
    NoBinding,
    /// Binding was not selected, and its message has it.
    UnexpectedBinding,
    /// The client could bind, and was made to believe that the server cannot.
    Downgrade,
    /// Another type of binding, as it is shown.
    BindingType(String),
    /// An authorization identity.
    AuthorizationIdentity,
    /// Something else where the authorization identity would be.
    FirstMessage {
        /// What came, 0 at the end.
        got: u8,
    },
    /// An extension that must be understood.
    MandatoryExtension,
    /// A nonce of other than printable characters.
    Nonce,
    /// Bound to another server than this one.
    BindingMismatch,
    /// Another flag than the first message's.
    BindingAttribute,
    /// A proof that cannot be one.
    Proof,
    /// More after the proof.
    Garbage,
    /// Another nonce than was agreed on.
    NonceMismatch,
}

/// Characters of a value of the client's that are shown. PostgreSQL: `sanitize_str`.
const SHOWN_MAX: usize = 30;

impl ScramViolation {
    pub(super) fn binding_type(given: &[u8]) -> Self {
        let shown = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' };
        Self::BindingType(given.iter().take(SHOWN_MAX).map(shown).collect())
    }

    /// PostgreSQL's code for it.
    #[must_use]
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::Downgrade | Self::BindingMismatch => {
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION
            }
            Self::AuthorizationIdentity | Self::MandatoryExtension => {
                SqlState::FEATURE_NOT_SUPPORTED
            }
            Self::State => SqlState::INTERNAL_ERROR,
            Self::Mechanism
            | Self::Empty
            | Self::Length
            | Self::Attribute { .. }
            | Self::Equals { .. }
            | Self::AttributeAtEnd
            | Self::AttributeName { .. }
            | Self::Comma { .. }
            | Self::BindingFlag { .. }
            | Self::NoBinding
            | Self::UnexpectedBinding
            | Self::BindingType(_)
            | Self::FirstMessage { .. }
            | Self::Nonce
            | Self::BindingAttribute
            | Self::Proof
            | Self::Garbage
            | Self::NonceMismatch => SqlState::PROTOCOL_VIOLATION,
        }
    }

    /// What exactly; not for every one.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        Some(match self {
            Self::Empty => "The message is empty.".to_string(),
            Self::Length => "Message length does not match input length.".to_string(),
            Self::Attribute { name, got } => {
                let name = char::from(*name);
                format!("Expected attribute \"{name}\" but found \"{}\".", Shown(*got))
            }
            Self::Equals { name } => {
                format!("Expected character \"=\" for attribute \"{}\".", char::from(*name))
            }
            Self::AttributeAtEnd => "Attribute expected, but found end of string.".to_string(),
            Self::AttributeName { got } => {
                format!("Attribute expected, but found invalid character \"{}\".", Shown(*got))
            }
            Self::Comma { got } => {
                format!("Comma expected, but found character \"{}\".", Shown(*got))
            }
            Self::BindingFlag { got } => {
                format!("Unexpected channel-binding flag \"{}\".", Shown(*got))
            }
            Self::NoBinding => {
                "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does \
                                not include channel binding data."
                    .to_string()
            }
            Self::UnexpectedBinding => "The client selected SCRAM-SHA-256 without channel \
                                        binding, but the SCRAM message includes channel binding \
                                        data."
                .to_string(),
            Self::Downgrade => "The client supports SCRAM channel binding but thinks the server \
                                does not.  However, this server does support channel binding."
                .to_string(),
            Self::FirstMessage { got } => {
                format!("Unexpected attribute \"{}\" in client-first-message.", Shown(*got))
            }
            Self::Proof => "Malformed proof in client-final-message.".to_string(),
            Self::Garbage => "Garbage found at the end of client-final-message.".to_string(),
            Self::NonceMismatch => "Nonce does not match.".to_string(),
            Self::Mechanism
            | Self::State
            | Self::BindingType(_)
            | Self::AuthorizationIdentity
            | Self::MandatoryExtension
            | Self::Nonce
            | Self::BindingMismatch
            | Self::BindingAttribute => return None,
        })
    }

    /// As the client and the log are told.
    #[must_use]
    pub fn report(&self) -> Report {
        let report = Report::fatal(self.sqlstate(), self.to_string());
        match self.detail() {
            Some(detail) => report.detail(detail),
            None => report,
        }
    }
}

impl fmt::Display for ScramViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mechanism => "client selected an invalid SASL authentication mechanism",
            Self::State => "invalid SCRAM exchange state",
            Self::Downgrade => "SCRAM channel binding negotiation error",
            Self::AuthorizationIdentity => {
                "client uses authorization identity, but it is not supported"
            }
            Self::MandatoryExtension => "client requires an unsupported SCRAM extension",
            Self::Nonce => "non-printable characters in SCRAM nonce",
            Self::BindingMismatch => "SCRAM channel binding check failed",
            Self::BindingAttribute => {
                "unexpected SCRAM channel-binding attribute in client-final-message"
            }
            Self::NonceMismatch => "invalid SCRAM response",
            Self::BindingType(given) => {
                return write!(f, "unsupported SCRAM channel-binding type \"{given}\"");
            }
            Self::Empty
            | Self::Length
            | Self::Attribute { .. }
            | Self::Equals { .. }
            | Self::AttributeAtEnd
            | Self::AttributeName { .. }
            | Self::Comma { .. }
            | Self::BindingFlag { .. }
            | Self::NoBinding
            | Self::UnexpectedBinding
            | Self::FirstMessage { .. }
            | Self::Proof
            | Self::Garbage => "malformed SCRAM message",
        })
    }
}

/// A byte of a client's, so that it can be shown. PostgreSQL: `sanitize_char`.
struct Shown(u8);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            byte if byte.is_ascii_graphic() => write!(f, "'{}'", char::from(byte)),
            byte => write!(f, "0x{byte:02x}"),
        }
    }
}
