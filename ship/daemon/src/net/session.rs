//! One downstream connection from its first byte.
//!
//! Reads the first packet, decides who may come in, and sends the start-up sequence.
//!
//! Not here: what the connection is for after that ([`Serve`], which is the server's).
//!
//! PostgreSQL: `ProcessStartupPacket`, `canAcceptConnections`, `ClientAuthentication`,
//! `InitPostgres`.

mod admit;
mod encryption;
mod greeting;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Report, Severity};
use walhub_proto::wire::startup::{
    self, FirstPacket, ReplicationMode, STARTUP_PACKET_BYTES_MAX, StartupMessage, StartupViolation,
};

use self::admit::Places;
use self::encryption::{begin_direct_tls, decline_encryption, ssl_status};
pub(crate) use self::greeting::canonical_name;
use super::authenticate::{self, Authenticated, Guard, NotAuthenticated, Refusal, authenticate};
use super::stream::{Connection, Stream};
use super::tls::TlsFacts;
use super::unadmitted::{Origin, Silent, Unadmitted};
use crate::backend::{BackendParams, Interrupt, Member, Sessions, SettingsView as _};
use crate::limits::Connections;
use crate::roles::RoleStore;
use crate::settings::Settings;
use walhub_hub::api::hub::{Client, Hub};
use walhub_sql::parse::roles::without_passwords;

/// The longest first packet, with its length word.
const FIRST_PACKET_BYTES_MAX: usize = 4 + STARTUP_PACKET_BYTES_MAX;
const _: () = assert!(FIRST_PACKET_BYTES_MAX + 2048 < authenticate::BYTES_MAX);

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
    next_pid: AtomicU32,
    /// Connections accepted and not yet closed, whatever they are.
    pub(super) open: Arc<AtomicU32>,
    /// How many there may be.
    pub(super) connections: Connections,
    unadmitted: Arc<Unadmitted>,
    /// Who may come in.
    pub(super) guard: Guard,
    wal_senders: Arc<AtomicU32>,
    others: Arc<AtomicU32>,
    /// Sessions of each role, by OID.
    by_role: Arc<Mutex<BTreeMap<u32, u32>>>,
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
        guard: Guard,
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
            next_pid: AtomicU32::new(1),
            open: Arc::default(),
            connections,
            unadmitted: Unadmitted::new(connections.unadmitted_max),
            guard,
            wal_senders: Arc::default(),
            others: Arc::default(),
            by_role: Arc::default(),
            serve,
        })
    }

    /// Makes room for one more connection, and waits until there is room; `None` when those who were let in take it all.
    /// Hold the slot for as long as the connection is open.
    pub(super) async fn take_in(&self, stream: &Stream) -> Option<(Silent, ConnectionSlot)> {
        let silent = self.unadmitted.enter(origin(stream));
        self.unadmitted.room_is_made().await;
        let slot = ConnectionSlot::take(&self.open, self.connections.open_max)?;
        Some((silent, slot))
    }

    /// Connections that are no walsenders.
    #[must_use]
    pub fn sql_sessions(&self) -> u32 {
        self.others.load(Ordering::Acquire)
    }

    /// How many of them there may be.
    fn sessions_max(&self) -> u32 {
        self.settings().max_connections.min(self.connections.sessions_max)
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
    /// Who it is, and how that was shown.
    identity: Authenticated,
    tls: Option<Arc<TlsFacts>>,
    member: Arc<Member>,
    message: StartupMessage,
    /// Free again when the session ends.
    _places: Places,
}

