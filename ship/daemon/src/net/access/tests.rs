use std::collections::BTreeMap;

use walhub_proto::hba::{Files, Method, Transport, Unreadable};

use super::*;
use crate::net::authenticate::Everybody;

/// One file of each kind.
struct Texts(BTreeMap<&'static str, String>);

impl Files for Texts {
    fn read(&self, path: &str) -> Result<String, Unreadable> {
        let missing = || Unreadable { is_missing: true, reason: String::new() };
        self.0.get(path).cloned().ok_or_else(missing)
    }

    fn list(&self, _: &str) -> Result<Vec<String>, Unreadable> {
        Ok(Vec::new())
    }
}

impl Access {
    /// One with the rules of that text.
    pub(in crate::net) fn of(hba: &str) -> Arc<Self> {
        Self::of_texts(hba, "")
    }

    /// One with the rules and the maps of these texts.
    pub(in crate::net) fn of_texts(hba: &str, ident: &str) -> Arc<Self> {
        let texts = [("/hba", hba), ("/ident", ident)];
        let texts = Texts(texts.map(|(path, text)| (path, text.to_owned())).into());
        let (rules, remarks) = Rules::load(&texts, "/hba", true);
        let rules = rules.unwrap_or_else(|| panic!("{remarks:?}"));
        let maps = Maps::load(&texts, "/ident").0.expect("maps");
        let (rules, maps) = (ArcSwap::from_pointee(rules), ArcSwap::from_pointee(maps));
        Arc::new(Self { rules, maps, reloading: Mutex::default() })
    }

    /// One that trusts everybody.
    pub(in crate::net) fn trusting() -> Arc<Self> {
        Self::of(
            "local all all trust\nlocal replication all trust\n\
             host all all all trust\nhost replication all all trust\n",
        )
    }
}

fn settings(directory: &std::path::Path, hba: &str, ident: Option<&str>) -> Settings {
    let path = |name: &str| directory.join(name).display().to_string();
    let mut settings = Settings::default();
    (settings.hba_file, settings.ident_file) = (path("pg_hba.conf"), path("pg_ident.conf"));
    std::fs::write(&settings.hba_file, hba).unwrap();
    match ident {
        Some(text) => std::fs::write(&settings.ident_file, text).unwrap(),
        None => drop(std::fs::remove_file(&settings.ident_file)),
    }
    settings
}

#[test]
fn a_fault_keeps_a_server_from_starting_and_leaves_the_old_rules_at_a_reload() {
    let directory = tempfile::tempdir().unwrap();
    let good = settings(directory.path(), "local all all trust", None);
    let access = Access::load(&good).unwrap();
    let now = |settings: &Settings| watch::channel(Arc::new(settings.clone())).1;
    let methods = |access: &Access| {
        let rules = access.rules.load();
        rules.as_slice().iter().map(|rule| rule.method).collect::<Vec<_>>()
    };
    for (hba, ident) in [("local all", None), ("local all all trust", Some("m"))] {
        let bad = settings(directory.path(), hba, ident);
        assert!(Access::load(&bad).is_err(), "{hba}");
        access.reload(&now(&bad));
        assert_eq!(methods(&access), [Method::Trust]);
    }
    let other = settings(directory.path(), "local all all reject", Some("m a b"));
    access.reload(&now(&other));
    assert_eq!(methods(&access), [Method::Reject]);
    assert!(access.maps().check(Some("m"), "a", "b", &Everybody).is_ok());
    std::fs::remove_file(&other.hba_file).unwrap();
    let error = Access::load(&other).unwrap_err();
    assert_eq!(error.report().message, format!("could not load {}", other.hba_file));
}

#[test]
fn who_is_not_let_in_hears_what_postgresql_says() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let access =
        Access::of("host all bob all reject\nhost all carol all md5\nhost all all ::1/128 trust");
    let connection = |address: Option<&str>, user, database: &'static str, transport| Connection {
        transport,
        address: address.map(|address| address.parse().unwrap()),
        user,
        database,
        replication: database.is_empty(),
    };
    let tls = Transport::Tls { client_certificate: false };
    for (connection, message) in [
        (
            connection(Some("10.0.0.1"), "u", "", Transport::Plain),
            "no pg_hba.conf entry for replication connection from host \"10.0.0.1\", user \"u\", \
             no encryption",
        ),
        (
            connection(Some("::ffff:10.0.0.1"), "u", "d", Transport::Plain),
            "no pg_hba.conf entry for host \"10.0.0.1\", user \"u\", database \"d\", no encryption",
        ),
        (
            connection(Some("fe80::1"), "bob", "d", tls),
            "pg_hba.conf rejects connection for host \"fe80::1\", user \"bob\", database \"d\", \
             SSL encryption",
        ),
        (
            connection(None, "bob", "d", Transport::Local),
            "no pg_hba.conf entry for host \"[local]\", user \"bob\", database \"d\", no encryption",
        ),
    ] {
        let verdict = runtime.block_on(access.verdict(connection, &Everybody));
        let denied = refusal(&connection, &verdict).unwrap();
        assert_eq!(denied.report.message, message);
        assert_eq!((denied.report.sqlstate.0, denied.log_detail), ("28000", None));
    }
    let welcome = connection(Some("::1"), "u", "d", Transport::Plain);
    let verdict = runtime.block_on(access.verdict(welcome, &Everybody));
    assert_eq!(refusal(&welcome, &verdict), None);
    let rejected = Access::of("host replication all all reject");
    let standby = connection(Some("10.0.0.1"), "u", "", Transport::Plain);
    let verdict = runtime.block_on(rejected.verdict(standby, &Everybody));
    assert_eq!(
        refusal(&standby, &verdict).unwrap().report.message,
        "pg_hba.conf rejects replication connection for host \"10.0.0.1\", user \"u\", no encryption"
    );
}

#[test]
fn what_is_known_of_the_host_is_for_the_log_alone() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let access = Access::of("host all all no.such.invalid trust");
    let connection = Connection {
        transport: Transport::Plain,
        address: Some([127, 0, 0, 1].into()),
        user: "u",
        database: "d",
        replication: false,
    };
    let verdict = runtime.block_on(access.verdict(connection, &Everybody));
    let denied = refusal(&connection, &verdict).unwrap();
    assert!(denied.log_detail.is_some_and(|text| text.starts_with("C")), "{verdict:?}");
    assert_eq!(denied.report.detail, None);
}
