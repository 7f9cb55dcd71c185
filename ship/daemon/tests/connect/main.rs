//! Connects to real PostgreSQL servers, and compares errors with psql's.

mod cluster;

use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use cluster::{Cluster, bindir, free_port, itself, manual, plain, primary, standby, tls};
use tokio::task::LocalSet;
use walhub::net::connect::roles::{all_roles, find_role};
use walhub::net::connect::{
    ConnectError, ConnectOptions, Failure, Row, UpstreamConn, connect, connect_sql,
};
use walhub::settings::Settings;
use walhub_hub::api::tls::{TlsRecords, sealed_len_max};
use walhub_proto::conninfo::{ConnInfo, Environment};

/// Nothing of the machine's own environment or home gets into a test.
fn parse(text: &str) -> ConnInfo {
    let environment = Environment {
        variable: &|_| None,
        read_file: &|_| None,
        os_user: Some("trustuser"),
        home: Some("/nonexistent"),
    };
    ConnInfo::parse(text, &environment).expect(text)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), future)
}

/// A connection as the data plane has it: a descriptor, and what encrypts on it.
struct Wire {
    file: File,
    tls: Option<Box<dyn TlsRecords>>,
    plain: Vec<u8>,
}

impl Wire {
    fn new(fd: OwnedFd, tls: Option<Box<dyn TlsRecords>>) -> Self {
        Self { file: File::from(fd), tls, plain: Vec::new() }
    }

    /// Says what the connection has to say for itself, and nothing more.
    fn close(&mut self) {
        self.tls.as_mut().expect("TLS").close();
        self.flush().unwrap();
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.file.read(buf) };
        while self.plain.is_empty() && !tls.is_closed_by_peer() {
            let mut piece = [0; 1 << 14];
            let count = self.file.read(&mut piece)?;
            if count == 0 {
                return Ok(0);
            }
            tls.open(&mut piece[..count], &mut self.plain)?;
        }
        let count = self.plain.len().min(buf.len());
        buf[..count].copy_from_slice(&self.plain[..count]);
        self.plain.drain(..count);
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.file.write(bytes) };
        let mut room = vec![0; sealed_len_max(bytes.len(), 1)];
        let len = tls.seal(&[bytes], &mut room)?;
        self.file.write_all(&room[..len])?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = self.tls.as_mut().filter(|tls| tls.has_words()) else { return Ok(()) };
        let mut room = vec![0; sealed_len_max(0, 0)];
        let len = tls.seal(&[], &mut room)?;
        self.file.write_all(&room[..len])
    }
}

/// Sends a replication command, and reads the whole answer.
fn command(file: &mut Wire, text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len() + 5).expect("short");
    let mut message = vec![b'Q'];
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(text.as_bytes());
    message.push(0);
    file.write_all(&message).expect("sent");
    let mut answer = Vec::new();
    loop {
        let (kind, body) = receive(file);
        assert_ne!(kind, b'E', "{}", String::from_utf8_lossy(&body));
        answer.extend_from_slice(&body);
        if kind == b'Z' {
            return answer;
        }
    }
}

fn receive(file: &mut Wire) -> (u8, Vec<u8>) {
    let mut header = [0; 5];
    file.read_exact(&mut header).expect("a header");
    let [kind, length @ ..] = header;
    let length = usize::try_from(u32::from_be_bytes(length)).expect("fits") - 4;
    let mut body = vec![0; length];
    file.read_exact(&mut body).expect("a body");
    (kind, body)
}

async fn try_connect(text: &str) -> Result<UpstreamConn, ConnectError> {
    connect(&parse(text), ConnectOptions::default()).await
}

