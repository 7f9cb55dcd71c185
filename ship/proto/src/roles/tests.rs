//! Rules of PostgreSQL 15, asked by name. A live test asks a server the same.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

use super::change::{Actor, Secret, Settled};
use super::error::RoleError;
use super::file::{RolesFileError, decode_roles, encode_roles};
use super::predefined::{PG_MONITOR, PG_READ_ALL_SETTINGS, PG_READ_ALL_STATS, PG_SIGNAL_BACKEND};
use super::statement::{Password, RoleOptions, RoleSpec, RoleStatement, Spelling};
use super::{BOOTSTRAP_SUPERUSER, Roles};
use crate::hba::Membership as _;
use crate::time::Timestamp;

const ROOT: Actor = Actor { current: BOOTSTRAP_SUPERUSER, session: BOOTSTRAP_SUPERUSER };

fn crc(seed: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(seed, bytes)
}

fn named(name: &str) -> RoleSpec {
    RoleSpec::Name(name.to_string())
}

fn create(name: &str, options: RoleOptions) -> RoleStatement {
    RoleStatement::Create { name: name.to_string(), options }
}

fn alter(name: &str, options: RoleOptions) -> RoleStatement {
    RoleStatement::Alter { role: named(name), options }
}

fn grant(role: &str, to: &str) -> RoleStatement {
    RoleStatement::Grant {
        roles: vec![named(role)],
        to: vec![named(to)],
        admin_option: false,
        grantor: None,
        spelling: Spelling::Grant,
    }
}

fn revoke(role: &str, from: &str) -> RoleStatement {
    RoleStatement::Revoke {
        roles: vec![named(role)],
        from: vec![named(from)],
        admin_option_only: false,
        spelling: Spelling::Grant,
    }
}

fn drop(name: &str) -> RoleStatement {
    RoleStatement::Drop { roles: vec![named(name)], missing_ok: false }
}

fn options() -> RoleOptions {
    RoleOptions::default()
}

/// Roles, and what is done to them.
struct Case(Roles);

impl Case {
    fn new() -> Self {
        Self(Roles::new("postgres"))
    }

    fn oid(&self, name: &str) -> u32 {
        self.0.get(name).unwrap().oid
    }

    fn actor(&self, name: &str) -> Actor {
        Actor { current: self.oid(name), session: self.oid(name) }
    }

    /// Has somebody do something, and gives what the client is told.
    fn by(&mut self, who: Actor, statement: &RoleStatement) -> Result<Vec<String>, RoleError> {
        let (roles, notices) = self.0.change(statement, who, &Settled::default())?;
        self.0 = roles;
        Ok(notices.into_iter().map(|notice| notice.message).collect())
    }

    fn root(&mut self, statement: &RoleStatement) -> Vec<String> {
        self.by(ROOT, statement).unwrap()
    }

    fn refusal(&self, who: Actor, statement: &RoleStatement) -> (&'static str, String) {
        let error = self.0.change(statement, who, &Settled::default()).unwrap_err();
        (error.sqlstate().0, error.to_string())
    }
}

#[test]
fn a_new_cluster_has_its_superuser_and_the_predefined_roles() {
    let roles = Roles::new("admin");
    assert!(roles.get("postgres").is_none());
    let admin = roles.get("admin").unwrap();
    assert!(admin.superuser && admin.login && admin.replication && admin.oid == 10);
    assert!(roles.has_privs_of(PG_MONITOR, PG_READ_ALL_STATS));
    assert!(roles.has_privs_of(PG_MONITOR, PG_READ_ALL_SETTINGS));
    assert!(!roles.has_privs_of(PG_MONITOR, PG_SIGNAL_BACKEND));
    assert!(!roles.get("pg_monitor").unwrap().login);
}

