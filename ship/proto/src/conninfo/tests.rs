//! Tables of cases; those for URIs are the cases of libpq's own regression test.

use alloc::string::{String, ToString};
use std::collections::BTreeMap;

use super::keywords::KEYWORDS;
use super::*;

/// The values that a string gives, in the order of libpq's keyword table.
fn given(text: &str) -> Result<String, String> {
    let options = Options::parse(text).map_err(|error| error.to_string())?;
    let pairs = KEYWORDS.iter().filter_map(|keyword| {
        options.value(keyword.name).map(|value| format!("{}='{value}'", keyword.name))
    });
    Ok(pairs.collect::<Vec<_>>().join(" "))
}

fn surrounded(
    text: &str,
    variables: &[(&str, &str)],
    files: &[(&str, &str)],
) -> Result<ConnInfo, String> {
    let variables: BTreeMap<_, _> = variables.iter().copied().collect();
    let files: BTreeMap<_, _> = files.iter().copied().collect();
    let environment = Environment {
        variable: &|name| variables.get(name).map(|&value| value.into()),
        read_file: &|name| files.get(name).map(|&text| text.into()),
        os_user: Some("osuser"),
        home: Some("/home/osuser"),
    };
    ConnInfo::parse(text, &environment).map_err(|error| error.to_string())
}

fn parsed(text: &str) -> Result<ConnInfo, String> {
    surrounded(text, &[], &[])
}

#[test]
fn uris_give_what_libpq_says_they_give() {
    let all = "user='uri-user' password='secret' dbname='db' host='host' port='12345'";
    for (uri, want) in [
        ("postgresql://uri-user:secret@host:12345/db", all),
        (
            "postgresql://uri-user@host:12345/db",
            "user='uri-user' dbname='db' host='host' port='12345'",
        ),
        ("postgresql://uri-user@host/db", "user='uri-user' dbname='db' host='host'"),
        ("postgresql://host:12345/db", "dbname='db' host='host' port='12345'"),
        ("postgresql://host/db", "dbname='db' host='host'"),
        ("postgresql://uri-user@host:12345/", "user='uri-user' host='host' port='12345'"),
        ("postgresql://uri-user@host/", "user='uri-user' host='host'"),
        ("postgresql://uri-user@", "user='uri-user'"),
        ("postgresql://host:12345/", "host='host' port='12345'"),
        ("postgresql://host:12345", "host='host' port='12345'"),
        ("postgresql://host/", "host='host'"),
        ("postgresql://host", "host='host'"),
        ("postgresql://", ""),
        ("postgresql://?hostaddr=127.0.0.1", "hostaddr='127.0.0.1'"),
        ("postgresql://example.com?hostaddr=63.1.2.4", "host='example.com' hostaddr='63.1.2.4'"),
        ("postgresql://%68ost/", "host='host'"),
        ("postgresql://host/db?user=uri-user", "user='uri-user' dbname='db' host='host'"),
        (
            "postgresql://host/db?user=uri-user&port=12345",
            "user='uri-user' dbname='db' host='host' port='12345'",
        ),
        (
            "postgresql://host/db?u%73er=other&port=12345",
            "user='other' dbname='db' host='host' port='12345'",
        ),
        ("postgresql://host:12345?user=uri-user", "user='uri-user' host='host' port='12345'"),
        ("postgresql://host?user=uri-user", "user='uri-user' host='host'"),
        ("postgresql://host?", "host='host'"),
        ("postgresql://[::1]:12345/db", "dbname='db' host='::1' port='12345'"),
        ("postgresql://[::1]/db", "dbname='db' host='::1'"),
        ("postgresql://[2001:db8::1234]/", "host='2001:db8::1234'"),
        ("postgresql://[200z:db8::1234]/", "host='200z:db8::1234'"),
        ("postgresql://[::1]", "host='::1'"),
        ("postgres://", ""),
        ("postgres:///", ""),
        ("postgres:///db", "dbname='db'"),
        ("postgres://uri-user@/db", "user='uri-user' dbname='db'"),
        ("postgres://?host=/path/to/socket/dir", "host='/path/to/socket/dir'"),
        ("postgres://@host", "host='host'"),
        ("postgres://host:/", "host='host'"),
        ("postgres://:12345/", "port='12345'"),
        (
            "postgres://otheruser@?host=/no/such/directory",
            "user='otheruser' host='/no/such/directory'",
        ),
        (
            "postgres://otheruser@/?host=/no/such/directory",
            "user='otheruser' host='/no/such/directory'",
        ),
        (
            "postgres://otheruser@:12345?host=/no/such",
            "user='otheruser' host='/no/such' port='12345'",
        ),
        (
            "postgres://otheruser@:12345/db?host=/path",
            "user='otheruser' dbname='db' host='/path' port='12345'",
        ),
        ("postgres://:12345/db?host=/path", "dbname='db' host='/path' port='12345'"),
        (
            "postgres://%2Fvar%2Flib%2Fpostgresql/dbname",
            "dbname='dbname' host='/var/lib/postgresql'",
        ),
        ("postgres://a,b:2,[::1]:3/db", "dbname='db' host='a,b,::1' port=',2,3'"),
        (
            "postgres://a:1,b:2?target_session_attrs=any",
            "host='a,b' port='1,2' target_session_attrs='any'",
        ),
        ("postgres://host?ssl=true", "host='host' sslmode='require'"),
        ("postgres://host?requiressl=0", "host='host' sslmode='prefer'"),
    ] {
        assert_eq!(given(uri).as_deref(), Ok(want), "{uri}");
    }
}

