//! WAIT FOR LSN: a reader waits until a position is reached.
//!
//! A relay replays nothing: for it a byte is finished when it is durable, as
//! pg_last_wal_replay_lsn() says, so all three standby modes wait for that.
//!
//! PostgreSQL: `ExecWaitStmt` (src/backend/commands/wait.c), of PostgreSQL 19.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use walhub_proto::lsn::Lsn;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::syncrep::WaitLevel;
use walhub_proto::wire::backend::Report;

use super::SettingsView;
use super::session::{Backend, Ending};
use super::wire::{Attended, Told, WaitInterrupt, Wire};
use walhub_hub::api::append::Waited;
use walhub_sql::failure::{Failure, Result, canceled, fail, hinted};
use walhub_sql::parse::wait_for::{WaitFor, WaitMode};

impl<V: SettingsView> Backend<V> {
    /// Waits; what the client is told.
    pub(super) async fn wait_for<S>(
        &mut self,
        wire: &mut Wire<S>,
        wait: &WaitFor,
    ) -> Result<&'static str>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let isolation = self.parameters.value("transaction_isolation").unwrap_or_default();
        if self.transaction.is_open() && matches!(isolation, "repeatable read" | "serializable") {
            let message = "WAIT FOR must be called without an active or registered snapshot";
            let state = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
            return Err(Box::new(Report::error(state, message).detail(
                "WAIT FOR cannot be executed from a function or procedure, nor within a \
                 transaction with an isolation level higher than READ COMMITTED.",
            )));
        }
        match (wait.mode, self.params.hub.in_recovery()) {
            (WaitMode::PrimaryFlush, true) => Err(not_here(
                "recovery is in progress",
                "Waiting for primary_flush can only be done on a primary server. Use \
                 standby_flush mode on a standby server.",
            )),
            (WaitMode::PrimaryFlush, false) | (_, true) => self.wait_flushed(wire, wait).await,
            (_, false) if !wait.throws => Ok("not in recovery"),
            (mode, false) => Err(not_here(
                "recovery is not in progress",
                &format!(
                    "Waiting for the {} LSN can only be executed during recovery.",
                    mode.name()
                ),
            )),
        }
    }

    fn is_promoted(&self) -> bool {
        !self.params.hub.in_recovery()
    }

    /// The server was promoted before the position was reached.
    fn recovery_ended(&self, wait: &WaitFor) -> Result<&'static str> {
        if !wait.throws {
            return Ok("not in recovery");
        }
        let state = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
        Err(Box::new(Report::error(state, "recovery is not in progress").detail(format!(
            "Recovery ended before target LSN {} was {}; last {} LSN {}.",
            wait.lsn,
            wait.mode.done(),
            wait.mode.name(),
            self.flush_lsn()
        ))))
    }

    fn flush_lsn(&self) -> Lsn {
        self.params.hub.positions().map_or(Lsn::INVALID, |positions| positions.flush_lsn)
    }

    async fn wait_flushed<S>(&mut self, wire: &mut Wire<S>, wait: &WaitFor) -> Result<&'static str>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.flush_lsn() >= wait.lsn {
            return Ok("success");
        }
        let deadline = (!wait.timeout.is_zero()).then(|| Instant::now().checked_add(wait.timeout));
        let hub = Arc::clone(&self.params.hub);
        let interrupts = Arc::clone(&self.params.member.interrupts);
        let owner = self.params.client.pid;
        let mut answer = hub.wait(wait.lsn, WaitLevel::LocalFlush, owner);
        let mut told = Told::default();
        let attended = wire.attend(&interrupts, &mut told, &mut answer, deadline.flatten()).await;
        match attended {
            Attended::Answered(Waited::Reached) => return Ok("success"),
            Attended::Answered(Waited::Canceled) if self.flush_lsn() >= wait.lsn => {
                return Ok("success");
            }
            Attended::Answered(Waited::Canceled) if wait.is_of_standby() && self.is_promoted() => {
                return self.recovery_ended(wait);
            }
            Attended::Answered(Waited::Canceled) | Attended::Lost => return Err(self.lost()),
            Attended::TimedOut | Attended::Interrupted(_) => {}
        }
        drop(answer);
        hub.cancel_wait(owner);
        match attended {
            Attended::Interrupted(WaitInterrupt::Cancel) => Err(canceled()),
            Attended::Interrupted(_) => {
                let message = "terminating connection due to administrator command";
                let report = Report::fatal(SqlState::ADMIN_SHUTDOWN, message);
                self.ending = Some(Ending::Fatal(report.clone()));
                Err(Box::new(report))
            }
            _ if !wait.throws => Ok("timeout"),
            _ => {
                let message = format!(
                    "timed out while waiting for target LSN {} to be {}; current {} LSN {}",
                    wait.lsn,
                    wait.mode.done(),
                    wait.mode.name(),
                    self.flush_lsn()
                );
                Err(fail(SqlState::QUERY_CANCELED, message))
            }
        }
    }
}

fn not_here(message: &str, hint: &str) -> Failure {
    hinted(fail(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message), hint)
}
