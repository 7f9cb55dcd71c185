//! Messages that are wrong, or in the wrong order: the hub answers what PostgreSQL answers.
//!
//! Each case is sent to a primary of PostgreSQL and to a hub with WAL of its own; errors, notices
//! and transaction states must be the same, word for word. Not here: a length that cannot be true,
//! which PostgreSQL answers by closing the connection, and the hub with the reason before it does.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use walhub_proto::wire::startup;
use walhub_tests::client::{Endpoint, SqlServer};
use walhub_tests::hub::Hub;
use walhub_tests::postgres::Postgres;
use walhub_tests::scratch::Scratch;
use walhub_tests::wait::DEADLINE;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(4 + body.len()).expect("a short message");
    [&[kind][..], &len.to_be_bytes(), body].concat()
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0").as_bytes())
}

fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

/// Text parameters, and text results.
fn bind(portal: &str, statement: &str, values: &[&[u8]]) -> Vec<u8> {
    let mut body = format!("{portal}\0{statement}\0\0\0").into_bytes();
    body.extend(u16::try_from(values.len()).expect("few").to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
        body.extend(*value);
    }
    message(b'B', &[&body[..], &[0, 0]].concat())
}

fn execute(portal: &str) -> Vec<u8> {
    message(b'E', format!("{portal}\0\0\0\0\0").as_bytes())
}

fn sync() -> Vec<u8> {
    message(b'S', b"")
}

/// What a server answers to `bytes` after its greeting and until it closes the connection: errors,
/// notices, states; of other messages their types.
fn answer(endpoint: Endpoint, bytes: &[u8]) -> Vec<String> {
    let mut stream = TcpStream::connect((endpoint.host, endpoint.port)).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let startup = startup::encode(&[("user", "postgres"), ("database", "postgres")]);
    // Whoever ends a connection may do so before everything is read.
    let _ = stream
        .write_all(&[&startup[..], bytes].concat())
        .and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let timed_out = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!timed_out, "no end of the connection");
    let mut shown = Vec::new();
    let mut rest = &answer[..];
    while let Some((head, after)) = rest.split_at_checked(5) {
        let len = u32::from_be_bytes(head[1..].try_into().expect("four bytes"));
        let len = usize::try_from(len - 4).expect("small");
        let (body, after) = after.split_at_checked(len).expect("whole messages");
        rest = after;
        shown.push(show(head[0], body));
    }
    let greeting = shown.iter().position(|line| line == "Z I").expect("a greeting");
    shown.split_off(greeting + 1)
}

fn show(kind: u8, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    match kind {
        b'E' | b'N' => {
            let field = |code| text.split('\0').find_map(|field| field.strip_prefix(code));
            let field = |code| field(code).unwrap_or_default();
            format!("{} {} {}", field('S'), field('C'), field('M'))
        }
        b'Z' | b'C' => format!("{} {}", char::from(kind), text.trim_end_matches('\0')),
        _ => char::from(kind).to_string(),
    }
}

/// A name of 70 bytes; PostgreSQL keeps 63.
const LONG: &str = "a123456789b123456789c123456789d123456789e123456789f123456789g123456789";

fn malformed() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let body = |kind, body: &[u8]| vec![message(kind, body), sync(), query("select 1")];
    vec![
        ("Query without its end", body(b'Q', b"select 1")),
        ("Query of two strings", body(b'Q', b"select 1\0select 2\0")),
        ("Query without a body", body(b'Q', b"")),
        ("Parse without a query", body(b'P', b"s\0")),
        ("Parse without types", body(b'P', b"s\0select 1\0")),
        ("Parse with fewer types than it says", body(b'P', b"s\0select 1\0\0\x02\0\0\0\x17")),
        ("Parse with bytes behind it", body(b'P', b"s\0select 1\0\0\0x")),
        ("Bind without a body", body(b'B', b"")),
        (
            "Bind with an absurd number of formats",
            vec![parse("", "select 1"), message(b'B', b"\0\0\x7f\xff\0\x01"), sync()],
        ),
        (
            "Bind with a value of an absurd length",
            vec![
                parse("", "select $1::text"),
                message(b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff"),
                sync(),
            ],
        ),
        (
            "Bind with an unknown format",
            vec![
                parse("", "select $1::text"),
                message(b'B', b"\0\0\0\x01\0\x07\0\x01\0\0\0\x01x\0\0"),
                sync(),
            ],
        ),
        (
            "Bind with formats for other parameters",
            vec![
                parse("", "select $1::text"),
                message(b'B', b"\0\0\0\x02\0\0\0\0\0\x01\0\0\0\x01x\0\0"),
                sync(),
            ],
        ),
        ("Describe of nothing", body(b'D', b"")),
        ("Describe of another kind", body(b'D', b"X\0")),
        ("Describe without its end", body(b'D', b"Ss")),
        ("Close of another kind", body(b'C', b"Xs\0")),
        ("Execute without a limit", body(b'E', b"\0")),
        ("Sync with a body", body(b'S', b"x")),
        ("Flush with a body", body(b'H', b"x")),
        ("CopyData outside a COPY", body(b'd', b"x")),
        ("CopyDone outside a COPY", body(b'c', b"")),
        ("CopyFail outside a COPY", body(b'f', b"no\0")),
        ("a type that does not exist", vec![message(b'~', b"x"), query("select 1")]),
        ("a type of the server's", vec![message(b'Z', b"I"), query("select 1")]),
    ]
}

