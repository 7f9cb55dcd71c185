//! Slots that are created and dropped while others commit.

use oneshot::Receiver as Answer;

use super::*;
use crate::api::rows::SlotRow;
use crate::api::stream::SlotRequest;

type Row = Result<Option<SlotRow>, Report>;

fn create(name: &str) -> SlotRequest {
    SlotRequest::Create { name: name.into(), temporary: false, reserve_wal: true, owner: 1 }
}

fn remove(name: &str) -> SlotRequest {
    SlotRequest::Drop { name: name.into(), wait: false }
}

impl Bench {
    fn slot(&self, request: SlotRequest) -> Answer<Row> {
        let (reply, answer) = oneshot::channel();
        assert!(self.mail.send(ToWal::Slot(request, reply)).is_ok());
        answer
    }

    fn slot_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("slots")).unwrap();
        let name = |entry: std::fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<String> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    }

    /// Answers in the order in which they come.
    fn all(&mut self, mut answers: Vec<Answer<Row>>) -> Vec<Row> {
        let mut rows: Vec<Option<Row>> = answers.iter().map(|_| None).collect();
        self.run(|_| {
            for (row, answer) in rows.iter_mut().zip(&mut answers) {
                if row.is_none() {
                    *row = answer.try_recv().ok();
                }
            }
            rows.iter().all(Option::is_some).then_some(())
        });
        rows.into_iter().flatten().collect()
    }
}

#[test]
fn a_slot_is_seen_and_answered_once_it_is_durable_and_its_name_is_free_once_it_is_gone() {
    let mut bench = Bench::new(settings());
    bench.append(&[noise(500, 1)], true, LOCAL);
    let asked = ["a", "b", "a"].map(|name| bench.slot(create(name)));
    let now = bench.now();
    bench.core.turn(&mut bench.io, now);
    // It keeps its WAL already, and nobody sees it.
    assert!(bench.core.slots.slots().iter().all(|slot| slot.restart_lsn.is_some()));
    assert!(bench.core.slot_rows().is_empty() && bench.core.config.slots.load().is_empty());
    assert!(bench.core.slots.check_usable("a", false).is_err());
    let rows = bench.all(asked.into());
    assert!(rows[0].as_ref().is_ok_and(|row| row.as_ref().unwrap().slot_name == "a"));
    assert!(rows[1].is_ok());
    assert_eq!(rows[2].as_ref().unwrap_err().sqlstate, SqlState::DUPLICATE_OBJECT);
    assert_eq!(bench.slot_files(), ["a", "b"]);
    assert_eq!(bench.core.config.slots.load().len(), 2);
    // All at once, in the order in which they were asked.
    let asked = [remove("a"), create("a"), remove("a"), remove("a"), create("a")];
    let asked = asked.map(|request| bench.slot(request));
    let rows = bench.all(asked.into());
    assert!(rows[0].is_ok() && rows[1].is_ok() && rows[2].is_ok() && rows[4].is_ok());
    assert_eq!(rows[3].as_ref().unwrap_err().sqlstate, SqlState::UNDEFINED_OBJECT);
    assert_eq!(bench.slot_files(), ["a", "b"]);
    let bench = bench.restart();
    assert_eq!(bench.core.slot_rows().len(), 2);
}

#[test]
fn a_flood_of_slot_requests_keeps_nothing_from_being_written() {
    let mut settings = settings();
    settings.max_replication_slots = 60;
    let mut bench = Bench::new(settings);
    bench.append(&[noise(500, 1)], true, LOCAL);
    bench.settle();
    let names: Vec<String> = (0..60).map(|number| format!("s{number}")).collect();
    let both = names.iter().flat_map(|name| [create(name), remove(name)]);
    let mut answers: Vec<Answer<Row>> = both.map(|request| bench.slot(request)).collect();
    let records = vec![record(true, &noise(10, 2))];
    let append = Append { records, commit: Some(Timestamp(5)), wait: LOCAL, owner: 1 };
    let mut answer = bench.commits.append(append, Timestamp(0));
    // The first turn begins to write what was committed, though it has not read all of its mail.
    let now = bench.now();
    bench.core.turn(&mut bench.io, now);
    assert!(!bench.core.local().unwrap().is_idle());
    assert!(bench.core.has_mail && bench.core.deadline() == Some(Instant(0)));
    assert!(answers.iter_mut().all(|answer| answer.try_recv().is_err()));
    bench.run(|_| answer.try_recv().ok()).unwrap();
    assert!(bench.all(answers).iter().all(Result::is_ok));
    assert_eq!(bench.slot_files(), Vec::<String>::new());
}
