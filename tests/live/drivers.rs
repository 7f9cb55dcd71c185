//! The drivers that programs use, on a hub with WAL of its own.
//!
//! Each runs a program of its language under `drivers/`, which does what all have in common
//! ([`COMMON`], [`NUMBERED`], every byte, a large one) and what only that driver has. Afterwards
//! pg_waldump says what is in the WAL: exactly what the program committed, whatever it was told.

mod tokio_postgres;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use walhub_tests::client::SqlServer;
use walhub_tests::hub::Hub;
use walhub_tests::postgres::StopMode;
use walhub_tests::process::{quick_command, run, run_ok, said};
use walhub_tests::scratch::Scratch;
use walhub_tests::waldump::{Dump, parse_lsn, waldump};

/// The prefix of all their messages.
pub(crate) const PREFIX: &str = "driver";
/// Bytes of the large content, which is this pattern again and again.
pub(crate) const LARGE_LEN: usize = 10 << 20;
pub(crate) const LARGE_PATTERN: &str = "0123456789abcdef";

/// Contents that every program commits.
const COMMON: [&str; 7] = [
    "autocommit 1",
    "autocommit 2",
    "in transaction 1",
    "in transaction 2",
    // Not transactional, in a transaction that failed.
    "stays",
    "after the error",
    "set local",
];

/// Contents that every program commits with numbers from 0, and how many.
const NUMBERED: [(&str, usize); 2] = [("prepared", 20), ("pipelined", 1000)];

/// Contents, and how often each was committed.
type Contents = BTreeMap<Vec<u8>, usize>;

/// What the programs have in common, and what this one has besides.
pub(crate) fn expected(numbered: &[(&str, usize)], more: &[&str]) -> Contents {
    let mut contents = Contents::new();
    let mut add = |content: Vec<u8>| *contents.entry(content).or_default() += 1;
    for content in COMMON.iter().chain(more) {
        add(content.as_bytes().to_vec());
    }
    for (name, count) in NUMBERED.iter().chain(numbered) {
        (0..*count).for_each(|number| add(format!("{name} {number}").into_bytes()));
    }
    add((0..=u8::MAX).collect());
    add(LARGE_PATTERN.repeat(LARGE_LEN / LARGE_PATTERN.len()).into_bytes());
    contents
}

/// What is in the WAL with [`PREFIX`]; nothing is there that was not committed.
#[track_caller]
fn committed(dump: &Dump) -> Contents {
    let commits = dump.committed();
    let mut contents = Contents::new();
    for message in dump.messages() {
        assert_eq!(message.prefix, PREFIX);
        assert!(
            !message.transactional || commits.contains(&message.xid),
            "{} of transaction {} was never committed",
            shown(&message.content),
            message.xid
        );
        *contents.entry(message.content).or_default() += 1;
    }
    contents
}

fn shown(content: &[u8]) -> String {
    let start: String = String::from_utf8_lossy(content).chars().take(60).collect();
    format!("{start:?} ({} bytes)", content.len())
}

/// What a client was told of a message's place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told<'a> {
    /// Where its record ends, as PostgreSQL says.
    End { content: &'a str, lsn: &'a str },
    /// Where the WAL ended before it.
    Before { content: &'a str, lsn: &'a str },
}

impl<'a> Told<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (kind, rest) = line.split_once(' ')?;
        let (content, lsn) = rest.rsplit_once(' ')?;
        match kind {
            "position" => Some(Self::End { content, lsn }),
            "before" => Some(Self::Before { content, lsn }),
            _ => None,
        }
    }
}

/// Stops the hub, and compares what pg_waldump reads with what was committed.
#[track_caller]
pub(crate) fn assert_committed(hub: &mut Hub, want: &Contents, positions: &[Told<'_>]) {
    assert!(hub.stop(StopMode::Fast).success());
    let dump = waldump(&hub.pg_wal(), &[]);
    dump.assert_ends_well();
    let got = committed(&dump);
    let differences = want.keys().chain(got.keys()).filter(|key| want.get(*key) != got.get(*key));
    let differences: Vec<String> = differences
        .map(|key| format!("{}: {:?}, not {:?}", shown(key), got.get(key), want.get(key)))
        .take(20)
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));

    let messages = dump.messages();
    let ends: BTreeMap<u64, u64> = dump.lsns().windows(2).map(|pair| (pair[0], pair[1])).collect();
    assert!(!positions.is_empty());
    for told in positions {
        let (Told::End { content, lsn } | Told::Before { content, lsn }) = told;
        let lsn = parse_lsn(lsn).unwrap_or_else(|| panic!("{lsn} is no position"));
        let message = messages.iter().find(|it| it.content == content.as_bytes()).expect(content);
        let right = match told {
            // Before any page header that follows.
            Told::End { .. } => message.lsn < lsn && lsn <= ends[&message.lsn],
            Told::Before { .. } => lsn <= message.lsn,
        };
        assert!(right, "{told:?} of {message:?}");
    }
}

