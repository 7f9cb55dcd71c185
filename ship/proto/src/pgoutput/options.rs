//! What a client asks of the plugin.
//!
//! PostgreSQL: `parse_output_parameters`, `pgoutput_startup`
//! (src/backend/replication/pgoutput/pgoutput.c).

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::command::{CommandOption, NAME_DATA_LEN, OptionValue};
use crate::sqlstate::SqlState;

/// PostgreSQL: `LOGICALREP_PROTO_MIN_VERSION_NUM`.
const VERSION_MIN: u32 = 1;
/// PostgreSQL: `LOGICALREP_PROTO_MAX_VERSION_NUM`.
const VERSION_MAX: u32 = 4;
/// PostgreSQL: `LOGICALREP_PROTO_STREAM_VERSION_NUM`.
const STREAMING_SINCE: u32 = 2;
/// PostgreSQL: `LOGICALREP_PROTO_TWOPHASE_VERSION_NUM`.
const TWO_PHASE_SINCE: u32 = 3;
/// PostgreSQL: `LOGICALREP_PROTO_STREAM_PARALLEL_VERSION_NUM`.
const PARALLEL_SINCE: u32 = 4;

/// Whether transactions may be sent before they commit; none has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Streaming {
    /// `off`: a transaction is sent when it has committed.
    #[default]
    Off,
    /// `on`: a transaction may be sent before it commits.
    On,
    /// Yes, and the client applies them in parallel.
    Parallel,
}

/// Options that were found right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PgoutputOptions {
    /// Version of the protocol, 1 to 4.
    pub proto_version: u32,
    /// Publications whose rows are wanted; messages belong to none.
    pub publication_names: Vec<String>,
    /// Values in binary; messages have none.
    pub binary: bool,
    /// Whether messages are wanted.
    pub messages: bool,
    /// Whether transactions may be sent early.
    pub streaming: Streaming,
    /// Whether transactions may be sent when they are prepared.
    pub two_phase: bool,
    /// Only what has no replication origin.
    pub no_origin: bool,
}

/// Options that are wrong. `Display` is PostgreSQL's message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OptionsError {
    /// One of them twice.
    Conflicting,
    /// The version is no number.
    InvalidVersion,
    /// The version is a number that is too large.
    VersionOutOfRange(String),
    /// The publications are no list of names.
    InvalidPublications,
    /// The value is no boolean.
    NotBoolean(&'static str),
    /// The value is neither a boolean nor "parallel".
    NotStreaming,
    /// The origin is neither "none" nor "any".
    Origin(String),
    /// There is no such option.
    Unrecognized(String),
    /// It has to be there.
    Missing(&'static str),
    /// The version is newer than any known.
    VersionTooHigh(u32),
    /// There never was such a version.
    VersionTooLow(u32),
    /// The version does not have this feature.
    VersionLacks {
        /// The version of the protocol that was asked for.
        version: u32,
        /// The feature that this version does not have.
        feature: &'static str,
        /// The first version that has it.
        since: u32,
    },
}

impl OptionsError {
    /// PostgreSQL's code for it.
    #[must_use]
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::Conflicting | Self::NotBoolean(_) | Self::NotStreaming => SqlState::SYNTAX_ERROR,
            Self::InvalidVersion
            | Self::VersionOutOfRange(_)
            | Self::Origin(_)
            | Self::Missing(_)
            | Self::VersionLacks { .. } => SqlState::INVALID_PARAMETER_VALUE,
            Self::InvalidPublications => SqlState::INVALID_NAME,
            Self::Unrecognized(_) => SqlState::INTERNAL_ERROR,
            Self::VersionTooHigh(_) | Self::VersionTooLow(_) => SqlState::FEATURE_NOT_SUPPORTED,
        }
    }
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflicting => f.write_str("conflicting or redundant options"),
            Self::InvalidVersion => f.write_str("invalid proto_version"),
            Self::VersionOutOfRange(text) => write!(f, "proto_version \"{text}\" out of range"),
            Self::InvalidPublications => f.write_str("invalid publication_names syntax"),
            Self::NotBoolean(name) => write!(f, "{name} requires a Boolean value"),
            Self::NotStreaming => f.write_str("streaming requires a Boolean value or \"parallel\""),
            Self::Origin(text) => write!(f, "unrecognized origin value: \"{text}\""),
            Self::Unrecognized(name) => write!(f, "unrecognized pgoutput option: {name}"),
            Self::Missing(name) => write!(f, "option \"{name}\" missing"),
            Self::VersionTooHigh(version) => write!(
                f,
                "client sent proto_version={version} but server only supports protocol \
                 {VERSION_MAX} or lower"
            ),
            Self::VersionTooLow(version) => write!(
                f,
                "client sent proto_version={version} but server only supports protocol \
                 {VERSION_MIN} or higher"
            ),
            Self::VersionLacks { version, feature, since } => write!(
                f,
                "requested proto_version={version} does not support {feature}, need {since} or \
                 higher"
            ),
        }
    }
}

