//! Statements about roles, and who may do what.

use std::sync::Arc;

use walhub_proto::roles::Roles;
use walhub_proto::roles::change::{Actor, Settled};
use walhub_proto::roles::statement::{RoleOptions, RoleSpec, RoleStatement, Spelling};

use super::{params, query, shown, snapshot, talk_to};
use crate::roles::RoleStore;

const ROOT: Actor = Actor { current: 10, session: 10 };

/// What a session of that role is told, without its ReadyForQuery.
fn answers(store: &Arc<RoleStore>, user: &str, statements: &[&str]) -> Vec<String> {
    let authenticated = store.current().get(user).unwrap().oid;
    let params =
        super::BackendParams { roles: Arc::clone(store), authenticated, ..params(snapshot(false)) };
    let input: Vec<u8> = statements.iter().flat_map(|sql| query(sql)).collect();
    let lines = shown(&talk_to(params, &input).0);
    lines.into_iter().filter(|line| !line.starts_with("Z ")).collect()
}

/// A store with a superuser, and roles as they are wanted.
fn store(dir: &tempfile::TempDir, names: &[(&str, RoleOptions)]) -> Arc<RoleStore> {
    let mut roles = Roles::new("root");
    for (name, options) in names {
        let create = RoleStatement::Create { name: (*name).to_owned(), options: options.clone() };
        roles = roles.change(&create, ROOT, &Settled::default()).unwrap().0;
    }
    RoleStore::new(dir.path().join("walhub.roles"), roles)
}

fn granted(store: &Arc<RoleStore>, role: &str, to: &str) -> Arc<RoleStore> {
    let grant = RoleStatement::Grant {
        roles: vec![RoleSpec::Name(role.to_owned())],
        to: vec![RoleSpec::Name(to.to_owned())],
        admin_option: false,
        grantor: None,
        spelling: Spelling::Grant,
    };
    let (roles, _) = store.current().change(&grant, ROOT, &Settled::default()).unwrap();
    RoleStore::new("/nowhere/walhub.roles".into(), roles)
}

fn plain() -> RoleOptions {
    RoleOptions { login: Some(true), ..RoleOptions::default() }
}

#[test]
fn roles_are_made_changed_shown_and_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, &[]);
    let said = answers(
        &store,
        "root",
        &[
            "create user s1 replication password 'secret' valid until 'infinity'",
            "create role g in role pg_monitor",
            "grant g to s1, nobody",
            "grant g to s1",
            "select rolname, rolcanlogin, rolreplication, rolpassword, rolvaliduntil from pg_roles \
             where rolname = 's1'",
            "select rolpassword like 'SCRAM-SHA-256$4096:%' from pg_authid where rolname = 's1'",
            "set password_encryption = md5",
            "alter user s1 password 'secret'",
            "select passwd from pg_shadow where usename = 's1'",
            "alter role s1 password ''",
            "drop role g",
            "begin",
            "drop role s1",
            "rollback",
        ],
    );
    assert_eq!(
        said,
        [
            "C CREATE ROLE",
            "C CREATE ROLE",
            "ERROR 42704 role \"nobody\" does not exist",
            "C GRANT ROLE",
            "T rolname:19 rolcanlogin:16 rolreplication:16 rolpassword:25 rolvaliduntil:1184",
            "s1|t|t|********|infinity",
            "C SELECT 1",
            "T ?column?:16",
            "t",
            "C SELECT 1",
            "C SET",
            "C ALTER ROLE",
            "T passwd:25",
            // md5 of "secrets1"
            "md52dfa53419218e01d94b4126b5021532f",
            "C SELECT 1",
            "NOTICE 00000 empty string is not a valid password, clearing password",
            "C ALTER ROLE",
            "C DROP ROLE",
            "C BEGIN",
            "ERROR 25001 DROP ROLE cannot run inside a transaction block",
            "C ROLLBACK",
        ]
    );
    let kept = RoleStore::open(dir.path()).unwrap().current();
    assert!(kept.get("g").is_none() && kept.get("s1").unwrap().password.is_none());
}

