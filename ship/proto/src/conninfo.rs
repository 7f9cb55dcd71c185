//! libpq connection strings and URIs.
//!
//! A string is read as libpq reads it, completed from the service file and the environment, and
//! becomes a [`ConnInfo`] that cannot be wrong. Files and variables come in through
//! [`Environment`].
//!
//! Stricter than libpq: every port and integer is checked at once, not when its host is tried.
//!
//! PostgreSQL: src/interfaces/libpq/fe-connect.c, `libpqrcv_connect`
//! (src/backend/replication/libpqwalreceiver/libpqwalreceiver.c).

mod auth;
mod environment;
mod error;
mod keywords;
mod options;
mod passfile;
mod service;
mod sources;
#[cfg(test)]
mod tests;
mod tls;
mod uri;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub use auth::{AuthMethod, AuthMethods, ChannelBinding, RequireAuth};
pub use environment::Environment;
pub use error::ConnInfoError;
pub use options::Options;
pub use passfile::find_password;
pub use tls::{SslCertMode, SslMode, SslNegotiation, SslOptions, TlsVersion};

/// Database name of a physical replication connection, in the startup packet and in `.pgpass`.
pub const REPLICATION_DATABASE: &str = "replication";

/// Where a server's unix socket is when no host is given. PostgreSQL: `DEFAULT_PGSOCKET_DIR`.
pub const DEFAULT_SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// Port of an empty `port` entry. PostgreSQL: `DEF_PGPORT`.
pub const DEFAULT_PORT: u16 = 5432;

/// Where one entry of the host list is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A unix socket in this directory, or in the abstract namespace after `@`.
    Socket(String),
    /// A name to look up, or an address written where the name goes.
    Name(String),
    /// An address, from `hostaddr`.
    Numeric(String),
}

/// One entry of the host list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostSpec {
    /// `host`, for certificates and `.pgpass`; empty when only `hostaddr` is given.
    pub host: String,
    /// The address to connect to.
    pub address: Address,
    /// The port, or what the socket file is numbered with.
    pub port: u16,
}

impl HostSpec {
    /// The name under which `.pgpass` has its password: the host, else the address.
    #[must_use]
    pub fn passfile_host(&self) -> &str {
        match &self.address {
            Address::Numeric(address) if self.host.is_empty() => address,
            Address::Socket(_) | Address::Name(_) | Address::Numeric(_) => &self.host,
        }
    }

    /// Path of the unix socket. PostgreSQL: `UNIXSOCK_PATH`.
    #[must_use]
    pub fn socket_path(&self) -> Option<String> {
        match &self.address {
            Address::Socket(directory) => Some(format!("{directory}/.s.PGSQL.{}", self.port)),
            Address::Name(_) | Address::Numeric(_) => None,
        }
    }
}

/// TCP keepalive settings; `None` leaves the system's default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalives {
    /// Whether to send keepalives at all.
    pub enabled: bool,
    /// Seconds of silence before the first.
    pub idle_s: Option<u32>,
    /// Seconds between two keepalives.
    pub interval_s: Option<u32>,
    /// How many may be lost.
    pub count: Option<u32>,
    /// Milliseconds that sent data may stay unacknowledged.
    pub user_timeout_ms: Option<u32>,
}

/// Which servers are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetSessionAttrs {
    /// `any`: whatever the server is.
    Any,
    /// Sessions are read-write by default.
    ReadWrite,
    /// Sessions are read-only by default.
    ReadOnly,
    /// Not in hot standby mode.
    Primary,
    /// In hot standby mode.
    Standby,
    /// In hot standby mode, or any when there is none.
    PreferStandby,
}

/// Everything needed to connect.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnInfo {
    /// Where, in this order.
    pub hosts: Vec<HostSpec>,
    /// Whether to try the hosts in random order.
    pub load_balance_hosts: bool,
    /// The role to log in as.
    pub user: String,
    /// The password, when it is given outright.
    pub password: Option<String>,
    /// File to look for a password in when none is given.
    pub passfile: Option<String>,
    /// `application_name`.
    pub application_name: Option<String>,
    /// `fallback_application_name`.
    pub fallback_application_name: Option<String>,
    /// Command-line options for the server.
    pub options: Option<String>,
    /// `client_encoding`.
    pub client_encoding: Option<String>,
    /// Seconds that an attempt at one address may take.
    pub connect_timeout_s: Option<u32>,
    /// When TCP asks whether the peer is still there.
    pub keepalives: Keepalives,
    /// Which servers are wanted.
    pub target_session_attrs: TargetSessionAttrs,
    /// Whether SCRAM must be bound to the TLS channel.
    pub channel_binding: ChannelBinding,
    /// Which authentication the server may ask for.
    pub require_auth: Option<RequireAuth>,
    /// User that must own the server process at the other end of a unix socket.
    pub requirepeer: Option<String>,
    /// Whether and how the connection is encrypted.
    pub ssl: SslOptions,
    redacted: String,
}

