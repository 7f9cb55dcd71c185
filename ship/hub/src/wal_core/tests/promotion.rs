//! A relay is promoted, at every kind of position and with crashes between the steps.

use std::path::PathBuf;

use walhub_proto::history::{self, TimelineHistory};
use walhub_proto::rmgr::counters::Counters;
use walhub_proto::rmgr::{RM_CLOG, RM_STANDBY, slru};
use walhub_proto::syncrep::{SyncRepConfig, Synced, WaitMode};
use walhub_proto::walsender::WalSenderState;

use super::*;
use crate::api::stream::SlotRequest;
use crate::store::recover::RecoverError;

const TWO: &str = "00000002";

fn tli(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

/// Changes the control file of a hub that does not run.
fn change_control(dir: &TempDir, change: impl FnOnce(&mut ControlFile)) {
    let mut file = control(dir);
    change(&mut file);
    // Both copies: an older one must not come back.
    for _ in 0..2 {
        file.sequence += 1;
        recover::write_control(&OsFs, dir.path(), &file).unwrap();
    }
}

/// All records, of the newest timeline that has a segment.
fn all_records(dir: &TempDir) -> Vec<Found> {
    let mut collect = Collect::default();
    let mut reader = RecordReader::new(START, SIZE, crc32c);
    let mut segno = SegNo(1);
    let read = |segno: SegNo, timeline| {
        std::fs::read(dir.path().join("pg_wal").join(segno.file_name(tli(timeline), SIZE)))
    };
    while let Some(bytes) = (1..=9).rev().find_map(|timeline| read(segno, timeline).ok()) {
        if reader.feed_to(&bytes, &mut collect).is_err() {
            break;
        }
        segno = segno.next();
    }
    collect.found
}

impl Bench {
    /// A relay that has what this primary has written.
    fn into_relay(mut self) -> Self {
        self.settle();
        let settings = (*self.core.config.settings).clone();
        let dir = self.kill();
        change_control(&dir, |control| control.own_wal = false);
        let relay = Self::start(dir, settings);
        assert!(relay.shared.role.load() == Role::Relay);
        relay
    }

    fn begin_promotion(&self) -> oneshot::Receiver<Result<(), Report>> {
        let (reply, answer) = oneshot::channel();
        assert!(self.mail.send(ToWal::Promote(reply)).is_ok());
        answer
    }

    fn promote(&mut self) -> Result<(), Report> {
        let mut answer = self.begin_promotion();
        self.run(|_| answer.try_recv().ok())
    }

    fn timeline(&self) -> u32 {
        self.shared.timeline.load(Ordering::Acquire)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("pg_wal").join(name)
    }

    /// Takes bytes as from an upstream.
    fn receive(&mut self, bytes: &[u8]) {
        let local = &mut self.core.store.as_mut().unwrap().local;
        let start = local.received_lsn();
        local.append(start, bytes, &mut |_| ()).unwrap();
    }

    /// Goes on where the relay's WAL ends.
    fn upstream(&self) -> WalWriter {
        let local = self.core.local().unwrap();
        let shape = WalShape {
            system_identifier: SystemIdentifier(7),
            segment_size: SIZE,
            timeline: TimelineId::FIRST,
            version: WalVersion::PG15,
            crc: crc32c,
        };
        WalWriter::new(shape, local.received_lsn(), local.last_record())
    }
}

impl Bench {
    /// A standby named `a` streams the timeline, was sent everything before `lsn` and says that it has it.
    fn standby_with(&mut self, lsn: Lsn, slot: Option<&str>) -> usize {
        let (standbys, timeline) = (&self.core.config.standbys, tli(self.timeline()));
        let standby = standbys.claim().unwrap();
        let slot = slot.map(str::to_owned);
        self.core.attached.insert(standby, Attached { pid: 1, ship: 0, timeline, slot });
        self.core.sync.connect(standby, "a");
        let entry = standbys.standby(standby);
        entry.sent_lsn.store(lsn.0, Ordering::Relaxed);
        entry.set_state(WalSenderState::Streaming);
        entry.set_mode_lsns(lsn, lsn, lsn);
        standbys.mark(standby);
        standby
    }

    fn slot_restart(&self) -> Option<Lsn> {
        self.core.config.slots.load().first().unwrap().restart_lsn
    }
}

/// The records with which a timeline begins at `switchpoint`, and the messages after.
#[track_caller]
fn assert_begins(found: &[Found], switchpoint: Lsn, parent: u32, timeline: u32) {
    let at = found.iter().position(|found| found.header.start >= switchpoint).unwrap();
    let [end, running, checkpoint, ..] = &found[at..] else { panic!("{} records", found.len()) };
    assert!(end.is(RM_XLOG, XLOG_END_OF_RECOVERY), "{end:?}");
    // Timeline and the one before, after the time.
    let words = [timeline.to_le_bytes(), parent.to_le_bytes()].concat();
    assert_eq!(end.body[10..18], words);
    assert!(running.is(RM_STANDBY, standby::XLOG_RUNNING_XACTS));
    assert!(checkpoint.is(RM_XLOG, XLOG_CHECKPOINT_ONLINE));
    let checkpoint = Checkpoint::decode(&checkpoint.body[2..]).unwrap();
    assert_eq!(checkpoint.timeline, tli(timeline));
    assert_eq!(checkpoint.redo, running.header.start);
}

#[test]
fn a_promoted_relay_goes_on_where_the_wal_ends() {
    let page = 8192;
    let ends = [
        ("inside a page", START + 3 * page + 400),
        ("at a page's end", START + 4 * page),
        ("in the first page", START + 40 + 400),
        ("at a segment's end", START + SIZE.bytes()),
        ("in the next segment", START + SIZE.bytes() + 1000),
    ];
    for (what, end) in ends {
        let mut bench = Bench::new(settings());
        let before = bench.append(&[vec![1]], true, LOCAL);
        if end > before.end {
            bench.fill_to(end);
        }
        let mut bench = bench.into_relay();
        let switchpoint = bench.shared.flush_lsn.load();
        assert_eq!(switchpoint, end.max(before.end), "{what}");
        assert_eq!(bench.promote(), Ok(()), "{what}");
        assert!(bench.shared.role.load() == Role::Primary);
        bench.settle();
        assert_eq!((bench.timeline(), control(&bench.dir).timeline), (2, tli(2)));
        let history = std::fs::read(bench.file("00000002.history")).unwrap();
        let text = format!("1\t{switchpoint}\tno recovery target specified\n");
        assert_eq!(String::from_utf8(history).unwrap(), text, "{what}");
        assert_begins(&all_records(&bench.dir), switchpoint, 1, 2);
        // The old segment is out of the way of a complete one.
        bench.later += Duration::from_secs(1);
        let name = SegNo::of_start(switchpoint, SIZE).file_name(TimelineId::FIRST, SIZE);
        let is_inside = SIZE.offset(switchpoint) != 0;
        bench.turn();
        bench.run(|bench| bench.core.jobs.is_idle().then_some(()));
        assert_eq!(bench.file(&format!("{name}.partial")).exists(), is_inside, "{what}");
        assert!(!is_inside || !bench.file(&name).exists(), "{what}");
        // Nothing is given out twice, and a crash changes nothing.
        let after = bench.append(&[noise(3 << 20, 1)], true, LOCAL);
        assert_eq!(after.xid, before.xid.map(|xid| xid + 1));
        let mut bench = bench.restart();
        assert!(bench.shared.role.load() == Role::Primary);
        let last = bench.append(&[vec![3]], true, LOCAL);
        assert_eq!(last.xid, before.xid.map(|xid| xid + 2));
        let found = all_records(&bench.dir);
        assert_begins(&found, switchpoint, 1, 2);
        let contents = messages(&found);
        assert_eq!((contents.first(), contents.last()), (Some(&vec![1]), Some(&vec![3])));
    }
}

/// The magic numbers of all pages on the newest timeline, from the first segment on.
fn magics(dir: &TempDir, end: Lsn) -> Vec<u16> {
    let magic = |page: u64| {
        let segno = SegNo::of_start(Lsn(page), SIZE);
        let read = |timeline| {
            let name = segno.file_name(tli(timeline), SIZE);
            std::fs::read(dir.path().join("pg_wal").join(name)).ok()
        };
        let segment = (1..=9).rev().find_map(read).unwrap();
        let at = usize::try_from(SIZE.offset(Lsn(page))).unwrap();
        u16::from_le_bytes([segment[at], segment[at + 1]])
    };
    (START.0..end.0).step_by(8192).map(magic).collect()
}

#[test]
fn pages_of_15_do_not_follow_those_of_another_version_after_a_clean_stop_and_a_promotion() {
    for version in [WalVersion::PG13, WalVersion::PG16, WalVersion::PG18] {
        // What stopped the relay, and whether a control file of before says nothing about the version.
        for (is_clean, is_old) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut bench = Bench::of_version(settings(), version);
            bench.append(&[noise(20_000, 1)], true, LOCAL);
            bench.settle();
            let dir = if is_clean { bench.stop() } else { bench.kill() };
            change_control(&dir, |control| {
                control.own_wal = false;
                control.wal_version = control.wal_version.filter(|_| !is_old);
            });
            // A start and a stop in which nothing comes.
            let mut bench = Bench::start(Bench::start(dir, settings()).stop(), settings());
            assert_eq!(control(&bench.dir).wal_version, Some(version));
            assert_eq!(bench.promote(), Ok(()));
            let end = bench.append(&[noise(50_000, 2)], true, LOCAL).end;
            let mut magics = magics(&bench.dir, end);
            magics.dedup();
            assert_eq!(magics, [version.magic()], "clean {is_clean}, old {is_old}");
        }
    }
}

