//! The atomics of [`interest`](crate::publish::commit_wakeups), [`dirty`](crate::publish::dirty) and
//! [`in_transit`](crate::publish::in_transit), under a name that the model checker's can stand in for.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
