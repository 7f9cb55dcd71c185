//! Connects to the upstream as libpq does: hosts, TLS, authentication.
//!
//! For replication the result is a descriptor for the data plane's ring, with what encrypts on it. For SQL it is a
//! [`SqlSession`].
//!
//! Not as libpq: GSSAPI encryption and authentication are absent; an encrypted private key cannot
//! be used; TLS begins at 1.2.
//!
//! PostgreSQL: `PQconnectPoll` (src/interfaces/libpq/fe-connect.c), `libpqrcv_connect`
//! (src/backend/replication/libpqwalreceiver/libpqwalreceiver.c).

mod auth;
mod environment;
mod error;
mod notices;
pub mod roles;
mod socket;
mod sql_session;
mod startup;
mod stream;
mod tls;
mod verify;
mod version;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use walhub_hub::api::tls::TlsRecords;
use walhub_proto::conninfo::{
    Address, ConnInfo, HostSpec, SslMode, SslNegotiation, TargetSessionAttrs,
};

use crate::placement::spawn_blocking;
pub use environment::parse_conninfo;
pub use error::{Cause, ConnectError, Failure, TriedServer};
pub use notices::Notices;
pub use sql_session::{Row, SqlSession};
use startup::{ConnectRequest, Purpose, UpstreamSession};
use stream::TlsStream;
use tls::Channel;
pub use version::parse_server_version;

/// What the hub adds to the connection string.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// `application_name` when neither the string nor the environment has one: `cluster_name`, else
    /// `walhub`.
    pub fallback_application_name: String,
    /// How long each server may take where the string has no `connect_timeout`; `None` is for ever, as in
    /// libpq.
    pub timeout: Option<Duration>,
    /// Notices that were logged already.
    pub notices: Notices,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            fallback_application_name: "walhub".to_string(),
            timeout: None,
            notices: Notices::default(),
        }
    }
}

/// A replication session that is ready for its first command.
#[derive(Debug)]
pub struct UpstreamConn {
    /// The socket, in blocking mode as a ring wants it.
    pub fd: OwnedFd,
    /// What encrypts on it.
    pub tls: Option<Box<dyn TlsRecords>>,
    /// Bytes that were read after ReadyForQuery.
    pub unread: Vec<u8>,
    /// `server_version`, as `15.18 (Debian 15.18-0+deb12u1)`.
    pub server_version: String,
    /// The same as a number, as 150018.
    pub server_version_num: u32,
    /// Every ParameterStatus, by its name.
    pub parameters: BTreeMap<String, String>,
    /// Host as the connection string names it, its address, or its socket's directory.
    pub host: String,
    /// Port that was connected to.
    pub port: u16,
    /// Whether TLS is used.
    pub encrypted: bool,
}

/// Connects to the first server that is there and wanted.
///
/// Must run inside a `tokio::task::LocalSet`, as `tokio_uring::start` provides it: an encrypted
/// connection leaves a task behind.
///
/// # Errors
/// Every server that was tried, and why it is not used.
pub async fn connect(
    conninfo: &ConnInfo,
    options: ConnectOptions,
) -> Result<UpstreamConn, ConnectError> {
    let connected = first_server(conninfo, &options, Purpose::Replication).await?;
    connected.into_upstream().map_err(|error| {
        let cause = Cause::Io(error);
        ConnectError { failures: vec![Failure { target: None, cause }] }
    })
}

/// Connects for SQL to the first server that is there and wanted; as conninfo's user.
///
/// # Errors
/// Every server that was tried, and why it is not used.
pub async fn connect_sql(
    conninfo: &ConnInfo,
    database: &str,
    options: &ConnectOptions,
) -> Result<SqlSession, ConnectError> {
    let connected = first_server(conninfo, options, Purpose::Sql { database }).await?;
    Ok(SqlSession::new(connected.stream, connected.session))
}