impl ConnInfo {
    /// Parses a connection string or URI and completes it from its environment.
    ///
    /// # Errors
    /// As libpq, and for what walhub cannot do.
    pub fn parse(text: &str, environment: &Environment<'_>) -> Result<Self, ConnInfoError> {
        let mut options = Options::parse(text)?;
        options.add_defaults(environment)?;
        if options.filled("user").is_none() {
            let user = environment.os_user.ok_or(ConnInfoError::NoUser)?;
            options.store("user", user.into())?;
        }
        if let (None, None, Some(home)) =
            (options.filled("password"), options.filled("passfile"), environment.home)
        {
            options.store("passfile", format!("{home}/.pgpass"))?;
        }
        Self::from_options(&options, environment.home)
    }

    fn from_options(options: &Options, home: Option<&str>) -> Result<Self, ConnInfoError> {
        let owned = |name| options.filled(name).map(String::from);
        let hosts = parse_hosts(options)?;
        let require_auth = options.filled("require_auth").map(RequireAuth::parse).transpose()?;
        let channel_binding = choice(
            options,
            "channel_binding",
            &[
                ("prefer", ChannelBinding::Prefer),
                ("disable", ChannelBinding::Disable),
                ("require", ChannelBinding::Require),
            ],
        )?;
        let ssl = SslOptions::parse(options, home)?;
        let gss = choice(
            options,
            "gssencmode",
            &[("prefer", false), ("disable", false), ("require", true)],
        )?;
        if gss {
            return Err(ConnInfoError::GssUnsupported);
        }
        let versions = [("", true), ("3.0", true), ("3.2", false), ("latest", false)];
        if !choice(options, "min_protocol_version", &versions)? {
            return Err(ConnInfoError::Unsupported { option: "min_protocol_version" });
        }
        choice(options, "max_protocol_version", &versions)?;
        let target_session_attrs = parse_target(options)?;
        let load_balance_hosts =
            choice(options, "load_balance_hosts", &[("disable", false), ("random", true)])?;
        if let Some(option) = options.refused() {
            return Err(ConnInfoError::Unsupported { option });
        }
        let seconds = integer(options, "connect_timeout")?.and_then(|s| u32::try_from(s).ok());
        Ok(Self {
            hosts,
            load_balance_hosts,
            user: owned("user").ok_or(ConnInfoError::NoUser)?,
            password: owned("password"),
            passfile: owned("passfile"),
            application_name: owned("application_name"),
            fallback_application_name: owned("fallback_application_name"),
            options: owned("options"),
            client_encoding: parse_encoding(options),
            // One second might be over before anything was tried. PostgreSQL: pqConnectDBComplete.
            connect_timeout_s: seconds.filter(|&s| s > 0).map(|s| s.max(2)),
            keepalives: parse_keepalives(options)?,
            target_session_attrs,
            channel_binding,
            require_auth,
            requirepeer: owned("requirepeer"),
            ssl,
            redacted: options.redacted(),
        })
    }

    /// The whole connection string with its defaults, passwords hidden, as
    /// `pg_stat_wal_receiver.conninfo` shows it.
    #[must_use]
    pub fn redacted(&self) -> &str {
        &self.redacted
    }
}

impl core::fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ConnInfo({})", self.redacted)
    }
}

/// The value of an option that has only these, the first of which is the default.
fn choice<T: Copy>(
    options: &Options,
    option: &'static str,
    choices: &[(&str, T)],
) -> Result<T, ConnInfoError> {
    let value = options.value(option).or_else(|| choices.first().map(|&(name, _)| name));
    let value = value.unwrap_or_default();
    let found = choices.iter().find(|&&(name, _)| name == value);
    found
        .map(|&(_, choice)| choice)
        .ok_or_else(|| ConnInfoError::Value { option, value: value.into() })
}

