//! Connections of TCP on this machine. What the far end has no room for stays with the kernel, in the
//! memory that it was sent from.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use smallvec::smallvec;

use super::*;
use crate::buffer::SlabPool;
use crate::io::{Head, Io, Op, Token};
use crate::uring::UringConfig;

const LEN: usize = 256 << 10;
const TOKEN: Token = Token(5);

fn ring() -> Uring {
    Uring::new(UringConfig::default()).unwrap()
}

/// A socket, and its far end that has little room.
fn tcp() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&listener).set_recv_buffer_size(LEN / 4).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    SockRef::from(&near).set_send_buffer_size(4 * LEN).unwrap();
    let far = listener.accept().unwrap().0;
    (near.into(), far)
}

/// A pool of one slab, of which everything is to be sent, and what that is.
fn slab() -> (SlabPool, Bytes, Vec<u8>) {
    let pool = SlabPool::new(LEN, 1);
    let want: Vec<u8> = (0..LEN).map(|at| at.to_le_bytes()[at % 3]).collect();
    let mut writer = pool.take().unwrap();
    assert_eq!(writer.append(&want), LEN);
    let bytes = writer.slab().slice(0..LEN);
    (pool, bytes, want)
}

/// Takes completions until there is one.
fn next(ring: &mut Uring) -> io::Result<Done> {
    let mut completions = Vec::new();
    while completions.is_empty() {
        ring.wait(None, &mut completions).unwrap();
    }
    assert_eq!(completions.len(), 1, "{completions:?}");
    let completion = completions.pop().unwrap();
    assert_eq!(completion.token, TOKEN);
    completion.result
}

/// Whether nothing completes for a while.
fn is_quiet(ring: &mut Uring) -> bool {
    let mut completions = Vec::new();
    let soon = ring.now_ns() + 20_000_000;
    ring.wait(Some(soon), &mut completions).unwrap();
    completions.is_empty()
}

/// A ring with a socket that has taken everything, of which the far end has no room for the most.
fn sent() -> (Uring, SocketId, TcpStream, SlabPool, Vec<u8>) {
    let mut ring = ring();
    let (near, far) = tcp();
    let socket = ring.adopt(near);
    let (pool, bytes, want) = slab();
    let (head, body) = (Head::new(b"head"), smallvec![bytes]);
    ring.submit(TOKEN, Op::SendZeroCopy { socket, head, body });
    let done = next(&mut ring).unwrap();
    assert!(matches!(done, Done::Sent(count) if count == LEN + 4), "{done:?}");
    assert!(is_quiet(&mut ring));
    (ring, socket, far, pool, want)
}

#[track_caller]
fn assert_received(far: &mut TcpStream, want: &[u8]) {
    let mut got = vec![0; 4 + LEN];
    far.read_exact(&mut got).unwrap();
    assert!(got[..4] == *b"head" && got[4..] == *want);
}

fn assert_released(ring: &mut Uring, pool: &SlabPool) {
    // On its way through this machine it is copied, and the kernel says so.
    let released = next(ring).unwrap();
    let want = Released { bytes: LEN + 4, copied: true };
    assert!(matches!(released, Done::Released(released) if released == want), "{released:?}");
    assert!(pool.take().is_some());
}

#[test]
fn memory_is_the_kernels_until_the_far_end_has_room() {
    let (mut ring, socket, mut far, pool, want) = sent();
    assert!(pool.take().is_none());
    assert_received(&mut far, &want);
    assert_released(&mut ring, &pool);
    // A box that is used again says nothing of what it was.
    ring.submit(TOKEN, Op::Send { socket, head: Head::new(b"x"), body: smallvec![] });
    assert!(matches!(next(&mut ring), Ok(Done::Sent(1))));
}

