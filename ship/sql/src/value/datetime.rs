//! Text of `timestamp with time zone` and `interval`, in and out.
//!
//! Output is DateStyle ISO and IntervalStyle postgres, the only ones the console has.
//!
//! PostgreSQL: `EncodeDateTime`, `EncodeInterval` (src/backend/utils/adt/datetime.c).

use std::cmp::Ordering;
use std::fmt::Write;

use jiff::tz::TimeZone;
use walhub_proto::time::Timestamp;

use crate::failure::{
    DATETIME_FIELD_OVERFLOW, Failure, INVALID_DATETIME_FORMAT, Result, fail, out_of_range,
};
use crate::value::float;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// Text longer than this is no time, and is not looked at.
const TEXT_LEN_MAX: usize = 128;

/// A span of time in the three units that do not convert into each other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interval {
    /// Months, which have no fixed number of days.
    pub months: i32,
    /// Days, which have no fixed number of hours.
    pub days: i32,
    /// Microseconds.
    pub micros: i64,
}

impl Interval {
    /// Whole days and the rest, as the difference of two timestamps has it.
    ///
    /// PostgreSQL: `timestamp_mi`, `interval_justify_hours`.
    pub fn between(later: Timestamp, earlier: Timestamp) -> Result<Self> {
        let micros = later.0.checked_sub(earlier.0).ok_or_else(|| out_of_range("interval"))?;
        let days = i32::try_from(micros / MICROS_PER_DAY).map_err(|_| out_of_range("interval"))?;
        Ok(Self { months: 0, days, micros: micros % MICROS_PER_DAY })
    }

    /// Only microseconds, as the lag columns have it.
    pub const fn from_micros(micros: i64) -> Self {
        Self { months: 0, days: 0, micros }
    }

    /// Microseconds, a month as 30 days: how intervals compare. PostgreSQL: `interval_cmp_value`.
    fn comparable(self) -> i128 {
        let days = i128::from(self.months) * 30 + i128::from(self.days);
        days * i128::from(MICROS_PER_DAY) + i128::from(self.micros)
    }

    /// Microseconds for EXTRACT(EPOCH ...), a year as 365.25 days. PostgreSQL: `interval_part`.
    pub fn epoch_micros(self) -> i128 {
        let quarter_days = i128::from(self.months / 12) * 1461
            + (i128::from(self.months % 12) * 30 + i128::from(self.days)) * 4;
        quarter_days * i128::from(MICROS_PER_DAY) / 4 + i128::from(self.micros)
    }

    /// PostgreSQL: `interval_pl`.
    pub fn try_add(self, other: Self) -> Result<Self> {
        let sum = || {
            Some(Self {
                months: self.months.checked_add(other.months)?,
                days: self.days.checked_add(other.days)?,
                micros: self.micros.checked_add(other.micros)?,
            })
        };
        sum().ok_or_else(|| out_of_range("interval"))
    }

    /// PostgreSQL: `interval_um`.
    pub fn negate(self) -> Result<Self> {
        let negated = || {
            Some(Self {
                months: self.months.checked_neg()?,
                days: self.days.checked_neg()?,
                micros: self.micros.checked_neg()?,
            })
        };
        negated().ok_or_else(|| out_of_range("interval"))
    }

    /// Fractions of a month spill into days, of a day into time. PostgreSQL: `interval_mul`.
    pub fn scale(self, factor: f64) -> Result<Self> {
        let months = f64::from(self.months) * factor;
        let days = f64::from(self.days) * factor + months.fract() * 30.0;
        let micros = float::from_i64(self.micros) * factor + days.fract() * 86_400e6;
        let scaled = || {
            Some(Self {
                months: i32::try_from(float::to_i64(months.trunc())?).ok()?,
                days: i32::try_from(float::to_i64(days.trunc())?).ok()?,
                micros: float::to_i64(micros.round())?,
            })
        };
        scaled().ok_or_else(|| out_of_range("interval"))
    }

    /// `at` moved by this span; months count on the calendar. PostgreSQL: `timestamptz_pl_interval`.
    pub fn after(self, at: Timestamp, zone: &TimeZone) -> Result<Timestamp> {
        let overflow = || fail(DATETIME_FIELD_OVERFLOW, "timestamp out of range");
        let moved = || -> Option<i64> {
            let mut at = at.unix_micros();
            if self.months != 0 || self.days != 0 {
                let span = jiff::Span::new()
                    .try_months(self.months)
                    .and_then(|span| span.try_days(self.days))
                    .ok()?;
                let zoned = jiff::Timestamp::from_microsecond(at).ok()?.to_zoned(zone.clone());
                at = zoned.checked_add(span).ok()?.timestamp().as_microsecond();
            }
            at.checked_add(self.micros)
        };
        moved()
            .and_then(|at| at.checked_sub(Timestamp::UNIX_TO_POSTGRES_SECONDS * MICROS_PER_SECOND))
            .map(Timestamp)
            .ok_or_else(overflow)
    }