impl core::error::Error for OptionsError {}

/// What was given, not yet judged together.
#[derive(Default)]
struct Given {
    proto_version: Option<u32>,
    publication_names: Option<Vec<String>>,
    binary: Option<bool>,
    messages: Option<bool>,
    streaming: Option<Streaming>,
    two_phase: Option<bool>,
    no_origin: Option<bool>,
}

impl PgoutputOptions {
    /// Checks the options of a START_REPLICATION.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn parse(options: &[CommandOption]) -> Result<Self, OptionsError> {
        let mut given = Given::default();
        for option in options {
            let value = match &option.value {
                OptionValue::Absent => None,
                OptionValue::Text(text) => Some(text.clone()),
                OptionValue::Integer(number) => Some(number.to_string()),
            };
            given.take(&option.name, value.as_deref())?;
        }
        let options = Self {
            proto_version: given.proto_version.ok_or(OptionsError::Missing("proto_version"))?,
            publication_names: given
                .publication_names
                .ok_or(OptionsError::Missing("publication_names"))?,
            binary: given.binary.unwrap_or_default(),
            messages: given.messages.unwrap_or_default(),
            streaming: given.streaming.unwrap_or_default(),
            two_phase: given.two_phase.unwrap_or_default(),
            no_origin: given.no_origin.unwrap_or_default(),
        };
        options.check_version()?;
        Ok(options)
    }

    fn check_version(&self) -> Result<(), OptionsError> {
        let version = self.proto_version;
        if version > VERSION_MAX {
            return Err(OptionsError::VersionTooHigh(version));
        }
        if version < VERSION_MIN {
            return Err(OptionsError::VersionTooLow(version));
        }
        let needs = |feature, since| {
            let lacks = OptionsError::VersionLacks { version, feature, since };
            if version < since { Err(lacks) } else { Ok(()) }
        };
        match self.streaming {
            Streaming::Off => {}
            Streaming::On => needs("streaming", STREAMING_SINCE)?,
            Streaming::Parallel => needs("parallel streaming", PARALLEL_SINCE)?,
        }
        if self.two_phase { needs("two-phase commit", TWO_PHASE_SINCE) } else { Ok(()) }
    }
}

impl Given {
    fn take(&mut self, name: &str, value: Option<&str>) -> Result<(), OptionsError> {
        match name {
            "proto_version" => once(&mut self.proto_version, || version(value)),
            "publication_names" => once(&mut self.publication_names, || {
                value.and_then(split_identifiers).ok_or(OptionsError::InvalidPublications)
            }),
            "binary" => once(&mut self.binary, || boolean("binary", value)),
            "messages" => once(&mut self.messages, || boolean("messages", value)),
            "streaming" => once(&mut self.streaming, || streaming(value)),
            "two_phase" => once(&mut self.two_phase, || boolean("two_phase", value)),
            "origin" => once(&mut self.no_origin, || origin(value.unwrap_or_default())),
            _ => Err(OptionsError::Unrecognized(name.into())),
        }
    }
}

fn once<T>(
    slot: &mut Option<T>,
    value: impl FnOnce() -> Result<T, OptionsError>,
) -> Result<(), OptionsError> {
    if slot.is_some() {
        return Err(OptionsError::Conflicting);
    }
    *slot = Some(value()?);
    Ok(())
}

/// A number as C's `strtoul` reads one: white space and a sign may come first.
fn version(value: Option<&str>) -> Result<u32, OptionsError> {
    let text = value.ok_or(OptionsError::InvalidVersion)?;
    let digits = text.trim_start_matches(is_space);
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(OptionsError::InvalidVersion);
    }
    let wide: u64 = digits.parse().map_err(|_| OptionsError::InvalidVersion)?;
    u32::try_from(wide).map_err(|_| OptionsError::VersionOutOfRange(text.into()))
}

/// PostgreSQL: `defGetBoolean`.
fn boolean(name: &'static str, value: Option<&str>) -> Result<bool, OptionsError> {
    let Some(text) = value else { return Ok(true) };
    let is = |word: &str| word.eq_ignore_ascii_case(text);
    match () {
        () if is("true") || is("on") => Ok(true),
        () if is("false") || is("off") => Ok(false),
        () => Err(OptionsError::NotBoolean(name)),
    }
}

/// PostgreSQL: `defGetStreamingMode`.
fn streaming(value: Option<&str>) -> Result<Streaming, OptionsError> {
    if value.is_some_and(|text| text.eq_ignore_ascii_case("parallel")) {
        return Ok(Streaming::Parallel);
    }
    match boolean("streaming", value) {
        Ok(true) => Ok(Streaming::On),
        Ok(false) => Ok(Streaming::Off),
        Err(_) => Err(OptionsError::NotStreaming),
    }
}

fn origin(text: &str) -> Result<bool, OptionsError> {
    if text.eq_ignore_ascii_case("none") {
        Ok(true)
    } else if text.eq_ignore_ascii_case("any") {
        Ok(false)
    } else {
        Err(OptionsError::Origin(text.into()))
    }
}

