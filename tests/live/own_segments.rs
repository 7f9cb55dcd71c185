//! Segments of a hub's own WAL: when they are ended early, and whose page header they carry.

use std::fs;
use std::path::Path;

use walhub_tests::client::SqlServer;
use walhub_tests::hub::{Hub, walhub};
use walhub_tests::postgres::{Postgres, StopMode};
use walhub_tests::process::said;
use walhub_tests::scratch::Scratch;

const EMIT: &str = "select pg_logical_emit_message(true, 'p', 'c')";
/// The segment that the next byte goes to.
const SEGMENT: &str = "select pg_walfile_name(pg_current_wal_insert_lsn())";
/// PostgreSQL: `XLOG_BLCKSZ`.
const PAGE_LEN: usize = 8192;

/// Waits until the segment that `server` writes is another one than `before`.
#[track_caller]
fn wait_switched(server: &impl SqlServer, before: &str) {
    server.wait_sql(&format!("{SEGMENT} > '{before}'"), "t");
}

#[test]
fn archive_timeout_ends_a_segment_that_has_something_and_no_other() {
    let scratch = Scratch::new();
    let idle = Hub::named("idle").set("archive_timeout", "1s").start(&scratch);
    let busy = Hub::named("busy").set("archive_timeout", "1s").start(&scratch);
    idle.psql("checkpoint");
    let untouched = idle.psql(SEGMENT);
    // Each time a second has passed for the idle one as well.
    let one_more = || {
        let before = busy.psql(SEGMENT);
        busy.psql(EMIT);
        wait_switched(&busy, &before);
    };
    one_more();
    one_more();
    assert_eq!(idle.psql(SEGMENT), untouched);
    // What a checkpoint follows is still to be archived.
    idle.psql(EMIT);
    idle.psql("checkpoint");
    wait_switched(&idle, &untouched);
    let next = idle.psql(SEGMENT);
    one_more();
    one_more();
    assert_eq!(idle.psql(SEGMENT), next, "a segment with nothing in it was ended");
    assert_eq!(idle.segments().expect("pg_wal")[0], untouched);
    assert_eq!(busy.psql("select count(*) from walhub.messages"), "4");

    let never = Hub::named("never").set("archive_timeout", "0").start(&scratch);
    let before = never.psql(SEGMENT);
    never.psql(EMIT);
    one_more();
    assert_eq!(never.psql(SEGMENT), before);
}

#[test]
fn archive_timeout_ends_a_segment_with_a_checkpoint_after_the_last_message_as_in_postgresql() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").config("archive_timeout = 1").start(&scratch);
    let before = primary.psql(SEGMENT);
    primary.psql(EMIT);
    primary.psql("checkpoint");
    wait_switched(&primary, &before);
    let hub = Hub::named("own").set("archive_timeout", "1").start(&scratch);
    let before = hub.psql(SEGMENT);
    hub.psql(EMIT);
    hub.psql("checkpoint");
    wait_switched(&hub, &before);
}

/// The magic number of each page that is written in `dir`.
#[track_caller]
fn page_magics(dir: &Path) -> Vec<u16> {
    let mut magics = Vec::new();
    for name in walhub_tests::compare::segment_names(dir).expect("a directory of segments") {
        let bytes = fs::read(dir.join(name)).expect("a segment");
        let first_bytes = bytes.chunks(PAGE_LEN).map(|page| u16::from_le_bytes([page[0], page[1]]));
        magics.extend(first_bytes.take_while(|magic| *magic != 0));
    }
    magics
}

#[test]
fn every_page_has_the_magic_number_that_was_chosen_at_the_first_start() {
    // PostgreSQL 13 to 18: XLOG_PAGE_MAGIC of src/include/access/xlog_internal.h.
    let magics = [0xD106, 0xD10D, 0xD110, 0xD113, 0xD116, 0xD118];
    for magic in magics {
        let scratch = Scratch::new();
        let setting = format!("{magic:04X}");
        let mut hub = Hub::named("own").set("wal_page_magic", &setting).build(&scratch);
        hub.init_with(1, &format!("0x{setting}"));
        hub.start();
        assert_eq!(hub.psql("show wal_page_magic"), setting);
        hub.psql(
            "select count(pg_logical_emit_message(false, 'p', repeat('0123456789abcdef', 10000))) \
             from generate_series(1, 10)",
        );
        hub.psql("checkpoint");
        let found = page_magics(&hub.pg_wal());
        assert!(found.len() > 1_600_000 / PAGE_LEN, "{} pages", found.len());
        assert!(found.iter().all(|found| *found == magic), "{setting}: {found:04X?}");
        assert!(hub.stop(StopMode::Fast).success());

        // WAL that is there goes on as it is.
        hub.set("wal_page_magic", if magic == 0xD110 { "D113" } else { "D110" });
        hub.start();
        hub.psql(&format!("{EMIT}; checkpoint"));
        assert_eq!(hub.psql("select count(*) from walhub.messages"), "11", "{setting}");
        hub.psql("select pg_switch_wal()");
        // The next segment may have its first page already.
        hub.psql(
            "select pg_logical_emit_message(false, 'p', repeat('0123456789abcdef', 10000)); checkpoint",
        );
        let pages = page_magics(&hub.pg_wal());
        assert!(pages.len() > found.len());
        assert!(pages.iter().all(|found| *found == magic), "{setting}: {pages:04X?}");
    }
}

#[test]
fn an_unknown_page_magic_is_refused_before_anything_is_made() {
    let scratch = Scratch::new();
    let data = scratch.path("own").display().to_string();
    for value in ["D1FF", "D10F", "15", "magic", "", "-1", "D110D110"] {
        let setting = format!("wal_page_magic={value}");
        for command in ["init", "serve"] {
            let output = walhub([command, "-D", &data, "-c", &setting]);
            let text = said(&output);
            assert!(!output.status.success(), "{command} {setting}: {text}");
            let error = format!("invalid value for parameter \"wal_page_magic\": \"{value}\"");
            assert!(text.contains(&error), "{command} {setting}: {text}");
            assert!(text.contains("D110 (15)") && text.contains("D118 (18)"), "{text}");
            assert!(!Path::new(&data).exists(), "{command} {setting}");
        }
    }
}
