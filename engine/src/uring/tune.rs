//! TCP options that socket2 has no call for, and those that go with them.
//!
//! Not here: which value is good.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use socket2::{Domain, SockRef};

use crate::io::TcpTuning;

/// Sets what `tuning` asks for.
pub(super) fn tune(socket: &OwnedFd, tuning: &TcpTuning) -> io::Result<()> {
    let socket_ref = SockRef::from(socket);
    if socket_ref.domain()? == Domain::UNIX {
        return Ok(());
    }
    if let Some(bytes) = tuning.send_buffer {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        socket_ref.set_send_buffer_size(bytes).map_err(|error| named(error, "SO_SNDBUF"))?;
    }
    if let Some(bytes) = tuning.notsent_lowat {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        set(socket, libc::TCP_NOTSENT_LOWAT, &bytes.to_ne_bytes(), "TCP_NOTSENT_LOWAT")?;
    }
    if let Some(name) = &tuning.congestion_control {
        let shown = format!("TCP_CONGESTION \"{name}\"");
        set(socket, libc::TCP_CONGESTION, name.as_bytes(), &shown)?;
    }
    Ok(())
}

fn set(socket: &OwnedFd, option: libc::c_int, value: &[u8], name: &str) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).expect("an option is short");
    // SAFETY: the kernel reads `value`, which outlives the call.
    let result = unsafe {
        let value = value.as_ptr().cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, value, len)
    };
    if result < 0 { Err(named(io::Error::last_os_error(), name)) } else { Ok(()) }
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
            congestion_control: Some(congestion_control.to_owned()),
        }
    }

    #[test]
    fn the_socket_has_what_was_asked_for() {
        let (socket, _far) = tcp();
        tune(&socket, &tuning("reno")).unwrap();
        // The kernel doubles it for its own needs.
        assert_eq!(SockRef::from(&socket).send_buffer_size().unwrap(), 64 << 10);
        let mut name = [0_u8; 16];
        let mut len: libc::socklen_t = 16;
        // SAFETY: the kernel writes at most `len` bytes, into locals that outlive the call.
        let result = unsafe {
            let value = name.as_mut_ptr().cast();
            let fd = socket.as_raw_fd();
            libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, value, &raw mut len)
        };
        assert_eq!((result, &name[..5]), (0, &b"reno\0"[..]));
    }

    #[test]
    fn a_refusal_names_the_option_and_other_sockets_are_left_alone() {
        let (socket, _far) = tcp();
        let error = tune(&socket, &tuning("no such thing")).unwrap_err();
        assert!(error.to_string().starts_with("TCP_CONGESTION \"no such thing\": "), "{error}");
        let (near, _far) = UnixStream::pair().unwrap();
        tune(&near.into(), &tuning("no such thing")).unwrap();
    }
}
