//! Statements about roles: CREATE, ALTER and DROP ROLE, GRANT and REVOKE of roles.
//!
//! Not here: what they do (`walhub_proto::roles`).
//!
//! PostgreSQL: `CreateRoleStmt`, `AlterRoleStmt`, `GrantRoleStmt` (src/backend/parser/gram.y).

use sqlparser::tokenizer::{Token, TokenWithSpan};
use walhub_proto::roles::statement::{Password, RoleOptions, RoleSpec, RoleStatement, Spelling};
use walhub_proto::sqlstate::SqlState;

use crate::failure::{Failure, Result, fail, hinted, unsupported};
use crate::parse::location::at;
use crate::parse::words::Words;

/// What stands before a password. A role may have this name, too.
const WORD: &str = "password";
/// The three words for a role.
const KINDS: [&str; 3] = ["role", "user", "group"];

impl Words<'_> {
    /// A statement about roles; `None` when the tokens are another one, and nothing is taken then.
    pub(crate) fn role_statement(&mut self) -> Result<Option<RoleStatement>> {
        let start = self.next;
        let statement = if self.accept("create") {
            self.role_kind().map(|kind| self.create_role(kind))
        } else if self.accept("alter") {
            self.role_kind().map(|kind| self.alter_role(kind))
        } else if self.accept("drop") {
            self.role_kind().map(|_| self.drop_role())
        } else if self.is_grant_of_roles() {
            let is_grant = self.accept("grant");
            Some(if is_grant { self.grant_role() } else { self.revoke_role() })
        } else {
            None
        };
        if statement.is_none() {
            self.next = start;
        }
        statement.transpose().map_err(|failure| self.without_secrets(failure))
    }

    /// Which of the three words comes next. `USER MAPPING` is something else.
    fn role_kind(&mut self) -> Option<&'static str> {
        let kind = KINDS.into_iter().find(|kind| self.accept(kind))?;
        let is_mapping = kind == "user" && self.is_word("mapping");
        (!is_mapping).then_some(kind)
    }

    fn is_word(&self, wanted: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(word))
            if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(wanted))
    }

    /// GRANT or REVOKE without ON: what is granted are roles.
    fn is_grant_of_roles(&self) -> bool {
        let is = |token: &TokenWithSpan, wanted: &str| {
            matches!(&token.token, Token::Word(word)
                if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(wanted))
        };
        let rest = self.tokens.get(self.next..).unwrap_or_default();
        rest.first().is_some_and(|first| is(first, "grant") || is(first, "revoke"))
            && !rest.iter().any(|token| is(token, "on"))
    }

    fn create_role(&mut self, kind: &str) -> Result<RoleStatement> {
        let name = self.role_id()?;
        self.accept("with");
        let mut options = self.role_options(true)?;
        if kind == "user" {
            options.login.get_or_insert(true);
        }
        Ok(RoleStatement::Create { name, options })
    }

    fn alter_role(&mut self, kind: &str) -> Result<RoleStatement> {
        if kind != "group" && self.is_word("all") {
            return Err(no_role_settings());
        }
        let start = self.next;
        let role = self.role_spec()?;
        if self.is_word("set") || self.is_word("reset") || self.is_word("in") {
            return Err(no_role_settings());
        }
        if self.accept_all(&["rename", "to"]) {
            let to = self.role_id()?;
            let end = std::mem::replace(&mut self.next, start);
            let name = self.role_id()?;
            self.next = end;
            return Ok(RoleStatement::Rename { name, to });
        }
        if kind == "group" {
            let (roles, spelling) = (vec![role], Spelling::AlterGroup);
            if self.accept_all(&["add", "user"]) {
                let (to, grantor) = (self.role_list()?, None);
                let admin_option = false;
                return Ok(RoleStatement::Grant { roles, to, admin_option, grantor, spelling });
            }
            self.expect("drop")?;
            self.expect("user")?;
            let (from, admin_option_only) = (self.role_list()?, false);
            return Ok(RoleStatement::Revoke { roles, from, admin_option_only, spelling });
        }
        self.accept("with");
        Ok(RoleStatement::Alter { role, options: self.role_options(false)? })
    }

    fn drop_role(&mut self) -> Result<RoleStatement> {
        let missing_ok = self.accept_all(&["if", "exists"]);
        Ok(RoleStatement::Drop { roles: self.role_list()?, missing_ok })
    }

    fn grant_role(&mut self) -> Result<RoleStatement> {
        let roles = self.role_list()?;
        self.expect("to")?;
        let to = self.role_list()?;
        let admin_option = self.accept("with");
        if admin_option {
            // What PostgreSQL 16 can say beside it.
            if self.is_word("inherit") || self.is_word("set") {
                return Err(unsupported("WITH INHERIT and WITH SET of a membership"));
            }
            self.expect("admin")?;
            if !self.accept("true") {
                self.expect("option")?;
            }
        }
        let grantor = self.granted_by()?;
        let spelling = Spelling::Grant;
        Ok(RoleStatement::Grant { roles, to, admin_option, grantor, spelling })
    }

    fn revoke_role(&mut self) -> Result<RoleStatement> {
        self.expect("revoke")?;
        let admin_option_only = self.accept_all(&["admin", "option", "for"]);
        let roles = self.role_list()?;
        self.expect("from")?;
        let from = self.role_list()?;
        // Who had granted it is not looked at. PostgreSQL 15: `DelRoleMems`.
        self.granted_by()?;
        let _ = self.accept("cascade") || self.accept("restrict");
        Ok(RoleStatement::Revoke { roles, from, admin_option_only, spelling: Spelling::Grant })
    }

    fn granted_by(&mut self) -> Result<Option<RoleSpec>> {
        if self.accept_all(&["granted", "by"]) { self.role_spec().map(Some) } else { Ok(None) }
    }

    /// Roles with commas between them.
    fn role_list(&mut self) -> Result<Vec<RoleSpec>> {
        let mut roles = vec![self.role_spec()?];
        while self.peek() == Some(&Token::Comma) {
            self.next += 1;
            roles.push(self.role_spec()?);
        }
        Ok(roles)
    }

    /// A role that may be there. PostgreSQL: `RoleSpec`.
    fn role_spec(&mut self) -> Result<RoleSpec> {
        for (word, spec) in [
            ("current_role", RoleSpec::Current),
            ("current_user", RoleSpec::Current),
            ("session_user", RoleSpec::Session),
        ] {
            if self.accept(word) {
                return Ok(spec);
            }
        }
        let start = self.next;
        let name = self.name()?;
        match &*name {
            // Neither is a keyword, and neither is a name.
            "public" => Ok(RoleSpec::Public),
            "none" => Err(self.reserved(start, "role name \"none\" is reserved")),
            _ => Ok(RoleSpec::Name(name)),
        }
    }

    /// The name of a role to be made. PostgreSQL: `RoleId`.
    fn role_id(&mut self) -> Result<String> {
        let start = self.next;
        for word in ["CURRENT_ROLE", "CURRENT_USER", "SESSION_USER"] {
            if self.is_word(word) {
                let message = format!("{word} cannot be used as a role name here");
                return Err(self.reserved(start, &message));
            }
        }
        match self.role_spec()? {
            RoleSpec::Name(name) => Ok(name),
            _ => Err(self.reserved(start, "role name \"public\" is reserved")),
        }
    }

    fn reserved(&self, token: usize, message: &str) -> Failure {
        self.located(token, fail(SqlState::RESERVED_NAME, message))
    }

    fn located(&self, token: usize, failure: Failure) -> Failure {
        match self.tokens.get(token) {
            Some(token) => at(failure, self.sql, token.span.start),
            None => failure,
        }
    }

    /// PostgreSQL: `OptRoleList`, `AlterOptRoleList`.
    fn role_options(&mut self, is_new: bool) -> Result<RoleOptions> {
        let mut options = RoleOptions::default();
        while self.peek().is_some() {
            let start = self.next;
            let is_first = if is_new && self.take_option_of_new(&mut options)? {
                true
            } else {
                self.take_option(&mut options)?
            };
            if !is_first {
                let message = "conflicting or redundant options";
                return Err(self.located(start, fail(SqlState::SYNTAX_ERROR, message)));
            }
        }
        Ok(options)
    }

    /// An option that only CREATE has; `false` when it is another one.
    fn take_option_of_new(&mut self, options: &mut RoleOptions) -> Result<bool> {
        if self.accept("sysid") {
            self.number()?;
            options.has_sysid = true;
        } else if self.accept_all(&["in", "role"]) || self.accept_all(&["in", "group"]) {
            options.in_roles.extend(self.role_list()?);
        } else if self.accept("admin") {
            options.admins.extend(self.role_list()?);
        } else if self.accept("role") || self.accept("user") {
            options.members.extend(self.role_list()?);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// An option of CREATE and ALTER; `false` when it was given before.
    fn take_option(&mut self, options: &mut RoleOptions) -> Result<bool> {
        let unencrypted = self.next;
        if self.accept("unencrypted") {
            let message = "UNENCRYPTED PASSWORD is no longer supported";
            let hint = "Remove UNENCRYPTED to store the password in encrypted form instead.";
            let failure = hinted(fail(SqlState::FEATURE_NOT_SUPPORTED, message), hint);
            return Err(self.located(unencrypted, failure));
        }
        if self.accept("encrypted") || self.is_word("password") {
            self.expect("password")?;
            let password = match self.string() {
                Some(password) => Some(Password(password)),
                None => {
                    self.expect("null")?;
                    None
                }
            };
            return Ok(options.password.replace(password).is_none());
        }
        if self.accept_all(&["connection", "limit"]) {
            let limit = self.number()?;
            return Ok(options.connection_limit.replace(limit).is_none());
        }
        if self.accept_all(&["valid", "until"]) {
            let until = self.string().ok_or_else(|| self.error())?;
            return Ok(options.valid_until.replace(until).is_none());
        }
        let start = self.next;
        let word = self.name()?;
        let (flag, on) = match &*word {
            "superuser" => (&mut options.superuser, true),
            "nosuperuser" => (&mut options.superuser, false),
            "inherit" => (&mut options.inherit, true),
            "noinherit" => (&mut options.inherit, false),
            "createrole" => (&mut options.create_role, true),
            "nocreaterole" => (&mut options.create_role, false),
            "createdb" => (&mut options.create_db, true),
            "nocreatedb" => (&mut options.create_db, false),
            "login" => (&mut options.login, true),
            "nologin" => (&mut options.login, false),
            "replication" => (&mut options.replication, true),
            "noreplication" => (&mut options.replication, false),
            "bypassrls" => (&mut options.bypass_rls, true),
            "nobypassrls" => (&mut options.bypass_rls, false),
            _ => {
                let message = format!("unrecognized role option \"{word}\"");
                return Err(self.located(start, fail(SqlState::SYNTAX_ERROR, message)));
            }
        };
        Ok(flag.replace(on).is_none())
    }

    /// A whole number. PostgreSQL: `SignedIconst`.
    fn number(&mut self) -> Result<i32> {
        let start = self.next;
        match self.peek() {
            Some(Token::Minus | Token::Plus | Token::Number(..)) => {}
            _ => return Err(self.error()),
        }
        let number = self.value()?.parse().ok();
        number.ok_or_else(|| {
            self.next = start;
            self.error()
        })
    }

    /// The failure of a statement that may hold a password: what stands in quotes is not repeated.
    fn without_secrets(&self, mut failure: Failure) -> Failure {
        let is_quoted = |token: &Token| match token {
            Token::Word(word) => word.quote_style.is_some(),
            other => !matches!(other, Token::Comma | Token::Eq | Token::Minus | Token::Number(..)),
        };
        if failure.message.starts_with("syntax error at or near")
            && self.peek().is_some_and(is_quoted)
        {
            failure.message = "syntax error at or near \"********\"".to_owned();
        }
        failure
    }
}

/// The error of ALTER ROLE ... SET.
fn no_role_settings() -> Failure {
    let failure = unsupported("settings of a role (ALTER ROLE ... SET)");
    hinted(
        failure,
        "Set what all sessions begin with in walhub.toml, and what one session is to have with \
         SET or in the options of its connection string.",
    )
}

/// The text with its passwords replaced, for whoever shows statements to others; `None` when there is none in it.
#[must_use]
pub fn without_passwords(sql: &str) -> Option<String> {
    let lower = sql.to_ascii_lowercase();
    if !lower.contains("create") && !lower.contains("alter") {
        return None;
    }
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii();
    let (mut shown, mut done, mut is_changed) = (String::new(), 0, false);
    while let Some(found) = lower.get(done..).and_then(|rest| rest.find(WORD)) {
        let (start, end) = (done + found, done + found + WORD.len());
        let bytes = sql.as_bytes();
        let is_word = !start.checked_sub(1).and_then(|at| bytes.get(at)).is_some_and(is_part)
            && !bytes.get(end).is_some_and(is_part);
        shown.push_str(sql.get(done..end)?);
        let len = if is_word { secret_len(sql.get(end..)?) } else { 0 };
        if len > 0 {
            shown.push_str(" '********'");
            is_changed = true;
        }
        done = end + len;
    }
    shown.push_str(sql.get(done..)?);
    is_changed.then_some(shown)
}

/// Bytes after the word PASSWORD that may be one: a literal, a word that has lost its quotes, or everything when it is
/// plainly neither.
fn secret_len(rest: &str) -> usize {
    let text = rest.trim_ascii_start();
    let space = rest.len() - text.len();
    let (prefix, escapes) = match text.as_bytes() {
        [] | [b';', ..] => return 0,
        [b'\'', ..] => (0, false),
        [b'e' | b'E', b'\'', ..] => (1, true),
        _ => {
            let len =
                text.find(|it: char| !it.is_alphanumeric() && it != '_').unwrap_or(text.len());
            let (word, after) = text.split_at(len);
            return match word {
                "" => rest.len(),
                _ if after.starts_with(['\'', '&', '$']) => rest.len(),
                word if ["null", WORD].iter().any(|it| word.eq_ignore_ascii_case(it)) => 0,
                _ => space + len,
            };
        }
    };
    let mut chars = text.char_indices().skip(prefix + 1).peekable();
    while let Some((at, character)) = chars.next() {
        match character {
            '\\' if escapes => drop(chars.next()),
            '\'' if chars.peek().is_some_and(|(_, next)| *next == '\'') => drop(chars.next()),
            '\'' => return space + at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Parsed, Utility, parse};

    fn statement(sql: &str) -> RoleStatement {
        match parse(sql, &mut Vec::new()).unwrap().pop() {
            Some(Parsed::Utility(Utility::Role(statement))) => statement,
            other => panic!("{sql}: {other:?}"),
        }
    }

    fn error(sql: &str) -> (&'static str, String) {
        let failure = parse(sql, &mut Vec::new()).unwrap_err();
        (failure.sqlstate.0, failure.message.clone())
    }

    fn options(sql: &str) -> RoleOptions {
        statement(sql).options().unwrap().clone()
    }

    #[test]
    fn roles_are_made_with_every_option() {
        let all = options(
            "CREATE ROLE a WITH SUPERUSER NOINHERIT CREATEROLE NOCREATEDB LOGIN REPLICATION BYPASSRLS \
             CONNECTION LIMIT -1 ENCRYPTED PASSWORD 'x' VALID UNTIL '2030-01-01' IN ROLE b, c IN GROUP d \
             ROLE e USER f ADMIN current_user SYSID 7",
        );
        let named = |names: &[&str]| -> Vec<RoleSpec> {
            names.iter().map(|name| RoleSpec::Name((*name).to_owned())).collect()
        };
        let want = RoleOptions {
            superuser: Some(true),
            inherit: Some(false),
            create_role: Some(true),
            create_db: Some(false),
            login: Some(true),
            replication: Some(true),
            bypass_rls: Some(true),
            connection_limit: Some(-1),
            password: Some(Some(Password("x".to_owned()))),
            valid_until: Some("2030-01-01".to_owned()),
            has_sysid: true,
            in_roles: named(&["b", "c", "d"]),
            members: named(&["e", "f"]),
            admins: vec![RoleSpec::Current],
        };
        assert_eq!(all, want);
        assert_eq!(options("create user u").login, Some(true));
        assert_eq!(options("create user u nologin").login, Some(false));
        assert_eq!(options("create group g").login, None);
        assert_eq!(options("alter user \"A b\" password null").password, Some(None));
        assert_eq!(
            options("alter role session_user with password $$p$$").password.unwrap().unwrap().0,
            "p"
        );
    }

    #[test]
    fn grants_of_roles_are_not_grants_of_privileges() {
        assert_eq!(statement("grant a, b to c with admin option granted by d").tag(), "GRANT ROLE");
        assert_eq!(
            statement("revoke admin option for a from b, public cascade").tag(),
            "REVOKE ROLE"
        );
        assert_eq!(statement("alter group g drop user u, v").tag(), "ALTER ROLE");
        assert_eq!(statement("drop user if exists a, b").tag(), "DROP ROLE");
        assert_eq!(statement("alter role a rename to b").tag(), "ALTER ROLE");
        for sql in ["grant select on t to a", "create user mapping for a server s"] {
            let parsed = parse(sql, &mut Vec::new()).unwrap().pop();
            assert!(matches!(parsed, Some(Parsed::Unsupported(_))), "{sql}: {parsed:?}");
        }
    }

    #[test]
    fn mistakes_get_postgresql_s_errors() {
        for (sql, code, message) in [
            ("create role public", "42939", "role name \"public\" is reserved"),
            ("create role \"none\"", "42939", "role name \"none\" is reserved"),
            (
                "create role current_user",
                "42939",
                "CURRENT_USER cannot be used as a role name here",
            ),
            ("create role a supervisor", "42601", "unrecognized role option \"supervisor\""),
            ("create role a login nologin", "42601", "conflicting or redundant options"),
            (
                "alter role a unencrypted password 'x'",
                "0A000",
                "UNENCRYPTED PASSWORD is no longer supported",
            ),
            ("alter role a connection limit x", "42601", "syntax error at or near \"x\""),
            ("create role", "42601", "syntax error at end of input"),
            (
                "alter role a set work_mem = 1",
                "0A000",
                "settings of a role (ALTER ROLE ... SET) is not supported by walhub",
            ),
            (
                "alter role all in database b reset all",
                "0A000",
                "settings of a role (ALTER ROLE ... SET) is not supported by walhub",
            ),
        ] {
            assert_eq!(error(sql), (code, message.to_owned()), "{sql}");
        }
    }

    #[test]
    fn passwords_are_in_no_error_and_in_no_text_that_is_shown() {
        for sql in [
            "alter role a password 'x' 'secret'",
            "alter role a password \"secret\"",
            "alter role a password 'secret",
            "alter role a password U&'secret'",
            "create role a password 'x' valid until \"secret\"",
        ] {
            let failure = parse(sql, &mut Vec::new()).unwrap_err();
            assert!(!failure.message.contains("secret"), "{sql}: {}", failure.message);
        }
        for (sql, shown) in [
            ("ALTER USER a PASSWORD 'se''cret' LOGIN", "ALTER USER a PASSWORD '********' LOGIN"),
            (
                "create role a password E'se\\'cret';select 1",
                "create role a password '********';select 1",
            ),
            ("create role a password $x$secret$x$ login", "create role a password '********'"),
            ("create role a password secret login", "create role a password '********' login"),
            ("create role a password /* */ 'secret'", "create role a password '********'"),
            ("create role a password 'secret", "create role a password '********'"),
            ("alter role a password null", "alter role a password null"),
            (
                "create role a; alter role password password 'x'",
                "create role a; alter role password password '********'",
            ),
            ("set password_encryption = 'md5'", "set password_encryption = 'md5'"),
        ] {
            assert_eq!(without_passwords(sql).as_deref().unwrap_or(sql), shown);
        }
        let sql = "create role a password 'x'";
        let shown = format!("{:?}", parse(sql, &mut Vec::new()).unwrap());
        assert!(!shown.contains("'x'") && !shown.contains("\"x\""), "{shown}");
    }
}
