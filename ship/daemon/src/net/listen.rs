//! Listens on TCP and unix sockets.
//!
//! PostgreSQL: `StreamServerPort`, `StreamConnection` (src/backend/libpq/pqcomm.c), `ServerLoop`
//! (src/backend/postmaster/postmaster.c).

mod socket_file;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::task::JoinSet;

use self::socket_file::SocketFile;
use super::session::{Services, serve_connection, too_many_clients};
use super::stream::{Connection, Stream};
use crate::settings::Settings;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 200;

/// Pause when no descriptor or memory is left for a connection, so that accepting does not spin.
/// PostgreSQL: `StreamConnection`.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Every socket that clients connect to. Unix socket files go away with it.
#[derive(Debug)]
pub struct Listener {
    tcp: Vec<TcpListener>,
    unix: Vec<(UnixListener, SocketFile)>,
}

impl Listener {
    /// Listens on `listen_addresses` and in `unix_socket_directories`.
    ///
    /// An address that fails is a warning. With port 0 the kernel chooses, and every address gets
    /// the same one.
    ///
    /// # Errors
    /// When every address fails, every directory fails, or there is neither.
    pub fn bind(settings: &Settings) -> io::Result<Self> {
        let listener = Self::bind_configured(settings)?;
        if listener.tcp.is_empty() && listener.unix.is_empty() {
            return Err(io::Error::other("no socket created for listening"));
        }
        Ok(listener)
    }

    /// As [`Listener::bind`], but there may be nothing to listen on.
    ///
    /// # Errors
    /// When every address fails, or every directory fails.
    pub fn bind_configured(settings: &Settings) -> io::Result<Self> {
        let tcp = bind_addresses(settings)?;
        let port = tcp.iter().find_map(|listener| listener.local_addr().ok());
        let port = port.map_or(settings.port, |address| address.port());
        let unix = bind_directories(settings, port)?;
        Ok(Self { tcp, unix })
    }

    /// The TCP addresses, with the port that was really taken.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Accepts connections until the future is dropped, and serves each as a local task of its
    /// own, which lives on.
    ///
    /// # Errors
    /// When the sockets cannot be given to the runtime.
    ///
    /// # Panics
    /// Outside a `LocalSet`.
    pub async fn run(self, services: Arc<Services>) -> io::Result<()> {
        let mut accepting = JoinSet::new();
        for listener in self.tcp {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            accepting.spawn_local(accept_tcp(listener, Arc::clone(&services)));
        }
        let mut files = Vec::new();
        for (listener, file) in self.unix {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::UnixListener::from_std(listener)?;
            accepting.spawn_local(accept_unix(listener, Arc::clone(&services)));
            files.push(file);
        }
        while let Some(ended) = accepting.join_next().await {
            if let Err(error) = ended {
                return Err(io::Error::other(error));
            }
        }
        Ok(())
    }
}

fn bind_addresses(settings: &Settings) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    let mut port = settings.port;
    for host in &settings.listen_addresses {
        let before = listeners.len();
        match resolve(host, port) {
            Ok(addresses) => {
                for mut address in addresses {
                    address.set_port(port);
                    if let Some(listener) = bind_tcp(address, &mut port) {
                        listeners.push(listener);
                    }
                }
            }
            Err(error) => tracing::info!(
                "could not translate host name \"{host}\", service \"{port}\" to address: {error}"
            ),
        }
        if listeners.len() == before {
            tracing::warn!("could not create listen socket for \"{host}\"");
        }
    }
    if listeners.is_empty() && !settings.listen_addresses.is_empty() {
        return Err(io::Error::other("could not create any TCP/IP sockets"));
    }
    Ok(listeners)
}

fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host == "*" {
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        return Ok(any.map(|ip| SocketAddr::new(ip, port)).to_vec());
    }
    let mut addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    addresses.dedup();
    Ok(addresses)
}

