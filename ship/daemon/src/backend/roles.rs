//! Statements about roles.
//!
//! They are no part of a transaction: what they say is durable when they are answered, so they are refused where a
//! ROLLBACK could be expected to take them back.
//!
//! Not here: what they do (`walhub_proto::roles::change`), where roles are kept (`crate::roles`).
//!
//! PostgreSQL: src/backend/commands/user.c.

use std::num::NonZeroU32;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use walhub_proto::password::{self, Encryption, SCRAM_ITERATIONS_DEFAULT};
use walhub_proto::roles::change::{Secret, Settled};
use walhub_proto::roles::statement::{Password, RoleSpec, RoleStatement};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Report, Severity};

use super::SettingsView;
use super::offload::Stop;
use super::session::Backend;
use super::wire::Wire;
use crate::random;
use walhub_sql::failure::{ACTIVE_SQL_TRANSACTION, Result, fail};
use walhub_sql::value::Value;
use walhub_sql::value::types::Type;

impl<V: SettingsView> Backend<V> {
    /// Does what a statement about roles says. It is durable then.
    pub(super) async fn change_roles<S>(
        &mut self,
        wire: &mut Wire<S>,
        statement: &RoleStatement,
    ) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.transaction.is_open() {
            let message = format!("{} cannot run inside a transaction block", statement.tag());
            return Err(fail(ACTIVE_SQL_TRANSACTION, message));
        }
        let by = self.parameters.users().actor();
        let mut settled = Settled { valid_until: self.valid_until(statement)?, secret: None };
        let roles = Arc::clone(&self.params.roles);
        // What is refused is refused before a secret is made, which takes its time.
        let refused = roles.current().change(statement, by, &settled);
        refused.map_err(|error| Box::new(error.report()))?;
        settled.secret = self.secret(wire, statement).await?;
        let notices = roles.change(statement, by, &settled).await?;
        for notice in &notices {
            self.out.report(notice);
        }
        Ok(())
    }

    /// What VALID UNTIL says in the session's time zone.
    fn valid_until(
        &self,
        statement: &RoleStatement,
    ) -> Result<Option<walhub_proto::time::Timestamp>> {
        let text = statement.options().and_then(|options| options.valid_until.as_deref());
        let Some(text) = text else { return Ok(None) };
        match Value::parse(text, Type::TimestampTz, self.parameters.zone())? {
            Value::Timestamp(until) => Ok(Some(until)),
            other => unreachable!("a timestamp is read as {other:?}"),
        }
    }

    /// What is kept of the password that a statement gives. PostgreSQL: `encrypt_password`.
    async fn secret<S>(
        &mut self,
        wire: &mut Wire<S>,
        statement: &RoleStatement,
    ) -> Result<Option<Secret>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let given = statement.options().and_then(|options| options.password.as_ref());
        let Some(Some(password)) = given else { return Ok(None) };
        let role = self.altered(statement);
        let (encryption, password) = (self.encryption(), password.clone());
        let salt: [u8; password::SCRAM_SALT_LEN] = random::bytes();
        let turns = Arc::clone(&self.params.sessions.turns().evaluations);
        let secret = self
            .offload(wire, turns, Stop::default(), move || {
                // The secret of an empty password is as bad as the password.
                let Password(password) = &password;
                let is_empty =
                    password.is_empty() || password::Secret::parse(password).verify(&role, b"");
                (!is_empty).then(|| password::encrypt(encryption, &role, password, &salt))
            })
            .await?;
        if secret.is_none() {
            let message = "empty string is not a valid password, clearing password";
            let state = SqlState::SUCCESSFUL_COMPLETION;
            self.out.report(&Report::new(Severity::Notice, state, message));
        }
        Ok(secret.map(|secret| Secret(String::clone(&secret))))
    }

    /// The name of the role that gets the password.
    fn altered(&self, statement: &RoleStatement) -> String {
        let users = self.parameters.users();
        let oid = match statement {
            RoleStatement::Create { name, .. }
            | RoleStatement::Alter { role: RoleSpec::Name(name), .. } => return name.clone(),
            RoleStatement::Alter { role: RoleSpec::Session, .. } => users.session(),
            _ => users.current(),
        };
        let roles = self.params.roles.current();
        roles.by_oid(oid).map(|role| role.name.clone()).unwrap_or_default()
    }

    /// PostgreSQL: `password_encryption`, `scram_iterations`.
    fn encryption(&self) -> Encryption {
        let settings = self.params.settings.borrow();
        let value = |name: &str| {
            let set = self.parameters.session_value(name).map(str::to_owned);
            set.or_else(|| settings.show(name))
        };
        if value("password_encryption").is_some_and(|method| method == "md5") {
            return Encryption::Md5;
        }
        let iterations = value("scram_iterations").and_then(|count| count.parse().ok());
        let iterations = iterations.and_then(NonZeroU32::new).unwrap_or(SCRAM_ITERATIONS_DEFAULT);
        Encryption::ScramSha256 { iterations }
    }
}
