//! Roles that others keep: copied once, asked for at each login, read from PgBouncer's file.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::process::Output;
use std::thread;

use walhub_tests::client::{SqlServer as _, run_psql};
use walhub_tests::hub::{Hub, walhub};
use walhub_tests::postgres::{Postgres, StopMode};
use walhub_tests::scratch::Scratch;

/// What a DBA with standbys has.
const ROLES: &str = "CREATE ROLE standbys NOLOGIN; \
     CREATE ROLE \"stand\"\"by 1\" LOGIN REPLICATION CONNECTION LIMIT 3 PASSWORD 's1 secret' \
         VALID UNTIL '2030-01-02 03:04:05+00' IN ROLE standbys, pg_monitor; \
     CREATE ROLE monitor LOGIN NOINHERIT IN ROLE pg_monitor; \
     SET password_encryption = md5; CREATE ROLE old LOGIN PASSWORD 'md5 secret'";

/// Secrets, attributes and memberships, but for OIDs and the bootstrap superuser.
const ALL: &str = "SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, \
     rolreplication, rolbypassrls, rolconnlimit, rolpassword, rolvaliduntil FROM pg_authid \
     WHERE rolname !~ '^pg_' AND oid <> 10 ORDER BY rolname";
const MEMBERS: &str = "SELECT u.rolname, r.rolname FROM pg_auth_members m \
     JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member \
     WHERE u.rolname !~ '^pg_' ORDER BY 1, 2";

#[test]
fn roles_are_copied_once_with_all_that_they_have() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").sql(ROLES).start(&scratch);
    let mut hub = Hub::named("hub").build(&scratch);
    hub.init(16);
    hub.start();
    hub.psql("CREATE ROLE monitor SUPERUSER");
    let (from, to) = (primary.endpoint().database(), hub.endpoint().database());
    let import = || walhub(["roles", "import", "--from", &from, "--to", &to]);
    let output = import();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "role \"stand\"by 1\" created\n",
        "role \"monitor\" exists already and stays as it is\n",
        "role \"postgres\" exists already and stays as it is\n",
        "3 of 5 roles created\n",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
    hub.psql("DROP ROLE monitor");
    assert!(import().status.success());
    for all in [ALL, MEMBERS] {
        assert_eq!(hub.psql(all), primary.psql(all));
    }
}

#[test]
fn an_import_that_cannot_read_or_write_says_so() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").sql("CREATE ROLE plain LOGIN").start(&scratch);
    let mut hub = Hub::named("hub").build(&scratch);
    hub.init(16);
    hub.start();
    let to = hub.endpoint().database();
    let plain = primary.endpoint().database().replace("user=postgres", "user=plain");
    for (from, error) in [
        (plain.as_str(), "could not read the roles: ERROR:  permission denied for table pg_authid"),
        ("nonsense=1", "invalid connection string syntax"),
    ] {
        let output = walhub(["roles", "import", "--from", from, "--to", &to]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(error), "{said}");
    }
    assert_eq!(hub.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'plain'"), "0");
}

/// Standbys are members of a role and have a password; everybody else is the operator.
const HBA: &str = "host all postgres all trust\nhost all postgres,monitor all trust\n\
     host replication,all +standbys all scram-sha-256\nhost all old all md5\n\
     host all nobody all scram-sha-256\n";

/// A relay that asks its primary for roles.
fn asking(primary: &Postgres, scratch: &Scratch) -> Hub {
    let hub = Hub::named("hub").upstream(primary.endpoint().conninfo("hub"));
    let hub = hub.set("auth_user", "postgres").build(scratch);
    fs::DirBuilder::new().mode(0o700).create(hub.data()).expect("a directory");
    fs::write(hub.data().join("pg_hba.conf"), HBA).expect("a file");
    hub
}

fn log_in(hub: &Hub, user: &str, password: &str) -> Output {
    let conninfo = hub.endpoint().database().replace("user=postgres", &format!("user='{user}'"));
    run_psql(&format!("{conninfo} password='{password}'"), &["-c", "SELECT current_user"])
}

#[track_caller]
fn comes_in(hub: &Hub, user: &str, password: &str) {
    let output = log_in(hub, user, password);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), user);
}

#[track_caller]
fn is_refused(hub: &Hub, user: &str, password: &str) {
    let output = log_in(hub, user, password);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let wanted = format!("FATAL:  password authentication failed for user \"{user}\"");
    assert!(!output.status.success() && said.contains(&wanted), "{said}");
}

