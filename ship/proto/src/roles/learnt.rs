//! Roles that somebody else keeps: the upstream, or the file of `auth_file`.
//!
//! What was learnt stays until it is learnt anew, so that standbys can log in while the primary is dead. A role that a
//! statement has made here is never replaced by one that was learnt; a statement that makes a role here replaces what was
//! learnt of that name.
//!
//! Not here: asking (`auth_query`), and when.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::predefined::{PG_DATABASE_OWNER, is_predefined, is_reserved};
use super::{BOOTSTRAP_SUPERUSER, MEMBERSHIPS_MAX, Membership, ROLES_MAX, Role, Roles};

/// Who keeps a role.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeper {
    /// This server: a statement has made it.
    Here,
    /// The upstream: `auth_query` has found it there.
    Upstream,
    /// The file of `auth_file`.
    AuthFile,
}

/// Why nothing is learnt of a role.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotLearnt {
    /// A role of this name was made here, or is kept by somebody who comes first.
    KeptElsewhere,
    /// The name belongs to the system.
    Reserved,
    /// There are as many roles as there can be.
    TooMany,
}

impl Roles {
    /// The roles with `found` as its keeper has it now, and the names of all it is a member of. Its OID does not count.
    ///
    /// Roles that it is a member of and that are not here yet are made, as roles that cannot log in.
    ///
    /// # Errors
    /// When that role is somebody else's, or there can be no more.
    pub fn learn(
        &self,
        found: &Role,
        member_of: &[String],
        keeper: Keeper,
    ) -> Result<Self, NotLearnt> {
        if is_reserved(&found.name) || found.name.is_empty() {
            return Err(NotLearnt::Reserved);
        }
        let mut roles = self.clone();
        let oid = roles.place_of(&found.name, keeper)?;
        roles.by_oid.insert(oid, Arc::new(Role { oid, keeper, ..found.clone() }));
        let mut groups = Vec::new();
        for name in member_of.iter().filter(|name| **name != found.name) {
            let group = match roles.get(name) {
                Some(group) => group.oid,
                None if is_reserved(name) => continue,
                None => {
                    let oid = roles.place_of(name, keeper)?;
                    let group = Role { keeper, ..Role::new(oid, name.clone()) };
                    roles.by_oid.insert(oid, Arc::new(group));
                    oid
                }
            };
            groups.push(group);
        }
        roles.memberships.retain(|it| it.member != oid || groups.contains(&it.role));
        for role in groups {
            let known = roles.memberships.iter().any(|it| it.role == role && it.member == oid);
            // What is a member of it here cannot have it as a member.
            if known || role == PG_DATABASE_OWNER || roles.is_member_of_nosuper(role, oid) {
                continue;
            }
            if roles.memberships.len() >= MEMBERSHIPS_MAX {
                return Err(NotLearnt::TooMany);
            }
            let (member, grantor) = (oid, BOOTSTRAP_SUPERUSER);
            roles.memberships.push(Membership { role, member, grantor, admin_option: false });
        }
        Ok(roles)
    }

    /// The roles without one that its keeper does not have any more.
    #[must_use]
    pub fn forget(&self, name: &str, keeper: Keeper) -> Self {
        let mut roles = self.clone();
        if let Some(oid) = self.get(name).filter(|role| role.keeper == keeper).map(|it| it.oid)
            && oid != BOOTSTRAP_SUPERUSER
            && !is_predefined(oid)
        {
            roles.remove(oid);
        }
        roles
    }

