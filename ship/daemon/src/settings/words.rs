//! Settings whose value is one word of a list, and these words.
//!
//! PostgreSQL: `config_enum_entry` (src/include/utils/guc.h).

use walhub_hub::api::settings::{CatchupPath, Forward, ZerocopySend};
use walhub_proto::syncrep::SynchronousCommit;

/// An enum whose values are words.
pub trait Words: Copy + 'static {
    /// Every value, in the order in which the words are offered.
    const ALL: &'static [Self];
    /// Words that are read, but not offered.
    const ALIASES: &'static [(&'static str, Self)];

    /// The word for it.
    fn word(self) -> &'static str;

    /// The value that `text` names, in any case.
    #[must_use]
    fn from_word(text: &str) -> Option<Self> {
        let offered = Self::ALL.iter().map(|value| (value.word(), *value));
        let mut words = offered.chain(Self::ALIASES.iter().copied());
        words.find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| value)
    }
}

/// Gives each value of an enum its word; the list after the semicolon has aliases.
///
/// A value without a word does not compile, nor does a word for what is no value.
macro_rules! words {
    ($type:ident { $($value:ident = $word:literal),* $(; $($alias:literal = $means:ident),*)? }) => {
        impl Words for $type {
            const ALL: &'static [Self] = &[$(Self::$value),*];
            const ALIASES: &'static [(&'static str, Self)] = &[$($(($alias, Self::$means)),*)?];

            fn word(self) -> &'static str {
                match self {
                    $(Self::$value => $word),*
                }
            }
        }
    };
}

/// Whether the wal core has a thread of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DedicatedWalCore {
    /// As suits the machine and what the server is.
    Auto,
    /// It has a thread of its own.
    On,
    /// It shares that of the SQL sessions.
    Off,
}

words! { DedicatedWalCore { Auto = "auto", On = "on", Off = "off" } }

/// What is kept of a password.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PasswordEncryption {
    /// `md5` and a hash of password and role.
    Md5,
    /// What SCRAM-SHA-256 needs.
    ScramSha256,
}

words! { PasswordEncryption { Md5 = "md5", ScramSha256 = "scram-sha-256" } }

/// How WAL is forced to disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalSyncMethod {
    /// What a probe of the device finds best.
    Auto,
    /// Write with O_DSYNC.
    OpenDatasync,
    /// Write, then fdatasync.
    Fdatasync,
    /// Write, then fsync.
    Fsync,
    /// Write with O_SYNC.
    OpenSync,
}

words! {
    WalSyncMethod {
        Auto = "auto",
        OpenDatasync = "open_datasync",
        Fdatasync = "fdatasync",
        Fsync = "fsync",
        OpenSync = "open_sync"
    }
}

/// Form of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogDestination {
    /// Text lines.
    Stderr,
    /// One JSON object a line, with the fields of PostgreSQL's jsonlog.
    Json,
}

words! { LogDestination { Stderr = "stderr", Json = "json"; "jsonlog" = Json } }

/// Level of a log message, in the order in which `log_min_messages` is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "each is the level of that name")]
pub enum MessageLevel {
    Debug5,
    Debug4,
    Debug3,
    Debug2,
    Debug1,
    Info,
    Notice,
    Warning,
    Error,
    Log,
    Fatal,
    Panic,
}

// PostgreSQL: server_message_level_options.
words! {
    MessageLevel {
        Debug5 = "debug5",
        Debug4 = "debug4",
        Debug3 = "debug3",
        Debug2 = "debug2",
        Debug1 = "debug1",
        Info = "info",
        Notice = "notice",
        Warning = "warning",
        Error = "error",
        Log = "log",
        Fatal = "fatal",
        Panic = "panic";
        "debug" = Debug2
    }
}

impl MessageLevel {
    /// As a log line shows it. PostgreSQL: `error_severity`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug5 | Self::Debug4 | Self::Debug3 | Self::Debug2 | Self::Debug1 => "DEBUG",
            Self::Info => "INFO",
            Self::Notice => "NOTICE",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Log => "LOG",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
        }
    }
}

/// The oldest TLS that is spoken with clients.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "each is the version of that name")]
pub enum SslMinProtocolVersion {
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

// PostgreSQL: ssl_protocol_versions_info.
words! {
    SslMinProtocolVersion {
        Tls10 = "TLSv1",
        Tls11 = "TLSv1.1",
        Tls12 = "TLSv1.2",
        Tls13 = "TLSv1.3"
    }
}

/// The newest TLS that is spoken with clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the version of that name")]
pub enum SslMaxProtocolVersion {
    /// The newest there is.
    Any,
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

words! {
    SslMaxProtocolVersion {
        Any = "",
        Tls10 = "TLSv1",
        Tls11 = "TLSv1.1",
        Tls12 = "TLSv1.2",
        Tls13 = "TLSv1.3"
    }
}

words! { CatchupPath { Auto = "auto", Read = "read" } }
words! { ZerocopySend { Auto = "auto", On = "on", Off = "off" } }
words! { Forward { Received = "received", Flushed = "flushed" } }

impl Words for SynchronousCommit {
    const ALL: &'static [Self] = &Self::ALL;
    const ALIASES: &'static [(&'static str, Self)] = &Self::ALIASES;

    fn word(self) -> &'static str {
        self.as_str()
    }
}
