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
    /// Microseconds, which a day has no fixed number of.
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

    /// PostgreSQL: `interval_mul`.
    pub fn multiply(self, factor: f64) -> Result<Self> {
        self.scale(|part| part * factor).ok_or_else(|| out_of_range("interval"))
    }

    /// PostgreSQL: `interval_div`; `divisor` is not zero.
    pub fn divide(self, divisor: f64) -> Result<Self> {
        self.scale(|part| part / divisor).ok_or_else(|| out_of_range("interval"))
    }

    /// Fractions of a month spill into days, of a day into time; both are first rounded to a millionth.
    fn scale(self, by: impl Fn(f64) -> f64) -> Option<Self> {
        let millionths = |number: f64| (number * 1e6).round_ties_even() / 1e6;
        let (months, days) = (by(f64::from(self.months)), by(f64::from(self.days)));
        let days_of_months = millionths(months.fract() * 30.0);
        let seconds = millionths((days.fract() + days_of_months.fract()) * 86_400.0);
        let days_of_seconds = (seconds / 86_400.0).trunc();
        let micros =
            by(float::from_i64(self.micros)) + (seconds - days_of_seconds * 86_400.0) * 1e6;
        Some(Self {
            months: whole(months)?,
            days: whole(days.trunc() + days_of_months.trunc() + days_of_seconds)?,
            micros: float::to_i64(micros)?,
        })
    }

    /// A span of `days`, whose fraction counts as time. PostgreSQL: `AdjustFractDays`.
    fn from_days(days: f64) -> Option<Self> {
        Some(Self { months: 0, days: whole(days)?, micros: nearest(days.fract() * 86_400e6)? })
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
            let (count, fraction) = parse_count(number)?;
            let unit = match glued {
                // A number alone counts seconds, as PostgreSQL has it.
                "" => words.next().unwrap_or("second"),
                unit => unit,
            };
            let (months, days, micros) = match unit.to_ascii_lowercase().as_str() {
                "y" | "yr" | "yrs" | "year" | "years" => (12, 0, 0),
                "mon" | "mons" | "month" | "months" => (1, 0, 0),
                "w" | "week" | "weeks" => (0, 7, 0),
                "d" | "day" | "days" => (0, 1, 0),
                "h" | "hr" | "hrs" | "hour" | "hours" => (0, 0, 3_600_000_000),
                "m" | "min" | "mins" | "minute" | "minutes" => (0, 0, 60_000_000),
                "s" | "sec" | "secs" | "second" | "seconds" => (0, 0, 1_000_000),
                "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => (0, 0, 1_000),
                "us" | "usec" | "usecs" | "microsecond" | "microseconds" => (0, 0, 1),
                _ => return None,
            };
            let small = |part: i64| i32::try_from(count.checked_mul(part)?).ok();
            let counted = Self {
                months: small(months)?,
                days: small(days)?,
                micros: count.checked_mul(micros)?,
            };
            let rest = match (months, days) {
                // A fraction of a year is rounded to months. PostgreSQL: AdjustFractYears.
                (12, _) => {
                    Self { months: whole((fraction * 12.0).round_ties_even())?, ..Self::default() }
                }
                (1, _) => Self::from_days(fraction * 30.0)?,
                (_, 0) => Self::from_micros(nearest(fraction * float::from_i64(micros))?),
                (_, days) => Self::from_days(fraction * float::from_i64(days))?,
            };
            total = total.try_add(counted).and_then(|sum| sum.try_add(rest)).ok()?;
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

/// What is before the point.
fn whole(number: f64) -> Option<i32> {
    float::to_i64(number.trunc()).and_then(|number| i32::try_from(number).ok())
}

/// The nearest integer, half towards zero. PostgreSQL: `AdjustFractMicroseconds`.
fn nearest(number: f64) -> Option<i64> {
    let away = if number.fract().abs() > 0.5 { number.signum() } else { 0.0 };
    float::to_i64(number.trunc() + away)
}

/// A decimal number as what is before its point, and what is behind it.
fn parse_count(text: &str) -> Option<(i64, f64)> {
    let (before, behind) = text.split_at(text.find('.').unwrap_or(text.len()));
    let count = match before {
        "" | "+" | "-" if behind.len() > 1 => 0,
        digits => digits.parse().ok()?,
    };
    let fraction: f64 = if behind.len() > 1 { behind.parse().ok()? } else { 0.0 };
    Some((count, if text.starts_with('-') { -fraction } else { fraction }))
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
    // PostgreSQL: `DT_NOEND`, `DT_NOBEGIN`.
    if trimmed.eq_ignore_ascii_case("infinity") {
        return Ok(Timestamp(i64::MAX));
    }
    if trimmed.eq_ignore_ascii_case("-infinity") {
        return Ok(Timestamp(i64::MIN));
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

    /// Each line was answered by PostgreSQL 15.
    #[test]
    fn fractions_of_units_are_those_of_postgres() {
        for (text, interval) in [
            ("0.5 us", "00:00:00"),
            ("1.5 us", "00:00:00.000001"),
            ("2.51 us", "00:00:00.000003"),
            ("9007199254740993 us", "2501999:47:34.740993"),
            ("0.1 month", "3 days"),
            ("1.23456789 days", "1 day 05:37:46.665696"),
            ("0.3 week", "2 days 02:24:00"),
            ("1.7 years", "1 year 8 mons"),
            ("-1.5 d", "-1 days -12:00:00"),
            ("-.5 h", "-00:30:00"),
            ("1. h", "01:00:00"),
        ] {
            assert_eq!(Interval::parse(text).unwrap().text(), interval, "{text}");
        }
        let span = |text| Interval::parse(text).unwrap();
        for (interval, factor, product) in [
            ("1 mon", 1.7, "1 mon 21 days"),
            ("1 mon 1 day", 0.3, "9 days 07:12:00"),
            ("1 day", 0.1, "02:24:00"),
            ("1 year", 0.77, "9 mons 7 days 04:48:00"),
            ("1 us", 0.5, "00:00:00"),
        ] {
            assert_eq!(span(interval).multiply(factor).unwrap().text(), product, "{interval}");
        }
        for (interval, divisor, quotient) in [
            ("1 day", 3.0, "08:00:00"),
            ("10 mons", 7.0, "1 mon 12 days 20:34:17.1552"),
            ("1 second", 3.0, "00:00:00.333333"),
        ] {
            assert_eq!(span(interval).divide(divisor).unwrap().text(), quotient, "{interval}");
        }
        assert!(span("1 day").multiply(1e30).is_err());
        assert!(span("1 day").multiply(f64::NAN).is_err());
        for text in [".", "-.", "1.2.3 h", "1-2 h", "99999999999999999999 us", "4000000000 days"] {
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
