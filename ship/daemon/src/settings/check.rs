//! String settings: what each may be, and what it means.

use std::path::PathBuf;

use jiff::tz::TimeZone;
use walhub_engine::io::CongestionControl;
use walhub_proto::page::WalVersion;
use walhub_proto::syncrep::SyncRepConfig;

use super::error::Objection;

/// Longest slot name. PostgreSQL: `NAMEDATALEN` (src/include/pg_config_manual.h).
const NAME_LEN_MAX: usize = 63;

/// Accepts every text.
pub(super) fn anything(value: &str) -> Result<String, Objection> {
    Ok(value.to_owned())
}

/// The WAL version with this page magic number, in hexadecimal digits: that of a PostgreSQL major.
pub(super) fn wal_page_magic(value: &str) -> Result<WalVersion, Objection> {
    let digits = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")).unwrap_or(value);
    let version = u16::from_str_radix(digits, 16).ok().and_then(WalVersion::from_magic);
    if let Some(version) = version.filter(|version| version.major().is_some()) {
        return Ok(version);
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
pub(super) fn list(value: &str) -> Result<Vec<String>, Objection> {
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

/// Splits a comma-separated list of directories.
pub(super) fn directories(value: &str) -> Result<Vec<PathBuf>, Objection> {
    Ok(list(value)?.into_iter().map(PathBuf::from).collect())
}

/// The name of a congestion control, or one of the two values that name none.
pub(super) fn congestion_control(value: &str) -> Result<CongestionControl, Objection> {
    Ok(match value {
        "auto" => CongestionControl::UnpacedIfLocal,
        "" => CongestionControl::System,
        name => CongestionControl::Named(name.to_owned()),
    })
}

/// The name of a replication slot; `None` when it is empty.
///
/// PostgreSQL: `ReplicationSlotValidateName` (src/backend/replication/slot.c).
pub(super) fn slot_name(value: &str) -> Result<Option<String>, Objection> {
    if value.len() > NAME_LEN_MAX {
        return Err(Objection::detail(format!("replication slot name \"{value}\" is too long")));
    }
    if value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        return Ok(Some(value.to_owned()).filter(|name| !name.is_empty()));
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

/// What PostgreSQL's grammar of synchronous standbys accepts; `None` when it is empty.
///
/// PostgreSQL: `check_synchronous_standby_names` (src/backend/replication/syncrep.c).
pub(super) fn standby_names(value: &str) -> Result<Option<SyncRepConfig>, Objection> {
    SyncRepConfig::parse(value).map_err(|error| {
        let (text, sqlstate) = (error.to_string(), Some(error.sqlstate()));
        if error.is_message() {
            Objection { sqlstate, message: Some(text), ..Objection::default() }
        } else {
            Objection { sqlstate, detail: Some(text), ..Objection::default() }
        }
    })
}

/// The time zone that `value` names; `system` is the machine's own.
pub(super) fn time_zone(value: &str) -> Result<TimeZone, Objection> {
    if value.eq_ignore_ascii_case("system") {
        return Ok(TimeZone::system());
    }
    // A machine without tzdata must still start with the zone that needs no data.
    if value.eq_ignore_ascii_case("UTC") || value.eq_ignore_ascii_case("GMT") {
        return Ok(TimeZone::UTC);
    }
    let zone = TimeZone::get(value).or_else(|_| TimeZone::posix(value));
    zone.map_err(|_| Objection::default())
}
