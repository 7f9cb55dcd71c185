//! The `ssl*` options.
//!
//! PostgreSQL: `pqConnectOptions2` (fe-connect.c), `initialize_SSL` (fe-secure-openssl.c).

use alloc::format;
use alloc::string::String;

use super::choice;
use super::error::ConnInfoError;
use super::options::Options;

/// `sslmode`, weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SslMode {
    /// `disable`: never.
    Disable,
    /// When the server refuses without.
    Allow,
    /// Unless the server refuses with.
    Prefer,
    /// `require`: the connection fails without it.
    Require,
    /// And the server's certificate is from a trusted authority.
    VerifyCa,
    /// And it is for the host's name.
    VerifyFull,
}

impl SslMode {
    const ALL: [(&'static str, Self); 6] = [
        ("prefer", Self::Prefer),
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// `sslnegotiation`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SslNegotiation {
    /// `postgres`: with an SSLRequest first.
    Postgres,
    /// TLS from the first byte, with ALPN.
    Direct,
}

/// `sslcertmode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SslCertMode {
    /// No client certificate is sent.
    Disable,
    /// One is sent when the server asks and there is one.
    Allow,
    /// The server must ask, and there must be one.
    Require,
}

/// A version of TLS, oldest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TlsVersion {
    /// 1.0
    V1,
    /// 1.1
    V11,
    /// 1.2
    V12,
    /// 1.3
    V13,
}

/// How to use TLS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SslOptions {
    /// `sslmode`.
    pub mode: SslMode,
    /// `sslnegotiation`.
    pub negotiation: SslNegotiation,
    /// `sslrootcert` as given; `system` means the operating system's authorities.
    pub rootcert: Option<String>,
    /// `sslcert` as given.
    pub cert: Option<String>,
    /// `sslkey` as given.
    pub key: Option<String>,
    /// `sslcrl` as given.
    pub crl: Option<String>,
    /// `sslcrldir`.
    pub crldir: Option<String>,
    /// `sslcertmode`.
    pub certmode: SslCertMode,
    /// `sslsni`: whether the host's name is sent in the clear.
    pub sni: bool,
    /// The lowest version to accept.
    pub min_version: Option<TlsVersion>,
    /// The highest version to offer.
    pub max_version: Option<TlsVersion>,
    /// Where the default files are: `~/.postgresql`.
    pub default_directory: Option<String>,
}

impl SslOptions {
    pub(super) fn parse(options: &Options, home: Option<&str>) -> Result<Self, ConnInfoError> {
        let owned = |name| options.filled(name).map(String::from);
        let mode = choice(options, "sslmode", &SslMode::ALL)?;
        if options.value("sslrootcert") == Some("system") && mode != SslMode::VerifyFull {
            return Err(ConnInfoError::WeakForSystemRoots { mode: mode.as_str() });
        }
        let negotiation = choice(
            options,
            "sslnegotiation",
            &[("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)],
        )?;
        if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
            return Err(ConnInfoError::WeakForDirect { mode: mode.as_str() });
        }
        let min_version = version(options, "ssl_min_protocol_version")?;
        let max_version = version(options, "ssl_max_protocol_version")?;
        if let (Some(min), Some(max)) = (min_version, max_version)
            && min > max
        {
            return Err(ConnInfoError::TlsVersionRange);
        }
        if max_version.is_some_and(|max| max < TlsVersion::V12) {
            return Err(ConnInfoError::TlsVersionTooOld);
        }
        let certmode = choice(
            options,
            "sslcertmode",
            &[
                ("allow", SslCertMode::Allow),
                ("disable", SslCertMode::Disable),
                ("require", SslCertMode::Require),
            ],
        )?;
        Ok(Self {
            mode,
            negotiation,
            rootcert: owned("sslrootcert"),
            cert: owned("sslcert"),
            key: owned("sslkey"),
            crl: owned("sslcrl"),
            crldir: owned("sslcrldir"),
            certmode,
            // libpq looks at the first character only.
            sni: options.filled("sslsni").is_none_or(|sni| sni.starts_with('1')),
            min_version,
            max_version,
            default_directory: home.map(|home| format!("{home}/.postgresql")),
        })
    }
}

/// PostgreSQL: `sslVerifyProtocolVersion`.
fn version(options: &Options, option: &'static str) -> Result<Option<TlsVersion>, ConnInfoError> {
    let Some(value) = options.filled(option) else { return Ok(None) };
    let versions = [
        ("TLSv1", TlsVersion::V1),
        ("TLSv1.1", TlsVersion::V11),
        ("TLSv1.2", TlsVersion::V12),
        ("TLSv1.3", TlsVersion::V13),
    ];
    let found = versions.iter().find(|(name, _)| name.eq_ignore_ascii_case(value));
    let wrong = || ConnInfoError::Value { option, value: value.into() };
    found.map(|&(_, version)| Some(version)).ok_or_else(wrong)
}
