//! The first packet of a connection.
//!
//! It has no type byte: a length word that counts itself, a code, and what the code calls for.
//!
//! Not here: what to answer (the daemon's `net`).
//!
//! PostgreSQL: `ProcessStartupPacket` (src/backend/postmaster/postmaster.c),
//! src/include/libpq/pqcomm.h.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::sqlstate::SqlState;
use crate::wire::backend::Encoder;
use crate::wire::reader::Reader;

/// Bytes after the length word that a packet may have. PostgreSQL: `MAX_STARTUP_PACKET_LENGTH`.
pub const STARTUP_PACKET_BYTES_MAX: usize = 10_000;

/// The protocol version that is asked for here, as it is sent: 3.0.
pub const PROTOCOL_VERSION: u32 = 3 << 16;

/// Minor part of the newest version that is answered: 3.2, which is 3.0 with longer cancel keys.
/// PostgreSQL: `PG_PROTOCOL_LATEST`.
pub const PROTOCOL_MINOR_MAX: u16 = 2;

/// Bytes of the cancel keys that are given out from protocol 3.2 on. PostgreSQL: `MAX_CANCEL_KEY_LENGTH`.
pub const CANCEL_KEY_BYTES: usize = 32;

/// Bytes of the cancel keys of protocol 3.0.
pub const SHORT_CANCEL_KEY_BYTES: usize = 4;

const LENGTH_WORD_LEN: usize = 4;
const CODE_LEN: usize = 4;
const CANCEL_REQUEST_CODE: u32 = special_code(5678);
const SSL_REQUEST_CODE: u32 = special_code(5679);
const GSSENC_REQUEST_CODE: u32 = special_code(5680);
/// Protocol 3.2 lets a cancel key have up to 256 bytes.
const CANCEL_KEY_LEN: core::ops::RangeInclusive<usize> = SHORT_CANCEL_KEY_BYTES..=256;

const fn special_code(minor: u32) -> u32 {
    1234 << 16 | minor
}

/// What a client asks first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FirstPacket {
    /// SSLRequest: answered with one byte, then another first packet follows.
    SslRequest,
    /// GSSENCRequest: likewise.
    GssEncRequest,
    /// CancelRequest: the connection ends after it.
    CancelRequest {
        /// Whose query.
        process_id: u32,
        /// What BackendKeyData told that client.
        key: Vec<u8>,
    },
    /// StartupMessage.
    Startup(StartupMessage),
}

/// A request for a session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StartupMessage {
    /// Minor part of the protocol version wanted; the major part is 3.
    pub minor: u16,
    /// Every parameter by its name, the last one of a name; protocol options are not among them.
    pub parameters: BTreeMap<String, String>,
    /// Names of the `_pq_.` options, none of which is known here.
    pub protocol_options: Vec<String>,
}

impl StartupMessage {
    /// A parameter's value; an empty one counts as absent. PostgreSQL treats an empty user or
    /// database name so.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Takes the settings of the parameter `options`, written as `-c name=value` or
    /// `--name=value`, among the others; one that the packet names itself has the packet's value.
    ///
    /// PostgreSQL: `process_startup_options`.
    ///
    /// # Errors
    /// When `options` holds anything else.
    pub fn apply_options(&mut self) -> Result<(), OptionsViolation> {
        let Some(options) = self.parameters.get("options") else { return Ok(()) };
        for (name, value) in command_line_settings(options)? {
            let is_in_packet = |own: &String| own.eq_ignore_ascii_case(&name);
            if !self.parameters.keys().any(is_in_packet) {
                self.parameters.insert(name, value);
            }
        }
        Ok(())
    }

    /// Whether the client must be told which version and options it really gets.
    #[must_use]
    pub fn needs_negotiation(&self) -> bool {
        self.minor > PROTOCOL_MINOR_MAX || !self.protocol_options.is_empty()
    }

    /// Bytes of the cancel key that the client takes. PostgreSQL: `BackendKeyData` in `PostgresMain`.
    #[must_use]
    pub const fn cancel_key_bytes(&self) -> usize {
        if self.minor >= 2 { CANCEL_KEY_BYTES } else { SHORT_CANCEL_KEY_BYTES }
    }

