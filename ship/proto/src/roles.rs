//! Who there is: roles, what they may do, and whose member they are.
//!
//! [`Roles`] is a value: a change makes another one of it (`change`), and both can be asked the same questions. Roles that
//! PostgreSQL has from its start are `predefined`; `file` is how all of it is kept.
//!
//! Not here: where they are kept, how statements are parsed, and what a secret means (`password`).
//!
//! PostgreSQL: `pg_authid`, `pg_auth_members`, src/backend/utils/adt/acl.c.

pub mod change;
pub mod error;
pub mod file;
pub mod predefined;
pub mod statement;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::hba;
use crate::time::Timestamp;

/// The superuser that is there from the beginning. PostgreSQL: `BOOTSTRAP_SUPERUSERID`.
pub const BOOTSTRAP_SUPERUSER: u32 = 10;
/// The first OID that a statement may give out. PostgreSQL: `FirstNormalObjectId`.
pub const FIRST_NORMAL_OID: u32 = 16_384;
/// Roles that there can be: all of them are in one file, which each change writes anew.
pub const ROLES_MAX: usize = 10_000;
/// Memberships that there can be.
pub const MEMBERSHIPS_MAX: usize = 20_000;

/// A role.
#[allow(missing_docs, reason = "the fields are the columns of pg_authid")]
#[derive(Clone, PartialEq, Eq)]
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

impl Role {
    /// A role as CREATE ROLE makes it without options.
    #[must_use]
    pub const fn new(oid: u32, name: String) -> Self {
        Self {
            oid,
            name,
            superuser: false,
            inherit: true,
            create_role: false,
            create_db: false,
            login: false,
            replication: false,
            bypass_rls: false,
            connection_limit: -1,
            password: None,
            valid_until: None,
        }
    }

    /// A role that may do everything.
    #[must_use]
    pub fn superuser(oid: u32, name: String) -> Self {
        Self {
            superuser: true,
            create_role: true,
            create_db: true,
            login: true,
            replication: true,
            bypass_rls: true,
            ..Self::new(oid, name)
        }
    }
}

/// Its secret is not shown.
impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Role")
            .field("oid", &self.oid)
            .field("name", &self.name)
            .field("superuser", &self.superuser)
            .field("login", &self.login)
            .field("replication", &self.replication)
            .field("has_password", &self.password.is_some())
            .finish_non_exhaustive()
    }
}

/// That one role is a member of another. PostgreSQL: a row of `pg_auth_members`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Membership {
    /// What it is a member of.
    pub role: u32,
    /// Who is.
    pub member: u32,
    /// Who has granted it.
    pub grantor: u32,
    /// Whether the member may grant it on.
    pub admin_option: bool,
}

/// Which memberships count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Recurse {
    /// All. PostgreSQL: `ROLERECURSE_MEMBERS`.
    Members,
    /// Those whose member inherits. PostgreSQL: `ROLERECURSE_PRIVS`.
    Privileges,
}

/// All roles and memberships.
///
/// Invariants:
/// - The bootstrap superuser is there, and is a superuser; so are the predefined roles.
/// - No two roles have one name.
/// - Both roles of a membership are there, and no role is its own member by however many steps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Roles {
    by_oid: BTreeMap<u32, Arc<Role>>,
    memberships: Vec<Membership>,
    /// The OID that the next role gets.
    next_oid: u32,
}

impl Roles {
    /// The roles of a new cluster. PostgreSQL: pg_authid.dat, system_functions.sql.
    #[must_use]
    pub fn new(superuser: &str) -> Self {
        let bootstrap = Role::superuser(BOOTSTRAP_SUPERUSER, String::from(superuser));
        let mut roles = Self {
            by_oid: predefined::roles().map(|role| (role.oid, Arc::new(role))).collect(),
            memberships: predefined::memberships().collect(),
            next_oid: FIRST_NORMAL_OID,
        };
        roles.by_oid.insert(BOOTSTRAP_SUPERUSER, Arc::new(bootstrap));
        roles
    }

