//! What can be wrong with a connection string, in libpq's words.

use alloc::string::String;
use core::fmt;

/// A connection string that libpq would refuse, or that asks for what walhub cannot do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConnInfoError {
    /// A word that no `=` follows.
    MissingEquals {
        /// The word without an equals sign.
        name: String,
    },
    /// A quoted value without its closing quote.
    UnterminatedQuote,
    /// A keyword that libpq does not know.
    UnknownKeyword {
        /// The keyword, as it was given.
        name: String,
    },
    /// A URI with `[` and no `]`.
    UriBracketOpen {
        /// The whole URI.
        uri: String,
    },
    /// A URI with `[]`.
    UriBracketEmpty {
        /// The whole URI.
        uri: String,
    },
    /// A URI with something other than a port, path or query after `]`.
    UriAfterBracket {
        /// The character that stands there instead.
        character: char,
        /// Where, counted in bytes from one.
        position: usize,
        /// The whole URI.
        uri: String,
    },
    /// A query parameter with two `=`.
    UriExtraSeparator {
        /// The part before the first.
        key: String,
    },
    /// A query parameter without `=`.
    UriMissingSeparator {
        /// The parameter that has no value.
        key: String,
    },
    /// A query parameter that libpq does not know.
    UriParameter {
        /// Name of the parameter.
        key: String,
    },
    /// `%` without two hexadecimal digits.
    PercentToken {
        /// The whole value.
        text: String,
    },
    /// `%00`.
    PercentZero {
        /// The whole value.
        text: String,
    },
    /// Percent-encoded bytes that are not UTF-8.
    PercentUtf8 {
        /// The whole value.
        text: String,
    },
    /// `host` and `hostaddr` differ in length.
    HostCount {
        /// How many entries `host` has.
        hosts: usize,
        /// How many entries `hostaddr` has.
        hostaddrs: usize,
    },
    /// `port` has neither one entry nor as many as there are hosts.
    PortCount {
        /// How many entries `port` has.
        ports: usize,
        /// How many hosts there are.
        hosts: usize,
    },
    /// A port outside 1 to 65535.
    Port {
        /// The entry that is no port.
        port: String,
    },
    /// A value that is not an integer.
    Integer {
        /// What is no whole number.
        value: String,
        /// The keyword that it was given for.
        option: &'static str,
    },
    /// `keepalives` that is not an integer.
    Keepalives,
    /// A value that is not one of those allowed.
    Value {
        /// The keyword.
        option: &'static str,
        /// The value that the keyword cannot have.
        value: String,
    },
    /// `sslrootcert=system` with less than `verify-full`.
    WeakForSystemRoots {
        /// `sslmode`.
        mode: &'static str,
    },
    /// `sslnegotiation=direct` with less than `require`.
    WeakForDirect {
        /// `sslmode`.
        mode: &'static str,
    },
    /// `ssl_min_protocol_version` above `ssl_max_protocol_version`.
    TlsVersionRange,
    /// A TLS version range without any version that walhub speaks.
    TlsVersionTooOld,
    /// `!method` after `method` in `require_auth`.
    RequireAuthNegative {
        /// The entry that has one.
        method: String,
    },
    /// `method` after `!method` in `require_auth`.
    RequireAuthPositive {
        /// The entry that has no `!`.
        method: String,
    },
    /// The same method twice in `require_auth`.
    RequireAuthTwice {
        /// The entry that comes twice.
        method: String,
    },
    /// `gssencmode=require`.
    GssUnsupported,
    /// A keyword that libpq knows and walhub cannot honour.
    Unsupported {
        /// The keyword that is refused.
        option: &'static str,
    },
    /// No user name is given and the operating system has none.
    NoUser,
    /// A service file that was named and does not exist.
    ServiceFileMissing {
        /// Path of the service file.
        file: String,
    },
    /// No service file has the service.
    ServiceUnknown {
        /// Name of the service.
        service: String,
    },
    /// A line of a service file that is not `keyword=value`.
    ServiceSyntax {
        /// Path of the service file.
        file: String,
        /// The line, from one.
        line: usize,
    },
    /// `service` inside a service file.
    ServiceNested {
        /// Path of the service file.
        file: String,
        /// The line, from one.
        line: usize,
    },
}

