//! A number that one thread publishes and others read.

#[cfg(debug_assertions)]
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

#[cfg(debug_assertions)]
thread_local! {
    static BEFORE_LOAD: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// Has `act` called before each load in this thread, for the simulator: there it runs other cores, so that
/// what they publish falls between two loads. Without debug assertions it is never called.
pub fn set_before_load(act: Option<fn()>) {
    #[cfg(debug_assertions)]
    BEFORE_LOAD.set(act);
    #[cfg(not(debug_assertions))]
    let _ = act;
}

/// A published position, on a cache line of its own.
///
/// Who reads a value also sees everything that the publisher wrote before it.
#[derive(Debug, Default)]
pub struct Published(CachePadded<AtomicU64>);

impl Published {
    /// With a first value.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(CachePadded::new(AtomicU64::new(value)))
    }

    /// Replaces the value. Whoever loads it sees all that was written before.
    pub fn publish(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    /// The last value published.
    #[must_use]
    pub fn load(&self) -> u64 {
        #[cfg(debug_assertions)]
        if let Some(act) = BEFORE_LOAD.get() {
            act();
        }
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_last_value_and_shares_no_cache_line() {
        let pair = [Published::new(7), Published::default()];
        pair[1].publish(9);
        assert_eq!([pair[0].load(), pair[1].load()], [7, 9]);
        assert!(size_of::<Published>() >= 64);
    }
}