/// Connects and runs IDENTIFY_SYSTEM: the session must be a replication session, and usable.
fn identified(text: &str) -> Result<UpstreamConn, String> {
    run(async {
        let mut conn = try_connect(text).await.map_err(|error| error.to_string())?;
        assert_eq!(conn.unread, b"", "{text}");
        let fd = conn.fd.try_clone().expect("a descriptor");
        let mut file = Wire::new(fd, conn.tls.take());
        let answer = tokio::task::spawn_blocking(move || command(&mut file, "IDENTIFY_SYSTEM"));
        let answer = answer.await.expect("no panic");
        assert!(answer.windows(9).any(|window| window == b"systemid\0"));
        Ok(conn)
    })
}

fn at(cluster: &Cluster, rest: &str) -> String {
    format!("host=127.0.0.1 port={} {rest}", cluster.port)
}

fn encrypted(text: &str) -> bool {
    identified(text).expect(text).encrypted
}

fn refused(text: &str) -> String {
    identified(text).expect_err(text)
}

#[test]
fn a_session_tells_who_the_server_is() {
    let conn = identified(&at(primary(), "user=trustuser sslmode=disable")).unwrap();
    assert!(conn.server_version.starts_with(&conn.parameters["server_version"]));
    let version = Command::new(bindir().join("postgres")).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    assert!(version.contains(&conn.server_version), "{version}");
    assert_eq!(conn.server_version_num / 10_000, conn.server_version[..2].parse::<u32>().unwrap());
    assert_eq!((conn.host.as_str(), conn.port), ("127.0.0.1", primary().port));
    assert_eq!(conn.parameters["in_hot_standby"], "off");
    assert_eq!(conn.parameters["application_name"], "walhub");
    let named = identified(&at(primary(), "application_name=mine client_encoding=LATIN1")).unwrap();
    assert_eq!(named.parameters["application_name"], "mine");
    assert_eq!(named.parameters["client_encoding"], "LATIN1");
    let options = identified(&at(primary(), "options='-c datestyle=German'")).unwrap();
    assert_eq!(options.parameters["DateStyle"], "German, DMY");
}

#[test]
fn every_password_method_is_answered() {
    for (user, password) in
        [("pwuser", "pw secret"), ("md5user", "md5 secret"), ("scramuser", "scram secret")]
    {
        for mode in ["disable", "require"] {
            let text = at(primary(), &format!("user={user} password='{password}' sslmode={mode}"));
            assert_eq!(encrypted(&text), mode == "require", "{text}");
        }
    }
}

#[test]
fn a_sql_session_answers_statement_after_statement() {
    let query = |text: String, statements: Vec<(&'static str, Vec<&'static str>)>| {
        run(async move {
            let options = ConnectOptions::default();
            let mut session = connect_sql(&parse(&text), "postgres", &options).await.unwrap();
            let mut answers: Vec<Result<Vec<Row>, String>> = Vec::new();
            for (statement, parameters) in statements {
                let answer = session.query(statement, &parameters).await;
                answers.push(answer.map_err(|cause| {
                    ConnectError { failures: vec![Failure { target: None, cause }] }.to_string()
                }));
            }
            answers
        })
    };
    let role = "SELECT rolname, rolvaliduntil, rolreplication FROM pg_roles WHERE rolname = $1";
    for mode in ["disable", "require"] {
        let text = format!("user=scramuser password='scram secret' sslmode={mode}");
        let answers = query(
            at(primary(), &text),
            vec![
                (role, vec!["scramuser"]),
                ("SELECT * FROM pg_authid", vec![]),
                (role, vec!["nobody's"]),
                ("", vec![]),
                ("SELECT repeat('x', 1000000) FROM generate_series(1, 3)", vec![]),
            ],
        );
        let row = answers[0].as_ref().unwrap()[0].clone();
        assert_eq!(row[0], ("rolname".into(), Some("scramuser".into())));
        assert_eq!(row[1], ("rolvaliduntil".into(), None));
        assert_eq!(row[2].0, "rolreplication");
        assert_eq!(answers[1], Err("ERROR:  permission denied for table pg_authid".into()));
        assert_eq!((&answers[2], &answers[3]), (&Ok(vec![]), &Ok(vec![])));
        assert_eq!(answers[4].as_ref().unwrap().len(), 3);
    }
    // More than anybody reads.
    let long = "SELECT repeat('x', 1000000) FROM generate_series(1, 70)";
    let text = at(primary(), "user=trustuser");
    let error = query(text, vec![(long, vec![])]).pop().unwrap().unwrap_err();
    assert!(error.starts_with("too much data from server"), "{error}");
}

