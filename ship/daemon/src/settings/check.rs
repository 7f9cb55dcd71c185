//! Checks of string settings.

use jiff::tz::TimeZone;
use walhub_proto::syncrep::SyncRepConfig;

use walhub_proto::page::WalVersion;

use super::error::Objection;

/// Longest slot name. PostgreSQL: `NAMEDATALEN` (src/include/pg_config_manual.h).
const NAME_LEN_MAX: usize = 63;

/// Accepts everything.
pub(super) fn any(_: &str) -> Result<(), Objection> {
    Ok(())
}

/// The WAL version with this page magic number, in hexadecimal digits.
pub(super) fn parse_wal_page_magic(value: &str) -> Option<WalVersion> {
    let digits = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")).unwrap_or(value);
    let version = u16::from_str_radix(digits, 16).ok().and_then(WalVersion::from_magic)?;
    version.major().map(|_| version)
}

/// Accepts the magic number of a PostgreSQL major's WAL pages.
pub(super) fn wal_page_magic(value: &str) -> Result<(), Objection> {
    if parse_wal_page_magic(value).is_some() {
        return Ok(());
    }
    let known = (13..=18).filter_map(|major| {
        Some(format!("{:04X} ({major})", WalVersion::of_major(major)?.magic()))
    });
    let known = known.collect::<Vec<_>>().join(", ");
    Err(Objection::detail(format!(
        "Known numbers, and the PostgreSQL major they stand for, are {known}."
    )))
}

/// Splits a comma-separated list; double quotes keep commas and blanks.
///
/// PostgreSQL: `SplitGUCList` (src/backend/utils/adt/varlena.c).
pub(super) fn split_list(value: &str) -> Result<Vec<String>, Objection> {
    let wrong = || Objection::detail("List syntax is invalid.");
    let mut rest = value.trim();
    let mut items = Vec::new();
    if rest.is_empty() {
        return Ok(items);
    }
    loop {
        let item;
        if let Some(mut quoted) = rest.strip_prefix('"') {
            let mut text = String::new();
            loop {
                let end = quoted.find('"').ok_or_else(wrong)?;
                text.push_str(&quoted[..end]);
                quoted = &quoted[end + 1..];
                // Two quotes in a row stand for one.
                let Some(after) = quoted.strip_prefix('"') else { break };
                text.push('"');
                quoted = after;
            }
            item = text;
            rest = quoted.trim_start();
        } else {
            let end =
                rest.find(|c: char| c == ',' || c.is_ascii_whitespace()).unwrap_or(rest.len());
            item = rest[..end].to_owned();
            rest = rest[end..].trim_start();
            if item.is_empty() {
                return Err(wrong());
            }
        }
        items.push(item);
        if rest.is_empty() {
            return Ok(items);
        }
        rest = rest.strip_prefix(',').ok_or_else(wrong)?.trim_start();
    }
}

/// Accepts a comma-separated list of addresses.
pub(super) fn address_list(value: &str) -> Result<(), Objection> {
    split_list(value).map(drop)
}

/// Accepts a comma-separated list of directories.
pub(super) fn directory_list(value: &str) -> Result<(), Objection> {
    split_list(value).map(drop)
}

/// Accepts the empty string or the name of a replication slot.
///
/// PostgreSQL: `ReplicationSlotValidateName` (src/backend/replication/slot.c).
pub(super) fn slot_name(value: &str) -> Result<(), Objection> {
    if value.len() > NAME_LEN_MAX {
        return Err(Objection::detail(format!("replication slot name \"{value}\" is too long")));
    }
    if value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        return Ok(());
    }
    Err(Objection {
        detail: Some(format!("replication slot name \"{value}\" contains invalid character")),
        hint: Some(
            "Replication slot names may only contain lower case letters, numbers, and the underscore character."
                .to_owned(),
        ),
        ..Objection::default()
    })
}

/// Accepts what PostgreSQL's grammar of synchronous standbys does.
///
/// PostgreSQL: `check_synchronous_standby_names` (src/backend/replication/syncrep.c).
pub(super) fn standby_names(value: &str) -> Result<(), Objection> {
    SyncRepConfig::parse(value).map(drop).map_err(|error| {
        let (text, sqlstate) = (error.to_string(), Some(error.sqlstate()));
        if error.is_message() {
            Objection { sqlstate, message: Some(text), ..Objection::default() }
        } else {
            Objection { sqlstate, detail: Some(text), ..Objection::default() }
        }
    })
}

/// The time zone that `value` names; `system` is the machine's own.
pub(super) fn find_time_zone(value: &str) -> Option<TimeZone> {
    if value.eq_ignore_ascii_case("system") {
        return Some(TimeZone::system());
    }
    // A machine without tzdata must still start with the zone that needs no data.
    if value.eq_ignore_ascii_case("UTC") || value.eq_ignore_ascii_case("GMT") {
        return Some(TimeZone::UTC);
    }
    TimeZone::get(value).or_else(|_| TimeZone::posix(value)).ok()
}

/// Accepts a name that [`find_time_zone`] knows.
pub(super) fn time_zone(value: &str) -> Result<(), Objection> {
    find_time_zone(value).map(drop).ok_or_else(Objection::default)
}
