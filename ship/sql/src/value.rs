//! Values, their text, and how they compare.
//!
//! Not here: the binary format (`binary`).

pub mod binary;
pub mod comparison;
pub mod datetime;
pub mod float;
pub mod numeric;
pub mod row;
pub mod types;

use std::cmp::Ordering;

use jiff::tz::TimeZone;
use walhub_proto::lsn::Lsn;
use walhub_proto::time::Timestamp;

use crate::failure::{Failure, Result, fail, hinted, invalid_input, out_of_range, unsupported};
use crate::value::comparison::Comparison;
use crate::value::datetime::Interval;
use crate::value::numeric::Numeric;
use crate::value::types::Type;
use walhub_proto::sqlstate::SqlState;

/// A value; its type is the expression's.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// NULL, of any type.
    Null,
    /// A value of boolean.
    Bool(bool),
    /// A value of int2, int4, int8, oid or xid.
    Int(i64),
    /// A value of float8.
    Float(f64),
    /// A value of numeric.
    Numeric(Numeric),
    /// A value of text, name, "char" or inet, or a literal of unknown type.
    Text(String),
    /// A value of bytea.
    Bytes(Vec<u8>),
    /// A value of pg_lsn.
    Lsn(Lsn),
    /// A value of timestamptz.
    Timestamp(Timestamp),
    /// A value of interval.
    Interval(Interval),
    /// A value of text[] or oid[], with `None` for NULL.
    Array(Vec<Option<String>>),
    /// It is not known yet. Whatever looks at a value asks for [`Value::known`] first.
    Pending(Pending),
}

/// The value of a function that changes something: it is known once that is done.
///
/// Evaluation goes on without it. What is made of it meanwhile is remembered here, where that cannot fail later, when
/// the change is done and can no more be taken back.
#[derive(Clone, PartialEq, Debug)]
pub struct Pending {
    /// Number of the answer among those that the statement waits for.
    answer: usize,
    then: Then,
}

/// What is made of an answer once it is there.
#[derive(Clone, PartialEq, Debug)]
enum Then {
    Itself,
    /// The text of a position.
    Text,
    /// Its comparison with a value.
    Compare(Comparison, Box<Value>),
    /// Bytes from that position to it.
    BytesAfter(Lsn),
    /// Bytes from it to that position.
    BytesBefore(Lsn),
}

impl Pending {
    /// An answer, as it will be.
    pub const fn answer(answer: usize) -> Self {
        Self { answer, then: Then::Itself }
    }

    /// Its cast; `None` when that has to wait.
    pub fn cast(&self, source: Type, target: Type) -> Option<Self> {
        let then = match (source, target) {
            (source, target) if source == target => return Some(self.clone()),
            (Type::Lsn, Type::Text) => Then::Text,
            _ => return None,
        };
        self.then(then)
    }

    /// Whether it compares so with a value that is known.
    pub fn compare(&self, comparison: Comparison, with: Value) -> Option<Self> {
        self.then(Then::Compare(comparison, Box::new(with)))
    }

    /// Bytes from a position to this one.
    pub fn bytes_after(&self, lsn: Lsn) -> Option<Self> {
        self.then(Then::BytesAfter(lsn))
    }

    /// Bytes from this position to another.
    pub fn bytes_before(&self, lsn: Lsn) -> Option<Self> {
        self.then(Then::BytesBefore(lsn))
    }

    fn then(&self, then: Then) -> Option<Self> {
        (self.then == Then::Itself).then_some(Self { answer: self.answer, then })
    }

    fn heap_len(&self) -> usize {
        match &self.then {
            Then::Compare(_, with) => size_of::<Value>() + with.heap_len(),
            Then::Itself | Then::Text | Then::BytesAfter(_) | Then::BytesBefore(_) => 0,
        }
    }

    /// The value, given what the answer is.
    fn resolved(&self, answer: Value) -> Value {
        match (&self.then, answer) {
            (Then::Itself, answer) => answer,
            (_, Value::Null) => Value::Null,
            (Then::Text, answer) => Value::or_null(answer.text(&TimeZone::UTC), Value::Text),
            (Then::Compare(comparison, with), answer) => {
                Value::Bool(comparison.holds(answer.compare(with)))
            }
            (Then::BytesAfter(lsn), Value::Lsn(answer)) => lsn_difference(answer, *lsn),
            (Then::BytesBefore(lsn), Value::Lsn(answer)) => lsn_difference(*lsn, answer),
            (then, answer) => unreachable!("{then:?} of {answer:?}: the binder's types differ"),
        }
    }
}