#[test]
fn who_has_a_role_in_the_primary_comes_in_also_when_the_primary_is_gone() {
    let scratch = Scratch::new();
    let mut primary = Postgres::primary("primary").sql(ROLES).start(&scratch);
    let mut hub = asking(&primary, &scratch);
    hub.start();
    primary.wait_streaming("hub");
    let standby = "stand\"by 1";
    is_refused(&hub, standby, "wrong");
    comes_in(&hub, standby, "s1 secret");
    comes_in(&hub, "old", "md5 secret");
    is_refused(&hub, "nobody", "s1 secret");
    let attributes = "SELECT rolreplication, rolconnlimit, rolsuper, \
         pg_has_role(rolname, 'pg_read_all_stats', 'MEMBER') FROM pg_roles WHERE rolcanlogin \
         AND rolname LIKE 'stand%'";
    assert_eq!(hub.psql(attributes), "t|3|f|t");

    // They all come back when the primary is dead, and after a crash of the hub.
    primary.stop(StopMode::Immediate);
    comes_in(&hub, standby, "s1 secret");
    hub.kill9();
    hub.start();
    comes_in(&hub, standby, "s1 secret");
    is_refused(&hub, standby, "wrong");
    is_refused(&hub, "nobody", "s1 secret");
    hub.log().wait_for(hub.log().beginning(), "could not ask the upstream server for role");

    // What is changed there is known here as soon as it can be asked.
    primary.start();
    primary.psql("ALTER ROLE \"stand\"\"by 1\" PASSWORD 'another'");
    primary.psql("DROP ROLE old");
    hub.wait_sql("SELECT count(*) FROM pg_stat_wal_receiver", "1");
    walhub_tests::wait::wait_until("the new password", || {
        log_in(&hub, standby, "another").status.success()
    });
    is_refused(&hub, standby, "s1 secret");
    is_refused(&hub, "old", "md5 secret");
    let output =
        run_psql(&hub.endpoint().database(), &["-c", "ALTER ROLE \"stand\"\"by 1\" NOLOGIN"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("is kept by the upstream server"), "{said}");
}

/// pg_basebackup opens two connections, and sixty standbys come back at once.
#[test]
fn who_comes_twice_at_once_for_the_first_time_comes_in_twice() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").sql(ROLES).start(&scratch);
    let mut hub = asking(&primary, &scratch);
    hub.start();
    primary.wait_streaming("hub");
    for role in 0..4 {
        let name = format!("r{role}");
        primary.psql(&format!("CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE standbys"));
        thread::scope(|scope| {
            (0..6).for_each(|_| drop(scope.spawn(|| comes_in(&hub, &name, "x"))));
        });
    }
    // The session that asks does not keep the primary from a smart shutdown.
    primary.wait_sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%rolname%' AND pid <> pg_backend_pid()", "0");
}

/// One whose name the statement stumbles over does not keep others from being asked for.
#[test]
fn what_a_server_says_of_one_role_is_about_that_role() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").sql(ROLES).start(&scratch);
    let mut hub = asking(&primary, &scratch);
    let stumbles = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1 \
         AND 1 / (CASE WHEN $1 = 'nobody' THEN 0 ELSE 1 END) = 1";
    hub.set("auth_query", stumbles);
    hub.start();
    primary.wait_streaming("hub");
    is_refused(&hub, "nobody", "x");
    let line = hub.log().wait_for(hub.log().beginning(), "could not ask the upstream server");
    assert!(line.contains("for role \"nobody\": ERROR:  division by zero"), "{line}");
    comes_in(&hub, "old", "md5 secret");
}

/// Its address may be somebody else's by now.
#[test]
fn roles_of_another_database_system_are_not_learnt() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").start(&scratch);
    let other = Postgres::primary("other").sql(ROLES).start(&scratch);
    let mut hub = asking(&primary, &scratch);
    hub.start();
    primary.wait_streaming("hub");
    hub.stop(StopMode::Fast);
    hub.set_upstream(other.endpoint().conninfo("hub"));
    hub.start();
    is_refused(&hub, "old", "md5 secret");
    let line = hub.log().wait_for(hub.log().beginning(), "for role \"old\"");
    assert!(line.contains("database system identifier differs"), "{line}");
    assert_eq!(hub.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'old'"), "0");
}

#[test]
fn pgbouncers_file_of_users_is_read() {
    let scratch = Scratch::new();
    let file = scratch.path("userlist.txt");
    let write = |text: &str| fs::write(&file, text).expect("a file");
    write("\"old\" \"md5 secret\"\n\"gone\" \"gone\"\n");
    let mut hub = Hub::named("hub").set("auth_file", file.display().to_string()).build(&scratch);
    hub.init(1);
    let hba = "host all postgres all trust\nhost all all all scram-sha-256\n";
    fs::write(hub.data().join("pg_hba.conf"), hba).expect("a file");
    hub.start();
    comes_in(&hub, "old", "md5 secret");
    is_refused(&hub, "old", "wrong");
    comes_in(&hub, "gone", "gone");
    write("\"old\" \"new\"\n");
    hub.psql("SELECT pg_reload_conf()");
    hub.wait_sql("SELECT count(*) FROM pg_roles WHERE rolname = 'gone'", "0");
    comes_in(&hub, "old", "new");
    is_refused(&hub, "gone", "gone");
    // A file that cannot be read changes nothing.
    write("\"old\" oops\n");
    let mark = hub.log().mark();
    hub.psql("SELECT pg_reload_conf()");
    let line = hub.log().wait_for(mark, "could not read file");
    assert!(line.contains("line 1: password does not begin with a double quote"), "{line}");
    comes_in(&hub, "old", "new");
}
