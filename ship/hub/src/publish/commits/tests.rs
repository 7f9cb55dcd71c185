//! Both ends of the queue in one thread, in every order that matters.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot::error::TryRecvError;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::syncrep::{ModeLsns, Synced};

use super::*;

const ON: WaitLevel = WaitLevel::Standbys(WaitMode::Flush);
const APPLY: WaitLevel = WaitLevel::Standbys(WaitMode::Apply);
const NOW: Timestamp = Timestamp(7);

#[derive(Clone, Default)]
struct Wakes(Arc<AtomicUsize>);

impl Waker for Wakes {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Progress of the first generation.
const fn first(synced: Synced) -> SyncProgress {
    SyncProgress { generation: 0, synced }
}

/// The control plane, the wal core and what it has published.
struct Bench {
    commits: Commits,
    link: CommitLink,
    wakes: Wakes,
    flush_lsn: Lsn,
    synced: SyncProgress,
}

impl Bench {
    fn new() -> Self {
        let wakes = Wakes::default();
        let (commits, link) = commits(wakes.clone());
        Self { commits, link, wakes, flush_lsn: Lsn(100), synced: first(Synced::TooFew) }
    }

    fn append(&mut self, owner: u32, wait: Option<WaitLevel>) -> AppendAnswer {
        let append = Append { records: Vec::new(), commit: Some(NOW), wait, owner };
        self.commits.append(append, NOW)
    }

    fn wait(&mut self, owner: u32, lsn: u64, level: WaitLevel) -> oneshot::Receiver<Waited> {
        let positions = (self.flush_lsn, self.synced);
        self.commits.wait(Lsn(lsn), level, owner, NOW, || positions)
    }

    /// The wal core takes one job and answers it.
    fn place(&mut self, end: u64) {
        assert!(self.link.next().is_some(), "no job");
        self.link.answer(Ok(AppendedAt {
            ends: vec![Lsn(end)],
            xid: Some(3),
            ..AppendedAt::end(Lsn(end))
        }));
    }

    /// The wal core publishes that this is durable, and tells of it.
    fn flush(&mut self, lsn: u64) {
        self.flush_lsn = Lsn(lsn);
        self.tell();
    }

    fn sync(&mut self, flush: u64, apply: u64) {
        self.synced.synced = Synced::Reached(ModeLsns::of_wire(Lsn(flush), Lsn(flush), Lsn(apply)));
        self.tell();
    }

    fn tell(&mut self) {
        if self.link.must_tell() {
            self.look();
        }
    }

    fn look(&mut self) {
        let positions = (self.flush_lsn, self.synced);
        self.commits.look(|| positions);
    }

