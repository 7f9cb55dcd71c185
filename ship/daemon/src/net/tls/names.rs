//! Names and numbers of certificates as text.
//!
//! PostgreSQL: `X509_NAME_to_cstring`, `be_tls_get_peer_serial`, `be_tls_open_server`
//! (src/backend/libpq/be-secure-openssl.c).

use std::fmt::Write as _;

use super::certificate::{Der, OID, SEQUENCE, SET, expect, split, values};

const BMP_STRING: u8 = 0x1e;
const T61_STRING: u8 = 0x14;
/// 2.5.4
const X520: &[u8] = &[0x55, 4];
/// 1.2.840.113549.1.9.1
const EMAIL: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1];
/// 0.9.2342.19200300.100.1
const PILOT: &[u8] = &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1];

/// One attribute of a name.
struct Attribute {
    kind: String,
    value: String,
    /// Whether it stands beside the one before, and not below it.
    is_beside: bool,
}

/// OpenSSL's short name of a kind of attribute, else its number.
fn kind(oid: &[u8]) -> String {
    let of_x520 = |last: u8| {
        Some(match last {
            3 => "CN",
            4 => "SN",
            5 => "serialNumber",
            6 => "C",
            7 => "L",
            8 => "ST",
            9 => "street",
            10 => "O",
            11 => "OU",
            12 => "title",
            17 => "postalCode",
            42 => "GN",
            43 => "initials",
            _ => return None,
        })
    };
    let known = match (oid.strip_prefix(X520), oid.strip_prefix(PILOT)) {
        (Some([last]), _) => of_x520(*last),
        (_, Some([1])) => Some("UID"),
        (_, Some([25])) => Some("DC"),
        _ if oid == EMAIL => Some("emailAddress"),
        _ => None,
    };
    known.map_or_else(|| dotted(oid), str::to_owned)
}

fn dotted(oid: &[u8]) -> String {
    let mut text = String::new();
    let mut number: u64 = 0;
    for byte in oid {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if text.is_empty() {
            let first = (number / 40).min(2);
            text = format!("{first}.{}", number - first * 40);
        } else {
            write!(text, ".{number}").ok();
        }
        number = 0;
    }
    text
}

fn text(value: Der<'_>) -> String {
    match value.tag {
        BMP_STRING => {
            let units =
                value.value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            String::from_utf16_lossy(&units.collect::<Vec<_>>())
        }
        T61_STRING => value.value.iter().map(|&byte| char::from(byte)).collect(),
        _ => String::from_utf8_lossy(value.value).into_owned(),
    }
}

fn attributes(mut name: &[u8]) -> Option<Vec<Attribute>> {
    let mut all = Vec::new();
    for set in values(expect(&mut name, SEQUENCE)?.value).filter(|set| set.tag == SET) {
        for (index, attribute) in values(set.value).enumerate() {
            let mut fields = attribute.value;
            let kind = kind(expect(&mut fields, OID)?.value);
            all.push(Attribute { kind, value: text(split(&mut fields)?), is_beside: index > 0 });
        }
    }
    Some(all)
}

/// What is to be done with letters beyond ASCII.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beyond {
    Escaped,
    Kept,
}

/// OpenSSL: `ASN1_STRFLGS_RFC2253`.
fn escape(value: &str, beyond: Beyond, out: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (index, c) in value.chars().enumerate() {
        let is_special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (c == ' ' && (index == 0 || index == last))
            || (c == '#' && index == 0);
        if is_special {
            out.push('\\');
            out.push(c);
        } else if c.is_ascii_control() || (!c.is_ascii() && beyond == Beyond::Escaped) {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                write!(out, "\\{byte:02X}").ok();
            }
        } else {
            out.push(c);
        }
    }
}

/// As `clientname=DN` and certificate maps have it: RFC 2253, the last attribute first.
pub(super) fn rfc2253(name: &[u8]) -> Option<String> {
    let mut out = String::new();
    let attributes = attributes(name)?;
    let mut groups: Vec<&[Attribute]> = attributes.chunk_by(|_, next| next.is_beside).collect();
    groups.reverse();
    for group in groups {
        for (index, attribute) in group.iter().enumerate() {
            if index > 0 {
                out.push('+');
            } else if !out.is_empty() {
                out.push(',');
            }
            out.push_str(&attribute.kind);
            out.push('=');
            escape(&attribute.value, Beyond::Escaped, &mut out);
        }
    }
    Some(out)
}