/// PostgreSQL: `pg_lsn_mi`.
pub fn lsn_difference(left: Lsn, right: Lsn) -> Value {
    Value::Numeric(Numeric::new(i128::from(left.0) - i128::from(right.0), 0))
}

impl Value {
    /// Whether it is NULL.
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The value, if it is known.
    ///
    /// # Errors
    /// `feature_not_supported`: what was asked of it cannot wait.
    pub fn known(self) -> Result<Self> {
        match self {
            Self::Pending(_) => Err(not_known()),
            value => Ok(value),
        }
    }

    /// Whether it is not known yet.
    pub const fn is_pending(&self) -> bool {
        matches!(self, Self::Pending(_))
    }

    /// Puts the answer in the place of a value that waits for it.
    pub fn resolve(&mut self, answers: impl FnOnce(usize) -> Self) {
        if let Self::Pending(pending) = self {
            *self = pending.resolved(answers(pending.answer));
        }
    }

    /// The value, or NULL for `None`.
    pub fn or_null<T>(value: Option<T>, make: impl FnOnce(T) -> Self) -> Self {
        value.map_or(Self::Null, make)
    }

    /// A value that is text.
    pub fn text_of(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Bytes that it holds on the heap, for the limit on results.
    pub fn heap_len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Array(items) => items.iter().flatten().map(|item| item.len() + 24).sum(),
            Self::Pending(pending) => pending.heap_len(),
            Self::Null
            | Self::Bool(_)
            | Self::Int(_)
            | Self::Float(_)
            | Self::Numeric(_)
            | Self::Lsn(_)
            | Self::Timestamp(_)
            | Self::Interval(_) => 0,
        }
    }

    /// The text format; `None` for NULL.
    pub fn text(&self, zone: &TimeZone) -> Option<String> {
        Some(match self {
            Self::Null => return None,
            Self::Bool(value) => if *value { "t" } else { "f" }.to_owned(),
            Self::Int(value) => value.to_string(),
            Self::Float(value) => float_text(*value),
            Self::Numeric(value) => value.to_string(),
            Self::Text(value) => value.clone(),
            Self::Bytes(bytes) => bytea_text(bytes),
            Self::Lsn(value) => value.to_string(),
            Self::Timestamp(value) => datetime::timestamp_text(*value, zone),
            Self::Interval(value) => value.text(),
            Self::Array(items) => array_text(items),
            Self::Pending(_) => unreachable!("shown before it is known"),
        })
    }

    /// Parses the text format of `ty`.
    pub fn parse(text: &str, ty: Type, zone: &TimeZone) -> Result<Self> {
        let trimmed = text.trim_ascii();
        let int = |min: i64, max: i64| {
            let number = trimmed.parse::<i128>().map_err(|_| invalid_input(ty.sql_name(), text))?;
            i64::try_from(number).ok().filter(|number| (min..=max).contains(number)).ok_or_else(
                || {
                    fail(
                        SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
                        format!("value \"{text}\" is out of range for type {}", ty.sql_name()),
                    )
                },
            )
        };
        Ok(match ty {
            Type::Text | Type::Unknown => Self::Text(text.to_owned()),
            Type::Name => Self::Text(truncated(text, NAME_LEN_MAX).to_owned()),
            Type::Char => Self::Text(truncated(text, 1).to_owned()),
            Type::Bool => {
                Self::Bool(parse_bool(trimmed).ok_or_else(|| invalid_input("boolean", text))?)
            }
            Type::Int2 => Self::Int(int(i64::from(i16::MIN), i64::from(i16::MAX))?),
            Type::Int4 => Self::Int(int(i64::from(i32::MIN), i64::from(i32::MAX))?),
            Type::Int8 => Self::Int(int(i64::MIN, i64::MAX)?),
            Type::Oid | Type::Xid => Self::Int(int(0, i64::from(u32::MAX))?),
            Type::Float8 => Self::Float(
                parse_float(trimmed).ok_or_else(|| invalid_input("double precision", text))?,
            ),
            Type::Numeric => Self::Numeric(Numeric::from_text(text)?),
            Type::Lsn => Self::Lsn(text.parse().map_err(|_| invalid_input("pg_lsn", text))?),
            Type::TimestampTz => Self::Timestamp(datetime::parse_timestamp(text, zone)?),
            Type::Interval => Self::Interval(
                Interval::parse(trimmed).ok_or_else(|| datetime::invalid_interval(text))?,
            ),
            Type::Inet => {
                let address: std::net::IpAddr =
                    trimmed.parse().map_err(|_| invalid_input("inet", text))?;
                Self::Text(address.to_string())
            }
            Type::Bytea => Self::Bytes(parse_bytea(text)?),
            Type::TextArray | Type::OidArray | Type::Void => {
                return Err(unsupported(format_args!("input of type {}", ty.sql_name())));
            }
        })
    }

    /// How two values of one type order; NULL is the caller's.
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(left), Self::Bool(right)) => left.cmp(right),
            (Self::Int(left), Self::Int(right)) => left.cmp(right),
            // NaN equals itself and is above everything, as PostgreSQL has it.
            (Self::Float(left), Self::Float(right)) => {
                left.partial_cmp(right).unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
            }
            (Self::Numeric(left), Self::Numeric(right)) => left.cmp(right),
            (Self::Text(left), Self::Text(right)) => left.cmp(right),
            (Self::Bytes(left), Self::Bytes(right)) => left.cmp(right),
            (Self::Lsn(left), Self::Lsn(right)) => left.cmp(right),
            (Self::Timestamp(left), Self::Timestamp(right)) => left.cmp(right),
            (Self::Interval(left), Self::Interval(right)) => left.cmp(right),
            (Self::Array(left), Self::Array(right)) => left.cmp(right),
            (Self::Null, Self::Null) => Ordering::Equal,
            (Self::Null, _) => Ordering::Greater,
            (_, Self::Null) => Ordering::Less,
            (left, right) => {
                unreachable!("comparing {left:?} with {right:?}: binder's types differ")
            }
        }
    }

    /// Casts to `target` from `source`, which `Type::casts_to` allows.
    pub fn cast(&self, source: Type, target: Type, zone: &TimeZone) -> Result<Self> {
        if self.is_null() || source == target {
            return Ok(self.clone());
        }
        if matches!(target, Type::Text | Type::Name | Type::Char) {
            let text = match self {
                // The cast spells it out, the output function does not. PostgreSQL: booltext.
                Self::Bool(value) => value.to_string(),
                // inet's cast shows the mask, which is full for every address here.
                Self::Text(address) if source == Type::Inet => {
                    format!("{address}/{}", if address.contains(':') { 128 } else { 32 })
                }
                other => other.text(zone).unwrap_or_default(),
            };
            return Self::parse(&text, target, zone);
        }
        match self {
            Self::Text(text) => Self::parse(text, target, zone),
            Self::Bool(value) => Ok(Self::Int(i64::from(*value))),
            Self::Int(value) if target == Type::Bool => Ok(Self::Bool(*value != 0)),
            Self::Int(value) => int_cast(*value, target),
            Self::Numeric(value) => match target {
                Type::Float8 => Ok(Self::Float(value.to_f64())),
                Type::Numeric => Ok(self.clone()),
                _ => {
                    int_cast(value.to_i64().ok_or_else(|| out_of_range(target.sql_name()))?, target)
                }
            },
            Self::Float(value) => match target {
                Type::Numeric => Numeric::from_f64(*value).map(Self::Numeric),
                _ => int_cast(
                    float::to_i64(*value).ok_or_else(|| out_of_range(target.sql_name()))?,
                    target,
                ),
            },
            other => unreachable!("cast of {other:?} to {target:?}: not in casts_to"),
        }
    }
}

