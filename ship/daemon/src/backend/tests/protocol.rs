//! Messages: order, state, and what is malformed.

use super::{answer, message, query, shown, snapshot, talk};

pub(super) fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = format!("{name}\0{sql}\0").into_bytes();
    body.extend_from_slice(&u16::try_from(types.len()).unwrap().to_be_bytes());
    types.iter().for_each(|oid| body.extend_from_slice(&oid.to_be_bytes()));
    message(b'P', &body)
}

/// Bind with one format for all parameters and one for all results.
pub(super) fn bind(portal: &str, statement: &str, binary: bool, values: &[&[u8]]) -> Vec<u8> {
    let mut body = format!("{portal}\0{statement}\0").into_bytes();
    let format: [u8; 4] = [0, 1, 0, u8::from(binary)];
    body.extend_from_slice(&format);
    body.extend_from_slice(&u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        body.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend_from_slice(value);
    }
    body.extend_from_slice(&format);
    message(b'B', &body)
}

pub(super) fn execute(portal: &str, rows: i32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat())
}

pub(super) fn sync() -> Vec<u8> {
    message(b'S', b"")
}

fn lines(input: &[Vec<u8>]) -> Vec<String> {
    shown(&talk(snapshot(true), &input.concat()))
}

#[test]
fn a_simple_query_stops_at_the_first_error() {
    assert_eq!(
        lines(&[query("select 1; select 1/0; select 2"), query("")]),
        ["T ?column?:23", "1", "C SELECT 1", "ERROR 22012 division by zero", "Z I", "I", "Z I"]
    );
}

#[test]
fn transactions_have_states_tags_and_warnings() {
    let all = lines(&[
        query("begin"),
        query("begin"),
        query("selec"),
        query("select 1"),
        query("commit"),
        query("rollback"),
        query(
            "start transaction isolation level repeatable read read only; show transaction_isolation; end",
        ),
        query("begin read write"),
        query("begin; savepoint a"),
        query("select 1/0"),
        query("rollback to a; commit"),
        query("discard all; reset all; deallocate all; close all; unlisten *"),
    ]);
    assert_eq!(
        all,
        [
            "C BEGIN",
            "Z T",
            "WARNING 25001 there is already a transaction in progress",
            "C BEGIN",
            "Z T",
            "ERROR 42601 syntax error at or near \"selec\" @1",
            "Z E",
            "ERROR 25P02 current transaction is aborted, commands ignored until end of transaction block",
            "Z E",
            "C ROLLBACK",
            "Z I",
            "WARNING 25P01 there is no transaction in progress",
            "C ROLLBACK",
            "Z I",
            "C START TRANSACTION",
            "T transaction_isolation:25",
            "repeatable read",
            "C SHOW",
            "C COMMIT",
            "Z I",
            "ERROR 0A000 cannot set transaction read-write mode during recovery",
            "Z I",
            "C BEGIN",
            "C SAVEPOINT",
            "Z T",
            "T ?column?:23",
            "ERROR 22012 division by zero",
            "Z E",
            "C ROLLBACK",
            "C COMMIT",
            "Z I",
            "C DISCARD ALL",
            "C RESET",
            "C DEALLOCATE ALL",
            "C CLOSE CURSOR ALL",
            "C UNLISTEN",
            "Z I",
        ]
        .into_iter()
        .filter(|line| *line != "T ?column?:23")
        .collect::<Vec<_>>()
    );
}

#[test]
fn set_is_reported_and_rolled_back() {
    let all = lines(&[
        query("set application_name to 'x'"),
        query(
            "begin; set local timezone = 'Asia/Kolkata'; select '2000-01-01'::timestamptz; commit",
        ),
        query("begin; set application_name = y; rollback; show application_name"),
        query("set names 'utf8'; show timezone; show wal_keep_size; show transaction_read_only"),
    ]);
    let all: Vec<&str> =
        all.iter().map(String::as_str).filter(|line| !line.starts_with('Z')).collect();
    assert_eq!(
        all,
        [
            "S application_name=x",
            "C SET",
            "C BEGIN",
            "S TimeZone=Asia/Kolkata",
            "C SET",
            "T timestamptz:1184",
            "2000-01-01 00:00:00+05:30",
            "C SELECT 1",
            "S TimeZone=UTC",
            "C COMMIT",
            "C BEGIN",
            "S application_name=y",
            "C SET",
            "S application_name=x",
            "C ROLLBACK",
            "T application_name:25",
            "x",
            "C SHOW",
            "C SET",
            "T TimeZone:25",
            "UTC",
            "C SHOW",
            "T wal_keep_size:25",
            "1GB",
            "C SHOW",
            "T transaction_read_only:25",
            "on",
            "C SHOW",
        ]
    );
}