async fn first_server(
    conninfo: &ConnInfo,
    options: &ConnectOptions,
    purpose: Purpose<'_>,
) -> Result<Connected, ConnectError> {
    let mut hosts: Vec<&HostSpec> = conninfo.hosts.iter().collect();
    if conninfo.load_balance_hosts {
        shuffle(&mut hosts);
    }
    let fallback = conninfo.fallback_application_name.as_ref();
    let application_name = conninfo.application_name.as_ref().or(fallback);
    let application_name = application_name.unwrap_or(&options.fallback_application_name);
    let mut failures = Vec::new();
    let wanted = conninfo.target_session_attrs;
    let passes: &[TargetSessionAttrs] = match wanted {
        TargetSessionAttrs::PreferStandby => &[wanted, TargetSessionAttrs::Any],
        _ => &[wanted],
    };
    for &target in passes {
        for host in &hosts {
            let password = environment::password(conninfo, host, purpose.database());
            let timeout_s = conninfo.connect_timeout_s.map(|s| Duration::from_secs(s.into()));
            let request = ConnectRequest {
                conninfo,
                purpose,
                application_name,
                password: password.as_ref(),
                target,
                timeout: timeout_s.or(options.timeout),
                notices: &options.notices,
            };
            match try_host(host, &request, &mut failures).await {
                Outcome::Connected(connected) => return Ok(*connected),
                Outcome::NextHost => {}
                Outcome::Stop => return Err(ConnectError { failures }),
            }
        }
    }
    Err(ConnectError { failures })
}

/// Fisher and Yates, with the random numbers of the hash function that defends maps.
fn shuffle(hosts: &mut [&HostSpec]) {
    use std::hash::{BuildHasher, RandomState};
    for last in (1..hosts.len()).rev() {
        let random = RandomState::new().hash_one(last);
        let bound = u64::try_from(last + 1).unwrap_or(u64::MAX);
        let pick = usize::try_from(random % bound).unwrap_or(last);
        hosts.swap(last, pick);
    }
}

enum Outcome {
    Connected(Box<Connected>),
    NextHost,
    /// The server is there and will not have us: another would only hide why.
    Stop,
}

async fn try_host(
    host: &HostSpec,
    request: &ConnectRequest<'_>,
    failures: &mut Vec<Failure>,
) -> Outcome {
    let lookup = addresses(host);
    // The resolver has timeouts of its own, and a thread of its own. libpq waits for them.
    let found = match request.timeout {
        Some(limit) => tokio::time::timeout(limit, lookup).await.unwrap_or_else(|_| {
            let error = io::Error::new(io::ErrorKind::TimedOut, "timeout expired");
            Err(Cause::Lookup { host: host.host.clone(), error })
        }),
        None => lookup.await,
    };
    let addresses = match found {
        Ok(addresses) => addresses,
        Err(cause) => {
            failures.push(Failure { target: None, cause });
            return Outcome::NextHost;
        }
    };
    for place in addresses {
        let attempt = try_address(host, &place, request);
        let result = match request.timeout {
            Some(limit) => tokio::time::timeout(limit, attempt)
                .await
                .unwrap_or_else(|_| Err(vec![Cause::Timeout])),
            None => attempt.await,
        };
        let causes = match result {
            Ok(connected) => return Outcome::Connected(Box::new(connected)),
            Err(causes) => causes,
        };
        let next = causes.last().map_or(Next::Stop, after);
        let target = place.target(host);
        failures.extend(
            causes.into_iter().map(|cause| Failure { target: Some(target.clone()), cause }),
        );
        match next {
            Next::Address => {}
            Next::Host => return Outcome::NextHost,
            Next::Stop => return Outcome::Stop,
        }
    }
    Outcome::NextHost
}

enum Next {
    Address,
    Host,
    Stop,
}