#[test]
fn a_server_is_asked_for_its_roles() {
    /// What a DBA makes for PgBouncer.
    const LOOKUP: &str = "CREATE OR REPLACE FUNCTION user_lookup(i_username text, OUT uname text, OUT phash text) \
         RETURNS record AS $$ BEGIN \
         SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolname = i_username INTO uname, phash; \
         RETURN; END; $$ LANGUAGE plpgsql SECURITY DEFINER";
    const BY_FUNCTION: &str = "SELECT uname, phash FROM user_lookup($1)";
    let by_default = Settings::default().auth_query;
    let (dir, port) = (primary().directory.display(), primary().port);
    // Options of a connection string do not change how answers are read.
    let superuser = format!(
        "host={dir} port={port} user=postgres options='-c datestyle=German -c timezone=Asia/Tokyo \
         -c client_encoding=LATIN1'"
    );
    let auth_user = at(primary(), "user=scramuser password='scram secret'");
    let options = ConnectOptions::default();
    run(async {
        let mut session = connect_sql(&parse(&superuser), "postgres", &options).await.unwrap();
        for statement in [
            LOOKUP,
            "CREATE ROLE \"stand\"\"by 1\" LOGIN REPLICATION CONNECTION LIMIT 3 PASSWORD 'x' \
             VALID UNTIL '2030-01-02 03:04:05+00' IN ROLE pg_monitor",
        ] {
            session.query(statement, &[]).await.unwrap();
        }
        let name = "stand\"by 1";
        let direct = find_role(&mut session, &by_default, name).await.unwrap().unwrap();
        assert_eq!(direct.name, name);
        assert!(direct.secret.as_ref().unwrap().starts_with("SCRAM-SHA-256$4096:"));
        assert!(direct.flag("rolreplication") && direct.flag("rolcanlogin"));
        assert!(!direct.flag("rolsuper") && !direct.flag("no such column"));
        assert_eq!(direct.attribute("rolconnlimit"), Some("3"));
        assert_eq!(direct.attribute("rolvaliduntil"), Some("2030-01-02 03:04:05+00"));
        let mut groups = direct.member_of.clone();
        groups.sort();
        let monitor =
            ["pg_monitor", "pg_read_all_settings", "pg_read_all_stats", "pg_stat_scan_tables"];
        assert_eq!(groups, monitor);
        let all = all_roles(&mut session).await.unwrap();
        let one = all.iter().find(|role| role.name == name).unwrap();
        assert_eq!((&one.secret, &one.attributes), (&direct.secret, &direct.attributes));
        assert_eq!(one.member_of, ["pg_monitor"]);
        assert!(all.iter().any(|role| role.name == "postgres" && role.secret.is_none()));
        assert!(!all.iter().any(|role| role.name.starts_with("pg_")));

        let mut session = connect_sql(&parse(&auth_user), "postgres", &options).await.unwrap();
        let by_function = find_role(&mut session, BY_FUNCTION, name).await.unwrap();
        assert!(by_function.as_ref() == Some(&direct));
        for nobody in ["", "nobody", "stand\"by 1' OR true --"] {
            assert!(find_role(&mut session, BY_FUNCTION, nobody).await.unwrap().is_none());
        }
        for (statement, refusal) in [
            (by_default.as_str(), "ERROR:  permission denied for table pg_authid"),
            ("SELECT $1::text", "auth_query has to give two columns, a user name and a secret"),
            ("SELECT 'x' || $1, 'y'", "auth_query has found another user"),
            (
                "SELECT $1, 'y' FROM generate_series(1, 2)",
                "auth_query has found more than one user",
            ),
        ] {
            let refused = find_role(&mut session, statement, name).await;
            let cause = refused.err().expect(statement);
            let error = Failure { target: None, cause }.to_string();
            assert_eq!(error, refusal, "{statement}");
        }
        assert!(find_role(&mut session, BY_FUNCTION, name).await.unwrap() == Some(direct));
    });
}

