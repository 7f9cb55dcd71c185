//! Looking for completions instead of sleeping, for a while: a wake of a thread takes longer than
//! most of what it waits for.
//!
//! Before it sleeps the owner looks at the ring's memory and at its own wakes, without a system call;
//! then the kernel looks into the queues of the network cards that the ring's sockets come from (NAPI
//! busy polling), each for the time that was asked for. After that it sleeps as ever.

use std::hint;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::IoUring;

use super::Uring;
use crate::clock;

/// IORING_REGISTER_NAPI, Linux 6.9.
const REGISTER_NAPI: u32 = 27;

/// struct io_uring_napi of the kernel.
#[repr(C)]
struct Napi {
    busy_poll_us: u32,
    prefer_busy_poll: u8,
    opcode: u8,
    pad: [u8; 2],
    parameter: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Napi>() == 16);

/// Has the kernel poll network cards for a ring that waits.
pub(super) fn register_napi(ring: &IoUring, busy_poll_us: u32) -> io::Result<()> {
    let mut napi = Napi {
        busy_poll_us,
        // Preferring it needs sysctls that change what everybody else gets.
        prefer_busy_poll: 0,
        opcode: 0,
        pad: [0; 2],
        parameter: 0,
        reserved: 0,
    };
    let fd = ring.as_raw_fd();
    // SAFETY: the kernel reads one struct and writes the old one there, a local that outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_NAPI, &raw mut napi, 1) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Uring {
    /// Why the kernel does not poll network cards for this ring, if that was asked for.
    #[must_use]
    pub fn busy_poll_refusal(&self) -> Option<&io::Error> {
        self.napi_refusal.as_ref()
    }

    /// Submits everything, and looks for what ends a sleep until `deadline_ns` or for as long as was
    /// asked for. True when there is something.
    pub(super) fn spin(&mut self, deadline_ns: Option<u64>) -> io::Result<bool> {
        if self.busy_poll_ns == 0 {
            return Ok(false);
        }
        if !self.ring.submission().is_empty() {
            let entered = self.enter(0, None);
            self.get_over(entered)?;
        }
        let until_ns = clock::monotonic_ns().saturating_add(self.busy_poll_ns);
        loop {
            if self.waker.is_notified() || self.has_completed() {
                return Ok(true);
            }
            let now_ns = clock::monotonic_ns();
            if deadline_ns.is_some_and(|deadline| deadline <= now_ns) {
                return Ok(true);
            }
            if now_ns >= until_ns {
                return Ok(false);
            }
            hint::spin_loop();
        }
    }

    /// Whether an enter would find completions: the kernel says so where it defers their making.
    fn has_completed(&mut self) -> bool {
        let submission = self.ring.submission();
        let deferred = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        deferred || !self.ring.completion().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::buffer::Buffer;
    use crate::io::{Done, Io, Op, Token, Waker};
    use crate::uring::UringConfig;

    const BUSY_US: u32 = 100_000;
    const BUSY_NS: u64 = 100_000_000;

    fn ring(busy_poll_us: u32) -> Uring {
        Uring::new(UringConfig { busy_poll_us, ..UringConfig::default() }).unwrap()
    }

    /// CPU time of this thread.
    fn cpu_ns() -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes one timespec, a local that outlives the call.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        assert_eq!(result, 0);
        u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap()
    }

    /// CPU time of a wait that ends by its deadline.
    fn cpu_of_a_wait(ring: &mut Uring) -> u64 {
        let (before, mut completions) = (cpu_ns(), Vec::new());
        let deadline = ring.now_ns() + BUSY_NS;
        ring.wait(Some(deadline), &mut completions).unwrap();
        assert!(ring.now_ns() >= deadline && completions.is_empty());
        cpu_ns() - before
    }

    #[test]
    fn a_wait_spins_only_where_it_was_asked_for() {
        assert!(cpu_of_a_wait(&mut ring(0)) < BUSY_NS / 50);
        // Others want this CPU as well.
        assert!(cpu_of_a_wait(&mut ring(BUSY_US)) > BUSY_NS / 25);
    }

    #[test]
    fn a_spin_is_followed_by_a_sleep() {
        let mut ring = ring(1000);
        assert!(cpu_of_a_wait(&mut ring) < BUSY_NS / 2);
    }

    #[test]
    fn wakes_and_completions_end_a_spin_and_a_sleep() {
        for (busy_us, pause_ms) in [(5_000_000, 0), (5_000_000, 20), (1, 20), (0, 20)] {
            let mut ring = ring(busy_us);
            let (near, mut far) = UnixStream::pair().unwrap();
            let socket = ring.adopt(near.into());
            let begin = ring.now_ns();
            let mut completions = Vec::new();
            thread::scope(|scope| {
                let waker = ring.waker();
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(pause_ms));
                    waker.wake();
                });
                ring.wait(None, &mut completions).unwrap();
                assert!(completions.is_empty());
                ring.submit(Token(3), Op::Recv { socket, buf: Buffer::with_capacity(8) });
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(pause_ms));
                    far.write_all(b"hello").unwrap();
                });
                ring.wait(None, &mut completions).unwrap();
            });
            let [completion] = &completions[..] else { panic!("{completions:?}") };
            assert!(matches!(&completion.result, Ok(Done::Received(buf)) if **buf == *b"hello"));
            assert!(ring.now_ns() - begin < 4_000_000_000, "it was not seen while spinning");
        }
    }

    #[test]
    fn the_kernel_polls_network_cards_or_says_why_not() {
        assert!(ring(0).busy_poll_refusal().is_none());
        let ring = ring(50);
        let refusal = ring.busy_poll_refusal().and_then(io::Error::raw_os_error);
        // Before Linux 6.9, and in one without CONFIG_NET_RX_BUSY_POLL.
        assert!(matches!(refusal, None | Some(libc::EINVAL | libc::EOPNOTSUPP)), "{refusal:?}");
    }
}
