//! Roles, and who may do what: the words and effects are those of a real server.

use std::fs;
use std::io::Write as _;
use std::process::{Output, Stdio};

use walhub_tests::client::{SqlServer, run_psql, run_psql_ok};
use walhub_tests::hub::{Hub, HubBuilder};
use walhub_tests::postgres::{Postgres, major, program};
use walhub_tests::process::{command, said};
use walhub_tests::scratch::Scratch;

/// A connection string of that user.
fn as_user(server: &impl SqlServer, user: &str) -> String {
    server.endpoint().database().replace("user=postgres", &format!("user={user}"))
}

/// A hub with WAL of its own.
fn own(scratch: &Scratch, change: impl FnOnce(HubBuilder) -> HubBuilder) -> Hub {
    let mut hub = change(Hub::named("hub")).build(scratch);
    hub.init(16);
    hub.start();
    hub
}

/// What psql prints for a script, without what names the source of a server.
fn transcript(conninfo: &str, script: &str) -> String {
    let mut psql = command(program("psql"));
    psql.args(["-X", "-e", "-v", "VERBOSITY=verbose", "-d", conninfo]).arg("-f").arg(script);
    let output = psql.output().expect("psql");
    let both = [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    both.concat()
        .lines()
        .filter(|line| !line.starts_with("LOCATION:"))
        .fold(String::new(), |text, line| text + line + "\n")
}

/// Compares the first line that differs, which says most.
#[track_caller]
fn assert_same(user: &str, got: &str, want: &str) {
    for (number, (got_line, want_line)) in got.lines().zip(want.lines()).enumerate() {
        let before: Vec<&str> = want.lines().take(number).collect();
        let context = before[before.len().saturating_sub(4)..].join("\n");
        assert_eq!(got_line, want_line, "as {user}, line {number}, after\n{context}");
    }
    assert_eq!(got.lines().count(), want.lines().count(), "as {user}");
}

/// What a superuser does.
const AS_POSTGRES: &str = r#"
create role maker login createrole;
create user plain;
create role grp;
create role boss superuser login;
create user walker replication connection limit 2;
create role plain;
create role pg_x;
create role public;
create role "none";
create role x supervisor;
create role x login nologin;
create role x connection limit -3;
create user x password '';
drop user x;
create role x sysid 5;
alter role x valid until 'nonsense';
alter role x valid until '2030-01-01 00:00:00+00' noinherit bypassrls;
alter role x unencrypted password 'y';
alter role nobody login;
grant grp to plain;
grant grp to plain;
grant grp to plain with admin option;
revoke admin option for grp from plain;
revoke grp from maker;
grant plain to grp;
grant grp to public;
grant pg_database_owner to plain;
grant plain to pg_database_owner;
alter role pg_monitor login;
drop role pg_monitor;
drop role current_user;
drop role if exists nobody, x;
drop role nobody;
drop role postgres;
alter role postgres rename to p;
alter role walker rename to pg_walker;
alter role walker rename to plain;
alter role walker rename to walker2;
alter group grp add user maker, walker2;
alter group grp drop user maker, nobody;
alter group grp drop user maker;
grant pg_monitor to maker;
set password_encryption = 'md5';
set password_encryption = 'none';
alter user plain password 'secret';
select rolname, rolpassword from pg_authid where rolname = 'plain';
select usename, passwd from pg_shadow where usename = 'plain';
alter user plain rename to simple;
alter user simple rename to plain;
reset password_encryption;
alter user plain password 'secret';
select rolpassword like 'SCRAM-SHA-256$4096:%' from pg_authid where rolname = 'plain';
select rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,
    rolconnlimit, rolpassword, rolvaliduntil, rolbypassrls, rolconfig
    from pg_roles where rolname !~ '^pg_' order by 1;
select usename, usecreatedb, usesuper, userepl, usebypassrls, passwd, valuntil, useconfig
    from pg_user order by 1;
select r.rolname, m.rolname, a.admin_option, pg_get_userbyid(a.grantor)
    from pg_auth_members a join pg_roles r on r.oid = a.roleid join pg_roles m on m.oid = a.member
    order by 1, 2;
select groname from pg_group where groname !~ '^pg_';
\du
\dg
\du pl*
set role plain;
select current_user, session_user, user, current_role;
show role;
show is_superuser;
create role y;
set role none;
show role;
set session authorization plain;
select current_user, session_user;
show session authorization;
set role maker;
set role grp;
select current_user, session_user;
reset session authorization;
select current_user, session_user;
begin;
set local role plain;
select current_user;
rollback;
select current_user;
set role nobody;
set session authorization nobody;
select pg_has_role('plain', 'grp', 'member'), pg_has_role('grp', 'plain', 'usage'),
    pg_has_role('maker', 'pg_read_all_stats', 'usage');
select pg_has_role('nobody', 'member');
select pg_has_role('plain', 'own');
"#;

/// What somebody may do who has CREATEROLE.
const AS_MAKER: &str = r"
create role y;
create role y2 superuser;
create role y2 replication;
create role y2 bypassrls;
alter role boss password 'x';
alter role walker2 nologin;
alter role plain bypassrls;
alter role plain superuser;
alter role plain connection limit 5;
drop role boss;
drop role maker;
grant boss to maker;
grant pg_monitor to plain;
revoke pg_monitor from plain;
grant grp to y granted by boss;
alter role boss rename to chief;
alter role y rename to y3;
drop role y3;
set role plain;
set role pg_monitor;
select current_user;
select rolpassword from pg_authid;
checkpoint;
";

/// What nobody may do who has only come in.
const AS_PLAIN: &str = r"
create role y;
drop role maker;
alter role maker login;
alter role plain login;
alter role plain password 'other';
alter role maker password 'other';
grant maker to plain;
grant boss to plain;
grant grp to plain;
alter role maker rename to y;
set role maker;
set role grp;
reset role;
set session authorization maker;
set session authorization plain;
select count(*) from pg_authid;
select count(*) from pg_shadow;
select usename, passwd from pg_user where usename = 'plain';
select pg_switch_wal();
select pg_promote();
select pg_stat_reset_shared('archiver');
checkpoint;
select pg_create_physical_replication_slot('s');
select pg_drop_replication_slot('s');
show primary_conninfo;
show unix_socket_directories;
select current_setting('primary_conninfo');
select count(*) from pg_settings where name in ('primary_conninfo', 'unix_socket_directories');
select usename, state, query, client_addr, backend_type from pg_stat_activity
    where usename = 'plain' and state is null;
select usename, state, query, client_addr is null, backend_start is null, backend_type
    from pg_stat_activity where usename = 'postgres' and application_name = 'watched';
";

#[test]
fn role_statements_answer_as_postgresql_does() {
    if major() != 15 {
        return;
    }
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").start(&scratch);
    let hub = own(&scratch, |hub| hub);
    let watched =
        |server: &dyn Fn(&str) -> String| server("postgres") + " application_name=watched";
    let sessions = [watched(&|user| as_user(&primary, user)), watched(&|user| as_user(&hub, user))]
        .map(|conninfo| {
            let mut psql = command(program("psql"));
            psql.args(["-X", "-d", &conninfo]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut session = psql.spawn().expect("psql");
            // Both are connected once they have answered.
            let mut input = session.stdin.take().expect("a pipe");
            input.write_all(b"select 1;\n").expect("a session");
            (session, input)
        });
    let is_there = "select count(*) from pg_stat_activity where application_name = 'watched'";
    primary.wait_sql(is_there, "1");
    hub.wait_sql(is_there, "1");
    for (user, statements) in [("postgres", AS_POSTGRES), ("maker", AS_MAKER), ("plain", AS_PLAIN)]
    {
        let script = scratch.path(&format!("{user}.sql")).display().to_string();
        fs::write(&script, statements).expect("a script");
        let want = transcript(&as_user(&primary, user), &script);
        let got = transcript(&as_user(&hub, user), &script);
        assert_same(user, &got, &want);
    }
    for (mut session, input) in sessions {
        drop(input);
        session.wait().expect("psql");
    }
}

#[test]
fn roles_outlive_kill_9_and_each_that_was_acknowledged_is_there() {
    let scratch = Scratch::new();
    let mut hub = own(&scratch, |hub| hub);
    for round in 0..3 {
        let mut script = String::new();
        for number in 0..500 {
            script += &format!("create role r{round}_{number} login password 'md5x';\n");
            script += &format!("\\echo made r{round}_{number}\n");
        }
        let path = scratch.path("create.sql");
        fs::write(&path, script).expect("a script");
        let mut psql = command(program("psql"));
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &hub.endpoint().database()]);
        psql.arg("-f").arg(&path).stdout(Stdio::piped()).stderr(Stdio::null());
        let client = psql.spawn().expect("psql");
        hub.wait_sql(
            &format!("select count(*) > 20 from pg_roles where rolname like 'r{round}%'"),
            "t",
        );
        hub.kill9();
        let output = client.wait_with_output().expect("psql");
        hub.start();
        let there = hub.psql("select rolname from pg_roles where rolname like 'r%'");
        let there: Vec<&str> = there.lines().collect();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let made: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("made ")).collect();
        assert!(made.len() > 20, "{told}");
        assert!(made.iter().all(|name| there.contains(name)), "{made:?} {there:?}");
        let of_round = there.iter().filter(|name| name.starts_with(&format!("r{round}_")));
        // At most one was under way.
        assert!(of_round.count() <= made.len() + 1);
    }
}

