//! The binary format of parameters and result columns.
//!
//! PostgreSQL: the `*send` and `*recv` functions of each type.

use std::net::IpAddr;

use walhub_proto::lsn::Lsn;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::Timestamp;
use walhub_proto::wire::reader::{Malformed, Reader};

use crate::failure::{INVALID_BINARY_REPRESENTATION, Result, fail, unsupported};
use crate::value::Value;
use crate::value::datetime::Interval;
use crate::value::numeric::Numeric;
use crate::value::types::Type;

/// Address families of the wire format. PostgreSQL: `PGSQL_AF_INET`, `PGSQL_AF_INET6`.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 3;

/// Encodes a value of type `ty`; `None` for NULL.
pub fn encode(value: &Value, ty: Type) -> Option<Vec<u8>> {
    let mut buf = Vec::new();
    match value {
        Value::Null => return None,
        Value::Bool(value) => buf.push(u8::from(*value)),
        // Every value was checked against its type when it was made.
        Value::Int(value) => match ty {
            Type::Int2 => buf.extend_from_slice(&value.to_be_bytes()[6..]),
            Type::Int8 => buf.extend_from_slice(&value.to_be_bytes()),
            _ => buf.extend_from_slice(&value.to_be_bytes()[4..]),
        },
        Value::Float(value) => buf.extend_from_slice(&value.to_be_bytes()),
        Value::Numeric(value) => value.encode(&mut buf),
        Value::Text(text) if ty == Type::Inet => encode_inet(text, &mut buf),
        // A whole number with more digits than a `Numeric` has: a certificate's serial number.
        Value::Text(text) if ty == Type::Numeric => encode_digits(text, &mut buf),
        Value::Text(text) => buf.extend_from_slice(text.as_bytes()),
        Value::Bytes(bytes) => buf.extend_from_slice(bytes),
        Value::Lsn(value) => buf.extend_from_slice(&value.0.to_be_bytes()),
        Value::Timestamp(value) => buf.extend_from_slice(&value.0.to_be_bytes()),
        Value::Interval(value) => {
            buf.extend_from_slice(&value.micros.to_be_bytes());
            buf.extend_from_slice(&value.days.to_be_bytes());
            buf.extend_from_slice(&value.months.to_be_bytes());
        }
        Value::Array(items) => encode_array(items, ty, &mut buf),
        Value::Pending(_) => unreachable!("encoded before it is known"),
    }
    Some(buf)
}

fn encode_inet(text: &str, buf: &mut Vec<u8>) {
    match text.parse() {
        Ok(IpAddr::V4(address)) => {
            buf.extend_from_slice(&[AF_INET, 32, 0, 4]);
            buf.extend_from_slice(&address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            buf.extend_from_slice(&[AF_INET6, 128, 0, 16]);
            buf.extend_from_slice(&address.octets());
        }
        Err(_) => unreachable!("an inet was parsed when it was made: {text}"),
    }
}

/// PostgreSQL: `numeric_send`.
fn encode_digits(text: &str, buf: &mut Vec<u8>) {
    let digits = text.trim_start_matches('-').as_bytes();
    let mut groups: Vec<u16> = digits
        .rchunks(4)
        .rev()
        .map(|group| group.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit & 0xf)))
        .collect();
    let weight = groups.len().saturating_sub(1);
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let count = |count: usize| u16::try_from(count).expect("a number has few digits");
    let sign = if text.starts_with('-') { 0x4000 } else { 0 };
    for word in [count(groups.len()), count(weight), sign, 0].into_iter().chain(groups) {
        buf.extend_from_slice(&word.to_be_bytes());
    }
}

fn encode_array(items: &[Option<String>], ty: Type, buf: &mut Vec<u8>) {
    let mut int = |value: i32| buf.extend_from_slice(&value.to_be_bytes());
    let len = |len: usize| i32::try_from(len).expect("a value is below a gigabyte");
    int(i32::from(!items.is_empty()));
    int(i32::from(items.iter().any(Option::is_none)));
    let element = if ty == Type::OidArray { Type::Oid } else { Type::Text };
    int(element.oid().cast_signed());
    if !items.is_empty() {
        int(len(items.len()));
        int(1);
    }
    for item in items {
        match item {
            None => buf.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some(oid) if element == Type::Oid => {
                let oid: u32 = oid.parse().expect("a number was made text");
                buf.extend_from_slice(&4_i32.to_be_bytes());
                buf.extend_from_slice(&oid.to_be_bytes());
            }
            Some(text) => {
                buf.extend_from_slice(&len(text.len()).to_be_bytes());
                buf.extend_from_slice(text.as_bytes());
            }
        }
    }
}

