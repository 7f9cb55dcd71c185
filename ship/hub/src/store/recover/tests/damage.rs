//! Directories whose WAL was damaged after it was durable, or torn before.

use std::fs;

use walhub_proto::recovery::DurableMark;

use super::*;

const ACCEPT_NOTHING: Choices = Choices { accept_loss_after: None, has_upstream: false };

/// A directory with four segments of WAL; the last is begun, and the record before it crosses a segment.
struct Made {
    _scratch: tempfile::TempDir,
    dir: PathBuf,
    records: Vec<(Lsn, Lsn)>,
}

impl Made {
    /// `bound` records were durable by the control file, `marked` by the mark.
    fn new(own_wal: bool, bound: usize, marked: usize) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().to_owned();
        let wal_dir = dir.join("pg_wal");
        fs::create_dir_all(&wal_dir).unwrap();
        fs::create_dir_all(dir.join("slots")).unwrap();
        let start = SegNo(1).start(SIZE);
        let (mut wal, mut out) = (WalWriter::new(shape(), start, None), Vec::new());
        let mut records = Vec::new();
        for record in 0..400 {
            let range = wal.append_record(10, 0, record, &[&vec![7; 9_000]], &mut out);
            records.push((range.start, range.end));
        }
        out.resize(4 << 20, 0);
        for (segment, number) in out.chunks(1 << 20).zip(1..) {
            fs::write(wal_dir.join(SegNo(number).file_name(TimelineId::FIRST, SIZE)), segment)
                .unwrap();
        }
        let durable = |count: usize| match count.checked_sub(1) {
            Some(last) => (records[last].1, Some(records[last].0)),
            None => (start, None),
        };
        let (flush_lsn, last_record) = durable(bound);
        let counters = Some(Counters::first());
        let control = ControlFile { own_wal, flush_lsn, last_record, counters, ..control() };
        write_control(&OsFs, &dir, &control).unwrap();
        let mark = DurableMark {
            system_identifier: control.system_identifier,
            timeline: control.timeline,
            flush_lsn: durable(marked).0,
            lost_to: None,
        };
        write_mark(&OsFs, &dir, &mark).unwrap();
        Self { _scratch: scratch, dir, records }
    }

    fn path(&self, segno: u64) -> PathBuf {
        self.dir.join("pg_wal").join(SegNo(segno).file_name(TimelineId::FIRST, SIZE))
    }

    /// Changes one bit in the middle of a record.
    fn flip(&self, record: usize) {
        let at = self.records[record].0 + 4_000;
        let path = self.path(SegNo::of_start(at, SIZE).0);
        let mut segment = fs::read(&path).unwrap();
        segment[usize::try_from(SIZE.offset(at)).unwrap()] ^= 1;
        fs::write(path, segment).unwrap();
    }

    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        let mut dirs = vec![self.dir.join("pg_wal"), self.dir.join("slots")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                files.push((path.clone(), fs::read(path).unwrap()));
            }
        }
        files.sort();
        files
    }

    #[track_caller]
    fn refused(&self, choices: &Choices) -> Damage {
        let before = self.files();
        match recover_as(&OsFs, &self.dir, choices) {
            Err(RecoverError::Damaged(damage)) => {
                assert!(self.files() == before, "a refused start has changed the WAL");
                *damage
            }
            Ok(recovered) => panic!("started at {:?}", recovered.wal.map(|wal| wal.end)),
            Err(error) => panic!("{error}"),
        }
    }

    fn recovered(&self, choices: &Choices) -> RecoveredWal {
        recover_as(&OsFs, &self.dir, choices).unwrap().wal.unwrap()
    }
}

fn accept(end: Lsn) -> Choices {
    Choices { accept_loss_after: Some(end), has_upstream: false }
}

