//! [`Io`] through io_uring: one ring, used by the thread that made it.
//!
//! Invariants:
//! - Memory that the kernel was pointed to lives until the operation's CQE has come; dropping a
//!   [`Uring`] ends all operations first, and leaks rather than frees when it cannot.
//! - A submitted operation completes exactly once, whatever the sizes of the queues; a send without a
//!   copy that succeeds, exactly twice.
//! - The waker's eventfd is being read in the ring whenever the owner sleeps there.
//!
//! Not here: anything that knows what an operation is for.

mod busy;
mod operations;
mod polled;
mod sendfile;
mod setup;
mod table;
#[cfg(test)]
mod tests;
mod tune;
mod wake;
mod zero_copy;

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use socket2::SockRef;

use crate::clock;
use crate::io::{
    Completion, Done, FileId, GATHER_PIECES_MAX, Io, Op, SocketId, TcpTuning, Token, ZeroCopy,
};

use busy::{Spinner, register_napi};
pub use operations::OPS_MAX;
pub(crate) use operations::SEND_ZC_REPORT_USAGE;
use operations::{FirstCqe, Operations, Work};
use polled::{TIMER_DATA, Timers};
pub use sendfile::page_cache_is_visible;
use sendfile::{Progress, Transfer};
pub use setup::{
    KERNEL_MIN, UringUnavailable, io_uring_check, operations_missing, operations_used,
    zero_copy_send_is_there,
};
use table::Table;
pub use wake::UringWaker;
use zero_copy::{abort, released_at_once};

/// `user_data` of the eventfd's read; operations have small numbers.
const WAKE_DATA: u64 = u64::MAX;

/// `user_data` of a cancellation.
const CANCEL_DATA: u64 = u64::MAX - 1;

/// Bytes of files sent between two enters: what else has completed is not to wait longer for them.
const SENDFILE_BYTES_PER_ENTER: usize = 512 << 10;

/// How long to wait before trying again what the kernel could not do.
const RETRY_NS: u64 = 100_000_000;

/// Sizes of a [`Uring`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UringConfig {
    /// Submission queue entries: more operations than that in one batch cost one more system call.
    pub entries: u32,
    /// Most kernel workers for files: buffered writes and every fsync run on one.
    pub file_workers_max: u32,
    /// Most kernel workers for everything else; sockets are polled and need none.
    pub other_workers_max: u32,
    /// Microseconds for which a wait looks for completions before it sleeps, at most. A ring made by
    /// [`Uring::polled`] does not look.
    pub spin_us: u32,
    /// Microseconds for which the kernel then polls network cards. Zero is not at all.
    pub napi_us: u32,
}

impl Default for UringConfig {
    fn default() -> Self {
        Self { entries: 256, file_workers_max: 8, other_workers_max: 4, spin_us: 0, napi_us: 0 }
    }
}

/// Disk and network of one core through one io_uring.
pub struct Uring {
    ring: IoUring,
    /// Descriptor for io_uring_enter, and the flag that goes with it.
    enter_fd: (RawFd, u32),
    operations: Operations,
    files: Table,
    sockets: Table,
    waker: UringWaker,
    /// What the eventfd's read writes to. Only the kernel looks at it.
    wake_count: Box<[u8; 8]>,
    wake_armed: bool,
    /// Entries that found the submission queue full, in order.
    backlog: VecDeque<squeue::Entry>,
    /// Sends of files whose socket may take more, in order.
    sendfiles: VecDeque<usize>,
    /// Completions not handed out yet.
    ready: Vec<Completion>,
    /// CQEs taken from the ring and not looked at yet.
    cqes: Vec<(u64, i32, u32)>,
    timers: Timers,
    /// Counts completions while the owner of a polled ring sleeps.
    completed: Option<OwnedFd>,
    closing: bool,
    has_zero_copy_send: bool,
    spinner: Spinner,
    napi_refusal: Option<io::Error>,
    /// The kernel takes submissions from the thread that made the ring only.
    thread: PhantomData<*const ()>,
}

