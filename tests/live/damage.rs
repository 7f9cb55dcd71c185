//! WAL that was durable and is not what it was: found, named, never served, never erased.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use walhub_tests::client::SqlServer;
use walhub_tests::compare::segment_names;
use walhub_tests::hub::{Hub, walhub};
use walhub_tests::postgres::{StopMode, program};
use walhub_tests::process::{command, run_ok, said};
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::scratch::Scratch;
use walhub_tests::topology::Relay;

const MESSAGES: usize = 2000;

/// Commits numbered messages, each in a transaction of its own.
fn emit(hub: &Hub, scratch: &Scratch, count: usize) {
    let mut script = String::new();
    for id in 0..count {
        let _ =
            writeln!(script, "select pg_logical_emit_message(true, 'load', 'message {id:06}');");
    }
    let path = scratch.path("emit.sql");
    fs::write(&path, script).expect("a script");
    let mut psql = command(program("psql"));
    psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &hub.endpoint().database(), "-f"]);
    run_ok(psql.arg(path));
}

fn messages(hub: &Hub) -> usize {
    hub.psql("select count(*) from walhub.messages where prefix = 'load'")
        .parse()
        .expect("a number")
}

/// Changes one bit of the only place where `dir` has `text`; returns the file.
#[track_caller]
fn flip_bit(dir: &Path, text: &str) -> PathBuf {
    for name in segment_names(dir).expect("segments") {
        let path = dir.join(name);
        let mut segment = fs::read(&path).expect("a segment");
        let found = segment.windows(text.len()).position(|window| window == text.as_bytes());
        if let Some(at) = found {
            segment[at] ^= 1;
            fs::write(&path, segment).expect("a segment");
            return path;
        }
    }
    panic!("{text} is nowhere");
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = segment_names(dir).expect("segments").into_iter();
    names.map(|name| (name.clone(), fs::read(dir.join(name)).expect("a segment"))).collect()
}

fn verify(data: &Path) -> Output {
    walhub(["verify".as_ref(), "-D".as_ref(), data.as_os_str()])
}

/// The server ends without having changed a segment. Returns what it said.
#[track_caller]
fn refused(hub: &Hub, more: &[&str]) -> String {
    let before = contents(&hub.pg_wal());
    let mut arguments = hub.serve_arguments();
    arguments.extend(more.iter().map(Into::into));
    let output = walhub(arguments);
    let text = said(&output);
    assert!(!output.status.success(), "{text}");
    assert!(contents(&hub.pg_wal()) == before, "a refused start has changed the WAL");
    text
}

/// The position that a refused start asks for.
#[track_caller]
fn offered(text: &str) -> String {
    let (_, rest) = text.split_once("--accept-loss-after ").expect("an offer");
    rest.split(|at: char| !at.is_ascii_hexdigit() && at != '/').next().expect("one").to_owned()
}

#[test]
fn one_flipped_bit_in_the_middle_erases_no_later_commit() {
    let scratch = Scratch::new();
    let mut hub = Hub::named("own").build(&scratch);
    hub.init(16);
    hub.start();
    emit(&hub, &scratch, MESSAGES);
    hub.kill9();
    let damaged = flip_bit(&hub.pg_wal(), "message 000500");
    let text = refused(&hub, &[]);
    for want in [
        &format!("FATAL:  WAL that was durable is damaged in file \"{}\" at 0/", name_of(&damaged)),
        "incorrect resource manager data checksum in record at 0/",
        "got checksum ",
        ", want ",
        "HINT:  Put back the file",
    ] {
        assert!(text.contains(want), "{want} in {text}");
    }
    // So says who only looks, and a position that is not the one is no way out.
    let looked = verify(hub.data());
    assert_eq!(looked.status.code(), Some(1), "{}", said(&looked));
    assert!(said(&looked).contains(&format!("{}: damaged at 0/", name_of(&damaged))));
    let end = offered(&text);
    refused(&hub, &["--accept-loss-after", "0/1000028"]);
    // The bit is turned back: nothing was lost.
    let whole = contents(&hub.pg_wal());
    flip_bit(&hub.pg_wal(), "message 000400");
    let at_400 = refused(&hub, &[]);
    assert!(offered(&at_400) != end);
    fs::write(&damaged, &whole[&name_of(&damaged)]).expect("a segment");
    let text = "message 000500".replace('m', "l");
    assert_eq!(flip_bit(&hub.pg_wal(), &text), damaged);
    assert_eq!(verify(hub.data()).status.code(), Some(0));
    hub.start();
    assert_eq!(messages(&hub), MESSAGES);
}