    /// Nobody is registered any more: the wal core has no one to tell.
    fn assert_idle(&mut self) {
        self.look();
        assert!(!self.link.must_tell(), "somebody is still registered");
        assert_eq!(self.commits.waiters().count(), 0);
        assert!(self.commits.waiting.is_empty() && self.commits.requests.is_empty());
        assert_eq!((self.commits.in_queue, self.commits.backlog.len()), (0, 0));
    }
}

fn is_pending<T: fmt::Debug>(answer: &mut oneshot::Receiver<T>) -> bool {
    matches!(answer.try_recv(), Err(TryRecvError::Empty))
}

/// The end and how the wait ended; panics while there is no answer.
fn appended(answer: &mut AppendAnswer) -> (u64, Waited) {
    let appended = answer.try_recv().expect("an answer").expect("no error");
    (appended.end.0, appended.waited)
}

#[test]
fn answers_go_to_those_who_asked_in_their_order() {
    let mut bench = Bench::new();
    let mut answers: Vec<AppendAnswer> = (1..=5).map(|owner| bench.append(owner, None)).collect();
    for end in [10, 20, 30] {
        bench.place(end);
    }
    bench.tell();
    for (answer, end) in answers.iter_mut().zip([10, 20, 30]) {
        assert_eq!(appended(answer), (end, Waited::Reached));
    }
    assert!(answers[3..].iter_mut().all(is_pending));
    bench.place(40);
    bench.place(50);
    bench.tell();
    assert_eq!(appended(&mut answers[4]), (50, Waited::Reached));
    assert_eq!(appended(&mut answers[3]), (40, Waited::Reached));
    bench.assert_idle();
}

#[test]
fn only_who_waits_for_the_place_alone_is_urgent() {
    let mut bench = Bench::new();
    for (wait, urgent) in [(None, true), (Some(WaitLevel::LocalFlush), false), (Some(ON), false)] {
        let _answer = bench.append(1, wait);
        let Some(Job::Append { is_urgent, .. }) = bench.link.next() else { panic!("no append") };
        assert_eq!(is_urgent, urgent);
    }
}

#[test]
fn only_remote_apply_asks_standbys_to_tell_at_once() {
    let mut bench = Bench::new();
    for (wait, feedback) in [(None, false), (Some(ON), false), (Some(APPLY), true)] {
        let _answer = bench.append(1, wait);
        let Some(Job::Append { commit, .. }) = bench.link.next() else { panic!("no append") };
        assert_eq!(commit, Some((NOW, feedback)));
    }
}

#[test]
fn a_local_commit_waits_for_the_own_disk_only() {
    let mut bench = Bench::new();
    let mut answer = bench.append(1, Some(WaitLevel::LocalFlush));
    bench.place(200);
    bench.look();
    assert!(is_pending(&mut answer));
    bench.flush(199);
    assert!(is_pending(&mut answer));
    bench.flush(200);
    assert_eq!(appended(&mut answer), (200, Waited::Reached));
    bench.assert_idle();
}

#[test]
fn what_is_durable_before_the_answer_is_taken_is_not_waited_for() {
    let mut bench = Bench::new();
    let mut answer = bench.append(1, Some(WaitLevel::LocalFlush));
    bench.place(200);
    bench.flush(300);
    assert_eq!(appended(&mut answer), (200, Waited::Reached));
    bench.assert_idle();
}

#[test]
fn a_commit_waits_for_the_own_disk_however_fast_standbys_are() {
    let mut bench = Bench::new();
    let mut answer = bench.append(1, Some(ON));
    bench.place(200);
    bench.sync(200, 0);
    assert!(is_pending(&mut answer));
    bench.flush(200);
    assert_eq!(appended(&mut answer), (200, Waited::Reached));
    bench.assert_idle();
}

#[test]
fn each_level_is_released_by_its_own_position() {
    let mut bench = Bench::new();
    let (mut on, mut apply) = (bench.append(1, Some(ON)), bench.append(2, Some(APPLY)));
    bench.place(200);
    bench.place(210);
    bench.flush(210);
    assert!(is_pending(&mut on) && is_pending(&mut apply));
    bench.sync(210, 0);
    assert_eq!(appended(&mut on), (200, Waited::Reached));
    assert!(is_pending(&mut apply));
    bench.sync(210, 209);
    assert!(is_pending(&mut apply));
    bench.sync(210, 210);
    assert_eq!(appended(&mut apply), (210, Waited::Reached));
    bench.assert_idle();
}

#[test]
fn too_few_standbys_release_nobody_and_an_empty_list_everybody() {
    let mut bench = Bench::new();
    let mut answers: Vec<AppendAnswer> =
        [(1, ON), (2, APPLY)].map(|(owner, level)| bench.append(owner, Some(level))).into();
    bench.place(200);
    bench.place(210);
    bench.flush(300);
    bench.tell();
    assert!(answers.iter_mut().all(is_pending));
    bench.synced = first(Synced::Undefined);
    bench.tell();
    assert_eq!(appended(&mut answers[0]), (200, Waited::Reached));
    assert_eq!(appended(&mut answers[1]), (210, Waited::Reached));
    bench.assert_idle();
}

#[test]
fn an_empty_list_does_not_release_what_is_not_durable_here() {
    let mut bench = Bench::new();
    let mut answer = bench.append(1, Some(ON));
    bench.place(200);
    bench.synced = first(Synced::Undefined);
    bench.tell();
    assert!(is_pending(&mut answer));
    bench.flush(200);
    assert_eq!(appended(&mut answer), (200, Waited::Reached));
}

#[test]
fn what_was_reached_stays_reached_when_standbys_go_away() {
    let mut bench = Bench::new();
    let _interested = bench.wait(9, 1 << 40, ON);
    bench.flush(300);
    bench.sync(250, 0);
    bench.synced = first(Synced::TooFew);
    bench.tell();
    let (mut reached, mut not) = (bench.append(1, Some(ON)), bench.append(2, Some(ON)));
    bench.place(250);
    bench.place(260);
    bench.look();
    assert_eq!(appended(&mut reached), (250, Waited::Reached));
    assert!(is_pending(&mut not));
}

#[test]
fn a_cancel_before_the_place_is_known_leaves_the_own_disk_to_wait_for() {
    let mut bench = Bench::new();
    let (mut canceled, mut other) = (bench.append(1, Some(ON)), bench.append(2, Some(ON)));
    bench.commits.cancel(1);
    bench.place(200);
    bench.place(210);
    bench.look();
    assert!(is_pending(&mut canceled));
    bench.flush(210);
    assert_eq!(appended(&mut canceled), (200, Waited::Canceled));
    assert!(is_pending(&mut other));
    bench.sync(210, 0);
    assert_eq!(appended(&mut other), (210, Waited::Reached));
    bench.assert_idle();
}

#[test]
fn a_cancel_before_the_local_flush_is_answered_after_it() {
    let mut bench = Bench::new();
    let mut answer = bench.append(1, Some(APPLY));
    bench.place(200);
    bench.look();
    bench.commits.cancel(1);
    // Once more changes nothing.
    bench.commits.cancel(1);
    assert!(is_pending(&mut answer));
    bench.flush(200);
    assert_eq!(appended(&mut answer), (200, Waited::Canceled));
    bench.assert_idle();
}

#[test]
fn a_cancel_after_the_local_flush_is_answered_at_once() {
    let mut bench = Bench::new();
    let mut answer = bench.append(1, Some(ON));
    bench.place(200);
    bench.flush(200);
    assert!(is_pending(&mut answer));
    bench.commits.cancel(1);
    assert_eq!(appended(&mut answer), (200, Waited::Canceled));
    bench.assert_idle();
}

#[test]
fn a_cancel_of_a_local_commit_does_nothing() {
    let mut bench = Bench::new();
    let mut answer = bench.append(1, Some(WaitLevel::LocalFlush));
    bench.commits.cancel(1);
    bench.place(200);
    bench.look();
    bench.commits.cancel(1);
    assert!(is_pending(&mut answer));
    bench.flush(200);
    assert_eq!(appended(&mut answer), (200, Waited::Reached));
    bench.assert_idle();
}

#[test]
fn a_canceled_commit_that_reached_its_level_all_the_same_is_reached() {
    for standbys_matter in [true, false] {
        let mut bench = Bench::new();
        let (mut early, mut late) = (bench.append(1, Some(ON)), bench.append(2, Some(ON)));
        bench.commits.cancel(1);
        bench.place(200);
        bench.place(210);
        bench.look();
        bench.commits.cancel(2);
        if standbys_matter {
            bench.sync(210, 0);
        } else {
            bench.synced = first(Synced::Undefined);
        }
        bench.flush(210);
        assert_eq!(appended(&mut early), (200, Waited::Reached));
        assert_eq!(appended(&mut late), (210, Waited::Reached));
        bench.assert_idle();
    }
}

#[test]
fn a_cancel_of_a_session_that_does_not_wait_does_nothing() {
    let mut bench = Bench::new();
    let mut answer = bench.append(1, Some(ON));
    bench.commits.cancel(2);
    bench.place(200);
    bench.flush(200);
    bench.sync(200, 0);
    assert_eq!(appended(&mut answer), (200, Waited::Reached));
    bench.commits.cancel(1);
    // What was cancelled before is not cancelled for ever.
    let mut again = bench.append(1, Some(ON));
    bench.place(210);
    bench.flush(210);
    bench.sync(210, 0);
    assert_eq!(appended(&mut again), (210, Waited::Reached));
    bench.assert_idle();
}

#[test]
fn a_plain_wait_is_left_at_once() {
    for level in [WaitLevel::LocalFlush, ON] {
        let mut bench = Bench::new();
        let mut answer = bench.wait(1, 200, level);
        assert!(is_pending(&mut answer));
        bench.commits.cancel(1);
        assert_eq!(answer.try_recv(), Ok(Waited::Canceled));
        bench.assert_idle();
    }
}

#[test]
fn a_plain_wait_ends_at_its_position_or_was_over_before() {
    let mut bench = Bench::new();
    assert_eq!(bench.wait(1, 100, WaitLevel::LocalFlush).try_recv(), Ok(Waited::Reached));
    let mut local = bench.wait(1, 101, WaitLevel::LocalFlush);
    let mut on = bench.wait(2, 101, ON);
    bench.flush(101);
    assert_eq!(local.try_recv(), Ok(Waited::Reached));
    assert!(is_pending(&mut on));
    bench.sync(101, 0);
    assert_eq!(on.try_recv(), Ok(Waited::Reached));
    bench.assert_idle();
}

#[test]
fn a_wait_looks_at_positions_only_after_it_is_registered() {
    let mut bench = Bench::new();
    // The position moves, and nobody is told, right before the look.
    assert!(!bench.link.must_tell());
    let link = &bench.link;
    let mut told = None;
    let answer = bench.commits.wait(Lsn(200), WaitLevel::LocalFlush, 1, NOW, || {
        told = Some(link.must_tell());
        (Lsn(100), first(Synced::Undefined))
    });
    assert_eq!(told, Some(true));
    drop(answer);
}

#[test]
fn one_tell_is_enough_until_the_next_look() {
    let mut bench = Bench::new();
    let _answer = bench.wait(1, 200, WaitLevel::LocalFlush);
    assert!(bench.link.must_tell());
    assert!(!bench.link.must_tell());
    bench.look();
    assert!(bench.link.must_tell());
    bench.flush_lsn = Lsn(200);
    bench.look();
    assert!(!bench.link.must_tell());
}

#[test]
fn what_is_too_much_for_the_queue_waits_and_keeps_its_order() {
    let mut bench = Bench::new();
    let count = APPENDS_MAX + 10;
    let mut answers: Vec<AppendAnswer> = (0..count)
        .map(|owner| bench.append(u32::try_from(owner).unwrap(), Some(WaitLevel::LocalFlush)))
        .collect();
    assert_eq!((bench.commits.in_queue, bench.commits.backlog.len()), (APPENDS_MAX, 10));
    assert_eq!(bench.wakes.0.load(Ordering::Relaxed), APPENDS_MAX);
    let mut end = 1000;
    // All answers have room, though nobody has looked.
    for _ in 0..APPENDS_MAX {
        end += 8;
        bench.place(end);
    }
    assert!(bench.link.next().is_none());
    bench.flush(end);
    for _ in 0..10 {
        end += 8;
        bench.place(end);
    }
    bench.flush(end);
    for (index, answer) in answers.iter_mut().enumerate() {
        let want = 1000 + 8 * (u64::try_from(index).unwrap() + 1);
        assert_eq!(appended(answer), (want, Waited::Reached));
    }
    bench.assert_idle();
}

#[test]
fn an_error_is_the_answer_and_nothing_is_waited_for() {
    let mut bench = Bench::new();
    let (mut append, mut after) = (bench.append(1, Some(ON)), bench.append(2, None));
    let mut switch = bench.commits.wal(WalRequest::SwitchSegment, NOW);
    let report =
        Report::fatal(SqlState::CANNOT_CONNECT_NOW, "the database system is shutting down");
    assert!(bench.link.next().is_some());
    bench.link.answer(Err(report.clone()));
    bench.place(200);
    assert!(bench.link.next().is_some());
    bench.link.answer(Err(report.clone()));
    bench.tell();
    assert_eq!(append.try_recv().unwrap(), Err(report.clone()));
    assert_eq!(appended(&mut after), (200, Waited::Reached));
    assert_eq!(switch.try_recv().unwrap(), Err(report));
    bench.assert_idle();
}

#[test]
fn a_checkpoint_and_a_switch_are_answered_when_they_are_durable() {
    let mut bench = Bench::new();
    let mut switch = bench.commits.wal(WalRequest::SwitchSegment, NOW);
    let mut checkpoint = bench.commits.wal(WalRequest::Checkpoint, NOW);
    bench.place(200);
    bench.place(300);
    bench.tell();
    assert!(is_pending(&mut switch) && is_pending(&mut checkpoint));
    bench.flush(200);
    assert_eq!(switch.try_recv().unwrap(), Ok(Lsn(200)));
    assert!(is_pending(&mut checkpoint));
    bench.flush(300);
    assert_eq!(checkpoint.try_recv().unwrap(), Ok(Lsn(300)));
    bench.assert_idle();
}

#[test]
fn a_session_that_is_gone_leaves_nothing_behind() {
    let mut bench = Bench::new();
    drop(bench.append(1, None));
    drop(bench.append(2, Some(ON)));
    drop(bench.append(3, Some(WaitLevel::LocalFlush)));
    drop(bench.wait(4, 500, ON));
    for end in [200, 210, 220] {
        bench.place(end);
    }
    bench.flush(220);
    // A session that ends gives up its wait.
    bench.commits.cancel(2);
    bench.commits.cancel(4);
    bench.assert_idle();
}

#[test]
fn waiters_are_shown_with_what_they_wait_for() {
    let mut bench = Bench::new();
    let _answers = [bench.append(1, Some(ON)), bench.append(2, Some(WaitLevel::LocalFlush))];
    assert_eq!(bench.commits.waiters().count(), 0);
    bench.place(200);
    bench.place(210);
    bench.look();
    let rows: Vec<_> =
        bench.commits.waiters().map(|(level, lsn, w)| (level, lsn.0, w.owner, w.since)).collect();
    let local = (WaitLevel::LocalFlush, 210, Some(2), NOW);
    assert_eq!(rows, [local, (ON, 200, Some(1), NOW)]);
}
