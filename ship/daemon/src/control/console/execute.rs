//! Runs a statement in its session.
//!
//! Not here: the messages around it (`session`).
//!
//! PostgreSQL: `PortalRun` (src/backend/tcop/pquery.c), `standard_ProcessUtility` (utility.c).

use std::cell::OnceCell;

use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Report, Severity};

use super::SettingsView;
use super::context::{Context, Spent};
use super::failure::{ACTIVE_SQL_TRANSACTION, NO_ACTIVE_SQL_TRANSACTION, Result, fail};
use super::parameters;
use super::plan::Rows;
use super::session::Session;
use super::statement::{self, Prepared, Statement};
use super::transaction::Done;
use super::utility::{Mode, Utility};
use super::value::Value;

impl<V: SettingsView> Session<V> {
    /// Runs a statement: its rows and its tag.
    pub(super) fn run(
        &mut self,
        prepared: &Prepared,
        arguments: &[Value],
    ) -> Result<(Rows, String)> {
        match &prepared.statement {
            Statement::Empty => Ok((Vec::new(), String::new())),
            Statement::Query(plan) => {
                let rows = self.with_context(&prepared.sql, arguments, |ctx| plan.run(ctx))?;
                let tag = format!("SELECT {}", rows.len());
                Ok((rows, tag))
            }
            Statement::Utility(Utility::Show(name)) => {
                let show = |ctx: &Context<'_>| statement::show(ctx, name.as_deref());
                Ok((self.with_context(&prepared.sql, arguments, show)?, "SHOW".to_owned()))
            }
            Statement::Utility(utility) => {
                let before = self.parameters.clone();
                let (tag, warning) = self.run_utility(utility)?;
                if let Some(warning) = warning {
                    self.out.report(&warning);
                }
                for (name, value) in self.parameters.reported_since(&before) {
                    self.out.parameter_status(name, &value);
                }
                Ok((Vec::new(), tag.to_owned()))
            }
        }
    }

