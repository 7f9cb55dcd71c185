//! The tail cache: the newest WAL, in memory that disk writes and sends share.
//!
//! A slab covers an aligned stretch of the WAL. The wal core appends ([`Tail`]); ship cores hold
//! handles of the same slabs ([`TailView`]) and read below the published position.
//!
//! Not here: what is durable (`writer`), what may be sent (`shared`).

use std::collections::VecDeque;

use bytes::Bytes;
use walhub_engine::buffer::{Slab, SlabPool, SlabRoom, SlabWriter};
use walhub_engine::io::{BLOCK_LEN, Gather};
use walhub_proto::convert::{to_u64, to_usize};
use walhub_proto::lsn::{Lsn, LsnRange};

/// Bytes of one slab. Divides every segment size, so a slab never crosses a segment.
pub const SLAB_LEN: usize = 1 << 20;
const SLAB_BYTES: u64 = 1 << 20;
const BLOCK_BYTES: u64 = 4096;
const _: () = assert!(SLAB_LEN == 1 << 20 && BLOCK_LEN == 4096);

/// A stretch of WAL in memory.
#[derive(Clone, Debug)]
pub struct TailSlab {
    /// Position of the slab's first byte.
    pub base: Lsn,
    /// First position whose byte is in it.
    pub valid_from: Lsn,
    /// The memory.
    pub slab: Slab,
}

impl TailSlab {
    fn end(&self) -> Lsn {
        self.base + SLAB_BYTES
    }

    fn slice(&self, range: LsnRange) -> Bytes {
        let offset = |lsn: Lsn| to_usize(lsn - self.base);
        self.slab.slice(offset(range.start)..offset(range.end))
    }
}

/// Slabs in order of position; a later one supersedes an earlier one where they overlap.
#[derive(Debug, Default)]
pub struct TailView {
    slabs: VecDeque<TailSlab>,
}

impl TailView {
    /// Adds the newest slab, and drops those that it supersedes as a whole and the oldest ones beyond
    /// `slabs_max`.
    pub fn push(&mut self, slab: TailSlab, slabs_max: usize) {
        self.slabs.retain(|old| old.valid_from < slab.valid_from);
        while self.slabs.len() >= slabs_max.max(1) {
            self.slabs.pop_front();
        }
        self.slabs.push_back(slab);
    }

    /// First position from which on everything is here.
    #[must_use]
    pub fn start(&self) -> Option<Lsn> {
        self.slabs.front().map(|slab| slab.valid_from)
    }

    /// Number of slabs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slabs.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slabs.is_empty()
    }

    /// Appends the pieces of `range` to `gather`. False, with nothing appended, when the range
    /// begins before what is here.
    pub fn gather(&self, range: LsnRange, gather: &mut Gather) -> bool {
        let mut next = range.start;
        // The newest slab that holds a position is the one to believe.
        let first =
            self.slabs.iter().rposition(|slab| slab.valid_from <= next && next < slab.end());
        let Some(mut at) = first else { return range.is_empty() };
        while next < range.end {
            let Some(slab) = self.slabs.get(at) else { break };
            let superseded = self.slabs.get(at + 1).map_or(slab.end(), |after| after.valid_from);
            let end = range.end.min(slab.end()).min(superseded);
            if next < end {
                gather.push(slab.slice(LsnRange::new(next, end)));
                next = end;
            }
            at += 1;
        }
        assert!(next == range.end, "tail ends at {next}, wanted {}", range.end);
        true
    }
}

/// The wal core's end of the tail: it alone appends.
///
/// Invariants:
/// - everything from `view.start()` to `end` is in memory;
/// - at most `slabs_max` slabs are held here.
#[derive(Debug)]
pub struct Tail {
    pool: SlabPool,
    slabs_max: usize,
    current: SlabWriter,
    current_base: Lsn,
    view: TailView,
    end: Lsn,
}

/// No slab can be had: memory is pinned elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TailFull;

/// The tail could not be cut.
#[derive(Debug)]
pub enum TruncateError {
    /// No slab can be had now.
    Full,
    /// The block before the cut is no longer in memory: this much of it is needed.
    Missing(LsnRange),
}

impl From<TailFull> for TruncateError {
    fn from(TailFull: TailFull) -> Self {
        Self::Full
    }
}

