//! Everything that the kernel reads or writes on behalf of an operation, at a stable address.
//!
//! Invariants:
//! - An operation is boxed, and neither freed nor moved while the kernel is at it: `work` keeps every
//!   buffer, piece and path that an SQE points to, and only the last CQE takes it out.
//! - The boxes are used again, so in a steady state an operation allocates nothing.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use io_uring::types::{CancelBuilder, Fd, FsyncFlags};
use io_uring::{opcode, squeue};
use smallvec::SmallVec;

use super::sendfile::Transfer;
use crate::buffer::Buffer;
use crate::io::{FileId, Gather, Head, Scatter, SocketId, Token};

/// The most operations that may be under way in one ring.
pub const OPS_MAX: usize = 1 << 17;
/// How often an operation on a file is tried again without a pause.
const FILE_REPEATS_MAX: u32 = 16;

/// Mode of every file made: the owner's alone. PostgreSQL: `PG_FILE_MODE_OWNER`.
const FILE_MODE: libc::mode_t = 0o600;

/// Head and pieces of one send, or of one receive into a slab. Most have few, and each receive that
/// waits is an operation, too.
type Iovecs = SmallVec<[libc::iovec; 6]>;

/// MSG_WAITALL: the kernel goes on after a short send as long as the peer takes.
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// IORING_SEND_ZC_REPORT_USAGE: the second CQE says whether the kernel copied. Linux 6.2.
pub(crate) const SEND_ZC_REPORT_USAGE: u16 = 1 << 3;

/// What an operation does, and all memory it does it with.
#[derive(Debug)]
pub(super) enum Work {
    Free,
    Open {
        path: CString,
        flags: i32,
    },
    Close,
    Read {
        file: FileId,
        offset: u64,
        buf: Buffer,
    },
    Write {
        file: FileId,
        offset: u64,
        data: Gather,
        durable: bool,
    },
    Allocate {
        file: FileId,
        len: u64,
    },
    Sync {
        file: FileId,
    },
    /// First opens the directory, then syncs it.
    SyncDir {
        path: CString,
        dir: Option<OwnedFd>,
    },
    Rename {
        from: CString,
        to: CString,
    },
    Unlink {
        path: CString,
    },
    Recv {
        socket: SocketId,
        buf: Buffer,
    },
    RecvScatter {
        socket: SocketId,
        scatter: Scatter,
    },
    CancelRecv {
        socket: SocketId,
    },
    Send {
        socket: SocketId,
        head: Head,
        body: Gather,
    },
    /// Its first CQE says how much was sent, its second one that the kernel is done with the memory.
    SendZeroCopy {
        socket: SocketId,
        head: Head,
        body: Gather,
        first: FirstCqe,
    },
    /// Runs by system calls between two enters; its SQE waits until the socket takes more.
    SendFile {
        file: FileId,
        transfer: Transfer,
    },
}

/// What the first CQE of a send without a copy said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FirstCqe {
    Awaited,
    Sent(usize),
    Failed,
}

/// One operation: under way, or free to be the next one.
pub(super) struct Operation {
    pub(super) token: Token,
    /// Descriptor of the file or socket, where there is one.
    pub(super) fd: RawFd,
    pub(super) work: Work,
    /// How often the kernel has asked to try it again.
    repeated: u32,
    message: libc::msghdr,
    iovecs: Iovecs,
}

impl Operation {
    /// Whether to try it again at once when the kernel says EINTR or EAGAIN. A socket waits in the kernel meanwhile.
    /// A file does not: who asked for the operation must hear of it, and wait.
    pub(super) const fn may_repeat(&mut self) -> bool {
        match self.work {
            Work::Close => false,
            Work::Read { .. }
            | Work::Write { .. }
            | Work::Allocate { .. }
            | Work::Sync { .. }
            | Work::SyncDir { .. }
            | Work::Open { .. }
            | Work::Rename { .. }
            | Work::Unlink { .. } => {
                self.repeated += 1;
                self.repeated <= FILE_REPEATS_MAX
            }
            _ => true,
        }
    }