/// What libpq tries after a failure.
fn after(cause: &Cause) -> Next {
    match cause {
        Cause::Connect(_) | Cause::Timeout | Cause::Lookup { .. } => Next::Address,
        Cause::Unwanted(_) => Next::Host,
        // A server that is starting up or shutting down is as good as none: 57P03.
        Cause::Server { error, authenticated: false, .. } if error.sqlstate == "57P03" => {
            Next::Host
        }
        Cause::Server { .. } | Cause::Closed | Cause::Io(_) | Cause::Tls(_) | Cause::Refused(_) => {
            Next::Stop
        }
    }
}

/// One address of a host.
enum ServerAddress {
    Tcp(SocketAddr),
    Socket(String),
}

impl ServerAddress {
    fn target(&self, host: &HostSpec) -> TriedServer {
        match self {
            Self::Socket(path) => TriedServer::Socket { path: path.clone() },
            Self::Tcp(address) => {
                let (name, numeric) = match &host.address {
                    Address::Numeric(text) => (text, true),
                    Address::Name(text) | Address::Socket(text) => (text, false),
                };
                let shown = address.ip().to_string();
                let shown = (!numeric && shown != *name).then_some(shown);
                TriedServer::Tcp { host: name.clone(), address: shown, port: host.port }
            }
        }
    }
}

async fn addresses(host: &HostSpec) -> Result<Vec<ServerAddress>, Cause> {
    if let Some(path) = host.socket_path() {
        return Ok(vec![ServerAddress::Socket(path)]);
    }
    let (name, numeric) = match &host.address {
        Address::Numeric(text) => (text, true),
        Address::Name(text) | Address::Socket(text) => (text, false),
    };
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(vec![ServerAddress::Tcp(SocketAddr::new(ip, host.port))]);
    }
    // An IPv6 address may carry a zone that only the resolver understands.
    if numeric && !name.contains('%') {
        return Err(Cause::Refused(format!(
            "could not parse network address \"{name}\": Name or service not known"
        )));
    }
    let failed = |error| Cause::Lookup { host: name.clone(), error };
    let wanted = (name.clone(), host.port);
    let lookup = spawn_blocking(move || wanted.to_socket_addrs().map(Iterator::collect::<Vec<_>>));
    let lookup = lookup.await.unwrap_or_else(|_| Err(io::Error::other("it was given up")));
    let addresses: Vec<_> = lookup.map_err(failed)?.into_iter().map(ServerAddress::Tcp).collect();
    if addresses.is_empty() {
        return Err(failed(io::Error::other("No address associated with hostname")));
    }
    Ok(addresses)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Plain,
    Tls,
}

/// Tries one address, with and without TLS as `sslmode` allows.
async fn try_address(
    host: &HostSpec,
    place: &ServerAddress,
    request: &ConnectRequest<'_>,
) -> Result<Connected, Vec<Cause>> {
    let address = match place {
        ServerAddress::Socket(path) => {
            return try_socket(host, path, request).await.map_err(|cause| vec![cause]);
        }
        ServerAddress::Tcp(address) => *address,
    };
    // The second way is for a server that refuses the first.
    let (first, second) = match request.conninfo.ssl.mode {
        SslMode::Disable => (Encryption::Plain, None),
        SslMode::Allow => (Encryption::Plain, Some(Encryption::Tls)),
        SslMode::Prefer => (Encryption::Tls, Some(Encryption::Plain)),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (Encryption::Tls, None),
    };
    let mut encrypted = false;
    let cause = match try_tcp(host, address, first, request, &mut encrypted).await {
        Ok(conn) => return Ok(conn),
        Err(cause) => cause,
    };
    // A server without TLS was tried without it already.
    let second = second.filter(|_| first == Encryption::Plain || encrypted);
    match (second, &cause) {
        (Some(second), Cause::Server { authenticated: false, .. } | Cause::Tls(_)) => {
            let again = try_tcp(host, address, second, request, &mut encrypted).await;
            again.map_err(|second| vec![cause, second])
        }
        _ => Err(vec![cause]),
    }
}

