//! One downstream connection from its first byte.
//!
//! Reads the first packet, decides who may come in, and sends the start-up sequence.
//!
//! Not here: what the connection is for after that ([`Serve`], which is the server's).
//!
//! PostgreSQL: `ProcessStartupPacket`, `canAcceptConnections`, `ClientAuthentication`,
//! `InitPostgres`.

mod encryption;
mod greeting;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use walhub_proto::command::truncate_name;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Report, Severity};
use walhub_proto::wire::startup::{
    self, FirstPacket, OptionsViolation, ReplicationMode, StartupMessage, StartupViolation,
};

use self::encryption::{begin_direct_tls, decline_encryption, ssl_status};
pub(crate) use self::greeting::canonical_name;
use super::stream::{Connection, Stream};
use super::tls::{Acceptor, TlsFacts};
use super::unadmitted::{Silent, Unadmitted};
use crate::backend::{self, BackendParams, Interrupt, Member, Sessions, SettingsView as _};
use crate::limits::Connections;
use crate::settings::Settings;
use walhub_hub::api::hub::{Client, Hub};

/// How long the process waits for the last words of streams that have ended.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// What serves a connection that was let in, to its end; it comes back unless it is closed.
pub(crate) type Serve = for<'a> fn(&'a ClientSession, Connection) -> Serving<'a>;
pub(crate) type Serving<'a> = Pin<Box<dyn Future<Output = (Option<Connection>, Ended)> + 'a>>;

/// What every connection needs.
pub struct Services {
    /// The hub that connections ask, and that takes streams.
    pub hub: Arc<dyn Hub<OwnedFd>>,
    /// The settings, as the last reload left them.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// Turns true when sessions in command mode must end; streaming ones are the hub's.
    pub terminate: watch::Receiver<bool>,
    /// Who is connected, for cancel requests.
    pub sessions: Arc<Sessions>,
    next_pid: AtomicU32,
    /// Connections accepted and not yet closed, whatever they are.
    pub(super) open: Arc<AtomicU32>,
    /// How many there may be.
    pub(super) connections: Connections,
    unadmitted: Arc<Unadmitted>,
    wal_senders: Arc<AtomicU32>,
    others: Arc<AtomicU32>,
    serve: Serve,
    /// What connections over TLS are accepted with; `None` while `ssl` is off.
    tls: watch::Receiver<Option<Arc<Acceptor>>>,
}

impl Services {
    /// Nothing is connected yet.
    #[must_use]
    pub(crate) fn new(
        hub: Arc<dyn Hub<OwnedFd>>,
        settings: watch::Receiver<Arc<Settings>>,
        terminate: watch::Receiver<bool>,
        connections: Connections,
        serve: Serve,
        tls: watch::Receiver<Option<Arc<Acceptor>>>,
    ) -> Arc<Self> {
        let sessions = Arc::new(Sessions::default());
        sessions.memory().set_limit(settings.borrow().sql_memory_limit());
        Arc::new(Self {
            hub,
            settings,
            terminate,
            sessions,
            next_pid: AtomicU32::new(1),
            open: Arc::default(),
            connections,
            unadmitted: Unadmitted::new(connections.unadmitted_max),
            wal_senders: Arc::default(),
            others: Arc::default(),
            serve,
            tls,
        })
    }

    /// Makes room for one more connection, and waits until there is room; `None` when those who were let in take it all.
    /// Hold the slot for as long as the connection is open.
    pub(super) async fn take_in(&self, stream: &Stream) -> Option<(Silent, ConnectionSlot)> {
        let silent = self.unadmitted.enter(peer_address(stream).map(|peer| peer.ip()));
        self.unadmitted.room_is_made().await;
        let slot = ConnectionSlot::take(&self.open, self.connections.open_max)?;
        Some((silent, slot))
    }

    /// Connections that are no walsenders.
    #[must_use]
    pub fn sql_sessions(&self) -> u32 {
        self.others.load(Ordering::Acquire)
    }

    /// Gives the walsenders whose streams go through this thread a moment to pass their last word
    /// on.
    pub async fn farewell(&self) {
        let until = Instant::now() + FAREWELL_TIMEOUT;
        while self.wal_senders.load(Ordering::Acquire) > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Takes what a reload has changed.
    pub fn settings_changed(&self) {
        self.sessions.memory().set_limit(self.settings.borrow().sql_memory_limit());
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow())
    }
}

/// One of a limited number of connections; free again when it is dropped.
pub(super) struct ConnectionSlot(Arc<AtomicU32>);

