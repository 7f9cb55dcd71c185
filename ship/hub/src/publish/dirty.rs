//! One bit per entry of a table that says "look again".
//!
//! Marking costs one bit; draining all marks of a moment costs one pass over a few words. What was
//! stored before a mark is seen by whoever drains it: `interleavings` tries all orders.

use crossbeam_utils::CachePadded;

use super::atomics::{AtomicU64, Ordering};
use walhub_proto::convert::to_usize;

/// A bitmap that many mark and one drains.
#[derive(Debug)]
pub struct DirtyBits(Box<[CachePadded<AtomicU64>]>);

impl DirtyBits {
    /// Room for `entries`, none of them marked.
    #[must_use]
    pub fn new(entries: usize) -> Self {
        Self((0..entries.div_ceil(64)).map(|_| CachePadded::new(AtomicU64::new(0))).collect())
    }

    /// Says that the entry has news.
    pub fn mark(&self, index: usize) {
        self.0[index / 64].fetch_or(1 << (index % 64), Ordering::Release);
    }

    /// Calls `visit` for each entry with news, once.
    pub fn drain(&self, mut visit: impl FnMut(usize)) {
        for (word, bits) in self.0.iter().enumerate() {
            if bits.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut marked = bits.swap(0, Ordering::Acquire);
            while marked != 0 {
                let bit = marked.trailing_zeros();
                marked &= marked - 1;
                visit(word * 64 + to_usize(u64::from(bit)));
            }
        }
    }
}