/// The error for a use of a value that is not known yet.
pub fn not_known() -> Failure {
    let message =
        "the result of a function that changes something cannot be used in this expression";
    hinted(
        fail(SqlState::FEATURE_NOT_SUPPORTED, message),
        "It is known when the statement has run. A statement can return it, count it, compare it with another value, \
         cast a position to text, and subtract positions.",
    )
}

fn int_cast(value: i64, target: Type) -> Result<Value> {
    let (min, max) = match target {
        Type::Int2 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        Type::Int4 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        Type::Oid => (i64::from(i32::MIN), i64::from(u32::MAX)),
        Type::Float8 => {
            // Exact where a float can be, and rounded to nearest where not.
            return Ok(Value::Float(float::from_i64(value)));
        }
        Type::Numeric => return Ok(Value::Numeric(Numeric::from(value))),
        _ => (i64::MIN, i64::MAX),
    };
    if (min..=max).contains(&value) {
        Ok(Value::Int(value))
    } else {
        Err(out_of_range(target.sql_name()))
    }
}

/// PostgreSQL: `byteaout` with bytea_output = hex.
fn bytea_text(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    let mut text = String::with_capacity(2 + bytes.len() * 2);
    text.push_str("\\x");
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

/// The hex format and the escape format. PostgreSQL: `byteain`, `hex_decode_safe`.
pub fn parse_bytea(text: &str) -> Result<Vec<u8>> {
    match text.strip_prefix("\\x") {
        Some(digits) => parse_hex(digits),
        None => parse_escaped(text.as_bytes()).ok_or_else(|| {
            fail(SqlState::INVALID_TEXT_REPRESENTATION, "invalid input syntax for type bytea")
        }),
    }
}

fn parse_hex(digits: &str) -> Result<Vec<u8>> {
    let invalid = |message: String| fail(SqlState::INVALID_PARAMETER_VALUE, message);
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    };
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    let mut high = None;
    for (at, byte) in digits.bytes().enumerate() {
        // Space may stand between two bytes, and not inside one.
        if high.is_none() && matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
            continue;
        }
        let digit = value(byte).ok_or_else(|| {
            let shown = digits.get(at..).and_then(|rest| rest.chars().next()).unwrap_or('?');
            invalid(format!("invalid hexadecimal digit: \"{shown}\""))
        })?;
        match high.take() {
            None => high = Some(digit),
            Some(high) => bytes.push(high << 4 | digit),
        }
    }
    if high.is_some() {
        return Err(invalid("invalid hexadecimal data: odd number of digits".to_owned()));
    }
    Ok(bytes)
}