/// One flipped bit erased 1,500 commits.
#[test]
fn a_flipped_bit_before_what_was_durable_is_refused_and_nothing_is_erased() {
    // Bound of the control file, of the mark, the damaged record, and what is said to have been durable.
    let cases = [(300, 0, 299, 300), (100, 300, 200, 300), (100, 300, 299, 300), (0, 400, 0, 400)];
    for (bound, marked, damaged, durable) in cases {
        let made = Made::new(true, bound, marked);
        made.flip(damaged);
        let damage = made.refused(&ACCEPT_NOTHING);
        // The control file's last record is where reading begins.
        assert_eq!(damage.at, made.records[damaged].0, "{bound} {marked} {damaged}");
        assert_eq!(damage.durable_to, made.records[durable - 1].1);
        let before =
            damaged.checked_sub(1).map_or(SegNo(1).start(SIZE), |last| made.records[last].1);
        assert_eq!(damage.end, before);
        let report = damage.report();
        assert_eq!(report.sqlstate, SqlState::DATA_CORRUPTED);
        for want in ["incorrect resource manager data checksum", "got checksum ", "want ", "\"0000"]
        {
            assert!(report.message.contains(want), "{}", report.message);
        }
        assert!(report.hint.unwrap().contains(&format!("--accept-loss-after {before}")));
        // Again, and with a position that is not the one.
        made.refused(&accept(before + 8));
        made.refused(&ACCEPT_NOTHING);
    }
}

#[test]
fn a_valid_record_in_a_later_segment_proves_that_what_is_before_was_durable() {
    for own_wal in [true, false] {
        let made = Made::new(own_wal, 10, 10);
        made.flip(150);
        let damage = made.refused(&ACCEPT_NOTHING);
        assert_eq!((damage.at, damage.end), (made.records[150].0, made.records[149].1));
        assert!(damage.durable_to > SegNo(3).start(SIZE));
        // The proof is kept, should the segment that gave it be gone.
        fs::remove_file(made.path(3)).unwrap();
        fs::remove_file(made.path(4)).unwrap();
        assert_eq!(made.refused(&ACCEPT_NOTHING).durable_to, damage.durable_to);
    }
}

/// A crash leaves sectors old or new, each on its own, in the one segment that was being written.
#[test]
fn a_torn_end_is_no_damage_and_a_copy_of_what_follows_it_is_kept() {
    let made = Made::new(true, 300, 330);
    for segment in 5..8 {
        // Made ready with zeros, or recycled.
        fs::write(made.path(segment), vec![0; 1 << 20]).unwrap();
    }
    fs::copy(made.path(2), made.path(6)).unwrap();
    made.flip(350);
    let torn = fs::read(made.path(4)).unwrap();
    let recovered = made.recovered(&ACCEPT_NOTHING);
    assert_eq!(recovered.end, made.records[349].1);
    let zeroed = fs::read(made.path(4)).unwrap();
    let offset = usize::try_from(SIZE.offset(recovered.end)).unwrap();
    assert!(zeroed[..offset] == torn[..offset] && zeroed[offset..].iter().all(|&byte| byte == 0));
    let aside = made.dir.join(format!("damaged.00000001.{:016X}", recovered.end.0));
    assert!(fs::read(aside.join(made.path(4).file_name().unwrap())).unwrap() == torn);
    // Without any valid record after the end there is nothing to keep.
    assert_eq!(made.recovered(&ACCEPT_NOTHING).end, recovered.end);
    let dirs = fs::read_dir(&made.dir).unwrap();
    let aside = dirs.filter(|entry| {
        entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("damaged.")
    });
    assert_eq!(aside.count(), 1);
}

#[test]
fn accepted_loss_moves_the_wal_aside_and_begins_a_timeline() {
    for (bound, marked, damaged) in [(300, 0, 299), (100, 300, 200), (10, 10, 150), (0, 400, 5)] {
        let made = Made::new(true, bound, marked);
        made.flip(damaged);
        let before = made.files();
        let end = made.refused(&ACCEPT_NOTHING).end;
        let recovered = made.recovered(&accept(end));
        assert_eq!((recovered.end, recovered.lost_to), (end, None));
        assert_eq!(recovered.last_record, Some(made.records[damaged - 1].0));
        let second = TimelineId::new(2).unwrap();
        assert_eq!(recovered.timelines.current, second);
        assert_eq!(recovered.timelines.history.switchpoint(TimelineId::FIRST), Some((end, second)));
        // Every byte of every segment from there on is still there.
        let aside = made.dir.join(format!("damaged.00000001.{:016X}", end.0));
        for (path, content) in before.iter().filter(|(path, _)| {
            let name = path.file_name().unwrap().to_str().unwrap();
            SegNo::parse_file_name(name, SIZE).is_some_and(|(_, segno)| segno.end(SIZE) > end)
        }) {
            assert!(fs::read(aside.join(path.file_name().unwrap())).unwrap() == *content);
        }
        // It starts there from now on, with and without the option.
        for choices in [ACCEPT_NOTHING, accept(end)] {
            let again = made.recovered(&choices);
            assert_eq!((again.end, again.timelines.current), (end, second));
        }
    }
}

