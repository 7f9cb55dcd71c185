//! Turns completions into contiguous `write_lsn` and `flush_lsn`.
//!
//! Writes to a segment may complete in any order; a flush covers only writes completed before it
//! was *submitted*. This module is the sole authority on what is durable.
//!
//! Not here: submitting anything (the daemon's `hub`), segment names (`segment`).
//!
//! PostgreSQL: `XLogWrite`, `issue_xlog_fsync` (src/backend/access/transam/xlog.c).

use alloc::vec::Vec;

use crate::lsn::{Lsn, LsnRange};

/// Ranges that may wait for an earlier one: more writes than that are never in flight.
pub const PENDING_RANGES_MAX: usize = 4096;

/// Ranges that grow together from one end.
///
/// Invariant: `pending` is sorted, disjoint, not empty anywhere, and starts after `end`.
#[derive(Clone, Debug)]
struct Contiguous {
    end: Lsn,
    pending: Vec<LsnRange>,
}

impl Contiguous {
    const fn new(end: Lsn) -> Self {
        Self { end, pending: Vec::new() }
    }

    fn insert(&mut self, range: LsnRange) {
        if range.is_empty() {
            return;
        }
        assert!(range.start >= self.end, "{range:?} before {}", self.end);
        let at = self.pending.partition_point(|other| other.start < range.start);
        let before = at.checked_sub(1).and_then(|at| self.pending.get(at));
        assert!(before.is_none_or(|other| other.end <= range.start), "{range:?} twice");
        assert!(
            self.pending.get(at).is_none_or(|other| range.end <= other.start),
            "{range:?} twice"
        );
        self.pending.insert(at, range);
        self.advance();
        assert!(self.pending.len() <= PENDING_RANGES_MAX, "too many writes out of order");
    }

    /// Everything before `end` is in.
    fn extend_to(&mut self, end: Lsn) {
        self.end = self.end.max(end);
        self.advance();
    }

    /// Takes up ranges that the end has reached.
    fn advance(&mut self) {
        let end = &mut self.end;
        let reached = self.pending.iter().take_while(|range| {
            let reached = range.start <= *end;
            if reached {
                *end = range.end.max(*end);
            }
            reached
        });
        let reached = reached.count();
        self.pending.drain(..reached);
    }

    fn truncate(&mut self, end: Lsn) {
        self.end = self.end.min(end);
        self.pending.retain_mut(|range| {
            range.end = range.end.min(end);
            range.start < range.end
        });
    }

    fn check(&self) {
        let mut end = self.end;
        for range in &self.pending {
            assert!(range.start > end || (range.start == end && end != self.end), "{self:?}");
            assert!(range.end > range.start, "{self:?}");
            end = range.end;
        }
    }
}

/// A flush that was submitted, and what it covers once it completes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a flush that is not reported covers nothing"]
pub struct FlushTicket {
    covers: Lsn,
    generation: u64,
}

impl FlushTicket {
    /// End of what it covers.
    #[must_use]
    pub const fn covers(self) -> Lsn {
        self.covers
    }
}

/// Contiguous progress of one timeline on local disk.
///
/// Invariants:
/// - `flush_lsn <= write_lsn`.
/// - Both only grow, except through [`WriteProgress::truncate`].
#[derive(Clone, Debug)]
pub struct WriteProgress {
    written: Contiguous,
    durable: Contiguous,
    /// Grows with each truncation: a flush from before says nothing about what was rewritten.
    generation: u64,
}

impl WriteProgress {
    /// Everything before `durable` is on disk already, and nothing after it.
    #[must_use]
    pub const fn new(durable: Lsn) -> Self {
        Self { written: Contiguous::new(durable), durable: Contiguous::new(durable), generation: 0 }
    }

    /// End of what was written without a gap.
    #[must_use]
    pub const fn write_lsn(&self) -> Lsn {
        self.written.end
    }

    /// End of what is durable without a gap.
    #[must_use]
    pub const fn flush_lsn(&self) -> Lsn {
        self.durable.end
    }