#[test]
fn extended_statements_are_parsed_bound_described_and_run() {
    let all = lines(&[
        parse("s", "select pid, $1::int8 + 1 from pg_stat_replication where state = $2", &[]),
        message(b'D', b"Ss\0"),
        bind("", "s", false, &[b"41", b"streaming"]),
        message(b'D', b"P\0"),
        execute("", 1),
        execute("", 1),
        execute("", 1),
        sync(),
    ]);
    assert_eq!(
        all,
        [
            "1",
            "t",
            "T pid:23 ?column?:20",
            "2",
            "T pid:23 ?column?:20",
            "12|42",
            "s",
            "11|42",
            "s",
            "C SELECT 0",
            "Z I"
        ]
    );
    let described = &talk(
        snapshot(true),
        &[parse("", "select $1 + 1, $2 like 'a', $3", &[0, 0, 21]), message(b'D', b"S\0"), sync()]
            .concat(),
    )[1]
    .1;
    assert_eq!(described, b"\0\x03\0\0\0\x17\0\0\0\x19\0\0\0\x15");
}

#[test]
fn binary_parameters_and_results() {
    let input = [
        parse("", "select $1, $2, $3, $4, null", &[23, 20, 25, 3220]),
        bind(
            "",
            "",
            true,
            &[&[0, 0, 0, 7], &[0, 0, 0, 0, 0, 0, 0, 8], b"x", &[0, 0, 0, 0, 3, 0, 0, 0]],
        ),
        execute("", 0),
        sync(),
    ];
    let messages = talk(snapshot(true), &input.concat());
    let row: &[u8] = b"\0\x05\0\0\0\x04\0\0\0\x07\0\0\0\x08\0\0\0\0\0\0\0\x08\0\0\0\x01x\0\0\0\x08\0\0\0\0\x03\0\0\0\xff\xff\xff\xff";
    assert_eq!(messages[2], (b'D', row.to_vec()));
}

#[test]
fn an_error_skips_to_sync() {
    let all = lines(&[
        parse("", "select nope", &[]),
        bind("", "", false, &[]),
        query("select 1"),
        sync(),
        execute("none", 0),
        sync(),
        bind("", "none", false, &[]),
        sync(),
        parse("", "select 1; select 2", &[]),
        sync(),
        parse("s", "select $1::int", &[]),
        bind("", "s", false, &[]),
        sync(),
        bind("", "s", false, &[b"x"]),
        sync(),
        parse("s", "select 1", &[]),
        sync(),
        parse("", "select '\u{e9}'", &[]),
        message(b'Q', b"select '\xe9'\0"),
        sync(),
    ]);
    let all: Vec<&str> = all.iter().map(String::as_str).filter(|line| *line != "Z I").collect();
    assert_eq!(
        all,
        [
            "ERROR 42703 column \"nope\" does not exist @8",
            "ERROR 34000 portal \"none\" does not exist",
            "ERROR 26000 prepared statement \"none\" does not exist",
            "ERROR 42601 cannot insert multiple commands into a prepared statement",
            "1",
            "ERROR 08P01 bind message supplies 0 parameters, but prepared statement \"s\" requires 1",
            "ERROR 22P02 invalid input syntax for type integer: \"x\"",
            "ERROR 42P05 prepared statement \"s\" already exists",
            "1",
            "ERROR 22021 invalid byte sequence for encoding \"UTF8\": 0xe9 0x27",
        ]
    );
}