/// An integer, with blanks around it. PostgreSQL: `pqParseIntParam`.
fn integer(options: &Options, option: &'static str) -> Result<Option<i32>, ConnInfoError> {
    let Some(value) = options.value(option) else { return Ok(None) };
    let parsed = value.trim_matches(options::is_space).parse();
    parsed.map(Some).map_err(|_| ConnInfoError::Integer { value: value.into(), option })
}

fn parse_keepalives(options: &Options) -> Result<Keepalives, ConnInfoError> {
    // Zero and less mean the system's default.
    let positive = |option| -> Result<Option<u32>, ConnInfoError> {
        let value = integer(options, option)?.and_then(|value| u32::try_from(value).ok());
        Ok(value.filter(|&value| value > 0))
    };
    let enabled = match options.value("keepalives") {
        None => true,
        // `useKeepalives` reads it with strtol, for which nothing is zero.
        Some("") => false,
        Some(value) => {
            let value = value.trim_start_matches(options::is_space).parse::<i64>();
            value.map_err(|_| ConnInfoError::Keepalives)? != 0
        }
    };
    Ok(Keepalives {
        enabled,
        idle_s: positive("keepalives_idle")?,
        interval_s: positive("keepalives_interval")?,
        count: positive("keepalives_count")?,
        user_timeout_ms: positive("tcp_user_timeout")?,
    })
}

fn parse_target(options: &Options) -> Result<TargetSessionAttrs, ConnInfoError> {
    choice(
        options,
        "target_session_attrs",
        &[
            ("any", TargetSessionAttrs::Any),
            ("read-write", TargetSessionAttrs::ReadWrite),
            ("read-only", TargetSessionAttrs::ReadOnly),
            ("primary", TargetSessionAttrs::Primary),
            ("standby", TargetSessionAttrs::Standby),
            ("prefer-standby", TargetSessionAttrs::PreferStandby),
        ],
    )
}

/// `auto` is the locale's encoding, which is UTF-8 for a server written in Rust.
fn parse_encoding(options: &Options) -> Option<String> {
    let encoding = options.filled("client_encoding")?;
    Some(if encoding == "auto" { "UTF8".to_string() } else { encoding.to_string() })
}

/// PostgreSQL: the first half of `pqConnectOptions2`.
fn parse_hosts(options: &Options) -> Result<Vec<HostSpec>, ConnInfoError> {
    let list = |name| options.filled(name).map(|list| list.split(',').collect::<Vec<_>>());
    let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = addresses.as_ref().or(hosts.as_ref()).map_or(1, Vec::len);
    if let Some(hosts) = hosts.as_ref().filter(|hosts| hosts.len() != count) {
        return Err(ConnInfoError::HostCount { hosts: hosts.len(), hostaddrs: count });
    }
    if let Some(ports) = ports.as_ref().filter(|ports| ports.len() != 1 && ports.len() != count) {
        return Err(ConnInfoError::PortCount { ports: ports.len(), hosts: count });
    }
    let entry = |list: &Option<Vec<&str>>, index: usize| -> String {
        let entry = list.as_ref().and_then(|list| list.get(index).copied());
        entry.unwrap_or_default().into()
    };
    (0..count)
        .map(|index| {
            let one_port = ports.as_ref().is_some_and(|ports| ports.len() == 1);
            let port = parse_port(&entry(&ports, if one_port { 0 } else { index }))?;
            let (mut host, address) = (entry(&hosts, index), entry(&addresses, index));
            let address = if !address.is_empty() {
                Address::Numeric(address)
            } else if host.is_empty() {
                host = DEFAULT_SOCKET_DIRECTORY.into();
                Address::Socket(host.clone())
            } else if host.starts_with(['/', '@']) {
                Address::Socket(host.clone())
            } else {
                Address::Name(host.clone())
            };
            Ok(HostSpec { host, address, port })
        })
        .collect()
}

fn parse_port(text: &str) -> Result<u16, ConnInfoError> {
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    let integer = text.trim_matches(options::is_space).parse::<i32>();
    let integer =
        integer.map_err(|_| ConnInfoError::Integer { value: text.into(), option: "port" })?;
    let port = u16::try_from(integer).ok().filter(|&port| port > 0);
    port.ok_or_else(|| ConnInfoError::Port { port: text.into() })
}
