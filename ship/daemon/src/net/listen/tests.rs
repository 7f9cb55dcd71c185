use super::*;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn settings(addresses: &[&str], directories: &[&Path]) -> Settings {
    let mut settings = Settings::default();
    settings.listen_addresses = addresses.iter().map(ToString::to_string).collect();
    settings.port = 0;
    settings.unix_socket_directories = directories.iter().map(PathBuf::from).collect();
    settings
}

#[test]
fn the_kernel_chooses_one_port_for_all() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(&["127.0.0.1", "127.0.0.2"], &[directory.path()]);
    let listener = Listener::bind(&settings).unwrap();
    let addresses = listener.local_addrs();
    assert_eq!(addresses.len(), 2);
    assert_ne!(addresses[0].port(), 0);
    assert_eq!(addresses[0].port(), addresses[1].port());

    let socket = directory.path().join(format!(".s.PGSQL.{}", addresses[0].port()));
    let lock = socket.with_file_name(format!(".s.PGSQL.{}.lock", addresses[0].port()));
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o777);
    assert_eq!(fs::metadata(&lock).unwrap().permissions().mode() & 0o777, 0o600);
    let first_line = fs::read_to_string(&lock).unwrap().lines().next().unwrap().to_owned();
    assert_eq!(first_line, std::process::id().to_string());

    drop(listener);
    assert!(!socket.exists() && !lock.exists());
}

#[test]
fn one_failing_address_is_forgiven_and_all_are_not() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut both = settings(&["127.0.0.1", "127.0.0.2"], &[]);
    both.port = port;
    assert_eq!(Listener::bind(&both).unwrap().local_addrs().len(), 1);
    let mut one = settings(&["127.0.0.1"], &[]);
    one.port = port;
    let error = Listener::bind(&one).unwrap_err();
    assert_eq!(error.to_string(), "could not create any TCP/IP sockets");
    let error = Listener::bind(&settings(&[], &[Path::new("/nonexistent")])).unwrap_err();
    assert_eq!(error.to_string(), "could not create any Unix-domain sockets");
    let error = Listener::bind(&settings(&[], &[])).unwrap_err();
    assert_eq!(error.to_string(), "no socket created for listening");
}

#[test]
fn a_socket_in_use_is_kept_and_a_stale_lock_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let lock = directory.path().join(".s.PGSQL.7.lock");
    // Process ids stop at 2^22.
    fs::write(&lock, "4194305\n\n0\n7\n").unwrap();
    let (listener, file) = socket_file::bind(path, 7).unwrap();
    let error = socket_file::bind(path, 7).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(lock.exists());
    drop((listener, file));
    assert!(!lock.exists());
    fs::write(&lock, "who\n").unwrap();
    assert_eq!(socket_file::bind(path, 7).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn localhost_means_every_family_that_it_has() {
    let addresses = resolve("localhost", 1).unwrap();
    assert!(addresses.iter().all(|address| address.ip().is_loopback()));
    assert_eq!(resolve("*", 1).unwrap().len(), 2);
}

#[tokio::test]
async fn keepalives_are_set_on_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut settings = settings(&[], &[]);
    settings.tcp_keepalives_idle = Some(Duration::from_secs(11));
    settings.tcp_keepalives_interval = Some(Duration::from_secs(12));
    settings.tcp_keepalives_count = Some(13);
    settings.tcp_user_timeout = Some(Duration::from_secs(14));
    set_options(&stream, &settings).unwrap();
    let socket = SockRef::from(&stream);
    assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(11));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(12));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 13);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(14)));
}
