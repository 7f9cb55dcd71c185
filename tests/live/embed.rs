//! `walhub::embed`: messages that cannot be in the WAL are refused, and nothing else is harmed.

use walhub::embed::{Log, Message, Options, SynchronousCommit};
use walhub_tests::client::SqlServer;
use walhub_tests::hub::Hub;
use walhub_tests::postgres::wal_page_magic;
use walhub_tests::scratch::Scratch;
use walhub_tests::waldump::waldump;

#[test]
fn a_message_that_cannot_be_in_the_wal_is_an_error_and_the_log_goes_on() {
    let scratch = Scratch::new();
    let dir = scratch.path("log");
    let options = Options::new(&dir).set("wal_page_magic", &wal_page_magic());
    let log = Log::open(options).expect("a log");
    let append = |messages: &[Message<'_>]| log.append(messages, SynchronousCommit::Local);
    let good = Message { prefix: "p", content: b"with a \0 in it" };
    append(&[good]).expect("content may be anything");

    for prefix in ["\0", "a\0", "a\0b", "\0b"] {
        let bad = Message { prefix, content: b"never" };
        // Nothing of a transaction with one is appended.
        let error = append(&[good, bad]).expect_err(prefix).to_string();
        assert_eq!(error, format!("the prefix {prefix:?} of a message holds a NUL"));
    }
    // PostgreSQL: XLogRecordMaxSize.
    let long = vec![b'x'; 1020 << 20];
    let text = String::from_utf8(long).expect("letters");
    for too_long in
        [Message { prefix: "p", content: text.as_bytes() }, Message { prefix: &text, content: b"" }]
    {
        let error = append(&[too_long]).expect_err("too long").to_string();
        let want = "oversized WAL record: WAL record would be 10695";
        assert!(error.starts_with(want), "{error}");
        assert!(error.contains("(of maximum 1069547520 bytes)"), "{error}");
    }
    assert!(append(&[]).is_err());

    let long_prefix = "p".repeat(100_000);
    append(&[Message { prefix: &long_prefix, content: b"" }]).expect("a long prefix");
    log.close().expect("closed");
    let dump = waldump(&dir.join("pg_wal"), &["--rmgr=LogicalMessage"]);
    let found: Vec<_> = dump
        .messages()
        .into_iter()
        .map(|message| (message.prefix.len(), message.content))
        .collect();
    assert_eq!(found, [(1, good.content.to_vec()), (100_000, Vec::new())]);
    // What the program has left, a server goes on with.
    let hub = Hub::named("log").data(dir).start(&scratch);
    assert_eq!(hub.psql("select count(*) from walhub.messages"), "2");
}
