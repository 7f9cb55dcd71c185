//! Connections that are encrypted, from their first byte.

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::fake::{FakeHub, Harness, RawClient, startup_packet};
use super::{PHYSICAL, SQL, run};
use crate::net::tls::test_files::{Files, settings};
use crate::net::tls::{Acceptor, When};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

fn harness(files: &Files) -> Harness {
    let acceptor = Acceptor::load(&settings(), files.directory(), When::Start).unwrap().unwrap();
    Harness::with_tls(FakeHub::ready(), acceptor)
}

async fn handshake(files: &Files, alpn: &[&str], socket: TcpStream) -> TlsStream<TcpStream> {
    let name = ServerName::try_from("walhub.example").unwrap();
    TlsConnector::from(files.client_config(alpn)).connect(name, socket).await.unwrap()
}

/// A connection that has asked for TLS, with `more` behind the request.
async fn request(harness: &Harness, files: &Files, more: &[u8]) -> RawClient<TlsStream<TcpStream>> {
    let mut socket = harness.open_tcp().await;
    socket.write_all(&[&SSL_REQUEST, more].concat()).await.unwrap();
    assert_eq!(socket.read_u8().await.unwrap(), b'S');
    RawClient::new(handshake(files, &[], socket).await)
}

#[test]
fn a_session_over_tls_is_as_one_without() {
    run(async {
        let files = Files::new();
        let harness = harness(&files);
        let mut client = request(&harness, &files, b"").await;
        client.send(&startup_packet(3 << 16, SQL)).await;
        assert_eq!(client.answer().await.last().unwrap(), "Z I");
        client.query("select ssl, version, cipher, bits, client_dn from pg_stat_ssl").await;
        let answer = client.answer().await;
        assert_eq!(answer[1], "D t|TLSv1.3|TLS_AES_256_GCM_SHA384|256|-", "{answer:?}");
        // More than the socket takes at once.
        client.query(&format!("select '{}'", "x".repeat(300_000))).await;
        assert!(client.answer().await[1].len() > 300_000);
    });
}

#[test]
fn a_stream_that_ends_gives_its_connection_back_with_its_keys() {
    run(async {
        let files = Files::new();
        let harness = harness(&files);
        let mut client = request(&harness, &files, b"").await;
        client.send(&startup_packet(3 << 16, PHYSICAL)).await;
        client.answer().await;
        for _ in 0..2 {
            client.query("START_REPLICATION 0/3000000").await;
            assert_eq!(client.answer().await, ["C START_STREAMING", "C START_REPLICATION", "Z I"]);
        }
        assert_eq!(harness.hub.started.lock().unwrap()[0], "- 0/3000000 2 blocking");
        client.query("IDENTIFY_SYSTEM").await;
        assert!(client.answer().await.last().unwrap().starts_with('Z'));
    });
}

#[test]
fn what_came_before_the_handshake_is_refused() {
    run(async {
        let files = Files::new();
        let harness = harness(&files);
        let mut client = request(&harness, &files, &startup_packet(3 << 16, SQL)).await;
        let answer = client.answer().await;
        assert_eq!(
            answer,
            [
                "E FATAL 08P01 received unencrypted data after SSL request (This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.)"
            ]
        );
    });
}

#[test]
fn tls_is_asked_for_once() {
    run(async {
        let files = Files::new();
        let harness = harness(&files);
        let mut client = request(&harness, &files, b"").await;
        client.send(&SSL_REQUEST).await;
        let answer = client.answer().await;
        assert!(answer[0].contains("unsupported frontend protocol 1234.5679"), "{answer:?}");
    });
}

#[test]
fn direct_tls_needs_the_name_of_the_protocol() {
    run(async {
        let files = Files::new();
        let harness = harness(&files);
        let socket = harness.open_tcp().await;
        let mut client = RawClient::new(handshake(&files, &["postgresql"], socket).await);
        // It is encrypted already.
        client.send(&SSL_REQUEST).await;
        assert_eq!(client.stream.read_u8().await.unwrap(), b'N');
        client.send(&startup_packet(3 << 16, SQL)).await;
        assert_eq!(client.answer().await.last().unwrap(), "Z I");
        let socket = harness.open_tcp().await;
        let mut client = RawClient::new(handshake(&files, &[], socket).await);
        assert!(client.answer().await.is_empty());
    });
}

#[test]
fn direct_tls_without_tls_is_hung_up() {
    run(async {
        let harness = Harness::new(FakeHub::ready());
        let mut socket = harness.open_tcp().await;
        socket.write_all(&[0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5]).await.unwrap();
        let mut said = Vec::new();
        // With a reset, because what was sent was not read.
        let _ = socket.read_to_end(&mut said).await;
        assert!(said.is_empty());
    });
}
