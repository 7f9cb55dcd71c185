//! `md5` and the hash of password and role, in hexadecimal.
//!
//! PostgreSQL: `pg_md5_encrypt` (src/common/md5_common.c), `md5_crypt_verify` (src/backend/libpq/crypt.c).

use alloc::string::String;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Of the salt that a server sends.
pub const SALT_LEN: usize = 4;

const PREFIX: &str = "md5";
const HASH_LEN: usize = 32;

/// A secret of that kind. Who knows it can log in by the method `md5`.
#[derive(Clone)]
pub struct Md5Secret {
    /// In hexadecimal, without the prefix.
    hash: Zeroizing<[u8; HASH_LEN]>,
}

impl Md5Secret {
    /// `None` when it is not one. PostgreSQL: `get_password_type`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let hash: [u8; HASH_LEN] = text.strip_prefix(PREFIX)?.as_bytes().try_into().ok()?;
        let is_hash = hash.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_hash.then_some(Self { hash: Zeroizing::new(hash) })
    }

    /// The secret of a role's password.
    #[must_use]
    pub fn build(role: &str, password: &[u8]) -> Self {
        Self { hash: hash(password, role.as_bytes()) }
    }

    /// As it is kept.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + HASH_LEN));
        text.push_str(PREFIX);
        text.extend(self.hash.iter().copied().map(char::from));
        text
    }

    /// Whether it was made of this password.
    #[must_use]
    pub(super) fn verify(&self, role: &str, password: &[u8]) -> bool {
        bool::from(self.hash.ct_eq(&hash(password, role.as_bytes())[..]))
    }

    /// Whether this is what a client that knows the password answers to that salt.
    ///
    /// PostgreSQL: `md5_crypt_verify`.
    #[must_use]
    pub fn verify_response(&self, salt: [u8; SALT_LEN], response: &[u8]) -> bool {
        let expected = hash(&*self.hash, &salt);
        // Of one that looks otherwise nothing is secret.
        let Some(given) = response.strip_prefix(PREFIX.as_bytes()) else { return false };
        bool::from(given.ct_eq(&expected[..]))
    }
}

fn hash(text: &[u8], salt: &[u8]) -> Zeroizing<[u8; HASH_LEN]> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or_default();
    let digest = Zeroizing::new(<[u8; 16]>::from(
        Md5::new().chain_update(text).chain_update(salt).finalize(),
    ));
    let mut hash = Zeroizing::new([0; HASH_LEN]);
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 15].map(digit));
    hash.iter_mut().zip(digits).for_each(|(place, digit)| *place = digit);
    hash
}
