//! pg_promote: a standby becomes the primary of its WAL, while its sessions go on.
//!
//! As with messages, a statement runs twice: its first run says what is to be done, and the second one is
//! told what came of it.
//!
//! PostgreSQL: `pg_promote` (src/backend/access/transam/xlogfuncs.c).

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use walhub_proto::lsn::Lsn;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Report, Severity};

use super::SettingsView;
use super::context::Context;
use super::emit::Call;
use super::session::{Ending, Session};
use super::wire::{Attended, Interrupt, Told, Wire};
use walhub_hub::api::append::not_in_recovery;
use walhub_sql::failure::{Result, canceled, fail};
use walhub_sql::value::Value;

/// The answer when the server is a primary; a position, as every answer to a call is.
const PROMOTED: Lsn = Lsn(1);

/// What pg_promote was called with.
pub(super) struct PromoteCall {
    wait: bool,
    seconds: u32,
}

/// `pg_promote`.
pub(super) fn promote(ctx: &Context<'_>, wait: bool, seconds: i64) -> Result<Value> {
    if let Some(answer) = ctx.emitter.answer() {
        return Ok(Value::Bool(answer == Value::Lsn(PROMOTED)));
    }
    if !ctx.hub.in_recovery() {
        return Err(Box::new(not_in_recovery()));
    }
    let Some(seconds) = u32::try_from(seconds).ok().filter(|&seconds| seconds > 0) else {
        let message = "\"wait_seconds\" must not be negative or zero";
        return Err(fail(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, message));
    };
    ctx.emitter.push(Call::Promote(PromoteCall { wait, seconds }));
    Ok(Value::Bool(true))
}

impl<V: SettingsView> Session<V> {
    /// Has it done, and waits for it if asked to.
    pub(super) async fn promote<S>(&mut self, wire: &mut Wire<S>, call: PromoteCall) -> Result<Lsn>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut answer = self.params.hub.promote();
        if !call.wait {
            return Ok(PROMOTED);
        }
        let deadline = Instant::now() + Duration::from_secs(u64::from(call.seconds));
        let interrupts = Arc::clone(&self.params.member.interrupts);
        let mut told = Told::default();
        loop {
            match wire.attend(&interrupts, &mut told, &mut answer, Some(deadline)).await {
                Attended::Answered(Ok(())) => return Ok(PROMOTED),
                Attended::Answered(Err(report)) => return Err(Box::new(report)),
                Attended::Lost => return Err(self.lost()),
                Attended::TimedOut => {
                    let plural = if call.seconds == 1 { "" } else { "s" };
                    let message =
                        format!("server did not promote within {} second{plural}", call.seconds);
                    self.out.report(&Report::new(Severity::Warning, SqlState::WARNING, message));
                    return Ok(Lsn::INVALID);
                }
                // The promotion goes on.
                Attended::Interrupted(Interrupt::Cancel) => return Err(canceled()),
                Attended::Interrupted(Interrupt::Gone) => {}
                Attended::Interrupted(Interrupt::Terminate) => {
                    let message = "terminating connection due to administrator command";
                    let report = Report::fatal(SqlState::ADMIN_SHUTDOWN, message);
                    self.ending = Some(Ending::Fatal(report.clone()));
                    return Err(Box::new(report));
                }
            }
        }
    }
}
