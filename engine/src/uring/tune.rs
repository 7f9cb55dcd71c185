//! Options of TCP sockets, and where a connection leads.
//!
//! Not here: which value is good.

use std::io;
use std::os::fd::OwnedFd;

use socket2::{Domain, SockRef};

use crate::io::{CongestionControl, TcpTuning};

/// A congestion control that does not pace, which every kernel has and everybody may use.
const UNPACED: &str = "reno";
/// What the names of those that pace begin with: bbr, and those after it.
const PACED_PREFIX: &str = "bbr";

/// Sets what `tuning` asks for.
pub(super) fn tune(socket: &OwnedFd, tuning: &TcpTuning) -> io::Result<()> {
    let socket_ref = SockRef::from(socket);
    if socket_ref.domain()? == Domain::UNIX {
        return Ok(());
    }
    if let Some(bytes) = tuning.send_buffer {
        option_value(bytes)
            .and_then(|bytes| socket_ref.set_send_buffer_size(bytes))
            .map_err(|error| named(error, "SO_SNDBUF"))?;
    }
    if let Some(bytes) = tuning.notsent_lowat {
        option_value(bytes)
            .and_then(|bytes| socket_ref.set_tcp_notsent_lowat(bytes))
            .map_err(|error| named(error, "TCP_NOTSENT_LOWAT"))?;
    }
    match &tuning.congestion_control {
        CongestionControl::System => Ok(()),
        CongestionControl::Named(name) => set_congestion_control(&socket_ref, name),
        CongestionControl::UnpacedIfLocal => {
            let paces = congestion_control(&socket_ref)?.starts_with(PACED_PREFIX);
            if paces && peer_is_here(&socket_ref) == Some(true) {
                set_congestion_control(&socket_ref, UNPACED)
            } else {
                Ok(())
            }
        }
    }
}

/// Whether what is sent does not leave this machine; `None` for a socket that is not of TCP, or whose
/// peer is gone.
pub(super) fn peer_is_here(socket: &SockRef<'_>) -> Option<bool> {
    let local = socket.local_addr().ok()?.as_socket()?;
    let peer_ip = socket.peer_addr().ok()?.as_socket()?.ip().to_canonical();
    Some(peer_ip.is_loopback() || peer_ip == local.ip().to_canonical())
}

fn set_congestion_control(socket: &SockRef<'_>, name: &str) -> io::Result<()> {
    let refused = |error| named(error, &format!("TCP_CONGESTION \"{name}\""));
    socket.set_tcp_congestion(name.as_bytes()).map_err(refused)
}

fn congestion_control(socket: &SockRef<'_>) -> io::Result<String> {
    let name = socket.tcp_congestion().map_err(|error| named(error, "TCP_CONGESTION"))?;
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// A size as the kernel takes it, which is a C `int`.
fn option_value<T: TryFrom<i32>>(bytes: u64) -> io::Result<T> {
    let value = i32::try_from(bytes).ok().and_then(|value| T::try_from(value).ok());
    value.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn named(error: io::Error, name: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn tcp() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0.into(), far)
    }

    fn tuning(congestion_control: &str) -> TcpTuning {
        TcpTuning {
            send_buffer: Some(32 << 10),
            notsent_lowat: Some(16 << 10),
            congestion_control: CongestionControl::Named(congestion_control.to_owned()),
        }
    }

    #[test]
    fn the_socket_has_what_was_asked_for() {
        let (socket, _far) = tcp();
        tune(&socket, &tuning("reno")).unwrap();
        // The kernel doubles it for its own needs.
        assert_eq!(SockRef::from(&socket).send_buffer_size().unwrap(), 64 << 10);
        assert_eq!(congestion_control(&SockRef::from(&socket)).unwrap(), "reno");
    }

    #[test]
    fn nothing_is_paced_on_its_way_to_the_same_machine() {
        let unpaced = TcpTuning {
            congestion_control: CongestionControl::UnpacedIfLocal,
            ..TcpTuning::default()
        };
        let available =
            std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap();
        for name in available.split_ascii_whitespace() {
            let (socket, _far) = tcp();
            set_congestion_control(&SockRef::from(&socket), name).unwrap();
            tune(&socket, &TcpTuning::default()).unwrap();
            assert_eq!(congestion_control(&SockRef::from(&socket)).unwrap(), name);
            tune(&socket, &unpaced).unwrap();
            let want = if name.starts_with("bbr") { "reno" } else { name };
            assert_eq!(congestion_control(&SockRef::from(&socket)).unwrap(), want);
        }
        let (near, _far) = UnixStream::pair().unwrap();
        tune(&near.into(), &unpaced).unwrap();
    }

    #[test]
    fn a_refusal_names_the_option_and_other_sockets_are_left_alone() {
        let (socket, _far) = tcp();
        let error = tune(&socket, &tuning("no such thing")).unwrap_err();
        assert!(error.to_string().starts_with("TCP_CONGESTION \"no such thing\": "), "{error}");
        let (near, _far) = UnixStream::pair().unwrap();
        tune(&near.into(), &tuning("no such thing")).unwrap();
    }

    #[test]
    fn a_size_that_the_kernel_cannot_take_is_refused_and_not_cut() {
        let (socket, _far) = tcp();
        let huge = (1 << 32) + (32 << 10);
        for (sizes, option) in [
            (TcpTuning { send_buffer: Some(huge), ..tuning("reno") }, "SO_SNDBUF: "),
            (TcpTuning { notsent_lowat: Some(huge), ..tuning("reno") }, "TCP_NOTSENT_LOWAT: "),
        ] {
            let error = tune(&socket, &sizes).unwrap_err();
            assert!(error.to_string().starts_with(option), "{error}");
        }
    }
}