/// Names between commas. PostgreSQL: `SplitIdentifierString`.
fn split_identifiers(text: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    if rest.is_empty() {
        return Some(names);
    }
    loop {
        let mut name;
        if let Some(quoted) = rest.strip_prefix('"') {
            name = String::new();
            rest = quoted;
            loop {
                let (part, after) = rest.split_once('"')?;
                name.push_str(part);
                rest = after;
                let Some(after) = rest.strip_prefix('"') else { break };
                name.push('"');
                rest = after;
            }
        } else {
            let end = rest.find(|c| c == ',' || is_space(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at_checked(end)?;
            if word.is_empty() {
                return None;
            }
            name = word.to_ascii_lowercase();
            rest = after;
        }
        let mut end = name.len().min(NAME_DATA_LEN - 1);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
        names.push(name);
        rest = rest.trim_start_matches(is_space);
        if rest.is_empty() {
            return Some(names);
        }
        rest = rest.strip_prefix(',')?.trim_start_matches(is_space);
    }
}

/// PostgreSQL: `scanner_isspace`.
const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<PgoutputOptions, (String, &'static str)> {
        let option = |&(name, value): &(&str, &str)| CommandOption {
            name: name.into(),
            value: if value == "-" { OptionValue::Absent } else { OptionValue::Text(value.into()) },
        };
        let options: Vec<CommandOption> = options.iter().map(option).collect();
        PgoutputOptions::parse(&options).map_err(|error| (error.to_string(), error.sqlstate().0))
    }

    #[test]
    fn all_options_are_taken() {
        let base = [("proto_version", " +4"), ("publication_names", "p, \"A \"\"b\" ,Cc")];
        let plain = PgoutputOptions {
            proto_version: 4,
            publication_names: ["p", "A \"b", "cc"].map(String::from).to_vec(),
            binary: false,
            messages: false,
            streaming: Streaming::Off,
            two_phase: false,
            no_origin: false,
        };
        assert_eq!(parse(&base), Ok(plain.clone()));
        let more = [
            ("binary", "off"),
            ("messages", "TRUE"),
            ("streaming", "Parallel"),
            ("two_phase", "-"),
            ("origin", "None"),
        ];
        let all = PgoutputOptions {
            messages: true,
            streaming: Streaming::Parallel,
            two_phase: true,
            no_origin: true,
            ..plain
        };
        assert_eq!(parse(&[&base[..], &more[..]].concat()), Ok(all));
    }

    #[test]
    fn wrong_options_are_refused_in_postgres_s_words() {
        let lacks = |version: &str, what: &str, since: u32| {
            std::format!(
                "requested proto_version={version} does not support {what}, need {since} or higher"
            )
        };
        let publication = ("publication_names", "p");
        let cases = [
            (("proto_version", "x"), "invalid proto_version".into(), "22023"),
            (("proto_version", ""), "invalid proto_version".into(), "22023"),
            (("proto_version", "1 "), "invalid proto_version".into(), "22023"),
            (
                ("proto_version", "4294967296"),
                "proto_version \"4294967296\" out of range".into(),
                "22023",
            ),
            (
                ("proto_version", "0"),
                "client sent proto_version=0 but server only supports protocol 1 or higher".into(),
                "0A000",
            ),
            (
                ("proto_version", "5"),
                "client sent proto_version=5 but server only supports protocol 4 or lower".into(),
                "0A000",
            ),
            (("publication_names", "a,"), "invalid publication_names syntax".into(), "42602"),
            (("publication_names", "\"a"), "invalid publication_names syntax".into(), "42602"),
            (("publication_names", "a b"), "invalid publication_names syntax".into(), "42602"),
            (("messages", "1"), "messages requires a Boolean value".into(), "42601"),
            (
                ("streaming", "maybe"),
                "streaming requires a Boolean value or \"parallel\"".into(),
                "42601",
            ),
            (("origin", "x"), "unrecognized origin value: \"x\"".into(), "22023"),
            (("include-xids", "1"), "unrecognized pgoutput option: include-xids".into(), "XX000"),
            (("streaming", "on"), lacks("1", "streaming", 2), "22023"),
            (("streaming", "parallel"), lacks("1", "parallel streaming", 4), "22023"),
            (("two_phase", "on"), lacks("1", "two-phase commit", 3), "22023"),
        ];
        for (option, message, code) in cases {
            let mut options = std::vec![option];
            if option.0 != "proto_version" {
                options.push(("proto_version", "1"));
            }
            if option.0 != "publication_names" {
                options.push(publication);
            }
            assert_eq!(parse(&options), Err((message, code)), "{option:?}");
        }
        let twice = [publication, publication];
        assert_eq!(parse(&twice), Err(("conflicting or redundant options".into(), "42601")));
        let missing = |name| Err((std::format!("option \"{name}\" missing"), "22023"));
        assert_eq!(parse(&[publication]), missing("proto_version"));
        assert_eq!(parse(&[("proto_version", "1")]), missing("publication_names"));
    }
}