#[test]
fn a_socket_that_is_closed_before_still_sends_from_this_memory() {
    let (mut ring, socket, mut far, pool, want) = sent();
    ring.close_socket(socket);
    assert!(is_quiet(&mut ring) && pool.take().is_none());
    // Its number is another one's now, which has nothing to do with it.
    let other = ring.adopt(tcp().0);
    assert_eq!(other, socket);
    ring.close_socket(other);
    assert_received(&mut far, &want);
    assert_released(&mut ring, &pool);
}

#[test]
fn a_socket_of_another_ring_by_now_is_released_here() {
    let (mut first, socket, mut far, pool, want) = sent();
    let mut second = ring();
    let socket = second.adopt(first.release(socket));
    assert!(is_quiet(&mut first) && pool.take().is_none());
    assert_received(&mut far, &want);
    assert_released(&mut first, &pool);
    second.submit(TOKEN, Op::Send { socket, head: Head::new(b"x"), body: smallvec![] });
    assert!(matches!(next(&mut second), Ok(Done::Sent(1))));
}

#[test]
fn an_abort_releases_at_once_what_a_shutdown_does_not() {
    let (mut ring, socket, mut far, pool, _) = sent();
    ring.shutdown(socket);
    assert!(is_quiet(&mut ring) && pool.take().is_none());
    ring.abort_socket(socket);
    assert!(
        matches!(next(&mut ring), Ok(Done::Released(Released { bytes, .. })) if bytes == LEN + 4)
    );
    assert!(pool.take().is_some());
    let error = far.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_ring_that_is_dropped_gets_the_memory_of_its_sockets_back() {
    let (ring, _, _far, pool, _) = sent();
    drop(ring);
    assert!(pool.take().is_some());
}

#[test]
fn memory_that_is_still_sent_from_outlives_its_ring() {
    let (mut ring, socket, mut far, pool, want) = sent();
    let conn = ring.release(socket);
    drop(ring);
    assert!(pool.take().is_none());
    assert_received(&mut far, &want);
    drop(conn);
    // Nobody is left to hear of it: lost, and never used again.
    assert!(pool.take().is_none());
}

#[test]
fn what_fails_is_not_released() {
    let mut ring = ring();
    let (near, far) = UnixStream::pair().unwrap();
    let socket = ring.adopt(near.into());
    assert_eq!(ring.zero_copy(socket), ZeroCopy::Unsupported);
    let body = || smallvec![Bytes::from_static(&[7; 4096])];
    ring.submit(TOKEN, Op::SendZeroCopy { socket, head: Head::new(b"h"), body: body() });
    let error = next(&mut ring).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    ring.close_socket(socket);
    drop(far);

    let (near, far) = tcp();
    let socket = ring.adopt(near);
    assert_eq!(ring.zero_copy(socket), ZeroCopy::Local);
    // As on a kernel before 6.1.
    ring.has_zero_copy_send = false;
    assert_eq!(ring.zero_copy(socket), ZeroCopy::Unsupported);
    SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
    drop(far);
    ring.submit(TOKEN, Op::SendZeroCopy { socket, head: Head::new(b"h"), body: body() });
    let error = next(&mut ring).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(is_quiet(&mut ring));
    assert_eq!(ring.operations.under_way(), 0);
}

#[test]
fn a_send_that_waits_ends_with_its_socket() {
    let mut ring = ring();
    let (near, _far) = tcp();
    SockRef::from(&near).set_send_buffer_size(4096).unwrap();
    let socket = ring.adopt(near);
    let (pool, bytes, _) = slab();
    let head = Head::new(b"head");
    ring.submit(TOKEN, Op::SendZeroCopy { socket, head, body: smallvec![bytes] });
    assert!(is_quiet(&mut ring));
    ring.shutdown(socket);
    let Ok(Done::Sent(count)) = next(&mut ring) else { panic!("it had begun") };
    assert!(count < LEN, "{count}");
    ring.abort_socket(socket);
    assert!(
        matches!(next(&mut ring), Ok(Done::Released(Released { bytes, .. })) if bytes == count)
    );
    assert!(pool.take().is_some());
}
