//! Aligned memory for I/O: buffers with one owner, and slabs that grow while others read them.
//!
//! Invariants:
//! - All memory is initialized, and aligned to [`BLOCK_LEN`] if it is that long.
//! - A pool never makes more than its maximum; memory returns when its last user drops it.
//! - A byte that anybody else can read is never written again while they can.
//!
//! Not here: what the bytes mean.

mod memory;
mod slab;

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;

use memory::{Memory, STRETCH_LEN};
pub use slab::{Slab, SlabPool, SlabRoom, SlabWriter};

/// Unit of direct I/O and of alignment.
pub const BLOCK_LEN: usize = 4096;
/// Pieces that are at least so long are made several at a time, in one stretch of large pages.
const STRETCHED_LEN_MIN: usize = 512 << 10;

/// Memory that is lent and comes back; shared by all handles of one pool.
#[derive(Debug)]
struct Recycler {
    free: ArrayQueue<Memory>,
    made: AtomicUsize,
    count_max: usize,
    capacity_each: usize,
}

impl Recycler {
    fn new(capacity_each: usize, count_max: usize) -> Self {
        assert!(capacity_each > 0, "a pool of nothing");
        Self {
            free: ArrayQueue::new(count_max),
            made: AtomicUsize::new(0),
            count_max,
            capacity_each,
        }
    }

    /// Free memory, with whatever bytes its last user left, or new memory while under the maximum.
    fn take(&self) -> Option<Memory> {
        if let Some(memory) = self.free.pop() {
            return Some(memory);
        }
        let count = if self.makes_stretches() { STRETCH_LEN / self.capacity_each } else { 1 };
        let after = |made: usize| (made + count).min(self.count_max);
        let more = |made| (made < self.count_max).then(|| after(made));
        let before = self.made.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let mut pieces = if count > 1 { Memory::stretch(self.capacity_each) } else { None }
            .unwrap_or_else(|| (0..count).map(|_| Memory::new(self.capacity_each)).collect());
        pieces.truncate(after(before) - before);
        let first = pieces.pop();
        pieces.into_iter().for_each(|memory| self.give_back(memory));
        first
    }

    /// Whether memory is made several pieces at a time.
    fn makes_stretches(&self) -> bool {
        let len = self.capacity_each;
        // Miri has no mappings whose parts go back.
        !cfg!(miri)
            && (STRETCHED_LEN_MIN..STRETCH_LEN).contains(&len)
            && STRETCH_LEN.is_multiple_of(len)
    }

    /// How many takes are sure to succeed, as long as no other thread takes.
    fn available(&self) -> usize {
        self.free.len() + self.count_max.saturating_sub(self.made.load(Ordering::Relaxed))
    }

    fn give_back(&self, memory: Memory) {
        // The queue has room for all that was ever made.
        self.free.push(memory).expect("more memory came back than was lent");
    }
}

/// Owned aligned memory of fixed capacity, of which the first `len` bytes are in use.
pub struct Buffer {
    /// Taken out by drop alone.
    memory: ManuallyDrop<Memory>,
    len: usize,
    /// Where the memory came from; `None` when it is this buffer's own.
    recycler: Option<Arc<Recycler>>,
}

