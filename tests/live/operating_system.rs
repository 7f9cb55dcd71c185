//! What the hub shows to the operating system, and what it needs of it. All is walhub's own.

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use walhub_tests::client::SqlServer;
use walhub_tests::hub::{Hub, walhub};
use walhub_tests::process::{run_ok, said};
use walhub_tests::scratch::Scratch;
use walhub_tests::topology::Relay;
use walhub_tests::wait::wait_until;

#[test]
fn process_title_shows_role_position_and_standbys() {
    let relay = Relay::start();
    let pid = relay.hub.pid().to_string();
    let title = || run_ok(Command::new("ps").args(["-ww", "-o", "args=", "-p", &pid]));
    let standby = relay.streaming_standby("standby");
    wait_until("the title counts the standby", || title().trim_end().ends_with(", 1 standby"));
    relay.primary.write_wal(1);
    let lsn = relay.primary.flush_lsn();
    standby.wait_replay(&lsn);
    wait_until("the title shows the position", || {
        let title = title();
        let rest = title.strip_prefix("walhub: standby streaming ");
        let shown = rest.and_then(|rest| rest.split(',').next()).unwrap_or("0/0");
        relay.primary.psql(&format!("select '{shown}'::pg_lsn >= '{lsn}'")) == "t"
    });
    drop(standby);
    wait_until("the title counts nobody", || title().trim_end().ends_with(", 0 standbys"));
}

/// Runs the hub where the system call io_uring_setup fails with `errno`; gives what it says.
fn without_io_uring(errno: i32) -> String {
    let scratch = Scratch::new();
    let hub = Hub::named("hub").upstream("host=127.0.0.1 port=1").build(&scratch);
    let arguments = hub.serve_arguments();
    // The filter stays with the thread that applies it, and with its children.
    let refused = thread::spawn(move || {
        let architecture = std::env::consts::ARCH.try_into().expect("a known architecture");
        let filter = SeccompFilter::new(
            BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]),
            SeccompAction::Allow,
            SeccompAction::Errno(errno.cast_unsigned()),
            architecture,
        );
        let program: BpfProgram =
            filter.and_then(TryInto::try_into).expect("a filter for this machine");
        apply_filter(&program).expect("seccomp");
        walhub(arguments)
    });
    let output = refused.join().expect("the filtered thread");
    let text = said(&output);
    assert!(!output.status.success() && output.status.code() != Some(124), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    assert!(text.contains("io_uring"), "{text}");
    text
}

#[test]
fn io_uring_that_is_forbidden_names_the_knob() {
    // The sysctl is machine-wide and 0 here, so it is the filter that is named.
    let text = without_io_uring(libc::EPERM);
    assert!(text.contains("seccomp") && text.contains("io_uring_setup"), "{text}");
}

#[test]
fn io_uring_that_a_filter_hides_is_told_from_an_old_kernel() {
    // Some container runtimes answer ENOSYS for what they forbid; this kernel has io_uring.
    let text = without_io_uring(libc::ENOSYS);
    assert!(text.contains("seccomp"), "{text}");
}