    fn new() -> Self {
        Self {
            token: Token(0),
            fd: -1,
            work: Work::Free,
            repeated: 0,
            // SAFETY: a msghdr of zeros is one without address, pieces or control data.
            message: unsafe { std::mem::zeroed() },
            iovecs: Iovecs::new(),
        }
    }

    /// The SQE for its work as it stands. Its pointers are good until `work` changes.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        let fd = Fd(self.fd);
        let cwd = Fd(libc::AT_FDCWD);
        match &mut self.work {
            Work::Free => panic!("a free operation has nothing to submit"),
            Work::Open { path, flags } => opcode::OpenAt::new(cwd, path.as_ptr())
                .flags(*flags | libc::O_RDWR | libc::O_CLOEXEC)
                .mode(FILE_MODE)
                .build(),
            Work::Close => opcode::Close::new(fd).build(),
            Work::Read { offset, buf, .. } => {
                let whole = buf.spare();
                let len = saturated_u32(whole.len());
                opcode::Read::new(fd, whole.as_mut_ptr(), len).offset(*offset).build()
            }
            Work::Write { offset, data, durable, .. } => {
                let count = fill(&mut self.iovecs, data.iter().map(|piece| to_read(piece)));
                opcode::Writev::new(fd, self.iovecs.as_ptr(), to_u32(count))
                    .offset(*offset)
                    .rw_flags(if *durable { libc::RWF_DSYNC } else { 0 })
                    .build()
            }
            Work::Allocate { len, .. } => opcode::Fallocate::new(fd, *len).build(),
            Work::Sync { .. } => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            Work::SyncDir { path, dir: None } => opcode::OpenAt::new(cwd, path.as_ptr())
                .flags(libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC)
                .build(),
            Work::SyncDir { dir: Some(dir), .. } => opcode::Fsync::new(Fd(dir.as_raw_fd())).build(),
            Work::Rename { from, to } => {
                opcode::RenameAt::new(cwd, from.as_ptr(), cwd, to.as_ptr()).build()
            }
            Work::Unlink { path } => opcode::UnlinkAt::new(cwd, path.as_ptr()).build(),
            Work::Recv { buf, .. } => {
                let whole = buf.spare();
                let len = saturated_u32(whole.len());
                opcode::Recv::new(fd, whole.as_mut_ptr(), len).build()
            }
            Work::RecvScatter { scatter, .. } => {
                let pieces = scatter.pieces().map(|piece| libc::iovec {
                    iov_base: piece.as_mut_ptr().cast(),
                    iov_len: piece.len(),
                });
                fill_message(&mut self.message, &mut self.iovecs, pieces.into_iter());
                opcode::RecvMsg::new(fd, &raw mut self.message).build()
            }
            Work::CancelRecv { .. } => {
                let of_socket = CancelBuilder::fd(fd).all();
                opcode::AsyncCancel2::new(of_socket).build()
            }
            Work::Send { head, body, .. } => {
                fill_message(&mut self.message, &mut self.iovecs, to_send(head, body));
                opcode::SendMsg::new(fd, &raw const self.message)
                    .flags(SEND_FLAGS.cast_unsigned())
                    .build()
            }
            Work::SendZeroCopy { head, body, .. } => {
                fill_message(&mut self.message, &mut self.iovecs, to_send(head, body));
                opcode::SendMsgZc::new(fd, &raw const self.message)
                    .flags(SEND_FLAGS.cast_unsigned())
                    .ioprio(SEND_ZC_REPORT_USAGE)
                    .build()
            }
            Work::SendFile { .. } => {
                opcode::PollAdd::new(fd, u32::from(libc::POLLOUT.cast_unsigned())).build()
            }
        }
    }
}

