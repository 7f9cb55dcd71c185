//! One run of a server: the data directory recovered, the cores started, the control plane run.
//!
//! Not here: what a core does (`hub`), what a connection gets (`net`).
//!
//! PostgreSQL: `PostmasterMain` (src/backend/postmaster/postmaster.c).

mod cores;
mod first_files;
mod notify;
mod reloader;
mod serve;
mod shared_loop;
mod title;
mod verifier;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use walhub_engine::files::OsFs;
use walhub_proto::hba::Method;
use walhub_proto::lsn::{Lsn, SystemIdentifier};
use walhub_proto::page::WalVersion;
use walhub_proto::password::MOCK_NONCE_LEN;
use walhub_proto::segment::SegmentSize;
use walhub_proto::wire::backend::Report;

use crate::backend::Sessions;
use crate::datadir::{DataDir, Status};
use crate::limits::{self, Connections, Insufficient};
use crate::logging::report_as_log;
use crate::net::access::Access;
use crate::net::authenticate::{Directory, Guard};
use crate::net::connect::{ConnectOptions, Notices, connect, parse_conninfo};
use crate::net::learner::Learner;
use crate::net::listen::Listener;
use crate::net::session::Services;
use crate::net::tls::{Acceptor, When};
use crate::placement::spawn_blocking;
use crate::roles::RoleStore;
use crate::settings::Settings;
use crate::signals::{ServerRequest, ShutdownMode, Signals};
use first_files::{write_first_files, write_ident_file};
use notify::Notify;
pub use reloader::Reloader;
pub(crate) use serve::serve;
use shared_loop::SharedLoop;
use title::Title;
use verifier::Verifier;
use walhub_hub::api::hub::Hub as _;
use walhub_hub::mail::{ConnectAnswer, StopMode, ToControl, Upstream};
use walhub_hub::publish::handle::{Handle, SenderAddress};
use walhub_hub::role::Role;
use walhub_hub::store::recover::{
    Choices, NewCluster, Recovered, create_cluster, recover, recover_as,
};

/// What a server starts with.
#[derive(Debug)]
pub struct ServeConfig {
    /// The data directory, locked until this is dropped: drop it last.
    pub data_dir: DataDir,
    /// The settings at start.
    pub settings: Settings,
    /// Reads them again.
    pub reloader: Reloader,
    /// Damaged WAL after this position is given up.
    pub accept_loss_after: Option<Lsn>,
    /// What pg_hba.conf begins with where there is none yet.
    pub first_rules: FirstRules,
}

/// How often the process title is brought up to date.
const TITLE_INTERVAL: Duration = Duration::from_secs(1);
/// How often a smart shutdown looks whether the SQL sessions have ended.
const SMART_INTERVAL: Duration = Duration::from_millis(50);

/// Serves until a signal stops the server.
///
/// # Errors
/// What ends the server early.
pub fn run(config: ServeConfig) -> anyhow::Result<ExitCode> {
    // Before any thread: it moves the memory that ps shows.
    let title = Title::init(&config.settings.cluster_name);
    let mut ready = Ready::new(config, Listener::bind)?;
    ready.server.title = Some(title);
    ready.server.notify = Notify::from_environment();
    let code = ready.run(Owner::Signals)?;
    tracing::info!("database system is shut down");
    Ok(code)
}

/// Who may stop or reload a server.
pub(crate) enum Owner {
    /// Whoever may send the process a signal.
    Signals,
    /// The program that it is a part of.
    Program(mpsc::UnboundedReceiver<ServerRequest>),
}

enum Requests {
    Signals(Signals),
    Program(mpsc::UnboundedReceiver<ServerRequest>),
}

impl Requests {
    fn of(owner: Owner) -> anyhow::Result<Self> {
        Ok(match owner {
            Owner::Signals => {
                Self::Signals(Signals::install().context("could not install signal handlers")?)
            }
            Owner::Program(requests) => Self::Program(requests),
        })
    }

