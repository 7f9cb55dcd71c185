//! Random bytes that nobody can guess.
//!
//! PostgreSQL: `pg_strong_random` (src/port/pg_strong_random.c).

use ring::rand::{SecureRandom, SystemRandom};

/// Random bytes of the operating system.
///
/// # Panics
/// When it has none: what would be made of others would be no secret.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system has random bytes");
    bytes
}
