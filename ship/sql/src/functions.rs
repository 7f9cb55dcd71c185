//! The functions and operators that the language has of its own, by name and argument types.
//!
//! Not here: aggregates (`aggregate`), what is syntax rather than a function (`bind`), and what looks at the
//! server or changes it (`Catalog`, `Host`).
//!
//! PostgreSQL: src/include/catalog/pg_proc.dat, pg_operator.dat.

use std::cmp::Ordering;

use walhub_proto::convert::to_usize;
use walhub_proto::lsn::Lsn;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::Timestamp;

use crate::env::{Env, Function};
use crate::failure::{DIVISION_BY_ZERO, Result, SUBSTRING_ERROR, fail, out_of_range};
use crate::value::datetime::Interval;
use crate::value::float;
use crate::value::numeric::Numeric;
use crate::value::types::Type;
use crate::value::{Value, lsn_difference};

const fn function(
    name: &'static str,
    args: &'static [Type],
    result: Type,
    eval: fn(&Env<'_>, &[Value]) -> Result<Value>,
) -> Function {
    Function::pure(name, args, result, eval)
}

/// The candidate that the argument types choose, as PostgreSQL chooses: fewest conversions.
///
/// For operators, an unknown operand is first taken for the type of the other one.
/// PostgreSQL: `func_get_detail`, `oper_select_candidate`.
pub(crate) fn resolve(
    candidates: impl IntoIterator<Item = &'static Function>,
    name: &str,
    args: &[Type],
) -> Option<&'static Function> {
    let cost = |function: &Function| -> Option<u32> {
        let arity = if function.variadic {
            args.len() >= function.args.len()
        } else {
            args.len() == function.args.len()
        };
        if function.name != name || !arity {
            return None;
        }
        let last = function.args.last();
        let wanted = function.args.iter().chain(last.into_iter().cycle());
        args.iter().zip(wanted).map(|(arg, wanted)| arg.implicit_cost(*wanted)).sum()
    };
    candidates
        .into_iter()
        .filter_map(|function| cost(function).map(|cost| (cost, function)))
        .min_by_key(|(cost, _)| *cost)
        .map(|(_, function)| function)
}

/// Whether any function has that name.
pub(crate) fn exists(name: &str) -> bool {
    FUNCTIONS.iter().any(|function| function.name == name)
}

macro_rules! eval {
    // A pattern over the arguments, which the binder has cast to the declared types.
    ([$($pattern:pat),*] => $body:expr) => {
        |_, args| match args {
            [$($pattern),*] => $body,
            _ => unreachable!("argument types are the binder's"),
        }
    };
    ($env:ident, [$($pattern:pat),*] => $body:expr) => {
        |$env, args| match args {
            [$($pattern),*] => $body,
            _ => unreachable!("argument types are the binder's"),
        }
    };
}

use Type::{Bytea, Name, Oid, Text, TextArray, TimestampTz, Void};
use Type::{Float8, Int4, Int8, Interval as Span, Lsn as PgLsn, Numeric as Num};
use Value::{Float as F, Int as I, Numeric as N, Text as T};

fn int4(value: Option<i64>) -> Result<Value> {
    value
        .filter(|value| i32::try_from(*value).is_ok())
        .map(I)
        .ok_or_else(|| out_of_range("integer"))
}

fn int8(value: Option<i64>) -> Result<Value> {
    value.map(I).ok_or_else(|| out_of_range("bigint"))
}

fn nonzero(value: i64) -> Result<i64> {
    if value == 0 { Err(fail(DIVISION_BY_ZERO, "division by zero")) } else { Ok(value) }
}