    async fn next(&mut self) -> ServerRequest {
        match self {
            Self::Signals(signals) => signals.next().await,
            // A program that has let go of its server wants it stopped.
            Self::Program(requests) => {
                requests.recv().await.unwrap_or(ServerRequest::Shutdown(ShutdownMode::Fast))
            }
        }
    }
}

/// What the owner asks for, or a session by `pg_reload_conf()`.
async fn next_request(requests: &mut Requests, sessions: &Sessions) -> ServerRequest {
    tokio::select! {
        () = sessions.reload_wanted() => ServerRequest::Reload,
        request = requests.next() => request,
    }
}

/// A server that listens, and serves once it is run.
pub(crate) struct Ready {
    server: Server,
    listener: Listener,
    from_hub: mpsc::UnboundedReceiver<ToControl>,
    shared_loop: Option<SharedLoop>,
    verifier: Option<Verifier>,
    data_dir: DataDir,
}

impl Ready {
    /// Recovers the data directory, starts the cores and listens.
    pub(crate) fn new(
        config: ServeConfig,
        listen: impl FnOnce(&Settings) -> io::Result<Listener>,
    ) -> anyhow::Result<Self> {
        let ServeConfig { mut data_dir, settings, reloader, accept_loss_after, first_rules } =
            config;
        data_dir.watch().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => limits::thread_refused(&error).into(),
            _ => anyhow::Error::from(error).context(format!(
                "could not watch data directory \"{}\"",
                data_dir.path().display()
            )),
        })?;
        let settings = Arc::new(settings);
        if !settings.hub.primary_conninfo.is_empty() {
            parse_conninfo(&settings.hub.primary_conninfo)
                .map_err(|error| anyhow::anyhow!("invalid connection string syntax: {error}"))?;
        }
        let access = load_access(&data_dir, &settings, first_rules)?;
        let connections = limits::check_at_start(&settings)?;
        let mock_nonce = data_dir
            .mock_authentication_nonce()
            .context("could not read or write the nonce of authentication")?;
        let acceptor = Acceptor::load(&settings, data_dir.path(), When::Start);
        let acceptor = acceptor.map_err(Insufficient)?.map(Arc::new);
        walhub_engine::uring::io_uring_check()?;
        let roles = RoleStore::open(data_dir.path()).map_err(|report| Insufficient(*report))?;
        // One that was left is not meant for this life. PostgreSQL: RemovePromoteSignalFiles.
        let _stale = data_dir.take_promote_file();
        let recovered = recover_or_create(&data_dir, &settings, accept_loss_after)?;
        let recovered_to = recovered.wal.as_ref().map(|wal| wal.end);
        let control = recovered.wal.as_ref().and_then(|wal| wal.control.as_ref());
        if let Some(control) = control {
            limits::check_segment_size(control.segment_size)?;
        }
        let is_primary = recovered.role() == Role::Primary;
        let (to_control, from_hub) = mpsc::unbounded_channel();
        let disk = cores::choose_disk(data_dir.path(), &settings)?;
        let (settings_sender, settings_receiver) = watch::channel(Arc::clone(&settings));
        let (front, shared_loop) =
            cores::start(data_dir.path(), &settings, disk, recovered, to_control)?;
        let front = Arc::new(front);
        let listener = listen(&settings)?;
        announce(&data_dir, &settings, &listener);
        let learner = Learner::new(Arc::clone(&roles), front.clone(), settings_receiver.clone());
        let server = Server {
            front,
            settings: settings_sender,
            settings_receiver,
            acceptor: watch::Sender::new(acceptor),
            acceptor_reload: None,
            reloader,
            is_primary,
            connections,
            mock_nonce,
            access,
            roles,
            learner,
            title: None,
            notify: Notify::default(),
            attempt: None,
            notices: Notices::default(),
        };
        let verifier = recovered_to
            .map(|to| Verifier::start(data_dir.path().to_owned(), to, Arc::clone(&server.front)));
        Ok(Self { server, listener, from_hub, shared_loop, verifier, data_dir })
    }

    /// The hub, for who is in the same process.
    pub(crate) fn front(&self) -> Arc<Handle<OwnedFd>> {
        Arc::clone(&self.server.front)
    }

    /// Where it listens.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.listener.local_addrs()
    }

    /// Serves until the owner stops it.
    pub(crate) fn run(self, owner: Owner) -> anyhow::Result<ExitCode> {
        let Self { server, listener, from_hub, shared_loop, verifier: _verifier, data_dir } = self;
        tokio_uring::start(async {
            if let Some(shared_loop) = shared_loop {
                tokio::task::spawn_local(shared_loop.run(Arc::clone(&server.front)));
            }
            server.serve(listener, from_hub, &data_dir, Requests::of(owner)?).await
        })
    }
}