#[test]
fn a_password_file_has_a_line_for_sql_and_another_for_replication() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pgpass");
    let text = at(primary(), &format!("user=scramuser passfile={}", file.display()));
    fs::write(&file, "*:*:replication:*:wrong\n*:*:postgres:*:scram secret\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let options = ConnectOptions::default();
    run(async { connect_sql(&parse(&text), "postgres", &options).await.map(|_| ()) }).unwrap();
    assert!(refused(&text).contains("password authentication failed"));
}

#[test]
fn a_unix_socket_is_a_host() {
    let (dir, port) = (primary().directory.display(), primary().port);
    let conn = identified(&format!("host={dir} port={port} sslmode=require")).unwrap();
    assert!(!conn.encrypted, "TLS is not for unix sockets");
    assert_eq!(conn.host, dir.to_string());
    let encoded = dir.to_string().replace('/', "%2F");
    identified(&format!("postgresql://scramuser:scram%20secret@{encoded}:{port}/db")).unwrap();
    let peer = format!("host={dir} port={port} requirepeer");
    identified(&format!("{peer}=postgres")).unwrap();
    assert!(refused(&format!("{peer}=nobody")).contains("requirepeer specifies \"nobody\""));
}

#[test]
fn a_password_file_is_used_unless_others_may_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pgpass");
    let port = primary().port;
    let text = at(primary(), &format!("user=scramuser passfile={}", file.display()));
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();

    fs::write(&file, format!("127.0.0.1:{port}:replication:scramuser:scram secret\n")).unwrap();
    mode(0o600);
    identified(&text).unwrap();
    mode(0o640);
    assert!(refused(&text).ends_with("fe_sendauth: no password supplied"));
    fs::write(&file, "*:*:*:*:wrong\n").unwrap();
    mode(0o600);
    let error = refused(&text);
    let told = format!("\npassword retrieved from file \"{}\"", file.display());
    assert!(error.ends_with(&told), "{error}");
}

#[test]
fn sslmode_decides_what_is_encrypted() {
    let mode = |cluster, user: &str, mode: &str| {
        encrypted(&at(cluster, &format!("user={user} sslmode={mode}")))
    };
    assert!(!mode(primary(), "trustuser", "disable"));
    assert!(!mode(primary(), "trustuser", "allow"));
    assert!(mode(primary(), "trustuser", "prefer"));
    assert!(mode(primary(), "trustuser", "require"));
    // Refused one way, tried the other.
    assert!(mode(primary(), "tlsonly", "allow"));
    assert!(!mode(primary(), "plainonly", "prefer"));
    assert!(!mode(plain(), "trustuser", "prefer"));
    for version in ["TLSv1.2", "TLSv1.3"] {
        let versions =
            format!("ssl_min_protocol_version={version} ssl_max_protocol_version={version}");
        let text = at(
            primary(),
            &format!(
                "user=scramuser password='scram secret' sslmode=require channel_binding=require {versions}"
            ),
        );
        assert!(encrypted(&text), "{version}");
    }
}

