//! pg_hba.conf and pg_ident.conf, and who they let in.

use std::net::IpAddr;

use walhub_proto::hba::{
    Connection, Files, Interface, Maps, Membership, Rules, Search, Step, Transport, Unreadable,
};

/// Steps that a search can need at most: a name, its addresses, and the end.
const STEPS_MAX: usize = 3;

/// Two files, which may include each other.
struct TwoFiles<'a> {
    first: &'a str,
    second: &'a str,
}

impl Files for TwoFiles<'_> {
    fn read(&self, path: &str) -> Result<String, Unreadable> {
        match path {
            "/d/a" => Ok(self.first.to_owned()),
            "/d/b" | "/d/b.conf" => Ok(self.second.to_owned()),
            _ => Err(Unreadable { is_missing: true, reason: "missing".to_owned() }),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<String>, Unreadable> {
        match path {
            "/d" => Ok(vec!["a".to_owned(), "b.conf".to_owned()]),
            _ => Err(Unreadable { is_missing: true, reason: "missing".to_owned() }),
        }
    }
}

/// Everybody is there; names that begin alike belong together.
struct Everybody;

impl Membership for Everybody {
    fn role_exists(&self, role: &str) -> bool {
        !role.is_empty()
    }

    fn is_member(&self, user: &str, role: &str) -> bool {
        user.as_bytes().first() == role.as_bytes().first()
    }
}

/// A file, and after a byte 1 another one that it may include, and the name of a user.
pub(crate) fn hba(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.splitn(3, '\u{1}');
    let mut next = || parts.next().unwrap_or_default();
    let files = TwoFiles { first: next(), second: next() };
    let user = Some(next()).filter(|user| !user.is_empty()).unwrap_or("alice");
    // What is too much for a test takes too long for one.
    if files.first.matches("b").count() * files.second.matches("b").count() > 64 {
        return;
    }
    let (rules, remarks) = Rules::load(&files, "/d/a", true);
    let rows = Rules::rows(&files, "/d/a", true).expect("the file is there");
    let are_rules = !rows.is_empty() && rows.iter().all(|row| row.rule.is_some());
    assert_eq!(rules.is_some(), are_rules, "{remarks:?}");
    assert!(are_rules || !remarks.is_empty(), "refused without a reason");
    for row in rows.iter().filter_map(|row| row.rule.as_ref()) {
        drop((row.options(), row.addresses.as_ref().map(|addresses| addresses.shown())));
    }
    for rules in rules.iter() {
        connect(rules, user);
    }
    let (maps, remarks) = Maps::load(&files, "/d/a");
    let rows = Maps::rows(&files, "/d/a").expect("the file is there");
    assert_eq!(maps.is_some(), rows.iter().all(|row| row.names.is_some()), "{remarks:?}");
    let names = rows.iter().filter_map(|row| row.names.as_ref());
    for (maps, [map, system_user, role]) in
        maps.iter().flat_map(|maps| names.clone().map(move |it| (maps, it)))
    {
        drop((
            maps.check(Some(map), system_user, role, &Everybody),
            maps.check(Some(map), user, user, &Everybody),
        ));
    }
}

fn connect(rules: &Rules, user: &str) {
    let address = |text: &str| Some(text.parse::<IpAddr>().expect("an address"));
    let interfaces = [Interface {
        address: address("127.0.0.1").expect("one"),
        netmask: address("255.0.0.0").expect("one"),
    }];
    for (transport, address) in [
        (Transport::Local, None),
        (Transport::Plain, address("127.0.0.1")),
        (Transport::Tls { client_certificate: true }, address("::ffff:10.0.0.1")),
        (Transport::Plain, address("fe80::1")),
    ] {
        for (database, replication) in [("db", false), ("", true), (user, false)] {
            let connection = Connection { transport, address, user, database, replication };
            let mut search = Search::new(rules, connection, &Everybody, &interfaces);
            let mut steps = 0;
            loop {
                steps += 1;
                assert!(steps <= STEPS_MAX, "the search goes on and on");
                match search.poll() {
                    Step::Decided(rule) => {
                        assert!(rule.is_none_or(
                            |rule| (transport == Transport::Local) == rule.addresses.is_none()
                        ));
                        break;
                    }
                    Step::Reverse(_) => search.handle_names(Ok("host.example.com".to_owned())),
                    Step::Forward(_) => {
                        search.handle_addresses(Ok(&address.into_iter().collect::<Vec<_>>()))
                    }
                }
            }
        }
    }
}
