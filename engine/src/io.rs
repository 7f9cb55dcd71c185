//! The one door to disk and network: submit an operation, get its completion later.
//!
//! Production goes through [`Uring`](crate::uring), the simulator through its own disk and network;
//! whatever stands above is generic over [`Io`] and runs unchanged on both.
//!
//! Not here: deciding what to do with a result.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use smallvec::SmallVec;

pub use crate::buffer::BLOCK_LEN;
use crate::buffer::{Buffer, SlabRoom};

/// Names an operation: handed in with it, handed back with its completion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// An open file of one [`Io`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u32);

/// A connected socket of one [`Io`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SocketId(pub u32);

/// Pieces that are written or sent one after the other, as one operation.
pub type Gather = SmallVec<[Bytes; 4]>;

/// The most pieces one [`Gather`] may have.
pub const GATHER_PIECES_MAX: usize = 64;

/// Small leading bytes of a send, kept inside the operation.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; Self::LEN_MAX],
    len: u8,
}

impl Head {
    /// The most bytes a head may have.
    pub const LEN_MAX: usize = 63;

    /// # Panics
    /// If `bytes` is longer than [`Head::LEN_MAX`].
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let len = u8::try_from(bytes.len()).expect("a head is short");
        let mut head = Self { bytes: [0; Self::LEN_MAX], len };
        head.bytes[..bytes.len()].copy_from_slice(bytes);
        head
    }

    /// The bytes that it was made of.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Where the bytes of one receive go that continue a slab, but for a header among them.
#[derive(Debug)]
pub struct Scatter {
    /// For all bytes but the header.
    room: SlabRoom,
    /// Bytes of the room that come before the header.
    before: usize,
    header: [u8; Self::HEADER_LEN_MAX],
    header_len: usize,
}

impl Scatter {
    /// The most bytes the header may have.
    pub const HEADER_LEN_MAX: usize = 32;

    /// # Panics
    /// If the room has no `before` bytes, or the header is longer than [`Scatter::HEADER_LEN_MAX`].
    #[must_use]
    pub fn new(room: SlabRoom, before: usize, header_len: usize) -> Self {
        assert!(before <= room.len(), "{before} bytes before the header, room for {}", room.len());
        let header = [0; Self::HEADER_LEN_MAX];
        assert!(header_len <= header.len(), "a header of {header_len} bytes");
        Self { room, before, header, header_len }
    }

    /// Its memory in the order in which it is filled.
    pub fn pieces(&mut self) -> [&mut [u8]; 3] {
        let (before, after) = self.room.split_at_mut(self.before);
        [before, &mut self.header[..self.header_len], after]
    }

    /// Fills its memory from the front with `bytes`, as a receive does.
    ///
    /// # Panics
    /// If they are more than it takes.
    pub fn fill(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        for piece in self.pieces() {
            let (now, later) = rest.split_at(rest.len().min(piece.len()));
            piece[..now.len()].copy_from_slice(now);
            rest = later;
        }
        assert!(rest.is_empty(), "{} bytes too many", rest.len());
    }

    /// The most bytes it takes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.room.len() + self.header_len
    }

    /// Of `count` received bytes: the room, how many of them lie in it before the header, the header as
    /// far as it came, and how many lie in the room after it.
    #[must_use]
    pub fn into_parts(self, count: usize) -> Scattered {
        let before = self.before.min(count);
        let header_len = self.header_len.min(count - before);
        let after = count - before - header_len;
        Scattered { room: self.room, before, header: Head::new(&self.header[..header_len]), after }
    }
}

/// What a [`Scatter`] received.
#[derive(Debug)]
pub struct Scattered {
    /// The room: [`Scattered::before`] bytes, and behind them [`Scattered::after`].
    pub room: SlabRoom,
    /// How many came before the header.
    pub before: usize,
    /// The header, as far as it came.
    pub header: Head,
    /// How many came after it.
    pub after: usize,
}

impl Scattered {
    /// Whether nothing was received.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.before == 0 && self.header.as_slice().is_empty() && self.after == 0
    }
}

/// How a file is opened. Always read-write, never followed through a symbolic link's loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenMode {
    /// Create the file when it is missing.
    pub create: bool,
    /// Bypass the page cache: offsets, lengths and memory of every read and write are then
    /// multiples of [`BLOCK_LEN`].
    pub direct: bool,
}