impl Buffer {
    /// An empty buffer that belongs to no pool.
    ///
    /// # Panics
    /// If `capacity` is zero.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { memory: ManuallyDrop::new(Memory::new(capacity)), len: 0, recycler: None }
    }

    /// The most bytes it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Makes it empty; the memory stays.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Keeps the first `len` bytes; no effect when there are fewer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Replaces the content by `bytes`.
    ///
    /// # Panics
    /// If `bytes` does not fit.
    pub fn fill(&mut self, bytes: &[u8]) {
        self.clear();
        self.extend_from_slice(bytes);
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    /// If `bytes` does not fit.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let spare = self.spare();
        assert!(bytes.len() <= spare.len(), "{} bytes into {}", bytes.len(), spare.len());
        spare[..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends what `write` has put at the beginning of the free room, whose length it gives. What is in the room
    /// before that means nothing.
    ///
    /// # Errors
    /// That of `write`; nothing is appended then.
    ///
    /// # Panics
    /// If the length is more than the room.
    pub fn append_with<E>(
        &mut self,
        write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let len = self.len + write(self.spare())?;
        self.set_len(len);
        Ok(())
    }

    /// Appends zeros until there are `len` bytes.
    ///
    /// # Panics
    /// If there are more already, or `len` is over the capacity.
    pub fn zero_pad_to(&mut self, len: usize) {
        let pad = len.checked_sub(self.len).expect("padding does not shorten");
        self.spare()[..pad].fill(0);
        self.len = len;
    }

    /// Makes the content immutable and shareable; the memory goes back to its pool when the last
    /// clone is dropped.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        if self.is_empty() { Bytes::new() } else { Bytes::from_owner(self) }
    }

    /// The bytes behind the content: initialized, with values that mean nothing.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.whole_mut()[len..]
    }

    /// Says that the first `len` bytes are the content.
    pub(crate) fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "length {len} over capacity {}", self.capacity());
        self.len = len;
    }

    fn whole_mut(&mut self) -> &mut [u8] {
        // SAFETY: the memory is initialized, `capacity` bytes long and owned by this buffer alone,
        // which is borrowed mutably for as long as the slice lives.
        unsafe { std::slice::from_raw_parts_mut(self.memory.ptr().as_ptr(), self.capacity()) }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len <= capacity`, all of it initialized; writing needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.memory.ptr().as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.whole_mut()[..len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `memory` is taken only here, and a value is dropped once.
        let memory = unsafe { ManuallyDrop::take(&mut self.memory) };
        if let Some(recycler) = &self.recycler {
            recycler.give_back(memory);
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (len, capacity) = (self.len, self.capacity());
        f.debug_struct("Buffer").field("len", &len).field("capacity", &capacity).finish()
    }
}

/// A bounded number of equal buffers that are used again and again, by any thread.
#[derive(Clone, Debug)]
pub struct BufferPool {
    recycler: Arc<Recycler>,
}

impl BufferPool {
    /// Memory is allocated when a buffer is first needed, and kept.
    ///
    /// # Panics
    /// If either number is zero.
    #[must_use]
    pub fn new(capacity_each: usize, count_max: usize) -> Self {
        Self { recycler: Arc::new(Recycler::new(capacity_each, count_max)) }
    }

    /// An empty buffer, or `None` when all are out.
    #[must_use]
    pub fn take(&self) -> Option<Buffer> {
        let memory = ManuallyDrop::new(self.recycler.take()?);
        Some(Buffer { memory, len: 0, recycler: Some(Arc::clone(&self.recycler)) })
    }

    /// Capacity of each buffer.
    #[must_use]
    pub fn capacity_each(&self) -> usize {
        self.recycler.capacity_each
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn memory_is_aligned_and_capacity_is_exact() {
        for capacity in [BLOCK_LEN, 5 * BLOCK_LEN, BLOCK_LEN + 1] {
            assert_eq!(Buffer::with_capacity(capacity).as_ptr().addr() % BLOCK_LEN, 0);
        }
        let buffer = Buffer::with_capacity(5);
        assert_eq!(buffer.capacity(), 5);
        assert!(buffer.is_empty());
    }

    #[test]
    fn content_is_what_was_put_in() {
        let mut buffer = Buffer::with_capacity(8);
        buffer.fill(b"abcdef");
        buffer.fill(b"xy");
        buffer.extend_from_slice(b"z");
        assert_eq!(&*buffer, b"xyz");
        buffer.zero_pad_to(6);
        assert_eq!(&*buffer, b"xyz\0\0\0");
        buffer[0] = b'X';
        buffer.truncate(1);
        buffer.truncate(4);
        assert_eq!(&*buffer, b"X");
    }

    #[test]
    fn what_is_written_into_the_room_is_appended() {
        let mut buffer = Buffer::with_capacity(8);
        buffer.fill(b"ab");
        let write = |room: &mut [u8]| {
            assert_eq!(room.len(), 6);
            room[..3].copy_from_slice(b"cde");
            Ok::<_, ()>(3)
        };
        buffer.append_with(write).unwrap();
        assert_eq!(buffer.append_with(|_| Err(7)), Err(7));
        assert_eq!(&*buffer, b"abcde");
    }

    #[test]
    #[should_panic(expected = "4 bytes into 3")]
    fn overfilling_panics() {
        Buffer::with_capacity(3).fill(b"abcd");
    }

    #[test]
    #[should_panic(expected = "length 4 over capacity 3")]
    fn length_over_capacity_panics() {
        Buffer::with_capacity(3).set_len(4);
    }

    #[test]
    fn pool_is_bounded_and_recycles() {
        let pool = BufferPool::new(16, 2);
        let first = pool.take().unwrap();
        let second = pool.take().unwrap();
        assert!(pool.take().is_none());
        let address = first.as_ptr();
        drop(first);
        let third = pool.take().unwrap();
        assert_eq!(third.as_ptr(), address);
        assert!(third.is_empty());
        drop(second);
    }

    #[test]
    fn large_pieces_share_a_stretch_and_outlive_their_pool() {
        // Miri has no stretches, and much to do for each byte.
        let len = if cfg!(miri) { BLOCK_LEN } else { 512 << 10 };
        let pool = BufferPool::new(len, 6);
        let mut buffers: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(buffers.len(), 6);
        for (buffer, byte) in buffers.iter_mut().zip(1..) {
            assert!(buffer.as_ptr().addr().is_multiple_of(BLOCK_LEN));
            buffer.fill(&vec![byte; len]);
        }
        buffers.truncate(5);
        assert!(pool.take().is_some_and(|buffer| buffer.is_empty()));
        drop(pool);
        for (buffer, byte) in buffers.iter().zip(1..) {
            assert!(buffer.iter().all(|&content| content == byte));
        }
    }

    #[test]
    fn frozen_memory_returns_with_its_last_clone() {
        let pool = BufferPool::new(16, 1);
        let mut buffer = pool.take().unwrap();
        buffer.fill(b"hello world");
        let bytes = buffer.freeze();
        let part = bytes.slice(6..);
        drop(bytes);
        assert!(pool.take().is_none());
        assert_eq!(&part[..], b"world");
        drop(part);
        assert!(pool.take().is_some());
        assert!(pool.take().unwrap().freeze().is_empty());
        assert!(pool.take().is_some());
    }

    #[test]
    fn pool_outlived_by_its_buffers() {
        let pool = BufferPool::new(16, 1);
        let mut buffer = pool.take().unwrap();
        drop(pool);
        buffer.fill(b"still here");
        assert_eq!(&buffer.freeze()[..], b"still here");
    }

    #[test]
    fn threads_share_a_pool() {
        let pool = BufferPool::new(64, 3);
        thread::scope(|scope| {
            for id in 0..4_u8 {
                let pool = pool.clone();
                scope.spawn(move || {
                    for _ in 0..if cfg!(miri) { 10 } else { 500 } {
                        let Some(mut buffer) = pool.take() else { continue };
                        buffer.fill(&[id; 64]);
                        let bytes = buffer.freeze();
                        assert!(bytes.iter().all(|&byte| byte == id));
                    }
                });
            }
        });
        let all: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(all.len(), 3);
    }
}