/// Binds one address; `port` becomes the one that the kernel chose when it was 0.
fn bind_tcp(address: SocketAddr, port: &mut u16) -> Option<TcpListener> {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let bound = listen_tcp(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
    match bound {
        Ok((local, listener)) => {
            *port = local.port();
            tracing::info!(
                "listening on {family} address \"{}\", port {}",
                local.ip(),
                local.port()
            );
            Some(listener)
        }
        Err(error) => {
            let hint = (error.kind() == io::ErrorKind::AddrInUse).then(|| {
                format!(
                    "Is another postmaster already running on port {}? If not, wait a few \
                     seconds and retry.",
                    address.port()
                )
            });
            let ip = address.ip();
            tracing::info!(hint, "could not bind {family} address \"{ip}\": {error}");
            None
        }
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // The IPv4 half of the wildcard has a socket of its own.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_directories(settings: &Settings, port: u16) -> io::Result<Vec<(UnixListener, SocketFile)>> {
    let mut listeners = Vec::new();
    for directory in &settings.unix_socket_directories {
        match socket_file::bind(directory, port) {
            Ok((listener, file)) => {
                tracing::info!("listening on Unix socket \"{}\"", file.path().display());
                listeners.push((listener, file));
            }
            Err(error) => {
                tracing::info!("{error}");
                let directory = directory.display();
                tracing::warn!("could not create Unix-domain socket in directory \"{directory}\"");
            }
        }
    }
    if listeners.is_empty() && !settings.unix_socket_directories.is_empty() {
        return Err(io::Error::other("could not create any Unix-domain sockets"));
    }
    Ok(listeners)
}

async fn accept_tcp(listener: tokio::net::TcpListener, services: Arc<Services>) {
    let mut exhausted = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                exhausted = false;
                if let Err(error) = set_options(&stream, &services.settings()) {
                    tracing::info!("could not set socket options: {error}");
                }
                spawn(Stream::tcp(stream), &services).await;
            }
            Err(error) => accept_failed(&error, &mut exhausted).await,
        }
    }
}

async fn accept_unix(listener: tokio::net::UnixListener, services: Arc<Services>) {
    let mut exhausted = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                exhausted = false;
                spawn(Stream::unix(stream), &services).await;
            }
            Err(error) => accept_failed(&error, &mut exhausted).await,
        }
    }
}

/// Says once that there are no means to accept, and waits for some; a connection that went away
/// before it was accepted is nobody's concern.
async fn accept_failed(error: &io::Error, exhausted: &mut bool) {
    if error.kind() == io::ErrorKind::ConnectionAborted {
        return;
    }
    if !std::mem::replace(exhausted, true) {
        tracing::info!("could not accept new connection: {error}");
    }
    tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
}

/// PostgreSQL: `MaxLivePostmasterChildren` leaves room for connections that have not yet said what they want. Here the
/// descriptors have a say in it, and who is silent makes room (`unadmitted`).
async fn spawn(stream: Stream, services: &Arc<Services>) {
    let Some((silent, slot)) = services.take_in(&stream).await else {
        let mut connection = Connection::new(stream, Vec::new());
        connection.refuse_at_once(&too_many_clients());
        return;
    };
    let services = Arc::clone(services);
    tokio::task::spawn_local(async move {
        serve_connection(stream, silent, services).await;
        drop(slot);
    });
}

/// PostgreSQL: `StreamConnection`, `pq_setkeepalivesidle`.
fn set_options(stream: &tokio::net::TcpStream, settings: &Settings) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let mut keepalive = TcpKeepalive::new();
    if let Some(idle) = settings.tcp_keepalives_idle {
        keepalive = keepalive.with_time(idle);
    }
    if let Some(interval) = settings.tcp_keepalives_interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(count) = settings.tcp_keepalives_count {
        keepalive = keepalive.with_retries(count);
    }
    socket.set_keepalive(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    if settings.tcp_user_timeout.is_some() {
        socket.set_tcp_user_timeout(settings.tcp_user_timeout)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