    fn with_context<T>(
        &self,
        query: &str,
        arguments: &[Value],
        run: impl FnOnce(&Context<'_>) -> Result<T>,
    ) -> Result<T> {
        let settings = self.params.settings.borrow().clone();
        run(&Context {
            client: &self.params.client,
            database: &self.params.database,
            parameters: &self.parameters,
            settings: &*settings,
            hub: &*self.params.hub,
            query,
            transaction_start: self.transaction_start,
            statement_start: self.statement_start,
            arguments,
            snapshot: OnceCell::new(),
            spent: Spent::default(),
        })
    }

    fn run_utility(&mut self, utility: &Utility) -> Result<Done> {
        match utility {
            Utility::Begin { start, modes } => {
                self.check_modes(modes)?;
                let done = self.transaction.begin(*start, &self.parameters);
                self.set_modes(modes, false)?;
                Ok(done)
            }
            Utility::Commit { chain } => {
                let done = self.transaction.end(true, *chain, &mut self.parameters);
                self.close_portals();
                done
            }
            Utility::Rollback { chain } => {
                let done = self.transaction.end(false, *chain, &mut self.parameters);
                self.close_portals();
                done
            }
            Utility::Savepoint(name) => self.transaction.savepoint(name, &self.parameters),
            Utility::Release(name) => self.transaction.release(name),
            Utility::RollbackTo(name) => self.transaction.rollback_to(name, &mut self.parameters),
            Utility::Set { name, value, local } => self.set(name, value.as_deref(), *local),
            Utility::SetModes { modes, session } => {
                self.check_modes(modes)?;
                if !session && !self.transaction.is_open() {
                    let message = "SET TRANSACTION can only be used in transaction blocks";
                    return Ok(("SET", Some(block_warning(message))));
                }
                self.set_modes(modes, *session)?;
                Ok(("SET", None))
            }
            Utility::Reset(name) => {
                if !self.parameters.reset(name.as_deref()) {
                    let name = name.as_deref().unwrap_or_default();
                    return Err(parameters::cannot_set(&**self.params.settings.borrow(), name));
                }
                self.transaction.keep(|after| {
                    after.reset(name.as_deref());
                });
                Ok(("RESET", None))
            }
            Utility::Discard(what) => self.discard(what),
            Utility::Deallocate(None) => {
                self.statements.retain(|name, _| name.is_empty());
                Ok(("DEALLOCATE ALL", None))
            }
            Utility::Deallocate(Some(name)) => {
                self.statement(name)?;
                self.statements.remove(name);
                Ok(("DEALLOCATE", None))
            }
            Utility::Close(None) => {
                self.portals.clear();
                Ok(("CLOSE CURSOR ALL", None))
            }
            Utility::Close(Some(name)) => match self.portals.remove(name) {
                Some(_) => Ok(("CLOSE CURSOR", None)),
                None => {
                    let message = format!("cursor \"{name}\" does not exist");
                    Err(fail(SqlState::INVALID_CURSOR_NAME, message))
                }
            },
            Utility::Unlisten => Ok(("UNLISTEN", None)),
            Utility::Show(_) => unreachable!("SHOW has rows, and is run with them"),
        }
    }

    fn set(&mut self, name: &str, value: Option<&str>, local: bool) -> Result<Done> {
        if local && !self.transaction.is_open() {
            let message = "SET LOCAL can only be used in transaction blocks";
            return Ok(("SET", Some(block_warning(message))));
        }
        let known = match value {
            Some(value) => self.parameters.assign(name, value)?,
            None => self.parameters.reset(Some(name)),
        };
        if !known {
            return Err(parameters::cannot_set(&**self.params.settings.borrow(), name));
        }
        if !local {
            self.transaction.keep(|after| {
                // It was just accepted.
                let _ = match value {
                    Some(value) => after.assign(name, value),
                    None => Ok(after.reset(Some(name))),
                };
            });
        }
        Ok(("SET", None))
    }

    /// PostgreSQL: `check_transaction_read_only`, `check_XactIsoLevel`.
    fn check_modes(&self, modes: &[Mode]) -> Result<()> {
        let refused = match modes {
            _ if !self.params.hub.snapshot().in_recovery => None,
            _ if modes.contains(&Mode { name: "transaction_read_only", value: "off" }) => {
                Some("cannot set transaction read-write mode during recovery")
            }
            _ if modes.contains(&Mode { name: "transaction_isolation", value: "serializable" }) => {
                Some("cannot use serializable mode in a hot standby")
            }
            _ => None,
        };
        refused.map_or(Ok(()), |message| Err(fail(SqlState::FEATURE_NOT_SUPPORTED, message)))
    }

    fn set_modes(&mut self, modes: &[Mode], session: bool) -> Result<()> {
        for mode in modes {
            if session {
                let name = format!("default_{}", mode.name);
                self.parameters.assign(&name, mode.value)?;
                self.transaction.keep(|after| {
                    let _ = after.assign(&name, mode.value);
                });
            } else {
                self.parameters.assign(mode.name, mode.value)?;
            }
        }
        Ok(())
    }

    /// PostgreSQL: `DiscardCommand`.
    fn discard(&mut self, what: &str) -> Result<Done> {
        if what != "ALL" {
            return Ok((
                match what {
                    "PLANS" => "DISCARD PLANS",
                    "SEQUENCES" => "DISCARD SEQUENCES",
                    _ => "DISCARD TEMP",
                },
                None,
            ));
        }
        if self.transaction.is_open() {
            let message = "DISCARD ALL cannot run inside a transaction block";
            return Err(fail(ACTIVE_SQL_TRANSACTION, message));
        }
        self.portals.clear();
        self.statements.clear();
        self.parameters.reset(None);
        Ok(("DISCARD ALL", None))
    }
}

fn block_warning(message: &str) -> Report {
    Report::new(Severity::Warning, NO_ACTIVE_SQL_TRANSACTION, message)
}