impl ConnectionSlot {
    pub(super) fn take(taken: &Arc<AtomicU32>, max: u32) -> Option<Self> {
        let one_more = |count: u32| (count < max).then_some(count + 1);
        taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Self(Arc::clone(taken)))
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Why a session is over.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The client left, or there is nobody worth an answer.
    Quietly,
    /// The client is told why.
    Fatal(Report),
    /// The socket failed.
    Io(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A client that was let in.
pub(crate) struct ClientSession {
    pub(crate) services: Arc<Services>,
    pub(crate) client: Client,
    pub(crate) mode: ReplicationMode,
    pub(crate) database: String,
    member: Arc<Member>,
    message: StartupMessage,
}

/// Serves one accepted connection to its end.
pub(super) async fn serve_connection(stream: Stream, mut silent: Silent, services: Arc<Services>) {
    let began = Instant::now();
    let peer = peer_address(&stream);
    let settings = services.settings();
    if settings.log_connections {
        tracing::info!("connection received: {}", host_and_port(peer));
    }
    let mut connection = Connection::new(stream, Vec::new());
    let started = tokio::time::timeout(
        settings.authentication_timeout,
        first_packet(&mut connection, &services),
    );
    let started = tokio::select! {
        biased;
        started = started => started,
        () = silent.told_to_go() => return connection.refuse_at_once(&too_many_clients()),
    };
    drop(silent);
    let message = match started {
        Ok(Ok(message)) => message,
        Ok(Err(ended)) => return finish(Some(connection), ended).await,
        // PostgreSQL leaves without a word. PostgreSQL: `StartupPacketTimeoutHandler`.
        Err(_) => return,
    };
    let (session, _slot) = match admit(&services, message, peer) {
        Ok(admitted) => admitted,
        Err(report) => return finish(Some(connection), Ended::Fatal(report)).await,
    };
    if let Some(status) = connection.tls.as_deref().map(ssl_status) {
        session.member.interrupts.show_ssl(status);
    }
    let user = session.client.user.clone();
    let database = session.database.clone();
    session.run(connection).await;
    if settings.log_disconnections {
        tracing::info!(
            "disconnection: session time: {} user={user} database={database} {}",
            session_time(began),
            host_and_port(peer)
        );
    }
}

/// Logs what was said to a client, and what it had asked. How it looks is the log's affair.
pub(crate) fn log_report(report: &Report, statement: Option<&str>) {
    let (sqlstate, detail, hint) =
        (report.sqlstate.0, report.detail.as_deref(), report.hint.as_deref());
    match report.severity {
        Severity::Error | Severity::Fatal | Severity::Panic => {
            let severity = report.severity.as_str();
            tracing::error!(severity, sqlstate, detail, hint, statement, "{}", report.message);
        }
        Severity::Warning | Severity::Notice => {
            tracing::warn!(sqlstate, detail, hint, statement, "{}", report.message);
        }
    }
}

async fn finish(connection: Option<Connection>, ended: Ended) {
    match ended {
        Ended::Quietly => {}
        Ended::Fatal(report) => {
            log_report(&report, None);
            if let Some(mut connection) = connection {
                connection.farewell(&report).await;
            }
        }
        Ended::Io(error) => tracing::info!("could not exchange data with client: {error}"),
    }
}

fn peer_address(stream: &Stream) -> Option<SocketAddr> {
    stream.tcp_socket().and_then(|socket| socket.peer_addr().ok())
}

fn host_and_port(peer: Option<SocketAddr>) -> String {
    peer.map_or_else(
        || "host=[local]".into(),
        |peer| format!("host={} port={}", peer.ip().to_canonical(), peer.port()),
    )
}

/// PostgreSQL: `log_disconnections`.
fn session_time(began: Instant) -> String {
    let elapsed = began.elapsed();
    let seconds = elapsed.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours}:{minutes:02}:{:02}.{:03}", seconds % 60, elapsed.subsec_millis())
}

/// Reads packets up to the one that asks for a session. PostgreSQL: `ProcessSSLStartup`, `ProcessStartupPacket`.
async fn first_packet(
    connection: &mut Connection,
    services: &Services,
) -> Result<StartupMessage, Ended> {
    begin_direct_tls(connection, services).await?;
    let (mut ssl_done, mut gss_done) = (false, false);
    loop {
        let (packet, len) = match startup::decode(&connection.read) {
            Ok(Some(decoded)) => decoded,
            Ok(None) => {
                if !connection.fill().await? {
                    if !connection.read.is_empty() {
                        tracing::info!("incomplete startup packet");
                    }
                    return Err(Ended::Quietly);
                }
                continue;
            }
            Err(violation @ StartupViolation::Length { .. }) => {
                tracing::info!("{violation}");
                return Err(Ended::Quietly);
            }
            Err(violation) => return Err(refuse(violation)),
        };
        connection.consume(len);
        match packet {
            FirstPacket::SslRequest if !ssl_done => {
                ssl_done = true;
                // Who is encrypted is not encrypted twice.
                gss_done |= encryption::answer_ssl_request(connection, services).await?;
            }
            FirstPacket::GssEncRequest if !gss_done => {
                gss_done = true;
                decline_encryption(connection, "GSSAPI encryption request").await?;
            }
            FirstPacket::SslRequest => {
                return Err(refuse(StartupViolation::Version { major: 1234, minor: 5679 }));
            }
            FirstPacket::GssEncRequest => {
                return Err(refuse(StartupViolation::Version { major: 1234, minor: 5680 }));
            }
            // It is answered with nothing, whatever comes of it.
            FirstPacket::CancelRequest { process_id, secret } => {
                services.sessions.cancel_request(process_id, secret);
                return Err(Ended::Quietly);
            }
            FirstPacket::Startup(message) => return Ok(message),
        }
    }
}

fn refuse(violation: StartupViolation) -> Ended {
    Ended::Fatal(Report::fatal(violation.sqlstate(), violation.to_string()))
}

/// Decides whether the client may come in, and takes a connection slot for it.
fn admit(
    services: &Arc<Services>,
    mut message: StartupMessage,
    peer: Option<SocketAddr>,
) -> Result<(ClientSession, ConnectionSlot), Report> {
    let mode = replication_mode(&message)?;
    // Names have a length, here as everywhere. PostgreSQL: `ProcessStartupPacket`.
    let name = |name: &str| message.parameter(name).map(|name| truncate_name(name.to_owned()));
    let Some(user) = name("user") else {
        return Err(Report::fatal(
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            "no PostgreSQL user name specified in startup packet",
        ));
    };
    let is_walsender = mode != ReplicationMode::Off;
    // A physical walsender is connected to no database. PostgreSQL: `ProcessStartupPacket`.
    let database = match mode {
        ReplicationMode::Physical => String::new(),
        ReplicationMode::Off | ReplicationMode::Database => {
            name("database").unwrap_or_else(|| user.clone())
        }
    };
    if services.hub.is_stopping() {
        let message = "the database system is shutting down";
        return Err(Report::fatal(SqlState::CANNOT_CONNECT_NOW, message));
    }
    if is_walsender && services.hub.identity().is_none() {
        let message = "the database system is starting up";
        return Err(Report::fatal(SqlState::CANNOT_CONNECT_NOW, message)
            .detail("walhub has not yet received WAL from its upstream."));
    }
    let slot = take_connection_slot(services, mode, peer)?;
    if !is_trusted(peer) {
        return Err(no_hba_entry(peer, &user, &database, mode));
    }
    message.apply_options().map_err(|violation| {
        let report = Report::fatal(violation.sqlstate(), violation.to_string());
        match violation {
            OptionsViolation::Argument(_) => {
                report.hint("walhub takes settings here, as in \"-c name=value\".")
            }
            OptionsViolation::NoValue(_) => report,
        }
    })?;
    backend::check_startup(&message.parameters)?;
    let client = Client {
        pid: services.next_pid.fetch_add(1, Ordering::Relaxed),
        application_name: startup::clean_ascii(
            message.parameter("application_name").unwrap_or_default(),
        ),
        user,
        address: peer,
        backend_start: crate::clock::now(),
    };
    let member = services.sessions.enter(client.pid, services.terminate.clone());
    let services = Arc::clone(services);
    let session =
        ClientSession { services, client, mode, database, member: Arc::new(member), message };
    Ok((session, slot))
}

fn replication_mode(message: &StartupMessage) -> Result<ReplicationMode, Report> {
    let Some(value) = message.parameters.get("replication") else {
        return Ok(ReplicationMode::Off);
    };
    ReplicationMode::parse(value).ok_or_else(|| {
        Report::fatal(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"replication\": \"{value}\""),
        )
        .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
    })
}