#[test]
fn certificates_are_verified_as_sslmode_says() {
    let tls = tls();
    let root = |name: &str| format!("sslrootcert={}/{name}.crt", tls.display());
    let text = |cluster: &Cluster, host: &str, mode: &str, root: &str| {
        let port = cluster.port;
        format!("host={host} hostaddr=127.0.0.1 port={port} sslmode={mode} {root}")
    };
    let (good, other) = (root("root"), root("other"));
    let unverified = "SSL error: certificate verify failed";
    for cluster in [primary(), manual()] {
        assert!(encrypted(&text(cluster, "db.example", "verify-full", &good)));
        assert!(encrypted(&text(cluster, "elsewhere", "verify-ca", &good)));
        assert!(refused(&text(cluster, "db.example", "verify-ca", &other)).contains(unverified));
        // With a root certificate, require verifies too, as in libpq.
        assert!(refused(&text(cluster, "db.example", "require", &other)).contains(unverified));
        let missing = refused(&text(cluster, "db.example", "verify-ca", "sslrootcert=/no"));
        assert!(missing.contains("root certificate file \"/no\" does not exist"), "{missing}");
    }
    assert!(encrypted(&text(primary(), "a.wild.example", "verify-full", &good)));
    assert!(encrypted(&text(primary(), "127.0.0.1", "verify-full", &good)));
    assert!(encrypted(&text(itself(), "db.example", "verify-full", &root("itself"))));
    assert!(refused(&text(itself(), "db.example", "verify-full", &good)).contains(unverified));
    let mismatch = refused(&text(primary(), "elsewhere", "verify-full", &good));
    assert!(
        mismatch.ends_with(
            "server certificate for \"db.example\" (and 2 other names) does not match host name \"elsewhere\""
        ),
        "{mismatch}"
    );
    let mismatch = refused(&text(manual(), "elsewhere", "verify-full", &good));
    assert!(
        mismatch.ends_with(
            "server certificate for \"db.example\" does not match host name \"elsewhere\""
        ),
        "{mismatch}"
    );
}

#[test]
fn a_revoked_certificate_is_refused() {
    let tls = tls();
    let tls = tls.display();
    let text = |list: &str| {
        at(
            primary(),
            &format!("sslmode=verify-ca sslrootcert={tls}/root.crt sslcrl={tls}/{list}.crl"),
        )
    };
    assert!(encrypted(&text("empty")));
    let error = refused(&text("revoked"));
    assert!(error.contains("certificate verify failed"), "{error}");
}

#[test]
fn a_client_certificate_authenticates() {
    let tls = tls();
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("client.key");
    fs::copy(tls.join("client.key"), &key).unwrap();
    let mode = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
    let text = |key: &str, more: &str| {
        let cert = tls.join("client.crt");
        let cert = cert.display();
        at(primary(), &format!("user=certuser sslmode=require sslcert={cert} sslkey={key} {more}"))
    };
    let shown = key.to_str().unwrap();
    mode(0o600);
    assert!(encrypted(&text(shown, "sslcertmode=require")));
    let error = refused(&text(shown, "sslcertmode=disable"));
    assert!(error.contains("connection requires a valid client certificate"), "{error}");
    mode(0o644);
    assert!(refused(&text(shown, "")).contains("has group or world access"));
    let error = refused(&text("/no/key", ""));
    assert!(error.ends_with("certificate present, but not private key file \"/no/key\""));
    let wrong = tls.join("other.key");
    let error = refused(&text(wrong.to_str().unwrap(), ""));
    assert!(error.contains("certificate does not match private key file"), "{error}");
}

#[test]
fn scram_is_bound_to_the_channel() {
    let scram = "user=scramuser password='scram secret' channel_binding=require";
    // ECDSA with SHA-384, the same in version 1, RSA with SHA-256.
    for cluster in [primary(), manual(), itself()] {
        assert!(encrypted(&at(cluster, &format!("{scram} sslmode=require"))));
    }
    let error = refused(&at(primary(), &format!("{scram} sslmode=disable")));
    assert!(error.ends_with("channel binding required, but SSL not in use"), "{error}");
    let trust = "user=trustuser channel_binding=require sslmode=require";
    let error = refused(&at(primary(), trust));
    assert!(
        error.ends_with(
            "channel binding required, but server authenticated client without channel binding"
        ),
        "{error}"
    );
    for binding in ["disable", "prefer"] {
        let scram = format!("user=scramuser password='scram secret' channel_binding={binding}");
        assert!(encrypted(&at(primary(), &format!("{scram} sslmode=require"))));
    }
}

