//! One SEND of everything that is in a provided buffer ring: memory is put into the ring as it comes,
//! and one operation, which need not know how much there is, sends all of it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use io_uring::{opcode, types};

use super::{Ring, Trial, count, len_u32};

/// Pieces that may wait to be sent: a power of two, and as many as one bundle takes.
pub const PIECES_MAX: usize = 64;

/// The only group of buffers in the ring.
const GROUP: u16 = 0;

/// struct io_uring_buf of the kernel. The kernel only reads it, and may do so at any time; where the
/// first entry has nothing to say is the ring's tail.
#[repr(C)]
#[derive(Default)]
struct Entry {
    addr: AtomicU64,
    len: AtomicU32,
    id: AtomicU16,
    tail: AtomicU16,
}

const _: () = assert!(size_of::<Entry>() == 16);

/// The ring that is shared with the kernel, aligned to the largest page there is.
#[repr(C, align(65536))]
struct Entries([Entry; PIECES_MAX]);

/// Memory on its way to the peer.
#[derive(Default)]
struct Queued {
    entries: Option<Box<Entries>>,
    /// What the ring's entries point to, in order.
    pieces: VecDeque<Bytes>,
    /// What is left of a piece whose entry is used up.
    rest: Bytes,
}

/// Sends pieces over one socket, as many at a time as wait.
pub struct BundleSender {
    ring: Ring<Queued>,
    socket: OwnedFd,
    /// Entries ever put into the ring, as the kernel counts.
    tail: u16,
}

impl BundleSender {
    /// Makes a ring for the calling thread. The socket is a blocking one.
    ///
    /// # Errors
    /// When there can be none, or the kernel lacks the operation.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Trial::Bundle.check()?;
        let mut ring: Ring<Queued> = Ring::new()?;
        let entries = Box::new(Entries(std::array::from_fn(|_| Entry::default())));
        let address = std::ptr::from_ref(&*entries).expose_provenance();
        let address = u64::try_from(address).expect("an address fits 64 bits");
        let len = u16::try_from(PIECES_MAX).expect("a small number");
        ring.held.entries = Some(entries);
        // SAFETY: the entries are in `held`, which is freed after the ring was closed. All access to
        // them is atomic.
        unsafe { ring.ring.submitter().register_buf_ring_with_flags(address, len, GROUP, 0)? };
        Ok(Self { ring, socket, tail: 0 })
    }

    /// Queues a piece behind the others.
    ///
    /// # Panics
    /// If [`PIECES_MAX`] pieces wait already.
    pub fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        let Queued { entries, pieces, .. } = &mut self.ring.held;
        let Some(Entries(entries)) = entries.as_deref() else { panic!("the ring is registered") };
        assert!(pieces.len() < PIECES_MAX, "{PIECES_MAX} pieces wait");
        let entry = &entries[usize::from(self.tail) % PIECES_MAX];
        let address = u64::try_from(piece.as_ptr().expose_provenance());
        entry.addr.store(address.expect("an address fits 64 bits"), Ordering::Relaxed);
        entry.len.store(len_u32(piece.len()), Ordering::Relaxed);
        entry.id.store(self.tail, Ordering::Relaxed);
        pieces.push_back(piece);
        self.tail = self.tail.wrapping_add(1);
        // The kernel reads entries up to the tail: they must be there before it.
        entries[0].tail.store(self.tail, Ordering::Release);
    }

    /// Sends everything that waits, and returns when the socket has taken it.
    ///
    /// # Errors
    /// The connection's; nothing can be sent after it.
    ///
    /// # Panics
    /// If an earlier call returned an error.
    pub fn send(&mut self) -> io::Result<()> {
        let fd = types::Fd(self.socket.as_raw_fd());
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        loop {
            assert!(self.ring.under_way == 0, "an earlier send failed");
            let Queued { pieces, rest, .. } = &self.ring.held;
            let entry = if !rest.is_empty() {
                opcode::Send::new(fd, rest.as_ptr(), len_u32(rest.len())).flags(flags).build()
            } else if !pieces.is_empty() {
                opcode::SendBundle::new(fd, GROUP).flags(flags).build()
            } else {
                return Ok(());
            };
            // SAFETY: the rest, and the pieces that the ring's entries point to, are in `held`, and
            // leave it only after the CQE that counts them.
            unsafe { self.ring.push(&entry) };
            let mut result = Ok(());
            while self.ring.under_way > 0 {
                self.ring.wait(1, |queued, cqe| match count(cqe.result) {
                    Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => queued.advance(count),
                    // The bundle went on after its first CQE and found nothing more.
                    Err(_) if cqe.result == -libc::ENOBUFS && queued.pieces.is_empty() => {}
                    Err(error) => result = Err(error),
                })?;
            }
            result?;
        }
    }
}

impl Queued {
    /// Forgets `count` bytes, which the socket has taken. Of a piece that it took in part the entry is
    /// used up all the same.
    ///
    /// # Panics
    /// If more were taken than were queued.
    fn advance(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            if self.rest.is_empty() {
                self.rest = self.pieces.pop_front().expect("no more was sent than was queued");
            }
            let taken = left.min(self.rest.len());
            self.rest.advance(taken);
            left -= taken;
        }
    }
}

/// Whether the kernel has the operation.
pub(super) fn is_supported() -> io::Result<bool> {
    let ring: Ring<()> = Ring::new()?;
    Ok(ring.ring.params().is_feature_recvsend_bundle())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_taken_in_part_leaves_a_rest() {
        let mut queued = Queued::default();
        queued.pieces.extend([Bytes::from_static(b"abc"), Bytes::from_static(b"defg")]);
        queued.advance(3);
        assert!(queued.rest.is_empty() && queued.pieces.len() == 1);
        queued.advance(1);
        assert!(queued.rest == "efg" && queued.pieces.is_empty());
        queued.advance(3);
        assert!(queued.rest.is_empty());
    }
}
