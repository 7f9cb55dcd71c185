//! COPY walhub.messages FROM STDIN.

use super::append::lines_of;
use super::primary::OwnHub;
use super::protocol::{bind, execute, parse, sync};
use super::{message, query};

/// The answer to a COPY of that data, without CopyInResponse, and what was appended.
fn copy(options: &str, pieces: &[&[u8]]) -> (Vec<String>, Vec<String>) {
    let hub = OwnHub::new(false);
    let mut input =
        vec![query(&format!("copy walhub.messages (prefix, content) from stdin {options}"))];
    input.extend(pieces.iter().map(|piece| message(b'd', piece)));
    input.push(message(b'c', b""));
    let mut lines = lines_of(&hub, &input);
    assert_eq!(lines.remove(0), "G", "{lines:?}");
    assert_eq!(lines.pop().unwrap(), "Z I", "{lines:?}");
    (lines, hub.log())
}

fn copied(options: &str, data: &[u8]) -> String {
    let (lines, log) = copy(options, &[data]);
    assert!(lines[0].starts_with("C COPY "), "{options}: {lines:?}");
    // The rows are the same however the bytes come.
    let bytes: Vec<&[u8]> = data.chunks(1).collect();
    assert_eq!(copy(options, &bytes), (lines, log.clone()), "{options}");
    log.concat()
}

