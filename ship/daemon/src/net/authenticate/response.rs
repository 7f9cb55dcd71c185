//! A client's answer to a request: the message `p`, whole, and nothing of it left behind.
//!
//! PostgreSQL: `recv_password_packet` (src/backend/libpq/auth.c), `pq_getmessage` (src/backend/libpq/pqcomm.c).

use walhub_proto::scram::SASL_MESSAGE_BYTES_MAX;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;
use walhub_proto::wire::frontend::AUTH_TOKEN_LIMIT;
use walhub_proto::wire::reader::FRAME_HEADER_LEN;
use zeroize::{Zeroize as _, Zeroizing};

use super::{Attempt, BYTES_MAX, NotAuthenticated, Refusal};

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// A password, or its digest.
    Password,
    /// A message of SASL.
    Sasl,
}

/// What came.
pub(super) enum Response {
    /// The body of the message.
    Message(Zeroizing<Vec<u8>>),
    /// A message that is longer than any may be. The log knows.
    TooLong,
}

impl Attempt<'_> {
    /// Sends what was asked, and waits for the answer.
    pub(super) async fn ask(&mut self, expected: Expected) -> Result<Response, NotAuthenticated> {
        self.connection.flush().await?;
        let bytes_max = BYTES_MAX.saturating_sub(self.applicant.packet_bytes);
        let (name, length_max) = match expected {
            Expected::Password => ("password", AUTH_TOKEN_LIMIT.min(bytes_max - 1)),
            Expected::Sasl => ("SASL", SASL_MESSAGE_BYTES_MAX),
        };
        let response = loop {
            let read = &mut self.connection.read;
            let wanted = match read.first_chunk::<FRAME_HEADER_LEN>() {
                _ if read.first().is_some_and(|&kind| kind != b'p') => {
                    return Err(unexpected(name, read).into());
                }
                None => FRAME_HEADER_LEN,
                Some(&[_, a, b, c, d]) => {
                    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok();
                    let length = length.filter(|length| (4..=length_max).contains(length));
                    let Some(length) = length else {
                        tracing::info!("invalid message length");
                        break Response::TooLong;
                    };
                    if read.len() > length {
                        break Response::Message(take_body(read, 1 + length));
                    }
                    1 + length
                }
            };
            grow(read, wanted);
            if !self.connection.fill_within(bytes_max).await? {
                return Err(NotAuthenticated::Left);
            }
        };
        self.silent.heard();
        Ok(response)
    }
}

fn unexpected(name: &str, read: &[u8]) -> Refusal {
    let kind = read.first().copied().unwrap_or_default();
    let message = format!("expected {name} response, got message type {kind}");
    Report::fatal(SqlState::PROTOCOL_VIOLATION, message).into()
}

/// Makes room for a whole message at once; nothing is left where it was before.
fn grow(read: &mut Vec<u8>, len: usize) {
    if read.capacity() < len {
        let mut larger = Vec::with_capacity(len);
        larger.extend_from_slice(read);
        read.zeroize();
        *read = larger;
    }
}

fn take_body(read: &mut Vec<u8>, frame_len: usize) -> Zeroizing<Vec<u8>> {
    let (frame, rest) = read.split_at_mut(frame_len);
    let body = Zeroizing::new(frame.get(FRAME_HEADER_LEN..).unwrap_or_default().to_vec());
    let rest = rest.to_vec();
    read.zeroize();
    *read = rest;
    body
}
