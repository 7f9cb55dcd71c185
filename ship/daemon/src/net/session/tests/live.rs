//! PostgreSQL's own clients against the session code, over TCP, in the control plane's runtime.

use std::process::{Command, Output};

use super::*;
use crate::net::listen::Listener;

/// Runs a client with `arguments`, `{port}` in them replaced.
async fn run_client(port: u16, program: &str, arguments: &[&str]) -> Output {
    let bindir = Command::new("pg_config")
        .arg("--bindir")
        .output()
        .expect("PostgreSQL is not installed: apt-get install postgresql");
    let bindir = String::from_utf8(bindir.stdout).unwrap();
    let mut command = Command::new(std::path::Path::new(bindir.trim()).join(program));
    command.args(arguments.iter().map(|argument| argument.replace("{port}", &port.to_string())));
    command.env_remove("PGOPTIONS").env("PGCONNECT_TIMEOUT", "10");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// A hub that listens on a port of its own.
fn listen(hub: FakeHub) -> (Harness, u16) {
    let harness = Harness::new(hub);
    let mut settings = Settings::default();
    settings.listen_addresses = vec!["127.0.0.1".into()];
    settings.port = 0;
    settings.unix_socket_directories = Vec::new();
    let listener = Listener::bind(&settings).unwrap();
    let port = listener.local_addrs()[0].port();
    tokio::task::spawn_local(listener.run(Arc::clone(&harness.services)));
    (harness, port)
}

const CONNINFO: &str = "host=127.0.0.1 port={port} user=u replication=true";

#[test]
fn psql_speaks_replication_commands() {
    tokio_uring::start(async {
        let (_harness, port) = listen(FakeHub::ready());
        let query = |command: &'static str| async move {
            let output = run_client(port, "psql", &[CONNINFO, "-XAtc", command]).await;
            let both = [output.stdout, output.stderr].concat();
            String::from_utf8(both).unwrap().trim().to_owned()
        };
        assert_eq!(query("IDENTIFY_SYSTEM").await, "7000000000000000001|2|0/3000100|");
        assert_eq!(query("SHOW wal_segment_size;").await, "16MB");
        assert_eq!(query("READ_REPLICATION_SLOT s").await, "||");
        assert_eq!(
            query("select 1").await,
            "ERROR:  cannot execute SQL commands in WAL sender for physical replication"
        );
    });
}

#[test]
fn pg_receivewal_creates_and_drops_slots() {
    tokio_uring::start(async {
        let (harness, port) = listen(FakeHub::ready());
        for (action, slots) in [("--create-slot", &["s"][..]), ("--drop-slot", &[])] {
            let arguments = ["-d", CONNINFO, "--slot=s", action];
            let output = run_client(port, "pg_receivewal", &arguments).await;
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(harness.hub.slot_names(), slots);
        }
    });
}

#[test]
fn pg_isready_finds_the_server_with_and_without_an_upstream() {
    tokio_uring::start(async {
        for (hub, code) in [(FakeHub::ready(), 0), (FakeHub::default(), 0), (FakeHub::ready(), 1)] {
            *hub.stopping.lock().unwrap() = code == 1;
            let (_harness, port) = listen(hub);
            let arguments = ["-h", "127.0.0.1", "-p", "{port}"];
            let output = run_client(port, "pg_isready", &arguments).await;
            assert_eq!(output.status.code(), Some(code), "{output:?}");
        }
    });
}