#[test]
fn the_version_is_kept_when_bytes_of_a_record_that_never_ended_are_dropped() {
    let mut bench = Bench::of_version(settings(), WalVersion::PG17);
    bench.append(&[noise(500, 1)], true, LOCAL);
    bench.settle();
    let dir = bench.stop();
    // No page header is read again, here and when the unfinished record goes.
    change_control(&dir, |control| {
        (control.own_wal, control.wal_version) = (false, None);
    });
    let mut bench = Bench::start(dir, settings());
    let local = bench.core.local().unwrap();
    let shape = WalShape { version: WalVersion::PG17, ..*bench.upstream().shape() };
    let mut writer = WalWriter::new(shape, local.received_lsn(), local.last_record());
    let mut bytes = Vec::new();
    let body = walhub_proto::rmgr::message::logical_message(5, false, "", &noise(30_000, 2));
    writer.append_record(RM_LOGICALMSG, 0, 0, &[&body.unwrap()], &mut bytes);
    bench.receive(&bytes[..20_000]);
    assert_eq!(bench.promote(), Ok(()));
    let end = bench.append(&[noise(50_000, 2)], true, LOCAL).end;
    assert!(magics(&bench.dir, end).iter().all(|&magic| magic == WalVersion::PG17.magic()));
}

#[test]
fn wal_of_a_version_that_nobody_knows_is_not_promoted() {
    let unknown = WalVersion::from_magic(0xD1FE).unwrap();
    let mut bench = Bench::new(settings());
    bench.append(&[noise(500, 1)], true, LOCAL);
    bench.settle();
    let dir = bench.stop();
    let name = SegNo(1).file_name(TimelineId::FIRST, SIZE);
    let path = dir.path().join("pg_wal").join(name);
    let mut segment = std::fs::read(&path).unwrap();
    segment[..2].copy_from_slice(&unknown.magic().to_le_bytes());
    std::fs::write(&path, segment).unwrap();
    change_control(&dir, |control| (control.own_wal, control.wal_version) = (false, None));
    let mut bench = Bench::start(dir, settings());
    let refused = bench.promote().unwrap_err();
    assert_eq!(refused.sqlstate, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert_eq!(refused.message, "cannot promote a server whose WAL is of an unknown version");
    assert!(!bench.file("00000002.history").exists());
}

#[test]
fn a_relay_without_a_record_is_not_promoted() {
    let dir = Bench::new(settings()).kill();
    std::fs::remove_dir_all(dir.path().join("pg_wal")).unwrap();
    std::fs::create_dir(dir.path().join("pg_wal")).unwrap();
    change_control(&dir, |control| {
        (control.own_wal, control.wal_version) = (false, None);
        (control.flush_lsn, control.last_record) = (control.start_lsn, None);
    });
    let mut bench = Bench::start(dir, settings());
    let refused = bench.promote().unwrap_err();
    assert_eq!(refused.message, "cannot promote before a whole WAL record was received");
}

#[test]
fn a_primary_whose_version_or_ids_nothing_says_does_not_start() {
    for (is_version, want) in [(true, "which version"), (false, "which transaction ids")] {
        let dir = Bench::new(settings()).kill();
        std::fs::remove_dir_all(dir.path().join("pg_wal")).unwrap();
        std::fs::create_dir(dir.path().join("pg_wal")).unwrap();
        change_control(&dir, |control| {
            (control.flush_lsn, control.last_record) = (control.start_lsn, None);
            if is_version {
                control.wal_version = None;
            } else {
                control.counters = None;
            }
        });
        let error = recover(&OsFs, dir.path()).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    }
}

#[test]
fn what_is_not_whole_is_dropped() {
    for written in [100, 3 << 20] {
        let mut bench = Bench::new(settings());
        bench.append(&[noise(500, 1)], true, LOCAL);
        let mut bench = bench.into_relay();
        let switchpoint = bench.shared.flush_lsn.load();
        let mut bytes = Vec::new();
        let body = walhub_proto::rmgr::message::logical_message(5, false, "", &noise(3 << 20, 2));
        let mut writer = bench.upstream();
        writer.append_record(RM_LOGICALMSG, 0, 0, &[&body.unwrap()], &mut bytes);
        bench.receive(&bytes[..written]);
        for _ in 0..20 {
            bench.turn();
        }
        assert_eq!(bench.promote(), Ok(()));
        let after = bench.append(&[noise(10, 3)], true, LOCAL);
        assert!(after.end > switchpoint);
        let bench = bench.restart();
        let found = all_records(&bench.dir);
        assert_begins(&found, switchpoint, 1, 2);
        assert_eq!(messages(&found), [noise(500, 1), noise(10, 3)]);
    }
}

#[test]
fn what_is_missing_of_a_switched_segment_is_filled() {
    for received in [0, 8, 9000, 1 << 20] {
        let mut bench = Bench::new(settings());
        bench.append(&[noise(500, 1)], true, LOCAL);
        let mut bench = bench.into_relay();
        let (mut bytes, mut writer) = (Vec::new(), bench.upstream());
        let before = writer.lsn();
        writer.switch_segment(&mut bytes);
        bench.receive(&bytes[..(24 + received).min(bytes.len())]);
        assert!(bench.core.local().unwrap().verified_lsn() > before);
        assert_eq!(bench.promote(), Ok(()));
        bench.settle();
        let switchpoint = START + SIZE.bytes();
        assert_begins(&all_records(&bench.dir), switchpoint, 1, 2);
        let bench = bench.restart();
        assert_begins(&all_records(&bench.dir), switchpoint, 1, 2);
    }
}

#[test]
fn a_crash_before_the_control_file_leaves_a_relay_and_its_next_timeline_is_another() {
    let mut bench = Bench::new(settings());
    bench.append(&[noise(500, 1)], true, LOCAL);
    let mut bench = bench.into_relay();
    let (switchpoint, settings) = (bench.shared.flush_lsn.load(), settings());
    let before = std::fs::read(bench.dir.path().join(recover::CONTROL_FILE)).unwrap();
    assert_eq!(bench.promote(), Ok(()));
    bench.settle();
    let dir = bench.kill();
    std::fs::write(dir.path().join(recover::CONTROL_FILE), before).unwrap();
    let mut bench = Bench::start(dir, settings);
    assert!(bench.shared.role.load().in_recovery());
    assert_eq!((bench.timeline(), bench.shared.flush_lsn.load()), (1, switchpoint));
    assert_eq!(bench.promote(), Ok(()));
    bench.append(&[noise(500, 2)], true, LOCAL);
    assert_eq!(bench.timeline(), 3);
    let history = std::fs::read(bench.file("00000003.history")).unwrap();
    let history = TimelineHistory::parse(history, tli(3)).unwrap();
    assert_eq!(history.switchpoint(tli(1)), Some((switchpoint, tli(3))));
    let bench = bench.restart();
    assert_eq!(bench.timeline(), 3);
    let mut found = all_records(&bench.dir);
    assert_begins(&found, switchpoint, 1, 3);
    found.retain(|found| found.header.start >= switchpoint);
    assert_eq!(messages(&found), [noise(500, 2)]);
}

#[test]
fn a_crash_after_the_control_file_leaves_a_primary_that_says_where_it_begins() {
    for end in [START + 20_000, START + SIZE.bytes()] {
        let mut bench = Bench::new(settings());
        bench.append(&[noise(500, 1)], true, LOCAL);
        bench.fill_to(end);
        let mut bench = bench.into_relay();
        let answer = bench.begin_promotion();
        // The moment at which the control file is there, and nothing else is written.
        bench.run(|bench| (control(&bench.dir).timeline == tli(2)).then_some(()));
        drop(answer);
        let dir = bench.kill();
        let segment =
            dir.path().join("pg_wal").join(SegNo::of_start(end, SIZE).file_name(tli(2), SIZE));
        if SIZE.offset(end) == 0 {
            let _ = std::fs::remove_file(segment);
        } else {
            let mut content = std::fs::read(&segment).unwrap();
            content[usize::try_from(SIZE.offset(end)).unwrap()..].fill(0);
            std::fs::write(&segment, content).unwrap();
        }
        change_control(&dir, |control| {
            (control.flush_lsn, control.checkpoint_lsn) = (end, None);
        });
        let mut bench = Bench::start(dir, settings());
        assert!(bench.shared.role.load() == Role::Primary);
        let after = bench.append(&[noise(10, 2)], true, LOCAL);
        assert_eq!(after.xid, Some(FIRST_NORMAL_XID + 1));
        assert_begins(&all_records(&bench.dir), end, 1, 2);
        let partial = SegNo::of_start(end, SIZE).file_name(TimelineId::FIRST, SIZE);
        let is_inside = SIZE.offset(end) != 0;
        assert_eq!(bench.file(&format!("{partial}.partial")).exists(), is_inside);
    }
}

#[test]
fn a_promoted_hub_is_a_relay_of_nobody_and_can_be_promoted_once() {
    let mut bench = Bench::new(settings());
    bench.append(&[noise(500, 1)], true, LOCAL);
    let refused = bench.promote().unwrap_err();
    assert_eq!(refused.message, "recovery is not in progress");
    let mut bench = bench.into_relay();
    let (mut first, mut second) = (bench.begin_promotion(), bench.begin_promotion());
    assert_eq!(bench.run(|_| first.try_recv().ok()), Ok(()));
    assert_eq!(bench.run(|_| second.try_recv().ok()), Ok(()));
    assert_eq!(bench.timeline(), 2);
    let refused = bench.promote().unwrap_err();
    assert_eq!(refused.sqlstate, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(bench.file("00000002.history").exists() && !bench.file("00000003.history").exists());
    let names = std::fs::read_dir(bench.dir.path().join("pg_wal")).unwrap();
    let of_two = names.filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(TWO))
    });
    assert!(of_two.count() >= 2);
}

