//! Looking for completions instead of sleeping, for a while: a wake of a thread takes longer than
//! most of what it waits for.
//!
//! Before it sleeps the owner looks at the ring's memory and at its own wakes, without a system call,
//! and after that the kernel may look into the queues of the network cards that the ring's sockets
//! come from (NAPI busy polling), for the time that was asked for. Then it sleeps as ever.
//!
//! The owner's looking adapts, as the kernel's halt polling of virtual machines does (Linux
//! Documentation/virt/kvm/halt-polling.rst): it goes on as long as waits are shorter than the longest
//! look, and ends when one is longer. It also ends for a while where others want the CPU.

use std::hint;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::IoUring;

use super::Uring;
use crate::clock;

/// IORING_REGISTER_NAPI, Linux 6.9.
const REGISTER_NAPI: u32 = 27;

/// The first look after a wait that was too long.
const WINDOW_MIN_NS: u64 = 20_000;

/// Between two looks this long lies something else that had the CPU: two take less than 100 ns.
const PREEMPTED_NS: u64 = 20_000;

/// A share of preempted looks, in 1024ths, from which on the CPU is wanted by others. Measured: 20 to 110
/// with a CPU for everybody, 250 to 450 where eight clients and a primary share two.
const CROWDED_MAX: u32 = 128;

/// For how long a thread then does not look.
const REST_NS: u64 = 100_000_000;

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

/// How long a thread looks for work before it sleeps.
#[derive(Debug)]
pub(super) struct Spinner {
    longest_ns: u64,
    /// When the wait that is going on began.
    began_ns: u64,
    /// As long as the next look may be.
    window_ns: u64,
    /// Share of the last looks during which something else had the CPU, in 1024ths.
    crowded: u32,
    rests_until_ns: u64,
}

impl Spinner {
    /// One that looks for `longest_us` at most.
    pub(super) fn new(longest_us: u32) -> Self {
        let longest_ns = u64::from(longest_us) * 1000;
        Self { longest_ns, began_ns: 0, window_ns: 0, crowded: 0, rests_until_ns: 0 }
    }

    /// A wait begins: how long its look may be.
    fn begin(&mut self, now_ns: u64) -> u64 {
        self.began_ns = now_ns;
        if now_ns < self.rests_until_ns { 0 } else { self.window_ns }
    }

    /// The wait is over: the next one is likely to be as long.
    pub(super) fn waited(&mut self) {
        if self.longest_ns > 0 {
            self.adapt(clock::monotonic_ns() - self.began_ns);
        }
    }

    fn adapt(&mut self, waited_ns: u64) {
        if waited_ns > self.longest_ns {
            self.window_ns = 0;
        } else if waited_ns >= self.window_ns {
            self.window_ns = (self.window_ns * 2).max(WINDOW_MIN_NS).min(self.longest_ns);
        }
    }

    /// A look is over, because there was something or because, at `preempted_ns`, something else had
    /// had the CPU.
    fn looked(&mut self, preempted_ns: Option<u64>) {
        self.crowded -= self.crowded / 32;
        let Some(now_ns) = preempted_ns else { return };
        self.crowded += 1024 / 32;
        if self.crowded > CROWDED_MAX {
            self.crowded = CROWDED_MAX / 2;
            self.rests_until_ns = now_ns + REST_NS;
        }
    }
}

impl Uring {
    /// Why the kernel does not poll network cards for this ring, if that was asked for.
    #[must_use]
    pub fn busy_poll_refusal(&self) -> Option<&io::Error> {
        self.napi_refusal.as_ref()
    }

    /// Submits everything, and looks for what ends a sleep until `deadline_ns` or for as long as has
    /// been paying lately. True when there is something.
    pub(super) fn spin(&mut self, deadline_ns: Option<u64>) -> io::Result<bool> {
        if self.spinner.longest_ns == 0 {
            return Ok(false);
        }
        let begin_ns = clock::monotonic_ns();
        let window_ns = self.spinner.begin(begin_ns);
        if window_ns == 0 {
            return Ok(false);
        }
        if !self.ring.submission().is_empty() {
            let entered = self.enter(0, None);
            self.get_over(entered)?;
        }
        let mut looked_ns = clock::monotonic_ns();
        loop {
            if self.waker.is_notified() || self.has_completed() {
                self.spinner.looked(None);
                return Ok(true);
            }
            let now_ns = clock::monotonic_ns();
            if deadline_ns.is_some_and(|deadline| deadline <= now_ns) {
                return Ok(true);
            }
            if now_ns - looked_ns > PREEMPTED_NS {
                self.spinner.looked(Some(now_ns));
                return Ok(false);
            }
            if now_ns - begin_ns >= window_ns {
                return Ok(false);
            }
            looked_ns = now_ns;
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

    fn ring(spin_us: u32) -> Uring {
        let mut ring = Uring::new(UringConfig { spin_us, ..UringConfig::default() }).unwrap();
        // As after many short waits.
        ring.spinner.window_ns = ring.spinner.longest_ns;
        ring
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
        assert!(cpu_of_a_wait(&mut ring(0)) < BUSY_NS / 100);
        // It ends when others want this CPU, as other tests do: after a slice of the scheduler's.
        assert!((0..200).any(|_| cpu_of_a_wait(&mut ring(BUSY_US)) > BUSY_NS / 100));
    }

    #[test]
    fn looks_grow_with_short_waits_and_end_with_a_long_one() {
        let mut spinner = Spinner::new(400);
        assert_eq!(spinner.begin(0), 0);
        let windows = [1, 90_000, 10_000, 90_000, 90_000, 399_000, 400_000, 1].map(|waited_ns| {
            spinner.adapt(waited_ns);
            spinner.begin(0)
        });
        assert_eq!(windows, [20_000, 40_000, 40_000, 80_000, 160_000, 320_000, 400_000, 400_000]);
        spinner.adapt(400_001);
        assert_eq!(spinner.begin(0), 0);
        let mut off = Spinner::new(0);
        off.waited();
        assert_eq!(off.begin(0), 0);
    }

    #[test]
    fn looks_rest_while_others_want_the_cpu() {
        let mut spinner = Spinner::new(20);
        spinner.adapt(1);
        // One in 16 is what a quiet machine does.
        for look in 0..1000 {
            spinner.looked((look % 16 == 0).then_some(0));
            assert_eq!(spinner.begin(0), 20_000, "look {look}");
        }
        let looks = (0..100).take_while(|look| {
            spinner.looked((look % 4 == 0).then_some(7));
            spinner.begin(7) > 0
        });
        let looks = looks.count();
        assert!((1..50).contains(&looks), "{looks}");
        assert_eq!(spinner.begin(7 + REST_NS - 1), 0);
        assert_eq!(spinner.begin(7 + REST_NS), 20_000);
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
        assert!(ring(50).busy_poll_refusal().is_none());
        let ring = Uring::new(UringConfig { napi_us: 50, ..UringConfig::default() }).unwrap();
        let refusal = ring.busy_poll_refusal().and_then(io::Error::raw_os_error);
        // Before Linux 6.9, and in one without CONFIG_NET_RX_BUSY_POLL.
        assert!(matches!(refusal, None | Some(libc::EINVAL | libc::EOPNOTSUPP)), "{refusal:?}");
    }
}
