//! What the hub shows to the operating system, and what it needs of it. All is walhub's own.

mod limits;

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};
use walhub_tests::client::SqlServer;
use walhub_tests::hub::{Hub, walhub};
use walhub_tests::process::{run_ok, said};
use walhub_tests::receivewal::ReceiveWal;
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

/// Has a system call of this thread and its children fail with `errno`, where a rule holds or always.
fn refuse(call: i64, rules: Vec<SeccompRule>, errno: i32) {
    let architecture = std::env::consts::ARCH.try_into().expect("a known architecture");
    let filter = SeccompFilter::new(
        BTreeMap::from([(call, rules)]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.cast_unsigned()),
        architecture,
    );
    let program: BpfProgram =
        filter.and_then(TryInto::try_into).expect("a filter for this machine");
    apply_filter(&program).expect("seccomp");
}

/// Runs the hub where the system call io_uring_setup fails with `errno`; gives what it says.
fn without_io_uring(errno: i32) -> String {
    let scratch = Scratch::new();
    let hub = Hub::named("hub").upstream("host=127.0.0.1 port=1").build(&scratch);
    let arguments = hub.serve_arguments();
    // The filter stays with the thread that applies it, and with its children.
    let refused = thread::spawn(move || {
        refuse(libc::SYS_io_uring_setup, Vec::new(), errno);
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

/// What a hub logs about polling, that then serves a standby and commits.
fn polling_hub(dedicated_wal_core: &str, busy_poll_us: &str) -> Vec<String> {
    let scratch = Scratch::new();
    let hub = Hub::named("own").set("dedicated_wal_core", dedicated_wal_core).set("cores", "1");
    let hub = hub.set("busy_poll_us", busy_poll_us).start(&scratch);
    assert_eq!(hub.psql("show busy_poll_us"), busy_poll_us);
    let mut receive = ReceiveWal::start(&hub, "receive", &["--synchronous"], &scratch);
    hub.wait_streaming("receive");
    let segment = hub.psql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    for _ in 0..20 {
        hub.psql("select pg_logical_emit_message(true, 'p', 'something')");
    }
    hub.psql("select pg_switch_wal()");
    receive.finish_at(&segment);
    let text = hub.log().text(hub.log().beginning());
    text.lines().filter(|line| line.contains("poll")).map(str::to_owned).collect()
}

#[test]
fn busy_polling_has_an_effect_on_cores_with_a_thread_of_their_own() {
    for busy_poll_us in ["auto", "0"] {
        assert_eq!(polling_hub("on", busy_poll_us), <[&str; 0]>::default());
        assert_eq!(polling_hub("off", busy_poll_us), <[&str; 0]>::default());
    }
    assert_eq!(polling_hub("on", "200"), <[&str; 0]>::default());
    let shared = polling_hub("off", "200").join("\n");
    assert!(shared.contains("WARNING:  busy_poll_us has no effect on core 0"), "{shared}");
}

#[test]
fn a_kernel_that_does_not_poll_network_cards_is_named_and_the_hub_goes_on() {
    /// IORING_REGISTER_NAPI
    const REGISTER_NAPI: u64 = 27;
    let refused = thread::spawn(|| {
        let condition =
            SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, REGISTER_NAPI);
        let rule = condition.and_then(|condition| SeccompRule::new(vec![condition]));
        refuse(libc::SYS_io_uring_register, vec![rule.expect("a rule")], libc::EINVAL);
        polling_hub("on", "50").join("\n")
    });
    let text = refused.join().expect("the filtered thread");
    let warning = "WARNING:  the kernel does not poll network cards for core 0: Invalid argument";
    assert!(text.contains(warning) && text.contains("HINT:  Install Linux 6.9 or newer"), "{text}");
}
