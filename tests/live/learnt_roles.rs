//! Roles of other servers: copied once.

use walhub_tests::client::SqlServer as _;
use walhub_tests::hub::{Hub, walhub};
use walhub_tests::postgres::Postgres;
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
        ("host=", "invalid connection string syntax"),
    ] {
        let output = walhub(["roles", "import", "--from", from, "--to", &to]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(error), "{said}");
    }
    assert_eq!(hub.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'plain'"), "0");
}