#[test]
fn without_a_checkpoint_there_is_no_promotion() {
    let mut bench = Bench::new(settings());
    bench.append(&[noise(500, 1)], true, LOCAL);
    bench.settle();
    let dir = bench.stop();
    change_control(&dir, |control| {
        control.own_wal = false;
        control.counters = None;
        // The shutdown checkpoint at the end is before the bound.
    });
    let relay = Bench::start(dir, settings());
    // It was read again, because the last record may be a switch: then it is known.
    assert!(relay.core.local().unwrap().counters().is_some());
    let dir = relay.kill();
    let mut bench = Bench::start(dir, settings());
    let body = walhub_proto::rmgr::message::logical_message(5, false, "", b"x").unwrap();
    let mut bytes = Vec::new();
    bench.upstream().append_record(RM_LOGICALMSG, 0, 0, &[&body], &mut bytes);
    bench.receive(&bytes);
    bench.settle();
    let end = bench.shared.flush_lsn.load();
    let last = bench.core.local().unwrap().last_record();
    let dir = bench.kill();
    change_control(&dir, |control| {
        (control.flush_lsn, control.last_record, control.counters) = (end, last, None);
    });
    let mut bench = Bench::start(dir, settings());
    let refused = bench.promote().unwrap_err();
    assert_eq!(refused.message, "cannot promote before a checkpoint was received");
    assert!(refused.hint.is_some() && bench.shared.role.load().in_recovery());
    assert!(!bench.file("00000002.history").exists());
    // With the next checkpoint it can.
    let (mut bytes, mut writer) = (Vec::new(), bench.upstream());
    let counters = Counters { next_xid: 32_767, ..Counters::first() };
    let checkpoint = Checkpoint {
        redo: writer.next_record(),
        timeline: tli(1),
        prev_timeline: tli(1),
        wal_level: WalLevel::Replica,
        counters,
        time: Timestamp(0),
        oldest_active_xid: 32_767,
    };
    let body = checkpoint.body(WalVersion::PG15);
    writer.append_record(RM_XLOG, XLOG_CHECKPOINT_ONLINE, 0, &[&body], &mut bytes);
    bench.receive(&bytes);
    assert_eq!(bench.promote(), Ok(()));
    let xids: Vec<_> = (0..3).map(|_| bench.append(&[vec![1]], true, LOCAL).xid.unwrap()).collect();
    assert_eq!(xids, [32_767, 32_768, 32_769]);
    // A standby needs the page that the second one's state is on.
    let found = all_records(&bench.dir);
    let pages: Vec<_> = found.iter().filter(|found| found.is(RM_CLOG, slru::ZEROPAGE)).collect();
    assert_eq!(pages.len(), 1);
    assert_eq!(pages[0].body[2..], [1, 0, 0, 0]);
    let at = found.iter().position(|found| found.is(RM_CLOG, 0)).unwrap();
    assert_eq!(found[at + 1].header.xid, 32_768);
}

