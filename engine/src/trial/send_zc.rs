//! SEND_ZC: the socket takes references to memory instead of a copy, and says later when it is done
//! with them, and whether the kernel had to copy after all, as it does over loopback.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use bytes::{Buf, Bytes};
use io_uring::{Probe, cqueue, opcode, squeue, types};

use super::{Completion, Ring, Trial, count, len_u32};

/// Bodies that may wait for their notifications at once.
const BODIES_MAX: usize = 64;

/// `user_data` of a head's SEND; bodies have the number of their place.
const HEAD_DATA: u64 = u64::MAX;

/// `IORING_SEND_ZC_REPORT_USAGE` of the kernel: the notification says whether there was a copy.
const REPORT_USAGE: u16 = 1 << 3;

/// `IORING_NOTIF_USAGE_ZC_COPIED` of the kernel, in the result of a notification.
const USAGE_COPIED: u32 = 1 << 31;

/// What notifications have said.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    /// Sends whose memory is free again.
    pub notified: u64,
    /// Those of them that the kernel copied after all, in part at least.
    pub copied: u64,
}

/// Memory on its way to the peer.
#[derive(Default)]
struct Pinned {
    head: Bytes,
    /// By place; a place is free when its body's last CQE has come.
    bodies: Vec<Option<Bytes>>,
    usage: Usage,
}

/// Sends heads by copy and bodies without, over one socket.
///
/// Dropped before [`ZeroCopySender::finish`], it leaks what the kernel is not done with.
pub struct ZeroCopySender {
    ring: Ring<Pinned>,
    socket: OwnedFd,
}

impl ZeroCopySender {
    /// Makes a ring for the calling thread. The socket is a blocking one.
    ///
    /// # Errors
    /// When there can be none, or the kernel lacks the operation.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Trial::SendZc.check()?;
        let mut ring: Ring<Pinned> = Ring::new()?;
        ring.held.bodies.resize(BODIES_MAX, None);
        Ok(Self { ring, socket })
    }

    /// Sends all of `head` and `body`, in one system call as long as the socket has room.
    ///
    /// Returns when the socket has taken them; `body` is held until the kernel is done with it.
    ///
    /// # Errors
    /// The connection's; nothing can be sent after it.
    ///
    /// # Panics
    /// If the body is empty, or after an error of the ring.
    pub fn send(&mut self, head: &Bytes, body: Bytes) -> io::Result<()> {
        assert!(!body.is_empty(), "a head without a body");
        let (mut head, mut body) = (head.clone(), body);
        while !body.is_empty() {
            let (of_head, of_body) = self.send_once(&head, &body)?;
            head.advance(of_head);
            body.advance(of_body);
        }
        Ok(())
    }

    /// Sends both as far as it goes: a head that is short cancels the body.
    fn send_once(&mut self, head: &Bytes, body: &Bytes) -> io::Result<(usize, usize)> {
        let place = self.free_place()?;
        let fd = types::Fd(self.socket.as_raw_fd());
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        self.ring.held.head = head.clone();
        self.ring.held.bodies[place] = Some(body.clone());
        let mut want = 1;
        if !head.is_empty() {
            // A few bytes are cheaper copied than pinned.
            let entry = opcode::Send::new(fd, head.as_ptr(), len_u32(head.len()));
            let entry = entry.flags(flags | libc::MSG_MORE).build();
            let entry = entry.flags(squeue::Flags::IO_LINK).user_data(HEAD_DATA);
            // SAFETY: the head is in `held` until the next send, which begins after this one's CQEs.
            unsafe { self.ring.push(&entry) };
            want = 2;
        }
        let entry = opcode::SendZc::new(fd, body.as_ptr(), len_u32(body.len()));
        let entry = entry.flags(flags).zc_flags(REPORT_USAGE).build();
        let entry = entry.user_data(u64::try_from(place).expect("a place fits 64 bits"));
        // SAFETY: the body keeps its place in `held` until its last CQE.
        unsafe { self.ring.push(&entry) };
        let (mut of_head, mut of_body) = (Ok(0), None);
        while of_body.is_none() {
            // The body's CQE comes after the head's; notifications of earlier bodies come in between.
            self.ring.wait(want, |pinned, cqe| match pinned.handle(cqe) {
                Some(result) if cqe.user_data == HEAD_DATA => of_head = result,
                Some(result) => of_body = Some(result),
                None => {}
            })?;
            want = 1;
        }
        match (of_head.map_err(explain)?, of_body) {
            (0, _) if !head.is_empty() => Err(io::ErrorKind::WriteZero.into()),
            (of_head, _) if of_head < head.len() => Ok((of_head, 0)),
            (_, None | Some(Ok(0))) => Err(io::ErrorKind::WriteZero.into()),
            (of_head, Some(of_body)) => Ok((of_head, of_body.map_err(explain)?)),
        }
    }

    /// A place for one more body, when the kernel is done with one.
    fn free_place(&mut self) -> io::Result<usize> {
        loop {
            if let Some(place) = self.ring.held.bodies.iter().position(Option::is_none) {
                return Ok(place);
            }
            self.ring.wait(1, |pinned, cqe| drop(pinned.handle(cqe)))?;
        }
    }

    /// Waits until the kernel is done with all memory, closes the socket, and says how it was sent.
    ///
    /// # Errors
    /// When the ring fails.
    pub fn finish(mut self) -> io::Result<Usage> {
        while self.ring.under_way > 0 {
            self.ring.wait(1, |pinned, cqe| drop(pinned.handle(cqe)))?;
        }
        Ok(self.ring.held.usage)
    }
}

