//! Many standbys at once.

use std::fs;

use walhub_tests::client::SqlServer;
use walhub_tests::compare::assert_equal_segments;
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::topology::Relay;

/// Standbys at once.
const STANDBYS: usize = 64;

#[test]
fn sixty_four_standbys_all_reach_the_end() {
    let relay = Relay::with(
        |primary| primary.segment_size_mb(1).config("max_wal_senders = 70"),
        |hub| hub.set("max_wal_senders", "70"),
    );
    let start = |i| {
        let name = format!("receiver{i}");
        ReceiveWal::start(&relay.hub, &name, &["--no-sync"], &relay.scratch)
    };
    let mut receivers: Vec<_> = (0..STANDBYS).map(start).collect();
    for receiver in &mut receivers {
        receiver.wait_receiving(&relay.primary);
    }
    relay.hub.wait_sql("select count(*) from pg_stat_replication", &STANDBYS.to_string());
    relay.primary.write_wal(4);
    let last = relay.primary.finish_segment();
    let end = relay.primary.current_segment();
    for receiver in &mut receivers {
        receiver.finish_at(&last);
        assert_equal_segments(&relay.primary.pg_wal(), receiver.dir(), &end, 4);
        fs::remove_dir_all(receiver.dir()).expect("the segments");
    }
    relay.hub.wait_sql("select count(*) from pg_stat_replication", "0");
}

#[test]
fn one_standby_too_many_is_refused() {
    let relay = Relay::with(
        |primary| primary.config("max_wal_senders = 2"),
        |hub| hub.set("max_wal_senders", "2"),
    );
    let start = |name| ReceiveWal::start(&relay.hub, name, &["--no-sync"], &relay.scratch);
    let mut receivers = [start("one"), start("two")];
    for receiver in &mut receivers {
        receiver.wait_receiving(&relay.primary);
    }
    let error = relay.hub.replication_error("IDENTIFY_SYSTEM");
    assert!(error.contains("number of requested standby connections exceeds"), "{error}");
    assert!(error.contains("max_wal_senders"), "{error}");
    // SQL is not replication.
    assert_eq!(relay.hub.psql("select count(*) from pg_stat_replication"), "2");
}