/// As `pg_stat_ssl` has it: each attribute behind a slash.
pub(super) fn slashed(name: &[u8]) -> Option<String> {
    let mut out = String::new();
    for attribute in attributes(name)? {
        write!(out, "/{}=", attribute.kind).ok();
        escape(&attribute.value, Beyond::Kept, &mut out);
    }
    Some(out)
}

/// Whether a zero byte is anywhere in it, which no honest name has.
pub(super) fn has_null(name: &[u8]) -> bool {
    attributes(name).is_some_and(|all| all.iter().any(|it| it.value.contains('\0')))
}

/// The first common name.
pub(super) fn common_name(name: &[u8]) -> Option<String> {
    attributes(name)?.into_iter().find(|it| it.kind == "CN").map(|it| it.value)
}

/// A number of any length, in decimal digits.
pub(super) fn decimal(number: &[u8]) -> String {
    let is_negative = number.first().is_some_and(|first| first & 0x80 != 0);
    let mut digits = vec![0_u8];
    for &byte in number {
        let mut carry = u16::from(if is_negative { !byte } else { byte });
        for digit in &mut digits {
            carry += u16::from(*digit) << 8;
            *digit = u8::try_from(carry % 10).unwrap_or(0);
            carry /= 10;
        }
        while carry > 0 {
            digits.push(u8::try_from(carry % 10).unwrap_or(0));
            carry /= 10;
        }
    }
    if is_negative {
        // Of the complement one is missing.
        for digit in &mut digits {
            *digit = (*digit + 1) % 10;
            if *digit != 0 {
                break;
            }
        }
    }
    let sign = if is_negative { "-" } else { "" };
    let text: String = digits.iter().rev().map(|&digit| char::from(b'0' + digit)).collect();
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, value: &[u8]) -> Vec<u8> {
        [&[tag, u8::try_from(value.len()).unwrap()], value].concat()
    }

    fn attribute(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        der(SEQUENCE, &[der(OID, oid), der(tag, value)].concat())
    }

    fn name(sets: &[&[Vec<u8>]]) -> Vec<u8> {
        let sets: Vec<u8> = sets.iter().flat_map(|set| der(SET, &set.concat())).collect();
        der(SEQUENCE, &sets)
    }

    #[test]
    fn names_are_written_as_openssl_writes_them() {
        let name = name(&[
            &[attribute(&[0x55, 4, 6], 0x13, b"DE")],
            &[attribute(&[0x55, 4, 10], 0x0c, "B\u{e4}r, S\u{f6}hne".as_bytes())],
            &[
                attribute(&[0x55, 4, 3], 0x0c, b" standby#1"),
                attribute(&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], 0x16, b"u"),
            ],
        ]);
        assert_eq!(
            rfc2253(&name).unwrap(),
            "CN=\\ standby#1+UID=u,O=B\\C3\\A4r\\, S\\C3\\B6hne,C=DE"
        );
        assert_eq!(slashed(&name).unwrap(), "/C=DE/O=B\u{e4}r\\, S\u{f6}hne/CN=\\ standby#1/UID=u");
        assert_eq!(common_name(&name).unwrap(), " standby#1");
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d]), "1.2.840.113549");
        assert_eq!(dotted(&[0x55, 4, 99]), "2.5.4.99");
    }

    #[test]
    fn old_strings_are_read() {
        let name = name(&[
            &[attribute(&[0x55, 4, 3], BMP_STRING, &[0, b'a', 0x20, 0xac])],
            &[attribute(&[0x55, 4, 11], T61_STRING, &[0xe4])],
        ]);
        assert_eq!(slashed(&name).unwrap(), "/CN=a\u{20ac}/OU=\u{e4}");
    }

    #[test]
    fn serial_numbers_are_decimal() {
        assert_eq!(decimal(&[]), "0");
        assert_eq!(decimal(&[1, 0]), "256");
        assert_eq!(
            decimal(&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            "18446744073709551615"
        );
        assert_eq!(decimal(&[0xff, 0x00]), "-256");
        assert_eq!(decimal(&[0xff]), "-1");
    }
}