#[test]
fn accepted_loss_moves_the_damaged_wal_aside_and_goes_on_on_a_new_timeline() {
    let scratch = Scratch::new();
    let mut hub = Hub::named("own").build(&scratch);
    hub.init(1);
    hub.start();
    // It has all, and must not take what follows for the same WAL.
    let mut ahead = Hub::named("ahead").upstream(hub.endpoint().conninfo("ahead")).start(&scratch);
    hub.wait_streaming("ahead");
    emit(&hub, &scratch, MESSAGES);
    ahead.wait_received(&hub.psql("select pg_current_wal_flush_lsn()"));
    hub.kill9();
    // In the segment that is being written, and some before it are whole.
    let last = contents(&hub.pg_wal());
    flip_bit(&hub.pg_wal(), "message 001900");
    let damaged = contents(&hub.pg_wal());
    let end = offered(&refused(&hub, &[]));
    let mut arguments = hub.serve_arguments();
    arguments.extend(["--accept-loss-after".into(), end.into()]);
    let mark = hub.log().mark();
    hub.spawn_with(arguments);
    hub.wait_ready();
    hub.log().wait_for(mark, "it is given up");
    assert_eq!(messages(&hub), 1900);
    let aside: Vec<_> = fs::read_dir(hub.data())
        .expect("a directory")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| name_of(path).starts_with("damaged.00000001."))
        .collect();
    assert_eq!(aside.len(), 1);
    let kept = contents(&aside[0]);
    assert!(!kept.is_empty());
    for (name, content) in &kept {
        assert!(*content == damaged[name], "{name} is not what it was");
    }
    assert!(last.keys().next_back() >= kept.keys().next_back());
    // The next life needs no option, and finds what was committed since.
    hub.psql("select pg_logical_emit_message(true, 'load', 'after')");
    hub.kill9();
    hub.start();
    assert_eq!(messages(&hub), 1901);
    assert!(hub.pg_wal().join("00000002.history").exists());
    // Who has more of the old timeline is told so, and is not fed on.
    ahead.log().wait_for(ahead.log().beginning(), "is not in this server's history");
    ahead.kill9();
}

#[test]
fn a_relay_receives_damaged_wal_again_and_is_not_promoted_before() {
    let mut relay = Relay::with(|primary| primary, |hub| hub);
    relay.primary.psql("create table t (a text)");
    relay.primary.psql("checkpoint");
    for row in 0..50 {
        relay.primary.psql(&format!("insert into t values ('row number {row:06}')"));
    }
    let lsn = relay.primary.flush_lsn();
    relay.primary.wait_acknowledged("hub", &lsn);
    relay.hub.kill9();
    relay.primary.stop(StopMode::Fast);
    flip_bit(&relay.hub.pg_wal(), "row number 000025");
    let mark = relay.hub.log().mark();
    relay.hub.start();
    relay.hub.log().wait_for(mark, "WAL that was durable is damaged in file");
    relay.hub.log().wait_for(mark, "this server is not promoted before");
    let error = relay.hub.psql_error("select pg_promote()");
    assert!(error.contains("55000"), "{error}");
    assert!(error.contains("cannot promote before damaged WAL was received again"), "{error}");
    // Nor after another start.
    relay.hub.kill9();
    relay.hub.start();
    let error = relay.hub.psql_error("select pg_promote()");
    assert!(error.contains("cannot promote before damaged WAL"), "{error}");
    relay.primary.start();
    // It lists what runs, without which nobody is promoted.
    relay.primary.psql("checkpoint");
    relay.primary.wait_acknowledged("hub", &lsn);
    let name = relay.primary.finish_segment();
    relay.primary.wait_acknowledged("hub", &relay.primary.flush_lsn());
    let (ours, theirs) = (relay.hub.pg_wal().join(&name), relay.primary.pg_wal().join(&name));
    assert!(fs::read(ours).expect("a segment") == fs::read(theirs).expect("a segment"));
    relay.hub.psql("select pg_promote()");
    assert_eq!(relay.hub.psql("select pg_is_in_recovery()"), "f");
}

/// The hub's segments: `count` that are complete, each with a message, and a slot that keeps them all.
fn with_segments(scratch: &Scratch, count: u32) -> Hub {
    let mut hub = Hub::named("own").build(scratch);
    hub.init(1);
    hub.start();
    hub.psql("select pg_create_physical_replication_slot('old', true)");
    for segment in 0..count {
        hub.psql(&format!("select pg_logical_emit_message(true, 'p', 'segment {segment:04}')"));
        hub.psql("select pg_switch_wal()");
    }
    hub.psql("checkpoint");
    hub
}

#[track_caller]
fn wait_wal_status(hub: &Hub, want: &str) {
    hub.wait_sql("select wal_status from pg_replication_slots where slot_name = 'old'", want);
}

/// Receives from the second segment on: the first is there already.
fn receive_from_second(hub: &Hub, scratch: &Scratch) -> ReceiveWal {
    let first = &segment_names(&hub.pg_wal()).expect("segments")[0];
    let dir = scratch.path("received");
    fs::create_dir_all(&dir).expect("a directory");
    fs::copy(hub.pg_wal().join(first), dir.join(first)).expect("a copy");
    ReceiveWal::start(hub, "received", &["--slot=old"], scratch)
}