fn parse_escaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'\\', [b'\\', after @ ..]) => {
                bytes.push(b'\\');
                after
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                after
            }
            (b'\\', _) => return None,
            (byte, after) => {
                bytes.push(byte);
                after
            }
        };
    }
    Some(bytes)
}

/// Bytes of a name. PostgreSQL: `NAMEDATALEN` with its NUL.
pub const NAME_LEN_MAX: usize = 63;

/// Cut at a character boundary. PostgreSQL: `pg_mbcliplen`.
pub fn truncated(text: &str, len_max: usize) -> &str {
    let end = (0..=len_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    if text.len() <= len_max { text } else { &text[..end] }
}

/// Any unambiguous prefix of the words. PostgreSQL: `parse_bool_with_len`.
pub fn parse_bool(text: &str) -> Option<bool> {
    let text = text.to_ascii_lowercase();
    match text.as_str() {
        "" => None,
        "1" => Some(true),
        "0" => Some(false),
        "o" => None,
        text if "true".starts_with(text) || "yes".starts_with(text) || text == "on" => Some(true),
        text if "false".starts_with(text) || "no".starts_with(text) || "off".starts_with(text) => {
            Some(false)
        }
        _ => None,
    }
}

fn parse_float(text: &str) -> Option<f64> {
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "nan" | "infinity" | "-infinity" | "inf" | "-inf" | "+infinity" | "+inf" => {
            lower.parse().ok()
        }
        _ => text.parse().ok().filter(|value: &f64| value.is_finite()),
    }
}

/// The shortest text that reads back as the same number. PostgreSQL: `float8out_internal`.
fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if value == 0.0 || (1e-4..1e15).contains(&value.abs()) {
        return format!("{value}");
    }
    // The exponent has its sign, and two digits at least.
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("a float's exponent is shown");
    match exponent.strip_prefix('-') {
        Some(digits) => format!("{mantissa}e-{digits:0>2}"),
        None => format!("{mantissa}e+{exponent:0>2}"),
    }
}

