//! Who there is.
//!
//! PostgreSQL: `pg_authid`.

use std::pin::Pin;
use std::sync::Arc;

use walhub_proto::hba::Membership;
use walhub_proto::roles::Role;

use crate::net::learner::Learner;
use crate::roles::RoleStore;

/// A role, once it was found, or that there is none.
pub(crate) type Looking<'a> = Pin<Box<dyn Future<Output = Option<Arc<Role>>> + 'a>>;

/// Who there is. Where it has to ask somebody, a name that nobody has takes as long as one that somebody has.
pub(crate) trait Directory: Send + Sync {
    /// The role of that name.
    fn role<'a>(&'a self, user: &'a str) -> Looking<'a>;

    /// Whose member is who, now.
    fn membership(&self) -> Arc<dyn Membership>;

    /// Whether a role has the privileges of another. PostgreSQL: `has_privs_of_role`.
    fn has_privileges_of(&self, role: &Role, of: &str) -> bool;
}

impl Directory for RoleStore {
    fn role<'a>(&'a self, user: &'a str) -> Looking<'a> {
        Box::pin(std::future::ready(self.current().get(user).cloned()))
    }

    fn membership(&self) -> Arc<dyn Membership> {
        self.current()
    }

    fn has_privileges_of(&self, role: &Role, of: &str) -> bool {
        let roles = self.current();
        roles.get(of).is_some_and(|of| roles.has_privs_of(role.oid, of.oid))
    }
}

impl Directory for Learner {
    fn role<'a>(&'a self, user: &'a str) -> Looking<'a> {
        Box::pin(self.role(user))
    }

    fn membership(&self) -> Arc<dyn Membership> {
        self.store().membership()
    }

    fn has_privileges_of(&self, role: &Role, of: &str) -> bool {
        self.store().has_privileges_of(role, of)
    }
}

/// Every name is a superuser's, for tests that are about something else.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Everybody;

#[cfg(test)]
impl Directory for Everybody {
    fn role<'a>(&'a self, user: &'a str) -> Looking<'a> {
        let role = Role::superuser(walhub_proto::roles::BOOTSTRAP_SUPERUSER, user.to_owned());
        Box::pin(std::future::ready(Some(Arc::new(role))))
    }

    fn membership(&self) -> Arc<dyn Membership> {
        Arc::new(Self)
    }

    fn has_privileges_of(&self, _: &Role, _: &str) -> bool {
        true
    }
}

#[cfg(test)]
impl Membership for Everybody {
    fn role_exists(&self, _: &str) -> bool {
        true
    }

    fn is_member(&self, user: &str, role: &str) -> bool {
        user == role
    }
}
