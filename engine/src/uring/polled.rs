//! A ring whose owner sleeps elsewhere: in an event loop that is told by an eventfd.
//!
//! Such an owner shares its thread with others, so nothing here waits. Deadlines are timeouts in the
//! ring, because event loops count in milliseconds.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{Ordering, fence};

use io_uring::{opcode, types};
use rustix::event::{EventfdFlags, eventfd};

use super::{Uring, UringConfig, UringWaker};
use crate::clock;
use crate::io::Completion;

/// `user_data` of a timeout.
pub(super) const TIMER_DATA: u64 = u64::MAX - 2;

/// Timeouts that the kernel counts, by deadline. Each keeps what its SQE points to.
#[derive(Debug, Default)]
pub(super) struct Timers {
    armed: BTreeMap<u64, Box<types::Timespec>>,
}

impl Timers {
    /// Forgets those that have ended by `now_ns`.
    pub(super) fn expire(&mut self, now_ns: u64) {
        while self.armed.first_key_value().is_some_and(|(&deadline, _)| deadline <= now_ns) {
            self.armed.pop_first();
        }
    }

    /// The timeout that is still to be started for the owner to be woken by `deadline_ns`.
    fn arm(&mut self, deadline_ns: u64) -> Option<&types::Timespec> {
        if self.armed.first_key_value().is_some_and(|(&first, _)| first <= deadline_ns) {
            return None;
        }
        let nanos = u32::try_from(deadline_ns % 1_000_000_000).expect("less than a second");
        let at = types::Timespec::new().sec(deadline_ns / 1_000_000_000).nsec(nanos);
        Some(&**self.armed.entry(deadline_ns).or_insert(Box::new(at)))
    }
}

impl Uring {
    /// Makes a ring for the calling thread, whose owner takes completions with [`Uring::poll`] alone
    /// and is woken by `waker`.
    ///
    /// # Errors
    /// As [`Uring::new`].
    pub fn polled(config: UringConfig, waker: UringWaker) -> io::Result<Self> {
        let mut ring = Self::with_waker(UringConfig { spin_us: 0, napi_us: 0, ..config }, waker)?;
        let completed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // The ring's own descriptor does not become readable by work that the kernel has deferred.
        ring.ring.submitter().register_eventfd(completed.as_raw_fd())?;
        ring.ring.completion().disable_eventfd();
        ring.completed = Some(completed);
        Ok(ring)
    }

    /// What becomes readable when something has completed after [`Uring::poll`] gave false. Nobody reads
    /// it: it is for edge-triggered notification.
    ///
    /// # Panics
    /// When the ring was not made by [`Uring::polled`].
    #[must_use]
    pub fn completed(&self) -> BorrowedFd<'_> {
        self.completed.as_ref().expect("a polled ring").as_fd()
    }

    /// Submits everything and takes what has completed, without waiting.
    ///
    /// False when nothing has, no wake came and `deadline_ns` is not reached: then [`Uring::completed`]
    /// tells of the next completion or of the deadline, and a wake calls what the waker was made with.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn poll(
        &mut self,
        deadline_ns: Option<u64>,
        completions: &mut Vec<Completion>,
    ) -> io::Result<bool> {
        self.ring.completion().disable_eventfd();
        let woken = self.waker.awake();
        self.reap();
        self.run_sendfiles();
        self.push_backlog();
        let now_ns = clock::monotonic_ns();
        self.timers.expire(now_ns);
        let due = deadline_ns.is_some_and(|deadline| deadline <= now_ns);
        let mut busy = woken || due || !self.ready.is_empty();
        if !busy {
            self.arm_timer(deadline_ns);
        }
        if !self.ring.submission().is_empty() {
            self.enter_now()?;
            busy |= self.has_more();
        }
        if !busy {
            // Told from here on; what came before is seen by this enter.
            self.ring.completion().enable_eventfd();
            fence(Ordering::SeqCst);
            self.enter_now()?;
            busy = self.has_more() || !self.waker.fall_asleep();
        }
        if busy {
            completions.append(&mut self.ready);
        }
        Ok(busy)
    }

    /// Whether there are completions, or operations that go on without the kernel telling.
    fn has_more(&self) -> bool {
        !self.ready.is_empty() || !self.backlog.is_empty() || !self.sendfiles.is_empty()
    }

    fn enter_now(&mut self) -> io::Result<()> {
        let entered = self.enter(0, None);
        self.get_over(entered)?;
        self.reap();
        Ok(())
    }

    fn arm_timer(&mut self, deadline_ns: Option<u64>) {
        let Some(at) = deadline_ns.and_then(|deadline| self.timers.arm(deadline)) else { return };
        let entry = opcode::Timeout::new(std::ptr::from_ref(at))
            .flags(types::TimeoutFlags::ABS)
            .build()
            .user_data(TIMER_DATA);
        self.push(entry);
    }
}
