//! Wakes a core loop out of its sleep, and costs nothing while it is awake.
//!
//! A loop that sleeps in its ring is woken by an eventfd that the ring reads; one that is a task of
//! somebody else's event loop by whatever call wakes a task there.
//!
//! The owner says that it will sleep before it does, and a wake leaves its mark before it looks
//! whether anybody sleeps. Both are swaps of one word, so one of them comes first: either the owner
//! sees the mark and stays awake, or the waker sees the sleeper and writes the eventfd.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_utils::CachePadded;
use rustix::event::{EventfdFlags, eventfd};

use crate::io::Waker;

/// The owner runs, and has seen every wake.
const AWAKE: u32 = 0;
/// A wake came that the owner has not seen.
const NOTIFIED: u32 = 1;
/// The owner waits, or is about to.
const SLEEPING: u32 = 2;

/// How a sleeping owner is woken.
enum Wake {
    Eventfd(OwnedFd),
    Call(Box<dyn Fn() + Send + Sync>),
}

struct Shared {
    state: CachePadded<AtomicU32>,
    wake: Wake,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Wakes the owner of a [`Uring`](super::Uring).
#[derive(Clone, Debug)]
pub struct UringWaker {
    shared: Arc<Shared>,
}

impl UringWaker {
    pub(super) fn new() -> io::Result<Self> {
        // Not EFD_NONBLOCK: the ring would then give EAGAIN instead of waiting for a count.
        Ok(Self::with(Wake::Eventfd(eventfd(0, EventfdFlags::CLOEXEC)?)))
    }

    /// Wakes an owner that sleeps outside of its ring, by `call`.
    #[must_use]
    pub fn calling(call: impl Fn() + Send + Sync + 'static) -> Self {
        Self::with(Wake::Call(Box::new(call)))
    }

    fn with(wake: Wake) -> Self {
        let state = CachePadded::new(AtomicU32::new(AWAKE));
        Self { shared: Arc::new(Shared { state, wake }) }
    }

    /// What the owner's ring must read to be woken.
    pub(super) fn eventfd(&self) -> Option<RawFd> {
        match &self.shared.wake {
            Wake::Eventfd(eventfd) => Some(eventfd.as_raw_fd()),
            Wake::Call(_) => None,
        }
    }

    /// Says that the owner is about to wait. False when a wake has come: it must not.
    pub(super) fn fall_asleep(&self) -> bool {
        let state = &self.shared.state;
        state.compare_exchange(AWAKE, SLEEPING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether a wake has come that the owner has not seen.
    pub(super) fn is_notified(&self) -> bool {
        self.shared.state.load(Ordering::Acquire) == NOTIFIED
    }

    /// Says that the owner runs; true when a wake has come since it was last asked.
    pub(super) fn awake(&self) -> bool {
        self.shared.state.swap(AWAKE, Ordering::AcqRel) == NOTIFIED
    }
}

impl Waker for UringWaker {
    fn wake(&self) {
        if self.shared.state.swap(NOTIFIED, Ordering::AcqRel) != SLEEPING {
            return;
        }
        let eventfd = match &self.shared.wake {
            Wake::Eventfd(eventfd) => eventfd.as_raw_fd(),
            Wake::Call(call) => return call(),
        };
        let one = 1_u64.to_ne_bytes();
        loop {
            // SAFETY: eight bytes are read from a local that outlives the call.
            let count = unsafe { libc::write(eventfd, one.as_ptr().cast(), one.len()) };
            if count == 8 {
                return;
            }
            let error = io::Error::last_os_error();
            assert_eq!(error.kind(), io::ErrorKind::Interrupted, "write to an eventfd: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(waker: &UringWaker) -> u64 {
        let fd = waker.eventfd().expect("it has one");
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: the kernel writes one pollfd, into a local that outlives the call.
        if unsafe { libc::poll(&raw mut poll, 1, 0) } == 0 {
            return 0;
        }
        let mut bytes = [0; 8];
        // SAFETY: the kernel writes eight bytes, into a local that outlives the call.
        assert_eq!(unsafe { libc::read(poll.fd, bytes.as_mut_ptr().cast(), 8) }, 8);
        u64::from_ne_bytes(bytes)
    }

    #[test]
    fn wake_of_an_awake_owner_costs_no_system_call_and_prevents_sleep() {
        let waker = UringWaker::new().unwrap();
        waker.wake();
        waker.wake();
        assert_eq!(count(&waker), 0);
        assert!(!waker.fall_asleep());
        assert!(waker.awake());
        assert!(waker.fall_asleep());
    }

    #[test]
    fn a_sleeper_elsewhere_is_called_once() {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let waker = UringWaker::calling(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        waker.wake();
        assert!(!waker.fall_asleep());
        assert!(waker.awake());
        assert!(waker.fall_asleep());
        waker.wake();
        waker.wake();
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn wakes_of_a_sleeper_write_once() {
        let waker = UringWaker::new().unwrap();
        assert!(waker.fall_asleep());
        waker.wake();
        waker.wake();
        assert_eq!(count(&waker), 1);
        assert!(waker.awake());
        assert!(!waker.awake());
    }
}