/// PostgreSQL: `InitProcess`, which keeps the slots of walsenders apart from the others.
fn take_connection_slot(
    services: &Services,
    mode: ReplicationMode,
    peer: Option<SocketAddr>,
) -> Result<ConnectionSlot, Report> {
    let settings = services.settings();
    if mode != ReplicationMode::Off {
        let max = settings.hub.max_wal_senders;
        return ConnectionSlot::take(&services.wal_senders, max).ok_or_else(|| {
            let message = format!(
                "number of requested standby connections exceeds max_wal_senders (currently {max})"
            );
            Report::fatal(SqlState::TOO_MANY_CONNECTIONS, message)
        });
    }
    let max = settings.max_connections.min(services.connections.sessions_max);
    // Who comes by Unix socket may be the operator.
    let reserved = peer.map_or(0, |_| settings.reserved_connections());
    ConnectionSlot::take(&services.others, max.saturating_sub(reserved)).ok_or_else(|| {
        if peer.is_none() || services.others.load(Ordering::Acquire) >= max {
            return too_many_clients();
        }
        // PostgreSQL: InitPostgres.
        let message =
            "remaining connection slots are reserved for non-replication superuser connections";
        Report::fatal(SqlState::TOO_MANY_CONNECTIONS, message)
            .detail("walhub's superusers come by Unix socket.")
    })
}

