use super::*;

/// From where, as whom, to what.
fn connection<'a>(address: &str, user: &'a str, database: &'a str) -> Connection<'a> {
    let (transport, address) = match address.strip_prefix("tls:") {
        Some(address) => (Transport::Tls { client_certificate: false }, Some(address)),
        None if address == "local" => (Transport::Local, None),
        None => (Transport::Plain, Some(address)),
    };
    let address = address.map(|address| address.parse().unwrap());
    let replication = database == "(replication)";
    let database = if replication { "" } else { database };
    Connection { transport, address, user, database, replication }
}

fn interfaces() -> [Interface; 3] {
    [("127.0.0.1", "255.0.0.0"), ("10.1.0.7", "255.255.0.0"), ("fd00::7", "ffff:ffff::")].map(
        |(address, mask)| {
            let (address, netmask) = (address.parse().unwrap(), mask.parse().unwrap());
            Interface { address, netmask }
        },
    )
}

/// Line of the rule that decides.
fn decided(text: &str, connection: Connection<'_>) -> Option<u32> {
    let (rules, interfaces) = (rules(text), interfaces());
    let mut search = Search::new(&rules, connection, &Roles, &interfaces);
    match search.poll() {
        Step::Decided(rule) => rule.map(|rule| rule.line),
        step => panic!("{text}: {step:?}"),
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let text = "host all bob all reject\nhost all all 127.0.0.0/8 trust\nhost all bob all trust\n";
    assert_eq!(decided(text, connection("127.0.0.1", "bob", "d")), Some(1));
    assert_eq!(decided(text, connection("127.0.0.1", "alice", "d")), Some(2));
    assert_eq!(decided(text, connection("10.0.0.1", "alice", "d")), None);
}

#[test]
fn connection_types_are_for_how_one_comes() {
    for (kind, local, plain, tls) in [
        ("local", true, false, false),
        ("host", false, true, true),
        ("hostssl", false, false, true),
        ("hostnossl", false, true, false),
        ("hostgssenc", false, false, false),
        ("hostnogssenc", false, true, true),
    ] {
        let text = if kind == "local" {
            "local all all trust".into()
        } else {
            format!("{kind} all all all trust")
        };
        for (from, want) in [("local", local), ("::1", plain), ("tls:::1", tls)] {
            let got = decided(&text, connection(from, "u", "d")).is_some();
            assert_eq!(got, want, "{kind} {from}");
        }
    }
}

#[test]
fn databases_and_users() {
    for (databases, users, matched, unmatched) in [
        (
            "all",
            "all",
            &[("nobody", "d"), ("alice", "postgres")][..],
            &[("alice", "(replication)")][..],
        ),
        (
            "replication",
            "all",
            &[("alice", "(replication)")],
            &[("alice", "replication"), ("alice", "d")],
        ),
        ("\"replication\"", "all", &[("alice", "replication")], &[("alice", "(replication)")]),
        ("\"all\"", "all", &[("alice", "all")], &[("alice", "d")]),
        ("d,e", "all", &[("alice", "d"), ("alice", "e")], &[("alice", "f"), ("alice", "D")]),
        ("sameuser", "all", &[("alice", "alice")], &[("alice", "bob"), ("alice", "(replication)")]),
        (
            "samerole",
            "all",
            &[("alice", "staff"), ("alice", "alice")],
            &[("carol", "staff"), ("alice", "d")],
        ),
        ("samegroup", "all", &[("alice", "shop")], &[("bob", "shop")]),
        // Who does not exist is a member of nothing, not even of itself.
        ("samerole", "all", &[("bob", "staff")], &[("nobody", "nobody")]),
        ("\"samerole\"", "all", &[("x", "samerole")], &[("alice", "staff")]),
        ("all", "alice,bob", &[("alice", "d"), ("bob", "d")], &[("carol", "d"), ("Alice", "d")]),
        (
            "all",
            "+staff",
            &[("alice", "d"), ("bob", "d"), ("staff", "d")],
            &[("carol", "d"), ("postgres", "d")],
        ),
        ("all", "\"+staff\"", &[("+staff", "d")], &[("alice", "d")]),
        ("all", "+nobody", &[], &[("nobody", "d")]),
        ("all", "\"all\"", &[("all", "d")], &[("alice", "d")]),
        (
            "\"/^db[0-9]{2,4}$\"",
            "all",
            &[("alice", "db12"), ("alice", "db1234")],
            &[("alice", "db1"), ("alice", "xdb12")],
        ),
        ("\"/^(a|b),c\"", "all", &[("alice", "a,cd")], &[("alice", "c,c")]),
        ("all", "/^.*ice$", &[("alice", "d")], &[("alices", "d")]),
        ("all", "/lic", &[("alice", "d")], &[("bob", "d")]),
        ("/rep", "all", &[("alice", "replication")], &[("alice", "(replication)")]),
        (
            "replication,d",
            "all",
            &[("alice", "(replication)"), ("alice", "d")],
            &[("alice", "replication")],
        ),
    ] {
        let text = format!("local {databases} {users} trust");
        for ((user, database), want) in
            matched.iter().map(|it| (it, true)).chain(unmatched.iter().map(|it| (it, false)))
        {
            let got = decided(&text, connection("local", user, database)).is_some();
            assert_eq!(got, want, "{text}: {user} to {database}");
        }
    }
}

#[test]
fn addresses() {
    for (addresses, matched, unmatched) in [
        ("all", &["1.2.3.4", "::1"][..], &[][..]),
        ("0.0.0.0/0", &["1.2.3.4", "255.255.255.255"], &["::1", "::ffff:0:0:1"]),
        ("::/0", &["::1", "fd00::1"], &["1.2.3.4"]),
        ("10.1.0.0/16", &["10.1.255.0"], &["10.2.0.0"]),
        ("10.1.2.3/16", &["10.1.255.0"], &["10.2.0.0"]),
        ("10.1.0.0 255.255.0.0", &["10.1.255.0"], &["10.2.0.0"]),
        ("10.0.0.5 255.0.0.255", &["10.99.98.5"], &["10.99.98.6"]),
        ("1.2.3.4/32", &["1.2.3.4"], &["1.2.3.5"]),
        ("1.2.3.4/+31", &["1.2.3.5"], &["1.2.3.6"]),
        ("127.1/32", &["127.0.0.1"], &["127.1.0.0"]),
        ("0x7f.0.0.010/32", &["127.0.0.8"], &["127.0.0.10"]),
        ("fd00::/16", &["fd00:1::"], &["fd01::"]),
        ("fe80::1%lo/128", &["fe80::1"], &["fe80::2"]),
        ("fd00:: ffff::", &["fd00:1::"], &["fd01::"]),
        // An address of version 4 is one, however the socket has it; a rule of version 6 is not for it.
        ("1.2.3.0/24", &["::ffff:1.2.3.4"], &[]),
        ("::ffff:1.2.3.4/128", &[], &["1.2.3.4", "::ffff:1.2.3.4"]),
        ("samehost", &["127.0.0.1", "10.1.0.7", "fd00::7"], &["127.0.0.2", "10.1.0.8"]),
        ("samenet", &["127.9.9.9", "10.1.9.9", "fd00:0:1::"], &["10.2.0.1", "fd01::7"]),
    ] {
        let text = format!("host all all {addresses} trust");
        for (address, want) in
            matched.iter().map(|it| (it, true)).chain(unmatched.iter().map(|it| (it, false)))
        {
            let got = decided(&text, connection(address, "u", "d")).is_some();
            assert_eq!(got, want, "{text}: {address}");
        }
    }
    assert!(rules("host all all samenet trust").need_interfaces());
    assert!(!rules("host all all \"samenet\" trust").need_interfaces());
}

/// What a search asks for and ends with when names are answered so.
fn asked(
    text: &str,
    name: Result<&str, &str>,
    addresses: Result<&[&str], &str>,
) -> (Vec<String>, String) {
    let rules = rules(text);
    let connection = connection("10.0.0.1", "alice", "d");
    let mut search = Search::new(&rules, connection, &Roles, &[]);
    let mut steps = Vec::new();
    loop {
        match search.poll() {
            Step::Reverse(address) => {
                steps.push(format!("reverse {address}"));
                search.handle_names(name.map(str::to_owned).map_err(str::to_owned));
            }
            Step::Forward(name) => {
                steps.push(format!("forward {name}"));
                let parsed = |all: &[&str]| all.iter().map(|it| it.parse().unwrap()).collect();
                let parsed: Result<Vec<_>, _> = addresses.map(parsed);
                search.handle_addresses(parsed.as_deref().map_err(|it| (*it).to_owned()));
            }
            Step::Decided(rule) => {
                let line = rule.map(|rule| rule.line.to_string());
                steps.push(line.unwrap_or_else(|| "none".to_owned()));
                return (steps, search.host_name().to_string());
            }
        }
    }
}

#[test]
fn names_of_hosts_are_looked_up_both_ways_and_once() {
    let ours = Ok(&["::1", "10.0.0.1"][..]);
    let name = Ok("db.Example.com");
    let text = "host all all .example.org trust\nhost all all db.example.com trust\n";
    assert_eq!(
        asked(text, name, ours),
        (
            vec!["reverse 10.0.0.1".into(), "forward db.Example.com".into(), "2".into()],
            "Client IP address resolved to \"db.Example.com\", forward lookup matches.".into()
        )
    );
    let (steps, _) = asked("host all all .example.com trust", name, ours);
    assert_eq!(steps.last().unwrap(), "1");
    for text in ["host all all .db.example.com trust", "host all all xample.com trust"] {
        let (steps, detail) = asked(text, name, ours);
        assert_eq!(steps, ["reverse 10.0.0.1", "none"], "{text}");
        assert!(detail.ends_with("forward lookup not checked."), "{detail}");
    }
    let (steps, detail) = asked(text, name, Ok(&["10.0.0.2"]));
    assert_eq!(steps, ["reverse 10.0.0.1", "forward db.Example.com", "none"]);
    assert!(detail.ends_with("forward lookup does not match."), "{detail}");
    let (steps, detail) = asked(text, Err("Name or service not known"), ours);
    assert_eq!(steps, ["reverse 10.0.0.1", "none"]);
    assert_eq!(
        detail,
        "Could not resolve client IP address to a host name: Name or service not known."
    );
    let (_, detail) = asked(text, name, Err("Temporary failure in name resolution"));
    assert_eq!(
        detail,
        "Could not translate client host name \"db.Example.com\" to IP address: Temporary failure \
         in name resolution."
    );
    // Nobody is asked for the sake of a rule that is for others.
    let (steps, _) = asked("host all bob db.example.com trust\nhost all all all trust", name, ours);
    assert_eq!(steps, ["2"]);
}
