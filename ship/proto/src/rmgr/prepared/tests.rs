use super::*;

fn prepare(xid: u32, subxacts: &[u32], locks: &[(u32, u32)]) -> XactPrepare {
    let (subxacts, locks) = (subxacts.to_vec(), locks.to_vec());
    XactPrepare { xid, database: 5, subxacts, locks, is_cut: false }
}

fn some() -> PreparedXacts {
    let mut xacts = PreparedXacts::default();
    xacts.prepare(&prepare(700, &[701, 705], &[(5, 16_384), (5, 16_390)]));
    xacts.prepare(&prepare(720, &[], &[]));
    xacts.add_unseen(650);
    xacts.add_unseen_subxids([651, 652].into_iter(), false);
    xacts
}

#[test]
fn all_are_listed_as_running_and_the_oldest_is_the_oldest() {
    let running = some().running((2 << 32) + 800);
    assert_eq!(running.xids, [650, 700, 720]);
    assert_eq!(running.subxids, [701, 705, 651, 652]);
    assert_eq!((running.next_xid, running.oldest_running_xid), (800, 650));
    assert_eq!((running.latest_completed_xid, running.is_overflowed), (799, false));
    let decoded = RunningXacts::decode(0x10, &running.body());
    assert_eq!(decoded, Some(running));
    assert_eq!(PreparedXacts::default().running(800), RunningXacts::none(800));
}

#[test]
fn ids_that_have_wrapped_around_are_younger() {
    let mut xacts = PreparedXacts::default();
    xacts.prepare(&prepare(u32::MAX - 5, &[], &[]));
    xacts.prepare(&prepare(3, &[], &[]));
    let running = xacts.running((1 << 32) + 10);
    assert_eq!(running.xids, [u32::MAX - 5, 3]);
    assert_eq!(running.oldest_running_xid, u32::MAX - 5);
}

#[test]
fn one_with_too_many_subtransactions_leaves_out_those_of_all() {
    let mut xacts = some();
    let many: Vec<u32> = (1000..).take(SUBXIDS_MAX + 1).collect();
    xacts.prepare(&prepare(999, &many[..SUBXIDS_MAX], &[]));
    assert!(!xacts.running(2000).is_overflowed);
    xacts.prepare(&prepare(999, &many, &[]));
    let running = xacts.running(2000);
    assert!(running.is_overflowed && running.subxids.is_empty());
    assert_eq!(running.xids, [650, 700, 720, 999]);
    xacts.remove(999, many.iter().copied());
    assert_eq!(xacts, some());
}

#[test]
fn an_end_takes_subtransactions_and_locks_with_it() {
    let mut xacts = some();
    assert_eq!(xacts.locks().count(), 2);
    assert!(xacts.concern(700, core::iter::empty()) && !xacts.concern(701, [701].into_iter()));
    xacts.remove(700, [701, 705].into_iter());
    assert_eq!(xacts.locks().count(), 0);
    assert_eq!(xacts.running(800).subxids, [651, 652]);
    // Of an unseen one it is known only then which subtransactions were its own.
    assert!(xacts.concern(0, [652].into_iter()));
    xacts.remove(0, [652].into_iter());
    assert_eq!(xacts.running(800).subxids, [651]);
    xacts.remove(650, core::iter::empty());
    assert!(xacts.running(800).subxids.is_empty());
}

#[test]
fn words_round_trip() {
    let mut xacts = some();
    assert_eq!(PreparedXacts::of_words(&xacts.words().unwrap()), Some(xacts.clone()));
    xacts.prepare(&XactPrepare { is_cut: true, ..prepare(800, &[801], &[]) });
    xacts.add_unseen_subxids(core::iter::empty(), true);
    let words = xacts.words().unwrap();
    assert_eq!(PreparedXacts::of_words(&words), Some(xacts));
    for cut in 0..words.len() {
        assert_eq!(PreparedXacts::of_words(&words[..cut]), None);
    }
    assert_eq!(PreparedXacts::of_words(&[0, 0]), Some(PreparedXacts::default()));
}

#[test]
fn where_there_is_no_room_subtransactions_are_left_out_first_and_ids_never() {
    let mut xacts = PreparedXacts::default();
    let subxids: Vec<u32> = (10_000..).take(SUBXIDS_MAX).collect();
    for xid in 100..120 {
        xacts.prepare(&prepare(xid, &subxids, &[(5, xid)]));
    }
    let kept = PreparedXacts::of_words(&xacts.words().unwrap()).unwrap();
    let running = kept.running(20_000);
    assert_eq!(running.xids, xacts.running(20_000).xids);
    assert!(running.is_overflowed && kept.locks().count() == 20);
    for relation in 0..700 {
        xacts.lock(&StandbyLock { xid: 100, database: 5, relation });
    }
    let kept = PreparedXacts::of_words(&xacts.words().unwrap()).unwrap();
    assert_eq!((kept.len(), kept.locks().count()), (20, 0));
    for xid in (1000..).take(PREPARED_MAX - 20) {
        xacts.prepare(&prepare(xid, &[], &[]));
    }
    let kept = PreparedXacts::of_words(&xacts.words().unwrap()).unwrap();
    assert_eq!(kept.len(), PREPARED_MAX);
    xacts.prepare(&prepare(5000, &[], &[]));
    assert_eq!(xacts.words(), None);
}

#[test]
fn no_more_locks_are_kept_than_there_is_room_for() {
    let mut xacts = some();
    for relation in 0..10_000 {
        xacts.lock(&StandbyLock { xid: 720, database: 5, relation });
    }
    assert_eq!(xacts.locks().count(), LOCKS_MAX);
}
