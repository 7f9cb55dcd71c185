//! What a statement makes of the roles, and who may run it.
//!
//! PostgreSQL 15's rules: who has CREATEROLE may do everything to roles that are neither superusers nor replicate.
//!
//! PostgreSQL: `CreateRole`, `AlterRole`, `DropRole`, `RenameRole`, `AddRoleMems`, `DelRoleMems`
//! (src/backend/commands/user.c).

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::error::RoleError;
use super::learnt::Keeper;
use super::predefined::{PG_DATABASE_OWNER, is_predefined, is_reserved};
use super::statement::{RoleOptions, RoleSpec, RoleStatement, Spelling};
use super::{BOOTSTRAP_SUPERUSER, MEMBERSHIPS_MAX, Membership, ROLES_MAX, Role, Roles};
use crate::sqlstate::SqlState;
use crate::time::Timestamp;
use crate::wire::backend::{Report, Severity};

/// Who changes roles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Actor {
    /// The current user. PostgreSQL: `GetUserId`.
    pub current: u32,
    /// The session user. PostgreSQL: `GetSessionUserId`.
    pub session: u32,
}

/// What the texts of a statement have come to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Settled {
    /// The secret of its password, where it has one.
    pub secret: Option<Secret>,
    /// Its VALID UNTIL.
    pub valid_until: Option<Timestamp>,
}

/// What `pg_authid.rolpassword` becomes. It is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl core::fmt::Debug for Secret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Secret(********)")
    }
}

/// The roles after a change, and what the client is told beside.
pub type Changed = (Roles, Vec<Report>);

type Result<T> = core::result::Result<T, RoleError>;

fn notice(message: String) -> Report {
    Report::new(Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, message)
}

impl Roles {
    /// The roles as the statement leaves them.
    ///
    /// # Errors
    /// When it is refused.
    pub fn change(
        &self,
        statement: &RoleStatement,
        by: Actor,
        settled: &Settled,
    ) -> Result<Changed> {
        let mut change = Change { roles: self.clone(), by, notices: Vec::new() };
        match statement {
            RoleStatement::Create { name, options } => change.create(name, options, settled)?,
            RoleStatement::Alter { role, options } => change.alter(role, options, settled)?,
            RoleStatement::Rename { name, to } => change.rename(name, to)?,
            RoleStatement::Drop { roles, missing_ok } => change.drop(roles, *missing_ok)?,
            RoleStatement::Grant { roles, to, admin_option, grantor, spelling } => {
                let members = change.all(to)?;
                let grantor = match grantor {
                    Some(grantor) => change.find(grantor)?.oid,
                    None => by.current,
                };
                for role in change.changeable(roles, *spelling)? {
                    change.add_members(role, &members, grantor, *admin_option)?;
                }
            }
            RoleStatement::Revoke { roles, from, admin_option_only, spelling } => {
                let members = change.all(from)?;
                for role in change.changeable(roles, *spelling)? {
                    change.remove_members(role, &members, *admin_option_only)?;
                }
            }
        }
        Ok((change.roles, change.notices))
    }

    /// The same with another secret of the bootstrap superuser, as a new cluster may have it.
    #[must_use]
    pub fn with_bootstrap_secret(mut self, secret: Option<String>) -> Self {
        if let Some(role) = self.by_oid.get_mut(&BOOTSTRAP_SUPERUSER) {
            Arc::make_mut(role).password = secret;
        }
        self
    }
}

struct Change {
    roles: Roles,
    by: Actor,
    notices: Vec<Report>,
}

impl Change {
    fn is_superuser(&self) -> bool {
        self.roles.is_superuser(self.by.current)
    }

    fn may_create_roles(&self) -> bool {
        self.roles.may_create_roles(self.by.current)
    }

    fn require(&self, holds: bool, message: &'static str) -> Result<()> {
        if holds { Ok(()) } else { Err(RoleError::Denied(message)) }
    }

