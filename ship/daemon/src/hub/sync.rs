//! The atomics of [`interest`](super::interest) and [`dirty`](super::dirty), under a name that the
//! model checker's can stand in for.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