fn wrong_order() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![
        ("Execute of an unknown portal", vec![execute("none"), execute(""), sync()]),
        ("Bind of an unknown statement", vec![bind("", "none", &[]), sync()]),
        ("Bind of no unnamed statement", vec![bind("", "", &[]), sync()]),
        ("Describe of unknown ones", vec![message(b'D', b"Snone\0"), sync()]),
        ("Describe of an unknown portal", vec![message(b'D', b"Pnone\0"), sync()]),
        (
            "Close of unknown ones",
            vec![message(b'C', b"Snone\0"), message(b'C', b"Pnone\0"), sync()],
        ),
        (
            "a statement twice",
            vec![parse("s", "select 1"), parse("s", "select 2"), bind("", "s", &[]), sync()],
        ),
        (
            "a portal twice",
            vec![parse("s", "select 1"), bind("p", "s", &[]), bind("p", "s", &[]), sync()],
        ),
        (
            "a portal after its transaction",
            vec![parse("s", "select 1"), bind("p", "s", &[]), sync(), execute("p"), sync()],
        ),
        (
            "a portal twice to its end",
            vec![parse("s", "select 1"), bind("p", "s", &[]), execute("p"), execute("p"), sync()],
        ),
        (
            "what follows an error",
            vec![
                parse("", "select nothing"),
                bind("", "", &[]),
                execute(""),
                message(b'H', b""),
                query("select 1"),
                sync(),
                query("select 1"),
            ],
        ),
        ("a storm of Sync", vec![sync(); 1000]),
        (
            "an error in a block",
            vec![
                query("begin"),
                bind("", "none", &[]),
                sync(),
                query("select 1"),
                parse("", "select 1"),
                sync(),
                parse("", "rollback"),
                bind("", "", &[]),
                execute(""),
                sync(),
            ],
        ),
        (
            "an implicit transaction of several",
            vec![
                query("select 1; begin; select nothing; select 2"),
                query("commit"),
                query("commit"),
            ],
        ),
        ("a function call", vec![query("select 1"), message(b'C', b"S\0"), sync()]),
        ("messages after Terminate", vec![message(b'X', b""), query("select 1")]),
    ]
}

fn text() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let raw = |bytes: &[u8]| message(b'Q', &[bytes, b"\0"].concat());
    let long = |sql: &str| query(&sql.replace("LONG", LONG));
    vec![
        ("no statement", vec![query(""), query(" ; ;")]),
        ("UTF-8 that ends early", vec![raw(b"select '\xe2\x82")]),
        ("UTF-8 that is too long", vec![raw(b"select '\xc0\x80'")]),
        ("a surrogate", vec![raw(b"select '\xed\xa0\x80'")]),
        ("Latin-1", vec![raw(b"select '\xe9t\xe9'")]),
        (
            "Latin-1 as a parameter",
            vec![parse("", "select $1::text"), bind("", "", &[b"\xe9t\xe9"]), sync()],
        ),
        (
            "a NUL in a parameter",
            vec![parse("", "select $1::text"), bind("", "", &[b"a\0b"]), sync()],
        ),
        (
            "a NUL in a message's prefix",
            vec![
                query(r"select pg_logical_emit_message(true, E'a\000b', 'c')"),
                query(r"select pg_logical_emit_message(true, E'a\x00b', 'c')"),
                query(r"select pg_logical_emit_message(true, U&'a\0000b', 'c')"),
                query(r"select pg_logical_emit_message(true, E'a\u0000b', 'c')"),
                parse("", "select pg_logical_emit_message(true, $1, 'c')"),
                bind("", "", &[b"a\0b"]),
                sync(),
                query(r"select pg_logical_emit_message(true, 'p', '\x00'::bytea) is null"),
            ],
        ),
        (
            "parameters that are none",
            vec![
                parse("", "select $1::int, $2::bytea"),
                bind("", "", &[b"x", b""]),
                sync(),
                bind("", "", &[b"1", b"\\x0"]),
                sync(),
                bind("", "", &[b"1", b"\\xgg"]),
                sync(),
                bind("", "", &[b"99999999999", b""]),
                sync(),
                bind("", "", &[b"1"]),
                sync(),
            ],
        ),
        (
            "a quote that stays open",
            vec![query("select 'a"), query("select \"a"), query("select $$a")],
        ),
        ("a comment that stays open", vec![query("select 1 /* a")]),
        (
            "names of 70 bytes",
            vec![
                query("begin"),
                long("savepoint LONG"),
                long("release LONG"),
                long("select 1 as LONG"),
                long("rollback to LONG1"),
                query("rollback"),
                query("select 1"),
            ],
        ),
        ("a name of no bytes", vec![query("select 1 as \"\""), query("savepoint \"\"")]),
    ]
}

#[test]
fn wrong_messages_are_answered_as_postgresql_answers_them() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").start(&scratch);
    let hub = Hub::named("own").start(&scratch);
    let mut different = Vec::new();
    for (name, messages) in malformed().into_iter().chain(wrong_order()).chain(text()) {
        let bytes = messages.concat();
        let (want, got) = (answer(primary.endpoint(), &bytes), answer(hub.endpoint(), &bytes));
        if want != got {
            different.push(format!("{name}:\n  PostgreSQL {want:?}\n  walhub     {got:?}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert_eq!(hub.log().count(hub.log().beginning(), "panicked"), 0);
    assert_eq!(hub.psql("select 1"), "1");
}
