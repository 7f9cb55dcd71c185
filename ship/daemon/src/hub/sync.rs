//! The atomics of [`interest`](super::interest), [`dirty`](super::dirty) and
//! [`berths`](super::berths), under a name that the model checker's can stand in for.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