fn finite(value: f64) -> Result<Value> {
    if value.is_infinite() {
        return Err(fail(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: overflow"));
    }
    Ok(F(value))
}

/// PostgreSQL: `pg_lsn_pli`, `pg_lsn_mii`.
fn shift_lsn(lsn: Lsn, bytes: Numeric) -> Result<Value> {
    i128::from(lsn.0)
        .checked_add(bytes.to_i128())
        .and_then(|sum| u64::try_from(sum).ok())
        .map(|sum| Value::Lsn(Lsn(sum)))
        .ok_or_else(|| out_of_range("pg_lsn"))
}

/// Operators, named by their symbol; `-` with one argument is the prefix.
pub(crate) static OPERATORS: &[Function] = &[
    function("+", &[Int4, Int4], Int4, eval!([I(a), I(b)] => int4(a.checked_add(*b)))),
    function("+", &[Int8, Int8], Int8, eval!([I(a), I(b)] => int8(a.checked_add(*b)))),
    function("+", &[Num, Num], Num, eval!([N(a), N(b)] => a.try_add(*b).map(N))),
    function("+", &[Float8, Float8], Float8, eval!([F(a), F(b)] => finite(a + b))),
    function("+", &[PgLsn, Num], PgLsn, eval!([Value::Lsn(a), N(b)] => shift_lsn(*a, *b))),
    function("+", &[Num, PgLsn], PgLsn, eval!([N(a), Value::Lsn(b)] => shift_lsn(*b, *a))),
    function(
        "+",
        &[TimestampTz, Span],
        TimestampTz,
        eval!(env, [Value::Timestamp(a), Value::Interval(b)]
        => b.after(*a, env.zone).map(Value::Timestamp)),
    ),
    function(
        "+",
        &[Span, TimestampTz],
        TimestampTz,
        eval!(env, [Value::Interval(a), Value::Timestamp(b)]
        => a.after(*b, env.zone).map(Value::Timestamp)),
    ),
    function(
        "+",
        &[Span, Span],
        Span,
        eval!([Value::Interval(a), Value::Interval(b)]
        => a.try_add(*b).map(Value::Interval)),
    ),
    function("-", &[Int4, Int4], Int4, eval!([I(a), I(b)] => int4(a.checked_sub(*b)))),
    function("-", &[Int8, Int8], Int8, eval!([I(a), I(b)] => int8(a.checked_sub(*b)))),
    function("-", &[Num, Num], Num, eval!([N(a), N(b)] => a.try_add(b.negate()).map(N))),
    function("-", &[Float8, Float8], Float8, eval!([F(a), F(b)] => finite(a - b))),
    function(
        "-",
        &[PgLsn, PgLsn],
        Num,
        eval!([Value::Lsn(a), Value::Lsn(b)]
        => Ok(lsn_difference(*a, *b))),
    ),
    function("-", &[PgLsn, Num], PgLsn, eval!([Value::Lsn(a), N(b)] => shift_lsn(*a, b.negate()))),
    function(
        "-",
        &[TimestampTz, TimestampTz],
        Span,
        eval!([Value::Timestamp(a), Value::Timestamp(b)]
        => Interval::between(*a, *b).map(Value::Interval)),
    ),
    function(
        "-",
        &[TimestampTz, Span],
        TimestampTz,
        eval!(env, [Value::Timestamp(a), Value::Interval(b)]
        => b.negate()?.after(*a, env.zone).map(Value::Timestamp)),
    ),
    function(
        "-",
        &[Span, Span],
        Span,
        eval!([Value::Interval(a), Value::Interval(b)]
        => a.try_add(b.negate()?).map(Value::Interval)),
    ),
    function("-", &[Int4], Int4, eval!([I(a)] => int4(a.checked_neg()))),
    function("-", &[Int8], Int8, eval!([I(a)] => int8(a.checked_neg()))),
    function("-", &[Num], Num, eval!([N(a)] => Ok(N(a.negate())))),
    function("-", &[Float8], Float8, eval!([F(a)] => Ok(F(-a)))),
    function("-", &[Span], Span, eval!([Value::Interval(a)] => a.negate().map(Value::Interval))),
    function("*", &[Int4, Int4], Int4, eval!([I(a), I(b)] => int4(a.checked_mul(*b)))),
    function("*", &[Int8, Int8], Int8, eval!([I(a), I(b)] => int8(a.checked_mul(*b)))),
    function("*", &[Num, Num], Num, eval!([N(a), N(b)] => a.multiply(*b).map(N))),
    function("*", &[Float8, Float8], Float8, eval!([F(a), F(b)] => finite(a * b))),
    function(
        "*",
        &[Span, Float8],
        Span,
        eval!([Value::Interval(a), F(b)]
        => a.multiply(*b).map(Value::Interval)),
    ),
    function(
        "*",
        &[Float8, Span],
        Span,
        eval!([F(a), Value::Interval(b)]
        => b.multiply(*a).map(Value::Interval)),
    ),
    function("/", &[Int4, Int4], Int4, eval!([I(a), I(b)] => int4(a.checked_div(nonzero(*b)?)))),
    function("/", &[Int8, Int8], Int8, eval!([I(a), I(b)] => int8(a.checked_div(nonzero(*b)?)))),
    function("/", &[Num, Num], Num, eval!([N(a), N(b)] => a.divide(*b).map(N))),
    function(
        "/",
        &[Float8, Float8],
        Float8,
        eval!([F(a), F(b)] => {
            if *b == 0.0 { Err(fail(DIVISION_BY_ZERO, "division by zero")) } else { finite(a / b) }
        }),
    ),
    function(
        "/",
        &[Span, Float8],
        Span,
        eval!([Value::Interval(a), F(b)] => {
            if *b == 0.0 { return Err(fail(DIVISION_BY_ZERO, "division by zero")); }
            a.divide(*b).map(Value::Interval)
        }),
    ),
    function("%", &[Int4, Int4], Int4, eval!([I(a), I(b)] => Ok(I(a.wrapping_rem(nonzero(*b)?))))),
    function("%", &[Int8, Int8], Int8, eval!([I(a), I(b)] => Ok(I(a.wrapping_rem(nonzero(*b)?))))),
    function("%", &[Num, Num], Num, eval!([N(a), N(b)] => a.remainder(*b).map(N))),
    function("^", &[Float8, Float8], Float8, eval!([F(a), F(b)] => finite(a.powf(*b)))),
    function("||", &[Text, Text], Text, eval!([T(a), T(b)] => Ok(T(format!("{a}{b}"))))),
];

/// A count of what is in memory.
fn count(len: usize) -> Value {
    I(i64::try_from(len).expect("no memory holds so much"))
}

fn chars(text: &str) -> Value {
    count(text.chars().count())
}

/// PostgreSQL: `text_position`.
fn position(text: &str, part: &str) -> Value {
    count(text.find(part).map_or(0, |at| text[..at].chars().count() + 1))
}

/// PostgreSQL: `text_substring`.
fn substring(text: &str, start: i64, len: Option<i64>) -> Result<Value> {
    let end = match len {
        Some(len) if len < 0 => {
            return Err(fail(SUBSTRING_ERROR, "negative substring length not allowed"));
        }
        Some(len) => start.saturating_add(len),
        None => i64::MAX,
    };
    let first = start.max(1);
    let skip = to_usize((first - 1).unsigned_abs());
    let take = to_usize(end.saturating_sub(first).max(0).unsigned_abs());
    Ok(T(text.chars().skip(skip).take(take).collect()))
}

fn interval_or_timestamp_epoch(micros: i128) -> Value {
    N(Numeric::new(micros, 6))
}

/// PostgreSQL: `pg_size_pretty`.
fn size_pretty(mut size: i128) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let half = |size: i128| (size + size.signum()) / 2;
    for (index, unit) in units.iter().enumerate() {
        let limit = if index == 0 { 10 * 1024 } else { 20 * 1024 - 1 };
        if size.abs() < limit || index == units.len() - 1 {
            let shown = if index == 0 { size } else { half(size) };
            return format!("{shown} {unit}");
        }
        // From kB on, one bit more than shown is kept, to round with.
        size >>= if index == 0 { 9 } else { 10 };
    }
    size.to_string()
}

/// Where characters are taken off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Start,
    End,
    Both,
}