/// Decodes a parameter whose declared type is `oid` and whose SQL type is `ty`.
pub fn decode(bytes: &[u8], oid: u32, ty: Type, number: usize) -> Result<Value> {
    let malformed = |_: Malformed| {
        fail(
            INVALID_BINARY_REPRESENTATION,
            format!("incorrect binary data format in bind parameter {number}"),
        )
    };
    let mut reader = Reader::new(bytes);
    let value = match ty {
        Type::Text | Type::Name | Type::Unknown | Type::Char => {
            return text_parameter(bytes).map(Value::text_of);
        }
        Type::Bytea => return Ok(Value::Bytes(bytes.to_vec())),
        Type::Bool => Value::Bool(reader.u8().map_err(malformed)? != 0),
        Type::Int2 => Value::Int(i64::from(reader.i16().map_err(malformed)?)),
        Type::Int4 => Value::Int(i64::from(reader.i32().map_err(malformed)?)),
        Type::Int8 => Value::Int(reader.i64().map_err(malformed)?),
        Type::Oid | Type::Xid => Value::Int(i64::from(reader.u32().map_err(malformed)?)),
        Type::Float8 if oid == 700 => {
            Value::Float(f64::from(f32::from_be_bytes(reader.array().map_err(malformed)?)))
        }
        Type::Float8 => Value::Float(f64::from_be_bytes(reader.array().map_err(malformed)?)),
        Type::Lsn => Value::Lsn(Lsn(reader.u64().map_err(malformed)?)),
        Type::TimestampTz => Value::Timestamp(Timestamp(reader.i64().map_err(malformed)?)),
        Type::Interval => {
            let micros = reader.i64().map_err(malformed)?;
            let days = reader.i32().map_err(malformed)?;
            Value::Interval(Interval { micros, days, months: reader.i32().map_err(malformed)? })
        }
        Type::Numeric => {
            return Numeric::decode(bytes)
                .map(Value::Numeric)
                .ok_or_else(|| malformed(Malformed::Truncated));
        }
        Type::Inet | Type::TextArray | Type::OidArray | Type::Void => {
            return Err(unsupported(format_args!("a binary parameter of type {}", ty.sql_name())));
        }
    };
    reader.end().map_err(malformed)?;
    Ok(value)
}

/// Text from the client, which must be UTF-8 without zero bytes. PostgreSQL: `pg_verify_mbstr`.
pub fn text_parameter(bytes: &[u8]) -> Result<&str> {
    let invalid = |shown: &[u8]| {
        let hex: Vec<String> = shown.iter().map(|byte| format!("0x{byte:02x}")).collect();
        fail(
            SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            format!("invalid byte sequence for encoding \"UTF8\": {}", hex.join(" ")),
        )
    };
    match std::str::from_utf8(bytes) {
        Ok(text) if text.contains('\0') => Err(invalid(&[0])),
        Ok(text) => Ok(text),
        Err(error) => {
            let rest = bytes.get(error.valid_up_to()..).unwrap_or_default();
            // PostgreSQL shows as many bytes as the first one announces.
            let announced = match rest.first() {
                Some(0xC0..=0xDF) => 2,
                Some(0xE0..=0xEF) => 3,
                Some(0xF0..=0xF7) => 4,
                _ => 1,
            };
            Err(invalid(rest.get(..announced.min(rest.len())).unwrap_or_default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_a_numeric() {
        for number in [123_450_000, -7, 10_000, 99_999_999] {
            let numeric = encode(&Value::Numeric(Numeric::new(number, 0)), Type::Numeric);
            assert_eq!(
                encode(&Value::Text(number.to_string()), Type::Numeric),
                numeric,
                "{number}"
            );
        }
    }

    #[test]
    fn what_is_sent_is_what_is_received() {
        for (value, ty) in [
            (Value::Bool(true), Type::Bool),
            (Value::Int(-2), Type::Int2),
            (Value::Int(-2), Type::Int4),
            (Value::Int(1 << 40), Type::Int8),
            (Value::Int(0xFFFF_FFFF), Type::Oid),
            (Value::Float(1.5), Type::Float8),
            (Value::Lsn(Lsn(0x16_B374_D848)), Type::Lsn),
            (Value::Timestamp(Timestamp(5)), Type::TimestampTz),
            (Value::Interval(Interval { months: 1, days: 2, micros: 3 }), Type::Interval),
            (Value::Numeric(Numeric::new(-12345, 3)), Type::Numeric),
            (Value::text_of("h\u{e9}"), Type::Text),
        ] {
            let bytes = encode(&value, ty).unwrap();
            assert_eq!(decode(&bytes, ty.oid(), ty, 1).unwrap(), value);
            let cut = &bytes[..bytes.len() - 1];
            assert!(decode(cut, ty.oid(), ty, 1).is_err(), "{ty:?}");
        }
        assert_eq!(
            encode(&Value::text_of("10.0.0.1"), Type::Inet).unwrap(),
            [2, 32, 0, 4, 10, 0, 0, 1]
        );
    }

    #[test]
    fn text_must_be_utf8_without_zero() {
        let message = |bytes: &[u8]| text_parameter(bytes).unwrap_err().message;
        assert_eq!(message(b"a\0"), "invalid byte sequence for encoding \"UTF8\": 0x00");
        assert_eq!(
            message(b"a\xe9bc"),
            "invalid byte sequence for encoding \"UTF8\": 0xe9 0x62 0x63"
        );
        assert_eq!(message(b"\xff"), "invalid byte sequence for encoding \"UTF8\": 0xff");
    }
}