    /// PostgreSQL: `EncodeInterval`, INTSTYLE_POSTGRES.
    pub fn text(self) -> String {
        let mut text = String::new();
        let mut before_negative = false;
        let mut part = |value: i32, unit: &str| {
            if value == 0 {
                return;
            }
            let space = if text.is_empty() { "" } else { " " };
            let plus = if before_negative && value > 0 { "+" } else { "" };
            let plural = if value == 1 { "" } else { "s" };
            // Writing to a String cannot fail.
            let _ = write!(text, "{space}{plus}{value} {unit}{plural}");
            before_negative = value < 0;
        };
        part(self.months / 12, "year");
        part(self.months % 12, "mon");
        part(self.days, "day");
        if text.is_empty() || self.micros != 0 {
            let space = if text.is_empty() { "" } else { " " };
            let sign = match self.micros {
                ..0 => "-",
                _ if before_negative => "+",
                _ => "",
            };
            let micros = self.micros.unsigned_abs();
            let seconds = micros / 1_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let _ = write!(text, "{space}{sign}{hours:02}:{minutes:02}:{:02}", seconds % 60);
            push_fraction(&mut text, micros % 1_000_000);
        }
        text
    }

    /// Parses `1 year 2 mons 3 days 04:05:06.7`, any subset, units in any of their names.
    ///
    /// PostgreSQL: `DecodeInterval`.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > TEXT_LEN_MAX {
            return None;
        }
        let mut total = Self::default();
        let mut words = text.split_ascii_whitespace().peekable();
        words.peek()?;
        while let Some(word) = words.next() {
            if word.contains(':') {
                total.micros = total.micros.checked_add(parse_clock(word)?)?;
                continue;
            }
            let split = word
                .find(|character: char| !character.is_ascii_digit() && !"+-.".contains(character))
                .unwrap_or(word.len());
            let (number, glued) = word.split_at(split);
            let number: f64 = number.parse().ok()?;
            let unit = match glued {
                // A number alone counts seconds, as PostgreSQL has it.
                "" => words.next().unwrap_or("second"),
                unit => unit,
            };
            let (months, days, micros) = match unit.to_ascii_lowercase().as_str() {
                "y" | "yr" | "yrs" | "year" | "years" => (12, 0, 0.0),
                "mon" | "mons" | "month" | "months" => (1, 0, 0.0),
                "w" | "week" | "weeks" => (0, 7, 0.0),
                "d" | "day" | "days" => (0, 1, 0.0),
                "h" | "hr" | "hrs" | "hour" | "hours" => (0, 0, 3600e6),
                "m" | "min" | "mins" | "minute" | "minutes" => (0, 0, 60e6),
                "s" | "sec" | "secs" | "second" | "seconds" => (0, 0, 1e6),
                "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => (0, 0, 1e3),
                "us" | "usec" | "usecs" | "microsecond" | "microseconds" => (0, 0, 1.0),
                _ => return None,
            };
            let part = if micros > 0.0 {
                Self::from_micros(float::to_i64((number * micros).round())?)
            } else {
                Self { months, days, micros: 0 }.scale(number).ok()?
            };
            total = total.try_add(part).ok()?;
        }
        Some(total)
    }
}