#[test]
fn wrong_uris_are_refused_in_libpqs_words() {
    for (uri, want) in [
        ("postgresql://host/db?u%7aer=x&port=1", "invalid URI query parameter: \"uzer\""),
        ("postgresql://host?uzer=", "invalid URI query parameter: \"uzer\""),
        ("postgre://", "missing \"=\" after \"postgre://\" in connection info string"),
        (
            "postgres://[::1",
            "end of string reached when looking for matching \"]\" in IPv6 host address in URI: \"postgres://[::1\"",
        ),
        ("postgres://[]", "IPv6 host address may not be empty in URI: \"postgres://[]\""),
        (
            "postgres://[::1]z",
            "unexpected character \"z\" at position 17 in URI (expected \":\" or \"/\"): \"postgres://[::1]z\"",
        ),
        (
            "postgresql://host?zzz",
            "missing key/value separator \"=\" in URI query parameter: \"zzz\"",
        ),
        (
            "postgresql://host?value1&value2",
            "missing key/value separator \"=\" in URI query parameter: \"value1\"",
        ),
        (
            "postgresql://host?key=key=value",
            "extra key/value separator \"=\" in URI query parameter: \"key\"",
        ),
        ("postgres://host?dbname=%XXfoo", "invalid percent-encoded token: \"%XXfoo\""),
        ("postgresql://a%00b", "forbidden value %00 in percent-encoded value: \"a%00b\""),
        ("postgresql://%zz", "invalid percent-encoded token: \"%zz\""),
        ("postgresql://%1", "invalid percent-encoded token: \"%1\""),
        ("postgresql://%", "invalid percent-encoded token: \"%\""),
        ("postgresql://%ff", "percent-encoded value is not valid UTF-8: \"%ff\""),
    ] {
        assert_eq!(given(uri), Err(want.to_string()), "{uri}");
    }
}

