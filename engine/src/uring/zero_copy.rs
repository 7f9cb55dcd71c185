//! Sends whose memory the kernel itself sends from.
//!
//! Such a send completes twice. With the first CQE the socket has taken the bytes; with the second,
//! which comes when the peer has acknowledged them or the kernel has copied them after all, nobody
//! reads the memory any more. In between the operation stays as it is, whatever becomes of the socket: it
//! may be closed, or be another core's.
//!
//! Not here: which sends are worth it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::SockRef;

use super::operations::{FirstCqe, Work};
use super::tune::peer_is_here;
use super::{Uring, check, is_passing, is_room};
use crate::io::{Completion, Done, Released, SocketId, ZeroCopy};

/// IORING_NOTIF_USAGE_ZC_COPIED.
const NOTIF_USAGE_ZC_COPIED: u32 = 1 << 31;
impl Uring {
    /// Whether a send to this socket can be one of these.
    pub(super) fn zero_copy_of(&mut self, socket: SocketId) -> ZeroCopy {
        if !self.has_zero_copy_send {
            return ZeroCopy::Unsupported;
        }
        let socket = SockRef::from(self.sockets.peek(socket.0));
        match peer_is_here(&socket) {
            Some(true) => ZeroCopy::Local,
            Some(false) => ZeroCopy::Remote,
            None => ZeroCopy::Unsupported,
        }
    }

    /// Takes the first CQE of a send without a copy: the socket is free, the memory is not.
    pub(super) fn finish_first(&mut self, index: usize, result: i32) {
        let operation = self.operations.operation(index);
        let token = operation.token;
        let Work::SendZeroCopy { socket, .. } = operation.work else {
            panic!("operation {index} completes more than once")
        };
        self.sockets.end(socket.0);
        // After EINTR or EAGAIN there is nothing to go on from: the second CQE comes nonetheless.
        let result = match check(result) {
            Err(error) if is_passing(&error) || is_room(&error) => Ok(0),
            result => result,
        };
        let result = result.map(|count| usize::try_from(count).expect("checked to be no error"));
        let first = result.as_ref().map_or(FirstCqe::Failed, |&count| FirstCqe::Sent(count));
        self.operations.set_first(index, first);
        self.ready.push(Completion { token, result: result.map(Done::Sent) });
    }

    /// Takes the second CQE of a send without a copy.
    pub(super) fn release_memory(&mut self, index: usize, result: i32) {
        let (token, first) = self.operations.release(index);
        if let FirstCqe::Sent(bytes) = first {
            let copied = result.cast_unsigned() & NOTIF_USAGE_ZC_COPIED != 0;
            let result = Ok(Done::Released(Released { bytes, copied }));
            self.ready.push(Completion { token, result });
        }
    }
}

/// What follows a send whose only CQE says that the kernel has kept nothing of its memory.
pub(super) fn released_at_once(result: &io::Result<Done>) -> Option<Done> {
    match result {
        Ok(Done::Sent(bytes)) => Some(Done::Released(Released { bytes: *bytes, copied: true })),
        Ok(_) | Err(_) => None,
    }
}

/// Closes a socket, and throws away what its peer has not acknowledged.
pub(super) fn abort(socket: OwnedFd) {
    // An error means that there is no connection to have anything on its way.
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests;