impl Tail {
    /// Starts at `end`, with the bytes of its block before it in memory.
    ///
    /// # Panics
    /// If `block` is not the part of a block that ends at `end`, or the pool is empty.
    #[must_use]
    pub fn new(pool: SlabPool, slabs_max: usize, end: Lsn, block: &[u8]) -> (Self, TailSlab) {
        let valid_from = end.align_down(BLOCK_BYTES);
        assert!(
            u64::try_from(block.len()) == Ok(end - valid_from),
            "block of {} bytes at {end}",
            block.len()
        );
        let (current, first) = open_slab(&pool, valid_from, block).expect("a new tail has room");
        let mut view = TailView::default();
        view.push(first.clone(), slabs_max);
        let tail = Self { pool, slabs_max, current_base: first.base, current, view, end };
        (tail, first)
    }

    /// One past the last byte.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// What is in memory.
    #[must_use]
    pub fn view(&self) -> &TailView {
        &self.view
    }

    /// Slabs of which something from `needed_from` to `end` is not superseded by a later one.
    fn slabs_needed(&self, needed_from: Lsn, end: Lsn) -> usize {
        let slabs = &self.view.slabs;
        let next = slabs.iter().skip(1).map(|slab| slab.valid_from).chain([Lsn::MAX]);
        let ends = slabs.iter().zip(next).map(|(slab, next)| slab.end().min(next).min(end));
        ends.filter(|&end| end > needed_from).count()
    }

    /// Whether [`Tail::truncate`] to `end` drops no byte at or after `needed_from`.
    #[must_use]
    pub fn can_truncate(&self, end: Lsn, needed_from: Lsn) -> bool {
        self.slabs_needed(needed_from, end.align_down(BLOCK_BYTES)) < self.slabs_max
    }

    /// Whether `bytes` more can be appended without dropping a byte at or after `needed_from`.
    #[must_use]
    pub fn has_room(&self, bytes: usize, needed_from: Lsn) -> bool {
        let bytes = to_u64(bytes);
        let slabs_after =
            (self.end + bytes).align_up(SLAB_BYTES).saturating_bytes_since(self.current_base)
                / SLAB_BYTES;
        let slabs_needed = self.slabs_needed(needed_from, Lsn::MAX);
        let new = to_usize(slabs_after).saturating_sub(1);
        // Ship cores let go of old slabs when they read their mail, and standbys when they were sent.
        slabs_needed.saturating_add(new) <= self.slabs_max && new <= self.pool.available()
    }

    /// Appends as much of `bytes` as the current slab takes, opening a new one when it is full.
    /// Returns how much, and the slab when one was opened: every ship core needs it.
    ///
    /// # Errors
    /// [`TailFull`] when no slab can be had.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(usize, Option<TailSlab>), TailFull> {
        let opened = self.open_when_full()?;
        let count = self.current.append(bytes);
        self.end = self.end + to_u64(count);
        Ok((count, opened))
    }

    /// Lends memory behind the end for `len` bytes, or as many as its slab has, to be filled by a
    /// receive. Until it is back nothing can be appended. Also the slab when one was opened.
    ///
    /// # Errors
    /// [`TailFull`] when no slab can be had.
    pub fn lend(&mut self, len: usize) -> Result<(SlabRoom, Option<TailSlab>), TailFull> {
        let opened = self.open_when_full()?;
        Ok((self.current.lend(len), opened))
    }

    /// Appends the first `count` bytes of what was lent where they are, and returns them.
    ///
    /// # Panics
    /// If they were lent before the tail was cut.
    pub fn keep(&mut self, room: &mut SlabRoom, count: usize) -> Bytes {
        self.current.keep(room, count);
        self.end = self.end + to_u64(count);
        let filled = self.current.filled();
        self.current.slab().slice(filled - count..filled)
    }

    fn open_when_full(&mut self) -> Result<Option<TailSlab>, TailFull> {
        if self.current.remaining() > 0 {
            return Ok(None);
        }
        let (current, slab) = open_slab(&self.pool, self.end, &[]).ok_or(TailFull)?;
        self.set_current(current, &slab);
        Ok(Some(slab))
    }

    fn set_current(&mut self, current: SlabWriter, slab: &TailSlab) {
        self.current = current;
        self.current_base = slab.base;
        self.view.push(slab.clone(), self.slabs_max);
    }

    /// Forgets everything at and after `end`. Slabs are immutable, so the block that `end` lies in
    /// moves to a new one; `read_back` is its beginning when it is no longer in memory.
    ///
    /// # Errors
    /// [`TruncateError`]; nothing has changed.
    ///
    /// # Panics
    /// If `end` is beyond the tail's.
    pub fn truncate(
        &mut self,
        end: Lsn,
        read_back: Option<&[u8]>,
    ) -> Result<TailSlab, TruncateError> {
        assert!(end <= self.end, "truncating to {end}, beyond {}", self.end);
        let mut gather = Gather::new();
        let block = LsnRange::new(end.align_down(BLOCK_BYTES), end);
        let bytes = match read_back {
            _ if self.view.gather(block, &mut gather) => gather.concat(),
            Some(bytes) => bytes.to_vec(),
            None => return Err(TruncateError::Missing(block)),
        };
        assert!(u64::try_from(bytes.len()) == Ok(block.len()), "a part of a block was read");
        let (current, slab) = open_slab(&self.pool, block.start, &bytes).ok_or(TailFull)?;
        self.set_current(current, &slab);
        self.end = end;
        Ok(slab)
    }
}