#[test]
fn a_relay_fetches_damaged_wal_again_and_remembers_what_is_missing() {
    let upstream = Choices { accept_loss_after: None, has_upstream: true };
    for (bound, marked, damaged) in [(300, 0, 299), (100, 300, 200), (10, 10, 150)] {
        let made = Made::new(false, bound, marked);
        made.flip(damaged);
        let damage = made.refused(&ACCEPT_NOTHING);
        let recovered = made.recovered(&upstream);
        assert_eq!((recovered.end, recovered.timelines.current), (damage.end, TimelineId::FIRST));
        assert_eq!(recovered.lost_to, Some(damage.durable_to));
        assert!(made.dir.join(format!("damaged.00000001.{:016X}", damage.end.0)).is_dir());
        // Also without an upstream now, and until it is accepted.
        assert_eq!(made.recovered(&ACCEPT_NOTHING).lost_to, Some(damage.durable_to));
        assert_eq!(made.recovered(&accept(damage.end)).lost_to, None);
        assert_eq!(made.recovered(&ACCEPT_NOTHING).lost_to, None);
    }
}

#[test]
fn a_segment_that_is_missing_in_the_middle_is_damage() {
    for own_wal in [true, false] {
        // After the bound: a segment is only ever written when the one before it is whole.
        let made = Made::new(own_wal, 50, 50);
        fs::remove_file(made.path(2)).unwrap();
        let damage = made.refused(&ACCEPT_NOTHING);
        assert_eq!(damage.file, made.path(2).file_name().unwrap().to_str().unwrap());
        assert!(damage.reason.contains("missing"), "{}", damage.reason);
        // Before it: served is what comes after.
        let made = Made::new(own_wal, 300, 300);
        fs::remove_file(made.path(2)).unwrap();
        let recovered = made.recovered(&ACCEPT_NOTHING);
        assert_eq!(recovered.held.keys().copied().collect::<Vec<_>>(), [SegNo(3), SegNo(4)]);
        // All of it.
        let made = Made::new(own_wal, 300, 300);
        (1..=4).for_each(|segno| fs::remove_file(made.path(segno)).unwrap());
        assert_eq!(made.refused(&ACCEPT_NOTHING).end, SegNo(1).start(SIZE));
    }
}

#[test]
fn what_is_no_segment_though_it_has_the_name_is_found_at_start() {
    let made = Made::new(true, 390, 390);
    fs::copy(made.path(2), made.dir.join("other")).unwrap();
    fs::copy(made.path(1), made.path(2)).unwrap();
    let damaged = made.recovered(&ACCEPT_NOTHING).damaged;
    assert_eq!(damaged.len(), 1);
    assert_eq!((damaged[0].segno, damaged[0].at), (SegNo(2), SegNo(2).start(SIZE)));
    assert!(damaged[0].reason.contains("got pageaddr 0/100000, want 0/200000"), "{damaged:?}");
    fs::rename(made.dir.join("other"), made.path(2)).unwrap();
    assert!(made.recovered(&ACCEPT_NOTHING).damaged.is_empty());
    // A file that is too short, a FIFO and a directory: nobody waits for the other end of a FIFO.
    fs::write(made.path(2), vec![0; 4096]).unwrap();
    let reason = |made: &Made| {
        let recovered = made.recovered(&ACCEPT_NOTHING);
        assert!(!recovered.held.contains_key(&SegNo(2)) && recovered.damaged.len() == 1);
        recovered.damaged[0].reason.clone()
    };
    assert_eq!(reason(&made), "file has the wrong size: 4096 instead of 1048576");
    fs::remove_file(made.path(2)).unwrap();
    fs::create_dir(made.path(2)).unwrap();
    assert_eq!(reason(&made), "file has the wrong size: 0 instead of 1048576");
    fs::remove_dir(made.path(2)).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, made.path(2), 0o600.into()).unwrap();
    assert_eq!(reason(&made), "file has the wrong size: 0 instead of 1048576");
    // In the place of a segment that is read at start.
    fs::remove_file(made.path(4)).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, made.path(4), 0o600.into()).unwrap();
    assert!(made.refused_without_reading().reason.contains("file ends at offset 0"));
}

