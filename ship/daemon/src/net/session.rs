//! One downstream connection from its first byte.
//!
//! Reads the first packet, decides who may come in, and sends the start-up sequence.
//!
//! Not here: what the connection is for after that ([`Serve`], which is the server's).
//!
//! PostgreSQL: `ProcessStartupPacket`, `canAcceptConnections`, `ClientAuthentication`,
//! `InitPostgres`.

mod greeting;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use walhub_proto::command::truncate_name;
use walhub_proto::hba::{self, Transport};
use walhub_proto::roles::Roles;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Report, Severity};
use walhub_proto::wire::startup::{
    self, FirstPacket, OptionsViolation, ReplicationMode, StartupMessage, StartupViolation,
};

pub(crate) use self::greeting::canonical_name;
use super::access::{Access, Denied, check_method, refusal};
use super::stream::{Connection, Stream, StreamKind};
use super::unadmitted::{Silent, Unadmitted};
use crate::backend::{self, BackendParams, Interrupt, Member, Sessions, SettingsView as _};
use crate::limits::Connections;
use crate::roles::{RoleStore, trusted_user};
use crate::settings::Settings;
use walhub_hub::api::hub::{Client, Hub};
use walhub_sql::parse::roles::without_passwords;

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
    /// Who there is.
    pub roles: Arc<RoleStore>,
    /// Who is connected, for cancel requests.
    pub sessions: Arc<Sessions>,
    /// Who may come in.
    access: Arc<Access>,
    next_pid: AtomicU32,
    /// Connections accepted and not yet closed, whatever they are.
    pub(super) open: Arc<AtomicU32>,
    /// How many there may be.
    pub(super) connections: Connections,
    unadmitted: Arc<Unadmitted>,
    wal_senders: Arc<AtomicU32>,
    others: Arc<AtomicU32>,
    serve: Serve,
}

impl Services {
    /// Nothing is connected yet.
    #[must_use]
    pub(crate) fn new(
        hub: Arc<dyn Hub<OwnedFd>>,
        settings: watch::Receiver<Arc<Settings>>,
        roles: Arc<RoleStore>,
        terminate: watch::Receiver<bool>,
        connections: Connections,
        access: Arc<Access>,
        serve: Serve,
    ) -> Arc<Self> {
        let sessions = Arc::new(Sessions::default());
        sessions.memory().set_limit(settings.borrow().sql_memory_limit());
        Arc::new(Self {
            hub,
            settings,
            roles,
            terminate,
            sessions,
            access,
            next_pid: AtomicU32::new(1),
            open: Arc::default(),
            connections,
            unadmitted: Unadmitted::new(connections.unadmitted_max),
            wal_senders: Arc::default(),
            others: Arc::default(),
            serve,
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
    /// The client is told why it is not let in, and the log more than that.
    Denied(Denied),
    /// The socket failed.
    Io(io::Error),
}

impl From<Report> for Ended {
    fn from(report: Report) -> Self {
        Self::Fatal(report)
    }
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
    /// OID of the role that has logged in.
    pub(crate) authenticated: u32,
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
    let started = async {
        let message = first_packet(&mut connection, &services.sessions).await?;
        admit(&services, message, connection.stream.kind(), peer).await
    };
    let started = tokio::time::timeout(settings.authentication_timeout, started);
    // Names of hosts are looked up meanwhile: who waits for that can make room too.
    let started = tokio::select! {
        biased;
        started = started => started,
        () = silent.told_to_go() => return connection.refuse_at_once(&too_many_clients()),
    };
    drop(silent);
    let (session, _slot) = match started {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(ended)) => return finish(Some(connection), ended).await,
        // PostgreSQL leaves without a word. PostgreSQL: `StartupPacketTimeoutHandler`.
        Err(_) => return,
    };
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

/// Logs what was said to a client, and what it had asked, without passwords. How it looks is the log's affair.
pub(crate) fn log_report(report: &Report, statement: Option<&str>) {
    let without = statement.and_then(without_passwords);
    let statement = without.as_deref().or(statement);
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
        Ended::Denied(denied) => {
            log_report(&denied.logged(), None);
            if let Some(mut connection) = connection {
                connection.farewell(&denied.report).await;
            }
        }
        Ended::Io(error) => tracing::info!("could not exchange data with client: {error}"),
    }
}

fn peer_address(stream: &Stream) -> Option<SocketAddr> {
    match stream {
        Stream::Tcp(stream) => stream.peer_addr().ok(),
        Stream::Unix(_) => None,
    }
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

/// Reads packets up to the one that asks for a session. PostgreSQL: `ProcessStartupPacket`.
async fn first_packet(
    connection: &mut Connection,
    sessions: &Sessions,
) -> Result<StartupMessage, Ended> {
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
                decline_encryption(connection, "SSL request").await?;
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
                sessions.cancel_request(process_id, secret);
                return Err(Ended::Quietly);
            }
            FirstPacket::Startup(message) => return Ok(message),
        }
    }
}

