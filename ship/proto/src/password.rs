//! What is kept of a password, and whether a password is the one that it was made of.
//!
//! A secret is text, as `pg_authid.rolpassword` and PgBouncer's userlist have it. Salts are handed in. Everything
//! that a password could be computed from is overwritten once it is not needed, and compared in constant time.
//!
//! Not here: how a client proves that it knows one without telling it (`scram`), where secrets are kept (`roles`).
//!
//! PostgreSQL: src/backend/libpq/crypt.c, src/backend/libpq/auth-scram.c, src/common/scram-common.c,
//! src/common/md5_common.c.

mod md5;
mod saslprep;
mod scram_secret;
#[cfg(test)]
mod tests;

use alloc::string::String;
use core::fmt;
use core::num::NonZeroU32;

use zeroize::Zeroizing;

pub use self::md5::{Md5Secret, SALT_LEN as MD5_SALT_LEN};
pub use self::scram_secret::{KEY_LEN, MOCK_NONCE_LEN, SALT_LEN as SCRAM_SALT_LEN, ScramSecret};
pub(crate) use self::scram_secret::{decode_base64, encode_base64, hmac, sha256};

/// `scram_iterations`, when nobody has said another. PostgreSQL: `SCRAM_SHA_256_DEFAULT_ITERATIONS`.
pub const SCRAM_ITERATIONS_DEFAULT: NonZeroU32 = NonZeroU32::new(4096).expect("it is not zero");

/// What is kept of a password.
#[derive(Clone)]
pub enum Secret {
    /// `md5` and a hash of password and role.
    Md5(Md5Secret),
    /// `SCRAM-SHA-256$...`.
    ScramSha256(ScramSecret),
    /// Neither: the password itself. PostgreSQL has kept none since 10 and lets nobody in with it.
    Plain(Zeroizing<String>),
}

impl Secret {
    /// Tells what kind it is. PostgreSQL: `get_password_type`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if let Some(secret) = Md5Secret::parse(text) {
            return Self::Md5(secret);
        }
        match ScramSecret::parse(text) {
            Some(secret) => Self::ScramSha256(secret),
            None => Self::Plain(Zeroizing::new(String::from(text))),
        }
    }

    /// Whether the secret of this role was made of this password. It takes as long as making it did.
    ///
    /// PostgreSQL: `plain_crypt_verify`.
    #[must_use]
    pub fn verify(&self, role: &str, password: &[u8]) -> bool {
        match self {
            Self::Md5(secret) => secret.verify(role, password),
            Self::ScramSha256(secret) => secret.verify(password),
            Self::Plain(_) => false,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Md5(_) => "Md5(..)",
            Self::ScramSha256(_) => "ScramSha256(..)",
            Self::Plain(_) => "Plain(..)",
        })
    }
}

/// What a new secret shall be: `password_encryption`, and `scram_iterations` with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encryption {
    /// `md5`.
    Md5,
    /// `scram-sha-256`.
    ScramSha256 {
        /// `scram_iterations`.
        iterations: NonZeroU32,
    },
}

/// The text to keep of a role's password; one that is a secret already is kept as it is.
///
/// PostgreSQL: `encrypt_password`.
#[must_use]
pub fn encrypt(
    encryption: Encryption,
    role: &str,
    password: &str,
    salt: &[u8; SCRAM_SALT_LEN],
) -> Zeroizing<String> {
    match (Secret::parse(password), encryption) {
        (Secret::Md5(_) | Secret::ScramSha256(_), _) => Zeroizing::new(String::from(password)),
        (Secret::Plain(_), Encryption::Md5) => Md5Secret::build(role, password.as_bytes()).text(),
        (Secret::Plain(_), Encryption::ScramSha256 { iterations }) => {
            ScramSecret::build(password.as_bytes(), salt, iterations).text()
        }
    }
}