    /// The role of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Role>> {
        self.by_oid.values().find(|role| role.name == name)
    }

    /// The role of that OID.
    #[must_use]
    pub fn by_oid(&self, oid: u32) -> Option<&Arc<Role>> {
        self.by_oid.get(&oid)
    }

    /// All roles, by OID.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Role>> {
        self.by_oid.values()
    }

    /// All memberships, oldest first.
    #[must_use]
    pub fn memberships(&self) -> &[Membership] {
        &self.memberships
    }

    /// Whether that role may do everything. PostgreSQL: `superuser_arg`.
    #[must_use]
    pub fn is_superuser(&self, oid: u32) -> bool {
        self.by_oid(oid).is_some_and(|role| role.superuser)
    }

    /// Whether `member` is a member of `role`, by however many steps, or is that role.
    /// PostgreSQL: `is_member_of_role_nosuper`.
    #[must_use]
    pub fn is_member_of_nosuper(&self, member: u32, role: u32) -> bool {
        member == role || self.reached(member, Recurse::Members).contains(&role)
    }

    /// As [`Roles::is_member_of_nosuper`]; a superuser is a member of everything. PostgreSQL: `is_member_of_role`.
    #[must_use]
    pub fn is_member_of(&self, member: u32, role: u32) -> bool {
        member == role || self.is_superuser(member) || self.is_member_of_nosuper(member, role)
    }

    /// Whether `member` has the privileges of `role` without SET ROLE. PostgreSQL: `has_privs_of_role`.
    #[must_use]
    pub fn has_privs_of(&self, member: u32, role: u32) -> bool {
        member == role
            || self.is_superuser(member)
            || self.reached(member, Recurse::Privileges).contains(&role)
    }

    /// Whether `member` may grant `role`. PostgreSQL: `is_admin_of_role`.
    #[must_use]
    pub fn is_admin_of(&self, member: u32, role: u32) -> bool {
        if self.is_superuser(member) {
            return true;
        }
        if member == role {
            return false;
        }
        let reached = self.reached(member, Recurse::Members);
        let grants =
            |it: &Membership| it.role == role && it.admin_option && reached.contains(&it.member);
        self.memberships.iter().any(grants)
    }

    /// Whether it may replicate. PostgreSQL: `has_rolreplication`.
    #[must_use]
    pub fn may_replicate(&self, oid: u32) -> bool {
        self.by_oid(oid).is_some_and(|role| role.superuser || role.replication)
    }

    /// Whether it may make and change roles. PostgreSQL: `has_createrole_privilege`.
    #[must_use]
    pub fn may_create_roles(&self, oid: u32) -> bool {
        self.by_oid(oid).is_some_and(|role| role.superuser || role.create_role)
    }

    /// What a role is a member of, itself first. PostgreSQL: `roles_is_member_of`.
    fn reached(&self, member: u32, recurse: Recurse) -> Vec<u32> {
        let mut reached = vec![member];
        let mut next = 0;
        while let Some(&oid) = reached.get(next) {
            next += 1;
            let inherits = self.by_oid(oid).is_some_and(|role| role.inherit);
            if recurse == Recurse::Privileges && !inherits {
                continue;
            }
            for membership in self.memberships.iter().filter(|it| it.member == oid) {
                if !reached.contains(&membership.role) {
                    reached.push(membership.role);
                }
            }
        }
        reached
    }
}

/// As `+role` of pg_hba.conf asks: superusers are members of nothing by themselves.
impl hba::Membership for Roles {
    fn role_exists(&self, role: &str) -> bool {
        self.get(role).is_some()
    }

    fn is_member(&self, user: &str, role: &str) -> bool {
        match (self.get(user), self.get(role)) {
            (Some(user), Some(role)) => self.is_member_of_nosuper(user.oid, role.oid),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