    /// Appends NegotiateProtocolVersion. PostgreSQL: `SendNegotiateProtocolVersion`.
    pub fn encode_negotiation(&self, encoder: &mut Encoder) {
        encoder.frame(b'v', |buf| {
            let version = PROTOCOL_VERSION | u32::from(self.minor.min(PROTOCOL_MINOR_MAX));
            buf.extend_from_slice(&version.to_be_bytes());
            let count = u32::try_from(self.protocol_options.len()).unwrap_or(u32::MAX);
            buf.extend_from_slice(&count.to_be_bytes());
            for option in &self.protocol_options {
                buf.extend_from_slice(option.as_bytes());
                buf.push(0);
            }
        });
    }
}

/// What a session is asked for in the parameter `replication`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplicationMode {
    /// An ordinary session.
    Off,
    /// A physical walsender.
    Physical,
    /// A walsender connected to a database: it takes SQL as well.
    Database,
}

impl ReplicationMode {
    /// `None` when the value is neither `database` nor a boolean.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        if value == "database" {
            return Some(Self::Database);
        }
        parse_bool(value).map(|on| if on { Self::Physical } else { Self::Off })
    }
}

/// A boolean as settings and parameters spell it: any unique prefix. PostgreSQL: `parse_bool`.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    const SPELLINGS: [(&str, usize, bool); 8] = [
        ("true", 1, true),
        ("false", 1, false),
        ("yes", 1, true),
        ("no", 1, false),
        ("on", 2, true),
        ("off", 2, false),
        ("1", 1, true),
        ("0", 1, false),
    ];
    let is_prefix = |word: &str, min: usize| {
        text.len() >= min
            && word.get(..text.len()).is_some_and(|head| head.eq_ignore_ascii_case(text))
    };
    SPELLINGS.iter().find(|(word, min, _)| is_prefix(word, *min)).map(|&(_, _, value)| value)
}

/// A first packet that breaks a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartupViolation {
    /// The length word is out of bounds. Nothing is answered to it: whoever sent it does not
    /// speak this protocol.
    Length {
        /// What the length word said.
        got: u32,
    },
    /// Another protocol than 3.x.
    Version {
        /// Major part.
        major: u16,
        /// Minor part.
        minor: u16,
    },
    /// Parameters that do not end where the packet ends.
    Layout,
}

impl StartupViolation {
    /// PostgreSQL's code for it.
    #[must_use]
    pub const fn sqlstate(self) -> SqlState {
        match self {
            Self::Length { .. } | Self::Layout => SqlState::PROTOCOL_VIOLATION,
            Self::Version { .. } => SqlState::FEATURE_NOT_SUPPORTED,
        }
    }
}

impl fmt::Display for StartupViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { .. } => f.write_str("invalid length of startup packet"),
            Self::Version { major, minor } => write!(
                f,
                "unsupported frontend protocol {major}.{minor}: server supports 3.0 to \
                 3.{PROTOCOL_MINOR_MAX}"
            ),
            Self::Layout => {
                f.write_str("invalid startup packet layout: expected terminator as last byte")
            }
        }
    }
}

/// Encodes a request for a session with these parameters. PostgreSQL: `build_startup_packet`.
///
/// # Panics
/// If they are longer than a packet can say.
#[must_use]
pub fn encode(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = [[0; LENGTH_WORD_LEN], PROTOCOL_VERSION.to_be_bytes()].concat();
    for text in parameters.iter().flat_map(|&(name, value)| [name, value]) {
        packet.extend_from_slice(text.as_bytes());
        packet.push(0);
    }
    packet.push(0);
    let length = u32::try_from(packet.len()).expect("parameters are short");
    packet.splice(..LENGTH_WORD_LEN, length.to_be_bytes());
    packet
}