#[test]
fn a_segment_that_could_not_be_read_at_start_is_not_damaged() {
    let made = Made::new(true, 390, 390);
    let fs = Dying { left: Mutex::new(usize::MAX), unreadable: Some(made.path(2)) };
    let recovered = recover_as(&fs, &made.dir, &ACCEPT_NOTHING).unwrap().wal.unwrap();
    assert!(recovered.damaged.is_empty(), "{:?}", recovered.damaged);
    assert!(recovered.held.contains_key(&SegNo(2)));
}

#[test]
fn what_follows_a_record_that_cannot_be_verified_proves_nothing_later() {
    let made = Made::new(false, 0, 0);
    let begin = |sequence, flush_lsn, last_record| {
        let start_lsn = SegNo(2).start(SIZE);
        let control = ControlFile { start_lsn, flush_lsn, last_record, sequence, ..control() };
        write_control(&OsFs, &made.dir, &control).unwrap();
        fs::remove_file(made.dir.join(MARK_FILE)).unwrap();
    };
    // The relay's first WAL begins inside a record, and nothing says that it was durable: it comes again.
    begin(2, SegNo(2).start(SIZE), None);
    let second = fs::read(made.path(2)).unwrap();
    assert_eq!(made.recovered(&ACCEPT_NOTHING).end, SegNo(2).start(SIZE));
    // This much of it has come, and was told, before the next crash.
    let (last, durable) = *made.records.iter().rfind(|(_, end)| *end < Lsn(0x28_0000)).unwrap();
    let end = usize::try_from(SIZE.offset(durable)).unwrap();
    fs::write(made.path(2), [&second[..end], &vec![0; second.len() - end]].concat()).unwrap();
    begin(3, durable, Some(last));
    let recovered = made.recovered(&ACCEPT_NOTHING);
    assert_eq!((recovered.end, recovered.lost_to), (durable, None));
}