#[test]
fn pairs_are_split_unquoted_and_unescaped() {
    for (text, want) in [
        ("", Ok("")),
        ("  host = a   port=1 ", Ok("host='a' port='1'")),
        ("host='a b' user=''", Ok("user='' host='a b'")),
        (r"password='it\'s' user=a\ b", Ok("user='a b' password='it's'")),
        (r"password=a\\b", Ok(r"password='a\b'")),
        (r"password=a\", Ok("password='a'")),
        ("host='a'port=2", Ok("host='a' port='2'")),
        ("host=a host=b", Ok("host='b'")),
        ("host= port=5", Ok("host='port=5'")),
        ("requiressl=1", Ok("sslmode='require'")),
        ("host", Err("missing \"=\" after \"host\" in connection info string")),
        ("host x=1", Err("missing \"=\" after \"host\" in connection info string")),
        ("host='a", Err("unterminated quoted string in connection info string")),
        (r"host='a\'", Err("unterminated quoted string in connection info string")),
        ("nonesuch=1", Err("invalid connection option \"nonesuch\"")),
    ] {
        assert_eq!(given(text), want.map(String::from).map_err(String::from), "{text}");
    }
}

#[test]
fn hosts_addresses_and_ports_are_matched() {
    let shown = |text: &str| {
        parsed(text).map(|info| {
            let hosts = info.hosts.iter().map(|spec| match &spec.address {
                Address::Socket(_) => spec.socket_path().unwrap_or_default(),
                Address::Name(name) => format!("{name}:{}", spec.port),
                Address::Numeric(address) => format!("{}={address}:{}", spec.host, spec.port),
            });
            hosts.collect::<Vec<_>>().join(" ")
        })
    };
    for (text, want) in [
        ("", Ok("/var/run/postgresql/.s.PGSQL.5432")),
        ("host=a,b,,/tmp port=1", Ok("a:1 b:1 /var/run/postgresql/.s.PGSQL.1 /tmp/.s.PGSQL.1")),
        ("host=a,b port=1,", Ok("a:1 b:5432")),
        ("host=@abstract", Ok("@abstract/.s.PGSQL.5432")),
        ("host=a,b hostaddr=1.2.3.4,", Ok("a=1.2.3.4:5432 b:5432")),
        ("hostaddr=::1 port=' 7 '", Ok("=::1:7")),
        ("host=a,b port=1,2,3", Err("could not match 3 port numbers to 2 hosts")),
        ("host=a,b,c port=1,2", Err("could not match 2 port numbers to 3 hosts")),
        ("host=a hostaddr=::1,::2", Err("could not match 1 host names to 2 hostaddr values")),
        ("host=a port=0", Err("invalid port number: \"0\"")),
        ("host=a port=65536", Err("invalid port number: \"65536\"")),
        ("host=a port=x", Err("invalid integer value \"x\" for connection option \"port\"")),
    ] {
        assert_eq!(shown(text), want.map(String::from).map_err(String::from), "{text}");
    }
}

#[test]
fn values_outside_their_range_are_refused_in_libpqs_words() {
    for (text, want) in [
        ("sslmode=x", "invalid sslmode value: \"x\""),
        ("sslmode=''", "invalid sslmode value: \"\""),
        ("sslnegotiation=x", "invalid sslnegotiation value: \"x\""),
        ("sslcertmode=x", "invalid sslcertmode value: \"x\""),
        ("channel_binding=x", "invalid channel_binding value: \"x\""),
        ("target_session_attrs=x", "invalid target_session_attrs value: \"x\""),
        ("load_balance_hosts=x", "invalid load_balance_hosts value: \"x\""),
        ("gssencmode=x", "invalid gssencmode value: \"x\""),
        (
            "gssencmode=require",
            "gssencmode value \"require\" invalid when GSSAPI support is not compiled in",
        ),
        (
            "sslrootcert=system sslmode=require",
            "weak sslmode \"require\" may not be used with sslrootcert=system (use \"verify-full\")",
        ),
        (
            "sslnegotiation=direct",
            "weak sslmode \"prefer\" may not be used with sslnegotiation=direct (use \"require\", \"verify-ca\", or \"verify-full\")",
        ),
        ("ssl_min_protocol_version=x", "invalid ssl_min_protocol_version value: \"x\""),
        (
            "ssl_max_protocol_version=TLSv1.1 ssl_min_protocol_version=TLSv1",
            "ssl_max_protocol_version must be \"TLSv1.2\" or later",
        ),
        (
            "ssl_max_protocol_version=TLSv1.2 ssl_min_protocol_version=tlsv1.3",
            "invalid SSL protocol version range",
        ),
        ("min_protocol_version=3.2", "connection option \"min_protocol_version\" is not supported"),
        (
            "connect_timeout=x",
            "invalid integer value \"x\" for connection option \"connect_timeout\"",
        ),
        ("keepalives=x", "keepalives parameter must be an integer"),
        (
            "keepalives_idle=''",
            "invalid integer value \"\" for connection option \"keepalives_idle\"",
        ),
        (
            "tcp_user_timeout=99999999999",
            "invalid integer value \"99999999999\" for connection option \"tcp_user_timeout\"",
        ),
        ("require_auth=x", "invalid require_auth value: \"x\""),
        (
            "require_auth=md5,!none",
            "negative require_auth method \"!none\" cannot be mixed with non-negative methods",
        ),
        (
            "require_auth=!md5,none",
            "require_auth method \"none\" cannot be mixed with negative methods",
        ),
        ("require_auth=md5,md5", "require_auth method \"md5\" is specified more than once"),
        ("require_auth=!none,!none", "require_auth method \"!none\" is specified more than once"),
        ("sslpassword=x", "connection option \"sslpassword\" is not supported"),
        ("scram_client_key=x", "connection option \"scram_client_key\" is not supported"),
    ] {
        assert_eq!(parsed(text).map(|_| ()), Err(want.to_string()), "{text}");
    }
}

#[test]
fn require_auth_allows_what_it_says() {
    let methods = |text: &str| {
        let auth = RequireAuth::parse(text).unwrap();
        let one = |method| auth.allowed.contains(method);
        (auth.required, one(AuthMethod::Md5), one(AuthMethod::ScramSha256))
    };
    assert_eq!(methods("md5"), (true, true, false));
    assert_eq!(methods("none,md5"), (false, true, false));
    assert_eq!(methods("!md5"), (false, false, true));
    assert_eq!(methods("!none"), (true, true, true));
    assert_eq!(methods("!none,!md5"), (true, false, true));
}

#[test]
fn every_keyword_is_accepted_in_a_string_and_a_uri() {
    for keyword in KEYWORDS {
        assert!(Options::parse(&format!("{}=1", keyword.name)).is_ok(), "{}", keyword.name);
        assert!(Options::parse(&format!("postgres://?{}=1", keyword.name)).is_ok());
    }
}

#[test]
fn the_string_wins_over_the_environment_and_that_over_the_default() {
    let variables = [
        ("PGHOST", "envhost"),
        ("PGPORT", "7777"),
        ("PGUSER", "envuser"),
        ("PGPASSWORD", "envpass"),
        ("PGAPPNAME", "envapp"),
        ("PGSSLMODE", "disable"),
        ("PGREQUIRESSL", "1"),
        ("PGTARGETSESSIONATTRS", "primary"),
        ("PGCONNECT_TIMEOUT", "1"),
        ("PGREQUIREAUTH", "!md5"),
    ];
    let info = surrounded("host=h user=u", &variables, &[]).unwrap();
    assert_eq!(info.hosts[0].address, Address::Name("h".into()));
    assert_eq!((info.hosts[0].port, info.user.as_str()), (7777, "u"));
    assert_eq!(info.password.as_deref(), Some("envpass"));
    assert_eq!(info.application_name.as_deref(), Some("envapp"));
    assert_eq!(info.ssl.mode, SslMode::Disable);
    assert_eq!(info.target_session_attrs, TargetSessionAttrs::Primary);
    assert_eq!(info.connect_timeout_s, Some(2));
    assert_eq!(info.require_auth.unwrap().text, "!md5");
    assert_eq!(info.passfile, None);

    let info = parsed("host=h").unwrap();
    assert_eq!((info.user.as_str(), info.ssl.mode), ("osuser", SslMode::Prefer));
    assert_eq!(info.passfile.as_deref(), Some("/home/osuser/.pgpass"));
    assert_eq!((info.connect_timeout_s, info.keepalives.enabled), (None, true));
    let mode = |variables: &[(&str, &str)]| surrounded("host=h", variables, &[]).unwrap().ssl.mode;
    assert_eq!(mode(&[("PGREQUIRESSL", "1")]), SslMode::Require);
    assert_eq!(mode(&[("PGSSLROOTCERT", "system")]), SslMode::VerifyFull);
}

#[test]
fn keepalives_are_numbers_of_the_system_or_ours() {
    let info = parsed("host=h keepalives_idle=5 keepalives_interval=-1 keepalives_count=3");
    let keepalives = info.unwrap().keepalives;
    assert!(keepalives.enabled);
    assert_eq!((keepalives.idle_s, keepalives.interval_s), (Some(5), None));
    assert_eq!((keepalives.count, keepalives.user_timeout_ms), (Some(3), None));
    assert!(!parsed("host=h keepalives=0").unwrap().keepalives.enabled);
}

#[test]
fn a_service_fills_in_what_the_string_does_not_say() {
    let text = "# comment\n[other]\nhost=o\n\n[main]\nhost=s\nport=9\nuser=su\n[main]\nport=1\n";
    let files = [("/home/osuser/.pg_service.conf", text)];
    let info = surrounded("service=main user=u", &[("PGPORT", "7")], &files).unwrap();
    assert_eq!(info.hosts[0].address, Address::Name("s".into()));
    assert_eq!((info.hosts[0].port, info.user.as_str()), (9, "u"));

    let error =
        |text, variables: &[_], files: &[_]| surrounded(text, variables, files).unwrap_err();
    let unknown = "definition of service \"x\" not found";
    assert_eq!(error("service=x", &[], &files), unknown);
    assert_eq!(error("", &[("PGSERVICE", "x")], &files), unknown);
    assert_eq!(error("service=x servicefile=/f", &[], &[]), "service file \"/f\" not found");
    let nested = [("/f", "[x]\nservice=y\n")];
    assert_eq!(
        error("service=x servicefile=/f", &[], &nested),
        "nested service specifications not supported in service file \"/f\", line 2"
    );
    let wrong = [("/f", "[x]\n\nhost\n")];
    assert_eq!(
        error("service=x", &[("PGSERVICEFILE", "/f")], &wrong),
        "syntax error in service file \"/f\", line 3"
    );
}

#[test]
fn a_password_file_is_searched_field_by_field() {
    let text = "#h:1:replication:u:commented\n\
        h:1:postgres:u:otherdb\n\
        h:2:replication:u:port2\n\
        *:*:replication:any:star\n\
        ::1:5432:replication:u:plain6\n\
        \\:\\:2:5432:replication:u:escaped6\n\
        localhost:*:*:u:a\\:b\\\\c:ignored\r\n\
        h:3:replication:u:\n";
    let find = |host, port, user| find_password(text, host, port, REPLICATION_DATABASE, user);
    assert_eq!(find("h", "1", "u"), None);
    assert_eq!(find("h", "2", "u").as_deref(), Some("port2"));
    assert_eq!(find("nowhere", "9", "any").as_deref(), Some("star"));
    assert_eq!(find("::1", "5432", "u").as_deref(), Some("plain6"));
    assert_eq!(find("::2", "5432", "u").as_deref(), Some("escaped6"));
    assert_eq!(find("localhost", "1", "u").as_deref(), Some("a:b\\c"));
    assert_eq!(find(DEFAULT_SOCKET_DIRECTORY, "1", "u").as_deref(), Some("a:b\\c"));
    assert_eq!(find("h", "3", "u").as_deref(), Some(""));
    assert_eq!(find("h", "2", "uu"), None);
    assert_eq!(find("hh", "2", "u"), None);
}

#[test]
fn secrets_are_hidden_and_defaults_shown() {
    let info = parsed("host=h password=secret application_name=x dbname=d replication=1").unwrap();
    assert_eq!(
        info.redacted(),
        "user=osuser password=******** channel_binding=prefer dbname=replication host=h port=5432 \
         application_name=x sslmode=prefer sslnegotiation=postgres sslcompression=0 \
         sslcertmode=allow sslsni=1 ssl_min_protocol_version=TLSv1.2 gssencmode=prefer \
         target_session_attrs=any load_balance_hosts=disable"
    );
    assert!(!format!("{info:?}").contains("secret"));
}
