//! The `n`-th latest of many positions, always at hand while they grow.
//!
//! The `n` latest are held in order; the earliest of them is the one asked for. The others are not
//! beyond it, and stay unordered until one of them passes it and takes its place. A held position
//! that grows is left where it is until it comes first, and gets its new entry then. So a move costs
//! a comparison, or one new entry, whoever it is that moves: also when all take turns.
//!
//! A new entry is nearly always the last: standbys follow the same WAL, and a reply is rarely
//! behind what another standby has said before. Such places are in a queue; the others are in a
//! heap, so that no order of replies costs more than its height.
//!
//! PostgreSQL: `SyncRepGetNthLatestSyncRecPtr` (src/backend/replication/syncrep.c) sorts all of
//! them at each reply.

use alloc::collections::{BinaryHeap, VecDeque};
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::lsn::Lsn;

/// What a slot is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// Its position is not one of those asked about.
    Outside,
    /// Not among the `n` latest.
    Below,
    /// Among the `n` latest.
    Held,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    lsn: Lsn,
    role: Role,
}

/// A held member, and where it was when it got its entry.
type Entry = (Lsn, usize);

/// The `n`-th latest position of those that were given, each known by the slot of its standby;
/// [`Lsn::INVALID`] is before every position.
///
/// Invariants, while it is not stale:
/// - `n` members are held, each with one entry, in the queue or in the heap.
/// - No entry is later than its member is now; those in the queue are in order.
/// - No member below is beyond one that is held.
#[derive(Clone, Debug)]
pub(super) struct NthLatest {
    n: usize,
    members: Vec<Member>,
    queue: VecDeque<Entry>,
    heap: BinaryHeap<Reverse<Entry>>,
    /// A held member has fallen back: another one may belong in its place.
    is_stale: bool,
    /// Reused by every start from nothing.
    all: Vec<Entry>,
}

impl NthLatest {
    /// Of no positions.
    pub(super) const fn new() -> Self {
        Self {
            n: 0,
            members: Vec::new(),
            queue: VecDeque::new(),
            heap: BinaryHeap::new(),
            is_stale: false,
            all: Vec::new(),
        }
    }

    /// Begins anew with the positions of these slots.
    ///
    /// # Panics
    /// If `n` is zero, or there are not as many.
    pub(super) fn restart(&mut self, n: usize, lsns: impl Iterator<Item = (usize, Lsn)>) {
        self.members.clear();
        for (index, lsn) in lsns {
            if index >= self.members.len() {
                let outside = Member { lsn: Lsn::INVALID, role: Role::Outside };
                self.members.resize(index + 1, outside);
            }
            self.members[index] = Member { lsn, role: Role::Below };
        }
        self.n = n;
        self.rebuild();
    }

    /// The position of a member is another one now.
    ///
    /// # Panics
    /// If it was not given at the start.
    pub(super) fn handle_move(&mut self, index: usize, lsn: Lsn) {
        let member = &mut self.members[index];
        let old = core::mem::replace(&mut member.lsn, lsn);
        match member.role {
            Role::Outside => panic!("slot {index} is not a member"),
            Role::Held => self.is_stale |= lsn < old,
            Role::Below if self.is_stale => {}
            Role::Below => {
                // The first entry is at most what its member has reached: often there is no need to
                // look at that.
                if lsn > self.first().0 && lsn > self.settle() {
                    let (_, passed) = self.take_first();
                    self.members[passed].role = Role::Below;
                    self.members[index].role = Role::Held;
                    self.put((lsn, index));
                }
            }
        }
    }

    /// The `n`-th latest.
    ///
    /// # Panics
    /// If there never were any positions.
    pub(super) fn lsn(&mut self) -> Lsn {
        if self.is_stale {
            self.rebuild();
        }
        self.settle()
    }

    /// Asserts the invariants.
    ///
    /// # Panics
    /// If one does not hold.
    pub(super) fn check(&self) {
        let of_role = |role| self.members.iter().filter(move |member| member.role == role);
        assert_eq!(of_role(Role::Held).count(), self.n);
        assert!(self.queue.iter().is_sorted_by_key(|(lsn, _)| lsn));
        let in_heap = self.heap.iter().map(|Reverse(entry)| entry);
        let mut indexes = Vec::from_iter(self.queue.iter().chain(in_heap).map(|(_, index)| *index));
        indexes.sort_unstable();
        assert!(indexes.len() == self.n && indexes.is_sorted_by(|one, next| one < next));
        assert!(indexes.iter().all(|index| self.members[*index].role == Role::Held));
        if self.is_stale {
            return;
        }
        let in_heap = self.heap.iter().map(|Reverse(entry)| entry);
        let mut places = self.queue.iter().chain(in_heap);
        assert!(places.all(|(lsn, index)| *lsn <= self.members[*index].lsn));
        let earliest = of_role(Role::Held).map(|member| member.lsn).min();
        assert!(of_role(Role::Below).all(|member| Some(member.lsn) <= earliest));
    }

    /// Finds the `n` latest among all.
    fn rebuild(&mut self) {
        self.is_stale = false;
        self.queue.clear();
        self.heap.clear();
        self.all.clear();
        for (index, member) in self.members.iter_mut().enumerate() {
            if member.role != Role::Outside {
                member.role = Role::Below;
                self.all.push((member.lsn, index));
            }
        }
        let below = self.all.len().checked_sub(self.n).filter(|_| self.n > 0);
        let Some(below) = below else { panic!("{} of {} positions", self.n, self.all.len()) };
        if below > 0 {
            self.all.select_nth_unstable(below);
        }
        let held = self.all.drain(below..);
        self.heap.extend(held.map(Reverse));
        for Reverse((_, index)) in &self.heap {
            self.members[*index].role = Role::Held;
        }
    }