#[test]
fn damaged_segments_are_named_served_to_nobody_and_slots_that_need_them_are_lost() {
    let scratch = Scratch::new();
    let mut hub = with_segments(&scratch, 6);
    wait_wal_status(&hub, "reserved");
    // Also while the server runs.
    let looked = verify(hub.data());
    assert_eq!(looked.status.code(), Some(0), "{}", said(&looked));
    assert!(said(&looked).contains("no damage"), "{}", said(&looked));
    assert!(hub.stop(StopMode::Fast).success());
    let whole = contents(&hub.pg_wal());
    let damaged = flip_bit(&hub.pg_wal(), "segment 0002");
    let looked = verify(hub.data());
    assert_eq!(looked.status.code(), Some(1), "{}", said(&looked));
    let mark = hub.log().mark();
    hub.start();
    let line = format!("WAL segment \"{}\" is damaged at 0/", name_of(&damaged));
    hub.log().wait_for(mark, &line);
    wait_wal_status(&hub, "lost");
    assert_eq!(verify(hub.data()).status.code(), Some(1));
    let mut receive = receive_from_second(&hub, &scratch);
    receive.wait();
    let refusal = format!("requested WAL segment {} is damaged and is not sent", name_of(&damaged));
    assert!(receive.said().contains(&refusal), "{}", receive.said());
    assert!(!receive.dir().join(name_of(&damaged)).exists());
    // Put back, it is served.
    assert!(hub.stop(StopMode::Fast).success());
    fs::write(&damaged, &whole[&name_of(&damaged)]).expect("a segment");
    hub.start();
    wait_wal_status(&hub, "reserved");
}

#[test]
fn segments_that_are_swapped_or_no_files_are_found_at_start() {
    let scratch = Scratch::new();
    let mut hub = with_segments(&scratch, 6);
    assert!(hub.stop(StopMode::Fast).success());
    let names: Vec<String> = segment_names(&hub.pg_wal()).expect("segments");
    let path = |number: usize| hub.pg_wal().join(&names[number]);
    fs::rename(path(1), scratch.path("kept")).expect("a rename");
    fs::rename(path(2), path(1)).expect("a rename");
    fs::rename(scratch.path("kept"), path(2)).expect("a rename");
    fs::remove_file(path(4)).expect("a segment");
    assert!(Command::new("mkfifo").arg(path(4)).status().expect("mkfifo").success());
    let text = said(&verify(hub.data()));
    for number in [1, 2, 4] {
        assert!(text.contains(&format!("{}: damaged", names[number])), "{text}");
    }
    let mark = hub.log().mark();
    hub.start();
    for number in [1, 2, 4] {
        hub.log().wait_for(mark, &format!("WAL segment \"{}\" is damaged", names[number]));
    }
    wait_wal_status(&hub, "lost");
    let mut receive = receive_from_second(&hub, &scratch);
    receive.wait();
    assert!(receive.said().contains("is damaged and is not sent"), "{}", receive.said());
}

#[test]
fn a_segment_that_is_missing_in_the_middle_is_named_and_the_slot_before_it_is_lost() {
    let scratch = Scratch::new();
    let mut hub = with_segments(&scratch, 6);
    hub.kill9();
    let names: Vec<String> = segment_names(&hub.pg_wal()).expect("segments");
    fs::remove_file(hub.pg_wal().join(&names[2])).expect("a segment");
    let text = said(&verify(hub.data()));
    assert!(text.contains(&format!("{}: damaged", names[2])), "{text}");
    assert!(text.contains("the segment is missing"), "{text}");
    let mark = hub.log().mark();
    hub.start();
    hub.log().wait_for(mark, &format!("WAL segment \"{}\" is missing", names[2]));
    wait_wal_status(&hub, "lost");
}

#[test]
fn bytes_in_the_filling_after_a_switch_are_neither_durable_nor_served() {
    let mut relay = Relay::with(|primary| primary.config("wal_keep_size = '1GB'"), |hub| hub);
    relay.hub.kill9();
    let name = relay.primary.finish_segment();
    relay.primary.psql("checkpoint");
    relay.primary.stop(StopMode::Fast);
    let path = relay.primary.pg_wal().join(&name);
    let whole = fs::read(&path).expect("a segment");
    assert!(whole[whole.len() - 8192..].iter().all(|&byte| byte == 0), "no filling");
    let mut damaged = whole.clone();
    let at = damaged.len() - 5000;
    damaged[at] = 0x21;
    fs::write(&path, &damaged).expect("a segment");
    relay.primary.start();
    let mark = relay.hub.log().mark();
    relay.hub.start();
    relay.hub.log().wait_for(mark, "invalid filling at 0/");
    relay.hub.log().wait_for(mark, "got byte 21, want 00");
    let received = fs::read(relay.hub.pg_wal().join(&name)).expect("a segment");
    assert_eq!(received[at], 0);
    // The primary's file is put right: it goes on from where it was.
    fs::write(&path, &whole).expect("a segment");
    run_ok(command(walhub_tests::hub::binary()).args([
        "reload".as_ref(),
        "-D".as_ref(),
        relay.hub.data().as_os_str(),
    ]));
    relay.primary.psql("select pg_logical_emit_message(true, 'after', 'it')");
    relay.primary.wait_acknowledged("hub", &relay.primary.flush_lsn());
    assert!(fs::read(relay.hub.pg_wal().join(&name)).expect("a segment") == whole);
}
