//! How the hub reaches its upstream: authentication, TLS, segment sizes, reconnecting.

use walhub_tests::client::SqlServer;
use walhub_tests::compare::{assert_equal_segments, assert_equal_tables};
use walhub_tests::hub::Hub;
use walhub_tests::postgres::{Postgres, PrimaryBuilder};
use walhub_tests::scratch::{Scratch, host};
use walhub_tests::tls::Certificates;
use walhub_tests::topology::Relay;
use walhub_tests::workload::{Pgbench, pgbench_initialize};

fn primary_with_password(method: &str) -> PrimaryBuilder {
    let encryption = if method == "md5" { "md5" } else { "scram-sha-256" };
    Postgres::primary("primary")
        .config(format!("password_encryption = '{encryption}'"))
        .hba(format!("host replication walker 127.0.0.0/8 {method}"))
        .sql("create role walker replication login password 'Crypt1c, \"quoted\"'")
}

/// The password above, in a connection string.
const PASSWORD: &str = "password='Crypt1c, \"quoted\"'";

fn conninfo(primary: &Postgres, more: &str) -> String {
    let endpoint = primary.endpoint();
    let (host, port) = (endpoint.host, endpoint.port);
    format!("host={host} port={port} user=walker application_name=hub {more}")
}

fn streams(primary: &Postgres, scratch: &Scratch, more: &str) {
    let mut hub = Hub::named("hub").upstream(conninfo(primary, more)).start(scratch);
    primary.wait_streaming("hub");
    primary.switch_wal(1);
    hub.wait_received(&primary.flush_lsn());
    let shown = hub.psql("select conninfo from pg_stat_wal_receiver");
    assert!(!shown.contains("Crypt1c"), "{shown}");
    hub.kill9();
}

#[test]
fn upstream_asks_for_scram() {
    let scratch = Scratch::new();
    let primary = primary_with_password("scram-sha-256").start(&scratch);
    streams(&primary, &scratch, PASSWORD);
}

#[test]
fn upstream_asks_for_md5() {
    let scratch = Scratch::new();
    let primary = primary_with_password("md5").start(&scratch);
    streams(&primary, &scratch, PASSWORD);
}

#[test]
fn upstream_asks_for_a_plain_password() {
    let scratch = Scratch::new();
    let primary = primary_with_password("password").start(&scratch);
    streams(&primary, &scratch, PASSWORD);
}

#[test]
fn password_comes_from_the_passfile() {
    let scratch = Scratch::new();
    let primary = primary_with_password("scram-sha-256").start(&scratch);
    let port = primary.endpoint().port;
    let line = format!("{}:{port}:replication:walker:Crypt1c, \"quoted\"\n", host());
    let passfile = scratch.file("passfile", &line);
    streams(&primary, &scratch, &format!("passfile={}", passfile.display()));
}

#[test]
fn wrong_password_is_logged_and_tried_again() {
    let scratch = Scratch::new();
    let primary = primary_with_password("scram-sha-256").start(&scratch);
    let mut hub = Hub::named("hub").upstream(conninfo(&primary, "password=wrong")).build(&scratch);
    hub.spawn();
    let failed = "password authentication failed for user \"walker\"";
    hub.log().wait_for(hub.log().beginning(), failed);
    primary.psql("alter role walker password 'wrong'");
    primary.wait_streaming("hub");
    hub.wait_received(&primary.flush_lsn());
    // Once, not once a try.
    let text = hub.log().text(hub.log().beginning());
    assert_eq!(text.matches(failed).count(), 1, "{text}");
}

fn tls_primary(scratch: &Scratch) -> (Postgres, Certificates) {
    let certificates = Certificates::new(scratch, "primary", host());
    let primary = Postgres::primary("primary")
        .config(certificates.config())
        .hba("hostnossl replication walker 127.0.0.0/8 reject")
        .hba("hostssl replication walker 127.0.0.0/8 scram-sha-256")
        .config("password_encryption = 'scram-sha-256'")
        .sql("create role walker replication login password 'Crypt1c, \"quoted\"'")
        .start(scratch);
    (primary, certificates)
}

#[test]
fn upstream_speaks_tls() {
    let scratch = Scratch::new();
    let (primary, certificates) = tls_primary(&scratch);
    let root = certificates.root.display();
    for mode in [
        "sslmode=prefer".to_owned(),
        "sslmode=require".to_owned(),
        format!("sslmode=verify-ca sslrootcert={root}"),
        format!("sslmode=verify-full sslrootcert={root}"),
    ] {
        let more = format!("{PASSWORD} {mode}");
        let hub = Hub::named("hub").upstream(conninfo(&primary, &more)).start(&scratch);
        primary.wait_streaming("hub");
        let ssl = "select ssl from pg_stat_ssl join pg_stat_replication using (pid) \
                   where application_name = 'hub'";
        assert_eq!(primary.psql(ssl), "t", "{mode}");
        primary.write_wal(4);
        primary.wait_acknowledged("hub", &primary.flush_lsn());
        drop(hub);
        primary.wait_sql("select count(*) from pg_stat_replication", "0");
    }
}

