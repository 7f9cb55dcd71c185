//! psql and pgbench on a hub with WAL of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::Stdio;

use walhub_tests::client::{Psql, SqlServer, run_psql};
use walhub_tests::hub::Hub;
use walhub_tests::log::Log;
use walhub_tests::postgres::{StopMode, major, program};
use walhub_tests::process::{command, quick_command, run_ok, said, spawn};
use walhub_tests::scratch::Scratch;
use walhub_tests::waldump::waldump;
use walhub_tests::workload::parse_report;

/// How often each content was committed, by its text, and how many transactions did so.
#[track_caller]
fn committed(hub: &Hub) -> (BTreeMap<String, usize>, usize) {
    let dump = waldump(&hub.pg_wal(), &[]);
    let commits = dump.committed();
    let mut contents = BTreeMap::new();
    for message in dump.messages() {
        assert!(!message.transactional || commits.contains(&message.xid), "{message:?}");
        let content = String::from_utf8_lossy(&message.content).into_owned();
        *contents.entry(content).or_default() += 1;
    }
    (contents, commits.len())
}

/// One transaction of pgbench, and the messages that it makes.
struct Script {
    name: &'static str,
    text: &'static str,
    messages: usize,
}

const ONE: Script = Script {
    name: "one",
    text: "select pg_logical_emit_message(true, 'pgbench', 'one ' || :client_id);\n",
    messages: 1,
};
const TRANSACTION: Script = Script {
    name: "transaction",
    text: "\\set number random(1, 1000000)\nbegin;\n\
           select pg_logical_emit_message(true, 'pgbench', 'row ' || :number);\n\
           select pg_logical_emit_message(true, 'pgbench', :number::text);\ncommit;\n",
    messages: 2,
};
const PIPELINE: Script = Script {
    name: "pipeline",
    text: "\\startpipeline\nbegin;\n\
           select pg_logical_emit_message(true, 'pgbench', :client_id::text);\n\
           select pg_logical_emit_message(true, 'pgbench', 'second');\n\
           select pg_logical_emit_message(true, 'pgbench', 'third');\ncommit;\n\\endpipeline\n",
    messages: 3,
};

/// Runs pgbench, and checks that the WAL has exactly what it reports.
#[track_caller]
fn pgbench(script: &Script, clients: usize, transactions: usize, arguments: &[&str]) {
    let scratch = Scratch::new();
    let mut hub = Hub::named("own").start(&scratch);
    let file = scratch.path(script.name);
    fs::write(&file, script.text).expect("a script");
    let mut pgbench = quick_command(program("pgbench"));
    pgbench.args(["-n", "-c", &clients.to_string(), "-t", &transactions.to_string()]);
    pgbench.args(arguments).arg("-f").arg(&file).arg(hub.endpoint().database());
    let text = run_ok(&mut pgbench);
    let report = parse_report(&text).unwrap_or_else(|| panic!("what is reported? {text}"));
    assert!(hub.stop(StopMode::Fast).success());
    let (contents, commits) = committed(&hub);
    let reported = usize::try_from(report.transactions).expect("few");
    assert_eq!(reported, clients * transactions, "{text}");
    assert_eq!(commits, reported);
    assert_eq!(contents.values().sum::<usize>(), reported * script.messages);
}

/// Whether this pgbench knows `\startpipeline`.
fn has_pipelines() -> bool {
    major() >= 14
}

#[test]
fn pgbench_simple() {
    pgbench(&ONE, 8, 50, &["-M", "simple"]);
    pgbench(&TRANSACTION, 8, 25, &["-M", "simple"]);
}

#[test]
fn pgbench_extended() {
    pgbench(&ONE, 8, 50, &["-M", "extended"]);
    pgbench(&TRANSACTION, 8, 25, &["-M", "extended"]);
    if has_pipelines() {
        pgbench(&PIPELINE, 8, 25, &["-M", "extended"]);
    }
}

#[test]
fn pgbench_prepared() {
    pgbench(&ONE, 8, 50, &["-M", "prepared"]);
    pgbench(&TRANSACTION, 8, 25, &["-M", "prepared"]);
    if has_pipelines() {
        pgbench(&PIPELINE, 8, 25, &["-M", "prepared"]);
    }
}

#[test]
fn pgbench_with_64_clients() {
    pgbench(&ONE, 64, 50, &["-M", "prepared", "-j", "2"]);
    if has_pipelines() {
        pgbench(&PIPELINE, 64, 20, &["-M", "prepared", "-j", "2"]);
    }
}

