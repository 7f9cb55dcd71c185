//! Statements about roles, as they were written.
//!
//! Not here: their grammar (walhub-sql), what they do (`change`).
//!
//! PostgreSQL: `CreateRoleStmt`, `AlterRoleStmt`, `GrantRoleStmt` (src/include/nodes/parsenodes.h).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use zeroize::Zeroize as _;

/// A role, as a statement names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RoleSpec {
    /// By its name.
    Name(String),
    /// `CURRENT_ROLE` or `CURRENT_USER`.
    Current,
    /// `SESSION_USER`.
    Session,
    /// `PUBLIC`: nobody in particular.
    Public,
}

/// A password that a statement gives: in clear, or a secret that was made of it already.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

/// Nothing of it stays in memory.
impl Drop for Password {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// It is not shown.
impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(********)")
    }
}

/// What a statement says about a role; `None` where it says nothing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RoleOptions {
    /// `[NO]SUPERUSER`
    pub superuser: Option<bool>,
    /// `[NO]INHERIT`
    pub inherit: Option<bool>,
    /// `[NO]CREATEROLE`
    pub create_role: Option<bool>,
    /// `[NO]CREATEDB`
    pub create_db: Option<bool>,
    /// `[NO]LOGIN`
    pub login: Option<bool>,
    /// `[NO]REPLICATION`
    pub replication: Option<bool>,
    /// `[NO]BYPASSRLS`
    pub bypass_rls: Option<bool>,
    /// `CONNECTION LIMIT`
    pub connection_limit: Option<i32>,
    /// `PASSWORD`; `Some(None)` is `PASSWORD NULL`.
    pub password: Option<Option<Password>>,
    /// `VALID UNTIL`, as it was written: what it means depends on the session's time zone.
    pub valid_until: Option<String>,
    /// `SYSID`, which is no longer looked at.
    pub has_sysid: bool,
    /// `IN ROLE`: roles that the new one becomes a member of.
    pub in_roles: Vec<RoleSpec>,
    /// `ROLE`: who becomes a member of the new one.
    pub members: Vec<RoleSpec>,
    /// `ADMIN`: who becomes a member of the new one, and may grant it on.
    pub admins: Vec<RoleSpec>,
}

/// A statement about roles.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RoleStatement {
    /// CREATE ROLE, USER or GROUP.
    Create {
        /// The new role.
        name: String,
        /// What it is to be. CREATE USER has said LOGIN here unless it says NOLOGIN.
        options: RoleOptions,
    },
    /// ALTER ROLE, USER or GROUP.
    Alter {
        /// Which role.
        role: RoleSpec,
        /// What it is to be.
        options: RoleOptions,
    },
    /// ALTER ROLE ... RENAME TO.
    Rename {
        /// The role.
        name: String,
        /// Its new name.
        to: String,
    },
    /// DROP ROLE, USER or GROUP.
    Drop {
        /// Which roles.
        roles: Vec<RoleSpec>,
        /// IF EXISTS.
        missing_ok: bool,
    },
    /// GRANT of roles, and ALTER GROUP ... ADD USER.
    Grant {
        /// What is granted.
        roles: Vec<RoleSpec>,
        /// To whom.
        to: Vec<RoleSpec>,
        /// WITH ADMIN OPTION.
        admin_option: bool,
        /// GRANTED BY.
        grantor: Option<RoleSpec>,
        /// What the statement is.
        spelling: Spelling,
    },
    /// REVOKE of roles, and ALTER GROUP ... DROP USER.
    Revoke {
        /// What is revoked.
        roles: Vec<RoleSpec>,
        /// From whom.
        from: Vec<RoleSpec>,
        /// ADMIN OPTION FOR: the membership stays.
        admin_option_only: bool,
        /// What the statement is.
        spelling: Spelling,
    },
}

/// How memberships are changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spelling {
    /// GRANT or REVOKE.
    Grant,
    /// ALTER GROUP, which may not change a predefined role.
    AlterGroup,
}

impl RoleStatement {
    /// Its command tag.
    #[must_use]
    pub const fn tag(&self) -> &'static str {
        match self {
            Self::Create { .. } => "CREATE ROLE",
            Self::Alter { .. }
            | Self::Rename { .. }
            | Self::Grant { spelling: Spelling::AlterGroup, .. }
            | Self::Revoke { spelling: Spelling::AlterGroup, .. } => "ALTER ROLE",
            Self::Drop { .. } => "DROP ROLE",
            Self::Grant { spelling: Spelling::Grant, .. } => "GRANT ROLE",
            Self::Revoke { spelling: Spelling::Grant, .. } => "REVOKE ROLE",
        }
    }

    /// What it says about one role.
    #[must_use]
    pub const fn options(&self) -> Option<&RoleOptions> {
        match self {
            Self::Create { options, .. } | Self::Alter { options, .. } => Some(options),
            Self::Rename { .. } | Self::Drop { .. } | Self::Grant { .. } | Self::Revoke { .. } => {
                None
            }
        }
    }
}
