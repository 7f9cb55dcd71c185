//! The server's side of SCRAM-SHA-256, with channel binding and without.
//!
//! A client proves that it knows a password, and the server that it has the secret made of it. Messages come in as bytes
//! and go out as bytes; the nonce is handed in. A role without a secret takes the same course to its end and fails
//! there, so that nobody learns which roles there are.
//!
//! Not here: secrets (`password`), the messages that carry these ([`crate::wire`]).
//!
//! PostgreSQL: src/backend/libpq/auth-scram.c; RFC 5802, RFC 7677, RFC 5929.

mod attributes;
#[cfg(test)]
mod tests;
mod violation;

use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use self::attributes::Attributes;
pub use self::violation::ScramViolation;
use crate::password::{KEY_LEN, ScramSecret, decode_base64, encode_base64, hmac, sha256};
use crate::wire::reader::{Malformed, Reader};

/// Without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// With channel binding.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// Bytes of a SASL message. PostgreSQL: `PG_MAX_SASL_MESSAGE_LENGTH`.
pub const SASL_MESSAGE_BYTES_MAX: usize = 1024;
/// Random bytes of a nonce. PostgreSQL: `SCRAM_RAW_NONCE_LEN`.
pub const RAW_NONCE_LEN: usize = 18;

const BINDING_TYPE: &[u8] = b"tls-server-end-point";
const BINDING_HEADER: &[u8] = b"p=tls-server-end-point,,";

/// What a client may select. PostgreSQL: `scram_get_mechanisms`.
#[must_use]
pub fn mechanisms(end_point: Option<&[u8]>) -> Vec<&'static str> {
    match end_point {
        Some(_) => vec![SCRAM_SHA_256_PLUS, SCRAM_SHA_256],
        None => vec![SCRAM_SHA_256],
    }
}

/// SASLInitialResponse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InitialResponse<'a> {
    /// The mechanism that the client has selected.
    pub mechanism: &'a [u8],
    /// What it says to begin with; `None` when it wants to be asked.
    pub data: Option<&'a [u8]>,
}

impl<'a> InitialResponse<'a> {
    /// Decodes the body of the message.
    ///
    /// # Errors
    /// When it breaks a rule.
    pub fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let mechanism = reader.cstr_bytes()?;
        let data = match reader.i32()? {
            -1 => None,
            len => {
                let len = usize::try_from(len).map_err(|_| Malformed::Truncated)?;
                Some(reader.take(len)?)
            }
        };
        reader.end()?;
        Ok(Self { mechanism, data })
    }
}

/// What a client is to prove.
#[derive(Clone, Debug)]
pub enum Credential {
    /// That it knows the password of this secret.
    Secret(ScramSecret),
    /// Nothing will do: the role does not exist, or has no such secret.
    Mock(ScramSecret),
}

/// What to do after a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send this and wait for an answer.
    Continue(Vec<u8>),
    /// The client knows the password; send this.
    Success(Vec<u8>),
    /// It does not.
    Failure,
}

/// One client's exchange.
#[derive(Debug)]
pub struct Exchange {
    secret: ScramSecret,
    doomed: bool,
    /// What the client must be bound to; `None` when it has selected no binding.
    binding: Option<Vec<u8>>,
    /// Whether binding was offered.
    encrypted: bool,
    server_nonce: String,
    state: State,
}

#[derive(Debug)]
enum State {
    Init,
    SaltSent(SaltSent),
    Finished,
}

/// What was said so far.
#[derive(Debug)]
struct SaltSent {
    /// The flag of the client's first message: `n`, `y` or `p`.
    binding_flag: u8,
    client_first_bare: Vec<u8>,
    server_first: Vec<u8>,
    /// The client's and the server's.
    nonce: Vec<u8>,
}

impl Exchange {
    /// Begins with the mechanism that the client has selected. `end_point` is the hash of the server's certificate,
    /// `None` without TLS.
    ///
    /// # Errors
    /// When that mechanism was not offered. PostgreSQL: `scram_init`.
    pub fn new(
        mechanism: &[u8],
        end_point: Option<&[u8]>,
        credential: Credential,
        nonce: &[u8; RAW_NONCE_LEN],
    ) -> Result<Self, ScramViolation> {
        let binding = match end_point {
            Some(hash) if mechanism == SCRAM_SHA_256_PLUS.as_bytes() => Some(hash.to_vec()),
            Some(_) | None if mechanism == SCRAM_SHA_256.as_bytes() => None,
            Some(_) | None => return Err(ScramViolation::Mechanism),
        };
        let (secret, doomed) = match credential {
            Credential::Secret(secret) => (secret, false),
            Credential::Mock(secret) => (secret, true),
        };
        let server_nonce = encode_base64(nonce);
        let encrypted = end_point.is_some();
        Ok(Self { secret, doomed, binding, encrypted, server_nonce, state: State::Init })
    }

    /// Takes the client's next message; `None` when its first one was empty-handed.
    ///
    /// PostgreSQL: `scram_exchange`.
    ///
    /// # Errors
    /// When it breaks a rule; the exchange is over then.
    pub fn handle(&mut self, message: Option<&[u8]>) -> Result<Step, ScramViolation> {
        let Some(message) = message else { return Ok(Step::Continue(Vec::new())) };
        if message.is_empty() {
            return Err(ScramViolation::Empty);
        }
        if message.contains(&0) {
            return Err(ScramViolation::Length);
        }
        match core::mem::replace(&mut self.state, State::Finished) {
            State::Init => {
                let said = self.handle_first(message)?;
                let reply = said.server_first.clone();
                self.state = State::SaltSent(said);
                Ok(Step::Continue(reply))
            }
            State::SaltSent(said) => self.handle_final(&said, message),
            State::Finished => Err(ScramViolation::State),
        }
    }

