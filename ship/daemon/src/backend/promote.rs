//! pg_promote: a standby becomes the primary of its WAL, while its sessions go on.
//!
//! PostgreSQL: `pg_promote` (src/backend/access/transam/xlogfuncs.c).

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Report, Severity};

use super::SettingsView;
use super::context::Context;
use super::emit::Call;
use super::session::{Backend, Ending};
use super::wire::{Attended, Told, WaitInterrupt, Wire};
use walhub_hub::api::append::not_in_recovery;
use walhub_sql::failure::{Result, canceled, fail};
use walhub_sql::value::Value;

/// What pg_promote was called with.
pub(super) struct PromoteCall {
    wait: bool,
    seconds: u32,
}

/// `pg_promote`.
pub(super) fn promote(ctx: &Context<'_>, wait: bool, seconds: i64) -> Result<Value> {
    if !ctx.hub.in_recovery() {
        return Err(Box::new(not_in_recovery()));
    }
    let Some(seconds) = u32::try_from(seconds).ok().filter(|&seconds| seconds > 0) else {
        let message = "\"wait_seconds\" must not be negative or zero";
        return Err(fail(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, message));
    };
    Ok(ctx.emitter.push(Call::Promote(PromoteCall { wait, seconds })))
}

impl<V: SettingsView> Backend<V> {
    /// Has it done, and waits for it if asked to; whether the server did not fail to promote meanwhile.
    pub(super) async fn promote<S>(&mut self, wire: &mut Wire<S>, call: PromoteCall) -> Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut answer = self.params.hub.promote();
        if !call.wait {
            return Ok(true);
        }
        let deadline = Instant::now() + Duration::from_secs(u64::from(call.seconds));
        let interrupts = Arc::clone(&self.params.member.interrupts);
        let mut told = Told::default();
        loop {
            match wire.attend(&interrupts, &mut told, &mut answer, Some(deadline)).await {
                Attended::Answered(Ok(())) => return Ok(true),
                Attended::Answered(Err(report)) => return Err(Box::new(report)),
                Attended::Lost => return Err(self.lost()),
                Attended::TimedOut => {
                    let plural = if call.seconds == 1 { "" } else { "s" };
                    let message =
                        format!("server did not promote within {} second{plural}", call.seconds);
                    self.out.report(&Report::new(Severity::Warning, SqlState::WARNING, message));
                    return Ok(false);
                }
                // The promotion goes on.
                Attended::Interrupted(WaitInterrupt::Cancel) => return Err(canceled()),
                Attended::Interrupted(WaitInterrupt::Gone) => {}
                Attended::Interrupted(WaitInterrupt::Terminate) => {
                    let message = "terminating connection due to administrator command";
                    let report = Report::fatal(SqlState::ADMIN_SHUTDOWN, message);
                    self.ending = Some(Ending::Fatal(report.clone()));
                    return Err(Box::new(report));
                }
            }
        }
    }
}
