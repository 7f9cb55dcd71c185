//! New WAL that is sent without a copy: what the kernel says of it, and what the views then show.

use walhub_tests::client::SqlServer;
use walhub_tests::compare::assert_equal_segments;
use walhub_tests::hub::{Hub, walhub};
use walhub_tests::process::said;
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::scratch::Scratch;
use walhub_tests::veth::Veth;

/// WAL in messages that are worth it.
const EMIT: &str = "select count(pg_logical_emit_message(false, 'p', repeat('0123456789abcdef', 4096))) \
     from generate_series(1, 256)";
/// How much that is, at least.
const EMITTED: u64 = 256 << 16;

/// Bytes to standbys that were copied from memory, and those that were not.
fn bytes(hub: &Hub) -> (u64, u64) {
    let row = hub.psql("select sum(tail_bytes), sum(zerocopy_bytes) from walhub.core_stats");
    let numbers = row.split_once('|').map(|(tail, zerocopy)| (tail.parse(), zerocopy.parse()));
    let Some((Ok(tail), Ok(zerocopy))) = numbers else { panic!("{row}") };
    (tail, zerocopy)
}

/// Has a pg_receivewal on the other side of `veth` receive WAL, and gives [`bytes`] for it.
fn shipped(setting: &str, veth: &Veth, scratch: &Scratch) -> (u64, u64) {
    let rules = "host all all all trust\nhost replication all all trust\n";
    let rules = scratch.file(&format!("hba_{setting}"), rules).display().to_string();
    let hub = Hub::named(&format!("own_{setting}"));
    let hub = hub.set("zerocopy_send", setting).set("hba_file", rules).start(scratch);
    assert_eq!(hub.psql("show zerocopy_send"), setting);
    let name = format!("far_{setting}");
    veth.enter_far();
    let mut receive = ReceiveWal::start(&hub, &name, &[], scratch);
    veth.enter_near();
    hub.wait_streaming(&name);
    let segment = hub.psql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    hub.psql(EMIT);
    hub.psql("select pg_switch_wal()");
    receive.finish_at(&segment);
    let end = hub.psql("select pg_walfile_name(pg_current_wal_insert_lsn() + 1)");
    assert_equal_segments(&hub.pg_wal(), receive.dir(), &end, 1);
    hub.wait_sql("select count(*) from pg_stat_replication", "0");
    bytes(&hub)
}

#[test]
fn what_goes_to_another_machine_is_not_copied_and_counted_so() {
    let scratch = Scratch::new();
    let veth = Veth::new();
    veth.receive_as_a_card_does(&scratch);
    let (tail, zerocopy) = shipped("on", &veth, &scratch);
    // Small messages are copied, and what is far ahead of the oldest that is not acknowledged.
    assert!(zerocopy > EMITTED / 16, "{zerocopy} bytes of {EMITTED}, {tail} copied");
    let (tail, zerocopy) = shipped("off", &veth, &scratch);
    assert!(zerocopy == 0 && tail > EMITTED, "{zerocopy} bytes, {tail} copied");
}

#[test]
fn what_the_kernel_copies_on_its_way_is_counted_as_copied() {
    let scratch = Scratch::new();
    let veth = Veth::new();
    // Between namespaces of one kernel each packet is copied where it is received.
    let (tail, zerocopy) = shipped("on", &veth, &scratch);
    assert!(zerocopy == 0 && tail > EMITTED, "{zerocopy} bytes, {tail} copied");
    // A loopback address is one of this machine.
    let (tail, zerocopy) = shipped("auto", &veth, &scratch);
    assert!(zerocopy == 0 && tail > EMITTED, "{zerocopy} bytes, {tail} copied");
}

#[test]
fn values_that_zerocopy_send_cannot_have_are_refused() {
    let scratch = Scratch::new();
    let data = scratch.path("own").display().to_string();
    let output = walhub(["serve", "-D", &data, "-c", "zerocopy_send=always"]);
    let text = said(&output);
    assert!(
        !output.status.success() && text.contains("Available values: auto, on, off."),
        "{text}"
    );
}
