//! `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, salt and keys in Base64.
//!
//! PostgreSQL: `parse_scram_secret` (src/backend/libpq/auth-scram.c), src/common/scram-common.c; RFC 5802, RFC 7677.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU32;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::saslprep;

/// Of every key and hash.
pub const KEY_LEN: usize = 32;
/// Of a new salt. PostgreSQL: `SCRAM_DEFAULT_SALT_LEN`.
pub const SALT_LEN: usize = 16;
/// Of what salts of roles that have no secret are made of. PostgreSQL: `MOCK_AUTH_NONCE_LEN`.
pub const MOCK_NONCE_LEN: usize = 32;

const SCHEME: &str = "SCRAM-SHA-256";
/// PostgreSQL keeps the number in an `int`.
const ITERATIONS_MAX: u32 = i32::MAX.unsigned_abs();

/// A secret of that kind. Who knows it can pass for the server, but cannot log in.
#[derive(Clone)]
pub struct ScramSecret {
    pub(crate) iterations: NonZeroU32,
    pub(crate) salt: Vec<u8>,
    pub(crate) stored_key: Key,
    pub(crate) server_key: Key,
}

/// A key or a hash.
pub(crate) type Key = Zeroizing<[u8; KEY_LEN]>;

impl fmt::Debug for ScramSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramSecret(..)")
    }
}

impl ScramSecret {
    /// `None` when it is not one. PostgreSQL: `parse_scram_secret`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once('$')?;
        let (salted, keys) = rest.split_once('$')?;
        let (iterations, salt) = salted.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        if scheme != SCHEME || salt.is_empty() {
            return None;
        }
        let iterations: NonZeroU32 = iterations.parse().ok()?;
        let key = |text: &str| {
            let key = Zeroizing::new(decode_base64(text.as_bytes())?);
            <[u8; KEY_LEN]>::try_from(key.as_slice()).ok().map(Zeroizing::new)
        };
        Some(Self {
            iterations: Some(iterations).filter(|count| count.get() <= ITERATIONS_MAX)?,
            salt: decode_base64(salt.as_bytes())?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// The secret of a password. PostgreSQL: `pg_be_scram_build_secret`.
    #[must_use]
    pub fn build(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let salted = salted_password(password, salt, iterations);
        let client_key = hmac(&*salted, &[b"Client Key"]);
        Self {
            iterations,
            salt: salt.into(),
            stored_key: sha256(&[&*client_key]),
            server_key: server_key(&salted),
        }
    }

    /// What a role without a secret answers with: its salt is the same each time, as of a role that has one. Nobody can
    /// know a password of it.
    ///
    /// PostgreSQL: `mock_scram_secret`.
    #[must_use]
    pub fn mock(nonce: &[u8; MOCK_NONCE_LEN], role: &str, iterations: NonZeroU32) -> Self {
        let hash = sha256(&[role.as_bytes(), nonce]);
        Self {
            iterations,
            salt: hash.iter().copied().take(SALT_LEN).collect(),
            stored_key: Key::default(),
            server_key: Key::default(),
        }
    }

    /// As it is kept.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let [salt, stored_key, server_key] =
            [&self.salt[..], &*self.stored_key, &*self.server_key].map(encode_base64);
        Zeroizing::new(format!("{SCHEME}${}:{salt}${stored_key}:{server_key}", self.iterations))
    }

    /// Whether it was made of this password. PostgreSQL: `scram_verify_plain_password`.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        let salted = salted_password(password, &self.salt, self.iterations);
        bool::from(self.server_key.ct_eq(&server_key(&salted)[..]))
    }
}

/// All the work that there is in it. PostgreSQL: `scram_SaltedPassword`.
fn salted_password(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Key {
    let password = saslprep::prepare(password);
    let mut salted = Key::default();
    pbkdf2::pbkdf2_hmac::<Sha256>(&password, salt, iterations.get(), &mut *salted);
    salted
}

fn server_key(salted_password: &[u8; KEY_LEN]) -> Key {
    hmac(salted_password, &[b"Server Key"])
}

pub(crate) fn hmac(key: &[u8], text: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key may have any length");
    text.iter().for_each(|part| mac.update(part));
    Zeroizing::new(mac.finalize().into_bytes().into())
}

pub(crate) fn sha256(text: &[&[u8]]) -> Key {
    let mut digest = Sha256::new();
    text.iter().for_each(|part| digest.update(part));
    Zeroizing::new(digest.finalize().into())
}

/// Bits after the last whole byte are nobody's concern. PostgreSQL: `pg_b64_decode`.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

pub(crate) fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}