async fn try_socket(
    host: &HostSpec,
    path: &str,
    request: &ConnectRequest<'_>,
) -> Result<Connected, Cause> {
    let requirepeer = request.conninfo.requirepeer.as_deref();
    let mut stream = socket::connect_unix(path, requirepeer).await?;
    let session = startup::start(&mut stream, &Channel::Plain, request).await?;
    Ok(Connected::new(Stream::Unix(stream), session, host))
}

async fn try_tcp(
    host: &HostSpec,
    address: SocketAddr,
    encryption: Encryption,
    request: &ConnectRequest<'_>,
    encrypted: &mut bool,
) -> Result<Connected, Cause> {
    let mut stream = socket::connect_tcp(address, &request.conninfo.keepalives).await?;
    if encryption == Encryption::Plain || !negotiate(&mut stream, request.conninfo).await? {
        let session = startup::start(&mut stream, &Channel::Plain, request).await?;
        return Ok(Connected::new(Stream::Tcp(stream), session, host));
    }
    *encrypted = true;
    let ssl = &request.conninfo.ssl;
    let (mut stream, channel) = tls::handshake(stream, ssl, &host.host, address.ip()).await?;
    let session =
        startup::start(&mut stream, &channel, request).await.map_err(|cause| match cause {
            // In TLS 1.3 a refused client certificate is told only now.
            Cause::Io(error) => tls::handshake_error(error),
            other => other,
        })?;
    Ok(Connected::new(Stream::Tls(Box::new(stream)), session, host))
}

/// Asks for TLS; whether the server begins it now.
async fn negotiate(stream: &mut TcpStream, conninfo: &ConnInfo) -> Result<bool, Cause> {
    if conninfo.ssl.negotiation == SslNegotiation::Direct {
        return Ok(true);
    }
    let mut out = BytesMut::new();
    frontend::ssl_request(&mut out);
    stream.write_all(&out).await?;
    // Not a byte more: what follows an S in the clear must not pass for a part of the session.
    match stream.read_u8().await? {
        b'S' => Ok(true),
        b'N' if conninfo.ssl.mode >= SslMode::Require => {
            Err(Cause::Refused("server does not support SSL, but SSL was required".into()))
        }
        b'N' => Ok(false),
        // Its text is not shown: nobody knows yet who wrote it.
        b'E' => Err(Cause::Tls("server sent an error response during SSL exchange".into())),
        other => Err(Cause::Refused(format!(
            "received invalid response to SSL negotiation: {}",
            char::from(other).escape_default()
        ))),
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream>),
}

/// A session that is ready for its first command, and the server that it is with.
struct Connected {
    stream: Stream,
    session: UpstreamSession,
    host: String,
    port: u16,
}

impl Connected {
    fn new(stream: Stream, session: UpstreamSession, host: &HostSpec) -> Self {
        Self { stream, session, host: host.passfile_host().to_owned(), port: host.port }
    }

    fn into_upstream(self) -> io::Result<UpstreamConn> {
        let Self { stream, session, host, port } = self;
        let mut unread = session.unread;
        let (fd, tls) = detach(stream, &mut unread)?;
        Ok(UpstreamConn {
            fd,
            encrypted: tls.is_some(),
            tls,
            unread,
            server_version: session.server_version,
            server_version_num: session.server_version_num,
            parameters: session.parameters,
            host,
            port,
        })
    }
}

/// The descriptor, in blocking mode: on any other a ring's receive would return at once instead of waiting. What was
/// decrypted and not taken is unread.
fn detach(
    stream: Stream,
    unread: &mut Vec<u8>,
) -> io::Result<(OwnedFd, Option<Box<dyn TlsRecords>>)> {
    let (stream, tls): (_, Option<Box<dyn TlsRecords>>) = match stream {
        Stream::Unix(stream) => {
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            return Ok((stream.into(), None));
        }
        Stream::Tcp(stream) => (stream, None),
        Stream::Tls(stream) => {
            let (stream, records, plain) = stream.into_parts();
            unread.extend(plain);
            (stream, Some(Box::new(records)))
        }
    };
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok((stream.into(), tls))
}
