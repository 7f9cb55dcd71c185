//! Operations of io_uring for themselves, outside of the data plane, so that what they cost can be
//! measured before it uses them, or to say why it does not.
//!
//! Each has a small blocking interface and a ring of its own. A kernel that lacks one says
//! so through [`Trial::check`], with the version that brings it.
//!
//! Invariants:
//! - Memory that the kernel was pointed to lives, unchanged, until the last CQE of the operation has
//!   come; it is leaked rather than freed when that cannot be awaited.
//! - A ring is used by the thread that made it.
//!
//! Not here: the data plane's ring (`uring`), whose operations are many at a time and never block.

mod bundle;
mod linked;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;
use std::io;
use std::marker::PhantomData;

use io_uring::{Builder, IoUring, cqueue, opcode, squeue, types};

use crate::uring::{SEND_ZC_REPORT_USAGE, io_uring_check, zero_copy_send_is_there};

pub use bundle::{BundleSender, PIECES_MAX};
pub use linked::{Linked, LinkedWriter};

/// Submission queue entries: no interface here submits more than a few at once.
const ENTRIES: u32 = 8;

/// Operations that a kernel may lack on which everything else of walhub runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trial {
    /// One SEND of all buffers in a provided buffer ring: [`BundleSender`].
    Bundle,
    /// [`Op::SendZeroCopy`](crate::io::Op::SendZeroCopy) that reports whether the kernel copied after all.
    SendZc,
}

/// This kernel does not have the operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing(pub Trial);

impl Trial {
    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bundle => "SEND with IORING_RECVSEND_BUNDLE",
            Self::SendZc => "SENDMSG_ZC with IORING_SEND_ZC_REPORT_USAGE",
        }
    }

    /// The first version of Linux that has it.
    #[must_use]
    pub fn kernel_min(self) -> &'static str {
        match self {
            Self::Bundle => "6.10",
            Self::SendZc => "6.2",
        }
    }

    /// Asks the kernel for it.
    ///
    /// # Errors
    /// [`Missing`] inside an [`io::Error`] of kind `Unsupported`, or why there can be no ring.
    pub fn check(self) -> io::Result<()> {
        let has = match self {
            Self::Bundle => bundle::is_supported()?,
            Self::SendZc => reports_copies()?,
        };
        if has { Ok(()) } else { Err(io::Error::new(io::ErrorKind::Unsupported, Missing(self))) }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(trial) = self;
        write!(
            f,
            "this kernel has no {}: Linux {} or newer is needed",
            trial.name(),
            trial.kernel_min()
        )
    }
}

impl Error for Missing {}

/// One CQE.
#[derive(Clone, Copy, Debug)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

impl Completion {
    /// Whether this is the last of its operation.
    fn is_last(self) -> bool {
        !cqueue::more(self.flags)
    }
}

/// A ring, and the memory that the kernel was pointed to through it.
struct Ring<M: Default> {
    /// Closed before `held` is freed.
    ring: IoUring,
    held: M,
    /// Operations whose last CQE has not come.
    under_way: usize,
    broken: bool,
    /// The kernel takes submissions from the thread that made the ring only.
    thread: PhantomData<*const ()>,
}

impl<M: Default> Ring<M> {
    fn new() -> io::Result<Self> {
        // Says which knob forbids it, where one does.
        io_uring_check()?;
        let deferred: fn(&mut Builder) -> &mut Builder =
            |builder| builder.setup_single_issuer().setup_defer_taskrun();
        // Kernels before 6.1 refuse the flags.
        let ring = build(deferred).or_else(|_| build(|builder| builder))?;
        Ok(Self { ring, held: M::default(), under_way: 0, broken: false, thread: PhantomData })
    }

    /// Puts an operation into the submission queue.
    ///
    /// # Safety
    /// What the entry points to is owned by `held` and is neither changed nor given away before the
    /// operation's last CQE was handed out by [`Ring::wait`].
    ///
    /// # Panics
    /// If the queue is full.
    unsafe fn push(&mut self, entry: &squeue::Entry) {
        self.under_way += 1;
        // SAFETY: promised by the caller; `held` outlives the operation, see `drop`.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("fewer operations than entries");
    }

    /// Submits what is queued and hands out completions, `want` of them at least.
    ///
    /// After an error it is unknown what is under way: nothing more can be done with the ring.
    ///
    /// # Panics
    /// After an error.
    fn wait(&mut self, want: usize, mut each: impl FnMut(&mut M, Completion)) -> io::Result<()> {
        assert!(!self.broken, "the ring has failed");
        let mut left = want;
        loop {
            match self.ring.submit_and_wait(left) {
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    self.leak();
                    return Err(error);
                }
            }
            for cqe in self.ring.completion() {
                let (user_data, result, flags) = (cqe.user_data(), cqe.result(), cqe.flags());
                let completion = Completion { user_data, result, flags };
                if completion.is_last() {
                    self.under_way -= 1;
                }
                each(&mut self.held, completion);
                left = left.saturating_sub(1);
            }
            if left == 0 {
                return Ok(());
            }
        }
    }

    /// Gives the memory up: the kernel may use it for some time after the ring was closed.
    fn leak(&mut self) {
        self.broken = true;
        std::mem::forget(std::mem::take(&mut self.held));
    }
}

impl<M: Default> Drop for Ring<M> {
    fn drop(&mut self) {
        if self.under_way > 0 {
            self.leak();
        }
    }
}

fn build(choose: fn(&mut Builder) -> &mut Builder) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork();
    choose(&mut builder).build(ENTRIES)
}

/// Interrupted by a signal, or completions must be taken first.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY))
}

/// The count that a CQE reports, or its error.
fn count(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("one operation moves less than 4 GiB")
}

/// Whether the kernel has sends without a copy, and their report: flags are looked at before the
/// descriptor, and those of SEND_ZC are those of SENDMSG_ZC.
fn reports_copies() -> io::Result<bool> {
    if !zero_copy_send_is_there()? {
        return Ok(false);
    }
    let mut ring: Ring<()> = Ring::new()?;
    let entry = opcode::SendZc::new(types::Fd(-1), std::ptr::null(), 0);
    // SAFETY: the entry points to no memory.
    unsafe { ring.push(&entry.zc_flags(SEND_ZC_REPORT_USAGE).build()) };
    let mut refused = 0;
    while ring.under_way > 0 {
        ring.wait(1, |(), cqe| {
            if !cqueue::notif(cqe.flags) {
                refused = cqe.result;
            }
        })?;
    }
    Ok(refused == -libc::EBADF)
}
