//! Which slots are there while their files are being worked on.

use walhub_engine::uring::{Uring, UringConfig};
use walhub_proto::slot::LogicalSlot;

use super::*;
use crate::store::jobs::Jobs;
use crate::store::segments::FileJob;

fn run(io: &mut Uring, jobs: &mut Jobs<FileJob>, table: &mut SlotTable) {
    loop {
        table.start_job(io, jobs);
        if jobs.is_idle() {
            return;
        }
        let mut completions = Vec::new();
        io.wait(None, &mut completions).unwrap();
        for completion in completions {
            if let Some(finished) = jobs.handle(io, completion.token, completion.result) {
                let mut later = Later::new();
                for (reply, answer) in table.handle_job_done(&finished.result.map(drop), &mut later)
                {
                    drop(reply.send(answer.map(|_| None)));
                }
            }
        }
    }
}

#[test]
fn a_slot_is_not_dropped_while_its_file_is_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut io = Uring::new(UringConfig::default()).unwrap();
    let (mut jobs, slot) = (Jobs::new(1 << 60), Slot::new("a".into(), false));
    let mut table = SlotTable::new(dir.path().to_owned(), vec![slot]);
    assert!(table.entries["a"].is_idle());
    table.get_mut("a").unwrap().restart_lsn = Some(Lsn(100));
    table.save(Lsn::MAX);
    assert!(!table.entries["a"].is_idle());
    // Nor is it written again while somebody waits to drop it.
    let (waiter, _) = tokio::sync::oneshot::channel();
    table.entries.get_mut("a").unwrap().drop_waiters.push(waiter);
    run(&mut io, &mut jobs, &mut table);
    assert!(table.entries["a"].is_idle() && dir.path().join("a").exists());
    table.get_mut("a").unwrap().restart_lsn = Some(Lsn(200));
    table.save(Lsn::MAX);
    table.start_job(&mut io, &mut jobs);
    assert!(jobs.is_idle());
}

#[test]
fn one_file_that_cannot_be_written_fails_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut io = Uring::new(UringConfig::default()).unwrap();
    let mut jobs = Jobs::new(1 << 60);
    let mut table = SlotTable::new(dir.path().to_owned(), Vec::new());
    // Where its temporary file would be there is a directory.
    std::fs::create_dir(dir.path().join("b.tmp")).unwrap();
    let mut answers = Vec::new();
    for name in ["a", "b", "c"] {
        let (reply, answer) = tokio::sync::oneshot::channel();
        table.entries.insert(name.into(), Entry::new(Slot::new(name.into(), false), None, None));
        table.begin_work(name, Work::Create(reply));
        answers.push(answer);
    }
    assert_eq!(table.made().count(), 0);
    run(&mut io, &mut jobs, &mut table);
    let answers: Vec<_> = answers.iter_mut().map(|answer| answer.try_recv().unwrap()).collect();
    assert!(answers[0].is_ok() && answers[2].is_ok());
    let refused = answers[1].as_ref().unwrap_err();
    assert!(refused.message.contains("b.tmp"), "{}", refused.message);
    assert_eq!(refused.sqlstate, SqlState::IO_ERROR);
    let names: Vec<_> = table.made().map(|slot| slot.name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
    assert!(table.entries.len() == 2 && dir.path().join("c").exists());
}

#[test]
fn what_is_confirmed_is_saved_within_a_second_for_logical_slots_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut io = Uring::new(UringConfig::default()).unwrap();
    let mut jobs = Jobs::new(1 << 60);
    let logical = LogicalSlot {
        plugin: "pgoutput".into(),
        database: "d".into(),
        database_oid: 5,
        confirmed_flush_lsn: Lsn(100),
        two_phase: false,
        failover: false,
    };
    let mut slot = Slot::new("l".into(), false);
    (slot.restart_lsn, slot.logical) = (Some(Lsn(50)), Some(logical));
    let mut physical = Slot::new("p".into(), false);
    physical.restart_lsn = Some(Lsn(50));
    let mut table = SlotTable::new(dir.path().to_owned(), vec![slot, physical]);
    let saved = || {
        let file = std::fs::read(dir.path().join("l")).unwrap();
        let slot = walhub_proto::slot::decode_slot(&file, walhub_engine::crc::crc32c).unwrap();
        slot.logical.unwrap().confirmed_flush_lsn
    };
    let half = CONFIRMED_SAVE_INTERVAL / 2;
    for (step, want) in [(0, 101), (1, 101), (2, 103), (3, 103)] {
        let lsn = Lsn(101 + u64::from(step));
        let slot = table.get_mut("l").unwrap();
        assert!(slot.confirm_decoded(lsn, Lsn(60), TimelineId::FIRST));
        table.get_mut("p").unwrap().restart_lsn = Some(lsn);
        table.save_confirmed(Instant(7) + half * step);
        run(&mut io, &mut jobs, &mut table);
        assert_eq!(saved(), Lsn(want), "step {step}");
        assert!(!dir.path().join("p").exists());
    }
    assert_eq!(table.saved_restart_lsn(), Some(Lsn(50)));
    let error = |name, logical| table.check_usable(name, logical).unwrap_err().message;
    assert_eq!(error("l", false), "cannot use a logical replication slot for physical replication");
    assert_eq!(error("p", true), "cannot use physical replication slot for logical decoding");
    assert!(table.check_usable("l", true).is_ok() && table.check_usable("p", false).is_ok());
}

#[test]
fn an_invalidated_slot_holds_no_rows_back() {
    let mut slot = Slot::new("a".into(), false);
    slot.restart_lsn = Some(Lsn(100));
    slot.xmin = FullTransactionId::new(0, 7);
    let mut table = SlotTable::new(PathBuf::new(), vec![slot]);
    assert!(!table.horizons().is_empty());
    table.get_mut("a").unwrap().invalidate();
    assert!(table.horizons().is_empty());
}
