//! Who there is: roles, what they may do, and whose member they are.
//!
//! Not here: where they are kept, the statements that change them, and their secrets' meaning (`password`).
//!
//! PostgreSQL: `pg_authid`, `pg_auth_members`, src/backend/utils/adt/acl.c.

use alloc::string::String;

use crate::time::Timestamp;

/// A role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Role {
    pub oid: u32,
    pub name: String,
    pub superuser: bool,
    pub inherit: bool,
    pub create_role: bool,
    pub create_db: bool,
    pub login: bool,
    pub replication: bool,
    pub bypass_rls: bool,
    /// Sessions that it may have at once; -1 is no limit.
    pub connection_limit: i32,
    /// As `pg_authid.rolpassword` has it.
    pub password: Option<String>,
    /// When the password ends.
    pub valid_until: Option<Timestamp>,
}