/// PostgreSQL: `array_out`.
fn array_text(items: &[Option<String>]) -> String {
    let item_text = |item: &Option<String>| match item {
        None => "NULL".to_owned(),
        Some(text) => {
            let plain = !text.is_empty()
                && !text.eq_ignore_ascii_case("null")
                && !text.contains(|character: char| {
                    character.is_ascii_whitespace() || "{},\"\\".contains(character)
                });
            if plain {
                text.clone()
            } else {
                format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
            }
        }
    };
    format!("{{{}}}", items.iter().map(item_text).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, ty: Type) -> Result<Value> {
        Value::parse(text, ty, &TimeZone::UTC)
    }

    #[test]
    fn floats_print_as_postgres_prints_them() {
        for (value, text) in [
            (0.0, "0"),
            (1.5, "1.5"),
            (100_000.0, "100000"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (999_999_999_999_999.9, "999999999999999.9"),
            (-0.0, "-0"),
            (1e-100, "1e-100"),
            (9.999_999_999_999_999e-5, "9.999999999999999e-05"),
            (1.25e-5, "1.25e-05"),
            (0.0001, "0.0001"),
            (-0.1, "-0.1"),
            (f64::INFINITY, "Infinity"),
        ] {
            assert_eq!(float_text(value), text);
        }
    }

    #[test]
    fn input_is_checked_by_its_type() {
        assert_eq!(parse(" 12 ", Type::Int4).unwrap(), Value::Int(12));
        for (text, ty, code) in [
            ("3000000000", Type::Int4, "22003"),
            ("x", Type::Int8, "22P02"),
            ("0", Type::Lsn, "22P02"),
            ("maybe", Type::Bool, "22P02"),
            ("o", Type::Bool, "22P02"),
            ("1.2.3.4.5", Type::Inet, "22P02"),
        ] {
            assert_eq!(parse(text, ty).unwrap_err().sqlstate.0, code, "{text}");
        }
        let failure = parse("zzz", Type::Lsn).unwrap_err();
        assert_eq!(failure.message, "invalid input syntax for type pg_lsn: \"zzz\"");
    }

    #[test]
    fn casts() {
        let zone = TimeZone::UTC;
        let cast = |value: Value, from, to| value.cast(from, to, &zone);
        assert_eq!(
            cast(Value::Bool(true), Type::Bool, Type::Text).unwrap(),
            Value::text_of("true")
        );
        assert_eq!(cast(Value::Float(2.5), Type::Float8, Type::Int8).unwrap(), Value::Int(2));
        let half = Value::Numeric(Numeric::new(25, 1));
        assert_eq!(cast(half, Type::Numeric, Type::Int4).unwrap(), Value::Int(3));
        let failure = cast(Value::Int(1 << 40), Type::Int8, Type::Int4).unwrap_err();
        assert_eq!(failure.message, "integer out of range");
        let address = Value::text_of("127.0.0.1");
        assert_eq!(cast(address, Type::Inet, Type::Text).unwrap(), Value::text_of("127.0.0.1/32"));
    }

    #[test]
    fn bytea_is_read_in_both_formats() {
        for (text, bytes) in [
            ("\\x", &b""[..]),
            ("\\x00fF 41", b"\0\xffA"),
            ("a\\\\b\\000\\377", b"a\\b\0\xff"),
            ("", b""),
        ] {
            assert_eq!(parse(text, Type::Bytea).unwrap(), Value::Bytes(bytes.to_vec()), "{text}");
        }
        for (text, code, message) in [
            ("\\x0", "22023", "invalid hexadecimal data: odd number of digits"),
            ("\\x0g", "22023", "invalid hexadecimal digit: \"g\""),
            ("\\x0 0", "22023", "invalid hexadecimal digit: \" \""),
            ("\\", "22P02", "invalid input syntax for type bytea"),
            ("\\400", "22P02", "invalid input syntax for type bytea"),
        ] {
            let failure = parse(text, Type::Bytea).unwrap_err();
            assert_eq!((failure.sqlstate.0, &*failure.message), (code, message), "{text}");
        }
        let shown = Value::Bytes(b"\0\xffA".to_vec()).text(&TimeZone::UTC).unwrap();
        assert_eq!(shown, "\\x00ff41");
    }

    #[test]
    fn arrays_quote_what_needs_it() {
        let items = [Some("a b".to_owned()), None, Some(String::new()), Some("x".to_owned())];
        assert_eq!(array_text(&items), "{\"a b\",NULL,\"\",x}");
    }
}