#[test]
fn certificate_of_another_authority_is_refused() {
    let scratch = Scratch::new();
    let (primary, _certificates) = tls_primary(&scratch);
    let other = Certificates::new(&scratch, "other", host());
    let more = format!("{PASSWORD} sslmode=verify-full sslrootcert={}", other.root.display());
    let mut hub = Hub::named("hub").upstream(conninfo(&primary, &more)).build(&scratch);
    hub.spawn();
    hub.log().wait_for(hub.log().beginning(), "ertificate");
    assert_eq!(primary.psql("select count(*) from pg_stat_replication"), "0");
}

fn segment_size_works(segment_size_mb: u32) {
    let mut relay = Relay::with(|primary| primary.segment_size_mb(segment_size_mb), |hub| hub);
    let size = format!("{segment_size_mb}MB");
    assert_eq!(relay.hub.replication("SHOW wal_segment_size"), size);
    let standby = relay.streaming_standby("standby");
    pgbench_initialize(&relay.primary, 1);
    Pgbench::start(&relay.primary, 2, 200).wait();
    relay.primary.switch_wal(1);
    relay.hub.kill9();
    relay.hub.start();
    relay.primary.switch_wal(1);
    standby.wait_replay(&relay.primary.flush_lsn());
    assert_equal_tables(&relay.primary, &standby);
    relay.primary.wait_acknowledged("hub", &relay.primary.flush_lsn());
    let end = relay.primary.current_segment();
    assert_equal_segments(&relay.primary.pg_wal(), &relay.hub.pg_wal(), &end, 2);
}

#[test]
fn primary_with_segments_of_1_mb() {
    segment_size_works(1);
}

#[test]
fn primary_with_segments_of_64_mb() {
    segment_size_works(64);
}

#[test]
fn hub_starts_before_its_primary_and_says_why_it_waits_once() {
    let scratch = Scratch::new();
    let mut primary = Postgres::primary("primary").start(&scratch);
    primary.kill9();
    let upstream = primary.endpoint().conninfo("hub");
    let mut hub = Hub::named("hub").upstream(upstream).build(&scratch);
    hub.spawn();
    hub.log().wait_for(hub.log().beginning(), "Connection refused");
    primary.start();
    primary.wait_streaming("hub");
    let line = hub.log().wait_for(hub.log().beginning(), "started streaming WAL from primary at ");
    assert!(line.contains("LOG:") && line.ends_with(" on timeline 1"), "{line}");
    let text = hub.log().text(hub.log().beginning());
    assert_eq!(text.matches("Connection refused").count(), 1, "{text}");
}

#[test]
fn hub_uses_a_slot_of_its_upstream_and_creates_it() {
    let relay = Relay::with(
        |primary| primary,
        |hub| hub.set("primary_slot_name", "hub_slot").set("primary_slot_create", "true"),
    );
    relay.primary.wait_sql(
        "select slot_name, slot_type, temporary, active from pg_replication_slots",
        "hub_slot|physical|f|t",
    );
    relay.primary.switch_wal(2);
    let lsn = relay.primary.flush_lsn();
    relay
        .primary
        .wait_sql(&format!("select restart_lsn >= '{lsn}' from pg_replication_slots"), "t");
}

#[test]
fn hub_catches_up_from_its_slot_after_a_long_absence() {
    let mut relay = Relay::with(
        |primary| primary.segment_size_mb(1).config("wal_keep_size = 0\nmax_wal_size = 2MB"),
        |hub| hub.set("primary_slot_name", "hub_slot").set("primary_slot_create", "true"),
    );
    let first = relay.primary.current_segment();
    relay.hub.kill9();
    for _ in 0..3 {
        relay.primary.switch_wal(10);
        relay.primary.psql("checkpoint");
    }
    relay.hub.start();
    let lsn = relay.primary.flush_lsn();
    relay.primary.wait_acknowledged("hub", &lsn);
    let segments = relay.hub.segments().expect("pg_wal");
    assert!(segments.contains(&first), "{segments:?}");
    let end = relay.primary.current_segment();
    let kept = segments.iter().filter(|name| **name < end).count();
    assert!(kept >= 30, "{segments:?}");
}

#[test]
fn upstream_that_has_removed_the_wal_is_reported_with_what_to_do() {
    let mut relay = Relay::with(
        |primary| primary.segment_size_mb(1).config("wal_keep_size = 0\nmax_wal_size = 2MB"),
        |hub| hub,
    );
    relay.primary.wait_acknowledged("hub", &relay.primary.flush_lsn());
    let needed = relay.primary.current_segment();
    relay.hub.kill9();
    walhub_tests::wait::wait_until("the primary has removed the WAL", || {
        relay.primary.switch_wal(4);
        relay.primary.psql("checkpoint");
        !relay.primary.pg_wal().join(&needed).exists()
    });
    let mark = relay.hub.log().mark();
    relay.hub.start();
    let removed = format!("requested WAL segment {needed} has already been removed");
    relay.hub.log().wait_for(mark, &removed);
    relay.hub.log().wait_for(mark, "HINT:");
    let primary = relay.primary.log();
    walhub_tests::wait::wait_until("the hub has tried again", || {
        primary.text(primary.beginning()).matches(&removed).count() >= 3
    });
    // Once, not once a try.
    let text = relay.hub.log().text(mark);
    assert_eq!(text.matches(&removed).count(), 1, "{text}");
    assert_eq!(text.matches("started streaming WAL").count(), 1, "{text}");
    // What it has is still served.
    let identity = relay.hub.replication("IDENTIFY_SYSTEM");
    assert_eq!(identity.split('|').nth(1), Some("1"), "{identity}");
}
