//! PostgreSQL's value grammar.
//!
//! PostgreSQL: `parse_and_validate_value`, `parse_int`, `convert_to_base_unit`
//! (src/backend/utils/misc/guc.c), `parse_bool` (src/backend/utils/adt/bool.c).

use walhub_proto::sqlstate::SqlState;

use super::definition::{Definition, IntRange, Unit, Written};
use super::error::{Objection, SettingError};
use super::table::DEFINITIONS;

const MEMORY_HINT: &str =
    "Valid units for this parameter are \"B\", \"kB\", \"MB\", \"GB\", and \"TB\".";
const TIME_HINT: &str =
    "Valid units for this parameter are \"us\", \"ms\", \"s\", \"min\", \"h\", and \"d\".";

/// Units of memory in bytes, largest first.
const MEMORY_UNITS: &[(&str, f64)] = &[
    ("TB", 1_099_511_627_776.0),
    ("GB", 1_073_741_824.0),
    ("MB", 1_048_576.0),
    ("kB", 1024.0),
    ("B", 1.0),
];
/// Units of time in microseconds, largest first.
const TIME_UNITS: &[(&str, f64)] = &[
    ("d", 86_400_000_000.0),
    ("h", 3_600_000_000.0),
    ("min", 60_000_000.0),
    ("s", 1_000_000.0),
    ("ms", 1000.0),
    ("us", 1.0),
];

impl Unit {
    /// The units that a value may be written in, and how many of the smallest make one of `self`.
    pub(super) const fn scale(self) -> (&'static [(&'static str, f64)], f64) {
        match self {
            Self::Kilobytes => (MEMORY_UNITS, 1024.0),
            Self::Megabytes => (MEMORY_UNITS, 1_048_576.0),
            Self::Milliseconds => (TIME_UNITS, 1000.0),
            Self::Seconds => (TIME_UNITS, 1_000_000.0),
        }
    }

    const fn hint(self) -> &'static str {
        if self.is_memory() { MEMORY_HINT } else { TIME_HINT }
    }
}

/// Settings that have had another name, under that name. PostgreSQL: `map_old_guc_names`.
const OLD_NAMES: [(&str, &str); 1] = [("ssl_ecdh_curve", "ssl_groups")];

/// The definition of `name`, in any case.
#[must_use]
pub fn find(name: &str) -> Option<&'static Definition> {
    let renamed = OLD_NAMES.iter().find(|(old, _)| old.eq_ignore_ascii_case(name));
    let name = renamed.map_or(name, |(_, new)| new);
    DEFINITIONS.iter().find(|definition| definition.name.eq_ignore_ascii_case(name))
}

/// Reads a Boolean: `on`, `off`, or a unique prefix of `true`, `false`, `yes`, `no`, or `1`, `0`.
#[must_use]
pub fn parse_bool(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    match value.as_str() {
        "" | "o" => None,
        "1" => Some(true),
        "0" => Some(false),
        "on" => Some(true),
        _ if "true".starts_with(&value) || "yes".starts_with(&value) => Some(true),
        _ if "off".starts_with(&value) => Some(false),
        _ if "false".starts_with(&value) || "no".starts_with(&value) => Some(false),
        _ => None,
    }
}

/// What `strtol(value, &end, 0)` and, for a fraction or an exponent, `strtod` read.
fn leading_number(value: &str) -> Option<(f64, &str)> {
    let text = value.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    let digits =
        |text: &str, radix: u32| text.find(|c: char| !c.is_digit(radix)).unwrap_or(text.len());
    let hexadecimal = unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X"));
    let (radix, body) = match hexadecimal {
        Some(body) if digits(body, 16) > 0 => (16, body),
        _ if unsigned.starts_with('0') => (8, unsigned),
        _ => (10, unsigned),
    };
    let end = digits(body, radix);
    let rest = &body[end..];
    if end > 0 && !rest.starts_with(['.', 'e', 'E']) {
        // A number that does not fit is read as a real below, as PostgreSQL does on ERANGE.
        if let Ok(number) = i64::from_str_radix(&body[..end], radix) {
            return Some((sign * number as f64, rest));
        }
    } else if end == 0 && !rest.starts_with('.') {
        return None;
    }
    leading_real(unsigned).map(|(number, rest)| (sign * number, rest))
}

/// The longest prefix that is a decimal real.
fn leading_real(text: &str) -> Option<(f64, &str)> {
    let digits = |at: usize| text[at..].bytes().take_while(u8::is_ascii_digit).count();
    let mut end = digits(0);
    let mut significant = end;
    if text[end..].starts_with('.') {
        let fraction = digits(end + 1);
        significant += fraction;
        end += 1 + fraction;
    }
    if significant == 0 {
        return None;
    }
    if text[end..].starts_with(['e', 'E']) {
        let sign = usize::from(text[end + 1..].starts_with(['+', '-']));
        let exponent = digits(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    let number: f64 = text[..end].parse().ok()?;
    number.is_finite().then_some((number, &text[end..]))
}

/// Reads an integer in `unit`; what cannot be read gets the hint that PostgreSQL gives.
///
/// # Errors
/// When `value` is no number, carries an unknown unit, or exceeds PostgreSQL's `int`.
pub fn parse_int(value: &str, unit: Option<Unit>) -> Result<i64, Objection> {
    let (mut number, rest) = leading_number(value).ok_or_else(Objection::default)?;
    let suffix = rest.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    if !suffix.is_empty() {
        let unit = unit.ok_or_else(Objection::default)?;
        let (units, base) = unit.scale();
        let at = units
            .iter()
            .position(|(name, _)| *name == suffix)
            .ok_or_else(|| Objection::hint(unit.hint()))?;
        number *= units[at].1 / base;
        // A fraction is rounded to a whole number of the next smaller unit: 30.1GB is 30822MB.
        if let Some((_, smaller)) = units.get(at + 1) {
            let step = smaller / base;
            number = (number / step).round_ties_even() * step;
        }
    }
    let number = number.round_ties_even();
    if number > f64::from(i32::MAX) || number < f64::from(i32::MIN) {
        return Err(Objection::hint("Value exceeds integer range."));
    }
    Ok(number as i64)
}

impl IntRange {
    /// The number that is written, in its unit; it may be outside the range.
    pub(super) fn parse(&self, written: &Written<'_>) -> Result<i64, SettingError> {
        match self.min_word {
            Some(word) if word.eq_ignore_ascii_case(written.value) => Ok(self.min),
            Some(_) | None => {
                parse_int(written.value, self.unit).map_err(|objection| written.refusal(objection))
            }
        }
    }

    /// `number` as a count; an error when it is outside the range.
    pub(super) fn count(&self, written: &Written<'_>, number: i64) -> Result<u32, SettingError> {
        let Self { unit, min, max, .. } = *self;
        match u32::try_from(number) {
            Ok(count) if (min..=max).contains(&number) => Ok(count),
            Ok(_) | Err(_) => {
                let unit = unit.map(|unit| format!(" {}", unit.as_str())).unwrap_or_default();
                let name = written.name;
                let message = format!(
                    "{number}{unit} is outside the valid range for parameter \"{name}\" ({min} .. {max})"
                );
                Err(SettingError::new(SqlState::INVALID_PARAMETER_VALUE, message))
            }
        }
    }
}

impl Written<'_> {
    /// The error that says what is wrong with it.
    pub(super) fn refusal(&self, objection: Objection) -> SettingError {
        SettingError::invalid_value(self.name, self.value, objection)
    }
}
