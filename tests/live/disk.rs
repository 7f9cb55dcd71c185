//! The hub's disk: full, or without O_DIRECT. Only root can mount the file systems for it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use walhub_tests::client::SqlServer;
use walhub_tests::compare::assert_equal_segments;
use walhub_tests::hub::Hub;
use walhub_tests::mount::Mount;
use walhub_tests::postgres::Postgres;
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::scratch::{Scratch, is_root};
use walhub_tests::wait::wait_for;
use walhub_tests::waldump::waldump;

/// Says why a test does nothing.
fn cannot_mount() -> bool {
    if !is_root() {
        eprintln!("not tested: only root can mount a file system");
    }
    !is_root()
}

/// Fills the disk under a hub, looks what it still serves, and makes room again.
fn disk_full(scratch: &Scratch, mount: &Mount) {
    let primary = Postgres::primary("primary").segment_size_mb(1).start(scratch);
    let first = primary.current_segment();
    let ballast = mount.take_room(60);
    let hub = Hub::named("hub")
        .data(mount.path().join("hub"))
        .upstream(primary.endpoint().conninfo("hub"))
        .start(scratch);
    primary.wait_streaming("hub");
    let mark = hub.log().mark();
    primary.write_wal(60);
    let end = primary.flush_lsn();
    hub.log().wait_for(mark, "No space left on device");

    // It lives, has not acknowledged what it cannot have, and serves what is durable.
    let flushed = hub.psql("select pg_last_wal_receive_lsn()");
    let is_behind = format!("select '{flushed}'::pg_lsn < '{end}'::pg_lsn");
    assert_eq!(primary.psql(&is_behind), "t");
    let acknowledged = "select count(*) from pg_stat_replication where flush_lsn >= ";
    assert_eq!(primary.psql(&format!("{acknowledged} '{end}'")), "0");
    let current = primary.psql(&format!("select pg_walfile_name('{flushed}')"));
    let complete: Vec<_> =
        hub.segments().expect("pg_wal").into_iter().filter(|name| *name < current).collect();
    let last = complete.last().expect("some complete segment");
    assert!(complete.len() >= 5 && *last > first, "{complete:?}");
    // pg_receivewal goes on after the newest segment that it finds.
    let dir = scratch.path("received");
    fs::create_dir(&dir).expect("a directory");
    fs::copy(primary.pg_wal().join(&complete[0]), dir.join(&complete[0])).expect("a segment");
    let mut receive = ReceiveWal::start(&hub, "received", &["--no-sync"], scratch);
    receive.finish_at(last);
    assert_equal_segments(&primary.pg_wal(), receive.dir(), &current, complete.len());

    fs::remove_file(ballast).expect("the ballast");
    primary.wait_acknowledged("hub", &end);
    primary.switch_wal(1);
    primary.wait_acknowledged("hub", &primary.flush_lsn());
    let current = primary.current_segment();
    assert_equal_segments(&primary.pg_wal(), &hub.pg_wal(), &current, 60);
    // Once, not once a try.
    let complaints = hub.log().count(mark, "No space left on device");
    assert!(complaints <= 5, "{complaints} complaints");
}

#[test]
fn disk_full_on_ext4_pauses_receiving_and_loses_nothing() {
    if cannot_mount() {
        return;
    }
    let scratch = Scratch::new();
    let mount = Mount::ext4(&scratch, 128);
    disk_full(&scratch, &mount);
}

#[test]
fn disk_full_on_tmpfs_pauses_receiving_and_loses_nothing() {
    if cannot_mount() {
        return;
    }
    let scratch = Scratch::new();
    let mount = Mount::tmpfs(&scratch, 112);
    disk_full(&scratch, &mount);
}

/// Whether files of this directory can be opened with O_DIRECT; Linux 6.6 has it on tmpfs.
fn has_o_direct(dir: &Path) -> bool {
    let path = dir.join("probe");
    fs::write(&path, "").expect("a file");
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path);
    fs::remove_file(&path).expect("the file");
    opened.is_ok()
}

fn buffered_writes(scratch: &Scratch, mount: &Mount) {
    let warned = !has_o_direct(mount.path());
    let primary = Postgres::primary("primary").segment_size_mb(1).start(scratch);
    let mut hub = Hub::named("hub")
        .data(mount.path().join("hub"))
        .upstream(primary.endpoint().conninfo("hub"))
        .start(scratch);
    primary.wait_streaming("hub");
    if warned {
        let line = hub.log().wait_for(hub.log().beginning(), "O_DIRECT");
        assert!(line.contains("WARNING:"), "{line}");
    }
    primary.write_wal(4);
    primary.switch_wal(1);
    primary.wait_acknowledged("hub", &primary.flush_lsn());
    hub.kill9();
    hub.start();
    primary.write_wal(1);
    primary.wait_acknowledged("hub", &primary.flush_lsn());
    let end = primary.current_segment();
    assert_equal_segments(&primary.pg_wal(), &hub.pg_wal(), &end, 5);
    let last = wait_for("a record", || waldump(&hub.pg_wal(), &[]).last_lsn().map(str::to_owned));
    assert!(last.starts_with("0/"), "{last}");
}

#[test]
fn tmpfs_is_written_and_recovered() {
    if cannot_mount() {
        return;
    }
    let scratch = Scratch::new();
    let mount = Mount::tmpfs(&scratch, 256);
    buffered_writes(&scratch, &mount);
}

#[test]
fn file_system_without_o_direct_gets_a_warning_and_buffered_writes() {
    if cannot_mount() {
        return;
    }
    let scratch = Scratch::new();
    let mount = Mount::ramfs(&scratch);
    assert!(!has_o_direct(mount.path()), "ramfs has O_DIRECT now: find another file system");
    buffered_writes(&scratch, &mount);
}