    /// PostgreSQL: `get_rolespec_tuple`.
    fn find(&self, spec: &RoleSpec) -> Result<Arc<Role>> {
        let undefined = |name: &str| RoleError::Undefined(String::from(name));
        let (found, name) = match spec {
            RoleSpec::Name(name) => (self.roles.get(name), &**name),
            RoleSpec::Current => (self.roles.by_oid(self.by.current), "current_user"),
            RoleSpec::Session => (self.roles.by_oid(self.by.session), "session_user"),
            RoleSpec::Public => (None, "public"),
        };
        found.cloned().ok_or_else(|| undefined(name))
    }

    fn all(&self, specs: &[RoleSpec]) -> Result<Vec<u32>> {
        specs.iter().map(|spec| Ok(self.find(spec)?.oid)).collect()
    }

    /// The roles whose members a statement changes. PostgreSQL: `check_rolespec_name`.
    fn changeable(&self, specs: &[RoleSpec], spelling: Spelling) -> Result<Vec<u32>> {
        for spec in specs {
            if spelling == Spelling::AlterGroup {
                refuse_reserved(spec)?;
            }
        }
        self.all(specs)
    }

    fn name(&self, oid: u32) -> String {
        self.roles.by_oid(oid).map(|role| role.name.clone()).unwrap_or_default()
    }

    fn put(&mut self, role: Role) {
        self.roles.by_oid.insert(role.oid, Arc::new(role));
    }

    /// PostgreSQL: `CreateRole`.
    fn create(&mut self, name: &str, options: &RoleOptions, settled: &Settled) -> Result<()> {
        if options.has_sysid {
            self.notices.push(notice(String::from("SYSID can no longer be specified")));
        }
        check_limit(options)?;
        if options.superuser == Some(true) {
            self.require(self.is_superuser(), "must be superuser to create superusers")?;
        } else if options.replication == Some(true) {
            self.require(self.is_superuser(), "must be superuser to create replication users")?;
        } else if options.bypass_rls == Some(true) {
            self.require(self.is_superuser(), "must be superuser to create bypassrls users")?;
        } else {
            self.require(self.may_create_roles(), "permission denied to create role")?;
        }
        if is_reserved(name) {
            return Err(RoleError::Reserved(String::from(name)));
        }
        match self.roles.get(name).map(|known| (known.oid, known.keeper)) {
            Some((_, Keeper::Here)) => return Err(RoleError::Duplicate(String::from(name))),
            // What was learnt of it makes room.
            Some((oid, Keeper::Upstream | Keeper::AuthFile)) => self.roles.remove(oid),
            None => {}
        }
        if self.roles.by_oid.len() >= ROLES_MAX {
            return Err(RoleError::TooMany { what: "roles", max: ROLES_MAX });
        }
        let oid = self.roles.new_oid();
        let mut role = Role::new(oid, String::from(name));
        assign(&mut role, options, settled);
        self.put(role);
        for group in self.all(&options.in_roles)? {
            self.add_members(group, &[oid], self.by.current, false)?;
        }
        let admins = self.all(&options.admins)?;
        self.add_members(oid, &admins, self.by.current, true)?;
        let members = self.all(&options.members)?;
        self.add_members(oid, &members, self.by.current, false)
    }

    /// PostgreSQL: `AlterRole`.
    fn alter(&mut self, spec: &RoleSpec, options: &RoleOptions, settled: &Settled) -> Result<()> {
        refuse_reserved(spec)?;
        check_limit(options)?;
        let role = self.find(spec)?;
        if role.superuser || options.superuser.is_some() {
            let message =
                "must be superuser to alter superuser roles or change superuser attribute";
            self.require(self.is_superuser(), message)?;
        } else if role.replication || options.replication.is_some() {
            let message =
                "must be superuser to alter replication roles or change replication attribute";
            self.require(self.is_superuser(), message)?;
        } else if options.bypass_rls.is_some() {
            self.require(self.is_superuser(), "must be superuser to change bypassrls attribute")?;
        } else if !self.may_create_roles() {
            let is_own_password = role.oid == self.by.current
                && options.password.is_some()
                && RoleOptions { password: None, ..options.clone() } == RoleOptions::default();
            self.require(is_own_password, "permission denied")?;
        }
        if role.oid == BOOTSTRAP_SUPERUSER && options.superuser == Some(false) {
            return Err(RoleError::Bootstrap);
        }
        refuse_kept_elsewhere(&role)?;
        let mut role = Role::clone(&role);
        assign(&mut role, options, settled);
        self.put(role);
        Ok(())
    }