#[test]
fn a_damaged_role_file_keeps_the_server_from_starting() {
    let scratch = Scratch::new();
    let mut hub = own(&scratch, |hub| hub);
    hub.psql("create role a");
    hub.kill9();
    let file = hub.data().join("walhub.roles");
    let text = fs::read_to_string(&file).expect("the roles");
    fs::write(&file, text.replace("superuser", "superuses")).expect("the roles");
    let refusal = hub.refusal();
    assert!(refusal.contains("FATAL:  role file"), "{refusal}");
    assert!(refusal.contains("cannot be used: checksum mismatch"), "{refusal}");
    assert!(refusal.contains("HINT:  Put back the file from a copy."), "{refusal}");
    fs::write(&file, text).expect("the roles");
    hub.start();
    assert_eq!(hub.psql("select count(*) from pg_roles where rolname = 'a'"), "1");
}

/// psql's \password, at no terminal.
fn change_password(conninfo: &str, user: &str, password: &str) -> Output {
    let mut psql = command("setsid");
    psql.args(["--wait"]).arg(program("psql"));
    psql.args(["-X", "-d", conninfo, "-c", &format!("\\password {user}")]);
    let pipes = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = pipes.spawn().expect("psql");
    let mut input = client.stdin.take().expect("a pipe");
    input.write_all(format!("{password}\n{password}\n").as_bytes()).expect("psql");
    drop(input);
    client.wait_with_output().expect("psql")
}

