//! Runs a statement in its session.
//!
//! Not here: the messages around it (`session`).
//!
//! PostgreSQL: `PortalRun` (src/backend/tcop/pquery.c), `standard_ProcessUtility` (utility.c).

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Report, Severity};
use walhub_proto::wire::frontend::format_of;

use super::SettingsView;
use super::commit::Settle;
use super::context::Context;
use super::emit::{Call, Emitter};
use super::message_scan::Fetched;
use super::offload::{Arguments, ResultRows};
use super::parameters;
use super::pending::{Answer, Lsns, Position, Waiting, WaitingRows};
use super::privileges::Rights;
use super::session::Backend;
use super::statement::{self, MessageShape, Prepared, Statement};
use super::transaction::{Done, End};
use super::user_ids::UserSetting;
use super::wire::Wire;
use walhub_hub::api::append::WalRequest;
use walhub_sql::env::{Env, Pace};
use walhub_sql::failure::{
    ACTIVE_SQL_TRANSACTION, NO_ACTIVE_SQL_TRANSACTION, Result, fail, unsupported,
};
use walhub_sql::parse::utility::{Mode, Utility};
use walhub_sql::plan::Plan;
use walhub_sql::value::Value;
use walhub_sql::value::row::Rows;

impl<V: SettingsView> Backend<V> {
    /// Runs a statement and answers, or holds the answer until it is known where its messages lie.
    pub(super) async fn answer<S>(
        &mut self,
        wire: &mut Wire<S>,
        prepared: &Arc<Prepared>,
        arguments: Arguments,
        formats: &[i16],
        describes: bool,
    ) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (rows, tag) = match &prepared.statement {
            Statement::Empty => {
                self.out.empty(b'I');
                return Ok(());
            }
            Statement::Query(plan) => {
                // Nothing has to be evaluated.
                if let Some(constant) = prepared.message.as_ref().and_then(MessageShape::constant) {
                    let (record, flush) = constant?;
                    let describes = describes.then_some(prepared);
                    let format = format_of(formats, 0);
                    return self.emit_message(record, flush, None, format, 0, describes);
                }
                let (mut result, answers) =
                    self.run_query(wire, prepared, plan, &arguments).await?;
                if answers.iter().any(Answer::waits) {
                    let memory = self.account.reserve(answers.len() * size_of::<Answer>())?;
                    let (prepared, formats) = (Arc::clone(prepared), formats.into());
                    let rows =
                        WaitingRows { prepared, result, formats, answers, describes, memory };
                    self.out.push(Waiting::Rows(Box::new(rows)));
                    return Ok(());
                }
                Lsns::none().resolve(&mut result.rows, &answers);
                let tag = format!("SELECT {}", result.rows.len());
                (result, Cow::Owned(tag))
            }
            Statement::Utility(utility) => {
                let before = reports(utility).then(|| self.parameters.clone());
                let (rows, (tag, warning)) = self.run_utility(wire, utility).await?;
                if let Some(warning) = warning {
                    self.out.report(&warning);
                }
                self.tell_changes(before.as_ref());
                (ResultRows { rows, memory: self.account.reservation() }, tag)
            }
        };
        if let Some(columns) = &prepared.columns {
            if describes {
                self.describe_row(columns, &[]);
            }
            self.send_rows(wire, columns, formats, rows).await?;
        }
        self.out.command_complete(&tag);
        Ok(())
    }

    /// Runs a query whose rows are wanted now, wherever the transaction's messages will lie.
    pub(super) async fn rows_now<S>(
        &mut self,
        wire: &mut Wire<S>,
        prepared: &Arc<Prepared>,
        arguments: &Arguments,
    ) -> Result<ResultRows>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Statement::Query(plan) = &prepared.statement else { return Ok(self.no_rows()) };
        let (mut result, answers) = self.run_query(wire, prepared, plan, arguments).await?;
        let lsns = match answers.iter().any(Answer::waits) {
            true => self.settle(wire, Settle::Tell).await?,
            false => Lsns::none(),
        };
        lsns.resolve(&mut result.rows, &answers);
        Ok(result)
    }

    /// A result without rows.
    fn no_rows(&self) -> ResultRows {
        ResultRows { rows: Rows::new(), memory: self.account.reservation() }
    }

    /// Runs a query, and has done what it calls for. Values of the rows may wait for the answers.
    async fn run_query<S>(
        &mut self,
        wire: &mut Wire<S>,
        prepared: &Arc<Prepared>,
        plan: &Arc<Plan>,
        arguments: &Arguments,
    ) -> Result<(ResultRows, Vec<Answer>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.rights(|rights| rights.check_query(&prepared.relations, &prepared.functions))?;
        let fetched = match prepared.message_scans {
            0 => None,
            _ => Some(self.fetch_messages(wire, prepared, plan, arguments).await?),
        };
        let has_read = fetched.is_some();
        let emitter = Emitter::collecting(self.pending.bytes());
        let (rows, emitter) = self.run_plan(wire, plan, arguments, fetched, emitter).await?;
        let settings = emitter.take_settings();
        if rows.is_ok() {
            self.set_config(settings)?;
        }
        let (mut calls, notices) = emitter.take();
        if has_read && !calls.is_empty() {
            return Err(reads_and_writes());
        }
        for notice in &notices {
            self.out.report(notice);
        }
        if rows.as_ref().is_err_and(|it| it.sqlstate == SqlState::FEATURE_NOT_SUPPORTED) {
            // What is refused is not begun.
            calls.clear();
        }
        let mut answers = Vec::with_capacity(calls.len());
        for call in calls {
            // What can be taken back goes with the statement that failed.
            if rows.is_err() && call.is_undone_by_failure() {
                continue;
            }
            answers.push(self.make_call(wire, call).await?);
        }
        Ok((rows?, answers))
    }

    /// Does what a function was called for.
    async fn make_call<S>(&mut self, wire: &mut Wire<S>, call: Call) -> Result<Answer>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        Ok(match call {
            Call::Message { record, flush } => {
                let position = self.pending.push(record, flush, None)?;
                let in_block = self.transaction.is_open();
                Answer::Message(match position {
                    Position::Transactional(_) if in_block => Position::Known(self.insert_lsn()),
                    position => position,
                })
            }
            Call::Slot(call) => Answer::Known(self.call_slot(wire, call).await?),
            Call::Promote(call) => Answer::Known(Value::Bool(self.promote(wire, call).await?)),
            Call::SwitchSegment => {
                Answer::Known(Value::Lsn(self.wal(wire, WalRequest::SwitchSegment).await?))
            }
        })
    }

    /// What `set_config` was called with. PostgreSQL: `set_config_by_name`.
    fn set_config(&mut self, settings: Vec<(String, String, bool)>) -> Result<()> {
        let before = (!settings.is_empty()).then(|| self.parameters.clone());
        for (name, value, local) in settings {
            // For an implicit transaction there is nothing to set.
            if !local || self.transaction.is_open() {
                self.set(&name, Some(&value), local)?;
            }
        }
        self.tell_changes(before.as_ref());
        Ok(())
    }

    /// Evaluates something of a statement that does not run yet.
    pub(super) fn glance<T>(
        &self,
        arguments: &[Value],
        look: impl FnOnce(&Env<'_>) -> Result<T>,
    ) -> Result<T> {
        let emitter = Emitter::collecting(self.pending.bytes());
        let seen = self.with_context(&emitter, None, |ctx| look(&self.env(ctx, arguments)))?;
        if emitter.take().0.is_empty() { Ok(seen) } else { Err(reads_and_writes()) }
    }

    /// Evaluates something that takes but a moment.
    pub(super) fn with_context<T>(
        &self,
        emitter: &Emitter,
        fetched: Option<&Fetched>,
        run: impl FnOnce(&Context<'_>) -> T,
    ) -> T {
        let settings = self.params.settings.borrow().clone();
        let roles = self.params.roles.current();
        run(&Context {
            client: &self.params.client,
            database: &self.params.database,
            parameters: &self.parameters,
            settings: &*settings,
            roles: &roles,
            hub: &*self.params.hub,
            transaction_start: self.transaction_start,
            statement_start: self.statement_start,
            emitter,
            sessions: &self.params.sessions,
            messages: fetched,
            snapshot: OnceCell::new(),
            is_offloaded: false,
            memory: RefCell::new(self.account.reservation()),
        })
    }

    /// What the current user may do.
    fn rights<T>(&self, ask: impl FnOnce(Rights<'_>) -> T) -> T {
        let roles = self.params.roles.current();
        ask(Rights { roles: &roles, user: self.parameters.users().current() })
    }

    /// What a statement runs in that takes but a moment.
    pub(super) fn env<'a>(&'a self, ctx: &'a Context<'a>, arguments: &'a [Value]) -> Env<'a> {
        Env::new(ctx, self.parameters.zone(), arguments, Pace::Here)
    }

    async fn run_utility<S>(
        &mut self,
        wire: &mut Wire<S>,
        utility: &Utility,
    ) -> Result<(Rows, (Cow<'static, str>, Option<Report>))>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (tag, warning) = match utility {
            Utility::Begin { .. } => {
                // What the implicit transaction emitted before is in the block.
                self.settle(wire, Settle::Tell).await?;
                self.run_at_once(utility)?
            }
            Utility::Commit { chain } => self.commit(wire, *chain).await?,
            Utility::Rollback { .. } => {
                self.settle(wire, Settle::Tell).await?;
                self.pending.take_transaction();
                self.run_at_once(utility)?
            }
            Utility::Checkpoint => {
                self.rights(|rights| rights.check_checkpoint())?;
                self.wal(wire, WalRequest::Checkpoint).await?;
                ("CHECKPOINT", None)
            }
            Utility::WaitFor(wait) => {
                let status = self.wait_for(wire, wait).await?;
                let rows = vec![vec![Value::text_of(status)]];
                return Ok((rows, (Cow::Borrowed("WAIT"), None)));
            }
            Utility::Copy(copy) => {
                let rows = self.copy_in(wire, copy).await?;
                return Ok((Vec::new(), (Cow::Owned(format!("COPY {rows}")), None)));
            }
            Utility::Role(statement) => {
                self.change_roles(wire, statement).await?;
                (statement.tag(), None)
            }
            Utility::Show(name) => {
                let show = |ctx: &Context<'_>| statement::show(ctx, name.as_deref());
                let rows = self.with_context(&Emitter::default(), None, show)?;
                return Ok((rows, (Cow::Borrowed("SHOW"), None)));
            }
            _ => self.run_at_once(utility)?,
        };
        Ok((Vec::new(), (Cow::Borrowed(tag), warning)))
    }

    /// COMMIT. PostgreSQL: `CommitTransaction`.
    async fn commit<S>(&mut self, wire: &mut Wire<S>, chain: bool) -> Result<Done>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let appended = if self.transaction.is_failed() {
            self.pending.take_transaction();
            Ok(())
        } else {
            self.append_block(wire).await
        };
        let end = if appended.is_ok() { End::Commit } else { End::Rollback };
        let done = self.transaction.end(end, chain, &mut self.parameters);
        self.close_portals();
        appended.and(done)
    }

    async fn append_block<S>(&mut self, wire: &mut Wire<S>) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.settle(wire, Settle::Commit).await?;
        let (records, memory) = self.pending.take_transaction();
        if !records.is_empty() {
            self.append_transaction(wire, records, memory).await?;
        }
        Ok(())
    }

    fn run_at_once(&mut self, utility: &Utility) -> Result<Done> {
        match utility {
            Utility::Begin { start, modes } => {
                self.check_modes(modes)?;
                let done = self.transaction.begin(*start, &self.parameters);
                self.set_modes(modes, false)?;
                Ok(done)
            }
            Utility::Rollback { chain } => {
                let done = self.transaction.end(End::Rollback, *chain, &mut self.parameters);
                self.close_portals();
                done
            }
            Utility::Savepoint(name) => {
                let mark = self.pending.mark();
                self.transaction.savepoint(name, &self.parameters, mark)
            }
            Utility::Release(name) => self.transaction.release(name),
            Utility::RollbackTo(name) => {
                let (done, mark) = self.transaction.rollback_to(name, &mut self.parameters)?;
                self.pending.roll_back_to(mark);
                Ok(done)
            }
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
            Utility::Reset(Some(name)) if UserSetting::of_name(name).is_some() => {
                self.set(name, None, false)?;
                Ok(("RESET", None))
            }
            Utility::Reset(name) => {
                if !self.parameters.reset(name.as_deref()) {
                    let name = name.as_deref().unwrap_or_default();
                    return Err(parameters::cannot_set(&**self.params.settings.borrow(), name));
                }
                self.transaction.change_at_commit(|after| {
                    after.reset(name.as_deref());
                });
                Ok(("RESET", None))
            }
            Utility::Discard(what) => self.discard(what),
            Utility::Deallocate(None) => {
                self.statements.clear();
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
            Utility::Commit { .. }
            | Utility::Checkpoint
            | Utility::WaitFor(_)
            | Utility::Copy(_)
            | Utility::Role(_)
            | Utility::Show(_) => unreachable!("run_utility runs what waits, and what has rows"),
        }
    }

    fn set(&mut self, name: &str, value: Option<&str>, local: bool) -> Result<Done> {
        if local && !self.transaction.is_open() {
            let message = "SET LOCAL can only be used in transaction blocks";
            return Ok(("SET", Some(block_warning(message))));
        }
        if let Some(which) = UserSetting::of_name(name) {
            let users = self.parameters.users().set(which, value, &self.params.roles.current())?;
            self.parameters.set_users(users);
            if !local {
                self.transaction.change_at_commit(|after| after.set_users(users));
            }
            return Ok(("SET", None));
        }
        let known = match value {
            Some(value) => self.parameters.assign(name, value)?,
            None => self.parameters.reset(Some(name)),
        };
        if !known {
            return Err(parameters::cannot_set(&**self.params.settings.borrow(), name));
        }
        if !local {
            self.transaction.change_at_commit(|after| {
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
                self.transaction.change_at_commit(|after| {
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
        self.unnamed_statement = None;
        self.unnamed_portal = None;
        self.parameters.reset(None);
        self.parameters.set_users(self.parameters.users().reset());
        Ok(("DISCARD ALL", None))
    }
}

/// Whether it may change a parameter that the client is told of.
const fn reports(utility: &Utility) -> bool {
    !matches!(
        utility,
        Utility::Show(_)
            | Utility::Copy(_)
            | Utility::WaitFor(_)
            | Utility::Checkpoint
            | Utility::Role(_)
    )
}

fn block_warning(message: &str) -> Report {
    Report::new(Severity::Warning, NO_ACTIVE_SQL_TRANSACTION, message)
}

/// What would be read depends on what would be written.
pub(super) fn reads_and_writes() -> walhub_sql::failure::Failure {
    unsupported("writing WAL in a statement that reads walhub.messages")
}
