//! The hub as the only synchronous standby: what a client was told is committed is on its disk.

use std::collections::BTreeMap;

use walhub_tests::client::SqlServer;
use walhub_tests::topology::Relay;
use walhub_tests::waldump::waldump;
use walhub_tests::workload::Inserters;

/// Clients that commit at the same time.
const CLIENTS: u64 = 4;

fn synchronous_relay() -> Relay {
    let relay = Relay::start();
    Inserters::initialize(&relay.primary);
    relay.primary.configure("synchronous_standby_names = 'hub'\nsynchronous_commit = on");
    relay.primary.psql("select pg_reload_conf()");
    relay.primary.wait_sql(
        "select sync_state from pg_stat_replication where application_name = 'hub'",
        "sync",
    );
    relay
}

#[track_caller]
fn assert_none_lost(relay: &Relay, acknowledged: &BTreeMap<u64, u64>) {
    let dump = waldump(&relay.hub.pg_wal(), &["--rmgr=Transaction"]);
    let committed = dump.committed();
    let lost: Vec<_> =
        acknowledged.iter().filter(|(_, xid)| !committed.contains(xid)).take(10).collect();
    assert!(lost.is_empty(), "not in the hub's pg_wal (row, transaction): {lost:?}; {}", dump.end);
}

#[test]
fn no_acknowledged_commit_is_lost_when_the_hub_is_killed_again_and_again() {
    let mut relay = synchronous_relay();
    // A base backup from before: later it has only the hub to learn from.
    let mut standby = relay.standby("standby");
    let inserters = Inserters::start(&relay.primary, CLIENTS, 0, &relay.scratch);
    for _ in 0..8 {
        inserters.wait_more(150);
        relay.hub.kill9();
        relay.hub.start();
    }
    inserters.wait_more(150);
    relay.hub.kill9();
    relay.primary.kill9();
    let acknowledged = inserters.finish();
    assert!(acknowledged.len() >= 9 * 150);
    assert_none_lost(&relay, &acknowledged);

    relay.hub.start();
    standby.start();
    relay.hub.wait_streaming("standby");
    let list = "select count(*) from acknowledged";
    let found = |standby: &walhub_tests::postgres::Postgres| -> usize {
        standby.psql(list).parse().expect("a count")
    };
    walhub_tests::wait::wait_until("the standby has every acknowledged row", || {
        found(&standby) >= acknowledged.len()
    });
    let rows = standby.psql("select id from acknowledged");
    let rows: std::collections::BTreeSet<u64> =
        rows.lines().filter_map(|id| id.parse().ok()).collect();
    let lost: Vec<_> = acknowledged.keys().filter(|id| !rows.contains(id)).collect();
    assert!(lost.is_empty(), "lost rows: {lost:?}");
}

#[test]
fn no_acknowledged_commit_is_lost_when_primary_and_hub_are_killed_together() {
    let mut relay = synchronous_relay();
    let mut acknowledged = BTreeMap::new();
    for round in 0..3 {
        let inserters = Inserters::start(&relay.primary, CLIENTS, round, &relay.scratch);
        inserters.wait_more(300);
        relay.primary.kill9();
        relay.hub.kill9();
        acknowledged.extend(inserters.finish());
        assert_none_lost(&relay, &acknowledged);
        relay.primary.start();
        relay.hub.start();
        relay.primary.wait_streaming("hub");
    }
    assert!(acknowledged.len() >= 900);
}

#[test]
fn commits_wait_while_the_hub_is_away() {
    let mut relay = synchronous_relay();
    let inserters = Inserters::start(&relay.primary, CLIENTS, 0, &relay.scratch);
    inserters.wait_more(50);
    relay.hub.kill9();
    let waiting = format!(
        "select count(*) from pg_stat_activity where wait_event = 'SyncRep' \
         and application_name = 'psql' and pid <> pg_backend_pid() having count(*) = {CLIENTS}"
    );
    relay.primary.wait_sql(&waiting, &CLIENTS.to_string());
    let before = inserters.acknowledged_count();
    relay.hub.start();
    inserters.wait_more(50);
    assert!(inserters.acknowledged_count() >= before + 50);
}