#[test]
fn require_auth_refuses_what_it_does_not_name() {
    let text = |require: &str| {
        at(
            primary(),
            &format!("user=md5user password='md5 secret' sslmode=disable require_auth={require}"),
        )
    };
    identified(&text("md5")).unwrap();
    identified(&text("!password,!scram-sha-256")).unwrap();
    for require in ["scram-sha-256", "!md5"] {
        let error = refused(&text(require));
        let want = format!(
            "authentication method requirement \"{require}\" failed: server requested a hashed password"
        );
        assert!(error.ends_with(&want), "{error}");
    }
    let error = refused(&at(primary(), "user=trustuser sslmode=disable require_auth=md5"));
    assert!(error.ends_with("failed: server did not complete authentication"), "{error}");
}

#[test]
fn a_dead_host_is_passed_over() {
    let (dead, port) = (free_port(), primary().port);
    let conn = identified(&format!("host=127.0.0.1,127.0.0.1 port={dead},{port}")).unwrap();
    assert_eq!(conn.port, port);
    let conn = identified(&format!("host=no.such.host.invalid,/nonexistent,localhost port={port}"));
    assert_eq!(conn.unwrap().host, "localhost");
}

#[test]
fn target_session_attrs_choose_the_server() {
    let (up, down) = (primary().port, standby().port);
    let port = |order: &str, attrs: &str| {
        identified(&format!("host=127.0.0.1,127.0.0.1 port={order} target_session_attrs={attrs}"))
            .map(|conn| conn.port)
    };
    let (first_up, first_down) = (format!("{up},{down}"), format!("{down},{up}"));
    for attrs in ["read-write", "primary"] {
        assert_eq!(port(&first_down, attrs), Ok(up), "{attrs}");
    }
    for attrs in ["read-only", "standby", "prefer-standby"] {
        assert_eq!(port(&first_up, attrs), Ok(down), "{attrs}");
    }
    assert_eq!(port(&first_up, "any"), Ok(up));
    assert_eq!(port(&format!("{up},{up}"), "prefer-standby"), Ok(up));
}

#[test]
fn a_silent_server_is_given_up_after_connect_timeout() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let text = format!("host=127.0.0.1 port={port} connect_timeout=1");
    assert!(refused(&text).ends_with("failed: timeout expired"));
}

#[test]
fn wal_flows_over_tls_and_both_ends_close() {
    run(async {
        let text = at(primary(), "sslmode=require");
        let conn = try_connect(&text).await.unwrap();
        assert!(conn.encrypted);
        let work = tokio::task::spawn_blocking(move || {
            let mut file = Wire::new(conn.fd, conn.tls);
            let mut query = b"Q\0\0\0\x2bSTART_REPLICATION 0/1000000 TIMELINE 1\0".to_vec();
            query[4] = u8::try_from(query.len() - 1).unwrap();
            file.write_all(&query).unwrap();
            assert_eq!(receive(&mut file).0, b'W');
            let mut bytes = 0;
            while bytes < 1 << 20 {
                let (kind, body) = receive(&mut file);
                assert_eq!(kind, b'd');
                bytes += body.len();
            }
            // This end says that it is done; the other must still be heard to its end.
            file.write_all(b"c\0\0\0\x04").unwrap();
            let mut kinds = Vec::new();
            while kinds.last() != Some(&b'Z') {
                kinds.push(receive(&mut file).0);
            }
            kinds.retain(|&kind| kind != b'd');
            assert_eq!(kinds, b"cCCZ");
            file.close();
            let mut rest = Vec::new();
            file.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"");
        });
        work.await.unwrap();
    });
}

