//! Hot-standby feedback through the hub.

use walhub_tests::client::{Psql, SqlServer};
use walhub_tests::topology::Relay;

#[test]
fn xmin_of_a_standby_reaches_the_primary_through_the_hub() {
    let relay = Relay::with(|primary| primary, |hub| hub.set("hot_standby_feedback", "on"));
    let mut standby = relay.standby("standby");
    standby.configure("hot_standby_feedback = on");
    standby.start();
    relay.hub.wait_streaming("standby");

    let mut session = Psql::open(&standby);
    session.psql("begin isolation level repeatable read");
    let held = session.psql("select pg_snapshot_xmin(pg_current_snapshot())");
    assert!(held.parse::<u64>().is_ok_and(|xid| xid > 3), "{held}");
    // The primary goes on; the standby's snapshot does not.
    for _ in 0..3 {
        relay.primary.psql("select pg_current_xact_id()");
    }
    let xmin = "select backend_xmin from pg_stat_replication";
    relay.hub.wait_sql(xmin, &held);
    relay.primary.wait_sql(xmin, &held);
    let next = relay.primary.psql("select pg_current_xact_id()");
    session.psql("commit");
    session.close();
    relay.primary.wait_sql(
        &format!("select backend_xmin::text::bigint >= {next} from pg_stat_replication"),
        "t",
    );
}

/// walhub's own case: it has no snapshots, so with no standby there is nothing to hold back.
#[test]
fn feedback_ends_with_the_last_standby() {
    let relay = Relay::with(|primary| primary, |hub| hub.set("hot_standby_feedback", "on"));
    let mut standby = relay.standby("standby");
    standby.configure("hot_standby_feedback = on");
    standby.start();
    let held = "select backend_xmin is not null from pg_stat_replication";
    relay.primary.wait_sql(held, "t");
    drop(standby);
    relay.primary.wait_sql(held, "f");
}

#[test]
fn feedback_is_not_forwarded_when_the_hub_is_told_not_to() {
    let relay = Relay::with(|primary| primary, |hub| hub.set("hot_standby_feedback", "off"));
    let mut standby = relay.standby("standby");
    standby.configure("hot_standby_feedback = on");
    standby.start();
    relay
        .hub
        .wait_sql("select count(*) from pg_stat_replication where backend_xmin is not null", "1");
    relay.primary.wait_acknowledged("hub", &relay.primary.flush_lsn());
    assert_eq!(relay.primary.psql("select backend_xmin from pg_stat_replication"), "");
}