#[test]
fn membership_goes_by_steps_and_privileges_by_inheritance() {
    let mut case = Case::new();
    case.root(&create("a", options()));
    case.root(&create("b", RoleOptions { inherit: Some(false), ..options() }));
    case.root(&create("c", options()));
    case.root(&grant("pg_monitor", "b"));
    case.root(&grant("b", "a"));
    let (a, b, c) = (case.oid("a"), case.oid("b"), case.oid("c"));
    assert!(case.0.is_member_of(a, PG_READ_ALL_STATS) && case.0.is_member_of(b, PG_MONITOR));
    // b does not inherit: nothing of pg_monitor goes to it, or through it.
    assert!(case.0.has_privs_of(a, b) && !case.0.has_privs_of(a, PG_MONITOR));
    assert!(!case.0.has_privs_of(b, PG_MONITOR) && case.0.has_privs_of(b, b));
    assert!(!case.0.is_member_of(c, b));
    // A superuser is a member of everything, and of nothing.
    assert!(case.0.is_member_of(BOOTSTRAP_SUPERUSER, c));
    assert!(!case.0.is_member_of_nosuper(BOOTSTRAP_SUPERUSER, c));
    assert!(case.0.is_member("a", "pg_monitor") && !case.0.is_member("postgres", "a"));
    case.root(&revoke("b", "a"));
    assert!(!case.0.is_member_of(a, b));
}

#[test]
fn names_are_taken_once_and_some_belong_to_the_system() {
    let mut case = Case::new();
    case.root(&create("a", options()));
    for (statement, code, message) in [
        (create("a", options()), "42710", "role \"a\" already exists"),
        (create("pg_x", options()), "42939", "role name \"pg_x\" is reserved"),
        (alter("pg_monitor", options()), "42939", "role name \"pg_monitor\" is reserved"),
        (alter("x", options()), "42704", "role \"x\" does not exist"),
        (drop("x"), "42704", "role \"x\" does not exist"),
        (drop("postgres"), "55006", "current user cannot be dropped"),
        (
            drop("pg_monitor"),
            "2BP01",
            "cannot drop role pg_monitor because it is required by the database system",
        ),
        (grant("a", "a"), "0LP01", "role \"a\" is a member of role \"a\""),
        (
            grant("pg_database_owner", "a"),
            "XX000",
            "role \"pg_database_owner\" cannot have explicit members",
        ),
        (
            grant("a", "pg_database_owner"),
            "XX000",
            "role \"pg_database_owner\" cannot be a member of any role",
        ),
        (
            alter("postgres", RoleOptions { superuser: Some(false), ..options() }),
            "0A000",
            "permission denied to alter role",
        ),
        (
            RoleStatement::Rename { name: "a".into(), to: "pg_a".into() },
            "42939",
            "role name \"pg_a\" is reserved",
        ),
        (
            RoleStatement::Rename { name: "postgres".into(), to: "p".into() },
            "0A000",
            "session user cannot be renamed",
        ),
        (
            RoleStatement::Drop { roles: vec![RoleSpec::Current], missing_ok: true },
            "22023",
            "cannot use special role specifier in DROP ROLE",
        ),
        (
            create("b", RoleOptions { connection_limit: Some(-2), ..options() }),
            "22023",
            "invalid connection limit: -2",
        ),
    ] {
        assert_eq!(case.refusal(ROOT, &statement), (code, message.to_string()), "{statement:?}");
    }
    let missing = RoleStatement::Drop { roles: vec![named("x"), named("a")], missing_ok: true };
    assert_eq!(case.root(&missing), ["role \"x\" does not exist, skipping"]);
    assert!(case.0.get("a").is_none());
}

#[test]
fn membership_never_goes_in_a_circle() {
    let mut case = Case::new();
    for name in ["a", "b", "c"] {
        case.root(&create(name, options()));
    }
    case.root(&grant("a", "b"));
    case.root(&grant("b", "c"));
    let refused = case.refusal(ROOT, &grant("c", "a"));
    assert_eq!(refused, ("0LP01", "role \"c\" is a member of role \"a\"".to_string()));
    assert_eq!(case.root(&grant("a", "b")), ["role \"b\" is already a member of role \"a\""]);
    assert_eq!(case.root(&revoke("a", "c")), ["role \"c\" is not a member of role \"a\""]);
}

