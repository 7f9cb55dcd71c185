//! What takes longer than a moment, on a thread that is no session's.
//!
//! A statement is first evaluated where its session is. When that takes more than a few thousand steps it is given up
//! and begun afresh elsewhere: evaluating has no effect before it is done. There is one kind of exception: a function
//! that signals another session. On the other thread it does so when it is called. On the sessions' thread it does so
//! when the evaluation is done, and not when it is given up: a second cancel request might hit the next statement of
//! that session.
//!
//! Meanwhile the session hears cancel requests, its client and the clock.
//!
//! PostgreSQL: `ProcessInterrupts`, `StatementTimeoutHandler` (src/backend/tcop/postgres.c).

use std::cell::{OnceCell, RefCell};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use walhub_proto::roles::Roles;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::Timestamp;

use super::SettingsView;
use super::context::Context;
use super::emit::Emitter;
use super::interrupts::Sessions;
use super::memory::{Account, Reservation};
use super::message_scan::Fetched;
use super::parameters::Parameters;
use super::session::Backend;
use super::wire::{Attended, Told, WaitInterrupt, Wire};
use crate::clock;
use crate::placement::spawn_blocking;
use walhub_hub::api::hub::{Client, Hub};
use walhub_sql::env::{Env, Pace};
use walhub_sql::failure::{Failure, Result, canceled, fail};
use walhub_sql::plan::Plan;
use walhub_sql::value::Value;
use walhub_sql::value::row::Rows;

/// What a statement asks for.
pub(super) type Arguments = Arc<[Value]>;

/// Rows, and the memory that they are in.
#[derive(Debug)]
pub(super) struct ResultRows {
    pub(super) rows: Rows,
    pub(super) memory: Reservation,
}

/// What is asked of work that is under way on another thread.
#[derive(Clone, Default, Debug)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn is_asked_for(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Asks for it when the session no longer waits, for whatever reason.
struct StopOnDrop(Option<Stop>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(Stop(stop)) = &self.0 {
            stop.store(true, Ordering::Relaxed);
        }
    }
}

/// What a [`Context`] refers to, for a thread that is no session's.
pub(super) struct OwnedContext<V> {
    client: Client,
    database: String,
    parameters: Parameters,
    settings: Arc<V>,
    roles: Arc<Roles>,
    hub: Arc<dyn Hub<OwnedFd>>,
    sessions: Arc<Sessions>,
    account: Arc<Account>,
    transaction_start: Timestamp,
    statement_start: Timestamp,
    arguments: Arguments,
    stop: Stop,
}

impl<V: SettingsView> OwnedContext<V> {
    /// As the statement sees them.
    pub(super) fn context<'a>(
        &'a self,
        emitter: &'a Emitter,
        messages: Option<&'a Fetched>,
    ) -> Context<'a> {
        Context {
            client: &self.client,
            database: &self.database,
            parameters: &self.parameters,
            settings: &*self.settings,
            roles: &self.roles,
            hub: &*self.hub,
            transaction_start: self.transaction_start,
            statement_start: self.statement_start,
            emitter,
            sessions: &self.sessions,
            messages,
            snapshot: OnceCell::new(),
            is_offloaded: true,
            memory: RefCell::new(self.account.reservation()),
        }
    }

    /// What the statement runs in.
    pub(super) fn env<'a>(&'a self, ctx: &'a Context<'a>) -> Env<'a> {
        let pace = Pace::Elsewhere(&self.stop.0);
        Env::new(ctx, self.parameters.zone(), &self.arguments, pace)
    }
}

impl<V: SettingsView> Backend<V> {
    /// Something that another thread can look at, and whether it is to go on.
    pub(super) fn owned_context(&self, arguments: &Arguments, stop: Stop) -> OwnedContext<V> {
        OwnedContext {
            client: self.params.client.clone(),
            database: self.params.database.clone(),
            parameters: self.parameters.clone(),
            settings: self.params.settings.borrow().clone(),
            roles: self.params.roles.current(),
            hub: Arc::clone(&self.params.hub),
            sessions: Arc::clone(&self.params.sessions),
            account: Arc::clone(&self.account),
            transaction_start: self.transaction_start,
            statement_start: self.statement_start,
            arguments: Arc::clone(arguments),
            stop,
        }
    }

    /// Runs a query: here if that takes a moment, else elsewhere. What its functions left comes back as well.
    pub(super) async fn run_plan<S>(
        &mut self,
        wire: &mut Wire<S>,
        plan: &Arc<Plan>,
        arguments: &Arguments,
        fetched: Option<Fetched>,
        emitter: Emitter,
    ) -> Result<(Result<ResultRows>, Emitter)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if fetched.as_ref().is_none_or(Fetched::is_small) {
            let ran = self.with_context(&emitter, fetched.as_ref(), |ctx| {
                let env = self.env(ctx, arguments);
                let rows = plan.run(&env);
                if env.is_outgrown() {
                    return None;
                }
                ctx.perform_postponed();
                Some(ctx.result_of(&env, rows))
            });
            if let Some(result) = ran {
                return Ok((result, emitter));
            }
        }
        let emitter = emitter.begun_afresh();
        let (stop, plan) = (Stop::default(), Arc::clone(plan));
        let owned_context = self.owned_context(arguments, stop.clone());
        let turns = Arc::clone(&self.params.sessions.turns().evaluations);
        self.offload(wire, turns, stop, move || {
            let ctx = owned_context.context(&emitter, fetched.as_ref());
            let env = owned_context.env(&ctx);
            let result = plan.run(&env);
            let result = ctx.result_of(&env, result);
            drop(ctx);
            (result, emitter)
        })
        .await
    }

    /// Has another thread do something in its turn, and waits for it or an interrupt, which `stop` then tells it of.
    pub(super) async fn offload<S, T>(
        &mut self,
        wire: &mut Wire<S>,
        turns: Arc<Semaphore>,
        stop: Stop,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        T: Send + 'static,
    {
        let (reply, mut answer) = oneshot::channel();
        tokio::spawn(async move {
            // It is never closed.
            let Ok(turn) = turns.acquire_owned().await else { return };
            if reply.is_closed() {
                return;
            }
            spawn_blocking(move || {
                drop(reply.send(work()));
                drop(turn);
            });
        });
        let mut stop = StopOnDrop(Some(stop));
        let deadline = self.statement_deadline();
        let interrupts = Arc::clone(&self.params.member.interrupts);
        let mut told = Told::default();
        loop {
            return match wire.attend(&interrupts, &mut told, &mut answer, deadline).await {
                Attended::Answered(done) => {
                    stop.0 = None;
                    Ok(done)
                }
                // It may still read.
                Attended::Interrupted(WaitInterrupt::Gone) => continue,
                Attended::Interrupted(WaitInterrupt::Cancel) => Err(canceled()),
                Attended::TimedOut => Err(timed_out()),
                Attended::Interrupted(WaitInterrupt::Terminate) | Attended::Lost => {
                    Err(self.lost())
                }
            };
        }
    }

    /// When `statement_timeout` ends the statement that runs.
    fn statement_deadline(&self) -> Option<Instant> {
        let timeout = self.parameters.milliseconds("statement_timeout").filter(|ms| *ms > 0)?;
        let since = clock::now().0.saturating_sub(self.statement_start.0);
        let passed = Duration::from_micros(u64::try_from(since).unwrap_or(0));
        Some(Instant::now() + Duration::from_millis(timeout).saturating_sub(passed))
    }
}

/// PostgreSQL: `ProcessInterrupts`.
fn timed_out() -> Failure {
    fail(SqlState::QUERY_CANCELED, "canceling statement due to statement timeout")
}