#[test]
fn a_session_acts_as_another_role_and_its_client_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, &[("a", plain()), ("b", plain())]);
    let said = answers(
        &store,
        "root",
        &[
            "select current_user, session_user, user, current_role",
            "set session authorization a",
            "set role b",
            "select current_user, session_user, current_setting('is_superuser')",
            "begin",
            "reset session authorization",
            "set role b",
            "select current_user, session_user, current_setting('role')",
            "rollback",
            "select current_user, session_user, current_setting('role')",
            "discard all",
            "set local role a",
            "set role none",
            "show session authorization",
        ],
    );
    let said: Vec<&str> = said.iter().map(|it| &**it).filter(|it| !it.starts_with("T ")).collect();
    assert_eq!(
        said,
        [
            "root|root|root|root",
            "C SELECT 1",
            "S is_superuser=off",
            "S session_authorization=a",
            "C SET",
            "ERROR 42501 permission denied to set role \"b\"",
            "a|a|off",
            "C SELECT 1",
            "C BEGIN",
            "S is_superuser=on",
            "S session_authorization=root",
            "C RESET",
            "S is_superuser=off",
            "C SET",
            "b|root|b",
            "C SELECT 1",
            "S session_authorization=a",
            "C ROLLBACK",
            "a|a|none",
            "C SELECT 1",
            "S is_superuser=on",
            "S session_authorization=root",
            "C DISCARD ALL",
            "WARNING 25P01 SET LOCAL can only be used in transaction blocks",
            "C SET",
            "C SET",
            "root",
            "C SHOW",
        ]
    );
}

#[test]
fn who_may_not_is_told_so_in_postgresql_s_words() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, &[("plain", plain())]);
    for (sql, message) in [
        ("select rolpassword from pg_authid", "permission denied for table pg_authid"),
        (
            "select 1 where false and exists (select 1 from pg_shadow)",
            "permission denied for view pg_shadow",
        ),
        ("select * from walhub.messages", "permission denied for table messages"),
        ("select pg_switch_wal()", "permission denied for function pg_switch_wal"),
        ("select pg_promote()", "permission denied for function pg_promote"),
        (
            "select pg_stat_reset_shared('commit_latency')",
            "permission denied for function pg_stat_reset_shared",
        ),
        ("checkpoint", "must be superuser or have privileges of pg_checkpoint to do CHECKPOINT"),
        (
            "select pg_create_physical_replication_slot('s')",
            "must be superuser or replication role to use replication slots",
        ),
        (
            "select pg_drop_replication_slot('s')",
            "must be superuser or replication role to use replication slots",
        ),
        (
            "show primary_conninfo",
            "must be superuser or have privileges of pg_read_all_settings to examine \"primary_conninfo\"",
        ),
        (
            "select current_setting('unix_socket_directories', true)",
            "must be superuser or have privileges of pg_read_all_settings to examine \"unix_socket_directories\"",
        ),
        ("create role x", "permission denied to create role"),
        ("drop role plain", "permission denied to drop role"),
        (
            "alter role root nologin",
            "must be superuser to alter superuser roles or change superuser attribute",
        ),
        ("set role root", "permission denied to set role \"root\""),
        (
            "set session authorization root",
            "permission denied to set session authorization \"root\"",
        ),
    ] {
        let said = answers(&store, "plain", &[sql]);
        assert_eq!(said.last().unwrap(), &format!("ERROR 42501 {message}"), "{sql}");
    }
}