#[test]
fn who_has_createrole_may_change_ordinary_roles_only() {
    let mut case = Case::new();
    case.root(&create("maker", RoleOptions { create_role: Some(true), ..options() }));
    case.root(&create("plain", options()));
    case.root(&create("boss", RoleOptions { superuser: Some(true), ..options() }));
    case.root(&create("walker", RoleOptions { replication: Some(true), ..options() }));
    let (maker, plain) = (case.actor("maker"), case.actor("plain"));
    let password = || Some(Some(Password("x".into())));
    for (who, statement, want) in [
        (plain, create("x", options()), "permission denied to create role"),
        (plain, drop("maker"), "permission denied to drop role"),
        (
            plain,
            alter("maker", RoleOptions { password: password(), ..options() }),
            "permission denied",
        ),
        (
            plain,
            alter("plain", RoleOptions { login: Some(true), ..options() }),
            "permission denied",
        ),
        (plain, grant("maker", "plain"), "must have admin option on role \"maker\""),
        (plain, grant("boss", "plain"), "must be superuser to alter superusers"),
        (
            plain,
            RoleStatement::Rename { name: "maker".into(), to: "y".into() },
            "permission denied to rename role",
        ),
        (maker, drop("boss"), "must be superuser to drop superusers"),
        (maker, grant("boss", "plain"), "must be superuser to alter superusers"),
        (
            maker,
            create("x", RoleOptions { superuser: Some(true), ..options() }),
            "must be superuser to create superusers",
        ),
        (
            maker,
            create("x", RoleOptions { replication: Some(true), ..options() }),
            "must be superuser to create replication users",
        ),
        (
            maker,
            create("x", RoleOptions { bypass_rls: Some(true), ..options() }),
            "must be superuser to create bypassrls users",
        ),
        (
            maker,
            alter("boss", RoleOptions { password: password(), ..options() }),
            "must be superuser to alter superuser roles or change superuser attribute",
        ),
        (
            maker,
            alter("walker", RoleOptions { login: Some(true), ..options() }),
            "must be superuser to alter replication roles or change replication attribute",
        ),
        (
            maker,
            RoleStatement::Rename { name: "boss".into(), to: "y".into() },
            "must be superuser to rename superusers",
        ),
    ] {
        assert_eq!(case.refusal(who, &statement), ("42501", want.to_string()), "{statement:?}");
    }
    case.by(plain, &alter("plain", RoleOptions { password: password(), ..options() })).unwrap();
    case.by(maker, &create("x", RoleOptions { login: Some(true), ..options() })).unwrap();
    case.by(maker, &grant("pg_monitor", "maker")).unwrap();
    case.by(maker, &drop("x")).unwrap();
    case.by(maker, &drop("walker")).unwrap();
}

#[test]
fn an_admin_may_grant_and_only_a_superuser_in_anothers_name() {
    let mut case = Case::new();
    for name in ["group", "admin", "other"] {
        case.root(&create(name, options()));
    }
    let with_admin = |to: &str, grantor: Option<&str>| RoleStatement::Grant {
        roles: vec![named("group")],
        to: vec![named(to)],
        admin_option: true,
        grantor: grantor.map(named),
        spelling: Spelling::Grant,
    };
    case.root(&with_admin("admin", None));
    let admin = case.actor("admin");
    case.by(admin, &grant("group", "other")).unwrap();
    let granted = *case.0.memberships().last().unwrap();
    assert_eq!((granted.grantor, granted.admin_option), (admin.current, false));
    let refused = case.refusal(admin, &with_admin("other", Some("postgres")));
    assert_eq!(refused.1, "must be superuser to set grantor");
    let only = RoleStatement::Revoke {
        roles: vec![named("group")],
        from: vec![named("admin")],
        admin_option_only: true,
        spelling: Spelling::Grant,
    };
    case.root(&only);
    assert!(case.0.is_member_of(admin.current, case.oid("group")));
    assert!(!case.0.is_admin_of(admin.current, case.oid("group")));
}