impl fmt::Display for ConnInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingEquals { name } => {
                write!(f, "missing \"=\" after \"{name}\" in connection info string")
            }
            Self::UnterminatedQuote => {
                f.write_str("unterminated quoted string in connection info string")
            }
            Self::UnknownKeyword { name } => write!(f, "invalid connection option \"{name}\""),
            Self::UriBracketOpen { .. }
            | Self::UriBracketEmpty { .. }
            | Self::UriAfterBracket { .. }
            | Self::UriExtraSeparator { .. }
            | Self::UriMissingSeparator { .. }
            | Self::UriParameter { .. }
            | Self::PercentToken { .. }
            | Self::PercentZero { .. }
            | Self::PercentUtf8 { .. } => self.fmt_uri(f),
            Self::ServiceFileMissing { file } => write!(f, "service file \"{file}\" not found"),
            Self::ServiceUnknown { service } => {
                write!(f, "definition of service \"{service}\" not found")
            }
            Self::ServiceSyntax { file, line } => {
                write!(f, "syntax error in service file \"{file}\", line {line}")
            }
            Self::ServiceNested { file, line } => write!(
                f,
                "nested service specifications not supported in service file \"{file}\", line {line}"
            ),
            Self::NoUser => f.write_str("no PostgreSQL user name specified in connection string"),
            Self::HostCount { .. }
            | Self::PortCount { .. }
            | Self::Port { .. }
            | Self::Integer { .. }
            | Self::Keepalives
            | Self::Value { .. }
            | Self::WeakForSystemRoots { .. }
            | Self::WeakForDirect { .. }
            | Self::TlsVersionRange
            | Self::TlsVersionTooOld
            | Self::RequireAuthNegative { .. }
            | Self::RequireAuthPositive { .. }
            | Self::RequireAuthTwice { .. }
            | Self::GssUnsupported
            | Self::Unsupported { .. } => self.fmt_value(f),
        }
    }
}

impl ConnInfoError {
    fn fmt_uri(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UriBracketOpen { uri } => write!(
                f,
                "end of string reached when looking for matching \"]\" in IPv6 host address in URI: \"{uri}\""
            ),
            Self::UriBracketEmpty { uri } => {
                write!(f, "IPv6 host address may not be empty in URI: \"{uri}\"")
            }
            Self::UriAfterBracket { character, position, uri } => write!(
                f,
                "unexpected character \"{character}\" at position {position} in URI (expected \":\" or \"/\"): \"{uri}\""
            ),
            Self::UriExtraSeparator { key } => {
                write!(f, "extra key/value separator \"=\" in URI query parameter: \"{key}\"")
            }
            Self::UriMissingSeparator { key } => {
                write!(f, "missing key/value separator \"=\" in URI query parameter: \"{key}\"")
            }
            Self::UriParameter { key } => write!(f, "invalid URI query parameter: \"{key}\""),
            Self::PercentToken { text } => write!(f, "invalid percent-encoded token: \"{text}\""),
            Self::PercentZero { text } => {
                write!(f, "forbidden value %00 in percent-encoded value: \"{text}\"")
            }
            Self::PercentUtf8 { text } => {
                write!(f, "percent-encoded value is not valid UTF-8: \"{text}\"")
            }
            other => write!(f, "{other:?}"),
        }
    }

    fn fmt_value(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostCount { hosts, hostaddrs } => {
                write!(f, "could not match {hosts} host names to {hostaddrs} hostaddr values")
            }
            Self::PortCount { ports, hosts } => {
                write!(f, "could not match {ports} port numbers to {hosts} hosts")
            }
            Self::Port { port } => write!(f, "invalid port number: \"{port}\""),
            Self::Integer { value, option } => {
                write!(f, "invalid integer value \"{value}\" for connection option \"{option}\"")
            }
            Self::Keepalives => f.write_str("keepalives parameter must be an integer"),
            Self::Value { option, value } => write!(f, "invalid {option} value: \"{value}\""),
            Self::WeakForSystemRoots { mode } => write!(
                f,
                "weak sslmode \"{mode}\" may not be used with sslrootcert=system (use \"verify-full\")"
            ),
            Self::WeakForDirect { mode } => write!(
                f,
                "weak sslmode \"{mode}\" may not be used with sslnegotiation=direct (use \"require\", \"verify-ca\", or \"verify-full\")"
            ),
            Self::TlsVersionRange => f.write_str("invalid SSL protocol version range"),
            Self::TlsVersionTooOld => {
                f.write_str("ssl_max_protocol_version must be \"TLSv1.2\" or later")
            }
            Self::RequireAuthNegative { method } => write!(
                f,
                "negative require_auth method \"{method}\" cannot be mixed with non-negative methods"
            ),
            Self::RequireAuthPositive { method } => {
                write!(f, "require_auth method \"{method}\" cannot be mixed with negative methods")
            }
            Self::RequireAuthTwice { method } => {
                write!(f, "require_auth method \"{method}\" is specified more than once")
            }
            Self::GssUnsupported => f.write_str(
                "gssencmode value \"require\" invalid when GSSAPI support is not compiled in",
            ),
            Self::Unsupported { option } => {
                write!(f, "connection option \"{option}\" is not supported")
            }
            other => write!(f, "{other:?}"),
        }
    }
}

impl core::error::Error for ConnInfoError {}
