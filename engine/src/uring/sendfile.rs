//! Bytes of a file into a socket without a copy, and without ever waiting for the disk.
//!
//! The ring has no sendfile, and its splice always goes to a worker thread; so these are plain system
//! calls of the owner, made between two enters. What makes them safe to make there: the range is
//! asked for in the page cache first, and the socket takes what it can at once.
//!
//! Not here: who is next, and when the socket takes more (`super`).

use std::io;
use std::os::fd::RawFd;

use crate::io::{Head, SocketId};

/// cachestat of the kernel, the same number on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

/// struct cachestat_range of the kernel.
#[repr(C)]
struct CachestatRange {
    offset: u64,
    len: u64,
}

/// struct cachestat of the kernel.
#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// What an attempt came to.
#[derive(Debug)]
pub(super) enum Progress {
    /// There is more, and the socket may take it.
    More,
    /// The socket takes no more now.
    SocketFull,
    /// Everything is sent, or the rest is not in memory.
    Ended(io::Result<()>),
}

/// One file range on its way.
#[derive(Debug)]
pub(super) struct Transfer {
    socket: SocketId,
    head: Head,
    file_fd: RawFd,
    offset: u64,
    len: usize,
    sent: usize,
    is_cached: bool,
}

impl Transfer {
    pub(super) fn new(
        socket: SocketId,
        head: Head,
        file_fd: RawFd,
        offset: u64,
        len: usize,
    ) -> Self {
        Self { socket, head, file_fd, offset, len, sent: 0, is_cached: false }
    }

    pub(super) fn socket(&self) -> SocketId {
        self.socket
    }

    /// Bytes that the socket has taken, the head's included.
    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    /// Sends what the socket `fd` takes at once, of the file `bytes_max` at most.
    pub(super) fn advance(&mut self, fd: RawFd, bytes_max: usize) -> Progress {
        if !self.is_cached && !in_page_cache(self.file_fd, self.offset, self.len) {
            return Progress::Ended(Ok(()));
        }
        self.is_cached = true;
        let head = self.head.as_slice();
        if let Some(rest) = head.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match send_more(fd, rest) {
                Ok(count) => self.sent += count,
                Err(error) => return Self::failed(error),
            }
            if self.sent < head.len() {
                return Progress::SocketFull;
            }
        }
        let done = self.sent - head.len();
        let want = (self.len - done).min(bytes_max);
        let offset = self.offset + u64::try_from(done).expect("a length fits 64 bits");
        match sendfile(fd, self.file_fd, offset, want) {
            // The file ends here.
            Ok(0) => Progress::Ended(Ok(())),
            Ok(count) => {
                self.sent += count;
                if done + count == self.len {
                    Progress::Ended(Ok(()))
                } else if count < want {
                    Progress::SocketFull
                } else {
                    Progress::More
                }
            }
            Err(error) => Self::failed(error),
        }
    }

    fn failed(error: io::Error) -> Progress {
        match error.kind() {
            io::ErrorKind::WouldBlock => Progress::SocketFull,
            io::ErrorKind::Interrupted => Progress::More,
            _ => Progress::Ended(Err(error)),
        }
    }
}

/// Whether this kernel tells what of a file is in memory, which sending without a copy needs: Linux
/// 6.5 or newer, and no seccomp filter that forbids cachestat.
#[must_use]
pub fn page_cache_is_visible() -> bool {
    let range = CachestatRange { offset: 0, len: 1 };
    let mut stat = Cachestat::default();
    // SAFETY: the kernel reads one struct and writes the other, locals that outlive the call.
    let result =
        unsafe { libc::syscall(SYS_CACHESTAT, -1, &raw const range, &raw mut stat, 0_u32) };
    // A kernel that has the call looks at the descriptor first.
    result != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EBADF)
}

/// Whether all of a range can be had without the disk. Never, on kernels before 6.5.
fn in_page_cache(file: RawFd, offset: u64, len: usize) -> bool {
    let Some(last) = len.checked_sub(1) else { return true };
    let len = u64::try_from(len).expect("a length fits 64 bits");
    let range = CachestatRange { offset, len };
    let mut stat = Cachestat::default();
    // SAFETY: the kernel reads one struct and writes the other, locals that outlive the call.
    let result =
        unsafe { libc::syscall(SYS_CACHESTAT, file, &raw const range, &raw mut stat, 0_u32) };
    let pages = (offset + len).div_ceil(page_len()) - offset / page_len();
    if result != 0 || stat.cached < pages {
        return false;
    }
    // A page that is on its way from the disk counts as cached; the last one arrives last.
    let last = offset + u64::try_from(last).expect("a length fits 64 bits");
    let mut byte = 0_u8;
    let piece = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let Ok(at) = libc::off_t::try_from(last) else { return false };
    // SAFETY: the kernel writes one byte, into a local that outlives the call.
    let count = unsafe { libc::preadv2(file, &raw const piece, 1, at, libc::RWF_NOWAIT) };
    count == 1
}

fn page_len() -> u64 {
    // SAFETY: the call takes no memory.
    let len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(len).ok().filter(|&len| len > 0).unwrap_or(4096)
}

/// Sends `bytes` as far as the socket takes them at once; more will follow.
fn send_more(socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_MORE;
    // SAFETY: the kernel reads `bytes`, which outlive the call.
    let count = unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Sends from a file as far as the socket takes it at once.
///
/// There is no flag for that in the call, so the socket is non-blocking meanwhile. Operations of the
/// ring that wait on it took note of the mode when they began.
fn sendfile(socket: RawFd, file: RawFd, offset: u64, len: usize) -> io::Result<usize> {
    let Ok(mut at) = libc::off_t::try_from(offset) else {
        return Err(io::Error::from_raw_os_error(libc::EOVERFLOW));
    };
    set_nonblocking(socket, true)?;
    // SAFETY: the kernel reads and writes the offset, a local that outlives the call.
    let count = unsafe { libc::sendfile(socket, file, &raw mut at, len) };
    let result = usize::try_from(count).map_err(|_| io::Error::last_os_error());
    set_nonblocking(socket, false)?;
    result
}

fn set_nonblocking(socket: RawFd, nonblocking: bool) -> io::Result<()> {
    let mut value = libc::c_int::from(nonblocking);
    // SAFETY: the kernel reads one integer, a local that outlives the call.
    let result = unsafe { libc::ioctl(socket, libc::FIONBIO, &raw mut value) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