#[test]
fn rows_are_messages_of_one_transaction() {
    for (options, data, log) in [
        ("", &b"p\ta\nq\tb\n"[..], "p:a q:b commit flush"),
        ("", b"p\ta\r\nq\tb\r\n", "p:a q:b commit flush"),
        ("", b"p\ta\rq\tb", "p:a q:b commit flush"),
        ("", b"p\ta\\tb\\\\\\x41\\101\\q\n\\.\n", "p:a\tb\\AAq commit flush"),
        ("", b"p\ta\\\nb\n", "p:a\nb commit flush"),
        ("with (delimiter '|', null 'N', header)", b"prefix|content\np|\\N\n", "p:N commit flush"),
        ("delimiter as '|' null as 'N'", b"p|NN\n", "p:NN commit flush"),
        ("(format csv)", b"p,\"a,\"\"b\nc\"\nq,d \n", "p:a,\"b\nc q:d  commit flush"),
        ("csv header quote '''' escape '\\'", b"x,y\np,'a\\'b'\n", "p:a'b commit flush"),
        ("(format csv, header match)", b"prefix,content\np,\"\"\n\\.\n", "p: commit flush"),
        (
            "(format binary)",
            b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\x01p\0\0\0\x02ab\xff\xff",
            "p:ab commit flush",
        ),
        ("(encoding 'utf-8', freeze false)", b"", ""),
    ] {
        assert_eq!(copied(options, data), log, "{options}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_nothing_is_written() {
    let nothing: [&str; 0] = [];
    for (options, data, error) in [
        (
            "",
            &b"p\ta\nq\n"[..],
            "22P04 missing data for column \"content\" [COPY messages, line 2: \"q\"]",
        ),
        (
            "",
            b"p\ta\tb\n",
            "22P04 extra data after last expected column [COPY messages, line 1: \"p\ta\tb\"]",
        ),
        (
            "",
            b"p\ta\nq\tb\r\n",
            "22P04 literal carriage return found in data [COPY messages, line 2]",
        ),
        ("", b"p\ta\r\nq\tb\n", "22P04 literal newline found in data [COPY messages, line 2]"),
        ("", b"\\.x\n", "22P04 end-of-copy marker corrupt [COPY messages, line 1]"),
        (
            "",
            b"p\t\\N\n",
            "23502 null value in column \"content\" of relation \"messages\" violates not-null constraint [COPY messages, line 1: \"p\t\\N\"]",
        ),
        (
            "",
            b"p\t\\000\n",
            "22021 invalid byte sequence for encoding \"UTF8\": 0x00 [COPY messages, line 1: \"p\t\\000\"]",
        ),
        (
            "csv",
            b"p,\"a\n",
            "22P04 unterminated CSV quoted field [COPY messages, line 1: \"p,\"a\n\"]",
        ),
        (
            "csv",
            b"p,a\nq,b\r\n",
            "22P04 unquoted carriage return found in data [COPY messages, line 2]",
        ),
        (
            "(format csv, header match)",
            b"a,content\n",
            "22P04 column name mismatch in header line field 1: got \"a\", expected \"prefix\" [COPY messages, line 1: \"a,content\"]",
        ),
        ("binary", b"PGCOPX", "22P04 COPY file signature not recognized [COPY messages, line 1]"),
        (
            "binary",
            b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x03",
            "22P04 row field count is 3, expected 2 [COPY messages, line 1]",
        ),
        (
            "binary",
            b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x02\0",
            "22P04 unexpected EOF in COPY data [COPY messages, line 1]",
        ),
        (
            "binary",
            b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\xff\xff\0",
            "22P04 received copy data after EOF marker [COPY messages, line 1]",
        ),
    ] {
        let (lines, log) = copy(options, &[data]);
        assert_eq!(lines, [format!("ERROR {error}")], "{options}");
        assert_eq!(log, nothing);
    }
}

#[test]
fn options_are_checked_as_postgres_checks_them() {
    for (options, error) in [
        ("(format xml)", "22023 COPY format \"xml\" not recognized"),
        ("(delimiter 'ab')", "0A000 COPY delimiter must be a single one-byte character"),
        ("(delimiter 'a')", "22023 COPY delimiter cannot be \"a\""),
        ("(quote '|')", "0A000 COPY quote available only in CSV mode"),
        ("(format csv, quote ',')", "22023 COPY delimiter and quote must be different"),
        ("(format binary, null '')", "42601 cannot specify NULL in BINARY mode"),
        ("(format csv, format csv)", "42601 conflicting or redundant options"),
        ("(color 'red')", "42601 option \"color\" not recognized"),
    ] {
        let hub = OwnHub::new(false);
        let sql = format!("copy walhub.messages from stdin with {options}");
        let lines = lines_of(&hub, &[query(&sql)]);
        assert_eq!(lines, [format!("ERROR {error}"), "Z I".to_owned()], "{options}");
    }
    let hub = OwnHub::new(false);
    let lines = lines_of(&hub, &[query("copy walhub.messages (lsn, x) from stdin")]);
    assert!(lines[0].starts_with("ERROR 42703 "), "{lines:?}");
}

#[test]
fn a_client_may_give_up_and_go_on() {
    let hub = OwnHub::new(false);
    let begin = || query("copy \"walhub\".\"messages\" (\"content\", prefix) from stdin");
    let lines = lines_of(
        &hub,
        &[
            begin(),
            message(b'd', b"a\tp\n"),
            message(b'f', b"no more\0"),
            begin(),
            message(b'd', b"b"),
            message(b'H', b""),
            sync(),
            message(b'd', b"\tp\n"),
            message(b'c', b""),
            query("begin"),
            begin(),
            message(b'd', b"c\tp\n"),
            message(b'c', b""),
            query("select pg_logical_emit_message(true, 'q', 'd'); commit"),
            parse("", "copy walhub.messages from stdin (format binary)", &[]),
            bind("", "", false, &[]),
            execute("", 0),
            message(b'd', b"nonsense"),
            message(b'd', b"more"),
            message(b'c', b""),
            sync(),
            begin(),
            message(b'd', b"left\tp\n"),
        ],
    );
    assert_eq!(
        lines,
        [
            "G",
            "ERROR 57014 COPY from stdin failed: no more [COPY messages, line 2]",
            "Z I",
            "G",
            "C COPY 1",
            "Z I",
            "C BEGIN",
            "Z T",
            "G",
            "C COPY 1",
            "Z T",
            "T pg_logical_emit_message:3220",
            "0/1020",
            "C SELECT 1",
            "C COMMIT",
            "Z I",
            "1",
            "2",
            "G",
            "ERROR 22P04 COPY file signature not recognized [COPY messages, line 1]",
            "Z I",
            "G",
        ]
    );
    assert_eq!(hub.log(), ["p:b commit flush", "p:c q:d commit flush"]);
    let hub = OwnHub::new(false);
    let lines = lines_of(&hub, &[begin(), query("select 1")]);
    assert_eq!(lines[1], "FATAL 08P01 unexpected message type 0x51 during COPY from stdin");
}
