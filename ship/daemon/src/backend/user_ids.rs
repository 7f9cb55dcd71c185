//! Who a session acts as, and how SET ROLE and SET SESSION AUTHORIZATION change that.
//!
//! Roles are remembered by OID: one that is renamed goes on under its new name.
//!
//! PostgreSQL: "User ID state" of src/backend/utils/init/miscinit.c, src/backend/commands/variable.c.

use walhub_proto::roles::Roles;
use walhub_proto::roles::change::Actor;
use walhub_proto::sqlstate::SqlState;
use walhub_sql::failure::{Result, fail};

/// The users of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct UserIds {
    /// Who has logged in. PostgreSQL: `AuthenticatedUserId`.
    authenticated: u32,
    /// Whether that was a superuser then. PostgreSQL: `AuthenticatedUserIsSuperuser`.
    has_logged_in_as_superuser: bool,
    /// PostgreSQL: `SessionUserId`.
    session: u32,
    /// What SET ROLE has said; `None` is NONE.
    role: Option<u32>,
}

impl UserIds {
    /// Of a user that has just logged in.
    pub(super) fn of_login(oid: u32, roles: &Roles) -> Self {
        let has_logged_in_as_superuser = roles.is_superuser(oid);
        Self { authenticated: oid, has_logged_in_as_superuser, session: oid, role: None }
    }

    /// Of a session that nobody has.
    pub(super) const fn nobody() -> Self {
        Self { authenticated: 0, has_logged_in_as_superuser: false, session: 0, role: None }
    }

    /// The session user.
    pub(super) const fn session(&self) -> u32 {
        self.session
    }

    /// The current user, whose privileges count. PostgreSQL: `GetUserId`.
    pub(super) fn current(&self) -> u32 {
        self.role.unwrap_or(self.session)
    }

    /// What SET ROLE has said.
    pub(super) const fn role(&self) -> Option<u32> {
        self.role
    }

    /// Who changes roles.
    pub(super) fn actor(&self) -> Actor {
        Actor { current: self.current(), session: self.session }
    }

    /// As after SET SESSION AUTHORIZATION DEFAULT.
    pub(super) const fn reset(self) -> Self {
        Self { session: self.authenticated, role: None, ..self }
    }

    /// As after SET of `role` or `session_authorization`; `None` is DEFAULT.
    ///
    /// PostgreSQL: `check_role`, `check_session_authorization`.
    pub(super) fn set(self, which: UserSetting, name: Option<&str>, roles: &Roles) -> Result<Self> {
        match (which, name) {
            (UserSetting::Role, None | Some("none")) => Ok(Self { role: None, ..self }),
            (UserSetting::Role, Some(name)) => {
                let oid = find(roles, name)?;
                if !roles.is_member_of(self.session, oid) {
                    let message = format!("permission denied to set role \"{name}\"");
                    return Err(fail(SqlState::INSUFFICIENT_PRIVILEGE, message));
                }
                Ok(Self { role: Some(oid), ..self })
            }
            (UserSetting::SessionAuthorization, None) => Ok(self.reset()),
            (UserSetting::SessionAuthorization, Some(name)) => {
                let oid = find(roles, name)?;
                if oid != self.authenticated && !self.has_logged_in_as_superuser {
                    let message =
                        format!("permission denied to set session authorization \"{name}\"");
                    return Err(fail(SqlState::INSUFFICIENT_PRIVILEGE, message));
                }
                Ok(Self { session: oid, role: None, ..self })
            }
        }
    }
}

/// A parameter that says who the session acts as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum UserSetting {
    /// `role`
    Role,
    /// `session_authorization`
    SessionAuthorization,
}

impl UserSetting {
    /// The one of that name.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        match name {
            _ if name.eq_ignore_ascii_case("role") => Some(Self::Role),
            _ if name.eq_ignore_ascii_case("session_authorization") => {
                Some(Self::SessionAuthorization)
            }
            _ => None,
        }
    }
}

fn find(roles: &Roles, name: &str) -> Result<u32> {
    roles.get(name).map(|role| role.oid).ok_or_else(|| {
        fail(SqlState::INVALID_PARAMETER_VALUE, format!("role \"{name}\" does not exist"))
    })
}

#[cfg(test)]
mod tests {
    use walhub_proto::roles::change::Settled;
    use walhub_proto::roles::statement::{RoleOptions, RoleSpec, RoleStatement, Spelling};

    use super::*;

    fn with_roles() -> Roles {
        let root = UserIds::of_login(10, &Roles::new("root")).actor();
        let mut roles = Roles::new("root");
        for name in ["a", "b", "c"] {
            let create =
                RoleStatement::Create { name: name.to_owned(), options: RoleOptions::default() };
            roles = roles.change(&create, root, &Settled::default()).unwrap().0;
        }
        let grant = RoleStatement::Grant {
            roles: vec![RoleSpec::Name("b".to_owned())],
            to: vec![RoleSpec::Name("a".to_owned())],
            admin_option: false,
            grantor: None,
            spelling: Spelling::Grant,
        };
        roles.change(&grant, root, &Settled::default()).unwrap().0
    }

    #[test]
    fn a_role_is_set_by_its_members_and_a_session_user_by_who_came_as_a_superuser() {
        use UserSetting::{Role, SessionAuthorization};
        let roles = with_roles();
        let oid = |name: &str| roles.get(name).unwrap().oid;
        let a = UserIds::of_login(oid("a"), &roles);
        let refused = |ids: UserIds, which, name: &str| {
            let failure = ids.set(which, Some(name), &roles).unwrap_err();
            (failure.sqlstate.0, failure.message.clone())
        };
        let as_b = a.set(Role, Some("b"), &roles).unwrap();
        assert_eq!((as_b.current(), as_b.session()), (oid("b"), oid("a")));
        assert_eq!(as_b.set(Role, Some("none"), &roles).unwrap(), a);
        assert_eq!(refused(a, Role, "c"), ("42501", "permission denied to set role \"c\"".into()));
        assert_eq!(refused(a, Role, "x"), ("22023", "role \"x\" does not exist".into()));
        let denied = ("42501", "permission denied to set session authorization \"b\"".to_owned());
        assert_eq!(refused(a, SessionAuthorization, "b"), denied);
        assert_eq!(a.set(SessionAuthorization, Some("a"), &roles).unwrap(), a);

        let root = UserIds::of_login(10, &roles);
        let as_a = root.set(SessionAuthorization, Some("a"), &roles).unwrap();
        assert_eq!((as_a.current(), as_a.session()), (oid("a"), oid("a")));
        // The session user's memberships count, and not those of who has logged in.
        assert_eq!(refused(as_a, Role, "c").0, "42501");
        let as_a_b = as_a.set(Role, Some("b"), &roles).unwrap();
        assert_eq!(as_a_b.set(SessionAuthorization, None, &roles).unwrap(), root);
        assert_eq!(as_a_b.set(SessionAuthorization, Some("c"), &roles).unwrap().role(), None);
    }
}