#[test]
fn details_of_others_are_for_pg_read_all_stats() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, &[("plain", plain()), ("monitor", plain())]);
    let rows = |store: &Arc<RoleStore>, user: &str, sql: &str| {
        let said = answers(store, user, &[sql]);
        said.into_iter().filter(|line| !line.starts_with("T ")).collect::<Vec<_>>()
    };
    let walsenders = "select pid, usename, application_name, client_addr, state, sent_lsn from pg_stat_replication \
         where pid = 11";
    assert_eq!(rows(&store, "plain", walsenders), ["11|monitor|a|-|-|-", "C SELECT 1"]);
    let all = ["11|monitor|a|127.0.0.1|streaming|0/3000000", "C SELECT 1"];
    assert_eq!(rows(&store, "root", walsenders), all);
    // Its own address is its own; what was sent is not.
    assert_eq!(rows(&store, "monitor", walsenders), ["11|monitor|a|127.0.0.1|-|-", "C SELECT 1"]);
    let receiver = "select pid, status, conninfo from pg_stat_wal_receiver";
    assert_eq!(rows(&store, "plain", receiver), ["10|-|-", "C SELECT 1"]);
    let activity =
        "select pid, usename, state, query, backend_type from pg_stat_activity where pid = 12";
    assert_eq!(
        rows(&store, "plain", activity),
        ["12|monitor|-|<insufficient privilege>|-", "C SELECT 1"]
    );
    let hidden = "select count(*) from pg_settings where name = 'unix_socket_directories'";
    assert_eq!(rows(&store, "plain", hidden), ["0", "C SELECT 1"]);
    let store = granted(&store, "pg_monitor", "plain");
    assert_eq!(rows(&store, "plain", walsenders), all);
    assert_eq!(rows(&store, "plain", receiver), ["10|streaming|host=primary", "C SELECT 1"]);
}

/// What psql 15 asks for `\du`.
#[test]
fn psql_s_list_of_roles_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, &[("b", plain()), ("a", RoleOptions::default())]);
    let store = granted(&granted(&store, "a", "b"), "pg_monitor", "b");
    let sql = "SELECT r.rolname, r.rolsuper, r.rolinherit,
  r.rolcreaterole, r.rolcreatedb, r.rolcanlogin,
  r.rolconnlimit, r.rolvaliduntil,
  ARRAY(SELECT b.rolname
        FROM pg_catalog.pg_auth_members m
        JOIN pg_catalog.pg_roles b ON (m.roleid = b.oid)
        WHERE m.member = r.oid) as memberof
, r.rolreplication
, r.rolbypassrls
FROM pg_catalog.pg_roles r
WHERE r.rolname !~ '^pg_'
ORDER BY 1;";
    let said = answers(&store, "b", &[sql]);
    assert_eq!(
        said[1..],
        [
            "a|f|t|f|f|f|-1|-|{}|f|f",
            "b|f|t|f|f|t|-1|-|{a,pg_monitor}|f|f",
            "root|t|t|t|t|t|-1|-|{}|t|t",
            "C SELECT 3",
        ]
    );
    let sql = "select rolname from pg_catalog.pg_roles where rolname OPERATOR(pg_catalog.~) '^(b|r.*t)$' \
               COLLATE pg_catalog.default order by 1";
    assert_eq!(answers(&store, "b", &[sql])[1..], ["b", "root", "C SELECT 2"]);
}

#[test]
fn functions_know_roles() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, &[("a", plain()), ("b", plain())]);
    let store = granted(&store, "a", "b");
    let said = answers(
        &store,
        "b",
        &[
            "select pg_has_role('a', 'member'), pg_has_role('a', 'b', 'USAGE'), \
             pg_has_role('b', 'a', 'MEMBER WITH ADMIN OPTION'), pg_get_userbyid(10), \
             pg_get_userbyid(99)",
            "select pg_has_role('x', 'member')",
            "select pg_has_role('a', 'own')",
        ],
    );
    assert_eq!(
        said[1..],
        [
            "t|f|f|root|unknown (OID=99)",
            "C SELECT 1",
            "ERROR 42704 role \"x\" does not exist",
            "ERROR 22023 unrecognized privilege type: \"own\"",
        ]
    );
}
