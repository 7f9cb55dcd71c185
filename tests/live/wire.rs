//! First packets of every kind, sent by hand.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use walhub_tests::client::{Endpoint, SqlServer};
use walhub_tests::topology::Relay;
use walhub_tests::wait::DEADLINE;

/// Everything that the server answers to `bytes` and the end of the stream.
fn answer(endpoint: Endpoint, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect((endpoint.host, endpoint.port)).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut answer = Vec::new();
    // The server may close the connection before it has read everything; that is an answer too.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let ended = stream.read_to_end(&mut answer);
    let timed_out = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!timed_out, "no end of the connection after {bytes:?}");
    answer
}

/// A first packet: its length, a code, and the rest.
fn first_packet(code: u32, rest: &[u8]) -> Vec<u8> {
    let len = u32::try_from(8 + rest.len()).expect("a short packet");
    [&len.to_be_bytes(), &code.to_be_bytes(), rest].concat()
}

/// Codes of pqcomm.h.
const CANCEL_REQUEST: u32 = (1234 << 16) | 5678;
const SSL_REQUEST: u32 = (1234 << 16) | 5679;
const GSSENC_REQUEST: u32 = (1234 << 16) | 5680;
const PROTOCOL_3_0: u32 = 3 << 16;

#[test]
fn ssl_and_gss_requests_are_answered() {
    let relay = Relay::start();
    let endpoint = relay.hub.endpoint();
    assert_eq!(answer(endpoint, &first_packet(SSL_REQUEST, b"")).first(), Some(&b'N'));
    let gss = answer(endpoint, &first_packet(GSSENC_REQUEST, b""));
    // A server that was built with GSSAPI is ready to try.
    assert!(matches!(gss.first(), Some(b'N' | b'G')), "{gss:?}");
}

#[test]
fn cancel_request_of_nobody_is_ignored() {
    let relay = Relay::start();
    let request = first_packet(CANCEL_REQUEST, &[0, 0, 0, 1, 1, 2, 3, 4]);
    assert!(answer(relay.hub.endpoint(), &request).is_empty());
    assert!(answer(relay.hub.endpoint(), &first_packet(CANCEL_REQUEST, &[0; 3])).is_empty());
    assert!(relay.hub.is_running());
}

#[test]
fn protocol_2_is_refused_as_postgresql_does() {
    let relay = Relay::start();
    let text = answer(relay.hub.endpoint(), &first_packet(2 << 16, &[0; 288]));
    let text = String::from_utf8_lossy(&text);
    assert!(
        text.contains("unsupported frontend protocol 2.0: server supports 3.0 to 3."),
        "{text}"
    );
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let relay = Relay::start();
    let endpoint = relay.hub.endpoint();
    let startup = first_packet(PROTOCOL_3_0, b"user\0postgres\0replication\0true\0\0");
    let mut packets: Vec<Vec<u8>> = (0..startup.len()).map(|end| startup[..end].to_vec()).collect();
    packets.push(b"GET / HTTP/1.1\r\n\r\n".to_vec());
    packets.push(vec![0; 64]);
    packets.push(vec![0xff; 64]);
    packets.push(first_packet(PROTOCOL_3_0, b"user"));
    packets.push(first_packet(PROTOCOL_3_0, b"user\0postgres\0replication\0perhaps\0\0"));
    // A session that begins well, and messages that do not go on so.
    for rest in [
        &b"Q\0\0\0\x03"[..],
        &b"Q\xff\xff\xff\xff"[..],
        &b"Q\0\0\0\x08nul?"[..],
        &b"Q\0\0\0\x09IDEN\0extra"[..],
        &b"d\0\0\0\x05r"[..],
        &b"B\0\0\0\x04"[..],
        &b"\0\0\0\0\0\0"[..],
        &b"Q\0\0\0\x06\xff\xfe\0"[..],
    ] {
        packets.push([&startup, rest].concat());
    }
    for packet in &packets {
        let answer = answer(endpoint, packet);
        let first = answer.first();
        assert!(matches!(first, None | Some(b'E' | b'R')), "{packet:?}: {answer:?}");
        assert!(relay.hub.is_running(), "ended by {packet:?}");
    }
    assert_eq!(relay.hub.psql("select pg_is_in_recovery()"), "t");
    assert_eq!(relay.hub.log().count(relay.hub.log().beginning(), "panicked"), 0);
}