    /// PostgreSQL: `RenameRole`.
    fn rename(&mut self, name: &str, to: &str) -> Result<()> {
        let role = self.find(&RoleSpec::Name(String::from(name)))?;
        if role.oid == self.by.session {
            return Err(RoleError::NotRenamed("session user cannot be renamed"));
        }
        if role.oid == self.by.current {
            return Err(RoleError::NotRenamed("current user cannot be renamed"));
        }
        if let Some(reserved) = [name, to].into_iter().find(|name| is_reserved(name)) {
            return Err(RoleError::Reserved(String::from(reserved)));
        }
        if self.roles.get(to).is_some() {
            return Err(RoleError::Duplicate(String::from(to)));
        }
        if role.superuser {
            self.require(self.is_superuser(), "must be superuser to rename superusers")?;
        } else {
            self.require(self.may_create_roles(), "permission denied to rename role")?;
        }
        refuse_kept_elsewhere(&role)?;
        let mut role = Role::clone(&role);
        role.name = String::from(to);
        // The name is in what was hashed.
        if role.password.as_ref().is_some_and(|secret| secret.starts_with("md5")) {
            role.password = None;
            let message = "MD5 password cleared because of role rename";
            self.notices.push(notice(String::from(message)));
        }
        self.put(role);
        Ok(())
    }

    /// PostgreSQL: `DropRole`.
    fn drop(&mut self, specs: &[RoleSpec], missing_ok: bool) -> Result<()> {
        self.require(self.may_create_roles(), "permission denied to drop role")?;
        for spec in specs {
            let RoleSpec::Name(name) = spec else { return Err(RoleError::SpecialDropped) };
            let role = match self.find(spec) {
                Ok(role) => role,
                Err(RoleError::Undefined(_)) if missing_ok => {
                    let message = format!("role \"{name}\" does not exist, skipping");
                    self.notices.push(notice(message));
                    continue;
                }
                Err(error) => return Err(error),
            };
            if role.oid == self.by.current {
                return Err(RoleError::InUse("current user cannot be dropped"));
            }
            if role.oid == self.by.session {
                return Err(RoleError::InUse("session user cannot be dropped"));
            }
            if role.superuser {
                self.require(self.is_superuser(), "must be superuser to drop superusers")?;
            }
            if role.oid == BOOTSTRAP_SUPERUSER || is_predefined(role.oid) {
                return Err(RoleError::Required(name.clone()));
            }
            let oid = role.oid;
            self.roles.remove(oid);
        }
        Ok(())
    }

    /// Who changes the members of `role` may: PostgreSQL: `AddRoleMems`, `DelRoleMems`.
    fn check_admin(&self, role: u32) -> Result<()> {
        if self.roles.is_superuser(role) {
            return self.require(self.is_superuser(), "must be superuser to alter superusers");
        }
        if self.may_create_roles() || self.roles.is_admin_of(self.by.current, role) {
            return Ok(());
        }
        Err(RoleError::NotAdmin(self.name(role)))
    }

