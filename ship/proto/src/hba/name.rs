//! What a database, a user or a role may be called: a keyword, a group, a regular expression, or the name itself.
//!
//! PostgreSQL: `check_db`, `check_role`, `regcomp_auth_token` (src/backend/libpq/hba.c).

use alloc::format;
use alloc::string::String;

use super::fault::Fault;
use super::pattern::Pattern;
use super::token::Token;
use super::{Connection, Membership};
use crate::sqlstate::SqlState;

/// One of the names of a rule.
#[derive(Clone, Debug)]
pub struct Name {
    token: Token,
    /// A name that begins with a slash is a regular expression, quoted or not.
    pattern: Option<Pattern>,
}

impl Name {
    pub(super) fn parse(token: Token) -> Result<Self, Fault> {
        let pattern = match token.text.strip_prefix('/') {
            Some(text) => Some(Pattern::parse(text).map_err(|reason| {
                Fault::new(format!("invalid regular expression \"{text}\": {reason}"))
                    .sqlstate(SqlState::INVALID_REGULAR_EXPRESSION)
            })?),
            None => None,
        };
        Ok(Self { token, pattern })
    }

    /// A name that is nothing but a name.
    pub(super) fn literal(text: String) -> Self {
        Self { token: Token { text, quoted: true }, pattern: None }
    }

    /// As it is written, without quotes.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.token.text
    }

    pub(super) const fn pattern(&self) -> Option<&Pattern> {
        self.pattern.as_ref()
    }

    /// Whether it stands for members of a role.
    pub(super) fn is_group(&self) -> bool {
        let is_keyword = |keyword| self.token.is_keyword(keyword);
        let is_role = self.token.text.starts_with('+') && !self.token.quoted;
        is_role || is_keyword("samerole") || is_keyword("samegroup")
    }

    /// Whether it stands for exactly this.
    pub(super) fn matches(&self, text: &str) -> bool {
        match &self.pattern {
            Some(pattern) => pattern.matches(text),
            None => self.token.text == text,
        }
    }

    /// Whether it stands for the database that is asked for.
    pub(super) fn matches_database(
        &self,
        connection: &Connection<'_>,
        members: &dyn Membership,
    ) -> bool {
        let is_keyword = |keyword| self.token.is_keyword(keyword);
        let Connection { user, database, replication, .. } = *connection;
        // A physical walsender is of no database. For others the word has no meaning, not even that of a name.
        if replication || is_keyword("replication") {
            return replication && is_keyword("replication");
        }
        if is_keyword("all") {
            true
        } else if is_keyword("sameuser") {
            database == user
        } else if is_keyword("samerole") || is_keyword("samegroup") {
            is_member(user, database, members)
        } else {
            self.matches(database)
        }
    }

    /// Whether it stands for the role.
    pub(super) fn matches_role(&self, role: &str, members: &dyn Membership) -> bool {
        if let Some(group) = self.token.text.strip_prefix('+')
            && !self.token.quoted
        {
            return is_member(role, group, members);
        }
        self.token.is_keyword("all") || self.matches(role)
    }
}

/// PostgreSQL: `is_member`.
fn is_member(user: &str, role: &str, members: &dyn Membership) -> bool {
    members.role_exists(user) && members.role_exists(role) && members.is_member(user, role)
}