#[test]
fn passwords_are_in_no_log_and_no_view_of_others() {
    let scratch = Scratch::new();
    let hub = own(&scratch, |hub| {
        hub.set("log_min_messages", "debug5").set("log_replication_commands", "on")
    });
    hub.psql("create user s1 password 'Secret1'");
    let output = change_password(&hub.endpoint().database(), "s1", "Secret2");
    assert!(output.status.success(), "{}", said(&output));
    let secret = hub.psql("select rolpassword from pg_authid where rolname = 's1'");
    assert!(secret.starts_with("SCRAM-SHA-256$4096:"), "{secret}");
    let error = hub.psql_error("alter role s1 password 'Secret3' 'Secret4'");
    assert!(error.contains("syntax error at or near \"********\""), "{error}");
    // A walsender without a database logs what it refuses.
    let conninfo = format!("{} replication=true", hub.endpoint().conninfo("psql"));
    let output = run_psql(&conninfo, &["-c", "alter role s1 password 'Secret5'"]);
    assert!(said(&output).contains("cannot execute SQL commands in WAL sender"));
    let shown = run_psql_ok(
        &hub.endpoint().database(),
        &[
            "-c",
            "alter role s1 password 'Secret6'; \
             select query from pg_stat_activity where pid = pg_backend_pid()",
        ],
    );
    assert!(shown.contains("password '********'; select"), "{shown}");
    let log = hub.log().text(hub.log().beginning());
    assert!(log.contains("password '********'"), "{log}");
    assert!(!log.contains("Secret") && !log.contains(&secret), "{log}");
}

