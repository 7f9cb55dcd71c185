//! How a hub stops: smart, fast, immediate, as the postmaster.

use rustix::process::Signal;
use walhub_tests::client::{Psql, SqlServer};
use walhub_tests::hub::is_ready;
use walhub_tests::postgres::StopMode;
use walhub_tests::process::send_signal;
use walhub_tests::topology::Relay;
use walhub_tests::wait::wait_until;

#[test]
fn fast_stop_ships_everything_to_the_connected_standby() {
    let mut relay = Relay::start();
    let standby = relay.streaming_standby("standby");
    let receiver = standby.backend("walreceiver");
    send_signal(receiver, Signal::STOP);
    relay.primary.write_wal(8);
    let lsn = relay.primary.flush_lsn();
    relay.primary.wait_acknowledged("hub", &lsn);

    relay.hub.signal_stop(StopMode::Fast);
    // It takes no new connection, and it waits.
    let endpoint = relay.hub.endpoint();
    wait_until("the hub refuses new connections", || !is_ready(endpoint).success());
    assert!(relay.hub.is_running(), "the hub did not wait for its standby");
    send_signal(receiver, Signal::CONT);
    assert!(relay.hub.wait_exit().success());
    let received = "select pg_last_wal_receive_lsn() >= ";
    assert_eq!(standby.psql(&format!("{received} '{lsn}'")), "t");
    standby.wait_replay(&lsn);
}

#[test]
fn fast_stop_ends_sql_sessions() {
    let mut relay = Relay::start();
    let session = Psql::open(&relay.hub);
    assert!(relay.hub.stop(StopMode::Fast).success());
    session.close();
}

#[test]
fn smart_stop_waits_for_sql_sessions() {
    let mut relay = Relay::start();
    let standby = relay.streaming_standby("standby");
    let mut session = Psql::open(&relay.hub);
    relay.hub.signal_stop(StopMode::Smart);
    let endpoint = relay.hub.endpoint();
    wait_until("the hub refuses new connections", || !is_ready(endpoint).success());
    assert_eq!(session.psql("select pg_is_in_recovery()"), "t");
    assert!(relay.hub.is_running());
    session.close();
    assert!(relay.hub.wait_exit().success());
    assert_eq!(standby.psql("select pg_is_in_recovery()"), "t");
}

#[test]
fn immediate_stop_waits_for_nobody() {
    let mut relay = Relay::start();
    let standby = relay.streaming_standby("standby");
    let session = Psql::open(&relay.hub);
    let receiver = standby.backend("walreceiver");
    send_signal(receiver, Signal::STOP);
    relay.primary.write_wal(8);
    let lsn = relay.primary.flush_lsn();
    relay.primary.wait_acknowledged("hub", &lsn);
    relay.hub.stop(StopMode::Immediate);
    session.close();

    // What it had acknowledged is still there for the standby.
    relay.hub.start();
    send_signal(receiver, Signal::CONT);
    standby.wait_replay(&lsn);
}

#[test]
fn hub_that_stops_while_its_primary_is_down_ends_and_starts_again() {
    let mut relay = Relay::start();
    relay.primary.switch_wal(2);
    let lsn = relay.primary.flush_lsn();
    relay.primary.wait_acknowledged("hub", &lsn);
    relay.primary.kill9();
    assert!(relay.hub.stop(StopMode::Fast).success());
    relay.hub.start();
    relay.hub.wait_received(&lsn);
    relay.primary.start();
    relay.primary.wait_streaming("hub");
}