/// Reads who may come in. A data directory without files that say so gets those of a new one, which is how one of an
/// earlier walhub was used.
fn load_access(
    data_dir: &DataDir,
    settings: &Settings,
    first_rules: FirstRules,
) -> anyhow::Result<Arc<Access>> {
    let is_own = |file: &str| {
        let directory = Path::new(file).parent().and_then(|it| std::fs::canonicalize(it).ok());
        directory.is_some_and(|directory| directory == data_dir.path())
    };
    if is_own(&settings.hba_file) {
        write_first_files(data_dir, first_rules.local, first_rules.host)
            .map_err(|report| Insufficient(*report))?;
    } else if is_own(&settings.ident_file) {
        write_ident_file(data_dir).map_err(|report| Insufficient(*report))?;
    }
    Ok(Access::load(settings).map_err(|error| Insufficient(error.report()))?)
}

/// Reads what is there. Without an upstream, a new data directory becomes a primary's.
fn recover_or_create(
    data_dir: &DataDir,
    settings: &Settings,
    accept_loss_after: Option<Lsn>,
) -> anyhow::Result<Recovered> {
    let has_upstream = !settings.hub.primary_conninfo.is_empty();
    let choices = Choices { accept_loss_after, has_upstream };
    let recovered = recover_as(&OsFs, data_dir.path(), &choices)?;
    if recovered.is_promoted() && has_upstream {
        tracing::warn!(
            detail = "It writes WAL of its own, on a timeline of its own.",
            hint = "Remove primary_conninfo from the settings.",
            "primary_conninfo is ignored: this server has been promoted"
        );
    } else if recovered.role() == Role::Primary && has_upstream {
        anyhow::bail!(
            "data directory \"{}\" has WAL of its own and cannot receive that of an upstream: \
             unset primary_conninfo, or give the relay a data directory of its own",
            data_dir.path().display()
        );
    }
    if recovered.wal.is_some() || has_upstream {
        return Ok(recovered);
    }
    limits::check_segment_size(SegmentSize::DEFAULT)?;
    create_primary(data_dir, SegmentSize::DEFAULT, settings.wal_page_magic)?;
    Ok(recover(&OsFs, data_dir.path())?)
}

/// The methods of the lines that a first pg_hba.conf has.
#[derive(Clone, Copy, Debug)]
pub struct FirstRules {
    /// For Unix sockets.
    pub local: Method,
    /// For the loopback addresses.
    pub host: Method,
}

impl FirstRules {
    /// As initdb without options.
    pub const TRUST: Self = Self { local: Method::Trust, host: Method::Trust };
}

