//! One aligned piece of heap memory.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use crate::io::BLOCK_LEN;

/// Alignment of memory that is too small for direct I/O: a cache line's.
const SMALL_ALIGN: usize = 64;

/// Memory aligned to [`BLOCK_LEN`] if it is of that length or longer, zeroed once when made: every byte is always initialized.
///
/// It hands out nothing but a raw pointer; who may touch which byte is its owner's matter.
#[derive(Debug)]
pub(super) struct Memory {
    ptr: NonNull<u8>,
    capacity: usize,
}

// SAFETY: Memory owns its allocation alone, and heap memory may be used and freed by any thread.
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
        Self { ptr, capacity }
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
        // SAFETY: `ptr` came from alloc_zeroed with this very layout and is freed only here.
        unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.capacity)) };
    }
}