/// Serves one accepted connection to its end.
pub(super) async fn serve_connection(stream: Stream, silent: Silent, services: Arc<Services>) {
    let began = Instant::now();
    let peer = peer_address(&stream);
    let settings = services.settings();
    if settings.log_connections {
        tracing::info!("connection received: {}", host_and_port(peer));
    }
    let mut connection = Connection::new(stream, Vec::new());
    let admitted = tokio::select! {
        biased;
        admitted = let_in(&mut connection, &silent, &services, peer) => admitted,
        () = silent.told_to_go() => return connection.refuse_at_once(&too_many_clients()),
    };
    drop(silent);
    let session = match admitted {
        Ok(session) => session,
        Err(ended) => return finish(Some(connection), ended).await,
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

/// From the first byte to AuthenticationOk, within `authentication_timeout`.
async fn let_in(
    connection: &mut Connection,
    silent: &Silent,
    services: &Arc<Services>,
    peer: Option<SocketAddr>,
) -> Result<ClientSession, Ended> {
    let until = tokio::time::Instant::now() + services.settings().authentication_timeout;
    let packet = first_packet(connection, services);
    // PostgreSQL leaves without a word. PostgreSQL: `StartupPacketTimeoutHandler`.
    let packet = tokio::time::timeout_at(until, packet).await.map_err(|_| Ended::Quietly)??;
    silent.heard();
    let applicant = admit::applicant(&packet, peer, &mut connection.out)?;
    admit::check_openness(services, applicant.mode)?;
    let authenticated = authenticate(connection, services, &applicant, silent);
    let refusal = match tokio::time::timeout_at(until, authenticated).await {
        Ok(Ok((authenticated, role))) => {
            // Who is not let in after this has at least shown who it is.
            connection.out.authentication_ok();
            let tls = connection.tls.clone();
            return Ok(admit::admit(services, applicant, &packet, (authenticated, role), tls)?);
        }
        Ok(Err(NotAuthenticated::Left)) => return Err(Ended::Quietly),
        Ok(Err(NotAuthenticated::Io(error))) => return Err(Ended::Io(error)),
        Ok(Err(NotAuthenticated::Refused(refusal))) => refusal,
        Err(_) => {
            authenticate::log_timeout(&applicant);
            return Err(Ended::Quietly);
        }
    };
    refuse_entry(connection, silent, services, &refusal).await;
    Err(Ended::Quietly)
}

/// Logs why, and tells the client that it is not let in, the later the more it is to be held up.
async fn refuse_entry(
    connection: &mut Connection,
    silent: &Silent,
    services: &Services,
    refusal: &Refusal,
) {
    log_report(&refusal.for_log(), None);
    if refusal.has_failed {
        silent.failed();
        tokio::time::sleep(services.settings().auth_delay).await;
    }
    let said = connection.farewell(&refusal.report);
    // Who does not take it does not want to hear it.
    let _ = tokio::time::timeout(FAREWELL_TIMEOUT, said).await;
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
        Ended::Io(error) => tracing::info!("could not exchange data with client: {error}"),
    }
}

fn peer_address(stream: &Stream) -> Option<SocketAddr> {
    stream.tcp_socket().and_then(|socket| socket.peer_addr().ok())
}

/// Who it is, as far as one can tell before anything is said.
fn origin(stream: &Stream) -> Origin {
    let user = || stream.unix_socket()?.peer_cred().ok().map(|peer| peer.uid());
    match peer_address(stream) {
        Some(address) => Origin::of_address(address.ip()),
        None => Origin::User(user()),
    }
}

pub(super) fn host_and_port(peer: Option<SocketAddr>) -> String {
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

/// Reads packets up to the one that asks for a session, and leaves that as it came: decoded it may need many times its
/// bytes. PostgreSQL: `ProcessSSLStartup`, `ProcessStartupPacket`.
async fn first_packet(connection: &mut Connection, services: &Services) -> Result<Vec<u8>, Ended> {
    begin_direct_tls(connection, services).await?;
    let (mut ssl_done, mut gss_done) = (false, false);
    loop {
        let (packet, len) = match startup::decode(&connection.read) {
            Ok(Some(decoded)) => decoded,
            Ok(None) => {
                if !connection.fill_within(FIRST_PACKET_BYTES_MAX).await? {
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
        if let FirstPacket::Startup(_) = packet {
            let rest = connection.read.split_off(len);
            let mut packet = std::mem::replace(&mut connection.read, rest);
            packet.shrink_to_fit();
            return Ok(packet);
        }
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
            FirstPacket::CancelRequest { process_id, key } => {
                services.sessions.cancel_request(process_id, &key);
                return Err(Ended::Quietly);
            }
            FirstPacket::Startup(_) => unreachable!("it is what was waited for"),
        }
    }
}

fn refuse(violation: StartupViolation) -> Ended {
    Ended::Fatal(Report::fatal(violation.sqlstate(), violation.to_string()))
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
            system_user: self.identity.system_user(),
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
        if let Some(tls) = &self.tls {
            line.push_str(&tls.log_text());
        }
        tracing::info!("{line}");
    }
}

#[cfg(test)]
mod tests;