/// A slab that begins in the middle, at `valid_from`, with `bytes`.
fn open_slab(pool: &SlabPool, valid_from: Lsn, bytes: &[u8]) -> Option<(SlabWriter, TailSlab)> {
    let base = valid_from.align_down(SLAB_BYTES);
    let offset = to_usize(valid_from - base);
    let mut writer = pool.take()?.with_prefix(offset);
    let appended = writer.append(bytes);
    assert!(appended == bytes.len(), "a block fits a slab");
    let slab = TailSlab { base, valid_from, slab: writer.slab() };
    Some((writer, slab))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(end: u64, block: &[u8], slabs_max: usize) -> Tail {
        Tail::new(SlabPool::new(SLAB_LEN, slabs_max + 4), slabs_max, Lsn(end), block).0
    }

    fn bytes(tail: &Tail, start: u64, end: u64) -> Option<Vec<u8>> {
        let mut gather = Gather::new();
        tail.view()
            .gather(LsnRange::new(Lsn(start), Lsn(end)), &mut gather)
            .then(|| gather.concat())
    }

    fn append_all(tail: &mut Tail, mut rest: &[u8]) {
        while !rest.is_empty() {
            let (count, _) = tail.append(rest).unwrap();
            rest = &rest[count..];
        }
    }

    #[test]
    fn the_block_before_the_end_is_served() {
        let mut tail = tail(4096 * 3 + 3, b"abc", 4);
        append_all(&mut tail, b"def");
        assert_eq!(bytes(&tail, 4096 * 3, 4096 * 3 + 6).unwrap(), b"abcdef");
        assert_eq!(bytes(&tail, 4096 * 3 - 1, 4096 * 3), None);
    }

    #[test]
    fn ranges_cross_slabs_and_old_slabs_go() {
        let mut tail = tail(0x10_0000 - 2, &[7; 4094], 2);
        append_all(&mut tail, &[1, 2, 3, 4]);
        assert_eq!(bytes(&tail, 0x10_0000 - 3, 0x10_0002).unwrap(), [7, 1, 2, 3, 4]);
        append_all(&mut tail, &vec![9; SLAB_LEN]);
        assert_eq!(bytes(&tail, 0x10_0000 - 3, 0x10_0002), None);
        assert_eq!(bytes(&tail, 0x10_0000, 0x10_0002).unwrap(), [3, 4]);
    }

    #[test]
    fn what_is_received_in_place_is_what_an_append_would_be() {
        let mut tail = tail(0x10_0000 - 3, &[7; 4093], 4);
        let (mut room, opened) = tail.lend(100).unwrap();
        assert!(room.len() == 3 && opened.is_none());
        room.copy_from_slice(b"abc");
        assert_eq!(&tail.keep(&mut room, 3)[..], b"abc");
        drop(room);
        let (mut room, opened) = tail.lend(4).unwrap();
        assert_eq!(opened.unwrap().base, Lsn(0x10_0000));
        room.copy_from_slice(b"de??");
        assert_eq!(&tail.keep(&mut room, 2)[..], b"de");
        drop(room);
        append_all(&mut tail, b"fg");
        assert_eq!(bytes(&tail, 0x10_0000 - 4, 0x10_0004).unwrap(), b"\x07abcdefg");
    }

    #[test]
    fn a_cut_does_not_wait_for_what_is_lent() {
        let mut tail = tail(8192, &[], 4);
        append_all(&mut tail, &[1; 5000]);
        let (mut room, _) = tail.lend(4).unwrap();
        tail.truncate(Lsn(8192 + 10), None).unwrap();
        append_all(&mut tail, &[2; 2]);
        room.fill(9);
        drop(room);
        append_all(&mut tail, &[3; 2]);
        assert_eq!(bytes(&tail, 8192 + 9, 8192 + 14).unwrap(), [1, 2, 2, 3, 3]);
    }

    #[test]
    fn truncated_bytes_are_replaced_not_seen() {
        let mut tail = tail(8192, &[], 4);
        append_all(&mut tail, &[1; 5000]);
        tail.truncate(Lsn(8192 + 4500), None).unwrap();
        append_all(&mut tail, &[2; 5000]);
        let mut want = vec![1; 4500];
        want.extend([2; 5000]);
        assert_eq!(bytes(&tail, 8192, 8192 + 9500).unwrap(), want);
    }

    #[test]
    fn another_view_sees_what_replaced_truncated_bytes() {
        let (mut tail, first) = Tail::new(SlabPool::new(SLAB_LEN, 12), 4, Lsn(0), &[]);
        let mut view = TailView::default();
        view.push(first, 4);
        let append = |tail: &mut Tail, view: &mut TailView, byte: u8, len: usize| {
            let bytes = vec![byte; len];
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (count, slab) = tail.append(rest).unwrap();
                rest = &rest[count..];
                slab.into_iter().for_each(|slab| view.push(slab, 4));
            }
        };
        // Bad bytes from the middle of the first slab into the third.
        append(&mut tail, &mut view, 1, 8192);
        append(&mut tail, &mut view, 9, 2 * SLAB_LEN);
        view.push(tail.truncate(Lsn(8192), None).unwrap(), 4);
        append(&mut tail, &mut view, 2, 2 * SLAB_LEN);
        let mut gather = Gather::new();
        assert!(view.gather(LsnRange::new(Lsn(100), Lsn(8192 + 2 * SLAB_BYTES)), &mut gather));
        let runs = gather
            .concat()
            .chunk_by(|a, b| a == b)
            .map(|run| (run[0], run.len()))
            .collect::<Vec<_>>();
        assert_eq!(runs, [(1, 8092), (2, 2 * SLAB_LEN)]);
    }

    #[test]
    fn a_block_that_is_no_longer_in_memory_is_read_back() {
        let mut tail = tail(0, &[], 2);
        append_all(&mut tail, &vec![1; 4 * SLAB_LEN]);
        let missing = LsnRange::new(Lsn(4096), Lsn(5000));
        let refused = tail.truncate(Lsn(5000), None).unwrap_err();
        assert!(matches!(refused, TruncateError::Missing(range) if range == missing));
        tail.truncate(Lsn(5000), Some(&[7; 904])).unwrap();
        assert_eq!(tail.end(), Lsn(5000));
        assert_eq!(bytes(&tail, 4096, 5000).unwrap(), [7; 904]);
    }

    #[test]
    fn there_is_no_room_while_all_memory_is_pinned_elsewhere() {
        let (mut tail, first) = Tail::new(SlabPool::new(SLAB_LEN, 3), 2, Lsn(0), &[]);
        append_all(&mut tail, &vec![0; 2 * SLAB_LEN]);
        let pinned = [first, tail.append(&[0]).unwrap().1.unwrap()];
        assert!(!tail.has_room(SLAB_LEN, tail.end()));
        drop(pinned);
        assert!(tail.has_room(SLAB_LEN, tail.end()));
    }

    #[test]
    fn there_is_room_until_what_is_needed_would_go() {
        let mut tail = tail(0, &[], 2);
        assert!(tail.has_room(2 << 20, Lsn(0)));
        assert!(!tail.has_room((2 << 20) + 1, Lsn(0)));
        append_all(&mut tail, &vec![0; SLAB_LEN + 1]);
        assert!(!tail.has_room(SLAB_LEN, Lsn(SLAB_BYTES - 1)));
        assert!(tail.has_room(SLAB_LEN, Lsn(SLAB_BYTES)));
    }
}