fn refuse(violation: StartupViolation) -> Ended {
    Ended::Fatal(Report::fatal(violation.sqlstate(), violation.to_string()))
}

async fn decline_encryption(connection: &mut Connection, what: &str) -> Result<(), Ended> {
    connection.stream.write_all(b"N").await?;
    if connection.read.is_empty() {
        return Ok(());
    }
    let message = format!("received unencrypted data after {what}");
    Err(Ended::Fatal(Report::fatal(SqlState::PROTOCOL_VIOLATION, message).detail(
        "This could be either a client-software bug or evidence of an attempted \
         man-in-the-middle attack.",
    )))
}

/// Decides whether the client may come in, and takes a connection slot for it.
async fn admit(
    services: &Arc<Services>,
    mut message: StartupMessage,
    came_by: StreamKind,
    peer: Option<SocketAddr>,
) -> Result<(ClientSession, ConnectionSlot), Ended> {
    let mode = replication_mode(&message)?;
    // Names have a length, here as everywhere. PostgreSQL: `ProcessStartupPacket`.
    let name = |name: &str| message.parameter(name).map(|name| truncate_name(name.to_owned()));
    let Some(user) = name("user") else {
        return Err(Report::fatal(
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            "no PostgreSQL user name specified in startup packet",
        )
        .into());
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
        return Err(Report::fatal(SqlState::CANNOT_CONNECT_NOW, message).into());
    }
    if is_walsender && services.hub.identity().is_none() {
        let message = "the database system is starting up";
        return Err(Report::fatal(SqlState::CANNOT_CONNECT_NOW, message)
            .detail("walhub has not yet received WAL from its upstream.")
            .into());
    }
    let connection = hba::Connection {
        transport: match came_by {
            StreamKind::Tcp => Transport::Plain,
            StreamKind::Unix => Transport::Local,
        },
        address: peer.map(|peer| peer.ip()),
        user: &user,
        database: &database,
        replication: mode == ReplicationMode::Physical,
    };
    check_access(services, &connection).await?;
    let slot = take_connection_slot(services, mode, peer)?;
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
    let roles = services.roles.current();
    let authenticated = trusted_user(&roles, &user);
    check_walsender(&roles, authenticated, mode)?;
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
    member.interrupts.set_user(authenticated);
    let (services, member) = (Arc::clone(services), Arc::new(member));
    let session =
        ClientSession { services, client, mode, database, authenticated, member, message };
    Ok((session, slot))
}

/// PostgreSQL: `InitPostgres`.
fn check_walsender(roles: &Roles, user: u32, mode: ReplicationMode) -> Result<(), Report> {
    if mode == ReplicationMode::Off || roles.may_replicate(user) {
        return Ok(());
    }
    let message = "must be superuser or replication role to start walsender";
    Err(Report::fatal(SqlState::INSUFFICIENT_PRIVILEGE, message))
}

/// PostgreSQL: `hba_getauthmethod`, `ClientAuthentication`.
async fn check_access(services: &Services, connection: &hba::Connection<'_>) -> Result<(), Ended> {
    let verdict = services.access.verdict(*connection, &*services.roles.current()).await;
    if let Some(denied) = refusal(connection, &verdict) {
        return Err(Ended::Denied(denied));
    }
    Ok(verdict.rule.iter().try_for_each(|rule| check_method(rule))?)
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
        self.log_authorized();
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
            roles: Arc::clone(&self.services.roles),
            authenticated: self.authenticated,
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
    fn log_authorized(&self) {
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
        tracing::info!("{line}");
    }
}

#[cfg(test)]
mod tests;