/// What to do.
///
/// Buffers go in by value and come back with the completion: meanwhile they are the kernel's.
#[derive(Debug)]
pub enum Op {
    /// Opens a file. Completes with [`Done::Opened`].
    Open {
        /// The file's path.
        path: PathBuf,
        /// Whether to create it, and whether to bypass the page cache.
        mode: OpenMode,
    },
    /// Closes a file. No other operation may be under way on it.
    Close {
        /// The file to close.
        file: FileId,
    },
    /// Reads up to the buffer's capacity. Completes with [`Done::Read`], shorter at end of file.
    Read {
        /// The file to read from.
        file: FileId,
        /// The first byte to read, counted from the file's start.
        offset: u64,
        /// Into what; its length is set to what was read.
        buf: Buffer,
    },
    /// Writes all pieces. Completes with [`Done::Wrote`], the count possibly short.
    Write {
        /// The file to write to.
        file: FileId,
        /// Where the first byte goes, counted from the file's start.
        offset: u64,
        /// The bytes to write, in pieces.
        data: Gather,
        /// Whether the completion also means that the data is durable (RWF_DSYNC).
        durable: bool,
    },
    /// Takes room for the first `len` bytes of a file, which read as zeros where nothing was written
    /// (fallocate). Completes with [`Done::Allocated`].
    Allocate {
        /// The file that takes the room.
        file: FileId,
        /// How many bytes from the file's start on.
        len: u64,
    },
    /// Makes earlier completed writes to a file durable (fdatasync).
    Sync {
        /// The file to flush.
        file: FileId,
    },
    /// Makes renames, creations and removals in a directory durable.
    SyncDir {
        /// The directory's path.
        path: PathBuf,
    },
    /// Renames a file, replacing what has the new name.
    Rename {
        /// The name that the file has.
        from: PathBuf,
        /// The name that it gets.
        to: PathBuf,
    },
    /// Removes a file's name; who has the file open keeps it.
    Unlink {
        /// The path to remove.
        path: PathBuf,
    },
    /// Receives up to the buffer's capacity. Completes with [`Done::Received`], empty at the end.
    Recv {
        /// The socket to receive from.
        socket: SocketId,
        /// Into what; its length is set to what was received.
        buf: Buffer,
    },
    /// Receives into a slab. Completes with [`Done::Scattered`], without any byte at the end.
    RecvScatter {
        /// The socket to receive from.
        socket: SocketId,
        /// Into what.
        scatter: Scatter,
    },
    /// Ends a receive that waits: it completes too, with ECANCELED or with what came before. Nothing
    /// but the receive may be under way on the socket. Completes with [`Done::Cancelled`].
    CancelRecv {
        /// The socket whose receive is to end.
        socket: SocketId,
    },
    /// Sends the head and then the body. Completes with [`Done::Sent`], the count possibly short.
    Send {
        /// The socket to send to.
        socket: SocketId,
        /// The bytes that go first: a message's header.
        head: Head,
        /// The bytes after them, in pieces.
        body: Gather,
    },
    /// As [`Op::Send`], but the kernel sends from this memory itself where it can: until the peer has
    /// acknowledged the bytes. After [`Done::Sent`] it completes a second time, with
    /// [`Done::Released`]; after an error it does not. For [`Io::close_socket`] and [`Io::release`] it
    /// has ended with the first completion.
    SendZeroCopy {
        /// To which socket, of which [`Io::zero_copy`] does not say that there is no such thing.
        socket: SocketId,
        /// The bytes that go first: a message's header.
        head: Head,
        /// The bytes after them, in pieces.
        body: Gather,
    },
    /// Sends the head and then bytes of a file without copying them, as far as the file is in the
    /// page cache: it never waits for a disk. Completes with [`Done::Sent`]; what is short of the
    /// whole was not in memory. No other send may be under way on the socket, and nobody may change
    /// these bytes of the file in place: what is on its way to the peer are the file's own pages.
    SendFile {
        /// The socket to send to.
        socket: SocketId,
        /// The bytes that go first: a message's header.
        head: Head,
        /// From which file, opened without [`OpenMode::direct`].
        file: FileId,
        /// The first byte of the file to send, counted from its start.
        offset: u64,
        /// How many bytes of the file.
        len: usize,
    },
}

/// What an operation did.
#[derive(Debug)]
pub enum Done {
    /// The file is open.
    Opened(FileId),
    /// The file is closed.
    Closed,
    /// The buffer, with the bytes that were read.
    Read(Buffer),
    /// Number of bytes written.
    Wrote(usize),
    /// The file has the room.
    Allocated,
    /// The file's or directory's earlier changes are durable.
    Synced,
    /// The file has its new name.
    Renamed,
    /// The file is gone.
    Unlinked,
    /// Bytes received; none means that the peer will send no more.
    Received(Buffer),
    /// Bytes received into a slab; none means that the peer will send no more.
    Scattered(Scattered),
    /// No receive waits any more.
    Cancelled,
    /// Number of bytes sent.
    Sent(usize),
    /// The kernel no longer needs the memory of bytes that were sent.
    Released(Released),
}

/// What came of an [`Op::SendZeroCopy`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Released {
    /// How many bytes were sent.
    pub bytes: usize,
    /// Whether the kernel copied any of them after all.
    pub copied: bool,
}

/// Whether a socket can be sent to without a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZeroCopy {
    /// There is no such thing in this kernel, or for this kind of socket.
    Unsupported,
    /// There is, but the peer is on this machine: what goes to it is copied on its way.
    Local,
    /// There is, and it may be worth it.
    Remote,
}