    /// Records that `range` reached the page cache or the device.
    ///
    /// Returns the new `write_lsn` when it moved.
    ///
    /// # Panics
    /// If `range` overlaps a range already recorded: the caller submitted it twice.
    pub fn handle_written(&mut self, range: LsnRange) -> Option<Lsn> {
        let before = self.write_lsn();
        self.written.insert(range);
        (self.write_lsn() > before).then_some(self.write_lsn())
    }

    /// Records that `range` was written by a write that is durable by itself (`RWF_DSYNC`).
    ///
    /// Returns the new `flush_lsn` when it moved; `write_lsn` may have moved too.
    ///
    /// # Panics
    /// As [`WriteProgress::handle_written`].
    pub fn handle_written_durably(&mut self, range: LsnRange) -> Option<Lsn> {
        let before = self.flush_lsn();
        self.written.insert(range);
        self.durable.insert(range);
        (self.flush_lsn() > before).then_some(self.flush_lsn())
    }

    /// A flush is submitted now: it covers what is written now, and no write still in flight.
    pub const fn begin_flush(&self) -> FlushTicket {
        FlushTicket { covers: self.written.end, generation: self.generation }
    }

    /// Records that the flush of `ticket` succeeded.
    ///
    /// Returns the new `flush_lsn` when it moved. A flush from before a truncation moves nothing.
    pub fn handle_flushed(&mut self, ticket: FlushTicket) -> Option<Lsn> {
        if ticket.generation != self.generation {
            return None;
        }
        let before = self.flush_lsn();
        self.durable.extend_to(ticket.covers);
        (self.flush_lsn() > before).then_some(self.flush_lsn())
    }

    /// Forgets everything at and after `end`: it will be written again.
    pub fn truncate(&mut self, end: Lsn) {
        self.written.truncate(end);
        self.durable.truncate(end);
        self.generation += 1;
    }

    /// Asserts the invariants.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        self.written.check();
        self.durable.check();
        assert!(self.flush_lsn() <= self.write_lsn(), "{self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    fn range(start: u64, end: u64) -> LsnRange {
        LsnRange::new(Lsn(start), Lsn(end))
    }

    #[test]
    fn a_flush_does_not_cover_a_write_that_completes_after_its_submission() {
        let mut progress = WriteProgress::new(Lsn(100));
        assert_eq!(progress.handle_written(range(100, 200)), Some(Lsn(200)));
        let ticket = progress.begin_flush();
        assert_eq!(progress.handle_written(range(200, 300)), Some(Lsn(300)));
        assert_eq!(progress.handle_flushed(ticket), Some(Lsn(200)));
        assert_eq!((progress.write_lsn(), progress.flush_lsn()), (Lsn(300), Lsn(200)));
        assert_eq!(progress.handle_flushed(ticket), None);
    }

    #[test]
    fn a_gap_holds_both_positions_back() {
        let mut progress = WriteProgress::new(Lsn(0));
        assert_eq!(progress.handle_written(range(10, 20)), None);
        assert_eq!(progress.begin_flush().covers(), Lsn(0));
        assert_eq!(progress.handle_written_durably(range(20, 30)), None);
        assert_eq!(progress.handle_written(range(0, 10)), Some(Lsn(30)));
        assert_eq!(progress.flush_lsn(), Lsn(0));
        let ticket = progress.begin_flush();
        assert_eq!(progress.handle_flushed(ticket), Some(Lsn(30)));
    }

    #[test]
    fn a_flush_from_before_a_truncation_covers_nothing_that_was_rewritten() {
        let mut progress = WriteProgress::new(Lsn(0));
        progress.handle_written(range(0, 50));
        let ticket = progress.begin_flush();
        progress.truncate(Lsn(20));
        progress.handle_written(range(20, 50));
        assert_eq!(progress.handle_flushed(ticket), None);
        assert_eq!(progress.flush_lsn(), Lsn(0));
    }

    #[test]
    fn a_durable_write_moves_both_positions_and_says_so() {
        let mut progress = WriteProgress::new(Lsn(0));
        assert_eq!(progress.handle_written_durably(range(0, 10)), Some(Lsn(10)));
        assert_eq!((progress.write_lsn(), progress.flush_lsn()), (Lsn(10), Lsn(10)));
        assert_eq!(progress.handle_written_durably(range(20, 30)), None);
    }

