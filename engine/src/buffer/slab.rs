//! Append-only memory with one writer and any number of readers.
//!
//! The writer touches only bytes at and after `filled`, readers only bytes before it, and `filled`
//! only grows. So no byte is ever written while it can be read, and no reader needs a lock. What the
//! writer lends to somebody else ([`SlabRoom`]) it does not touch itself until it has it back.
//!
//! Not here: which slab holds which stretch of a stream.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;

use super::Recycler;
use super::memory::Memory;

/// A bounded number of equal slabs that are used again and again, by any thread.
#[derive(Clone, Debug)]
pub struct SlabPool {
    recycler: Arc<Recycler>,
}

impl SlabPool {
    /// Memory is allocated when a slab is first needed, and kept.
    ///
    /// # Panics
    /// If either number is zero.
    #[must_use]
    pub fn new(slab_len: usize, slabs_max: usize) -> Self {
        Self { recycler: Arc::new(Recycler::new(slab_len, slabs_max)) }
    }

    /// The writer of an empty slab, or `None` when all are in use.
    #[must_use]
    pub fn take(&self) -> Option<SlabWriter> {
        let shared = Arc::new(Shared {
            memory: ManuallyDrop::new(self.recycler.take()?),
            filled: AtomicUsize::new(0),
            is_lent: AtomicBool::new(false),
            recycler: Arc::clone(&self.recycler),
        });
        Some(SlabWriter { slab: Slab { shared }, filled: 0 })
    }

    /// How many slabs can be taken now; more when some come back.
    #[must_use]
    pub fn available(&self) -> usize {
        self.recycler.available()
    }

    /// Length of each slab.
    #[must_use]
    pub fn slab_len(&self) -> usize {
        self.recycler.capacity_each
    }
}

/// One slab's memory and how far it may be read.
///
/// Invariants:
/// - Bytes before `filled` are never written; bytes from `filled` on are never read: they are zeros
///   or what an earlier use left, but always initialized.
/// - `filled` is stored by the one [`SlabWriter`] only, and never decreases.
/// - While `is_lent`, bytes from `filled` on are touched by the one [`SlabRoom`] only.
struct Shared {
    /// Taken out by drop alone.
    memory: ManuallyDrop<Memory>,
    filled: AtomicUsize,
    is_lent: AtomicBool,
    recycler: Arc<Recycler>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: `memory` is taken only here, and a value is dropped once.
        let memory = unsafe { ManuallyDrop::take(&mut self.memory) };
        self.recycler.give_back(memory);
    }
}

/// The one writer of a slab.
#[derive(Debug)]
pub struct SlabWriter {
    slab: Slab,
    /// The writer's own copy of what it published.
    filled: usize,
}

impl SlabWriter {
    /// Leaves the bytes before `start_offset` unused: they read as zeros.
    ///
    /// # Panics
    /// If something was appended already, or the offset is beyond the slab.
    #[must_use]
    pub fn with_prefix(mut self, start_offset: usize) -> Self {
        assert!(self.filled == 0 && !self.is_lent(), "a prefix comes before everything else");
        assert!(start_offset <= self.len(), "prefix {start_offset} of a slab of {}", self.len());
        // SAFETY: the range is inside the memory, and nobody reads it before it is published below.
        unsafe { self.slab.shared.memory.ptr().as_ptr().write_bytes(0, start_offset) };
        self.publish(start_offset);
        self
    }

