//! Whose a data directory is: nothing is acknowledged into a directory that is gone or another server's.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use walhub_tests::client::SqlServer;
use walhub_tests::hub::{Hub, walhub};
use walhub_tests::process::{freeze, said, send_signal};
use walhub_tests::scratch::Scratch;
use walhub_tests::waldump::waldump;

/// What a process exits with whose data directory is gone.
const EXIT_STATUS: i32 = 16;
const PANIC: &str =
    "PANIC:  performing immediate shutdown because data directory lock file is invalid";

fn own_hub(scratch: &Scratch) -> Hub {
    let mut hub = Hub::named("own").build(scratch);
    hub.init(1);
    hub.start();
    hub.psql("select pg_logical_emit_message(true, 'before', '1')");
    hub
}

/// Does `change` to the directory of a running hub, which ends at once and says why.
#[track_caller]
fn ends_after(hub: &mut Hub, why: &str, change: impl FnOnce(&Path)) {
    let mark = hub.log().mark();
    change(hub.data());
    assert_eq!(hub.wait_exit().code(), Some(EXIT_STATUS));
    hub.log().wait_for(mark, PANIC);
    hub.log().wait_for(mark, why);
    // No client and no standby is told anything any more.
    assert!(!hub.try_psql("select pg_logical_emit_message(true, 'after', '1')").status.success());
}

/// A hub of the same directory does not run beside the first. Afterwards it does, and has everything.
#[test]
fn rm_of_the_pid_file_lets_no_second_server_in_and_ends_the_first() {
    let scratch = Scratch::new();
    let mut hub = own_hub(&scratch);
    ends_after(&mut hub, "walhub.pid\" has been removed", |data| {
        fs::remove_file(data.join("walhub.pid")).expect("a pid file");
    });
    hub.start();
    hub.psql("select pg_logical_emit_message(true, 'after', '2')");
    let dump = waldump(&hub.pg_wal(), &[]);
    assert_eq!(
        dump.records.iter().filter(|record| record.contains("prefix \"before\"")).count(),
        1
    );
    assert_eq!(dump.records.iter().filter(|record| record.contains("prefix \"after\"")).count(), 1);
}

/// The process is stopped, so that it cannot look: whoever removes the file is faster than any look.
#[test]
fn a_second_server_is_refused_while_the_first_has_not_noticed_that_its_pid_file_is_gone() {
    let scratch = Scratch::new();
    let mut hub = own_hub(&scratch);
    freeze(hub.pid());
    fs::remove_file(hub.data().join("walhub.pid")).expect("a pid file");
    let output =
        walhub(Hub::named("second").data(hub.data().into()).build(&scratch).serve_arguments());
    let text = said(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("could not lock data directory"), "{text}");
    assert!(text.contains("Terminate any old server processes"), "{text}");
    assert!(!hub.data().join("walhub.pid").exists());
    send_signal(hub.pid(), Signal::CONT);
    assert_eq!(hub.wait_exit().code(), Some(EXIT_STATUS));
    hub.start();
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("moved")
}

#[test]
fn a_server_whose_directory_moved_away_ends_and_starts_at_its_new_place() {
    let scratch = Scratch::new();
    let mut hub = own_hub(&scratch);
    ends_after(&mut hub, "has been removed", |data| {
        fs::rename(data, beside(data)).expect("a rename");
    });
    let mut moved = Hub::named("moved").data(beside(hub.data())).build(&scratch);
    moved.start();
    let dump = waldump(&moved.pg_wal(), &[]);
    assert_eq!(
        dump.records.iter().filter(|record| record.contains("prefix \"before\"")).count(),
        1
    );
}

#[test]
fn a_server_whose_directory_was_removed_or_replaced_ends() {
    let scratch = Scratch::new();
    let mut hub = own_hub(&scratch);
    // The pid file may go first.
    ends_after(&mut hub, "\" has been removed", |data| {
        fs::remove_dir_all(data).expect("a directory");
    });
    hub.init(1);
    hub.start();
    ends_after(&mut hub, "pg_wal\" has been re", |data| {
        fs::rename(data.join("pg_wal"), data.join("old")).expect("a rename");
        fs::create_dir(data.join("pg_wal")).expect("a directory");
    });
}