#[test]
fn a_secret_is_kept_and_an_md5_one_ends_with_the_name() {
    let roles = Roles::new("postgres");
    let given = RoleOptions {
        password: Some(Some(Password("md5".into()))),
        valid_until: Some("tomorrow".into()),
        ..options()
    };
    let settled =
        Settled { secret: Some(Secret("md50123".into())), valid_until: Some(Timestamp(7)) };
    let (roles, _) = roles.change(&create("a", given), ROOT, &settled).unwrap();
    assert_eq!(roles.get("a").unwrap().password.as_deref(), Some("md50123"));
    assert_eq!(roles.get("a").unwrap().valid_until, Some(Timestamp(7)));
    let shown = format!("{roles:?} {settled:?}");
    assert!(!shown.contains("md50123"), "{shown}");
    let rename = RoleStatement::Rename { name: "a".into(), to: "b".into() };
    let (roles, notices) = roles.change(&rename, ROOT, &Settled::default()).unwrap();
    assert_eq!(notices[0].message, "MD5 password cleared because of role rename");
    assert_eq!(roles.get("b").unwrap().password, None);
}

#[test]
fn the_file_gives_back_what_was_written() {
    let mut case = Case::new();
    let odd = "a \"b\" \\ = \n\u{e9}";
    case.root(&create(odd, RoleOptions { connection_limit: Some(3), ..options() }));
    case.root(&create("b", RoleOptions { inherit: Some(false), login: Some(true), ..options() }));
    case.root(&grant("pg_monitor", odd));
    case.root(&revoke("pg_read_all_settings", "pg_monitor"));
    let settled = Settled {
        secret: Some(Secret("SCRAM-SHA-256$4096:a==$b=:c=".into())),
        valid_until: Some(Timestamp(i64::MAX)),
    };
    let with_password = RoleOptions {
        password: Some(Some(Password("x".into()))),
        valid_until: Some("infinity".into()),
        ..options()
    };
    let (roles, _) = case.0.change(&alter("b", with_password), ROOT, &settled).unwrap();
    let written = encode_roles(&roles, crc);
    assert_eq!(decode_roles(&written, crc), Ok(roles));
}

#[test]
fn every_cut_and_every_changed_byte_of_the_file_is_noticed() {
    let mut case = Case::new();
    case.root(&create("a", RoleOptions { login: Some(true), ..options() }));
    case.root(&grant("pg_monitor", "a"));
    let written = encode_roles(&case.0, crc);
    for len in 0..written.len() {
        assert!(decode_roles(&written[..len], crc).is_err(), "cut at {len}");
    }
    for at in 0..written.len() {
        let mut bytes = written.clone().into_bytes();
        bytes[at] ^= 1;
        // A letter of the checksum may turn from lower to upper case, which means the same.
        let changed = String::from_utf8(bytes).unwrap();
        assert!(decode_roles(&changed, crc).is_err(), "changed at {at}: {changed}");
    }
}

#[test]
fn a_file_that_contradicts_itself_is_refused() {
    let file =
        |body: &str| format!("walhub roles 1 crc32c={:08x}\n{body}", crc(0, body.as_bytes()));
    let postgres = "role oid=10 name=\"postgres\" superuser\n";
    assert!(decode_roles(&file(&format!("next_oid=16384\n{postgres}")), crc).is_ok());
    for (body, want) in [
        (String::new(), RolesFileError::Inconsistent),
        ("role oid=10 name=\"postgres\"\n".into(), RolesFileError::Inconsistent),
        (format!("{postgres}role oid=11 name=\"postgres\"\n"), RolesFileError::Inconsistent),
        (format!("{postgres}member role=10 member=99 grantor=10\n"), RolesFileError::Inconsistent),
        (format!("{postgres}member role=10 member=10 grantor=10\n"), RolesFileError::Inconsistent),
        (format!("{postgres}{postgres}"), RolesFileError::Line { number: 3 }),
        (format!("{postgres}role oid=x name=\"a\"\n"), RolesFileError::Line { number: 3 }),
        (format!("{postgres}role oid=12 name=\"a\n"), RolesFileError::Line { number: 3 }),
        (format!("{postgres}rule oid=12\n"), RolesFileError::Line { number: 3 }),
    ] {
        assert_eq!(decode_roles(&file(&body), crc), Err(want), "{body}");
    }
    assert_eq!(decode_roles("", crc), Err(RolesFileError::Title));
    let other = "walhub roles 2 crc32c=00000000\n";
    assert_eq!(decode_roles(other, crc), Err(RolesFileError::Version { got: 2 }));
}