/// Decodes the packet at the start of `bytes`, and tells how many bytes it has.
///
/// # Errors
/// When it breaks a rule of [`StartupViolation`].
pub fn decode(bytes: &[u8]) -> Result<Option<(FirstPacket, usize)>, StartupViolation> {
    let mut reader = Reader::new(bytes);
    let Ok(length) = reader.u32() else { return Ok(None) };
    let body_len = usize::try_from(length)
        .ok()
        .and_then(|length| length.checked_sub(LENGTH_WORD_LEN))
        .filter(|len| (CODE_LEN..=STARTUP_PACKET_BYTES_MAX).contains(len))
        .ok_or(StartupViolation::Length { got: length })?;
    let Ok(body) = reader.take(body_len) else { return Ok(None) };
    let mut body = Reader::new(body);
    let Ok(code) = body.u32() else { return Err(StartupViolation::Length { got: length }) };
    let packet = match code {
        SSL_REQUEST_CODE => FirstPacket::SslRequest,
        GSSENC_REQUEST_CODE => FirstPacket::GssEncRequest,
        CANCEL_REQUEST_CODE => match body.u32() {
            Ok(process_id) if CANCEL_KEY_LEN.contains(&body.rest().len()) => {
                FirstPacket::CancelRequest { process_id, key: body.rest().to_vec() }
            }
            Ok(_) | Err(_) => return Err(StartupViolation::Length { got: length }),
        },
        version => FirstPacket::Startup(decode_parameters(version, body)?),
    };
    Ok(Some((packet, LENGTH_WORD_LEN + body_len)))
}

fn decode_parameters(
    version: u32,
    mut body: Reader<'_>,
) -> Result<StartupMessage, StartupViolation> {
    let [major_high, major_low, minor_high, minor_low] = version.to_be_bytes();
    let major = u16::from_be_bytes([major_high, major_low]);
    let minor = u16::from_be_bytes([minor_high, minor_low]);
    if major != 3 {
        return Err(StartupViolation::Version { major, minor });
    }
    let mut message = StartupMessage { minor, ..StartupMessage::default() };
    loop {
        let name = body.cstr_bytes().map_err(|_| StartupViolation::Layout)?;
        if name.is_empty() {
            break;
        }
        let value = body.cstr_bytes().map_err(|_| StartupViolation::Layout)?;
        // PostgreSQL takes these as bytes in an unknown encoding; only what is shown is changed.
        let name = String::from_utf8_lossy(name).into_owned();
        if name.starts_with("_pq_.") {
            message.protocol_options.push(name);
        } else {
            message.parameters.insert(name, String::from_utf8_lossy(value).into_owned());
        }
    }
    body.end().map_err(|_| StartupViolation::Layout)?;
    Ok(message)
}

/// What is wrong with the parameter `options`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OptionsViolation {
    /// Something that is no setting.
    Argument(String),
    /// A setting without a value, with its dashes.
    NoValue(String),
}

impl OptionsViolation {
    /// PostgreSQL's code for it.
    #[must_use]
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::Argument(_) | Self::NoValue(_) => SqlState::SYNTAX_ERROR,
        }
    }
}

impl fmt::Display for OptionsViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(argument) => {
                write!(f, "invalid command-line argument for server process: {argument}")
            }
            Self::NoValue(setting) => write!(f, "{setting} requires a value"),
        }
    }
}

/// The settings of a command line, the last one of a name winning.
///
/// PostgreSQL: `process_postgres_switches`, `ParseLongOption`.
fn command_line_settings(options: &str) -> Result<BTreeMap<String, String>, OptionsViolation> {
    let mut settings = BTreeMap::new();
    let mut words = split_options(options).into_iter();
    while let Some(word) = words.next() {
        let (dashes, setting) = if let Some(setting) = word.strip_prefix("--") {
            ("--", setting.to_owned())
        } else if word == "-c" {
            match words.next() {
                Some(setting) => ("-c ", setting),
                None => return Err(OptionsViolation::Argument(word)),
            }
        } else if let Some(setting) = word.strip_prefix("-c") {
            ("-c ", setting.to_owned())
        } else {
            return Err(OptionsViolation::Argument(word));
        };
        let Some((name, value)) = setting.split_once('=') else {
            return Err(OptionsViolation::NoValue(format!("{dashes}{setting}")));
        };
        settings.insert(name.replace('-', "_"), value.to_owned());
    }
    Ok(settings)
}

