//! Aligned pieces of memory, alone on the heap or several in one stretch of large pages.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

use super::BLOCK_LEN;

/// Alignment of memory that is too small for direct I/O: a cache line's.
const SMALL_ALIGN: usize = 64;

/// Length and alignment of a stretch. Large pages of x86-64, and of aarch64 with pages of 4 kB; larger
/// ones are not worth their memory here.
pub(super) const STRETCH_LEN: usize = 2 << 20;

/// Memory aligned to [`BLOCK_LEN`] if it is of that length or longer, zeroed once when made: every byte is always initialized.
///
/// It hands out nothing but a raw pointer; who may touch which byte is its owner's matter.
#[derive(Debug)]
pub(super) struct Memory {
    ptr: NonNull<u8>,
    capacity: usize,
    /// What it is a part of; `None` when it is an allocation of its own.
    stretch: Option<Arc<Stretch>>,
}

// SAFETY: Memory owns its allocation, or its part of one, alone, and such memory may be used and freed
// by any thread.
unsafe impl Send for Memory {}
// SAFETY: through a shared Memory only the pointer's value can be read.
unsafe impl Sync for Memory {}

impl Memory {
    /// # Panics
    /// If `capacity` is zero or too large for an address space. Aborts when memory is out.
    pub(super) fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "memory without bytes");
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero.
        let ptr = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(ptr) else { handle_alloc_error(layout) };
        Self { ptr, capacity, stretch: None }
    }

    /// Equal pieces that fill a stretch, in large pages where the system gives them: the kernel then
    /// looks up one page for direct I/O and not hundreds, and fewer addresses miss in the TLB. `None`
    /// when the system has no such memory.
    ///
    /// # Panics
    /// If `capacity` does not divide [`STRETCH_LEN`], or is no multiple of [`BLOCK_LEN`].
    pub(super) fn stretch(capacity: usize) -> Option<Vec<Self>> {
        assert!(STRETCH_LEN.is_multiple_of(capacity) && capacity.is_multiple_of(BLOCK_LEN));
        let stretch = Arc::new(Stretch::map()?);
        let offsets = (0..STRETCH_LEN).step_by(capacity);
        let pieces = offsets.map(|offset| {
            // SAFETY: the offset is inside the stretch.
            let ptr = unsafe { stretch.ptr.add(offset) };
            Self { ptr, capacity, stretch: Some(Arc::clone(&stretch)) }
        });
        Some(pieces.collect())
    }

    fn layout(capacity: usize) -> Layout {
        let align = if capacity < BLOCK_LEN { SMALL_ALIGN } else { BLOCK_LEN };
        Layout::from_size_align(capacity, align).expect("capacity fits the address space")
    }

    pub(super) fn ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.stretch.is_none() {
            // SAFETY: `ptr` came from alloc_zeroed with this very layout and is freed only here.
            unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.capacity)) };
        }
    }
}

/// [`STRETCH_LEN`] bytes of zeros from the system, aligned to as many.
#[derive(Debug)]
struct Stretch {
    ptr: NonNull<u8>,
}

// SAFETY: a mapping may be unmapped by any thread; nothing else is done through a Stretch.
unsafe impl Send for Stretch {}
// SAFETY: through a shared Stretch only the pointer's value can be read.
unsafe impl Sync for Stretch {}

impl Stretch {
    fn map() -> Option<Self> {
        let len = 2 * STRETCH_LEN;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new private mapping, which touches no memory that is there.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let before = start.align_offset(STRETCH_LEN);
        // SAFETY: `before` is less than STRETCH_LEN, so all of this lies inside the mapping, of which the
        // front and the rest are given back: nothing has ever pointed there.
        let ptr = unsafe {
            let ptr = start.add(before);
            if before > 0 {
                libc::munmap(start, before);
            }
            libc::munmap(ptr.add(STRETCH_LEN), STRETCH_LEN - before);
            // Where it is refused the pages are small ones.
            libc::madvise(ptr, STRETCH_LEN, libc::MADV_HUGEPAGE);
            ptr
        };
        Some(Self { ptr: NonNull::new(ptr.cast())? })
    }
}

impl Drop for Stretch {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length, and no piece of it is left.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), STRETCH_LEN) };
    }
}
