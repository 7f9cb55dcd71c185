//! What libpq and PostgreSQL look at in a certificate and webpki does not tell.
//!
//! libpq (OpenSSL) accepts certificates that webpki does not: version 1, as the recipe in
//! PostgreSQL's manual makes them; a self-signed one that is its own authority; a host name in the
//! common name. So the few fields that decide those cases are read here.

use std::net::IpAddr;

use ring::digest;

pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
pub(super) const OID: u8 = 0x06;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const BOOLEAN: u8 = 0x01;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// 1.2.840.113549.1.1
const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1];
/// 1.2.840.10045.4
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4];
/// 2.16.840.1.101.3.4.2
const NIST_HASHES: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2];

/// A parsed certificate. Nothing in it has been verified.
#[derive(Debug)]
pub(in crate::net) struct Certificate<'a> {
    /// What the signature is over.
    pub(in crate::net) to_be_signed: &'a [u8],
    /// Contents of the AlgorithmIdentifier of the signature.
    pub(in crate::net) signature_algorithm: &'a [u8],
    /// The issuer's signature.
    pub(in crate::net) signature: &'a [u8],
    /// The number that the issuer gave it, in two's complement.
    pub(in crate::net) serial: &'a [u8],
    /// Issuer's name.
    pub(in crate::net) issuer: &'a [u8],
    /// Subject's name.
    pub(in crate::net) subject: &'a [u8],
    /// First and last valid second since 1970.
    pub(in crate::net) validity: (i64, i64),
    /// The whole SubjectPublicKeyInfo.
    pub(in crate::net) public_key_info: &'a [u8],
    /// Contents of its AlgorithmIdentifier.
    pub(in crate::net) key_algorithm: &'a [u8],
    /// The subject's public key.
    pub(in crate::net) key: &'a [u8],
    dns_names: Vec<String>,
    addresses: Vec<IpAddr>,
}

/// One value of a DER sequence.
#[derive(Clone, Copy)]
pub(super) struct Der<'a> {
    pub(super) tag: u8,
    pub(super) value: &'a [u8],
    whole: &'a [u8],
}

/// Splits the first value off.
pub(super) fn split<'a>(rest: &mut &'a [u8]) -> Option<Der<'a>> {
    let bytes = *rest;
    let (&tag, after) = bytes.split_first()?;
    let (&first, after) = after.split_first()?;
    let (length, after) = match first {
        0..=0x7f => (usize::from(first), after),
        0x81..=0x84 => {
            let (length, after) = after.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)), after)
        }
        _ => return None,
    };
    let (value, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(Der { tag, value, whole: bytes.get(..bytes.len() - after.len())? })
}

pub(super) fn expect<'a>(rest: &mut &'a [u8], tag: u8) -> Option<Der<'a>> {
    split(rest).filter(|der| der.tag == tag)
}

pub(super) fn values(mut rest: &[u8]) -> impl Iterator<Item = Der<'_>> {
    std::iter::from_fn(move || split(&mut rest))
}

fn bits(value: &[u8]) -> Option<&[u8]> {
    value.split_first().filter(|&(&unused, _)| unused == 0).map(|(_, bits)| bits)
}

impl<'a> Certificate<'a> {
    /// Parses a DER certificate of any version.
    pub(in crate::net) fn parse(mut der: &'a [u8]) -> Option<Self> {
        let mut outer = expect(&mut der, SEQUENCE)?.value;
        let to_be_signed = expect(&mut outer, SEQUENCE)?;
        let signature_algorithm = expect(&mut outer, SEQUENCE)?.value;
        let signature = bits(expect(&mut outer, BIT_STRING)?.value)?;
        let mut fields = to_be_signed.value;
        // The version, when it is not 1, stands before the serial number.
        let mut serial = split(&mut fields)?;
        if serial.tag == VERSION {
            serial = split(&mut fields)?;
        }
        let serial = serial.value;
        expect(&mut fields, SEQUENCE)?;
        let issuer = expect(&mut fields, SEQUENCE)?.whole;
        let mut validity = expect(&mut fields, SEQUENCE)?.value;
        let validity = (parse_time(split(&mut validity)?)?, parse_time(split(&mut validity)?)?);
        let subject = expect(&mut fields, SEQUENCE)?.whole;
        let public_key_info = expect(&mut fields, SEQUENCE)?;
        let mut key_info = public_key_info.value;
        let key_algorithm = expect(&mut key_info, SEQUENCE)?.value;
        let key = bits(expect(&mut key_info, BIT_STRING)?.value)?;
        let extensions = values(fields).find(|der| der.tag == EXTENSIONS);
        let mut certificate = Self {
            to_be_signed: to_be_signed.whole,
            signature_algorithm,
            signature,
            serial,
            issuer,
            subject,
            validity,
            public_key_info: public_key_info.whole,
            key_algorithm,
            key,
            dns_names: Vec::new(),
            addresses: Vec::new(),
        };
        if let Some(mut extensions) = extensions.map(|der| der.value) {
            certificate.read_alt_names(expect(&mut extensions, SEQUENCE)?.value)?;
        }
        Some(certificate)
    }

    fn read_alt_names(&mut self, extensions: &[u8]) -> Option<()> {
        for extension in values(extensions) {
            let mut fields = extension.value;
            if expect(&mut fields, OID)?.value != SUBJECT_ALT_NAME {
                continue;
            }
            let mut content = split(&mut fields)?;
            if content.tag == BOOLEAN {
                content = split(&mut fields)?;
            }
            if content.tag != OCTET_STRING {
                return None;
            }
            let mut names = content.value;
            for name in values(expect(&mut names, SEQUENCE)?.value) {
                match name.tag {
                    DNS_NAME => self.dns_names.push(text(name.value)?),
                    IP_ADDRESS => self.addresses.extend(address(name.value)),
                    // Other kinds of name say nothing about a host.
                    _ => {}
                }
            }
        }
        Some(())
    }