#[test]
fn malformed_messages_are_answered() {
    assert_eq!(lines(&[message(b'~', b"")]), ["FATAL 08P01 invalid frontend message type 126"]);
    assert_eq!(lines(&[message(b'p', b"x\0")]), ["FATAL 08P01 invalid frontend message type 112"]);
    for (kind, name) in [(b'D', "DESCRIBE"), (b'C', "CLOSE")] {
        for (body, error) in [
            (&b""[..], "no data left in message".to_owned()),
            (b"S", "invalid string in message".to_owned()),
            (b"Ss\0x", "invalid message format".to_owned()),
            (b"X\0", format!("invalid {name} message subtype 88")),
        ] {
            assert_eq!(
                lines(&[message(kind, body), parse("", "skipped", &[]), sync()]),
                [&format!("ERROR 08P01 {error}"), "Z I"]
            );
        }
    }
    // Left over from a COPY that failed: not even looked at.
    let left_over = [message(b'd', b""), message(b'c', b"x"), message(b'f', b"x"), sync()];
    assert_eq!(lines(&left_over), ["Z I"]);
    assert_eq!(lines(&[vec![b'Q', 0, 0, 0, 3]]), ["FATAL 08P01 invalid message length"]);
    let huge = lines(&[vec![b'Q', 0x7F, 0, 0, 0]]);
    assert_eq!(huge, ["FATAL 54000 message of 2130706432 bytes is too long"]);
    assert_eq!(lines(&[message(b'Q', b"x")]), ["ERROR 08P01 invalid string in message", "Z I"]);
    assert_eq!(lines(&[message(b'X', b""), query("select 1")]), Vec::<String>::new());
}

/// A linear congruential generator: the same bytes every time.
struct Noise(u64);

impl Noise {
    fn next(&mut self, below: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

/// Of which SQL is made that sometimes has a meaning.
#[rustfmt::skip]
const WORDS: &[&str] = &[
    "select", "from", "pg_stat_replication", "where", "pid", "1", "'a'", "null", "(", ")", ",",
    "+", "-", "*", "/", "%", "^", "||", "=", "<", "and", "or", "not", "is", "in", "like",
    "between", "case", "when", "then", "else", "end", "count(*)", "sum(pid)", "max(sent_lsn)",
    "group by", "order by", "limit", "sent_lsn", "'0/1'::pg_lsn", "::text", "::int8", "::numeric",
    "write_lag", "interval '1 s'", "coalesce(", "greatest(", "round(", "string_agg(", "now()",
    "state", "distinct", "as", "x", "1.5", "true", "$1", "substr('abc', 2)", "nullif(",
    "client_addr", "backend_xmin", "::bool", "2e10", "exists (select",
];

#[test]
fn random_bytes_never_panic() {
    let good = [
        parse("s", "select pid, $1::int8 + 1 from pg_stat_replication where state = $2", &[20, 25]),
        bind("p", "s", true, &[&[0; 8], b"streaming"]),
        message(b'D', b"Ss\0"),
        execute("p", 1),
        message(b'C', b"Pp\0"),
        sync(),
        query("select count(*) from pg_settings"),
    ]
    .concat();
    let mut noise = Noise(7);
    for _ in 0..2000 {
        let mut bytes = good.clone();
        for _ in 0..=noise.next(6) {
            let at = noise.next(bytes.len());
            bytes[at] = u8::try_from(noise.next(256)).unwrap();
        }
        bytes.truncate(noise.next(bytes.len()) + 1);
        talk(snapshot(true), &bytes);
    }
}

#[test]
fn random_sql_never_panics() {
    let mut noise = Noise(7);
    let mut sql = Vec::new();
    for _ in 0..20_000 {
        let mut text = "select".to_owned();
        for _ in 0..=noise.next(9) {
            text.push(' ');
            text.push_str(WORDS[noise.next(WORDS.len())]);
        }
        if noise.next(2) == 0 {
            text.push_str(" from pg_stat_replication");
        }
        sql.extend(query(&text));
    }
    let lines = shown(&talk(snapshot(true), &sql));
    let answered = lines.iter().filter(|line| line.starts_with("C SELECT")).count();
    assert!(answered > 100, "only {answered} random queries ran");
    assert_eq!(lines.iter().filter(|line| line.starts_with('Z')).count(), 20_000);
}

#[test]
fn the_deepest_text_that_is_parsed_is_answered_on_a_small_stack() {
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(|| {
        for sql in [
            format!("select 1{}", " is null".repeat(1990)),
            format!("select 1{}", " notnull".repeat(3900)),
            format!("select 1{}", " + 1".repeat(1990)),
            format!("select 1{}", "::text".repeat(1990)),
            format!("select {}1", "not ".repeat(60)),
            format!("select '{{}}'::text{}", "[]".repeat(1900)),
            format!("select {}1{}", "coalesce(".repeat(30), ")".repeat(30)),
            format!("select {}1{}", "(select ".repeat(60), ")".repeat(60)),
        ] {
            let lines = answer(&sql);
            assert!(!lines.is_empty());
        }
    });
    thread.unwrap().join().unwrap();
}