/// Makes a new data directory a primary's, when there is no WAL in it, with its roles and the files that say who may
/// come in.
///
/// # Errors
/// When there is, or the operating system refuses.
pub fn init(
    data_dir: &DataDir,
    segment_size: SegmentSize,
    version: WalVersion,
    rules: FirstRules,
    create_roles: impl FnOnce() -> Result<(), Box<Report>>,
) -> anyhow::Result<()> {
    if recover(&OsFs, data_dir.path())?.wal.is_some() {
        anyhow::bail!(
            "data directory \"{}\" has WAL in it already: give walhub init a new directory with -D",
            data_dir.path().display()
        );
    }
    // The control file comes last: whatever ends this in between, nobody comes in who was not meant to.
    create_roles()
        .and_then(|()| write_first_files(data_dir, rules.local, rules.host))
        .map_err(|report| Insufficient(*report))?;
    create_primary(data_dir, segment_size, version)
}

fn create_primary(
    data_dir: &DataDir,
    segment_size: SegmentSize,
    version: WalVersion,
) -> anyhow::Result<()> {
    let system_identifier = new_system_identifier();
    let new = NewCluster { system_identifier, segment_size, version };
    create_cluster(&OsFs, data_dir.path(), &new).context("could not write control file")?;
    tracing::info!(
        "created a primary of its own WAL: system identifier {system_identifier}, segments of {} MB",
        segment_size.bytes() >> 20
    );
    Ok(())
}

/// Different from that of any other cluster, most likely. PostgreSQL: `BootStrapXLOG`.
fn new_system_identifier() -> SystemIdentifier {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let pid = u64::from(std::process::id() & 0xFFF);
    SystemIdentifier(now.as_secs() << 32 | u64::from(now.subsec_micros()) << 12 | pid)
}

/// Says where the server listens, in the pid file.
fn announce(data_dir: &DataDir, settings: &Settings, listener: &Listener) {
    let address = listener.local_addrs().first().copied();
    let socket_dir = settings.unix_socket_directories.first();
    let socket_dir = socket_dir.map(|dir| dir.display().to_string()).unwrap_or_default();
    let port = address.map_or(settings.port, |address| address.port());
    let ip = address.map(|address| address.ip().to_string()).unwrap_or_default();
    if let Err(error) = data_dir.pid_file().set_listening(port, &ip, &socket_dir) {
        tracing::warn!("could not write lock file: {error}");
    }
}

struct Server {
    front: Arc<Handle<OwnedFd>>,
    settings: watch::Sender<Arc<Settings>>,
    settings_receiver: watch::Receiver<Arc<Settings>>,
    /// What connections over TLS are accepted with.
    acceptor: watch::Sender<Option<Arc<Acceptor>>>,
    acceptor_reload: Option<JoinHandle<()>>,
    reloader: Reloader,
    is_primary: bool,
    connections: Connections,
    mock_nonce: [u8; MOCK_NONCE_LEN],
    access: Arc<Access>,
    roles: Arc<RoleStore>,
    learner: Arc<Learner>,
    title: Option<Title>,
    notify: Notify,
    /// The attempt to reach the upstream that was begun last.
    attempt: Option<JoinHandle<()>>,
    /// What servers said before a session was ready.
    notices: Notices,
}