impl Made {
    /// [`Made::refused`], with FIFOs among the files.
    fn refused_without_reading(&self) -> Damage {
        match recover_as(&OsFs, &self.dir, &ACCEPT_NOTHING) {
            Err(RecoverError::Damaged(damage)) => *damage,
            Ok(recovered) => panic!("started at {:?}", recovered.wal.map(|wal| wal.end)),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn filling_that_was_durable_and_is_not_zero_any_more_is_damage() {
    let made = Made::new(true, 0, 0);
    let (mut wal, mut out) = (WalWriter::new(shape(), SegNo(1).start(SIZE), None), Vec::new());
    wal.append_record(10, 0, 1, &[&[7; 100]], &mut out);
    wal.switch_segment(&mut out);
    let at = SegNo(1).start(SIZE) + 500_000;
    out[500_000] = 9;
    (2..=4).for_each(|segno| fs::remove_file(made.path(segno)).unwrap());
    fs::write(made.path(1), &out).unwrap();
    let control = read_control(&OsFs, &made.dir).unwrap().unwrap();
    let mark = |flush_lsn| {
        let mark = DurableMark {
            system_identifier: control.system_identifier,
            timeline: control.timeline,
            flush_lsn,
            lost_to: None,
        };
        write_mark(&OsFs, &made.dir, &mark).unwrap();
    };
    mark(at + 1);
    let damage = made.refused(&ACCEPT_NOTHING);
    assert_eq!(damage.at, at);
    assert!(damage.reason.contains("got byte 09, want 00"), "{}", damage.reason);
    // Nothing said that it was: a crash may have left it.
    mark(at);
    assert_eq!(made.recovered(&ACCEPT_NOTHING).end, SegNo(2).start(SIZE));
    assert!(fs::read(made.path(1)).unwrap()[500_000] == 0);
}

/// What the version before has left has no mark.
#[test]
fn a_directory_without_a_mark_is_started_from_and_gets_one() {
    let made = Made::new(true, 300, 0);
    fs::remove_file(made.dir.join(MARK_FILE)).unwrap();
    let end = made.recovered(&ACCEPT_NOTHING).end;
    assert_eq!(end, made.records[399].1);
    let control = read_control(&OsFs, &made.dir).unwrap().unwrap();
    assert_eq!(read_mark(&OsFs, &made.dir, &control).unwrap().unwrap().flush_lsn, end);
    // One of another timeline says nothing about this one's positions.
    let other = TimelineId::new(7).unwrap();
    let mark = DurableMark {
        system_identifier: control.system_identifier,
        timeline: other,
        flush_lsn: Lsn(u64::MAX / 2),
        lost_to: None,
    };
    write_mark(&OsFs, &made.dir, &mark).unwrap();
    assert_eq!(made.recovered(&ACCEPT_NOTHING).end, end);
}

/// The file system ends every operation from the `left`th on that changes anything, and cannot read one file.
struct Dying {
    left: Mutex<usize>,
    unreadable: Option<PathBuf>,
}

impl Dying {
    fn step(&self) -> io::Result<()> {
        let mut left = self.left.lock().unwrap();
        *left = left.checked_sub(1).ok_or_else(|| io::Error::other("the process was killed"))?;
        Ok(())
    }
}

impl Fs for Dying {
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        OsFs.list(dir)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        OsFs.read(path)
    }

    fn read_at(&self, path: &Path, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.unreadable.as_deref() == Some(path) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        OsFs.read_at(path, offset, buf)
    }

    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.step().and_then(|()| OsFs.write_at(path, offset, bytes))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        OsFs.sync(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        OsFs.sync_dir(path)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step().and_then(|()| OsFs.replace(path, bytes))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step().and_then(|()| OsFs.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| OsFs.remove(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| OsFs.create_dir(path))
    }
}

#[test]
fn killed_at_every_step_of_an_accepted_loss_nothing_is_erased_and_it_ends_the_same() {
    let (mut steps, mut died) = (0, true);
    while died {
        // The proof is a record in a later segment, which is moved aside on the way.
        let made = Made::new(true, 10, 10);
        made.flip(150);
        let (end, before) = (made.records[149].1, made.files());
        let dying = Dying { left: Mutex::new(steps), unreadable: None };
        died = recover_as(&dying, &made.dir, &accept(end)).is_err();
        if died {
            // Nobody says what to do: it is refused, or the loss was accepted before.
            match recover_as(&OsFs, &made.dir, &ACCEPT_NOTHING) {
                Err(RecoverError::Damaged(damage)) => assert_eq!(damage.end, end, "step {steps}"),
                Ok(recovered) => {
                    let wal = recovered.wal.unwrap();
                    assert_eq!(wal.timelines.current.to_u32(), 2, "step {steps}");
                }
                Err(error) => panic!("step {steps}: {error}"),
            }
        }
        let recovered = made.recovered(&accept(end));
        assert_eq!(recovered.end, end, "step {steps}");
        assert!(recovered.timelines.current > TimelineId::FIRST);
        let aside = made.dir.join(format!("damaged.00000001.{:016X}", end.0));
        for segno in 2..=4 {
            let path = made.path(segno);
            let content = &before.iter().find(|(known, _)| *known == path).unwrap().1;
            let kept = fs::read(aside.join(path.file_name().unwrap())).unwrap();
            assert!(kept == *content, "step {steps}, segment {segno}");
        }
        steps += 1;
    }
    assert!(steps > 8, "{steps}");
}
