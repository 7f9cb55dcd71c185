//! Every method of authentication, with real clients: who knows the password gets in, who does not hears why in
//! PostgreSQL's words, and the log alone says more.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use walhub_tests::client::{SqlServer, run_psql, run_psql_ok};
use walhub_tests::hub::{Hub, HubBuilder, walhub};
use walhub_tests::postgres::program;
use walhub_tests::process::{command_as_postgres, quick_command, run, run_ok, said};
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::scratch::{Scratch, give_to_postgres};

/// Lines 1 to 10: `postgres` makes the roles, everybody else shows who it is.
const HBA: &str = "\
host all postgres all trust
host replication postgres all trust
host all password_scram,password_md5,nobody_p all password
host all,replication md5_scram,md5_md5,nobody_m all md5
host all,replication scram,valid,expired,nologin,nobody,nopassword all scram-sha-256
host all rejected all reject
host all trusted,nobody_t all trust
local all postgres peer
local all all peer map=ops
";

const IDENT: &str = "\
ops postgres operator
ops /^post(.*)$ \"x\\1\"
";

const ROLES: &str = "\
set password_encryption = 'scram-sha-256';
create role password_scram login password 'pencil';
create role md5_scram login replication password 'pencil';
create role scram login replication password 'pencil';
create role valid login password 'pencil' valid until 'infinity';
create role expired login password 'pencil' valid until '2001-01-01';
create role nologin password 'pencil';
create role nopassword login;
create role rejected login;
create role trusted login;
create role operator login superuser;
create role xgres login;
set password_encryption = 'md5';
create role password_md5 login password 'pencil';
create role md5_md5 login replication password 'pencil';
";

/// A hub that asks.
fn asking(scratch: &Scratch, change: impl FnOnce(HubBuilder) -> HubBuilder) -> (Hub, PathBuf) {
    let sockets = scratch.path("sockets");
    fs::create_dir(&sockets).expect("a directory");
    let hub = Hub::named("hub").set("unix_socket_directories", sockets.display().to_string());
    let mut hub = change(hub.set("log_connections", "on")).build(scratch);
    hub.init(1);
    fs::write(hub.data().join("pg_hba.conf"), HBA).expect("a file");
    fs::write(hub.data().join("pg_ident.conf"), IDENT).expect("a file");
    hub.start();
    for statement in ROLES.lines() {
        if !statement.starts_with("set") {
            let encryption = if statement.contains("md5_md5") || statement.contains("password_md5")
            {
                "md5"
            } else {
                "scram-sha-256"
            };
            let set = format!("set password_encryption = '{encryption}'");
            run_psql_ok(&hub.endpoint().database(), &["-c", &set, "-c", statement]);
        }
    }
    (hub, sockets)
}

fn conninfo(hub: &Hub, user: &str, password: &str) -> String {
    let endpoint = hub.endpoint();
    let password =
        if password.is_empty() { String::new() } else { format!("password='{password}'") };
    format!("host={} port={} dbname=postgres user={user} {password}", endpoint.host, endpoint.port)
}

/// What psql says to a client that asks who it is.
fn who(hub: &Hub, user: &str, password: &str) -> Output {
    run_psql(&conninfo(hub, user, password), &["-w", "-c", "select current_user, system_user"])
}

#[track_caller]
fn assert_refused(output: &Output, words: &str) {
    let text = said(output);
    assert!(!output.status.success() && text.contains(words), "{words} in {text}");
    assert!(!text.contains("pencil"), "{text}");
}

#[test]
fn who_knows_the_password_gets_in_and_nobody_else_by_each_method() {
    let scratch = Scratch::new();
    let (hub, _) = asking(&scratch, |hub| hub);
    for (user, method) in [
        ("password_scram", "password"),
        ("password_md5", "password"),
        ("md5_scram", "md5"),
        ("md5_md5", "md5"),
        ("scram", "scram-sha-256"),
        ("valid", "scram-sha-256"),
    ] {
        let let_in = who(&hub, user, "pencil");
        assert_eq!(said(&let_in).trim_end(), format!("{user}|{method}:{user}"));
        for wrong in ["Pencil", "x"] {
            let from = hub.log().beginning();
            let refused = who(&hub, user, wrong);
            let words = format!("password authentication failed for user \"{user}\"");
            assert_refused(&refused, &format!("FATAL:  {words}"));
            assert!(!said(&refused).contains("pg_hba.conf"), "{refused:?}");
            hub.log().wait_for(from, &words);
        }
        let none = run_psql(&conninfo(&hub, user, ""), &["-w", "-c", "select 1"]);
        assert_refused(&none, "fe_sendauth: no password supplied");
    }
    let file = hub.data().join("pg_hba.conf");
    let line =
        format!("Connection matched file \"{}\" line 5: \"host all,replication", file.display());
    hub.log().wait_for(hub.log().beginning(), &line);
    hub.log().wait_for(
        hub.log().beginning(),
        &format!(
            "connection authenticated: identity=\"scram\" method=scram-sha-256 ({}:5)",
            file.display()
        ),
    );
    // No password is in the log.
    assert_eq!(hub.log().count(hub.log().beginning(), "pencil"), 0);
}