#[test]
fn a_lost_history_file_is_named_at_the_start() {
    let mut bench = Bench::new(settings());
    bench.append(&[noise(500, 1)], true, LOCAL);
    let mut bench = bench.into_relay();
    assert_eq!(bench.promote(), Ok(()));
    bench.settle();
    let dir = bench.kill();
    std::fs::remove_file(dir.path().join("pg_wal").join(history::file_name(tli(2)))).unwrap();
    let error = recover(&OsFs, dir.path()).unwrap_err();
    assert!(matches!(&error, RecoverError::History { name, .. } if name == "00000002.history"));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_slot_s_timeline_is_that_of_its_position_in_the_history() {
    let mut bench = Bench::new(settings());
    bench.append(&[noise(500, 1)], true, LOCAL);
    let mut bench = bench.into_relay();
    let switchpoint = bench.shared.flush_lsn.load();
    let reserve = |bench: &mut Bench, name: &str| {
        let (reply, mut answer) = oneshot::channel();
        let name = name.to_owned();
        let request = SlotRequest::Create { name, temporary: false, reserve_wal: true, owner: 1 };
        assert!(bench.mail.send(ToWal::Slot(request, reply)).is_ok());
        bench.run(|_| answer.try_recv().ok()).unwrap();
    };
    ["before", "at", "after"].into_iter().for_each(|name| reserve(&mut bench, name));
    let timelines = |bench: &Bench| {
        let rows = bench.core.slot_rows();
        let mut rows: Vec<_> =
            rows.iter().map(|row| (row.slot_name.clone(), row.restart_tli)).collect();
        rows.sort();
        rows
    };
    let of = |at, after| {
        [("after", after), ("at", at), ("before", 1)]
            .map(|(name, tli)| (name.to_owned(), TimelineId::new(tli)))
    };
    // A session of either timeline may have been the last to move it.
    let slots = &mut bench.core.slots;
    slots.get_mut("before").unwrap().confirm_received(Lsn(switchpoint.0 - 8), tli(7));
    slots.get_mut("at").unwrap().confirm_received(switchpoint, tli(1));
    slots.get_mut("after").unwrap().confirm_received(switchpoint + 8, tli(1));
    assert_eq!(timelines(&bench), of(1, 1));
    assert_eq!(bench.promote(), Ok(()));
    assert_eq!(timelines(&bench), of(2, 2));
    // What sessions are shown says the same at once.
    assert_eq!(**bench.core.config.slots.load(), bench.core.slot_rows());
}

#[test]
fn a_commit_is_not_answered_with_no_standby_connected_because_one_was_ahead_of_the_relay() {
    let mut settings = settings();
    settings.synchronous_standby_names = SyncRepConfig::parse("a").unwrap();
    let mut bench = Bench::new(settings);
    bench.append(&[vec![1]], true, LOCAL);
    let mut bench = bench.into_relay();
    let ahead = bench.standby_with(bench.shared.flush_lsn.load() + 100_000, None);
    bench.turn();
    assert!(matches!(bench.shared.synced.load().synced, Synced::Reached(_)));
    // Any wait of a session has that noted.
    let shared = Arc::clone(&bench.shared);
    let positions = || (shared.flush_lsn.load(), shared.synced.load());
    let level = WaitLevel::LocalFlush;
    let mut wait = bench.commits.wait(Lsn(1), level, 9, Timestamp(0), positions);
    assert_eq!(wait.try_recv(), Ok(Waited::Reached));
    assert_eq!(bench.promote(), Ok(()));
    let (records, commit) = (vec![record(true, &[2])], Some(Timestamp(5)));
    let wait = Some(WaitLevel::Standbys(WaitMode::Flush));
    let append = Append { records, commit, wait, owner: 1 };
    let mut answer = bench.commits.append(append, Timestamp(0));
    let before = bench.shared.flush_lsn.load();
    bench.run(|bench| (bench.shared.flush_lsn.load() > before).then_some(()));
    bench.settle();
    for _ in 0..20 {
        // What the standby goes on to say is of the timeline that was left.
        bench.core.config.standbys.mark(ahead);
        bench.turn();
        assert!(matches!(answer.try_recv(), Err(TryRecvError::Empty)));
    }
    bench.standby_with(bench.shared.flush_lsn.load(), None);
    let appended = bench.run(|_| answer.try_recv().ok()).unwrap();
    assert_eq!(appended.waited, Waited::Reached);
}

#[test]
fn a_slot_of_a_standby_that_was_ahead_keeps_the_wal_from_where_the_timeline_begins() {
    let mut bench = Bench::new(settings());
    bench.append(&[noise(500, 1)], true, LOCAL);
    let mut bench = bench.into_relay();
    let (end, name) = (bench.shared.flush_lsn.load(), "s".to_owned());
    let (reply, mut answer) = oneshot::channel();
    let create = SlotRequest::Create { name, temporary: false, reserve_wal: true, owner: 1 };
    assert!(bench.mail.send(ToWal::Slot(create, reply)).is_ok());
    assert!(bench.run(|_| answer.try_recv().ok()).is_ok());
    bench.standby_with(end + 100_000, Some("s"));
    let later = |bench: &mut Bench| {
        bench.later += Duration::from_secs(1);
        bench.turn();
        bench.core.save_slots(&mut bench.io);
        bench.run(|bench| bench.core.jobs.is_idle().then_some(()));
    };
    later(&mut bench);
    assert_eq!(bench.slot_restart(), Some(end + 100_000));
    // A crash in which the relay loses what the standby has.
    let mut bench = bench.restart();
    assert_eq!(bench.slot_restart(), Some(end));
    bench.standby_with(end + 100_000, Some("s"));
    later(&mut bench);
    assert_eq!(bench.slot_restart(), Some(end + 100_000));
    assert_eq!(bench.promote(), Ok(()));
    assert_eq!(bench.slot_restart(), Some(end));
    // What the standby goes on to say is of the timeline that was left.
    later(&mut bench);
    assert_eq!(bench.slot_restart(), Some(end));
    let bench = bench.restart();
    assert_eq!(bench.slot_restart(), Some(end));
}

mod prepared;
