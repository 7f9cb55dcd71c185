//! Something is wrong at the upstream's address: the hub tries again for as long as it runs, writes little
//! about it, and goes on by itself once it is right.

use std::fs;

use rustix::process::Signal;
use walhub_tests::client::{SqlServer, Statement};
use walhub_tests::fake_upstream::{Conduct, FakeUpstream};
use walhub_tests::hub::Hub;
use walhub_tests::postgres::Postgres;
use walhub_tests::process::send_signal;
use walhub_tests::scratch::Scratch;

/// Attempts after which nothing is an accident any more.
const ATTEMPTS: usize = 6;

/// A hub that streams from a primary through a fake that passes everything on.
struct Passed {
    hub: Hub,
    primary: Postgres,
    fake: FakeUpstream,
    scratch: Scratch,
}

impl Passed {
    fn start() -> Self {
        let scratch = Scratch::new();
        let primary = Postgres::primary("primary").start(&scratch);
        let fake = FakeUpstream::start(Conduct::PassedOn(primary.endpoint()));
        let hub = Hub::named("hub").upstream(fake.conninfo("hub")).start(&scratch);
        primary.wait_streaming("hub");
        hub.wait_received(&primary.flush_lsn());
        Self { hub, primary, fake, scratch }
    }

    /// Connections that come from now on are served in that way, and the one that is there ends. Returns
    /// how many there were.
    fn now(&self, conduct: Conduct) -> usize {
        let before = self.fake.connections();
        self.fake.set(conduct);
        self.primary.psql(
            "select pg_terminate_backend(pid) from pg_stat_replication where application_name = 'hub'",
        );
        before
    }

    fn right_again(&self) {
        self.fake.set(Conduct::PassedOn(self.primary.endpoint()));
        self.primary.wait_streaming("hub");
        self.primary.switch_wal(1);
        self.hub.wait_received(&self.primary.flush_lsn());
    }
}

#[test]
fn receiving_goes_on_by_itself_after_bad_wal_from_a_wrong_server() {
    let at = Passed::start();
    at.primary.psql("create table t (i int)");
    at.primary.configure("synchronous_standby_names = 'hub'");
    at.primary.psql("select pg_reload_conf()");
    at.primary.wait_sql(
        "select sync_state from pg_stat_replication where application_name = 'hub'",
        "sync",
    );
    let mark = at.hub.log().mark();
    let before = at.now(Conduct::BadWal(at.primary.endpoint()));
    let commit = Statement::begin(&at.primary, "insert into t values (1)");
    at.fake.wait_connections(before + ATTEMPTS);
    assert!(!commit.is_finished());
    at.fake.set(Conduct::PassedOn(at.primary.endpoint()));
    assert!(commit.finish().status.success());

    // Few lines, however many attempts.
    let log = at.hub.log();
    assert_eq!(log.count(mark, "received invalid WAL: "), 1);
    assert_eq!(log.count(mark, "no valid WAL is received after "), 1);
    assert!(log.count(mark, "started streaming WAL") <= 3, "{}", log.text(mark));
}

#[test]
fn a_server_of_another_cluster_is_left_for_the_right_one_once_that_is_back() {
    let at = Passed::start();
    let other = Postgres::primary("other").start(&at.scratch);
    let mark = at.hub.log().mark();
    let before = at.now(Conduct::PassedOn(other.endpoint()));
    at.fake.wait_connections(before + ATTEMPTS);
    at.right_again();
    let differs = "database system identifier differs between the primary and standby";
    assert_eq!(at.hub.log().count(mark, differs), 1, "{}", at.hub.log().text(mark));
}

#[test]
fn an_endless_result_is_left_and_written_about_once() {
    let at = Passed::start();
    let mark = at.hub.log().mark();
    let before = at.now(Conduct::EndlessRows);
    at.fake.wait_connections(before + ATTEMPTS);
    at.right_again();
    let log = at.hub.log();
    let flood = "could not receive database system identifier and timeline ID from the primary server: \
                 too much data from server";
    assert_eq!(log.count(mark, flood), 1, "{}", log.text(mark));
}

#[test]
fn a_flood_of_notices_before_authentication_is_not_written_to_the_log() {
    let at = Passed::start();
    let mark = at.hub.log().mark();
    let before = at.now(Conduct::Notices);
    at.fake.wait_connections(before + ATTEMPTS);
    at.right_again();
    let log = at.hub.log();
    assert_eq!(log.count(mark, "too much data from server"), 1, "{}", log.text(mark));
    let text = log.text(mark);
    assert!(text.len() < 64 << 10, "{} bytes", text.len());
    let notices = text.lines().filter(|line| line.contains("NOTICE:  ")).count();
    assert!(notices <= 16, "{notices} notices of {ATTEMPTS} attempts");
}

#[test]
fn a_silent_upstream_is_left_after_wal_receiver_timeout_and_after_connect_timeout() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").start(&scratch);
    for (conninfo, timeout) in [("connect_timeout=0", "1s"), ("connect_timeout=2", "0")] {
        let fake = FakeUpstream::start(Conduct::Silent);
        let upstream = format!("{} {conninfo}", fake.conninfo("hub"));
        let name = format!("hub_{timeout}");
        let hub = Hub::named(&name).upstream(upstream).set("wal_receiver_timeout", timeout);
        let mut hub = hub.build(&scratch);
        hub.spawn();
        fake.wait_connections(3);
        fake.set(Conduct::PassedOn(primary.endpoint()));
        primary.wait_streaming("hub");
        let log = hub.log();
        assert_eq!(log.count(log.beginning(), "failed: timeout expired"), 1);
    }
}

#[test]
fn a_silent_upstream_is_replaced_by_a_reload() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").start(&scratch);
    let fake = FakeUpstream::start(Conduct::Silent);
    let settings = |conninfo: &str| format!("primary_conninfo = \"{conninfo}\"\n");
    let file =
        scratch.file("hub.toml", &settings(&format!("{} connect_timeout=0", fake.conninfo("hub"))));
    // Nothing but the reload ends the attempt: neither these nor the environment's timeout.
    let hub = Hub::named("hub").config_file(file.clone()).set("wal_receiver_timeout", "0");
    let mut hub = hub.build(&scratch);
    hub.spawn();
    fake.wait_connections(1);
    // A reload that changes nothing says: try again.
    send_signal(hub.pid(), Signal::HUP);
    fake.wait_connections(2);
    fs::write(&file, settings(&primary.endpoint().conninfo("hub"))).expect("hub.toml");
    send_signal(hub.pid(), Signal::HUP);
    primary.wait_streaming("hub");
    hub.wait_received(&primary.flush_lsn());
}

#[test]
fn a_silent_upstream_does_not_hold_up_a_promotion() {
    let mut at = Passed::start();
    at.primary.psql("checkpoint");
    at.hub.wait_received(&at.primary.flush_lsn());
    let before = at.now(Conduct::Silent);
    at.fake.wait_connections(before + 1);
    at.primary.kill9();
    assert_eq!(at.hub.psql("select pg_promote()"), "t");
    at.hub.wait_sql("select pg_is_in_recovery()", "f");
}