fn trim_set(text: &str, set: &str, side: Side) -> Result<Value> {
    let in_set = |character: char| set.contains(character);
    let text = if side != Side::End { text.trim_start_matches(in_set) } else { text };
    Ok(Value::text_of(if side != Side::Start { text.trim_end_matches(in_set) } else { text }))
}

/// Functions, in lower case.
pub(crate) static FUNCTIONS: &[Function] = &[
    // Positions.
    function(
        "pg_wal_lsn_diff",
        &[PgLsn, PgLsn],
        Num,
        eval!([Value::Lsn(a), Value::Lsn(b)]
        => Ok(lsn_difference(*a, *b))),
    ),
    // The catalog.
    function("current_schema", &[], Name, |_, _| Ok(Value::text_of("pg_catalog"))),
    function("pg_advisory_unlock_all", &[], Void, |_, _| Ok(T(String::new()))),
    function(
        "pg_encoding_to_char",
        &[Int4],
        Name,
        eval!([I(encoding)]
        => Ok(Value::text_of(match encoding { 0 => "SQL_ASCII", 6 => "UTF8", _ => "" }))),
    ),
    // The modifier is not looked at: no type here has one.
    Function {
        strict: false,
        ..function("format_type", &[Oid, Int4], Text, |_, args| {
            Ok(match args {
                [I(oid), _] => Value::text_of(Type::format(*oid)),
                _ => Value::Null,
            })
        })
    },
    function(
        "array_to_string",
        &[TextArray, Text],
        Text,
        eval!([Value::Array(items), T(delimiter)]
        => Ok(T(items.iter().flatten().cloned().collect::<Vec<_>>().join(delimiter)))),
    ),
    // Arrays have one dimension here; an empty one has none.
    function(
        "array_length",
        &[TextArray, Int4],
        Int4,
        eval!([Value::Array(items), I(dimension)]
        => Ok(if items.is_empty() || *dimension != 1 { Value::Null } else { count(items.len()) })),
    ),
    // Numbers.
    function("abs", &[Int4], Int4, eval!([I(a)] => int4(a.checked_abs()))),
    function("abs", &[Int8], Int8, eval!([I(a)] => int8(a.checked_abs()))),
    function("abs", &[Num], Num, eval!([N(a)] => Ok(N(a.abs())))),
    function("abs", &[Float8], Float8, eval!([F(a)] => Ok(F(a.abs())))),
    function("round", &[Float8], Float8, eval!([F(a)] => Ok(F(a.round_ties_even())))),
    function("round", &[Num], Num, eval!([N(a)] => a.round(0).map(N))),
    function(
        "round",
        &[Num, Int4],
        Num,
        eval!([N(a), I(digits)]
        => a.round(i32::try_from(*digits).expect("an integer has 32 bits")).map(N)),
    ),
    function("trunc", &[Float8], Float8, eval!([F(a)] => Ok(F(a.trunc())))),
    function("trunc", &[Num], Num, eval!([N(a)] => a.to_whole(Ordering::Equal).map(N))),
    function("floor", &[Float8], Float8, eval!([F(a)] => Ok(F(a.floor())))),
    function("floor", &[Num], Num, eval!([N(a)] => a.to_whole(Ordering::Less).map(N))),
    function("ceil", &[Float8], Float8, eval!([F(a)] => Ok(F(a.ceil())))),
    function("ceil", &[Num], Num, eval!([N(a)] => a.to_whole(Ordering::Greater).map(N))),
    function("ceiling", &[Float8], Float8, eval!([F(a)] => Ok(F(a.ceil())))),
    function("ceiling", &[Num], Num, eval!([N(a)] => a.to_whole(Ordering::Greater).map(N))),
    function(
        "mod",
        &[Int4, Int4],
        Int4,
        eval!([I(a), I(b)] => Ok(I(a.wrapping_rem(nonzero(*b)?)))),
    ),
    function(
        "mod",
        &[Int8, Int8],
        Int8,
        eval!([I(a), I(b)] => Ok(I(a.wrapping_rem(nonzero(*b)?)))),
    ),
    function("mod", &[Num, Num], Num, eval!([N(a), N(b)] => a.remainder(*b).map(N))),
    function(
        "pg_size_pretty",
        &[Int8],
        Text,
        eval!([I(size)] => Ok(T(size_pretty(i128::from(*size))))),
    ),
    function(
        "pg_size_pretty",
        &[Num],
        Text,
        eval!([N(size)]
        => Ok(T(size_pretty(size.to_whole(Ordering::Equal)?.to_i128())))),
    ),
    // Time.
    function(
        "extract epoch",
        &[Span],
        Num,
        eval!([Value::Interval(span)]
        => Ok(interval_or_timestamp_epoch(span.epoch_micros()))),
    ),
    function(
        "extract epoch",
        &[TimestampTz],
        Num,
        eval!([Value::Timestamp(at)]
        => Ok(interval_or_timestamp_epoch(i128::from(at.0)
            + i128::from(Timestamp::UNIX_TO_POSTGRES_SECONDS) * 1_000_000))),
    ),
    function(
        "to_timestamp",
        &[Float8],
        TimestampTz,
        eval!([F(seconds)] => {
            let micros = float::to_i64(seconds * 1e6)
                .and_then(|micros| micros.checked_sub(Timestamp::UNIX_TO_POSTGRES_SECONDS * 1_000_000));
            micros.map(|micros| Value::Timestamp(Timestamp(micros)))
                .ok_or_else(|| fail(crate::failure::DATETIME_FIELD_OVERFLOW, "timestamp out of range"))
        }),
    ),
    // Text.
    function("upper", &[Text], Text, eval!([T(a)] => Ok(T(a.to_uppercase())))),
    function("lower", &[Text], Text, eval!([T(a)] => Ok(T(a.to_lowercase())))),
    // PostgreSQL: pg_convert_from.
    function(
        "convert_from",
        &[Bytea, Name],
        Text,
        eval!([Value::Bytes(bytes), T(encoding)] => {
            if !matches!(&*encoding.to_ascii_lowercase(), "utf8" | "utf-8" | "unicode") {
                let message = format!("invalid source encoding name \"{encoding}\"");
                return Err(fail(SqlState::INVALID_PARAMETER_VALUE, message));
            }
            crate::value::binary::text_parameter(bytes).map(|text| T(text.to_owned()))
        }),
    ),
    function("length", &[Bytea], Int4, eval!([Value::Bytes(a)] => Ok(count(a.len())))),
    function(
        "repeat",
        &[Text, Int4],
        Text,
        eval!([T(text), I(count)] => {
            let count = to_usize((*count).max(0).unsigned_abs());
            if text.len().saturating_mul(count) > 1 << 20 {
                return Err(fail(crate::failure::PROGRAM_LIMIT_EXCEEDED, "requested length too large"));
            }
            Ok(T(text.repeat(count)))
        }),
    ),
    function("length", &[Text], Int4, eval!([T(a)] => Ok(chars(a)))),
    function("char_length", &[Text], Int4, eval!([T(a)] => Ok(chars(a)))),
    function(
        "octet_length",
        &[Text],
        Int4,
        eval!([T(a)]
        => Ok(count(a.len()))),
    ),
    function("substring", &[Text, Int4], Text, eval!([T(a), I(from)] => substring(a, *from, None))),
    function(
        "substring",
        &[Text, Int4, Int4],
        Text,
        eval!([T(a), I(from), I(len)]
        => substring(a, *from, Some(*len))),
    ),
    function("substr", &[Text, Int4], Text, eval!([T(a), I(from)] => substring(a, *from, None))),
    function(
        "substr",
        &[Text, Int4, Int4],
        Text,
        eval!([T(a), I(from), I(len)]
        => substring(a, *from, Some(*len))),
    ),
    function(
        "position",
        &[Text, Text],
        Int4,
        eval!([T(text), T(part)] => Ok(position(text, part))),
    ),
    function("strpos", &[Text, Text], Int4, eval!([T(text), T(part)] => Ok(position(text, part)))),
    function(
        "replace",
        &[Text, Text, Text],
        Text,
        eval!([T(text), T(from), T(to)] => {
            if from.is_empty() { return Ok(T(text.clone())); }
            let found = text.matches(from.as_str()).count();
            if found.saturating_mul(to.len()) > 1 << 20 {
                return Err(fail(crate::failure::PROGRAM_LIMIT_EXCEEDED, "requested length too large"));
            }
            Ok(T(text.replace(from.as_str(), to)))
        }),
    ),
    function(
        "split_part",
        &[Text, Text, Int4],
        Text,
        eval!([T(text), T(delimiter), I(field)] => {
            let index = usize::try_from(*field).ok().and_then(|field| field.checked_sub(1))
                .ok_or_else(|| fail(SqlState::INVALID_PARAMETER_VALUE, "field position must be greater than zero"))?;
            let part = if delimiter.is_empty() { (index == 0).then_some(text.as_str()) }
                else { text.split(delimiter.as_str()).nth(index) };
            Ok(Value::text_of(part.unwrap_or_default()))
        }),
    ),
    function("btrim", &[Text], Text, eval!([T(a)] => trim_set(a, " ", Side::Both))),
    function("btrim", &[Text, Text], Text, eval!([T(a), T(set)] => trim_set(a, set, Side::Both))),
    function("ltrim", &[Text], Text, eval!([T(a)] => trim_set(a, " ", Side::Start))),
    function("ltrim", &[Text, Text], Text, eval!([T(a), T(set)] => trim_set(a, set, Side::Start))),
    function("rtrim", &[Text], Text, eval!([T(a)] => trim_set(a, " ", Side::End))),
    function("rtrim", &[Text, Text], Text, eval!([T(a), T(set)] => trim_set(a, set, Side::End))),
    Function {
        variadic: true,
        strict: false,
        ..function("concat", &[Text], Text, |_, args| {
            Ok(T(args
                .iter()
                .filter_map(|arg| match arg {
                    T(text) => Some(text.as_str()),
                    _ => None,
                })
                .collect()))
        })
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(name: &str, args: &[Type]) -> Option<Type> {
        resolve(OPERATORS, name, args).map(|function| function.result)
    }

    #[test]
    fn operators_resolve_as_in_postgres() {
        assert_eq!(operator("+", &[Int4, Int4]), Some(Int4));
        assert_eq!(operator("+", &[Int4, Int8]), Some(Int8));
        assert_eq!(operator("/", &[Num, Int8]), Some(Num));
        assert_eq!(operator("*", &[Num, Float8]), Some(Float8));
        assert_eq!(operator("-", &[PgLsn, PgLsn]), Some(Num));
        assert_eq!(operator("-", &[PgLsn, Int8]), Some(PgLsn));
        assert_eq!(operator("*", &[Span, Int4]), Some(Span));
        assert_eq!(operator("+", &[Type::Bool, Int4]), None);
        assert_eq!(resolve(FUNCTIONS, "round", &[Int4]).unwrap().result, Float8);
    }

    #[test]
    fn sizes_are_pretty_as_in_postgres() {
        for (size, text) in [
            (0, "0 bytes"),
            (10239, "10239 bytes"),
            (10240, "10 kB"),
            (-10240, "-10 kB"),
            (1 << 20, "1024 kB"),
            (16 << 20, "16 MB"),
            (1_000_000_000_000, "931 GB"),
        ] {
            assert_eq!(size_pretty(size), text);
        }
    }

    #[test]
    fn substrings_count_from_one() {
        assert_eq!(substring("hello", 2, Some(3)).unwrap(), Value::text_of("ell"));
        assert_eq!(substring("hello", -1, Some(3)).unwrap(), Value::text_of("h"));
        assert_eq!(substring("hello", 9, None).unwrap(), Value::text_of(""));
        assert_eq!(substring("hello", 1, Some(-1)).unwrap_err().sqlstate.0, "22011");
    }
}