    /// Where a role goes that was learnt: its old place, or a new one.
    fn place_of(&mut self, name: &str, keeper: Keeper) -> Result<u32, NotLearnt> {
        match self.get(name) {
            Some(known) if known.keeper == keeper => Ok(known.oid),
            // The file is what somebody has put here; it comes before what the upstream says.
            Some(known) if known.keeper == Keeper::Upstream => Ok(known.oid),
            Some(_) => Err(NotLearnt::KeptElsewhere),
            None if self.by_oid.len() >= ROLES_MAX => Err(NotLearnt::TooMany),
            None => Ok(self.new_oid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hba::Membership as _;
    use crate::roles::file::{decode_roles, encode_roles};
    use crate::time::Timestamp;
    use alloc::borrow::ToOwned;

    fn role(name: &str) -> Role {
        let (login, replication) = (true, true);
        let password = Some("SCRAM-SHA-256$...".to_owned());
        Role { login, replication, password, ..Role::new(0, name.to_owned()) }
    }

    fn names(of: &[&str]) -> Vec<String> {
        of.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_was_learnt_is_kept_and_learnt_anew() {
        let roles = Roles::new("postgres");
        let groups = names(&["pg_monitor", "standbys", "pg_unknown", "s1"]);
        let first = roles.learn(&role("s1"), &groups, Keeper::Upstream).unwrap();
        let s1 = first.get("s1").unwrap();
        assert!(s1.login && s1.replication && s1.keeper == Keeper::Upstream);
        assert!(first.is_member("s1", "standbys") && first.is_member("s1", "pg_monitor"));
        assert!(!first.get("standbys").unwrap().login && !first.role_exists("pg_unknown"));
        assert_eq!(first.learn(&role("s1"), &groups, Keeper::Upstream).unwrap(), first);

        let valid_until = Some(Timestamp(5));
        let changed = Role { valid_until, ..role("s1") };
        let second = first.learn(&changed, &names(&["standbys"]), Keeper::Upstream).unwrap();
        assert_eq!(second.get("s1").unwrap().oid, s1.oid);
        assert_eq!(second.get("s1").unwrap().valid_until, valid_until);
        assert!(second.is_member("s1", "standbys") && !second.is_member("s1", "pg_monitor"));

        let crc = |seed: u32, bytes: &[u8]| bytes.iter().fold(seed, |sum, &it| sum ^ u32::from(it));
        assert_eq!(decode_roles(&encode_roles(&second, crc), crc).unwrap(), second);

        let third = second.forget("s1", Keeper::AuthFile);
        assert_eq!(third, second);
        let third = second.forget("s1", Keeper::Upstream);
        assert!(!third.role_exists("s1") && !third.is_member("s1", "standbys"));
    }

    #[test]
    fn what_is_here_comes_before_the_file_and_the_file_before_the_upstream() {
        let roles = Roles::new("postgres");
        for keeper in [Keeper::Upstream, Keeper::AuthFile] {
            let refused = roles.learn(&role("postgres"), &[], keeper);
            assert_eq!(refused.unwrap_err(), NotLearnt::KeptElsewhere);
            let refused = roles.learn(&role("pg_monitor"), &[], keeper);
            assert_eq!(refused.unwrap_err(), NotLearnt::Reserved);
        }
        let upstream = roles.learn(&role("s1"), &[], Keeper::Upstream).unwrap();
        let file = upstream.learn(&role("s1"), &[], Keeper::AuthFile).unwrap();
        assert_eq!(file.get("s1").unwrap().keeper, Keeper::AuthFile);
        let refused = file.learn(&role("s1"), &[], Keeper::Upstream);
        assert_eq!(refused.unwrap_err(), NotLearnt::KeptElsewhere);
        assert_eq!(roles.forget("postgres", Keeper::Here), roles);
    }

    #[test]
    fn memberships_never_go_round() {
        let roles = Roles::new("postgres");
        let one = roles.learn(&role("a"), &names(&["b"]), Keeper::Upstream).unwrap();
        let both = one.learn(&role("b"), &names(&["a"]), Keeper::Upstream).unwrap();
        assert!(both.is_member("a", "b") && !both.is_member("b", "a"));
    }

    #[test]
    fn there_are_only_so_many() {
        let mut roles = Roles::new("postgres");
        while roles.by_oid.len() < ROLES_MAX {
            let oid = roles.new_oid();
            roles.by_oid.insert(oid, Arc::new(Role::new(oid, alloc::format!("r{oid}"))));
        }
        let refused = roles.learn(&role("one more"), &[], Keeper::Upstream);
        assert_eq!(refused.unwrap_err(), NotLearnt::TooMany);
    }
}