impl Server {
    async fn serve(
        mut self,
        listener: Listener,
        mut from_hub: mpsc::UnboundedReceiver<ToControl>,
        data_dir: &DataDir,
        mut requests: Requests,
    ) -> anyhow::Result<ExitCode> {
        let (terminate, terminated) = watch::channel(false);
        let services = Services::new(
            self.front.clone(),
            self.settings_receiver.clone(),
            Arc::clone(&self.roles),
            terminated,
            self.connections,
            Guard {
                access: Arc::clone(&self.access),
                directory: Arc::clone(&self.learner) as Arc<dyn Directory>,
                mock_nonce: self.mock_nonce,
                tls: self.acceptor.subscribe(),
            },
            serve,
        );
        self.learner.read_file().await;
        let listening = tokio::task::spawn_local(listener.run(Arc::clone(&services)));
        if self.is_primary {
            set_status(data_dir, Status::Ready);
            tracing::info!("database system is ready to accept connections");
        } else {
            set_status(data_dir, Status::Standby);
            tracing::info!("database system is ready to accept read-only connections");
        }
        self.notify.send("READY=1");
        let mut watchdog_due = tokio::time::interval(self.notify.watchdog_interval());
        let mut title_due = tokio::time::interval(TITLE_INTERVAL);
        let mut smart_due = tokio::time::interval(SMART_INTERVAL);
        let mut stopping: Option<ShutdownMode> = None;
        let mut draining = false;
        loop {
            tokio::select! {
                request = next_request(&mut requests, &services.sessions) => match request {
                    ServerRequest::Reload => {
                        self.reload(data_dir);
                        services.settings_changed();
                    }
                    ServerRequest::Promote => self.look_for_promote_file(data_dir),
                    ServerRequest::Shutdown(mode) if stopping.is_none_or(|earlier| mode > earlier) => {
                        tracing::info!("{}", mode.message());
                        stopping = Some(mode);
                        self.notify.send("STOPPING=1");
                        set_status(data_dir, Status::Stopping);
                        self.front.begin_stopping();
                        if mode == ShutdownMode::Immediate {
                            return Ok(ExitCode::SUCCESS);
                        }
                    }
                    ServerRequest::Shutdown(_) => {}
                },
                asked = from_hub.recv() => match asked {
                    Some(ToControl::Connect { conninfo }) => self.connect(conninfo),
                    Some(ToControl::GiveUpConnecting) => self.give_up_connecting(),
                    Some(ToControl::Commits) => self.front.look(),
                    Some(ToControl::Status) => self.show_title(),
                    Some(ToControl::Promoted) => self.promoted(data_dir),
                    Some(ToControl::Stopped) => {
                        listening.abort();
                        services.farewell().await;
                        return Ok(ExitCode::SUCCESS);
                    }
                    Some(ToControl::Failed(reason)) => anyhow::bail!(reason),
                    None => anyhow::bail!("a core ended unexpectedly"),
                },
                _ = title_due.tick() => {
                    self.show_title();
                    self.look_for_trigger_file(data_dir);
                }
                _ = watchdog_due.tick() => self.notify.send("WATCHDOG=1"),
                _ = smart_due.tick(), if stopping.is_some() && !draining => {
                    // Smart waits for the SQL sessions; fast ends them.
                    let may_drain = stopping >= Some(ShutdownMode::Fast) || services.sql_sessions() == 0;
                    if may_drain {
                        draining = true;
                        terminate.send_replace(true);
                        self.front.stop(StopMode::Fast);
                    }
                }
            }
        }
    }

    /// From now on this is a primary.
    fn promoted(&mut self, data_dir: &DataDir) {
        self.front.end_recovery();
        self.show_title();
        // Who waits for the promotion looks here.
        set_status(data_dir, Status::Ready);
        tracing::info!("database system is ready to accept connections");
    }

    /// A signal asks for a promotion if the file is there. PostgreSQL: `CheckPromoteSignal`.
    fn look_for_promote_file(&self, data_dir: &DataDir) {
        if data_dir.take_promote_file() {
            self.promote();
        }
    }

