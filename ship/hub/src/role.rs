//! Who this server is to its WAL. The wal core decides; everybody may read it.
//!
//! Not here: what a role has to do (`wal_core`), what the control file says of it
//! (`walhub_proto::recovery::ControlFile::own_wal`).
//!
//! PostgreSQL: `RecoveryInProgress`.

use std::sync::atomic::{AtomicU8, Ordering};

/// A server's role.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Role {
    /// It receives the WAL of an upstream.
    Relay,
    /// It is on its way from a relay to a primary, and receives nothing any more.
    Promoting,
    /// The WAL is its own.
    Primary,
    /// It must not be the primary any more: it serves what is durable, and acknowledges nothing.
    Fenced,
}

impl Role {
    const ALL: [Self; 4] = [Self::Relay, Self::Promoting, Self::Primary, Self::Fenced];

    /// Whether the WAL is an upstream's, and nothing can be appended. PostgreSQL: `pg_is_in_recovery`.
    #[must_use]
    pub const fn in_recovery(self) -> bool {
        match self {
            Self::Relay | Self::Promoting => true,
            Self::Primary | Self::Fenced => false,
        }
    }
}

/// The role, as the wal core publishes it.
#[derive(Debug)]
pub struct PublishedRole(AtomicU8);

impl Default for PublishedRole {
    fn default() -> Self {
        Self(AtomicU8::new(Role::Relay as u8))
    }
}

impl PublishedRole {
    /// Publishes the role, and with it everything that its writer did before.
    pub fn store(&self, role: Role) {
        self.0.store(role as u8, Ordering::Release);
    }

    /// Reads the role.
    ///
    /// # Panics
    /// Never: what is published is a role.
    #[must_use]
    pub fn load(&self) -> Role {
        let number = usize::from(self.0.load(Ordering::Acquire));
        Role::ALL.get(number).copied().expect("a role was published")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_is_read_as_it_was_published() {
        let published = PublishedRole::default();
        assert_eq!(published.load(), Role::Relay);
        for role in Role::ALL {
            published.store(role);
            assert_eq!(published.load(), role);
        }
    }
}
