//! WAIT FOR LSN: a reader waits until a position is reached.
//!
//! A relay replays nothing: for it a byte is finished when it is durable, as
//! pg_last_wal_replay_lsn() says, so all three standby modes wait for that.
//!
//! PostgreSQL: `ExecWaitStmt` (src/backend/commands/wait.c), of PostgreSQL 19.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use sqlparser::tokenizer::Token;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use walhub_proto::lsn::Lsn;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::syncrep::WaitLevel;
use walhub_proto::wire::backend::Report;

use super::SettingsView;
use super::failure::{Failure, Result, fail, hinted};
use super::session::{Ending, Session};
use super::types::Type;
use super::utility::Words;
use super::value::{Value, parse_bool};
use super::wire::{Attended, Interrupt, Told, Wire};
use walhub_hub::api::append::Waited;

/// What WAIT FOR says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct WaitFor {
    lsn: Lsn,
    mode: Mode,
    /// Zero waits forever.
    timeout: Duration,
    throws: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    StandbyReplay,
    StandbyWrite,
    StandbyFlush,
    PrimaryFlush,
}

impl Mode {
    const ALL: [Self; 4] =
        [Self::StandbyReplay, Self::StandbyWrite, Self::StandbyFlush, Self::PrimaryFlush];

    const fn name(self) -> &'static str {
        match self {
            Self::StandbyReplay => "standby_replay",
            Self::StandbyWrite => "standby_write",
            Self::StandbyFlush => "standby_flush",
            Self::PrimaryFlush => "primary_flush",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::StandbyReplay => "replayed",
            Self::StandbyWrite => "written",
            Self::StandbyFlush | Self::PrimaryFlush => "flushed",
        }
    }
}

impl Words<'_> {
    /// What follows WAIT FOR LSN.
    pub(super) fn wait_for(&mut self) -> Result<WaitFor> {
        let Some(Token::SingleQuotedString(lsn)) = self.peek() else { return Err(self.error()) };
        let Value::Lsn(lsn) = Value::parse(lsn, Type::Lsn, &TimeZone::UTC)? else {
            return Err(self.error());
        };
        self.next += 1;
        let mut wait =
            WaitFor { lsn, mode: Mode::StandbyReplay, timeout: Duration::ZERO, throws: true };
        if !self.accept("with") {
            return Ok(wait);
        }
        let mut given = Vec::new();
        self.expect_token(&Token::LParen)?;
        loop {
            let name = self.name()?;
            if given.contains(&name) {
                let message = "conflicting or redundant options";
                return Err(fail(SqlState::SYNTAX_ERROR, message));
            }
            let value = self.option_value()?;
            wait.set(&name, value.as_deref())?;
            given.push(name);
            if self.peek() == Some(&Token::Comma) {
                self.next += 1;
                continue;
            }
            self.expect_token(&Token::RParen)?;
            return Ok(wait);
        }
    }
}

impl WaitFor {
    fn is_of_standby(&self) -> bool {
        self.mode != Mode::PrimaryFlush
    }

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        let needed = || {
            value
                .ok_or_else(|| fail(SqlState::SYNTAX_ERROR, format!("{name} requires a parameter")))
        };
        match name {
            "mode" => {
                let value = needed()?;
                let mode = Mode::ALL.into_iter().find(|it| it.name().eq_ignore_ascii_case(value));
                self.mode = mode.ok_or_else(|| {
                    let message =
                        format!("unrecognized value for WAIT option \"mode\": \"{value}\"");
                    fail(SqlState::INVALID_PARAMETER_VALUE, message)
                })?;
            }
            "timeout" => self.timeout = timeout(needed()?)?,
            "no_throw" => {
                let no_throw = value.map_or(Some(true), parse_bool).ok_or_else(|| {
                    fail(SqlState::SYNTAX_ERROR, "no_throw requires a Boolean value")
                })?;
                self.throws = !no_throw;
            }
            _ => {
                let message = format!("option \"{name}\" not recognized");
                return Err(fail(SqlState::SYNTAX_ERROR, message));
            }
        }
        Ok(())
    }
}

/// A number of milliseconds, or of another unit. PostgreSQL: `parse_real`.
fn timeout(text: &str) -> Result<Duration> {
    let invalid = || {
        let message = format!("invalid timeout value: \"{text}\"");
        fail(SqlState::INVALID_PARAMETER_VALUE, message)
    };
    let trimmed = text.trim_ascii();
    let is_unit = |character: char| character.is_ascii_alphabetic() && character != 'e';
    let split = trimmed.find(is_unit).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let milliseconds = match unit {
        "us" => 0.001,
        "" | "ms" => 1.0,
        "s" => 1e3,
        "min" => 6e4,
        "h" => 3.6e6,
        "d" => 8.64e7,
        _ => {
            return Err(hinted(
                invalid(),
                "Valid units for this parameter are \"us\", \"ms\", \"s\", \"min\", \"h\", and \
                 \"d\".",
            ));
        }
    };
    let number: f64 = number.trim_ascii().parse().map_err(|_| invalid())?;
    let total = (number * milliseconds).round_ties_even();
    if total < 0.0 {
        return Err(fail(SqlState::INVALID_PARAMETER_VALUE, "timeout cannot be negative"));
    }
    // More than PostgreSQL's 64 bits of milliseconds is more than a Duration takes, or close.
    if !total.is_finite() || total >= 9.2e18 {
        return Err(fail(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "timeout value is out of range"));
    }
    Ok(Duration::from_secs_f64(total / 1e3))
}

impl<V: SettingsView> Session<V> {
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
            (Mode::PrimaryFlush, true) => Err(not_here(
                "recovery is in progress",
                "Waiting for primary_flush can only be done on a primary server. Use \
                 standby_flush mode on a standby server.",
            )),
            (Mode::PrimaryFlush, false) | (_, true) => self.wait_flushed(wire, wait).await,
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
            Attended::Interrupted(Interrupt::Cancel) => Err(canceled()),
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

/// PostgreSQL: `ProcessInterrupts`.
pub(super) fn canceled() -> Failure {
    fail(SqlState::QUERY_CANCELED, "canceling statement due to user request")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_units() {
        for (text, milliseconds) in
            [("100", 100), ("100ms", 100), ("0.1s", 100), (" 2 min", 120_000), ("1d", 86_400_000)]
        {
            assert_eq!(timeout(text).unwrap(), Duration::from_millis(milliseconds), "{text}");
        }
        for (text, message) in [
            ("1 parsec", "invalid timeout value: \"1 parsec\""),
            ("x", "invalid timeout value: \"x\""),
            ("-1", "timeout cannot be negative"),
            ("1e30", "timeout value is out of range"),
        ] {
            assert_eq!(timeout(text).unwrap_err().message, message);
        }
    }
}
