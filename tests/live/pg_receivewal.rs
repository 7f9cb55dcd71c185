//! pg_receivewal from the hub: whole segments, equal to the primary's byte by byte.

use walhub_tests::client::SqlServer;
use walhub_tests::compare::{assert_equal_segments, segment_names};
use walhub_tests::postgres::major;
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::topology::Relay;
use walhub_tests::workload::{Pgbench, pgbench_initialize};

fn receives_equal_segments(options: &[&str]) -> (Relay, ReceiveWal) {
    let relay = Relay::with(|primary| primary.segment_size_mb(1), |hub| hub);
    let mut receive = ReceiveWal::start(&relay.hub, "received", options, &relay.scratch);
    receive.wait_receiving(&relay.primary);
    pgbench_initialize(&relay.primary, 1);
    relay.primary.switch_wal(2);
    Pgbench::start(&relay.primary, 2, 200).wait();
    receive.finish_at(&relay.primary.finish_segment());
    let end = relay.primary.current_segment();
    assert_equal_segments(&relay.primary.pg_wal(), receive.dir(), &end, 10);
    assert_equal_segments(&relay.primary.pg_wal(), &relay.hub.pg_wal(), &end, 10);
    (relay, receive)
}

#[test]
fn pg_receivewal_plain() {
    receives_equal_segments(&[]);
}

#[test]
fn pg_receivewal_synchronous() {
    receives_equal_segments(&["--synchronous"]);
}

#[test]
fn pg_receivewal_compressed() {
    let gzip = if major() >= 15 { "--compress=gzip" } else { "--compress=1" };
    let (_relay, receive) = receives_equal_segments(&[gzip]);
    let names = segment_names(receive.dir()).expect("segments");
    assert!(names.iter().all(|name| name.ends_with(".gz")), "{names:?}");
}

#[test]
fn pg_receivewal_with_a_slot_goes_on_where_it_was() {
    let mut relay = Relay::with(|p| p.segment_size_mb(1), |hub| hub.set("wal_keep_size", "0"));
    ReceiveWal::create_slot(&relay.hub, "archive");
    let slot = ["--slot", "archive"];
    let mut receive = ReceiveWal::start(&relay.hub, "received", &slot, &relay.scratch);
    receive.wait_receiving(&relay.primary);
    relay.primary.switch_wal(3);
    receive.finish_at(&relay.primary.finish_segment());

    // While it is away, across a restart of the hub.
    relay.primary.switch_wal(5);
    relay.hub.kill9();
    relay.hub.start();
    relay.primary.wait_streaming("hub");
    relay.primary.switch_wal(5);
    let mut receive = ReceiveWal::start(&relay.hub, "received", &slot, &relay.scratch);
    receive.finish_at(&relay.primary.finish_segment());
    let end = relay.primary.current_segment();
    assert_equal_segments(&relay.primary.pg_wal(), receive.dir(), &end, 14);
}

#[test]
fn pg_receivewal_creates_and_drops_a_slot() {
    let relay = Relay::start();
    ReceiveWal::create_slot(&relay.hub, "short_lived");
    let slots = "select slot_name, slot_type, temporary, active from pg_replication_slots";
    assert_eq!(relay.hub.psql(slots), "short_lived|physical|f|f");
    let error = relay.hub.replication_error("CREATE_REPLICATION_SLOT short_lived PHYSICAL");
    assert!(error.contains("42710"), "{error}");
    assert!(error.contains("replication slot \"short_lived\" already exists"), "{error}");
    relay.hub.replication("DROP_REPLICATION_SLOT short_lived");
    assert_eq!(relay.hub.psql(slots), "");
    let error = relay.hub.replication_error("DROP_REPLICATION_SLOT short_lived");
    assert!(error.contains("42704"), "{error}");
    assert!(error.contains("replication slot \"short_lived\" does not exist"), "{error}");
}