pub(super) fn too_many_clients() -> Report {
    Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
}

/// The error for an address that nobody may come from, whoever it is.
pub(super) fn stranger(address: SocketAddr) -> Report {
    let message = format!("no pg_hba.conf entry for host \"{}\"", address.ip().to_canonical());
    Report::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message).detail(
        "Until it has access control walhub takes connections from loopback addresses and Unix sockets only.",
    )
}

/// Until there is access control, whoever is on this machine is trusted and nobody else is.
pub(super) fn is_trusted(peer: Option<SocketAddr>) -> bool {
    peer.is_none_or(|peer| peer.ip().to_canonical().is_loopback())
}

/// PostgreSQL: `ClientAuthentication`, case `uaImplicitReject`.
fn no_hba_entry(
    peer: Option<SocketAddr>,
    user: &str,
    database: &str,
    mode: ReplicationMode,
) -> Report {
    let host = peer.map_or_else(String::new, |peer| {
        let ip: IpAddr = peer.ip().to_canonical();
        ip.to_string()
    });
    let message = match mode {
        ReplicationMode::Physical => format!(
            "no pg_hba.conf entry for replication connection from host \"{host}\", \
             user \"{user}\", no encryption"
        ),
        ReplicationMode::Off | ReplicationMode::Database => format!(
            "no pg_hba.conf entry for host \"{host}\", user \"{user}\", \
             database \"{database}\", no encryption"
        ),
    };
    Report::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message)
}

fn administrator_command() -> Report {
    let message = "terminating connection due to administrator command";
    Report::fatal(SqlState::ADMIN_SHUTDOWN, message)
}

pub(crate) fn terminated() -> Ended {
    Ended::Fatal(administrator_command())
}

impl ClientSession {
    /// Sends the start-up sequence and serves commands to the end.
    async fn run(self, mut connection: Connection) {
        self.log_authorized(connection.tls.as_deref());
        if self.message.needs_negotiation() {
            self.message.encode_negotiation(&mut connection.out);
        }
        self.encode_greeting(&mut connection.out);
        if let Err(error) = connection.flush().await {
            return finish(None, Ended::Io(error)).await;
        }
        let (connection, ended) = (self.services.serve)(&self, connection).await;
        finish(connection, ended).await;
    }

    pub(crate) fn backend_params(&self) -> BackendParams {
        BackendParams {
            client: self.client.clone(),
            database: self.database.clone(),
            startup_options: self.message.parameters.clone(),
            member: Arc::clone(&self.member),
            sessions: Arc::clone(&self.services.sessions),
            hub: Arc::clone(&self.services.hub),
            settings: self.services.settings.clone(),
        }
    }

    /// Waits until sessions must end. PostgreSQL: `ProcessInterrupts`.
    pub(crate) async fn terminated(&self) -> Ended {
        self.member.interrupts.terminated().await;
        terminated()
    }

    /// Runs a stream, which a ship core has, to its end, and has the hub end it when another session
    /// asks for that. PostgreSQL: `ProcessInterrupts`.
    pub(crate) async fn until_interrupted<T>(&self, streaming: impl Future<Output = T>) -> T {
        let mut streaming = std::pin::pin!(streaming);
        loop {
            let interrupt = tokio::select! {
                outcome = &mut streaming => return outcome,
                interrupt = self.member.interrupts.interrupted() => interrupt,
            };
            let (hub, pid) = (&self.services.hub, self.client.pid);
            match interrupt {
                Interrupt::Cancel => {
                    let message = "canceling statement due to user request";
                    hub.end_stream(pid, Report::error(SqlState::QUERY_CANCELED, message));
                }
                Interrupt::Terminate => {
                    hub.end_stream(pid, administrator_command());
                    return streaming.await;
                }
            }
        }
    }

    /// PostgreSQL: `PerformAuthentication`.
    fn log_authorized(&self, tls: Option<&TlsFacts>) {
        if !self.services.settings().log_connections {
            return;
        }
        let Client { user, application_name, .. } = &self.client;
        let mut line = match self.mode {
            ReplicationMode::Physical => format!("replication connection authorized: user={user}"),
            ReplicationMode::Off | ReplicationMode::Database => {
                format!("connection authorized: user={user} database={}", self.database)
            }
        };
        if !application_name.is_empty() {
            line.push_str(" application_name=");
            line.push_str(application_name);
        }
        line.push_str(&tls.map(TlsFacts::log_text).unwrap_or_default());
        tracing::info!("{line}");
    }
}

#[cfg(test)]
mod tests;
