//! Roles as a server has them: `auth_query`, and `walhub roles import`.
//!
//! Only the secret is asked for with the statement of the setting, since most users may not see secrets. Attributes are
//! read from `pg_roles`, and memberships through `pg_has_role`, which everybody may do.
//!
//! Not here: what is made of the answer (`crate::roles`).
//!
//! PgBouncer: `auth_query`.

use super::error::Cause;
use super::sql_session::{Row, SqlSession};

const ATTRIBUTES: &str = "SELECT * FROM pg_catalog.pg_roles WHERE rolname = $1";

/// All of whom it is a member, by however many steps. A superuser is a member of every role without being told so.
const MEMBER_OF: &str = "SELECT rolname FROM pg_catalog.pg_roles \
     WHERE rolname <> $1 AND pg_catalog.pg_has_role($1, oid, 'MEMBER')";

/// Those that a server has made itself, whatever is called `pg_`, are its own affair.
const EVERYBODY: &str =
    "SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolname !~ '^pg_' ORDER BY oid";

/// Those that may be what a role is a member of.
const DIRECTLY_MEMBER_OF: &str = "SELECT r.rolname FROM pg_catalog.pg_auth_members m \
     JOIN pg_catalog.pg_roles r ON r.oid = m.roleid \
     JOIN pg_catalog.pg_roles u ON u.oid = m.member WHERE u.rolname = $1";

/// A role as a server has it.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteRole {
    /// Its name.
    pub name: String,
    /// As `pg_authid.rolpassword` has it; `None` when it has no password.
    pub secret: Option<String>,
    /// The row of `pg_roles`.
    pub attributes: Row,
    /// What it is a member of.
    pub member_of: Vec<String>,
}

impl RemoteRole {
    /// Whether an attribute is there and true.
    #[must_use]
    pub fn flag(&self, attribute: &str) -> bool {
        matches!(self.attribute(attribute), Some("t" | "true" | "on"))
    }

    /// An attribute that is there and not NULL.
    #[must_use]
    pub fn attribute(&self, attribute: &str) -> Option<&str> {
        let value = self.attributes.iter().find(|(name, _)| name == attribute)?;
        value.1.as_deref()
    }
}

/// Asks a server for one role; `None` when it has none of that name.
///
/// # Errors
/// The server's, and when its answer is not one row of a name and a secret.
pub async fn find_role(
    session: &mut SqlSession,
    auth_query: &str,
    name: &str,
) -> Result<Option<RemoteRole>, Cause> {
    let rows = session.query(auth_query, &[name]).await?;
    let secret = match rows.as_slice() {
        [] => return Ok(None),
        [row] => match row.as_slice() {
            // A statement that found nobody may say so with a row of NULLs, as functions do.
            [(_, None), ..] => return Ok(None),
            [(_, Some(found)), (_, secret), ..] if found == name => secret.clone(),
            [(_, Some(_)), _, ..] => {
                return Err(Cause::Refused("auth_query has found another user".into()));
            }
            _ => {
                let text = "auth_query has to give two columns, a user name and a secret";
                return Err(Cause::Refused(text.into()));
            }
        },
        _ => return Err(Cause::Refused("auth_query has found more than one user".into())),
    };
    let Some(attributes) = session.query(ATTRIBUTES, &[name]).await?.pop() else {
        return Ok(None);
    };
    let mut role = RemoteRole { name: name.to_owned(), secret, attributes, member_of: Vec::new() };
    if !role.flag("rolsuper") {
        role.member_of = names(session.query(MEMBER_OF, &[name]).await?);
    }
    Ok(Some(role))
}

/// Every role that somebody has made, with what it is directly a member of.
///
/// # Errors
/// The server's: only a superuser may read secrets.
pub async fn all_roles(session: &mut SqlSession) -> Result<Vec<RemoteRole>, Cause> {
    let mut roles = Vec::new();
    for row in session.query(EVERYBODY, &[]).await? {
        let mut values = row.into_iter().map(|(_, value)| value);
        let (Some(Some(name)), Some(secret)) = (values.next(), values.next()) else { continue };
        let Some(attributes) = session.query(ATTRIBUTES, &[&name]).await?.pop() else { continue };
        let member_of = names(session.query(DIRECTLY_MEMBER_OF, &[&name]).await?);
        roles.push(RemoteRole { name, secret, attributes, member_of });
    }
    Ok(roles)
}

/// The first column of each row.
fn names(rows: Vec<Row>) -> Vec<String> {
    rows.into_iter().filter_map(|row| row.into_iter().next()?.1).collect()
}
