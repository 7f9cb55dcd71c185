//! What the wal core has to do in its role, and what it needs for that.
//!
//! Not here: the role as others see it (`crate::role`).

use crate::intake::own::OwnWal;
use crate::policy::promotion::Promotion;
use crate::role::Role;

/// A role, with what belongs to it.
#[derive(Debug)]
pub(super) enum Duty {
    /// To receive the WAL of an upstream.
    Receive,
    /// To become the primary.
    Promote(Promotion),
    /// To write WAL of its own.
    Write(Box<OwnWal>),
    /// To acknowledge nothing: only what is durable is served.
    #[cfg_attr(not(test), expect(dead_code, reason = "failover will fence, nothing does yet"))]
    Keep,
}

impl Duty {
    pub(super) const fn role(&self) -> Role {
        match self {
            Self::Receive => Role::Relay,
            Self::Promote(_) => Role::Promoting,
            Self::Write(_) => Role::Primary,
            Self::Keep => Role::Fenced,
        }
    }

    pub(super) fn own(&self) -> Option<&OwnWal> {
        match self {
            Self::Write(own) => Some(own),
            Self::Receive | Self::Promote(_) | Self::Keep => None,
        }
    }

    pub(super) fn own_mut(&mut self) -> Option<&mut OwnWal> {
        match self {
            Self::Write(own) => Some(own),
            Self::Receive | Self::Promote(_) | Self::Keep => None,
        }
    }
}