impl Pinned {
    /// Takes note of a CQE, and returns what a send came to; nothing for a notification.
    fn handle(&mut self, cqe: Completion) -> Option<io::Result<usize>> {
        if let Some(body) =
            usize::try_from(cqe.user_data).ok().and_then(|at| self.bodies.get_mut(at))
            && cqe.is_last()
        {
            *body = None;
        }
        if !cqueue::notif(cqe.flags) {
            return Some(count(cqe.result));
        }
        self.usage.notified += 1;
        if cqe.result.cast_unsigned() & USAGE_COPIED != 0 {
            self.usage.copied += 1;
        }
        None
    }
}

/// Says which limit it was.
fn explain(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(libc::ENOBUFS) {
        let why = "not enough lockable memory for SEND_ZC: raise RLIMIT_MEMLOCK (ulimit -l)";
        return io::Error::new(io::ErrorKind::OutOfMemory, why);
    }
    error
}

/// Whether the kernel has the operation and its report: flags are looked at before the descriptor.
pub(super) fn is_supported() -> io::Result<bool> {
    let mut ring: Ring<()> = Ring::new()?;
    let mut probe = Probe::new();
    ring.ring.submitter().register_probe(&mut probe)?;
    if !probe.is_supported(opcode::SendZc::CODE) {
        return Ok(false);
    }
    let entry = opcode::SendZc::new(types::Fd(-1), std::ptr::null(), 0).zc_flags(REPORT_USAGE);
    // SAFETY: the entry points to no memory.
    unsafe { ring.push(&entry.build()) };
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `IORING_CQE_F_MORE` and `IORING_CQE_F_NOTIF` of the kernel.
    const MORE: u32 = 1 << 1;
    const NOTIF: u32 = 1 << 3;

    #[test]
    fn a_body_is_held_until_its_notification() {
        let mut pinned = Pinned { bodies: vec![None; 2], ..Pinned::default() };
        let body = Bytes::from(vec![1; 8]);
        pinned.bodies[1] = Some(body.clone());
        let cqe = |result, flags| Completion { user_data: 1, result, flags };
        assert_eq!(pinned.handle(cqe(8, MORE)).unwrap().unwrap(), 8);
        assert!(pinned.bodies[1].is_some() && !body.is_unique());
        assert!(pinned.handle(cqe(USAGE_COPIED.cast_signed(), NOTIF)).is_none());
        assert!(pinned.bodies[1].is_none() && body.is_unique());
        assert_eq!(pinned.usage, Usage { notified: 1, copied: 1 });
        pinned.bodies[1] = Some(body);
        assert!(pinned.handle(cqe(-libc::EPIPE, 0)).unwrap().is_err());
        assert!(pinned.bodies[1].is_none());
        assert_eq!(pinned.usage.notified, 1);
    }
}