    /// Appends as much of `bytes` as fits, shows it to the readers, and returns how much that was.
    ///
    /// # Panics
    /// If a [`SlabRoom`] of this slab is not back yet.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        assert!(!self.is_lent(), "an append to what is lent");
        let count = bytes.len().min(self.remaining());
        // SAFETY: the target range is `filled..filled + count`, inside the memory. Readers only see
        // bytes before `filled`, this is the only writer, and `bytes` cannot overlap the range since
        // no reference into it is handed out: no room is lent.
        unsafe {
            let target = self.slab.shared.memory.ptr().as_ptr().add(self.filled);
            target.copy_from_nonoverlapping(bytes.as_ptr(), count);
        }
        self.publish(self.filled + count);
        count
    }

    /// Lends the next `len` bytes, or all that are left, to whom they are filled by. It comes back when
    /// it is dropped.
    ///
    /// # Panics
    /// If what was lent before is not back yet.
    #[must_use]
    pub fn lend(&mut self, len: usize) -> SlabRoom {
        // Acquire: what the last borrower wrote comes before what the next one writes.
        let was_lent = self.slab.shared.is_lent.swap(true, Ordering::Acquire);
        assert!(!was_lent, "a slab is lent once at a time");
        let end = self.filled + len.min(self.remaining());
        SlabRoom { slab: self.slab(), range: self.filled..end }
    }

    /// Appends the first `count` bytes of `room` where they are: readers see them, and the room
    /// begins behind them.
    ///
    /// # Panics
    /// If it is no room of this slab, or shorter.
    pub fn keep(&mut self, room: &mut SlabRoom, count: usize) {
        assert!(Arc::ptr_eq(&self.slab.shared, &room.slab.shared), "a room of another slab");
        assert!(count <= room.len(), "{count} bytes of a room of {}", room.len());
        room.range.start += count;
        self.publish(room.range.start);
    }

    /// Whether a [`SlabRoom`] is not back yet.
    #[must_use]
    pub fn is_lent(&self) -> bool {
        self.slab.shared.is_lent.load(Ordering::Acquire)
    }

    /// Offset behind the last byte.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Number of bytes that still fit.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.len() - self.filled
    }

    /// Bytes of the whole slab.
    #[expect(clippy::len_without_is_empty, reason = "a slab has a length even without content")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// A handle for readers.
    #[must_use]
    pub fn slab(&self) -> Slab {
        self.slab.clone()
    }

    fn publish(&mut self, filled: usize) {
        self.filled = filled;
        // Release: who reads `filled` also sees the bytes before it.
        self.slab.shared.filled.store(filled, Ordering::Release);
    }
}

/// A shared handle for reading what the writer has appended so far.
#[derive(Clone)]
pub struct Slab {
    shared: Arc<Shared>,
}

impl Slab {
    /// Offset behind the last readable byte. It may grow at any time.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.shared.filled.load(Ordering::Acquire)
    }

    /// Bytes of the whole slab.
    #[expect(clippy::len_without_is_empty, reason = "a slab has a length even without content")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.memory.capacity()
    }

    /// Bytes that were appended, without a copy. They keep the whole slab from being used again.
    ///
    /// # Panics
    /// If the range ends behind what is filled, or before it begins.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        let filled = self.filled();
        assert!(
            range.start <= range.end && range.end <= filled,
            "slice {range:?} of a slab filled to {filled}"
        );
        if range.is_empty() {
            return Bytes::new();
        }
        Bytes::from_owner(Slice { slab: self.clone(), range })
    }
}

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (filled, len) = (self.filled(), self.len());
        f.debug_struct("Slab").field("filled", &filled).field("len", &len).finish()
    }
}

/// Bytes of a slab that are not readable yet, lent to the receive that fills them.
///
/// Its bytes are initialized, with values that mean nothing until they are written.
pub struct SlabRoom {
    slab: Slab,
    /// At and after `filled`.
    range: Range<usize>,
}

impl Deref for SlabRoom {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as in `deref_mut`; writing needs `&mut self`.
        unsafe {
            let start = self.slab.shared.memory.ptr().as_ptr().add(self.range.start);
            std::slice::from_raw_parts(start, self.range.len())
        }
    }
}

impl DerefMut for SlabRoom {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range is inside the memory, whose bytes are all initialized, and at or after
        // `filled`: readers never look there, the writer does not while `is_lent`, and there is one
        // room at a time, which is borrowed mutably for as long as the slice lives.
        unsafe {
            let start = self.slab.shared.memory.ptr().as_ptr().add(self.range.start);
            std::slice::from_raw_parts_mut(start, self.range.len())
        }
    }
}