    /// PostgreSQL 13 to 15: `CheckForStandbyTrigger`.
    fn look_for_trigger_file(&self, data_dir: &DataDir) {
        let name = self.settings.borrow().promote_trigger_file.clone();
        if name.is_empty() || !self.front.in_recovery() {
            return;
        }
        let path = data_dir.path().join(name);
        match std::fs::remove_file(&path) {
            Ok(()) => {
                tracing::info!("promote trigger file found: {}", path.display());
                self.promote();
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(
                "could not remove promote trigger file \"{}\": {error}",
                path.display()
            ),
        }
    }

    /// What comes of it is in the log.
    fn promote(&self) {
        drop(self.front.promote());
    }

    fn show_title(&mut self) {
        if let Some(title) = &mut self.title {
            title.show(&self.front);
        }
    }

    /// Reads certificates again, whether or not a setting has changed. A command that gives a passphrase may take a while.
    ///
    /// PostgreSQL: `secure_initialize` in `process_pm_reload_request`.
    fn reload_tls(&mut self, data_dir: &DataDir) {
        let (settings, directory) =
            (Arc::clone(&self.settings.borrow()), data_dir.path().to_owned());
        let acceptors = self.acceptor.clone();
        let load = move || Acceptor::load(&settings, &directory, When::Reload);
        let reload = async move {
            match spawn_blocking(load).await {
                Ok(Ok(acceptor)) => drop(acceptors.send_replace(acceptor.map(Arc::new))),
                Ok(Err(report)) => {
                    report_as_log(&report);
                    tracing::info!("SSL configuration was not reloaded");
                }
                Err(_) => tracing::info!("SSL configuration was not reloaded"),
            }
        };
        // The last one counts.
        if let Some(earlier) = self.acceptor_reload.replace(tokio::task::spawn_local(reload)) {
            earlier.abort();
        }
    }

    fn reload(&mut self, data_dir: &DataDir) {
        if let Some(settings) = self.reloader.reload() {
            let settings = Arc::new(settings.clone());
            self.settings.send_replace(Arc::clone(&settings));
        }
        self.reload_tls(data_dir);
        let (access, settings) = (Arc::clone(&self.access), self.settings_receiver.clone());
        drop(spawn_blocking(move || access.reload(&settings)));
        let learner = Arc::clone(&self.learner);
        tokio::task::spawn_local(async move { learner.read_file().await });
        self.notices.forget();
        // Unchanged settings too: a reload is how the operator has the upstream tried again.
        self.front.reload(Arc::new(self.settings.borrow().hub.clone()));
    }

    fn connect(&mut self, conninfo: String) {
        let front = Arc::clone(&self.front);
        let settings = self.settings.borrow();
        let name = if settings.cluster_name.is_empty() { "walhub" } else { &settings.cluster_name };
        let options = ConnectOptions {
            fallback_application_name: name.to_owned(),
            timeout: settings.hub.wal_receiver_timeout,
            notices: self.notices.clone(),
        };
        drop(settings);
        self.attempt = Some(tokio::task::spawn_local(async move {
            let answer = match try_connect(&conninfo, options, &front).await {
                Ok(upstream) => ConnectAnswer::Connected(upstream),
                Err(answer) => answer,
            };
            front.answer_connect(answer);
        }));
    }

    /// The wal core gets one answer to each attempt, and this is it, unless it was under way already.
    fn give_up_connecting(&mut self) {
        if let Some(attempt) = self.attempt.take().filter(|attempt| !attempt.is_finished()) {
            attempt.abort();
            let text = "the attempt to connect was given up".to_owned();
            self.front.answer_connect(ConnectAnswer::Failed(text));
        }
    }
}

/// The connection, or the mail that says why there is none.
async fn try_connect(
    conninfo: &str,
    options: ConnectOptions,
    front: &Handle<OwnedFd>,
) -> Result<Upstream<OwnedFd>, ConnectAnswer<OwnedFd>> {
    let parsed = parse_conninfo(conninfo).map_err(|error| {
        ConnectAnswer::Failed(format!("invalid connection string syntax: {error}"))
    })?;
    let conn = connect(&parsed, options).await.map_err(|error| {
        let text = format!("could not connect to the primary server: {error}");
        if error.is_refusal() { ConnectAnswer::Refused(text) } else { ConnectAnswer::Failed(text) }
    })?;
    front.set_sender(SenderAddress {
        host: conn.host,
        port: conn.port,
        conninfo: parsed.redacted().to_owned(),
    });
    Ok(Upstream {
        conn: conn.fd,
        tls: conn.tls,
        unread: conn.unread,
        server_version: conn.server_version,
        server_version_num: conn.server_version_num,
    })
}

fn set_status(data_dir: &DataDir, status: Status) {
    if let Err(error) = data_dir.pid_file().set_status(status) {
        tracing::warn!("could not write lock file: {error}");
    }
}