    /// PostgreSQL: `AddRoleMems`.
    fn add_members(
        &mut self,
        role: u32,
        members: &[u32],
        grantor: u32,
        admin_option: bool,
    ) -> Result<()> {
        if members.is_empty() {
            return Ok(());
        }
        self.check_admin(role)?;
        if role == PG_DATABASE_OWNER {
            return Err(RoleError::NoMembers(self.name(role)));
        }
        if grantor != self.by.current {
            self.require(self.is_superuser(), "must be superuser to set grantor")?;
        }
        for member in members.iter().copied() {
            if member == PG_DATABASE_OWNER {
                return Err(RoleError::NotAMember(self.name(member)));
            }
            if let Some(member) = self.roles.by_oid(member) {
                refuse_kept_elsewhere(member)?;
            }
            if self.roles.is_member_of_nosuper(role, member) {
                let (role, member) = (self.name(role), self.name(member));
                return Err(RoleError::Circular { role, member });
            }
            let is_full = self.roles.memberships.len() >= MEMBERSHIPS_MAX;
            let is_same = |it: &&mut Membership| it.role == role && it.member == member;
            let known = self.roles.memberships.iter_mut().find(is_same);
            match known {
                Some(known) if admin_option && !known.admin_option => {
                    (known.admin_option, known.grantor) = (true, grantor);
                }
                Some(_) => {
                    let (role, member) = (self.name(role), self.name(member));
                    let message =
                        format!("role \"{member}\" is already a member of role \"{role}\"");
                    self.notices.push(notice(message));
                }
                None if is_full => {
                    let max = MEMBERSHIPS_MAX;
                    return Err(RoleError::TooMany { what: "memberships", max });
                }
                None => {
                    self.roles.memberships.push(Membership { role, member, grantor, admin_option })
                }
            }
        }
        Ok(())
    }

    /// PostgreSQL: `DelRoleMems`.
    fn remove_members(
        &mut self,
        role: u32,
        members: &[u32],
        admin_option_only: bool,
    ) -> Result<()> {
        self.check_admin(role)?;
        for member in members.iter().copied() {
            let is_same = |it: &Membership| it.role == role && it.member == member;
            let Some(at) = self.roles.memberships.iter().position(is_same) else {
                let (role, member) = (self.name(role), self.name(member));
                let message = format!("role \"{member}\" is not a member of role \"{role}\"");
                self.notices.push(Report::new(Severity::Warning, SqlState::WARNING, message));
                continue;
            };
            if let Some(member) = self.roles.by_oid(member) {
                refuse_kept_elsewhere(member)?;
            }
            if admin_option_only {
                if let Some(known) = self.roles.memberships.get_mut(at) {
                    known.admin_option = false;
                }
            } else {
                self.roles.memberships.remove(at);
            }
        }
        Ok(())
    }
}

/// PostgreSQL: `check_rolespec_name`.
fn refuse_reserved(spec: &RoleSpec) -> Result<()> {
    match spec {
        RoleSpec::Name(name) if is_reserved(name) => Err(RoleError::AlterReserved(name.clone())),
        _ => Ok(()),
    }
}

/// A role of another keeper is as it is there.
fn refuse_kept_elsewhere(role: &Role) -> Result<()> {
    match role.keeper {
        Keeper::Here => Ok(()),
        keeper => Err(RoleError::KeptElsewhere { role: role.name.clone(), keeper }),
    }
}

fn check_limit(options: &RoleOptions) -> Result<()> {
    match options.connection_limit {
        Some(limit) if limit < -1 => Err(RoleError::ConnectionLimit(limit)),
        _ => Ok(()),
    }
}

/// Makes the role what a statement says.
fn assign(role: &mut Role, options: &RoleOptions, settled: &Settled) {
    role.superuser = options.superuser.unwrap_or(role.superuser);
    role.inherit = options.inherit.unwrap_or(role.inherit);
    role.create_role = options.create_role.unwrap_or(role.create_role);
    role.create_db = options.create_db.unwrap_or(role.create_db);
    role.login = options.login.unwrap_or(role.login);
    role.replication = options.replication.unwrap_or(role.replication);
    role.bypass_rls = options.bypass_rls.unwrap_or(role.bypass_rls);
    role.connection_limit = options.connection_limit.unwrap_or(role.connection_limit);
    if options.password.is_some() {
        role.password = settled.secret.as_ref().map(|Secret(secret)| secret.clone());
    }
    if options.valid_until.is_some() {
        role.valid_until = settled.valid_until;
    }
}
