use super::*;

/// The lists of words of each line.
fn fields(text: &str) -> Vec<Vec<String>> {
    let mut remarks = Vec::new();
    let lines = lines::read(&FakeFiles::hba(text), HBA, &mut remarks).unwrap();
    assert!(remarks.is_empty(), "{remarks:?}");
    let show = |token: &token::Token| {
        if token.quoted { format!("\"{}\"", token.text) } else { token.text.clone() }
    };
    let of_line = |line: &lines::Line| {
        line.fields
            .iter()
            .map(|field| field.iter().map(show).collect::<Vec<_>>().join(","))
            .collect()
    };
    lines.iter().map(of_line).collect()
}

#[test]
fn words_are_separated_quoted_and_commented() {
    for (line, want) in [
        ("local all all trust", &["local", "all", "all", "trust"][..]),
        ("\tlocal  all\t all   trust \r", &["local", "all", "all", "trust"]),
        ("a,b c , d e", &["a,b", "c", "d", "e"]),
        ("a, b,c d", &["a,b,c", "d"]),
        ("a,,b ,c", &["a,b", "c"]),
        (",a b,", &["a", "b"]),
        ("a#b c", &["a"]),
        ("a #b c", &["a"]),
        ("a, # b", &["a"]),
        ("\"a b\" \"c,d\"", &["\"a b\"", "\"c,d\""]),
        ("\"a#b\" c", &["\"a#b\"", "c"]),
        ("\"a\"\"b\" c", &["\"a\"b\"", "c"]),
        ("\"\" c", &["\"\"", "c"]),
        ("a\"b c\"d e", &["ab cd", "e"]),
        ("\"a\"b c", &["\"ab\"", "c"]),
        ("\"a b", &["\"a b\""]),
        ("\"@f\" @ a", &["\"@f\"", "@", "a"]),
        ("\"all\" all", &["\"all\"", "all"]),
    ] {
        assert_eq!(fields(line), [want], "{line}");
    }
    for empty in ["", " \t", "# a", "\n\n", ",", "\r\n"] {
        assert_eq!(fields(empty), Vec::<Vec<String>>::new(), "{empty:?}");
    }
}

#[test]
fn a_backslash_at_the_end_continues_a_line() {
    for (text, want) in [
        ("a \\\nb", &[&["a", "b"][..]][..]),
        ("a\\\nb", &[&["ab"]]),
        ("a \\\r\nb\nc", &[&["a", "b"], &["c"]]),
        // What stands before the backslash of the line before continues nothing.
        ("a \\\\\n\nb", &[&["a", "\\"], &["b"]]),
        ("a \\\n\\\nb", &[&["a", "b"]]),
        ("a \\", &[&["a"]]),
        ("# a \\\nb\nc", &[&["c"]]),
        ("\"a\\\nb\" c", &[&["\"ab\"", "c"]]),
    ] {
        assert_eq!(fields(text), want, "{text:?}");
    }
    let text = "local all all \\\n trust\n\n# x\nlocal all \\\n all \\\n reject";
    let all: Vec<_> =
        rules(text).as_slice().iter().map(|rule| (rule.line, rule.raw.clone())).collect();
    assert_eq!(
        all,
        [(1, "local all all  trust".to_owned()), (5, "local all  all  reject".to_owned())]
    );
}