/// Words between spaces; a backslash takes the next character as it is.
///
/// PostgreSQL: `pg_split_opts`.
fn split_options(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' | '\r' | '\x0B' | '\x0C' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(characters.next()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

/// Replaces every byte that is not printable ASCII by a question mark, as PostgreSQL does with
/// `application_name`. PostgreSQL: `pg_clean_ascii`.
#[must_use]
pub fn clean_ascii(text: &str) -> String {
    if text.bytes().all(|byte| (32..=126).contains(&byte)) {
        return text.to_owned();
    }
    text.bytes()
        .map(|byte| if (32..=126).contains(&byte) { char::from(byte) } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use std::string::ToString;

    fn packet(body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    fn startup(version: u32, tail: &[u8]) -> Vec<u8> {
        packet(&[&version.to_be_bytes()[..], tail].concat())
    }

    #[test]
    fn every_truncation_asks_for_more() {
        let samples = [
            startup(PROTOCOL_VERSION, b"user\0u\0replication\0true\0\0"),
            startup(SSL_REQUEST_CODE, b""),
            startup(GSSENC_REQUEST_CODE, b""),
            startup(CANCEL_REQUEST_CODE, &[0; 8]),
        ];
        for bytes in samples {
            for cut in 0..bytes.len() {
                assert_eq!(decode(&bytes[..cut]), Ok(None), "{bytes:?} cut at {cut}");
            }
            let (_, len) = decode(&bytes).unwrap().unwrap();
            assert_eq!(len, bytes.len());
            let longer = [&bytes[..], b"rest"].concat();
            assert_eq!(decode(&longer), decode(&bytes));
        }
    }

    #[test]
    fn special_packets_are_told_apart() {
        let first = |bytes: &[u8]| decode(bytes).unwrap().unwrap().0;
        assert_eq!(first(&packet(&[0x04, 0xd2, 0x16, 0x2f])), FirstPacket::SslRequest);
        assert_eq!(first(&packet(&[0x04, 0xd2, 0x16, 0x30])), FirstPacket::GssEncRequest);
        let cancel = [0x04, 0xd2, 0x16, 0x2e, 0, 0, 0, 7, 1, 2, 3, 4];
        let key = vec![1, 2, 3, 4];
        assert_eq!(first(&packet(&cancel)), FirstPacket::CancelRequest { process_id: 7, key });
        let longer = [&cancel[..], &[5; CANCEL_KEY_BYTES - 4]].concat();
        let FirstPacket::CancelRequest { key, .. } = first(&packet(&longer)) else {
            panic!("no cancel request");
        };
        assert_eq!((key.len(), &key[..5]), (CANCEL_KEY_BYTES, &[1, 2, 3, 4, 5][..]));
        assert_eq!(
            decode(&packet(&cancel[..11])),
            Err(StartupViolation::Length { got: 15 }),
            "a cancel key has at least four bytes"
        );
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let bytes = encode(&[("user", "u"), ("replication", "true")]);
        assert_eq!(bytes, startup(PROTOCOL_VERSION, b"user\0u\0replication\0true\0\0"));
        let Some((FirstPacket::Startup(message), len)) = decode(&bytes).unwrap() else {
            panic!("not a startup message");
        };
        assert_eq!((message.parameter("replication"), len), (Some("true"), bytes.len()));
        assert!(!message.needs_negotiation());
    }

    #[test]
    fn parameters_and_protocol_options_are_kept_apart() {
        let bytes = startup(PROTOCOL_VERSION | 2, b"user\0a\0_pq_.x\x001\0user\0b\0database\0\0\0");
        let Some((FirstPacket::Startup(message), _)) = decode(&bytes).unwrap() else {
            panic!("not a startup message");
        };
        assert_eq!(message.minor, 2);
        assert_eq!(message.parameter("user"), Some("b"));
        assert_eq!(message.parameter("database"), None);
        assert_eq!(message.protocol_options, vec!["_pq_.x".to_string()]);
        assert!(message.needs_negotiation());
        let mut encoder = Encoder::new();
        message.encode_negotiation(&mut encoder);
        assert_eq!(encoder.bytes(), b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0");
    }

    #[test]
    fn a_version_up_to_the_newest_is_as_good_as_it_is() {
        let message = |minor| StartupMessage { minor, ..StartupMessage::default() };
        for (minor, negotiated, key_bytes) in [
            (0, None, SHORT_CANCEL_KEY_BYTES),
            (1, None, SHORT_CANCEL_KEY_BYTES),
            (2, None, CANCEL_KEY_BYTES),
            (3, Some(b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0"), CANCEL_KEY_BYTES),
            (9999, Some(b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0"), CANCEL_KEY_BYTES),
        ] {
            let message = message(minor);
            assert_eq!(message.needs_negotiation(), negotiated.is_some(), "{minor}");
            let mut encoder = Encoder::new();
            message.encode_negotiation(&mut encoder);
            assert!(negotiated.is_none_or(|bytes| encoder.bytes() == bytes), "{minor}");
            assert_eq!(message.cancel_key_bytes(), key_bytes);
        }
    }

    #[test]
    fn options_set_what_the_packet_does_not() {
        let settings = |options: &str| {
            let parameters = [("options", options), ("TimeZone", "UTC")]
                .map(|(name, value)| (name.to_string(), value.to_string()));
            let mut message =
                StartupMessage { parameters: parameters.into(), ..StartupMessage::default() };
            message.apply_options()?;
            message.parameters.remove("options");
            let shown = message.parameters.iter().map(|(name, value)| format!("{name}={value}"));
            Ok(shown.collect::<Vec<String>>().join(" "))
        };
        for (options, want) in [
            ("", "TimeZone=UTC"),
            ("-c a=1", "TimeZone=UTC a=1"),
            (" -ca=1\t-c  b.c=x\\ y\\\\ ", "TimeZone=UTC a=1 b.c=x y\\"),
            (
                "--synchronous-commit=off -c a= -c a=b=c",
                "TimeZone=UTC a=b=c synchronous_commit=off",
            ),
            ("-c timezone=+1", "TimeZone=UTC"),
        ] {
            assert_eq!(settings(options), Ok(want.to_string()), "{options}");
        }
        for (options, want) in [
            ("-c a", "-c a requires a value"),
            ("--a-b", "--a-b requires a value"),
            ("-c", "invalid command-line argument for server process: -c"),
            ("-x 1", "invalid command-line argument for server process: -x"),
            ("a=1", "invalid command-line argument for server process: a=1"),
        ] {
            let violation: OptionsViolation = settings(options).unwrap_err();
            assert_eq!(violation.to_string(), want);
        }
    }

    #[test]
    fn bad_packets_name_the_rule() {
        let too_long = u32::try_from(STARTUP_PACKET_BYTES_MAX + 5).unwrap();
        for length in [0, 3, 4, 7, too_long, u32::MAX] {
            let bytes = length.to_be_bytes();
            assert_eq!(decode(&bytes), Err(StartupViolation::Length { got: length }));
        }
        let at_most = (too_long - 1).to_be_bytes();
        assert_eq!(decode(&at_most), Ok(None));
        for tail in
            [&b""[..], b"user", b"user\0", b"user\0u", b"user\0u\0", b"user\0u\0\0x", b"\0\0"]
        {
            assert_eq!(decode(&startup(PROTOCOL_VERSION, tail)), Err(StartupViolation::Layout));
        }
        let version = decode(&startup(2 << 16, b"\0")).unwrap_err();
        assert_eq!(version, StartupViolation::Version { major: 2, minor: 0 });
        assert_eq!(
            version.to_string(),
            "unsupported frontend protocol 2.0: server supports 3.0 to 3.2"
        );
    }

    #[test]
    fn replication_takes_booleans_and_database() {
        use ReplicationMode::{Database, Off, Physical};
        for (value, mode) in [
            ("database", Some(Database)),
            ("true", Some(Physical)),
            ("T", Some(Physical)),
            ("yes", Some(Physical)),
            ("on", Some(Physical)),
            ("1", Some(Physical)),
            ("false", Some(Off)),
            ("of", Some(Off)),
            ("N", Some(Off)),
            ("0", Some(Off)),
            ("o", None),
            ("", None),
            ("Database", None),
            ("truex", None),
            ("10", None),
            ("tr\u{fc}", None),
        ] {
            assert_eq!(ReplicationMode::parse(value), mode, "{value:?}");
        }
    }

    #[test]
    fn application_names_are_made_printable() {
        assert_eq!(clean_ascii("walreceiver"), "walreceiver");
        assert_eq!(clean_ascii("a\u{fc}\n"), "a???");
    }
}