    /// Sees to it that the first entry is where its member is, and returns that. Each new entry that
    /// this takes was saved when the member moved.
    fn settle(&mut self) -> Lsn {
        loop {
            let (lsn, index) = self.first();
            let now = self.members[index].lsn;
            if now == lsn {
                return lsn;
            }
            self.take_first();
            self.put((now, index));
        }
    }

    fn first(&self) -> Entry {
        let in_heap = self.heap.peek().map(|Reverse(entry)| entry);
        let first = if self.is_first_in_heap() { in_heap } else { self.queue.front() };
        *first.expect("somebody is held")
    }

    fn take_first(&mut self) -> Entry {
        let first = if self.is_first_in_heap() {
            self.heap.pop().map(|Reverse(entry)| entry)
        } else {
            self.queue.pop_front()
        };
        first.expect("somebody is held")
    }

    fn is_first_in_heap(&self) -> bool {
        match (self.heap.peek(), self.queue.front()) {
            (Some(Reverse(in_heap)), Some(in_queue)) => in_heap < in_queue,
            (in_heap, _) => in_heap.is_some(),
        }
    }

    fn put(&mut self, entry: Entry) {
        if self.queue.back().is_none_or(|(last, _)| *last <= entry.0) {
            self.queue.push_back(entry);
        } else {
            self.heap.push(Reverse(entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec;

    use super::*;

    fn lsns(lsns: &[u64]) -> impl Iterator<Item = (usize, Lsn)> {
        lsns.iter().enumerate().map(|(index, lsn)| (index, Lsn(*lsn)))
    }

    /// As PostgreSQL does it: `SyncRepGetNthLatestSyncRecPtr`.
    fn nth(lsns: &[u64], n: usize) -> Lsn {
        let mut sorted = lsns.to_vec();
        sorted.sort_unstable_by(|one, other| other.cmp(one));
        Lsn(sorted[n - 1])
    }

    #[test]
    fn members_may_have_slots_with_gaps() {
        let mut latest = NthLatest::new();
        latest.restart(2, [(7, Lsn(5)), (0, Lsn(9)), (3, Lsn(8))].into_iter());
        assert_eq!(latest.lsn(), Lsn(8));
        latest.handle_move(7, Lsn(11));
        assert_eq!(latest.lsn(), Lsn(9));
        latest.restart(1, [(1, Lsn::INVALID)].into_iter());
        latest.check();
        assert_eq!(latest.lsn(), Lsn::INVALID);
    }

    #[test]
    #[should_panic(expected = "slot 1 is not a member")]
    fn who_is_no_member_may_not_move() {
        let mut latest = NthLatest::new();
        latest.restart(1, [(0, Lsn(5)), (2, Lsn(9))].into_iter());
        latest.handle_move(1, Lsn(7));
    }

    #[test]
    fn every_member_takes_turns_with_ever_new_positions() {
        const ROUNDS: u64 = if cfg!(miri) { 3 } else { 20 };
        let counts: &[usize] = if cfg!(miri) { &[1, 2, 6] } else { &[1, 2, 5, 6, 21, 100] };
        for &count in counts {
            for n in [1, count / 2 + 1, count] {
                let mut now = vec![1; count];
                let mut latest = NthLatest::new();
                latest.restart(n, lsns(&now));
                for lsn in 2..2 + ROUNDS * u64::try_from(count).unwrap() {
                    let index = usize::try_from(lsn).unwrap() * 7 % count;
                    now[index] = lsn;
                    latest.handle_move(index, Lsn(lsn));
                    assert_eq!(latest.lsn(), nth(&now, n));
                }
                latest.check();
            }
        }
    }

    const MOVES_MAX: usize = if cfg!(miri) { 30 } else { 600 };

    proptest! {
        /// Positions that grow, mostly; one in 16 falls back. Whoever looks does so now and then.
        #[test]
        fn it_is_the_one_of_sort_and_pick(
            mut now in prop::collection::vec(0..20_u64, 1..40),
            n in any::<prop::sample::Index>(),
            moves in prop::collection::vec((any::<prop::sample::Index>(), 0..16_u64, 0..8_u8), 0..MOVES_MAX),
        ) {
            let n = n.index(now.len()) + 1;
            let mut latest = NthLatest::new();
            latest.restart(n, lsns(&now));
            for (index, by, look) in moves {
                let index = index.index(now.len());
                now[index] = if by == 0 { now[index] / 2 } else { now[index] + by - 1 };
                latest.handle_move(index, Lsn(now[index]));
                latest.check();
                if look == 0 {
                    prop_assert_eq!(latest.lsn(), nth(&now, n));
                }
            }
            prop_assert_eq!(latest.lsn(), nth(&now, n));
            latest.check();
        }
    }

    #[test]
    #[should_panic(expected = "0 of 2 positions")]
    fn there_is_no_0th_latest() {
        NthLatest::new().restart(0, [(0, Lsn(1)), (1, Lsn(2))].into_iter());
    }

    #[test]
    #[should_panic(expected = "left: 0")]
    fn the_check_notices_a_member_that_is_held_and_not_counted() {
        let mut latest = NthLatest::new();
        latest.restart(1, [(0, Lsn(1)), (1, Lsn(2))].into_iter());
        latest.members[1].role = Role::Below;
        latest.check();
    }
}