/// Points `message` to `iovecs`, and those to `pieces`.
fn fill_message(
    message: &mut libc::msghdr,
    iovecs: &mut Iovecs,
    pieces: impl Iterator<Item = libc::iovec>,
) {
    message.msg_iovlen = fill(iovecs, pieces);
    message.msg_iov = iovecs.as_mut_ptr();
}

/// Points `iovecs` to all pieces that have bytes, and counts them.
fn fill(iovecs: &mut Iovecs, pieces: impl Iterator<Item = libc::iovec>) -> usize {
    iovecs.clear();
    iovecs.extend(pieces.filter(|piece| piece.iov_len > 0));
    iovecs.len()
}

fn to_send<'a>(head: &'a Head, body: &'a Gather) -> impl Iterator<Item = libc::iovec> + 'a {
    std::iter::once(head.as_slice()).chain(body.iter().map(|piece| &piece[..])).map(to_read)
}

/// A piece that the kernel only reads through.
fn to_read(piece: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() }
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).expect("a gather has few pieces")
}

/// How much is asked for at once, which may be less than there is room for.
fn saturated_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// All operations of a ring, by the number that is their SQE's `user_data`.
pub(super) struct Operations {
    #[expect(clippy::vec_box, reason = "an operation's address must survive a growing vector")]
    all: Vec<Box<Operation>>,
    free: Vec<usize>,
    /// Sends without a copy whose second CQE alone is still to come.
    unreleased: usize,
}

impl Operations {
    pub(super) fn new() -> Self {
        Self { all: Vec::new(), free: Vec::new(), unreleased: 0 }
    }

    /// Begins an operation that does `work`, and returns its number.
    ///
    /// # Panics
    /// If [`OPS_MAX`] operations are under way.
    pub(super) fn begin(&mut self, token: Token, fd: RawFd, work: Work) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            assert!(self.all.len() < OPS_MAX, "{OPS_MAX} operations are under way");
            self.all.push(Box::new(Operation::new()));
            self.all.len() - 1
        });
        let operation = &mut self.all[index];
        (operation.token, operation.fd, operation.work, operation.repeated) = (token, fd, work, 0);
        index
    }

    pub(super) fn operation(&mut self, index: usize) -> &mut Operation {
        &mut self.all[index]
    }

    /// Ends an operation whose CQE has come, and gives out what it held.
    pub(super) fn end(&mut self, index: usize) -> (Token, Work) {
        let operation = &mut self.all[index];
        let work = std::mem::replace(&mut operation.work, Work::Free);
        assert!(!matches!(work, Work::Free), "operation {index} completed twice");
        self.free.push(index);
        (operation.token, work)
    }

    /// Notes the first CQE of a send without a copy. It stays as it is, head and body where they
    /// are: the kernel still sends from them.
    pub(super) fn set_first(&mut self, index: usize, said: FirstCqe) {
        let Work::SendZeroCopy { first: first @ FirstCqe::Awaited, .. } = &mut self.all[index].work
        else {
            panic!("operation {index} is no send without a copy, or was sent twice")
        };
        *first = said;
        self.unreleased += 1;
    }

    /// Ends a send without a copy, and says what its first CQE said.
    pub(super) fn release(&mut self, index: usize) -> (Token, FirstCqe) {
        let (token, work) = self.end(index);
        let Work::SendZeroCopy { first, .. } = work else {
            panic!("operation {index} is no send without a copy")
        };
        assert!(first != FirstCqe::Awaited, "operation {index} was released before it was sent");
        self.unreleased -= 1;
        (token, first)
    }

    /// Number of operations under way, those that the kernel has memory of included.
    pub(super) fn under_way(&self) -> usize {
        self.all.len() - self.free.len()
    }

    /// Number of sends without a copy whose memory alone the kernel still needs.
    pub(super) fn unreleased(&self) -> usize {
        self.unreleased
    }
}