#[test]
fn every_fault_of_a_line_is_in_postgresql_s_words() {
    let unsupported = |method: &str| {
        let line = format!("host all all all {method}");
        let message =
            format!("invalid authentication method \"{method}\": not supported by this build");
        (line, message)
    };
    let refused =
        ["ldap", "radius", "pam", "gss", "sspi", "ident", "oauth", "bsd"].map(unsupported);
    for (line, message) in refused {
        assert_eq!(faults(&line), [message], "{line}");
    }
    let only = |option: &str, methods: &str| {
        format!(
            "authentication option \"{option}\" is only valid for authentication methods {methods}"
        )
    };
    for (line, message) in [
        ("lokal all all trust", "invalid connection type \"lokal\""),
        ("local,host all all trust", "multiple values specified for connection type"),
        ("local", "end-of-line before database specification"),
        ("local all", "end-of-line before role specification"),
        ("local all all", "end-of-line before authentication method"),
        ("host all all", "end-of-line before IP address specification"),
        ("host all all 1.2.3.4", "end-of-line before netmask specification"),
        ("host all all 1.2.3.4,1.2.3.5 trust", "multiple values specified for host address"),
        ("host all all 1.2.3.4/33 trust", "invalid CIDR mask in address \"1.2.3.4/33\""),
        ("host all all 1.2.3.4/ trust", "invalid CIDR mask in address \"1.2.3.4/\""),
        ("host all all 1.2.3.4/-1 trust", "invalid CIDR mask in address \"1.2.3.4/-1\""),
        ("host all all 1.2.3.4/8x trust", "invalid CIDR mask in address \"1.2.3.4/8x\""),
        ("host all all ::1/129 trust", "invalid CIDR mask in address \"::1/129\""),
        (
            "host all all example.com/8 trust",
            "specifying both host name and CIDR mask is invalid: \"example.com/8\"",
        ),
        ("host all all 1.2.3.4 trust", "invalid IP mask \"trust\": Name or service not known"),
        ("host all all 1.2.3.4 ffff:: trust", "IP address and mask do not match"),
        ("host all all 1.2.3.4 1,2 trust", "multiple values specified for netmask"),
        ("local all all trust,reject", "multiple values specified for authentication type"),
        ("local all all trusted", "invalid authentication method \"trusted\""),
        ("host all all all peer", "peer authentication is only supported on local sockets"),
        ("host all all all cert", "cert authentication is only supported on hostssl connections"),
        ("local all all trust yes", "authentication option not in name=value format: yes"),
        ("local all all trust x=y", "unrecognized authentication option name: \"x\""),
        (
            "local all all trust clientcert=verify-ca",
            "clientcert can only be configured for \"hostssl\" rows",
        ),
        (
            "host all all all trust clientname=CN",
            "clientname can only be configured for \"hostssl\" rows",
        ),
        ("hostssl all all all md5 clientcert=1", "invalid value for clientcert: \"1\""),
        ("hostssl all all all md5 clientname=cn", "invalid value for clientname: \"cn\""),
        (
            "hostssl all all all cert clientcert=verify-ca",
            "clientcert only accepts \"verify-full\" when using \"cert\" authentication",
        ),
        ("local /( all trust", "invalid regular expression \"(\": parentheses () not balanced"),
        ("local all /[ trust", "invalid regular expression \"[\": brackets [] not balanced"),
        ("local all all md5 map=m", &only("map", "ident, peer, gssapi, sspi, cert, and oauth")),
        ("local all all md5 ldapserver=m", &only("ldapserver", "ldap")),
        ("local all all md5 pamservice=m", &only("pamservice", "pam")),
        ("local all all md5 krb_realm=m", &only("krb_realm", "gssapi and sspi")),
        ("local all all md5 upn_username=m", &only("upn_username", "sspi")),
        ("local all all md5 radiusservers=m", &only("radiusservers", "radius")),
        ("local all all md5 issuer=m", &only("issuer", "oauth")),
        ("# nothing", "configuration file \"/data/pg_hba.conf\" contains no entries"),
    ] {
        assert_eq!(faults(line), [message], "{line}");
    }
}

#[test]
fn every_line_with_a_fault_is_remarked_with_its_place_and_hint() {
    let text = "local all all trust\nlocal all\nhost all all 1.2.3.4\n";
    let (rules, remarks) = Rules::load(&FakeFiles::hba(text), HBA, true);
    assert!(rules.is_none());
    let all: Vec<_> = remarks
        .iter()
        .map(|it| (it.message.as_str(), it.context.as_deref().unwrap(), it.hint))
        .collect();
    assert_eq!(
        all,
        [
            (
                "end-of-line before role specification",
                "line 2 of configuration file \"/data/pg_hba.conf\"",
                None
            ),
            (
                "end-of-line before netmask specification",
                "line 3 of configuration file \"/data/pg_hba.conf\"",
                Some("Specify an address range in CIDR notation, or provide a separate netmask.")
            ),
        ]
    );
    let rows = Rules::rows(&FakeFiles::hba(text), HBA, true).unwrap();
    let numbers: Vec<_> = rows.iter().map(|row| (row.number, row.line)).collect();
    assert_eq!(numbers, [(Some(1), 1), (None, 2), (None, 3)]);
    assert!(rows[0].rule.is_some() && rows[0].fault.is_none());
    assert_eq!(rows[1].fault.as_deref(), Some("end-of-line before role specification"));
}

#[test]
fn a_rule_that_can_match_nothing_is_a_remark_and_no_fault() {
    let text = "hostssl all all all trust\nhostgssenc all all all trust\n";
    let (rules, remarks) = Rules::load(&FakeFiles::hba(text), HBA, false);
    assert_eq!(rules.unwrap().as_slice().len(), 2);
    let messages: Vec<_> = remarks.iter().map(|remark| remark.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "hostssl record cannot match because SSL is disabled",
            "hostgssenc record cannot match because GSSAPI is not supported by this build"
        ]
    );
    let rows = Rules::rows(&FakeFiles::hba(text), HBA, false).unwrap();
    assert!(rows.iter().all(|row| row.number.is_none() && row.rule.is_some()));
}

#[test]
fn options_are_kept_and_cert_implies_the_whole_check() {
    let text = "hostssl all all all cert map=m clientname=DN\n\
                hostssl all all all scram-sha-256 clientcert=verify-ca\n\
                local all all ident map=\"n o\"\n";
    let rules = rules(text);
    let [cert, scram, peer] = rules.as_slice() else { panic!("{rules:?}") };
    assert_eq!(cert.method, Method::Cert);
    assert_eq!(cert.client_name, ClientName::Dn);
    assert_eq!(cert.options(), ["map=m", "clientcert=verify-full"]);
    assert_eq!(scram.options(), ["clientcert=verify-ca"]);
    assert_eq!(scram.client_name, ClientName::Cn);
    assert_eq!((peer.method, peer.map.as_deref()), (Method::Peer, Some("n o")));
}
