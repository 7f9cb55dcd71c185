//! One run of a server: the data directory recovered, the cores started, the control plane run.
//!
//! Not here: what a core does (`hub`), what a connection gets (`control`).
//!
//! PostgreSQL: `PostmasterMain` (src/backend/postmaster/postmaster.c).

mod cores;
mod notify;
mod title;

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use walhub_engine::files::OsFs;
use walhub_engine::mailbox::Sender;

use crate::control::connect::{ConnectOptions, connect, parse_conninfo};
use crate::control::listen::Listener;
use crate::control::session::Services;
use crate::datadir::{DataDir, Status};
use crate::hub::front::{Front, SenderAddress};
use crate::hub::messages::{StopMode, ToControl, ToWal, Upstream};
use crate::hub::recover::recover;
use crate::settings::{Reloader, Settings};
use crate::signals::{Request, ShutdownMode, Signals};
use cores::Cores;
use notify::Notify;
use title::Title;

/// What a server starts with.
#[derive(Debug)]
pub struct ServeConfig {
    /// The data directory, locked until this is dropped: drop it last.
    pub data_dir: DataDir,
    /// The settings at start.
    pub settings: Settings,
    /// Reads them again.
    pub reloader: Reloader,
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
    let ServeConfig { data_dir, settings, reloader } = config;
    let settings = Arc::new(settings);
    if !settings.primary_conninfo.is_empty() {
        parse_conninfo(&settings.primary_conninfo)
            .map_err(|error| anyhow::anyhow!("invalid connection string syntax: {error}"))?;
    }
    walhub_engine::uring::io_uring_check()?;
    let recovered = recover(&OsFs, data_dir.path())?;
    let (to_control, from_hub) = mpsc::unbounded_channel();
    let disk = cores::choose_disk(data_dir.path(), &settings)?;
    let (settings_sender, settings_receiver) = watch::channel(Arc::clone(&settings));
    let cores = Cores::start(data_dir.path(), &settings, disk, recovered, to_control)?;
    let front = Arc::new(Front::new(
        Arc::clone(&cores.shared),
        Arc::clone(&cores.standbys),
        Arc::clone(&cores.slots),
        cores.to_wal.clone(),
        data_dir.pg_wal(),
        settings_receiver.clone(),
    ));
    let listener = Listener::bind(&settings)?;
    announce(&data_dir, &settings, &listener);
    let server = Server {
        to_wal: cores.to_wal,
        front,
        settings: settings_sender,
        settings_receiver,
        reloader,
        title,
        notify: Notify::from_environment(),
    };
    let code = tokio_uring::start(server.serve(listener, from_hub, &data_dir))?;
    tracing::info!("database system is shut down");
    Ok(code)
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
    to_wal: Sender<ToWal<OwnedFd>>,
    front: Arc<Front>,
    settings: watch::Sender<Arc<Settings>>,
    settings_receiver: watch::Receiver<Arc<Settings>>,
    reloader: Reloader,
    title: Title,
    notify: Notify,
}

impl Server {
    async fn serve(
        mut self,
        listener: Listener,
        mut from_hub: mpsc::UnboundedReceiver<ToControl>,
        data_dir: &DataDir,
    ) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::install().context("could not install signal handlers")?;
        let (terminate, terminated) = watch::channel(false);
        let services =
            Services::new(self.front.clone(), self.settings_receiver.clone(), terminated);
        let listening = tokio::task::spawn_local(listener.run(Arc::clone(&services)));
        set_status(data_dir, Status::Standby);
        tracing::info!("database system is ready to accept read-only connections");
        self.notify.send("READY=1");
        let mut watchdog_due = tokio::time::interval(self.notify.watchdog_interval());
        let mut title_due = tokio::time::interval(TITLE_INTERVAL);
        let mut smart_due = tokio::time::interval(SMART_INTERVAL);
        let mut stopping: Option<ShutdownMode> = None;
        let mut draining = false;
        loop {
            tokio::select! {
                request = signals.next() => match request {
                    Request::Reload => self.reload(),
                    Request::Shutdown(mode) if stopping.is_none_or(|earlier| mode > earlier) => {
                        tracing::info!("{}", mode.message());
                        stopping = Some(mode);
                        self.notify.send("STOPPING=1");
                        set_status(data_dir, Status::Stopping);
                        self.front.begin_stopping();
                        if mode == ShutdownMode::Immediate {
                            return Ok(ExitCode::SUCCESS);
                        }
                    }
                    Request::Shutdown(_) => {}
                },
                asked = from_hub.recv() => match asked {
                    Some(ToControl::Connect { conninfo }) => self.connect(conninfo),
                    Some(ToControl::Status) => self.title.show(&self.front),
                    Some(ToControl::Stopped) => {
                        listening.abort();
                        return Ok(ExitCode::SUCCESS);
                    }
                    Some(ToControl::Failed(reason)) => anyhow::bail!(reason),
                    None => anyhow::bail!("a core ended unexpectedly"),
                },
                _ = title_due.tick() => self.title.show(&self.front),
                _ = watchdog_due.tick() => self.notify.send("WATCHDOG=1"),
                _ = smart_due.tick(), if stopping.is_some() && !draining => {
                    // Smart waits for the SQL sessions; fast ends them.
                    let may_drain = stopping >= Some(ShutdownMode::Fast) || services.sql_sessions() == 0;
                    if may_drain {
                        draining = true;
                        terminate.send_replace(true);
                        self.mail(ToWal::Stop(StopMode::Fast));
                    }
                }
            }
        }
    }

    /// The wal core reads its mail at each turn, so it is never full.
    fn mail(&self, mail: ToWal<OwnedFd>) {
        assert!(self.to_wal.send(mail).is_ok(), "the wal core does not read its mail");
    }

    fn reload(&mut self) {
        if let Some(settings) = self.reloader.reload() {
            let settings = Arc::new(settings.clone());
            self.settings.send_replace(Arc::clone(&settings));
        }
        // Unchanged settings too: a reload is how the operator has the upstream tried again.
        let settings = Arc::clone(&self.settings.borrow());
        self.mail(ToWal::Settings(settings));
    }

    fn connect(&self, conninfo: String) {
        let (front, to_wal) = (Arc::clone(&self.front), self.to_wal.clone());
        let cluster_name = self.settings.borrow().cluster_name.clone();
        tokio::task::spawn_local(async move {
            let mail = match try_connect(&conninfo, &cluster_name, &front).await {
                Ok(upstream) => ToWal::Connected(upstream),
                Err(reason) => ToWal::ConnectFailed(reason),
            };
            assert!(to_wal.send(mail).is_ok(), "the wal core does not read its mail");
        });
    }
}

async fn try_connect(
    conninfo: &str,
    cluster_name: &str,
    front: &Front,
) -> Result<Upstream<OwnedFd>, String> {
    let parsed = parse_conninfo(conninfo)
        .map_err(|error| format!("invalid connection string syntax: {error}"))?;
    let name = if cluster_name.is_empty() { "walhub" } else { cluster_name };
    let options = ConnectOptions { fallback_application_name: name.to_owned() };
    let conn = connect(&parsed, options)
        .await
        .map_err(|error| format!("could not connect to the primary server: {error}"))?;
    front.set_sender(SenderAddress {
        host: conn.host,
        port: conn.port,
        conninfo: parsed.redacted().to_owned(),
    });
    Ok(Upstream {
        conn: conn.fd,
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