    #[test]
    fn the_check_notices_what_must_not_be() {
        let fails = |written: Contiguous, durable: Contiguous| {
            let progress = WriteProgress { written, durable, generation: 0 };
            std::panic::catch_unwind(|| progress.check()).is_err()
        };
        let upto =
            |end, pending: &[LsnRange]| Contiguous { end: Lsn(end), pending: pending.to_vec() };
        assert!(!fails(upto(10, &[range(20, 30)]), upto(10, &[])));
        assert!(fails(upto(10, &[]), upto(20, &[])), "durable and not written");
        assert!(fails(upto(10, &[range(10, 20)]), upto(10, &[])), "reached and not taken up");
        assert!(fails(upto(10, &[range(30, 40), range(20, 30)]), upto(10, &[])), "not sorted");
        assert!(fails(upto(10, &[range(20, 20)]), upto(10, &[])), "empty");
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn a_range_recorded_twice_is_our_mistake() {
        let mut progress = WriteProgress::new(Lsn(0));
        progress.handle_written(range(10, 20));
        progress.handle_written(range(15, 25));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Write { at: usize, durable: bool },
        BeginFlush,
        EndFlush(usize),
        Truncate(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (0..4_usize, any::<bool>()).prop_map(|(at, durable)| Op::Write { at, durable }),
            2 => Just(Op::BeginFlush),
            2 => (0..3_usize).prop_map(Op::EndFlush),
            1 => (0..40_u64).prop_map(Op::Truncate),
        ]
    }

    const BYTES: usize = 256;

    fn leading(bytes: &[bool]) -> Lsn {
        Lsn(bytes.iter().take_while(|set| **set).count() as u64)
    }

    proptest! {
        /// The model: one flag a byte for "written" and one for "durable"; a flush, when it ends,
        /// makes durable the leading run of bytes that were written when it began.
        #[test]
        fn positions_equal_those_of_a_bitmap(ops in prop::collection::vec(op(), 0..200)) {
            let mut progress = WriteProgress::new(Lsn(0));
            let (mut written, mut durable) = ([false; BYTES], [false; BYTES]);
            let mut next = 0_u64;
            let mut in_flight: Vec<LsnRange> = vec![];
            let mut flushes: Vec<(FlushTicket, u64, usize)> = vec![];
            let mut truncations = 0;
            for op in ops {
                while in_flight.len() < 4 && next + 3 < BYTES as u64 {
                    let len = 1 + next % 3;
                    in_flight.push(range(next, next + len));
                    next += len;
                }
                match op {
                    Op::Write { at, durable: by_itself } if at < in_flight.len() => {
                        let range = in_flight.remove(at);
                        for byte in range.start.0..range.end.0 {
                            written[byte as usize] = true;
                            durable[byte as usize] |= by_itself;
                        }
                        if by_itself {
                            progress.handle_written_durably(range);
                        } else {
                            progress.handle_written(range);
                        }
                    }
                    Op::BeginFlush => {
                        let covered = leading(&written).0 as usize;
                        flushes.push((progress.begin_flush(), truncations, covered));
                    }
                    Op::EndFlush(at) if at < flushes.len() => {
                        let (ticket, at_truncation, covered) = flushes.remove(at);
                        if at_truncation == truncations {
                            durable[..covered].fill(true);
                        }
                        progress.handle_flushed(ticket);
                    }
                    Op::Truncate(back) => {
                        // Writes in flight are drained first, as the hub does.
                        in_flight.clear();
                        let end = next.saturating_sub(back).min(leading(&written).0);
                        written[end as usize..].fill(false);
                        durable[end as usize..].fill(false);
                        next = end;
                        truncations += 1;
                        progress.truncate(Lsn(end));
                    }
                    Op::Write { .. } | Op::EndFlush(_) => {}
                }
                progress.check();
                prop_assert_eq!(progress.write_lsn(), leading(&written));
                prop_assert_eq!(progress.flush_lsn(), leading(&durable));
            }
        }
    }
}
