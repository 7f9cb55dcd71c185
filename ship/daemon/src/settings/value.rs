//! PostgreSQL's value grammar.
//!
//! PostgreSQL: `parse_and_validate_value`, `parse_int`, `convert_to_base_unit`
//! (src/backend/utils/misc/guc.c), `parse_bool` (src/backend/utils/adt/bool.c).

use walhub_proto::sqlstate::SqlState;

use super::definition::{Definition, Kind, Unit};
use super::error::{Objection, SettingError};
use super::table::DEFINITIONS;

/// A value that its definition has accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// Of a Boolean setting.
    Bool(bool),
    /// Of an integer setting, in its unit.
    Int(i64),
    /// Of a string setting.
    Text(String),
    /// Of an enum setting.
    Word(&'static str),
}

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

/// The definition of `name`, in any case.
#[must_use]
pub fn find(name: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|definition| definition.name.eq_ignore_ascii_case(name))
}

/// The unit of the integer setting `name`.
pub(super) fn unit_of(name: &str) -> Option<Unit> {
    match find(name)?.kind {
        Kind::Int { unit, .. } => unit,
        Kind::Bool | Kind::String { .. } | Kind::Enum { .. } => None,
    }
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

impl Definition {
    /// The default, parsed.
    ///
    /// # Panics
    /// If the table holds a default that its own definition refuses.
    #[must_use]
    pub fn boot_value(&self) -> Value {
        match self.parse(self.default, false) {
            Ok(value) => value,
            Err(error) => panic!("the table has a default that is refused: {error}"),
        }
    }

    /// Reads a value; `on_command_line` admits port 0.
    ///
    /// # Errors
    /// In PostgreSQL's words.
    pub fn parse(&self, value: &str, on_command_line: bool) -> Result<Value, SettingError> {
        let name = self.name;
        let invalid = |objection| SettingError::invalid_value(name, value, objection);
        match self.kind {
            Kind::Bool => parse_bool(value).map(Value::Bool).ok_or_else(|| {
                SettingError::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!("parameter \"{name}\" requires a Boolean value"),
                )
            }),
            Kind::Int { unit, min, max, words } => {
                let word = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(value));
                let number = match word {
                    Some(&(_, number)) => number,
                    None => parse_int(value, unit).map_err(invalid)?,
                };
                // A fixed port is what a server is for; only a test or a script that reads the
                // port back from the pid file can use one that the kernel chose.
                let kernel_chooses = on_command_line && name == "port" && number == 0;
                if kernel_chooses || (min..=max).contains(&number) {
                    return Ok(Value::Int(number));
                }
                let unit = unit.map(|unit| format!(" {}", unit.as_str())).unwrap_or_default();
                Err(SettingError::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!(
                        "{number}{unit} is outside the valid range for parameter \"{name}\" ({min} .. {max})"
                    ),
                ))
            }
            Kind::String { check } => {
                check(value).map_err(invalid)?;
                Ok(Value::Text(value.to_owned()))
            }
            Kind::Enum { options } => {
                let found = options.iter().find(|option| option.name.eq_ignore_ascii_case(value));
                found.map(|option| Value::Word(option.means)).ok_or_else(|| {
                    let offered: Vec<&str> =
                        options.iter().filter(|o| !o.hidden).map(|o| o.name).collect();
                    invalid(Objection::hint(format!("Available values: {}.", offered.join(", "))))
                })
            }
        }
    }
}
