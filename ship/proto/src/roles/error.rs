//! Why roles are not changed, in PostgreSQL's words.
//!
//! PostgreSQL: src/backend/commands/user.c, src/backend/utils/adt/acl.c.

use alloc::string::String;
use core::fmt;

use crate::sqlstate::SqlState;
use crate::wire::backend::Report;

/// Why a statement about roles fails.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RoleError {
    /// There is no role of that name.
    Undefined(String),
    /// There is one already.
    Duplicate(String),
    /// The name begins with `pg_`.
    Reserved(String),
    /// A predefined role stays as it is.
    AlterReserved(String),
    /// Who does it may not: a whole message.
    Denied(&'static str),
    /// Who does it may not grant that role.
    NotAdmin(String),
    /// `role` is a member of `member`, which cannot become a member of it.
    Circular {
        /// What would be granted.
        role: String,
        /// To whom.
        member: String,
    },
    /// pg_database_owner has no members that are written down.
    NoMembers(String),
    /// pg_database_owner is no member.
    NotAMember(String),
    /// It belongs to the system.
    Required(String),
    /// It is somebody's at this moment: a whole message.
    InUse(&'static str),
    /// It cannot be renamed at this moment: a whole message.
    NotRenamed(&'static str),
    /// DROP ROLE takes names.
    SpecialDropped,
    /// The bootstrap superuser stays one.
    Bootstrap,
    /// Not a number of connections.
    ConnectionLimit(i32),
    /// There are as many as there can be.
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many there can be.
        max: usize,
    },
}

impl RoleError {
    /// Its SQLSTATE.
    #[must_use]
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::Undefined(_) => SqlState::UNDEFINED_OBJECT,
            Self::Duplicate(_) => SqlState::DUPLICATE_OBJECT,
            Self::Reserved(_) | Self::AlterReserved(_) => SqlState::RESERVED_NAME,
            Self::Denied(_) | Self::NotAdmin(_) => SqlState::INSUFFICIENT_PRIVILEGE,
            Self::Circular { .. } => SqlState::INVALID_GRANT_OPERATION,
            // PostgreSQL says no more than that it is an error.
            Self::NoMembers(_) | Self::NotAMember(_) => SqlState::INTERNAL_ERROR,
            Self::Required(_) => SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
            Self::InUse(_) => SqlState::OBJECT_IN_USE,
            Self::NotRenamed(_) | Self::Bootstrap => SqlState::FEATURE_NOT_SUPPORTED,
            Self::SpecialDropped | Self::ConnectionLimit(_) => SqlState::INVALID_PARAMETER_VALUE,
            Self::TooMany { .. } => SqlState::PROGRAM_LIMIT_EXCEEDED,
        }
    }

    /// The error for the client.
    #[must_use]
    pub fn report(&self) -> Report {
        let report = Report::error(self.sqlstate(), alloc::format!("{self}"));
        match self {
            Self::Reserved(_) => report.detail("Role names starting with \"pg_\" are reserved."),
            Self::AlterReserved(_) => report.detail("Cannot alter reserved roles."),
            Self::Bootstrap => {
                report.detail("The bootstrap user must have the SUPERUSER attribute.")
            }
            _ => report,
        }
    }
}

impl fmt::Display for RoleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undefined(name) => write!(f, "role \"{name}\" does not exist"),
            Self::Duplicate(name) => write!(f, "role \"{name}\" already exists"),
            Self::Reserved(name) | Self::AlterReserved(name) => {
                write!(f, "role name \"{name}\" is reserved")
            }
            Self::Denied(message) | Self::InUse(message) | Self::NotRenamed(message) => {
                f.write_str(message)
            }
            Self::NotAdmin(role) => write!(f, "must have admin option on role \"{role}\""),
            Self::Circular { role, member } => {
                write!(f, "role \"{role}\" is a member of role \"{member}\"")
            }
            Self::NoMembers(role) => write!(f, "role \"{role}\" cannot have explicit members"),
            Self::NotAMember(role) => write!(f, "role \"{role}\" cannot be a member of any role"),
            Self::Required(role) => {
                write!(f, "cannot drop role {role} because it is required by the database system")
            }
            Self::SpecialDropped => f.write_str("cannot use special role specifier in DROP ROLE"),
            Self::Bootstrap => f.write_str("permission denied to alter role"),
            Self::ConnectionLimit(limit) => write!(f, "invalid connection limit: {limit}"),
            Self::TooMany { what, max } => write!(f, "there cannot be more than {max} {what}"),
        }
    }
}