#[test]
fn pgbench_with_a_connection_each_time() {
    pgbench(&ONE, 4, 25, &["-C", "-M", "simple"]);
    pgbench(&TRANSACTION, 4, 25, &["-C", "-M", "prepared"]);
}

#[test]
fn psql_copies_describes_and_is_told_what_there_is_not() {
    let scratch = Scratch::new();
    let mut hub = Hub::named("own").start(&scratch);
    let database = hub.endpoint().database();
    let emit = "select pg_logical_emit_message(true, 'p', 'c') as lsn, 1 as one";
    let script = |text: &str| {
        let file = scratch.path("script.sql");
        fs::write(&file, text).expect("a script");
        run_psql(&database, &["-v", "ON_ERROR_STOP=0", "-f", &file.display().to_string()])
    };
    let output = script(&format!("{emit} \\gdesc\n"));
    assert_eq!(said(&output).trim_end(), "lsn|pg_lsn\none|integer");

    let table = "walhub.messages (prefix, content)";
    let text = scratch.path("rows");
    fs::write(&text, "copy\ttext 1\ncopy\ttext\\t2\n").expect("a file");
    let output = script(&format!(
        "\\copy {table} from '{}'\n\
         copy {table} from stdin (format csv);\ncopy,\"csv, 1\"\ncopy,\"csv \"\"2\"\"\"\n\\.\n",
        text.display()
    ));
    assert_eq!(said(&output), "", "{output:?}");
    // The signature, no flags, no extension; a row of two fields; the end.
    let mut binary = b"PGCOPY\n\xFF\r\n\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\x04copy\0\0\0\x06".to_vec();
    binary.extend_from_slice(b"binary\xFF\xFF");
    fs::write(&text, binary).expect("a file");
    let output = script(&format!("\\copy {table} from '{}' (format binary)\n", text.display()));
    assert_eq!(said(&output), "", "{output:?}");

    // The session goes on after each.
    for command in ["\\d", "\\dx", "\\dt", "\\dn", "\\df", "\\sf now", "\\d walhub.messages"] {
        let answer = said(&script(&format!("{command}\nselect 'goes on';\n")));
        assert!(answer.contains("ERROR:") && answer.contains("goes on"), "{command}: {answer}");
        assert!(!answer.contains("internal error"), "{command}: {answer}");
    }
    let answer = said(&script("\\l\n\\du\n\\conninfo\n\\encoding\n"));
    let told = if major() >= 18 { "Server Port|" } else { "You are connected" };
    assert!(answer.contains("postgres|") && answer.contains(told), "{answer}");
    assert!(!answer.contains("ERROR") && answer.contains("Superuser"), "{answer}");
    assert!(answer.trim_end().ends_with("UTF8"), "{answer}");

    assert!(hub.stop(StopMode::Fast).success());
    let want = ["binary", "csv \"2\"", "csv, 1", "text 1", "text\t2"];
    let want = want.map(|content| (content.to_owned(), 1));
    assert_eq!(committed(&hub).0, BTreeMap::from(want));
}

#[test]
fn a_killed_client_commits_nothing_and_leaves_nothing_behind() {
    let scratch = Scratch::new();
    let mut hub = Hub::named("own").start(&scratch);
    let mut session = Psql::open(&hub);
    session.psql("begin");
    session.psql("select pg_logical_emit_message(true, 'p', 'never')");
    session.psql("select pg_logical_emit_message(false, 'p', 'at once')");
    session.kill9();
    // In the middle of a COPY.
    let mut psql = command(program("psql"));
    psql.args(["-Xq", "-d", &hub.endpoint().database()]).stdin(Stdio::piped());
    psql.args(["-c", "copy walhub.messages (prefix, content) from stdin"]);
    let copy = spawn(&mut psql, &Log::new("copy"));
    let mut rows = copy.take_stdin().expect("a pipe");
    rows.write_all("p\tnever\n".repeat(10_000).as_bytes()).expect("psql reads");
    hub.wait_sql("select count(*) from pg_stat_progress_copy", "1");
    copy.kill();
    hub.wait_sql("select count(*) from pg_stat_progress_copy", "0");
    hub.psql("select pg_logical_emit_message(true, 'p', 'after them')");
    assert!(hub.stop(StopMode::Fast).success());
    let want = ["after them", "at once"].map(|content| (content.to_owned(), 1));
    assert_eq!(committed(&hub), (BTreeMap::from(want), 1));
}