impl Uring {
    /// Makes a ring for the calling thread.
    ///
    /// # Errors
    /// [`UringUnavailable`] inside an [`io::Error`]: its message names the knob to turn.
    pub fn new(config: UringConfig) -> io::Result<Self> {
        Self::with_waker(config, UringWaker::new()?)
    }

    fn with_waker(config: UringConfig, waker: UringWaker) -> io::Result<Self> {
        // A core that spins looks at the ring's memory only.
        let taskrun =
            if config.spin_us > 0 { setup::TaskrunFlag::On } else { setup::TaskrunFlag::Off };
        let ring = setup::build(config.entries, taskrun)?;
        let mut workers = [config.file_workers_max, config.other_workers_max];
        ring.submitter().register_iowq_max_workers(&mut workers)?;
        let napi = match config.napi_us {
            0 => Ok(()),
            napi_us => register_napi(&ring, napi_us),
        };
        Ok(Self {
            spinner: Spinner::new(config.spin_us),
            napi_refusal: napi.err(),
            has_zero_copy_send: setup::has_zero_copy_send(&ring)?,
            enter_fd: enter_fd(&ring),
            ring,
            operations: Operations::new(),
            files: Table::new("file"),
            sockets: Table::new("socket"),
            waker,
            wake_count: Box::new([0; 8]),
            wake_armed: false,
            backlog: VecDeque::new(),
            sendfiles: VecDeque::new(),
            ready: Vec::new(),
            cqes: Vec::new(),
            timers: Timers::default(),
            completed: None,
            closing: false,
            thread: PhantomData,
        })
    }

    /// Turns an operation into work, or says why it can never run, with its descriptor claimed.
    fn work(&mut self, op: Op) -> io::Result<(RawFd, Work)> {
        Ok(match op {
            Op::Open { path, mode } => {
                let create = if mode.create { libc::O_CREAT } else { 0 };
                let direct = if mode.direct { libc::O_DIRECT } else { 0 };
                (-1, Work::Open { path: c_path(&path)?, flags: create | direct })
            }
            Op::Close { file } => (self.files.remove(file.0).into_raw_fd(), Work::Close),
            Op::Read { file, offset, mut buf } => {
                buf.clear();
                (self.files.begin(file.0), Work::Read { file, offset, buf })
            }
            Op::Write { file, offset, data, durable } => {
                assert!(data.len() <= GATHER_PIECES_MAX, "{} pieces in a write", data.len());
                (self.files.begin(file.0), Work::Write { file, offset, data, durable })
            }
            Op::Allocate { file, len } => (self.files.begin(file.0), Work::Allocate { file, len }),
            Op::Sync { file } => (self.files.begin(file.0), Work::Sync { file }),
            Op::SyncDir { path } => (-1, Work::SyncDir { path: c_path(&path)?, dir: None }),
            Op::Rename { from, to } => {
                (-1, Work::Rename { from: c_path(&from)?, to: c_path(&to)? })
            }
            Op::Unlink { path } => (-1, Work::Unlink { path: c_path(&path)? }),
            Op::Recv { socket, mut buf } => {
                buf.clear();
                (self.sockets.begin(socket.0), Work::Recv { socket, buf })
            }
            Op::RecvScatter { socket, scatter } => {
                (self.sockets.begin(socket.0), Work::RecvScatter { socket, scatter })
            }
            Op::CancelRecv { socket } => {
                (self.sockets.begin(socket.0), Work::CancelRecv { socket })
            }
            Op::Send { socket, head, body } => {
                assert!(body.len() <= GATHER_PIECES_MAX, "{} pieces in a send", body.len());
                (self.sockets.begin(socket.0), Work::Send { socket, head, body })
            }
            Op::SendZeroCopy { socket, head, body } => {
                assert!(body.len() <= GATHER_PIECES_MAX, "{} pieces in a send", body.len());
                let fd = self.sockets.begin(socket.0);
                (fd, Work::SendZeroCopy { socket, head, body, first: FirstCqe::Awaited })
            }
            Op::SendFile { socket, head, file, offset, len } => {
                let file_fd = self.files.begin(file.0);
                let transfer = Transfer::new(socket, head, file_fd, offset, len);
                (self.sockets.begin(socket.0), Work::SendFile { file, transfer })
            }
        })
    }