impl PartialEq for Interval {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Interval {}

impl PartialOrd for Interval {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Interval {
    fn cmp(&self, other: &Self) -> Ordering {
        self.comparable().cmp(&other.comparable())
    }
}

/// `[-]HH:MM[:SS[.ffffff]]` in microseconds.
fn parse_clock(text: &str) -> Option<i64> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut fields = text.split(':');
    let whole = |field: &str| field.parse::<u32>().ok().map(i64::from);
    let (hours, minutes) = (whole(fields.next()?)?, whole(fields.next()?)?);
    let seconds = match fields.next() {
        Some(field) => {
            let (whole_part, fraction) = field.split_once('.').unwrap_or((field, ""));
            if fraction.len() > 6 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            // Six digits, of which those at the end may be left out.
            let digits = fraction.bytes().map(|digit| i64::from(digit - b'0'));
            let micros =
                digits.chain(std::iter::repeat(0)).take(6).fold(0, |sum, it| sum * 10 + it);
            whole(whole_part)? * MICROS_PER_SECOND + micros
        }
        None => 0,
    };
    if fields.next().is_some() || minutes > 59 || seconds > 60 * MICROS_PER_SECOND {
        return None;
    }
    let total = (hours * 3600 + minutes * 60) * MICROS_PER_SECOND + seconds;
    Some(if negative { -total } else { total })
}

fn push_fraction(text: &mut String, micros: u64) {
    if micros != 0 {
        let digits = format!("{micros:06}");
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
}

/// `2026-11-21 23:41:12.5+00`. PostgreSQL: `timestamptz_out`.
pub fn timestamp_text(at: Timestamp, zone: &TimeZone) -> String {
    // Beyond the years that the calendar library has, the number is all there is to show.
    let Some(utc) = i64::checked_add(at.0, Timestamp::UNIX_TO_POSTGRES_SECONDS * MICROS_PER_SECOND)
        .and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok())
    else {
        return if at.0 < 0 { "-infinity".to_owned() } else { "infinity".to_owned() };
    };
    let zoned = utc.to_zoned(zone.clone());
    let mut text = zoned.strftime("%Y-%m-%d %H:%M:%S").to_string();
    let micros = utc.as_microsecond().rem_euclid(MICROS_PER_SECOND);
    push_fraction(&mut text, micros.unsigned_abs());
    let offset = zoned.offset().seconds();
    let sign = if offset < 0 { '-' } else { '+' };
    let offset = offset.unsigned_abs();
    let _ = write!(text, "{sign}{:02}", offset / 3600);
    if offset % 3600 != 0 {
        let _ = write!(text, ":{:02}", offset / 60 % 60);
    }
    if offset % 60 != 0 {
        let _ = write!(text, ":{:02}", offset % 60);
    }
    text
}

/// Parses ISO 8601 with or without a zone; without, it is in `zone`. PostgreSQL: `timestamptz_in`.
pub fn parse_timestamp(text: &str, zone: &TimeZone) -> Result<Timestamp> {
    let invalid = || -> Failure {
        fail(
            INVALID_DATETIME_FORMAT,
            format!("invalid input syntax for type timestamp with time zone: \"{text}\""),
        )
    };
    let trimmed = text.trim_ascii();
    if trimmed.len() > TEXT_LEN_MAX {
        return Err(invalid());
    }
    let instant = match trimmed.parse::<jiff::Timestamp>() {
        Ok(instant) => instant,
        Err(_) => trimmed
            .parse::<jiff::civil::DateTime>()
            .and_then(|local| local.to_zoned(zone.clone()))
            .map_err(|_| invalid())?
            .timestamp(),
    };
    Ok(Timestamp::from_unix_micros(instant.as_microsecond()))
}

/// The error for text that is not an interval.
pub fn invalid_interval(text: &str) -> Failure {
    fail(INVALID_DATETIME_FORMAT, format!("invalid input syntax for type interval: \"{text}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_print_as_postgres_prints_them() {
        for (months, days, micros, text) in [
            (0, 0, 0, "00:00:00"),
            (0, 0, 123, "00:00:00.000123"),
            (0, 0, -1_500_000, "-00:00:01.5"),
            (0, 2, 3_600_000_000, "2 days 01:00:00"),
            (14, 1, 0, "1 year 2 mons 1 day"),
            (-1, 1, 0, "-1 mons +1 day"),
            (0, -1, 1_000_000, "-1 days +00:00:01"),
            (0, 0, 100 * 3_600_000_000, "100:00:00"),
        ] {
            let interval = Interval { months, days, micros };
            assert_eq!(interval.text(), text);
            assert_eq!(Interval::parse(text), Some(interval), "{text}");
        }
        assert_eq!(Interval::parse("5 minutes").unwrap().text(), "00:05:00");
        assert_eq!(Interval::parse("1.5 days").unwrap().text(), "1 day 12:00:00");
        assert_eq!(Interval::parse("90s").unwrap().text(), "00:01:30");
        for text in ["", "x", "5 parsecs", "1:2:3:4", ":", "1:-2", "99999999999 years"] {
            assert_eq!(Interval::parse(text), None, "{text}");
        }
    }

    #[test]
    fn timestamps_print_in_their_zone_and_parse_back() {
        let at = Timestamp(846_114_072_500_000);
        let kolkata =
            TimeZone::fixed(jiff::tz::offset(5).saturating_add(jiff::Span::new().minutes(30)));
        assert_eq!(timestamp_text(at, &TimeZone::UTC), "2026-10-23 23:41:12.5+00");
        assert_eq!(timestamp_text(at, &kolkata), "2026-10-24 05:11:12.5+05:30");
        for zone in [TimeZone::UTC, kolkata] {
            assert_eq!(parse_timestamp(&timestamp_text(at, &zone), &TimeZone::UTC).unwrap(), at);
        }
        assert_eq!(parse_timestamp("2000-01-01", &TimeZone::UTC).unwrap(), Timestamp(0));
        assert_eq!(parse_timestamp("soon", &TimeZone::UTC).unwrap_err().sqlstate.0, "22007");
        assert_eq!(timestamp_text(Timestamp(i64::MAX), &TimeZone::UTC), "infinity");
    }
}