impl Drop for SlabRoom {
    fn drop(&mut self) {
        // Release: what was written through it comes before what the writer does next.
        self.slab.shared.is_lent.store(false, Ordering::Release);
    }
}

impl fmt::Debug for SlabRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlabRoom").field("range", &self.range).finish_non_exhaustive()
    }
}

/// Keeps a slab alive for one [`Bytes`]. The range is inside what was filled.
struct Slice {
    slab: Slab,
    range: Range<usize>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the range is below `filled`, which was loaded with Acquire when this slice was
        // made: these bytes are initialized, and never written while the slab has a handle.
        unsafe {
            let start = self.slab.shared.memory.ptr().as_ptr().add(self.range.start);
            std::slice::from_raw_parts(start, self.range.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn appends_what_fits() {
        let mut writer = SlabPool::new(8, 1).take().unwrap();
        assert_eq!(writer.append(b"hello"), 5);
        assert_eq!((writer.filled(), writer.remaining()), (5, 3));
        assert_eq!(writer.append(b" world"), 3);
        assert_eq!(writer.append(b"!"), 0);
        let slab = writer.slab();
        assert_eq!((slab.filled(), slab.len()), (8, 8));
        assert_eq!(&slab.slice(0..8)[..], b"hello wo");
        assert_eq!(&slab.slice(4..6)[..], b"o ");
        assert!(slab.slice(8..8).is_empty());
    }

    #[test]
    #[should_panic(expected = "slice 0..4 of a slab filled to 3")]
    fn unfilled_bytes_cannot_be_read() {
        let mut writer = SlabPool::new(8, 1).take().unwrap();
        writer.append(b"abc");
        let _ = writer.slab().slice(0..4);
    }

    #[test]
    fn slices_survive_later_appends_and_the_writer() {
        let mut writer = SlabPool::new(8, 1).take().unwrap();
        writer.append(b"ab");
        let early = writer.slab().slice(0..2);
        writer.append(b"cd");
        let late = writer.slab().slice(1..4);
        drop(writer);
        assert_eq!((&early[..], &late[..]), (&b"ab"[..], &b"bcd"[..]));
    }

    #[test]
    fn memory_comes_back_with_the_last_handle_and_what_was_in_it_stays_hidden() {
        let pool = SlabPool::new(8, 1);
        let mut writer = pool.take().unwrap();
        writer.append(&[0xFF; 8]);
        let slab = writer.slab();
        let bytes = slab.slice(2..4);
        drop(writer);
        drop(slab);
        assert!(pool.take().is_none());
        assert_eq!(pool.available(), 0);
        drop(bytes);
        assert_eq!(pool.available(), 1);
        let writer = pool.take().unwrap().with_prefix(6);
        assert_eq!(writer.filled(), 6);
        assert_eq!(&writer.slab().slice(0..6)[..], [0; 6]);
        drop(writer);
        let mut writer = pool.take().unwrap();
        assert_eq!((writer.filled(), writer.slab().filled()), (0, 0));
        writer.append(b"abc");
        assert_eq!(&writer.slab().slice(0..3)[..], b"abc");
    }

    #[test]
    fn writer_continues_behind_a_prefix() {
        let mut writer = SlabPool::new(8, 1).take().unwrap().with_prefix(6);
        assert_eq!(writer.append(b"abc"), 2);
        assert_eq!(&writer.slab().slice(4..8)[..], b"\0\0ab");
    }

    #[test]
    #[should_panic(expected = "a prefix comes before everything else")]
    fn prefix_after_an_append_panics() {
        let mut writer = SlabPool::new(8, 1).take().unwrap();
        writer.append(b"a");
        let _ = writer.with_prefix(4);
    }

    #[test]
    fn what_is_kept_of_a_room_is_seen_and_the_rest_is_written_again() {
        let mut writer = SlabPool::new(8, 1).take().unwrap();
        writer.append(b"ab");
        let mut room = writer.lend(4);
        room.copy_from_slice(b"cdxx");
        writer.keep(&mut room, 1);
        assert_eq!(&room[..], b"dxx");
        writer.keep(&mut room, 1);
        assert!(writer.is_lent());
        drop(room);
        assert_eq!(writer.append(b"efghi"), 4);
        assert_eq!(&writer.slab().slice(0..8)[..], b"abcdefgh");
        assert!(writer.lend(1).is_empty());
    }

    #[test]
    #[should_panic(expected = "an append to what is lent")]
    fn what_is_lent_is_not_appended_to() {
        let mut writer = SlabPool::new(8, 1).take().unwrap();
        let _room = writer.lend(1);
        writer.append(b"a");
    }

    #[test]
    #[should_panic(expected = "lent once at a time")]
    fn nothing_is_lent_twice() {
        let mut writer = SlabPool::new(8, 1).take().unwrap();
        let _room = writer.lend(1);
        let _ = writer.lend(1);
    }

    #[test]
    #[should_panic(expected = "a room of another slab")]
    fn a_room_of_another_slab_is_not_kept() {
        let pool = SlabPool::new(8, 2);
        let mut writers = [pool.take().unwrap(), pool.take().unwrap()];
        let mut room = writers[0].lend(1);
        writers[1].keep(&mut room, 1);
    }

    #[test]
    fn a_room_is_filled_by_another_thread_while_what_is_before_it_is_read() {
        let pool = SlabPool::new(64, 1);
        let mut writer = pool.take().unwrap();
        thread::scope(|scope| {
            let slab = writer.slab();
            scope.spawn(move || {
                while slab.filled() < 64 {
                    let filled = slab.filled();
                    assert!((0_u8..).zip(&slab.slice(0..filled)).all(|(at, &byte)| byte == at));
                    thread::yield_now();
                }
            });
            for start in (0..64_u8).step_by(4) {
                let mut room = writer.lend(4);
                let filler = scope.spawn(move || {
                    room.iter_mut().zip(start..).for_each(|(byte, value)| *byte = value);
                    room
                });
                let mut room = filler.join().unwrap();
                writer.keep(&mut room, 4);
            }
        });
    }

    #[test]
    fn readers_on_other_threads_see_a_growing_prefix() {
        let len = if cfg!(miri) { 300 } else { 100_000 };
        let pool = SlabPool::new(len, 1);
        let mut writer = pool.take().unwrap();
        let pattern: Vec<u8> = (0..=250).collect();
        thread::scope(|scope| {
            for _ in 0..3 {
                let slab = writer.slab();
                scope.spawn(move || {
                    let mut seen = 0;
                    while seen < len {
                        let filled = slab.filled();
                        assert!(filled >= seen);
                        for (offset, &byte) in (seen..).zip(&slab.slice(seen..filled)) {
                            assert_eq!(usize::from(byte), offset % 251);
                        }
                        seen = filled;
                        thread::yield_now();
                    }
                });
            }
            while writer.remaining() > 0 {
                let from = writer.filled() % pattern.len();
                writer.append(&pattern[from..(from + 7).min(pattern.len())]);
            }
        });
    }

    #[test]
    fn bytes_may_be_dropped_by_another_thread() {
        const SENT: u64 = if cfg!(miri) { 10 } else { 200 };
        let pool = SlabPool::new(64, 2);
        let (send, receive) = mpsc::channel::<Bytes>();
        let sum =
            thread::spawn(move || receive.iter().map(|bytes| u64::from(bytes[0])).sum::<u64>());
        let mut sent = 0;
        while sent < SENT {
            let Some(mut writer) = pool.take() else {
                thread::yield_now();
                continue;
            };
            writer.append(&[1; 64]);
            send.send(writer.slab().slice(0..64)).unwrap();
            sent += 1;
        }
        drop(send);
        assert_eq!(sum.join().unwrap(), SENT);
    }
}
