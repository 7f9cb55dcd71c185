//! Real files, real sockets, the real ring.

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use socket2::SockRef;

use super::*;

/// More than the send buffer of a connection holds, so that sends are interrupted.
const LONG: usize = 3 << 20;

/// Bytes of which no two neighbouring ranges are alike.
fn pattern(seed: usize, len: usize) -> Bytes {
    let byte = |at: usize| {
        let mixed = (at + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed.to_le_bytes()[7]
    };
    (0..len).map(byte).collect()
}

/// Both ends of a connection with buffers of about these sizes.
fn connection(send_len: usize, receive_len: usize) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    SockRef::from(&listener).set_recv_buffer_size(receive_len).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    SockRef::from(&stream).set_send_buffer_size(send_len).unwrap();
    let (peer, _) = listener.accept().unwrap();
    (stream, peer)
}

/// Both ends of a connection that takes a good part of a long send at once.
fn short_connection() -> (TcpStream, TcpStream) {
    connection(64 << 10, 256 << 10)
}

fn receive(mut peer: TcpStream) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        received
    })
}

#[test]
fn a_linked_write_is_all_written_and_synced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let mut writer = LinkedWriter::new(File::create(&path).unwrap()).unwrap();
    let (first, second) = (pattern(1, 5000), pattern(2, 70_000));
    for (data, offset) in [(&second, 5000), (&first, 0)] {
        let Linked { written, synced } = writer.write_and_sync(data, offset).unwrap();
        assert_eq!(written.unwrap(), data.len());
        synced.unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), [first, second].concat());
}

#[test]
fn a_failing_write_cancels_its_sync_and_the_next_is_as_any() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, b"old").unwrap();
    let mut writer = LinkedWriter::new(File::open(&path).unwrap()).unwrap();
    for _ in 0..2 {
        let Linked { written, synced } = writer.write_and_sync(&pattern(0, 10), 0).unwrap();
        assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(synced.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
    }
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn bundles_arrive_in_order_whatever_their_sizes() {
    let (stream, peer) = short_connection();
    let received = receive(peer);
    let mut sender = BundleSender::new(stream.into()).unwrap();
    let mut wanted = Vec::new();
    let mut pushed = 0;
    // More pieces than the ring of buffers has entries, and more than its numbers count.
    for bundle in 0..3000 {
        for piece in 0..bundle % PIECES_MAX + 1 {
            let len = if (bundle, piece) == (70, 3) { LONG } else { bundle * piece % 90 };
            let piece = pattern(bundle + piece, len);
            wanted.extend_from_slice(&piece);
            sender.push(piece);
            pushed += 1;
        }
        sender.send().unwrap();
    }
    assert!(pushed > usize::from(u16::MAX));
    drop(sender);
    assert!(received.join().unwrap() == wanted);
}

#[test]
fn a_bundle_to_a_peer_that_is_gone_is_an_error() {
    let (stream, peer) = short_connection();
    drop(peer);
    let mut sender = BundleSender::new(stream.into()).unwrap();
    let result = (0..100).try_for_each(|_| {
        sender.push(pattern(1, LONG));
        sender.send()
    });
    let errno = result.unwrap_err().raw_os_error();
    assert!(matches!(errno, Some(libc::EPIPE | libc::ECONNRESET)), "{errno:?}");
}

#[test]
fn what_a_kernel_lacks_is_named_with_its_version() {
    for trial in [Trial::Bundle, Trial::SendZc] {
        trial.check().unwrap();
        let text = io::Error::new(io::ErrorKind::Unsupported, Missing(trial)).to_string();
        let version = format!("Linux {} or newer is needed", trial.kernel_min());
        assert!(text.contains(trial.name()) && text.ends_with(&version), "{text}");
    }
}