#[test]
fn the_control_planes_own_runtime_will_do() {
    let text = at(primary(), "sslmode=require user=scramuser password='scram secret'");
    tokio_uring::start(async move {
        let conn = try_connect(&text).await.unwrap();
        let mut file = Wire::new(conn.fd, conn.tls);
        let answer = tokio::task::spawn_blocking(move || command(&mut file, "IDENTIFY_SYSTEM"));
        assert!(!answer.await.unwrap().is_empty());
    });
}

/// What psql says, with libpq of the installed version.
fn psql(text: &str) -> String {
    let output = Command::new(bindir().join("psql"))
        .args(["-w", "-X", "-d", &format!("{text} replication=true"), "-c", "IDENTIFY_SYSTEM"])
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    text.trim().trim_start_matches("psql: error: ").to_string()
}

#[test]
fn errors_read_as_libpqs() {
    let (dead, port) = (free_port(), primary().port);
    let dir = primary().directory.display();
    for text in [
        format!("host=127.0.0.1 port={dead} user=u"),
        format!("host=localhost hostaddr=127.0.0.1 port={dead} user=u"),
        format!("host=127.0.0.1,127.0.0.1 port={dead} user=u"),
        format!("host={dir} port={dead} user=u"),
        "host=no.such.host.invalid user=u".to_string(),
        at(primary(), "user=scramuser password=wrong sslmode=disable"),
        at(primary(), "user=scramuser password=wrong sslmode=prefer"),
        at(primary(), "user=scramuser password=wrong sslmode=allow"),
        at(primary(), "user=scramuser password=wrong sslmode=require"),
        at(primary(), "user=scramuser sslmode=disable"),
        at(primary(), "user=pwuser password=wrong sslmode=disable"),
        at(primary(), "user=md5user password=wrong sslmode=disable"),
        at(primary(), "user=nologin sslmode=disable"),
        at(primary(), "user=noreplication"),
        at(primary(), "user=noreplication sslmode=allow"),
        at(primary(), "user=nosuchuser sslmode=disable"),
        at(primary(), "user=nosuchuser"),
        at(primary(), "user=plainonly sslmode=require"),
        at(primary(), "user=scramuser password=x channel_binding=require sslmode=disable"),
        at(primary(), "user=md5user password=x channel_binding=require sslmode=require"),
        at(primary(), "user=trustuser options='-c max_connections=1'"),
        at(primary(), "user=trustuser target_session_attrs=standby sslmode=disable"),
        at(primary(), "user=trustuser target_session_attrs=read-only sslmode=disable"),
        at(standby(), "user=trustuser target_session_attrs=read-write"),
        at(standby(), "user=trustuser target_session_attrs=primary"),
        at(plain(), "user=trustuser sslmode=require"),
        format!("host=127.0.0.1 hostaddr=nonsense port={port} user=u"),
        format!("host=127.0.0.1,{dir} port={dead},{port} user=nosuchuser"),
    ] {
        assert_eq!(refused(&text), psql(&text), "{text}");
    }
}

#[test]
fn parse_errors_read_as_libpqs() {
    let environment =
        Environment { variable: &|_| None, read_file: &|_| None, os_user: Some("u"), home: None };
    for text in [
        "host=a,b,c port=1,2",
        "host=a hostaddr=::1,::2",
        "host=a nonesuch=1",
        "host=a x",
        "host='a",
        "host=a sslmode=x",
        "host=a target_session_attrs=x",
        "host=a channel_binding=x",
        "host=a gssencmode=x",
        "host=a ssl_min_protocol_version=x",
        "host=a ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
        "host=a service=nonesuch",
    ] {
        let error = ConnInfo::parse(text, &environment).unwrap_err().to_string();
        // A replication keyword must not come to stand inside an open quote.
        let said = if text.contains('\'') { psql_parse(text) } else { psql(text) };
        assert_eq!(error, said, "{text}");
    }
}

fn psql_parse(text: &str) -> String {
    let output = Command::new(bindir().join("psql"))
        .args(["-w", "-X", "-d", text])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    text.trim().trim_start_matches("psql: error: ").to_string()
}