/// The end of one operation.
#[derive(Debug)]
pub struct Completion {
    /// As it was submitted.
    pub token: Token,
    /// What came of it. Buffers of a failed operation are gone.
    pub result: io::Result<Done>,
}

/// Wakes the owner of an [`Io`] out of [`Io::wait`], from any thread.
pub trait Waker: Clone + Send + Sync + 'static {
    /// Makes the next or current wait return. Cheap when the owner is not asleep.
    fn wake(&self);
}

/// Disk and network of one core. There is no way here to a file but to submit an operation: [`Fs`], whose
/// calls block, is for whoever is no core.
pub trait Io {
    /// A connected socket on its way between threads.
    type Conn: Send + 'static;
    /// Wakes this `Io`'s owner.
    type Waker: Waker;

    /// Starts an operation. It may be held back until the next [`Io::wait`].
    fn submit(&mut self, token: Token, op: Op);

    /// Submits what was held back, waits for a completion, a wake or `deadline_ns` on the clock of
    /// [`Io::now_ns`], and appends what completed. Returns at once when something already has.
    ///
    /// # Errors
    /// When the kernel refuses to wait: the process cannot go on.
    fn wait(
        &mut self,
        deadline_ns: Option<u64>,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()>;

    /// A handle that other threads wake this `Io` with.
    fn waker(&self) -> Self::Waker;

    /// Takes a socket over from another thread.
    fn adopt(&mut self, conn: Self::Conn) -> SocketId;

    /// Gives a socket to another thread. No operation may be under way on it.
    fn release(&mut self, socket: SocketId) -> Self::Conn;

    /// Tunes a socket, as far as it is one of TCP.
    ///
    /// # Errors
    /// When the kernel does not take a value; the message names the option.
    fn tune(&mut self, _socket: SocketId, _tuning: &TcpTuning) -> io::Result<()> {
        Ok(())
    }

    /// Whether [`Op::SendZeroCopy`] can be used on a socket.
    fn zero_copy(&mut self, _socket: SocketId) -> ZeroCopy {
        ZeroCopy::Unsupported
    }

    /// Ends both directions of a socket: operations under way on it complete soon.
    fn shutdown(&mut self, socket: SocketId);

    /// Closes a socket. No operation may be under way on it.
    fn close_socket(&mut self, socket: SocketId);

    /// Closes a socket as [`Io::close_socket`] does, and throws away what the peer has not acknowledged:
    /// memory that was sent from is released soon.
    fn abort_socket(&mut self, socket: SocketId) {
        self.close_socket(socket);
    }

    /// Nanoseconds of the monotonic clock.
    fn now_ns(&self) -> u64;

    /// Microseconds since the Unix epoch.
    fn unix_micros(&self) -> i64;
}

/// How the kernel is to treat a TCP socket; what is `None` stays the system's default.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct TcpTuning {
    /// SO_SNDBUF in bytes; the kernel then no longer sizes the buffer itself.
    pub send_buffer: Option<u64>,
    /// TCP_NOTSENT_LOWAT in bytes: how much may wait unsent in the socket.
    pub notsent_lowat: Option<u64>,
    /// TCP_CONGESTION: which algorithm decides how fast to send.
    pub congestion_control: CongestionControl,
}

/// Which congestion control a TCP socket has.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum CongestionControl {
    /// What `net.ipv4.tcp_congestion_control` says.
    #[default]
    System,
    /// The system's, but to a peer on this machine none that paces: between two processes there is
    /// nothing to be careful with, and each packet that waits for a timer costs both of them a wake.
    UnpacedIfLocal,
    /// The one of this name.
    Named(String),
}

/// An entry of a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirEntry {
    /// The file's name, without its directory.
    pub name: String,
    /// Bytes; zero for a directory.
    pub len: u64,
}

/// Blocking file access, for start-up. Every error carries the path in its message.
pub trait Fs: Send + Sync {
    /// Files and directories of `dir`, sorted by name.
    ///
    /// # Errors
    /// As the operating system's.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// A whole small file.
    ///
    /// # Errors
    /// As the operating system's.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Fills `buf` from `offset` as far as the file reaches and returns the number of bytes.
    ///
    /// # Errors
    /// As the operating system's.
    fn read_at(&self, path: &Path, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes into a file, which is made when missing. Not durable before [`Fs::sync`].
    ///
    /// # Errors
    /// As the operating system's.
    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes a file's content durable.
    ///
    /// # Errors
    /// As the operating system's.
    fn sync(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory's entries durable.
    ///
    /// # Errors
    /// As the operating system's.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Replaces a file by `bytes`, durably and atomically: temporary file, fsync, rename, fsync of
    /// the directory. PostgreSQL: `durable_rename`.
    ///
    /// # Errors
    /// As the operating system's; the old file is then still there.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Renames a file. Not durable before [`Fs::sync_dir`].
    ///
    /// # Errors
    /// As the operating system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Not durable before [`Fs::sync_dir`].
    ///
    /// # Errors
    /// As the operating system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory with mode 0700, and its parents; no error when it is there.
    ///
    /// # Errors
    /// As the operating system's.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
}
