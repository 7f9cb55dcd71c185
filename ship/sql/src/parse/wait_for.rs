//! WAIT FOR LSN as it is written.
//!
//! PostgreSQL: `ExecWaitStmt` (src/backend/commands/wait.c), of PostgreSQL 19.

use std::time::Duration;

use jiff::tz::TimeZone;
use sqlparser::tokenizer::Token;
use walhub_proto::lsn::Lsn;
use walhub_proto::sqlstate::SqlState;

use crate::failure::{Result, fail, hinted};
use crate::parse::words::Words;
use crate::value::types::Type;
use crate::value::{Value, parse_bool};

/// What WAIT FOR says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WaitFor {
    /// The position to wait for.
    pub lsn: Lsn,
    /// What must have happened up to it.
    pub mode: WaitMode,
    /// How long to wait; zero is without end.
    pub timeout: Duration,
    /// Whether a wait that fails is an error.
    pub throws: bool,
}

/// The MODE of WAIT FOR LSN: what must have reached the position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the mode of that name")]
pub enum WaitMode {
    StandbyReplay,
    StandbyWrite,
    StandbyFlush,
    PrimaryFlush,
}

impl WaitMode {
    const ALL: [Self; 4] =
        [Self::StandbyReplay, Self::StandbyWrite, Self::StandbyFlush, Self::PrimaryFlush];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StandbyReplay => "standby_replay",
            Self::StandbyWrite => "standby_write",
            Self::StandbyFlush => "standby_flush",
            Self::PrimaryFlush => "primary_flush",
        }
    }

    /// What has happened when the wait is over.
    pub const fn done(self) -> &'static str {
        match self {
            Self::StandbyReplay => "replayed",
            Self::StandbyWrite => "written",
            Self::StandbyFlush | Self::PrimaryFlush => "flushed",
        }
    }
}

impl Words<'_> {
    /// What follows WAIT FOR LSN.
    pub(crate) fn wait_for(&mut self) -> Result<WaitFor> {
        let Some(Token::SingleQuotedString(lsn)) = self.peek() else { return Err(self.error()) };
        let Value::Lsn(lsn) = Value::parse(lsn, Type::Lsn, &TimeZone::UTC)? else {
            return Err(self.error());
        };
        self.next += 1;
        let mut wait =
            WaitFor { lsn, mode: WaitMode::StandbyReplay, timeout: Duration::ZERO, throws: true };
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
    /// Whether only a standby can wait so.
    pub fn is_of_standby(&self) -> bool {
        self.mode != WaitMode::PrimaryFlush
    }

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        let needed = || {
            value
                .ok_or_else(|| fail(SqlState::SYNTAX_ERROR, format!("{name} requires a parameter")))
        };
        match name {
            "mode" => {
                let value = needed()?;
                let mode =
                    WaitMode::ALL.into_iter().find(|it| it.name().eq_ignore_ascii_case(value));
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