#[test]
fn who_cannot_have_the_right_password_hears_what_a_wrong_one_hears() {
    let scratch = Scratch::new();
    let (hub, _) = asking(&scratch, |hub| hub);
    for (user, reason) in [
        ("nobody", "Role \"nobody\" does not exist."),
        ("nobody_p", "Role \"nobody_p\" does not exist."),
        ("nobody_m", "Role \"nobody_m\" does not exist."),
        ("nopassword", "User \"nopassword\" has no password assigned."),
        ("expired", "User \"expired\" has an expired password."),
    ] {
        let refused = who(&hub, user, "pencil");
        let words = format!("FATAL:  password authentication failed for user \"{user}\"");
        assert_refused(&refused, &words);
        assert!(!said(&refused).contains(reason), "{refused:?}");
        hub.log().wait_for(hub.log().beginning(), reason);
    }
    for (user, password, words) in [
        ("nologin", "pencil", "FATAL:  role \"nologin\" is not permitted to log in"),
        ("nobody_t", "", "FATAL:  role \"nobody_t\" does not exist"),
        ("rejected", "", "FATAL:  pg_hba.conf rejects connection for host \"127."),
        ("stranger", "", "FATAL:  no pg_hba.conf entry for host \"127."),
    ] {
        assert_refused(&who(&hub, user, password), words);
    }
    assert_eq!(said(&who(&hub, "trusted", "")).trim_end(), "trusted|");
    let physical = format!("{} replication=true", conninfo(&hub, "valid", "pencil"));
    let refused = run_psql(&physical, &["-c", "IDENTIFY_SYSTEM"]);
    assert_refused(&refused, "FATAL:  must be superuser or replication role to start walsender");
}

#[test]
fn a_password_file_is_enough_for_psql_and_for_pg_receivewal() {
    let scratch = Scratch::new();
    let (hub, _) = asking(&scratch, |hub| hub);
    let endpoint = hub.endpoint();
    for (password, is_right) in [("pencil", true), ("wrong", false)] {
        let line = format!("{}:{}:*:*:{password}\n", endpoint.host, endpoint.port);
        let passfile = scratch.path(password);
        fs::write(&passfile, line).expect("a file");
        fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).expect("permissions");
        for user in ["scram", "md5_md5", "md5_scram"] {
            let conninfo = format!("{} passfile={}", conninfo(&hub, user, ""), passfile.display());
            let output = run_psql(&conninfo, &["-w", "-c", "select 1"]);
            assert_eq!(output.status.success(), is_right, "{}", said(&output));
            let mut receive = quick_command(program("pg_receivewal"));
            receive.args([
                "-w",
                "--create-slot",
                "--if-not-exists",
                "--slot",
                user,
                "-d",
                &conninfo,
            ]);
            let output = run(&mut receive);
            assert_eq!(output.status.success(), is_right, "{}", said(&output));
            if !is_right {
                assert!(said(&output).contains("password authentication failed"), "{output:?}");
            }
        }
    }
    assert_eq!(hub.psql("select count(*) from pg_replication_slots"), "3");
}

#[test]
fn another_hub_streams_with_a_password() {
    let scratch = Scratch::new();
    let (hub, _) = asking(&scratch, |hub| hub);
    let upstream = |password| {
        format!(
            "{} application_name=relay",
            conninfo(&hub, "scram", password).replace("dbname=postgres", "")
        )
    };
    let mut relay = Hub::named("relay").upstream(upstream("wrong")).start(&scratch);
    relay
        .log()
        .wait_for(relay.log().beginning(), "password authentication failed for user \"scram\"");
    relay.stop(walhub_tests::postgres::StopMode::Fast);
    relay.set_upstream(upstream("pencil"));
    relay.start();
    hub.switch_wal(2);
    hub.wait_streaming("relay");
    let user = "select usename from pg_stat_replication where application_name = 'relay'";
    assert_eq!(hub.psql(user), "scram");
}

fn reload(hub: &Hub) {
    let output = walhub([OsStr::new("reload"), OsStr::new("-D"), hub.data().as_os_str()]);
    assert!(output.status.success(), "{}", said(&output));
}

