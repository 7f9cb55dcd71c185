//! Which addresses a rule is for.
//!
//! PostgreSQL: `parse_hba_line`, `check_ip`, `check_same_host_or_net`, `hostname_match` (src/backend/libpq/hba.c),
//! `pg_sockaddr_cidr_mask`, `pg_range_sockaddr` (src/backend/libpq/ifaddr.c).

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::fault::Fault;
use super::token::Token;

/// What getaddrinfo says of a text that is no address.
const NO_NAME: &str = "Name or service not known";

/// The addresses that a rule is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Addresses {
    /// Every one.
    All,
    /// Those of this machine.
    SameHost,
    /// Those of the networks that this machine is in.
    SameNet,
    /// Those that are as `address` where `mask` has ones. An address of version 4 is never one of version 6.
    Range {
        /// One of them.
        address: IpAddr,
        /// The bits that count; of the same version.
        mask: IpAddr,
    },
    /// Those of the host with this name, or with a name that ends in it when it begins with a dot.
    Host(String),
}

/// An address of this machine, with the mask of its network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interface {
    /// The address.
    pub address: IpAddr,
    /// The bits that are the network's.
    pub netmask: IpAddr,
}

impl Addresses {
    /// Reads the address of a line; `mask` gives the field after it, where there must be one.
    pub(super) fn parse<'a>(
        token: &Token,
        mask: impl FnOnce() -> Option<&'a Vec<Token>>,
    ) -> Result<Self, Fault> {
        if token.is_keyword("all") {
            return Ok(Self::All);
        }
        if token.is_keyword("samehost") {
            return Ok(Self::SameHost);
        }
        if token.is_keyword("samenet") {
            return Ok(Self::SameNet);
        }
        let text = &token.text;
        let (host, bits) = match text.split_once('/') {
            Some((host, bits)) => (host, Some(bits)),
            None => (text.as_str(), None),
        };
        let Some(address) = numeric(host) else {
            if bits.is_none() {
                return Ok(Self::Host(host.to_owned()));
            }
            return Err(Fault::new(format!(
                "specifying both host name and CIDR mask is invalid: \"{text}\""
            )));
        };
        let mask = match bits {
            Some(bits) => cidr_mask(bits, address)
                .ok_or_else(|| Fault::new(format!("invalid CIDR mask in address \"{text}\"")))?,
            None => parse_mask(mask())?,
        };
        if address.is_ipv4() != mask.is_ipv4() {
            return Err(Fault::new("IP address and mask do not match"));
        }
        Ok(Self::Range { address, mask })
    }

    /// As `pg_hba_file_rules` shows it: the address, and the mask.
    #[must_use]
    pub fn shown(&self) -> (String, Option<String>) {
        match self {
            Self::All => ("all".to_owned(), None),
            Self::SameHost => ("samehost".to_owned(), None),
            Self::SameNet => ("samenet".to_owned(), None),
            Self::Range { address, mask } => (address.to_string(), Some(mask.to_string())),
            Self::Host(host) => (host.clone(), None),
        }
    }
}

fn parse_mask(field: Option<&Vec<Token>>) -> Result<IpAddr, Fault> {
    let token = match field.map(Vec::as_slice) {
        Some([token]) => token,
        Some(_) => return Err(Fault::new("multiple values specified for netmask")),
        None => {
            return Err(Fault::new("end-of-line before netmask specification").hint(
                "Specify an address range in CIDR notation, or provide a separate netmask.",
            ));
        }
    };
    let text = &token.text;
    numeric(text).ok_or_else(|| Fault::new(format!("invalid IP mask \"{text}\": {NO_NAME}")))
}

/// The mask with as many ones as `bits` says. PostgreSQL: `pg_sockaddr_cidr_mask`, which reads with strtol.
fn cidr_mask(bits: &str, address: IpAddr) -> Option<IpAddr> {
    let bits: u32 = bits.trim_ascii_start().parse().ok()?;
    Some(match address {
        IpAddr::V4(_) if bits <= 32 => {
            Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into()
        }
        IpAddr::V6(_) if bits <= 128 => {
            Ipv6Addr::from_bits(u128::MAX.checked_shl(128 - bits).unwrap_or(0)).into()
        }
        IpAddr::V4(_) | IpAddr::V6(_) => return None,
    })
}

/// An address in digits, as getaddrinfo takes it with `AI_NUMERICHOST`.
fn numeric(text: &str) -> Option<IpAddr> {
    if let Some(address) = inet_aton(text) {
        return Some(address.into());
    }
    // A zone says through which interface; rules do not look at it.
    let address = match text.split_once('%') {
        Some((address, zone)) if !zone.is_empty() => address,
        Some(_) | None => text,
    };
    address.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

/// inet_aton(3): one to four numbers, decimal, octal or hexadecimal, of which the last fills what is left.
fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u32> = text.split('.').map(c_number).collect::<Option<_>>()?;
    let (last, before) = parts.split_last()?;
    let room: u32 = 8 * (4 - u32::try_from(before.len()).ok().filter(|count| *count < 4)?);
    if room < 32 && last >> room != 0 {
        return None;
    }
    let mut address = *last;
    for (part, shift) in before.iter().zip([24, 16, 8]) {
        address |= u32::from(u8::try_from(*part).ok()?) << shift;
    }
    Some(Ipv4Addr::from_bits(address))
}

fn c_number(text: &str) -> Option<u32> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match hexadecimal {
        Some(digits) => (digits, 16),
        None if text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // from_str_radix takes a sign as well.
    let is_number = digits.starts_with(|c: char| c.is_ascii_hexdigit());
    is_number.then(|| u32::from_str_radix(digits, radix).ok())?
}

/// PostgreSQL: `pg_range_sockaddr`.
pub(super) fn is_in_range(candidate: IpAddr, address: IpAddr, mask: IpAddr) -> bool {
    match (candidate, address, mask) {
        (IpAddr::V4(candidate), IpAddr::V4(address), IpAddr::V4(mask)) => {
            (candidate.to_bits() ^ address.to_bits()) & mask.to_bits() == 0
        }
        (IpAddr::V6(candidate), IpAddr::V6(address), IpAddr::V6(mask)) => {
            (candidate.to_bits() ^ address.to_bits()) & mask.to_bits() == 0
        }
        _ => false,
    }
}

/// Whether a rule for `pattern` is for the host with that name. PostgreSQL: `hostname_match`.
pub(super) fn is_named(pattern: &str, host: &str) -> bool {
    if !pattern.starts_with('.') {
        return host.eq_ignore_ascii_case(pattern);
    }
    let (host, pattern) = (host.as_bytes(), pattern.as_bytes());
    host.len()
        .checked_sub(pattern.len())
        .and_then(|at| host.get(at..))
        .is_some_and(|end| end.eq_ignore_ascii_case(pattern))
}