/// Fails with the name of the package when `probe` does.
#[track_caller]
fn require(probe: &mut Command, packages: &str) {
    let output = probe.output();
    let works = output.as_ref().is_ok_and(|output| output.status.success());
    let why = output.map_or_else(|error| error.to_string(), |output| said(&output));
    assert!(works, "apt-get install {packages} (tests/run does it): {probe:?}: {why}");
}

/// Runs `program` on a new hub to its end, and checks what it has left.
#[track_caller]
fn drive(program: &mut Command, scratch: &Scratch, numbered: &[(&str, usize)], more: &[&str]) {
    let mut hub = Hub::named("own").start(scratch);
    let endpoint = hub.endpoint();
    program.args([endpoint.host.to_string(), endpoint.port.to_string()]);
    let output = run(program);
    assert!(output.status.success(), "{program:?}: {}\n{}", output.status, said(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    let positions: Vec<Told<'_>> = text.lines().filter_map(Told::parse).collect();
    assert_eq!(positions.len(), 2, "{text}");
    assert_committed(&mut hub, &expected(numbered, more), &positions);
}

/// Debian's own Python, which has Debian's packages.
fn python() -> Command {
    quick_command("/usr/bin/python3")
}

#[track_caller]
fn drive_python(module: &str, source: &str, numbered: &[(&str, usize)], more: &[&str]) {
    let import = format!("import {module}; print({module}.__version__)");
    require(python().args(["-c", &import]), &format!("python3-{module}"));
    let scratch = Scratch::new();
    // Not the module's own name, or it would import itself.
    let file = scratch.file("driver.py", source);
    drive(python().arg(file), &scratch, numbered, more);
}

#[test]
fn psycopg_3_commits_what_it_says() {
    drive_python(
        "psycopg",
        include_str!("drivers/psycopg3.py"),
        &[("many", 50), ("copied", 100), ("copied binary", 100)],
        &[
            "outer block",
            "inner block",
            "outer block after them",
            "before the pipeline's error",
            "pipelined transaction",
            "not waited for",
        ],
    );
}

#[test]
fn psycopg2_commits_what_it_says_and_replicates() {
    drive_python(
        "psycopg2",
        include_str!("drivers/psycopg2.py"),
        &[("many", 50), ("copied", 100), ("copied csv", 100)],
        &["streamed"],
    );
}

#[test]
fn asyncpg_commits_what_it_says() {
    drive_python(
        "asyncpg",
        include_str!("drivers/asyncpg.py"),
        &[("copied", 100), ("copied csv", 100), ("pool", 100)],
        &["outer block"],
    );
}

#[test]
fn node_postgres_commits_what_it_says() {
    let node = || {
        let mut node = quick_command("node");
        // Where Debian's package cannot be installed, tests/run has unpacked it elsewhere.
        let modules = std::env::var_os("NODE_PATH").unwrap_or("/usr/share/nodejs".into());
        node.env("NODE_PATH", modules);
        node
    };
    require(node().args(["-e", "require('pg')"]), "nodejs node-pg");
    let scratch = Scratch::new();
    let file = scratch.file("driver.js", include_str!("drivers/node_postgres.js"));
    drive(node().arg(file), &scratch, &[("pool", 100)], &[]);
}

#[test]
fn pgjdbc_commits_what_it_says() {
    const JAR: &str = "/usr/share/java/postgresql.jar";
    require(quick_command("java").arg("-version"), "default-jre-headless");
    require(quick_command("test").args(["-r", JAR]), "libpostgresql-jdbc-java");
    // A compiler of 7 MB; a JDK has 300.
    require(quick_command("ecj").arg("-version"), "ecj");
    let scratch = Scratch::new();
    let source = scratch.path("Pgjdbc.java");
    fs::write(&source, include_str!("drivers/Pgjdbc.java")).expect("a file");
    let classes = source.parent().expect("a directory");
    let mut compile = quick_command("ecj");
    compile.args(["-11", "-proc:none", "-cp", JAR, "-d"]).arg(classes).arg(&source);
    run_ok(&mut compile);
    let mut program = quick_command("java");
    program.args(["-XX:TieredStopAtLevel=1", "-cp", &class_path(classes, JAR), "Pgjdbc"]);
    drive(&mut program, &scratch, &[("copied", 100)], &["outer block", "simple"]);
}

fn class_path(classes: &Path, jar: &str) -> String {
    format!("{}:{jar}", classes.display())
}