/// psql over the unix socket, as PostgreSQL's user of the operating system, if it is not told otherwise.
fn by_socket(hub: &Hub, sockets: &Path, user: &str) -> Output {
    let conninfo = format!(
        "host={} port={} dbname=postgres user={user}",
        sockets.display(),
        hub.endpoint().port
    );
    let mut psql: Command = command_as_postgres(program("psql"));
    let query = "select current_user, system_user";
    run(psql.args(["-XAtw", "-d", &conninfo, "-c", query]))
}

#[test]
fn a_peer_is_who_the_kernel_says_and_whom_the_map_makes_of_it() {
    let scratch = Scratch::new();
    let (hub, sockets) = asking(&scratch, |hub| hub);
    give_to_postgres(&sockets);
    for user in ["postgres", "operator", "xgres"] {
        let output = by_socket(&hub, &sockets, user);
        assert_eq!(said(&output).trim_end(), format!("{user}|peer:postgres"));
    }
    let refused = "FATAL:  Peer authentication failed for user \"trusted\"";
    assert_refused(&by_socket(&hub, &sockets, "trusted"), refused);
    let why = "no match in usermap \"ops\" for user \"trusted\" authenticated as \"postgres\"";
    hub.log().wait_for(hub.log().beginning(), why);
    // Root is nobody here.
    let conninfo = format!("host={} port={} user=postgres", sockets.display(), hub.endpoint().port);
    let output = run_psql(&conninfo, &["-w", "-c", "select 1"]);
    assert_refused(&output, "FATAL:  Peer authentication failed for user \"postgres\"");
    let why = "provided user name (postgres) and authenticated user name (root) do not match";
    hub.log().wait_for(hub.log().beginning(), why);
}

#[test]
fn a_reload_changes_the_method_and_no_session() {
    let scratch = Scratch::new();
    let (hub, _) = asking(&scratch, |hub| hub);
    let receive = ReceiveWal::start(&hub, "standby", &["--synchronous"], &scratch);
    hub.wait_streaming("standby");
    assert!(who(&hub, "trusted", "").status.success());
    let file = hub.data().join("pg_hba.conf");
    fs::write(&file, HBA.replace("nobody_t all trust", "nobody_t all scram-sha-256"))
        .expect("a file");
    reload(&hub);
    let until = Instant::now() + Duration::from_secs(10);
    while who(&hub, "trusted", "").status.success() && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    assert_refused(&who(&hub, "trusted", ""), "no password supplied");
    assert!(who(&hub, "scram", "pencil").status.success());
    drop(receive);
}

#[test]
fn a_secret_of_postgresql_is_as_good_as_its_password() {
    let scratch = Scratch::new();
    let (hub, _) = asking(&scratch, |hub| hub);
    let secret = run_psql_ok(
        &hub.endpoint().database(),
        &[
            "-c",
            "set scram_iterations = 5000; create role other login password 'pencil'",
            "-c",
            "select rolpassword from pg_authid where rolname = 'other'",
        ],
    );
    assert!(secret.starts_with("SCRAM-SHA-256$"), "{secret}");
    hub.psql(&format!("create role copy login password '{secret}'"));
    let file = hub.data().join("pg_hba.conf");
    fs::write(&file, format!("{HBA}host all copy all scram-sha-256\n")).expect("a file");
    reload(&hub);
    let until = Instant::now() + Duration::from_secs(10);
    while !who(&hub, "copy", "pencil").status.success() && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(who(&hub, "copy", "pencil").status.success());
    assert_refused(&who(&hub, "copy", "x"), "password authentication failed for user \"copy\"");
}

#[test]
fn drivers_of_other_languages_prove_a_password() {
    let scratch = Scratch::new();
    let (hub, _) = asking(&scratch, |hub| hub);
    let endpoint = hub.endpoint();
    for module in ["psycopg2", "psycopg"] {
        for user in ["password_scram", "md5_md5", "md5_scram", "scram"] {
            let text = format!(
                "import {module}\n\
                 def user(password):\n\
                 \x20   c = {module}.connect(host='{}', port={}, dbname='postgres', user='{user}', password=password)\n\
                 \x20   k = c.cursor(); k.execute('select current_user'); return k.fetchone()[0]\n\
                 assert user('pencil') == '{user}'\n\
                 try:\n\
                 \x20   user('x')\n\
                 except {module}.OperationalError as e:\n\
                 \x20   assert 'password authentication failed' in str(e), e\n\
                 else:\n\
                 \x20   raise AssertionError('it was let in')\n",
                endpoint.host, endpoint.port
            );
            run_ok(quick_command("/usr/bin/python3").args(["-c", &text]));
        }
    }
}
