//! Sockets to one address, set up as libpq sets them up.

use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use walhub_proto::conninfo::Keepalives;

use super::environment;
use super::error::Cause;
use crate::strerror::strerror;

/// Longest path of a unix socket. PostgreSQL: `UNIXSOCK_PATH_BUFLEN`.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Connects over TCP.
pub(super) async fn connect_tcp(
    address: SocketAddr,
    keepalives: &Keepalives,
) -> Result<TcpStream, Cause> {
    let stream = TcpStream::connect(address).await.map_err(Cause::Connect)?;
    set_options(&stream, keepalives).map_err(|(name, error)| {
        Cause::Refused(format!("setsockopt({name}) failed: {}", strerror(&error)))
    })?;
    Ok(stream)
}

fn set_options(
    stream: &TcpStream,
    keepalives: &Keepalives,
) -> Result<(), (&'static str, io::Error)> {
    stream.set_nodelay(true).map_err(|error| ("TCP_NODELAY", error))?;
    let socket = SockRef::from(stream);
    if keepalives.enabled {
        let seconds = |s: u32| Duration::from_secs(s.into());
        socket.set_keepalive(true).map_err(|error| ("SO_KEEPALIVE", error))?;
        if let Some(idle) = keepalives.idle_s.map(seconds) {
            let option = TcpKeepalive::new().with_time(idle);
            socket.set_tcp_keepalive(&option).map_err(|error| ("TCP_KEEPIDLE", error))?;
        }
        if let Some(interval) = keepalives.interval_s.map(seconds) {
            let option = TcpKeepalive::new().with_interval(interval);
            socket.set_tcp_keepalive(&option).map_err(|error| ("TCP_KEEPINTVL", error))?;
        }
        if let Some(count) = keepalives.count {
            let option = TcpKeepalive::new().with_retries(count);
            socket.set_tcp_keepalive(&option).map_err(|error| ("TCP_KEEPCNT", error))?;
        }
    }
    if let Some(ms) = keepalives.user_timeout_ms {
        let timeout = Some(Duration::from_millis(ms.into()));
        socket.set_tcp_user_timeout(timeout).map_err(|error| ("TCP_USER_TIMEOUT", error))?;
    }
    Ok(())
}

/// Connects to a unix socket and checks who owns the other end.
pub(super) async fn connect_unix(
    path: &str,
    requirepeer: Option<&str>,
) -> Result<UnixStream, Cause> {
    if path.len() > SOCKET_PATH_BYTES_MAX {
        return Err(Cause::Refused(format!(
            "Unix-domain socket path \"{path}\" is too long (maximum {SOCKET_PATH_BYTES_MAX} bytes)"
        )));
    }
    let stream = match path.strip_prefix('@') {
        // A local connect never waits for a network, so the blocking call is good enough.
        Some(name) => net::SocketAddr::from_abstract_name(name)
            .and_then(|address| net::UnixStream::connect_addr(&address))
            .and_then(|stream| stream.set_nonblocking(true).map(|()| stream))
            .and_then(UnixStream::from_std),
        None => UnixStream::connect(path).await,
    };
    let stream = stream.map_err(Cause::Connect)?;
    if let Some(user) = requirepeer {
        let actual = stream.peer_cred()?.uid();
        if environment::uid_of(user) != Some(actual) {
            return Err(Cause::Refused(format!(
                "requirepeer specifies \"{user}\", but actual peer user id is {actual}"
            )));
        }
    }
    Ok(stream)
}