    /// PostgreSQL: `read_client_first_message`, `build_server_first_message`.
    fn handle_first(&self, message: &[u8]) -> Result<SaltSent, ScramViolation> {
        let mut attributes = Attributes::new(message);
        let binding_flag = self.read_binding_flag(&mut attributes)?;
        if attributes.next() == b'a' {
            return Err(ScramViolation::AuthorizationIdentity);
        }
        attributes.expect(b',', |got| ScramViolation::FirstMessage { got })?;
        let client_first_bare = attributes.rest().to_vec();
        if attributes.next() == b'm' {
            return Err(ScramViolation::MandatoryExtension);
        }
        // The user of the startup packet counts.
        attributes.value(b'n')?;
        let client_nonce = attributes.value(b'r')?;
        let is_printable = |byte: &u8| byte.is_ascii_graphic() && *byte != b',';
        if !client_nonce.iter().all(is_printable) {
            return Err(ScramViolation::Nonce);
        }
        while !attributes.rest().is_empty() {
            attributes.any()?;
        }
        let nonce = [client_nonce, self.server_nonce.as_bytes()].concat();
        let salt = encode_base64(&self.secret.salt);
        let salted = format!(",s={salt},i={}", self.secret.iterations);
        let server_first = [b"r=", &nonce[..], salted.as_bytes()].concat();
        Ok(SaltSent { binding_flag, client_first_bare, server_first, nonce })
    }

    /// The GS2 header up to the authorization identity.
    fn read_binding_flag(&self, attributes: &mut Attributes<'_>) -> Result<u8, ScramViolation> {
        let flag = attributes.next();
        match flag {
            // `y`: it could, and thinks that the server cannot. Who made it think so is in between.
            b'n' | b'y' => {
                if self.binding.is_some() {
                    return Err(ScramViolation::NoBinding);
                }
                if flag == b'y' && self.encrypted {
                    return Err(ScramViolation::Downgrade);
                }
                attributes.skip();
                attributes.expect(b',', |got| ScramViolation::Comma { got })?;
            }
            b'p' => {
                if self.binding.is_none() {
                    return Err(ScramViolation::UnexpectedBinding);
                }
                let binding_type = attributes.value(b'p')?;
                if binding_type != BINDING_TYPE {
                    return Err(ScramViolation::binding_type(binding_type));
                }
            }
            got => return Err(ScramViolation::BindingFlag { got }),
        }
        Ok(flag)
    }

    /// PostgreSQL: `read_client_final_message`, `verify_final_nonce`, `verify_client_proof`,
    /// `build_server_final_message`.
    fn handle_final(&self, said: &SaltSent, message: &[u8]) -> Result<Step, ScramViolation> {
        let mut attributes = Attributes::new(message);
        self.check_binding(said.binding_flag, attributes.value(b'c')?)?;
        let nonce = attributes.value(b'r')?;
        let (without_proof, proof) = loop {
            // Without the comma before it.
            let before = message.len() - attributes.rest().len();
            if let (b'p', value) = attributes.any()? {
                break (message.get(..before - 1).unwrap_or_default(), value);
            }
        };
        let proof = decode_base64(proof).and_then(|proof| <[u8; KEY_LEN]>::try_from(proof).ok());
        let proof = Zeroizing::new(proof.ok_or(ScramViolation::Proof)?);
        if !attributes.rest().is_empty() {
            return Err(ScramViolation::Garbage);
        }
        if nonce != said.nonce {
            return Err(ScramViolation::NonceMismatch);
        }
        let auth_message: [&[u8]; 5] =
            [&said.client_first_bare, b",", &said.server_first, b",", without_proof];
        let mut client_key = hmac(&self.secret.stored_key[..], &auth_message);
        client_key.iter_mut().zip(proof.iter()).for_each(|(key, proof)| *key ^= proof);
        let is_right = sha256(&[&*client_key]).ct_eq(&self.secret.stored_key[..]);
        // Both are computed whatever comes of it.
        let signature = hmac(&self.secret.server_key[..], &auth_message);
        if !bool::from(is_right) || self.doomed {
            return Ok(Step::Failure);
        }
        Ok(Step::Success([b"v=", encode_base64(&*signature).as_bytes()].concat()))
    }

    /// The flag once more, and what the client is bound to.
    fn check_binding(&self, flag: u8, given: &[u8]) -> Result<(), ScramViolation> {
        match (&self.binding, flag) {
            (Some(hash), _) => {
                let expected = encode_base64(&[BINDING_HEADER, &hash[..]].concat());
                let is_same = given == expected.as_bytes();
                is_same.then_some(()).ok_or(ScramViolation::BindingMismatch)
            }
            // "n,," and "y,,".
            (None, b'n') if given == b"biws" => Ok(()),
            (None, b'y') if given == b"eSws" => Ok(()),
            (None, _) => Err(ScramViolation::BindingAttribute),
        }
    }
}