    /// The names, the first of which an error shows.
    fn common_name(&self) -> Option<String> {
        let mut subject = self.subject;
        let names = expect(&mut subject, SEQUENCE)?.value;
        values(names).filter(|set| set.tag == SET).find_map(|set| {
            let mut attribute = set.value;
            let mut fields = expect(&mut attribute, SEQUENCE)?.value;
            let is_name = expect(&mut fields, OID)?.value == COMMON_NAME;
            is_name.then(|| text(split(&mut fields)?.value)).flatten()
        })
    }

    /// Whether the certificate is for `host`; the names that it is for, when it is not.
    ///
    /// PostgreSQL: `pgtls_verify_peer_name_matches_certificate_guts` (fe-secure-openssl.c).
    pub(in crate::net) fn check_host(&self, host: &str) -> Result<(), Vec<String>> {
        let address: Option<IpAddr> = host.parse().ok();
        if address.is_some_and(|address| self.addresses.contains(&address))
            || self.dns_names.iter().any(|name| matches_host(name, host))
        {
            return Ok(());
        }
        // The common name counts only where no alternative name of the host's kind is given.
        let decided =
            if address.is_some() { !self.addresses.is_empty() } else { !self.dns_names.is_empty() };
        let common_name = self.common_name().filter(|_| !decided);
        if common_name.as_ref().is_some_and(|name| matches_host(name, host)) {
            return Ok(());
        }
        let addresses = self.addresses.iter().map(IpAddr::to_string);
        Err(self.dns_names.iter().cloned().chain(addresses).chain(common_name).collect())
    }

    /// The `tls-server-end-point` channel binding (RFC 5929) of the certificate `der`.
    ///
    /// PostgreSQL: `pgtls_get_peer_certificate_hash`.
    pub(in crate::net) fn end_point(&self, der: &[u8]) -> Option<Vec<u8>> {
        let mut algorithm = self.signature_algorithm;
        let oid = expect(&mut algorithm, OID)?.value;
        let hash = match (oid.strip_prefix(PKCS1), oid.strip_prefix(ECDSA)) {
            // MD5 and SHA-1 are replaced by SHA-256.
            (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => &digest::SHA256,
            (Some([12]), _) | (_, Some([3, 3])) => &digest::SHA384,
            (Some([13]), _) | (_, Some([3, 4])) => &digest::SHA512,
            (Some([10]), _) => pss_hash(algorithm)?,
            // Ed25519 has no hash, and RFC 5929 no answer.
            _ => return None,
        };
        Some(digest::digest(hash, der).as_ref().to_vec())
    }
}

/// The hash of RSASSA-PSS parameters: `SEQUENCE { [0] SEQUENCE { OID } ... }`, SHA-1 when absent.
fn pss_hash(mut parameters: &[u8]) -> Option<&'static digest::Algorithm> {
    let fields = expect(&mut parameters, SEQUENCE)?.value;
    let Some(mut hash) = values(fields).find(|der| der.tag == 0xa0).map(|der| der.value) else {
        return Some(&digest::SHA256);
    };
    let mut hash = expect(&mut hash, SEQUENCE)?.value;
    match expect(&mut hash, OID)?.value.strip_prefix(NIST_HASHES)? {
        [1] => Some(&digest::SHA256),
        [2] => Some(&digest::SHA384),
        [3] => Some(&digest::SHA512),
        _ => None,
    }
}

/// A name with an embedded zero byte is an attack, not a name.
fn text(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    (!text.contains('\0')).then(|| text.to_string())
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

/// `*` stands for one whole label, the first. PostgreSQL: `wildcard_certificate_match`.
fn matches_host(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(suffix) = pattern.strip_prefix('*').filter(|suffix| suffix.starts_with('.')) else {
        return false;
    };
    let dot = host.find('.').unwrap_or(host.len());
    let (label, rest) = host.split_at(dot);
    suffix.len() > 1 && !label.is_empty() && rest.eq_ignore_ascii_case(suffix)
}

/// Seconds since 1970 of a UTCTime or GeneralizedTime.
fn parse_time(der: Der<'_>) -> Option<i64> {
    let text = std::str::from_utf8(der.value).ok()?.strip_suffix('Z')?;
    let (year, rest) = match der.tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (year + if year < 50 { 2000 } else { 1900 }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let pair = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (pair(0)?, pair(2)?);
    let seconds = (pair(4)? * 60 + pair(6)?) * 60 + pair(8)?;
    // Days since 1970, in a calendar whose years begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    Some((days - 719_469) * 86_400 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_one_whole_first_label() {
        for (pattern, host, want) in [
            ("a.example", "A.Example", true),
            ("*.example", "a.example", true),
            ("*.example", "a.b.example", false),
            ("*.example", ".example", false),
            ("*.example", "example", false),
            ("a*.example", "ab.example", false),
            ("*", "example", false),
            ("*.", "example.", false),
        ] {
            assert_eq!(matches_host(pattern, host), want, "{pattern} {host}");
        }
    }

    #[test]
    fn times_are_seconds_since_1970() {
        let time =
            |tag, text: &'static str| parse_time(Der { tag, value: text.as_bytes(), whole: &[] });
        assert_eq!(time(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(time(UTC_TIME, "240229123456Z"), Some(1_709_210_096));
        assert_eq!(time(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        assert_eq!(time(UTC_TIME, "240229123456"), None);
    }

    #[test]
    fn no_prefix_of_a_certificate_panics() {
        let der = [0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x30, 0x82];
        for cut in 0..der.len() {
            assert!(Certificate::parse(&der[..cut]).is_none());
        }
    }
}