    /// Puts an operation's SQE into the submission queue.
    fn push_operation(&mut self, index: usize) {
        let user_data = u64::try_from(index).expect("an index fits 64 bits");
        let entry = self.operations.operation(index).entry().user_data(user_data);
        self.push(entry);
    }

    /// Puts an SQE into the submission queue, submitting what is in it when it is full.
    fn push(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() {
            if self.try_push(&entry) {
                return;
            }
            // A refusal shows again in the next wait, which can report it.
            let _ = self.enter(0, None);
            if self.try_push(&entry) {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: what the entry points to is in a boxed operation, in `wake_count` or nowhere, and stays
        // there untouched until its CQE was taken.
        unsafe { self.ring.submission().push(entry).is_ok() }
    }

    /// Moves what found no room before into the submission queue, as far as there is room now.
    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    fn arm_wake(&mut self) {
        if self.wake_armed || self.closing {
            return;
        }
        let Some(eventfd) = self.waker.eventfd() else { return };
        let entry = opcode::Read::new(types::Fd(eventfd), self.wake_count.as_mut_ptr(), 8).build();
        self.wake_armed = true;
        self.push(entry.user_data(WAKE_DATA));
    }

    /// Submits the submission queue and waits for `want` completions, `timeout_ns` at most.
    fn enter(&mut self, want: u32, timeout_ns: Option<u64>) -> io::Result<()> {
        let (fd, mut flags) = self.enter_fd;
        // Deferred work of the kernel runs, and overflown completions arrive, only with GETEVENTS.
        flags |= ENTER_GETEVENTS;
        let timeout = timeout_ns.map(KernelTimespec::from_ns);
        let argument = timeout.as_ref().map(|timeout| EnterArgument {
            sigmask: 0,
            sigmask_len: 0,
            min_wait_us: 0,
            timeout,
        });
        let (pointer, len) = match &argument {
            Some(argument) => {
                flags |= ENTER_EXT_ARG;
                (std::ptr::from_ref(argument), size_of::<EnterArgument<'_>>())
            }
            None => (std::ptr::null(), 0),
        };
        let count = self.ring.submission().len();
        // SAFETY: the argument and the timespec in it are locals that outlive the call; what the
        // entries submitted point to is said at `try_push`.
        let result = unsafe {
            libc::syscall(libc::SYS_io_uring_enter, fd, count, want, flags, pointer, len)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes all CQEs out of the ring and turns them into completions.
    fn reap(&mut self) {
        let mut cqes = std::mem::take(&mut self.cqes);
        let parts = |cqe: cqueue::Entry| (cqe.user_data(), cqe.result(), cqe.flags());
        cqes.extend(self.ring.completion().map(parts));
        for (user_data, result, flags) in cqes.drain(..) {
            match user_data {
                WAKE_DATA => self.wake_armed = false,
                CANCEL_DATA | TIMER_DATA => {}
                index => {
                    let index = usize::try_from(index).expect("an operation's number");
                    if cqueue::notif(flags) {
                        self.release_memory(index, result);
                    } else if cqueue::more(flags) {
                        self.finish_first(index, result);
                    } else {
                        self.finish(index, result);
                    }
                }
            }
        }
        self.cqes = cqes;
    }

    /// Ends an operation, or starts it again, or starts its next step.
    fn finish(&mut self, index: usize, result: i32) {
        if matches!(self.operations.operation(index).work, Work::SendFile { .. }) && result >= 0 {
            return self.sendfiles.push_back(index);
        }
        let interrupted = result == -libc::EINTR || result == -libc::EAGAIN;
        // Closing is the exception: the descriptor is gone even after EINTR.
        if interrupted && !self.closing && self.operations.operation(index).may_repeat() {
            return self.push_operation(index);
        }
        if let Work::SyncDir { dir: dir @ None, .. } = &mut self.operations.operation(index).work
            && let Ok(fd) = check(result)
        {
            // SAFETY: the kernel has just opened this descriptor, and nobody else owns it.
            *dir = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            return self.push_operation(index);
        }
        let (token, work) = self.operations.end(index);
        let is_zero_copy = matches!(work, Work::SendZeroCopy { .. });
        let result = self.done(work, result);
        let released = if is_zero_copy { released_at_once(&result) } else { None };
        self.ready.push(Completion { token, result });
        self.ready.extend(released.map(|done| Completion { token, result: Ok(done) }));
    }

    /// Sends files to the sockets that take them, a part of each by turns.
    fn run_sendfiles(&mut self) {
        let mut budget = SENDFILE_BYTES_PER_ENTER;
        while budget > 0
            && let Some(index) = self.sendfiles.pop_front()
        {
            let operation = self.operations.operation(index);
            let Work::SendFile { transfer, .. } = &mut operation.work else {
                panic!("operation {index} sends no file")
            };
            let before = transfer.sent();
            let progress = transfer.advance(operation.fd, budget);
            budget = budget.saturating_sub(transfer.sent() - before);
            match progress {
                Progress::SocketFull => self.push_operation(index),
                Progress::More => self.sendfiles.push_back(index),
                Progress::Ended(result) => {
                    let (token, work) = self.operations.end(index);
                    let done = self.done(work, 0);
                    self.ready.push(Completion { token, result: result.and(done) });
                }
            }
        }
    }

    fn done(&mut self, work: Work, result: i32) -> io::Result<Done> {
        match &work {
            Work::Read { file, .. }
            | Work::Write { file, .. }
            | Work::Allocate { file, .. }
            | Work::Sync { file } => {
                self.files.end(file.0);
            }
            Work::Recv { socket, .. }
            | Work::RecvScatter { socket, .. }
            | Work::CancelRecv { socket }
            | Work::Send { socket, .. }
            | Work::SendZeroCopy { socket, .. } => {
                self.sockets.end(socket.0);
            }
            Work::SendFile { file, transfer } => {
                self.files.end(file.0);
                self.sockets.end(transfer.socket().0);
            }
            Work::Free
            | Work::Open { .. }
            | Work::Close
            | Work::SyncDir { .. }
            | Work::Rename { .. }
            | Work::Unlink { .. } => {}
        }
        if matches!(work, Work::CancelRecv { .. }) {
            // An error means that there was nothing to cancel, or that it was too late.
            return Ok(Done::Cancelled);
        }
        let value = check(result)?;
        let count = usize::try_from(value).expect("checked to be no error");
        Ok(match work {
            Work::Free | Work::CancelRecv { .. } => panic!("a free operation completed"),
            Work::Open { .. } => {
                // SAFETY: the kernel has just opened this descriptor, and nobody else owns it.
                let fd = unsafe { OwnedFd::from_raw_fd(value) };
                Done::Opened(FileId(self.files.insert(fd)))
            }
            Work::Close => Done::Closed,
            Work::Read { mut buf, .. } => {
                buf.set_len(count);
                Done::Read(buf)
            }
            Work::Write { .. } => Done::Wrote(count),
            Work::Allocate { .. } => Done::Allocated,
            Work::Sync { .. } | Work::SyncDir { .. } => Done::Synced,
            Work::Rename { .. } => Done::Renamed,
            Work::Unlink { .. } => Done::Unlinked,
            Work::Recv { mut buf, .. } => {
                buf.set_len(count);
                Done::Received(buf)
            }
            Work::RecvScatter { scatter, .. } => Done::Scattered(scatter.into_parts(count)),
            Work::Send { .. } | Work::SendZeroCopy { .. } => Done::Sent(count),
            Work::SendFile { transfer, .. } => Done::Sent(transfer.sent()),
        })
    }

    /// Goes on after an enter that the kernel refused for a while.
    fn get_over(&mut self, entered: io::Result<()>) -> io::Result<()> {
        match entered {
            Err(error) if is_room(&error) && self.ready.is_empty() => self.make_room(error),
            Err(error) if !is_room(&error) && !is_passing(&error) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Waits until an operation has completed, for an entry of the kernel that found no memory or
    /// no room for more. An error when none is under way that could free some.
    fn make_room(&mut self, refusal: io::Error) -> io::Result<()> {
        let queued = self.ring.submission().len() + self.backlog.len();
        if self.operations.under_way() <= queued {
            return Err(refusal);
        }
        match self.enter(1, Some(RETRY_NS)) {
            Ok(()) => Ok(()),
            Err(error) if is_passing(&error) || is_room(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Cancels what can be cancelled and waits for everything under way. What peers have not
    /// acknowledged is thrown away, and is an error where that is somebody else's to do by now.
    fn end_all(&mut self) -> io::Result<()> {
        let mut cancel = true;
        let mut aborted = None;
        loop {
            self.reap();
            // Of these the kernel knows nothing.
            while let Some(index) = self.sendfiles.pop_front() {
                drop(self.operations.end(index));
            }
            if self.operations.under_way() == 0 && !self.wake_armed {
                return Ok(());
            }
            if self.operations.under_way() == self.operations.unreleased() && !self.wake_armed {
                let now_ns = clock::monotonic_ns();
                let since_ns = *aborted.get_or_insert_with(|| {
                    self.sockets.drain().for_each(abort);
                    now_ns
                });
                if now_ns - since_ns > RETRY_NS {
                    return Err(io::Error::from(io::ErrorKind::TimedOut));
                }
            }
            self.push_backlog();
            if cancel {
                let all = types::CancelBuilder::any();
                self.push(opcode::AsyncCancel2::new(all).build().user_data(CANCEL_DATA));
            }
            cancel = match self.enter(1, Some(RETRY_NS)) {
                Ok(()) => false,
                // What was queued behind the last cancellation is caught by another one.
                Err(error) if error.raw_os_error() == Some(libc::ETIME) => true,
                Err(error) if is_passing(&error) || is_room(&error) => false,
                Err(error) => return Err(error),
            };
        }
    }
}

impl Io for Uring {
    type Conn = OwnedFd;
    type Waker = UringWaker;

    fn submit(&mut self, token: Token, op: Op) {
        match self.work(op) {
            Ok((fd, work)) => {
                let is_sendfile = matches!(work, Work::SendFile { .. });
                let index = self.operations.begin(token, fd, work);
                if is_sendfile {
                    self.sendfiles.push_back(index);
                } else {
                    self.push_operation(index);
                }
            }
            Err(error) => self.ready.push(Completion { token, result: Err(error) }),
        }
    }

    fn wait(
        &mut self,
        deadline_ns: Option<u64>,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()> {
        loop {
            self.reap();
            self.run_sendfiles();
            self.arm_wake();
            self.push_backlog();
            let idle =
                self.backlog.is_empty() && self.sendfiles.is_empty() && self.ready.is_empty();
            let may_sleep = idle && !self.spin(deadline_ns)?;
            let left = deadline_ns.map(|deadline| deadline.saturating_sub(clock::monotonic_ns()));
            let asleep = may_sleep && left != Some(0) && self.waker.fall_asleep();
            let entered = self.enter(u32::from(asleep), if asleep { left } else { None });
            let woken = self.waker.awake();
            if idle {
                self.spinner.waited();
            }
            self.reap();
            self.get_over(entered)?;
            if woken || !self.ready.is_empty() || left == Some(0) {
                completions.append(&mut self.ready);
                return Ok(());
            }
        }
    }

    fn waker(&self) -> UringWaker {
        self.waker.clone()
    }

    /// Makes the socket blocking: of a non-blocking one the ring would report EAGAIN instead of
    /// waiting.
    fn adopt(&mut self, conn: OwnedFd) -> SocketId {
        SockRef::from(&conn).set_nonblocking(false).expect("a socket has file status flags");
        SocketId(self.sockets.insert(conn))
    }

    /// Makes the socket non-blocking, as an event loop wants it.
    fn release(&mut self, socket: SocketId) -> OwnedFd {
        let conn = self.sockets.remove(socket.0);
        SockRef::from(&conn).set_nonblocking(true).expect("a socket has file status flags");
        conn
    }

    fn tune(&mut self, socket: SocketId, tuning: &TcpTuning) -> io::Result<()> {
        tune::tune(self.sockets.peek(socket.0), tuning)
    }

    fn shutdown(&mut self, socket: SocketId) {
        // An error means that the peer has already ended the connection: then nothing waits.
        let _ = SockRef::from(self.sockets.peek(socket.0)).shutdown(Shutdown::Both);
    }

    fn close_socket(&mut self, socket: SocketId) {
        drop(self.sockets.remove(socket.0));
    }

    fn abort_socket(&mut self, socket: SocketId) {
        abort(self.sockets.remove(socket.0));
    }

    fn zero_copy(&mut self, socket: SocketId) -> ZeroCopy {
        self.zero_copy_of(socket)
    }

    fn now_ns(&self) -> u64 {
        clock::monotonic_ns()
    }

    fn unix_micros(&self) -> i64 {
        clock::unix_micros()
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.closing = true;
        for socket in self.sockets.iter() {
            let _ = SockRef::from(socket).shutdown(Shutdown::Both);
        }
        let ended = self.end_all();
        unregister_enter_fd(self.enter_fd, &self.ring);
        if ended.is_err() {
            // The kernel may still write to this memory: better lost than reused.
            std::mem::forget(std::mem::replace(&mut self.operations, Operations::new()));
            std::mem::forget(std::mem::take(&mut self.wake_count));
        }
    }
}

/// IORING_ENTER_GETEVENTS.
const ENTER_GETEVENTS: u32 = 1 << 0;
/// IORING_ENTER_EXT_ARG.
const ENTER_EXT_ARG: u32 = 1 << 3;
/// IORING_ENTER_REGISTERED_RING.
const ENTER_REGISTERED_RING: u32 = 1 << 4;
/// IORING_REGISTER_RING_FDS.
const REGISTER_RING_FDS: u32 = 20;
/// IORING_UNREGISTER_RING_FDS.
const UNREGISTER_RING_FDS: u32 = 21;

/// struct io_uring_getevents_arg of the kernel.
#[repr(C)]
struct EnterArgument<'a> {
    sigmask: u64,
    sigmask_len: u32,
    min_wait_us: u32,
    timeout: &'a KernelTimespec,
}

/// struct __kernel_timespec of the kernel.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanos: i64,
}

const _: () = assert!(size_of::<EnterArgument<'_>>() == 24 && size_of::<KernelTimespec>() == 16);

impl KernelTimespec {
    fn from_ns(ns: u64) -> Self {
        let signed = |value| i64::try_from(value).expect("nanoseconds over a billion fit");
        Self { seconds: signed(ns / 1_000_000_000), nanos: signed(ns % 1_000_000_000) }
    }
}

/// struct io_uring_rsrc_update of the kernel.
#[repr(C)]
struct RingFdUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// Registers the ring's own descriptor with this thread, which spares every enter a reference count
/// that all threads share. The io-uring crate keeps such a registration in a `Submitter` that
/// borrows the ring, so it is made here.
fn enter_fd(ring: &IoUring) -> (RawFd, u32) {
    let fd = ring.as_raw_fd();
    let Ok(data) = u64::try_from(fd) else { return (fd, 0) };
    let mut update = RingFdUpdate { offset: u32::MAX, reserved: 0, data };
    // SAFETY: the kernel reads and writes one struct, a local that outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_RING_FDS, &raw mut update, 1)
    };
    match RawFd::try_from(update.offset) {
        Ok(index) if result == 1 => (index, ENTER_REGISTERED_RING),
        Ok(_) | Err(_) => (fd, 0),
    }
}

/// The registration would keep the ring alive until the thread ends.
fn unregister_enter_fd((index, flag): (RawFd, u32), ring: &IoUring) {
    let Ok(offset) = u32::try_from(index) else { return };
    if flag != ENTER_REGISTERED_RING {
        return;
    }
    let update = RingFdUpdate { offset, reserved: 0, data: 0 };
    let fd = ring.as_raw_fd();
    // SAFETY: the kernel reads one struct, a local that outlives the call.
    unsafe {
        libc::syscall(libc::SYS_io_uring_register, fd, UNREGISTER_RING_FDS, &raw const update, 1)
    };
}

/// Whether the call just has to be made again: a signal, or the timeout.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME))
}

/// Whether the kernel had no memory or no room for more operations.
fn is_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY))
}

/// A CQE's result: a count or descriptor, or the negated error number.
fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "path with a zero byte"))
}
