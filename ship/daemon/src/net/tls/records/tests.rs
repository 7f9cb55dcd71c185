//! A server's connection against a client's, in memory.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use walhub_hub::api::tls::{RECORD_BYTES_MAX, sealed_len_max};

use super::*;
use crate::net::tls::server::tests::{Files, settings};
use crate::net::tls::server::{Acceptor, When};

type Server = Records<UnbufferedServerConnection>;
type Client = Records<UnbufferedClientConnection>;

fn server_config(files: &Files) -> Arc<ServerConfig> {
    let acceptor = Acceptor::load(&settings(), files.directory(), When::Start).unwrap().unwrap();
    acceptor.config
}

fn pair(files: &Files) -> (Server, Client) {
    let name = ServerName::try_from("walhub.example").unwrap();
    let client =
        UnbufferedClientConnection::new(files.client_config(&["postgresql"]), name).unwrap();
    let server = UnbufferedServerConnection::new(server_config(files)).unwrap();
    let (mut server, mut client) = (Records::new(server), Records::new(client));
    client.begin().unwrap();
    for _ in 0..4 {
        pass(&mut client, &mut server, &mut Vec::new());
        pass(&mut server, &mut client, &mut Vec::new());
    }
    assert!(!server.state().is_handshaking() && !client.state().is_handshaking());
    (server, client)
}

/// Sends what one has to say for itself.
fn pass<A: Unbuffered, B: Unbuffered>(
    from: &mut Records<A>,
    to: &mut Records<B>,
    plain: &mut Vec<u8>,
) {
    let mut bytes = mem::take(from.outgoing());
    to.open(&mut bytes, plain).unwrap();
}

fn seal<A: Unbuffered>(from: &mut Records<A>, pieces: &[&[u8]]) -> Vec<u8> {
    let len = pieces.iter().map(|piece| piece.len()).sum();
    let mut room = vec![0; sealed_len_max(len, pieces.len())];
    let sealed = from.seal(pieces, &mut room).unwrap();
    room.truncate(sealed);
    room
}

#[test]
fn pieces_of_any_length_arrive_however_they_are_cut() {
    let files = Files::new();
    let (mut server, mut client) = pair(&files);
    assert_eq!(server.state().alpn_protocol(), Some(&b"postgresql"[..]));
    let large: Vec<u8> = (0..5 * RECORD_BYTES_MAX + 7).map(|n| n.to_le_bytes()[0]).collect();
    let pieces = [b"header".as_slice(), &large, b"", b"x", &large[..3000], &large[..9]];
    let mut sealed = seal(&mut server, &pieces);
    let mut plain = Vec::new();
    for piece in sealed.chunks_mut(1001) {
        client.open(piece, &mut plain).unwrap();
    }
    assert_eq!(plain, pieces.concat());
    assert_eq!(client.incoming_len(), 0);
    let mut reply = seal(&mut client, &[b"reply"]);
    let mut plain = Vec::new();
    server.open(&mut reply, &mut plain).unwrap();
    assert_eq!(plain, b"reply");
}

#[test]
fn a_connection_that_waits_holds_no_buffer() {
    let files = Files::new();
    let (mut server, mut client) = pair(&files);
    let mut sealed = seal(&mut client, &[b"status"]);
    let (first, second) = sealed.split_at_mut(7);
    let mut plain = Vec::new();
    server.open(first, &mut plain).unwrap();
    assert_eq!((server.incoming_len(), plain.len()), (7, 0));
    server.open(second, &mut plain).unwrap();
    assert_eq!(plain, b"status");
    assert_eq!((server.incoming.capacity(), server.outgoing.capacity()), (0, 0));
}

#[test]
fn who_closes_says_so_and_nothing_after_it() {
    let files = Files::new();
    let (mut server, mut client) = pair(&files);
    let mut words = seal(&mut server, &[b"last"]);
    server.close();
    server.close();
    assert!(server.has_words());
    words.extend(seal(&mut server, &[]));
    assert!(!server.has_words());
    assert!(server.seal(&[b"more"], &mut [0; 4096]).is_err());
    let mut plain = Vec::new();
    client.open(&mut words, &mut plain).unwrap();
    assert_eq!(plain, b"last");
    assert!(client.is_closed_by_peer());
}

#[test]
fn what_was_changed_on_its_way_ends_the_connection_with_an_alert() {
    let files = Files::new();
    let (mut server, mut client) = pair(&files);
    let mut good = seal(&mut client, &[b"good"]);
    let mut bad = seal(&mut client, &[b"bad"]);
    *bad.last_mut().unwrap() ^= 1;
    good.extend(bad);
    let mut plain = Vec::new();
    assert!(server.open(&mut good, &mut plain).is_err());
    assert_eq!(plain, b"good");
    let mut alert = mem::take(server.outgoing());
    assert!(!alert.is_empty());
    assert!(client.open(&mut alert, &mut plain).is_err());
}

#[test]
fn no_bytes_that_a_stranger_sends_are_taken() {
    let files = Files::new();
    let config = server_config(&files);
    for bytes in [
        &b"\x16\x03\x01\x00\x00"[..],
        b"\x16\x03\x01\xff\xff",
        b"\x17\x03\x03\x00\x05abcde",
        b"\x15\x03\x03\x00\x02\x01\x00",
        b"GET / HTTP/1.1\r\n",
    ] {
        for cut in 0..=bytes.len() {
            let connection = UnbufferedServerConnection::new(Arc::clone(&config)).unwrap();
            let mut server = Records::new(connection);
            let mut plain = Vec::new();
            let _ = server.open(&mut bytes[..cut].to_vec(), &mut plain);
            assert!(plain.is_empty() && server.state().is_handshaking());
        }
    }
}

#[test]
fn keys_are_changed_under_way() {
    let files = Files::new();
    let (mut server, mut client) = pair(&files);
    let UnbufferedStatus { state, .. } = client.connection.process(&mut []);
    let Ok(ConnectionState::WriteTraffic(traffic)) = state else { panic!("the handshake is done") };
    traffic.refresh_traffic_keys().unwrap();
    let mut plain = Vec::new();
    server.open(&mut seal(&mut client, &[b"with new keys"]), &mut plain).unwrap();
    assert_eq!(plain, b"with new keys");
    // If it was asked for new keys itself, it says so in front of what comes next.
    plain.clear();
    client.open(&mut seal(&mut server, &[b"and here"]), &mut plain).unwrap();
    assert_eq!(plain, b"and here");
}