#[test]
fn replication_takes_the_attribute() {
    let scratch = Scratch::new();
    let hub = own(&scratch, |hub| hub);
    hub.psql("create user plain");
    hub.psql("create user walker replication");
    let conninfo = |user: &str| format!("{} replication=true", as_user(&hub, user));
    let refused = run_psql(&conninfo("plain"), &["-c", "IDENTIFY_SYSTEM"]);
    let message = "FATAL:  must be superuser or replication role to start walsender";
    assert!(said(&refused).contains(message), "{}", said(&refused));
    run_psql_ok(&conninfo("walker"), &["-c", "IDENTIFY_SYSTEM"]);
    let refused = run_psql(&conninfo("walker"), &["-c", "SHOW primary_conninfo"]);
    let message = "must be superuser or have privileges of pg_read_all_settings";
    assert!(said(&refused).contains(message), "{}", said(&refused));
    run_psql_ok(
        &as_user(&hub, "walker"),
        &[
            "-c",
            "select pg_create_physical_replication_slot('s')",
            "-c",
            "select count(*) from walhub.messages",
        ],
    );
    // Who may append is everybody, as in PostgreSQL; who may read the WAL is not.
    run_psql_ok(&as_user(&hub, "plain"), &["-c", "select pg_logical_emit_message(true, 'a', 'b')"]);
    let refused = run_psql(&as_user(&hub, "plain"), &["-c", "select * from walhub.messages"]);
    assert!(said(&refused).contains("permission denied for table messages"), "{}", said(&refused));
}

#[test]
fn sessions_are_ended_by_those_who_may() {
    let scratch = Scratch::new();
    let hub = own(&scratch, |hub| hub);
    for sql in [
        "create user plain",
        "create user other",
        "create user friend",
        "create user signaler",
        "grant plain to friend",
        "grant pg_signal_backend to signaler",
    ] {
        hub.psql(sql);
    }
    let session_of = |user: &str| {
        let mut psql = command(program("psql"));
        let conninfo = as_user(&hub, user) + " application_name=" + user;
        psql.args(["-X", "-d", &conninfo]).stdin(Stdio::piped());
        let psql = psql.stdout(Stdio::null()).stderr(Stdio::null());
        let session = psql.spawn().expect("psql");
        let pid = format!("select pid from pg_stat_activity where application_name = '{user}'");
        hub.wait_sql(&format!("select count(*) from ({pid}) s"), "1");
        (session, hub.psql(&pid))
    };
    let refusal = |user: &str, pid: &str| {
        let sql = format!("select pg_terminate_backend({pid})");
        said(&run_psql(&as_user(&hub, user), &["-c", &sql]))
    };
    let (mut root, root_pid) = session_of("postgres");
    let superusers = "must be a superuser to terminate superuser process";
    for user in ["other", "signaler"] {
        assert!(refusal(user, &root_pid).contains(superusers), "{user}");
    }
    let not_a_member = "must be a member of the role whose process is being terminated";
    for ender in ["friend", "signaler", "postgres", "plain"] {
        let (mut plain, pid) = session_of("plain");
        assert!(refusal("other", &pid).contains(not_a_member));
        assert_eq!(refusal(ender, &pid).trim(), "t", "{ender}");
        drop(plain.stdin.take());
        plain.wait().expect("psql");
    }
    drop(root.stdin.take());
    root.wait().expect("psql");
}

#[test]
fn init_names_the_superuser_and_takes_its_password() {
    let scratch = Scratch::new();
    let mut hub = Hub::named("hub").build(&scratch);
    let file = scratch.path("password");
    fs::write(&file, "Secret7\n").expect("a file");
    let init = |more: &[&str]| {
        let dir = hub.data().display().to_string();
        let arguments = ["init", "-D", &dir].iter().chain(more).copied().collect::<Vec<_>>();
        walhub_tests::hub::walhub(arguments)
    };
    for (arguments, message) in [
        (&["-U", "pg_root"][..], "role names cannot begin with \"pg_\""),
        (&["-A", "scram-sha-256"], "must specify a password for the superuser"),
        (&["-A", "ldap"], "invalid authentication method"),
        (&["--pwfile", "/nowhere"], "No such file or directory"),
    ] {
        let output = init(arguments);
        assert!(!output.status.success() && said(&output).contains(message), "{}", said(&output));
    }
    let file = file.display().to_string();
    let output = init(&["-U", "root2", "--pwfile", &file, "--auth-local", "scram-sha-256"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("Secret7"));
    hub.start();
    let row = run_psql_ok(
        &as_user(&hub, "root2"),
        &[
            "-c",
            "select oid, rolname, rolsuper, rolpassword like 'SCRAM-%' from pg_authid where oid < 100",
        ],
    );
    assert_eq!(row, "10|root2|t|t");
    let rules = fs::read_to_string(hub.data().join("pg_hba.conf")).expect("a file");
    let local = rules.lines().find(|line| line.starts_with("local")).expect("a rule");
    assert!(local.ends_with("scram-sha-256"), "{local}");
}
