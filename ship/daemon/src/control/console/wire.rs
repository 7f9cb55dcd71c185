//! The byte stream of a session: frames in, answers out, and both while it waits for something.
//!
//! PostgreSQL: src/backend/libpq/pqcomm.c.

use std::future::pending;
use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use walhub_proto::wire::reader::{FRAME_HEADER_LEN, Frame, Malformed, decode_frame};

use super::interrupts::Interrupts;

/// Bytes read from the socket at a time.
const READ_LEN: usize = 64 << 10;
/// Bytes that are read ahead while the session waits: after them the client waits too.
const READ_AHEAD_MAX: usize = 1 << 20;
/// Bytes of the input buffer that are kept for the next message.
const INPUT_KEPT_MAX: usize = 1 << 20;

/// A stream, what was read from it and not yet understood.
pub(super) struct Wire<S> {
    stream: S,
    input: Vec<u8>,
    /// How much of `input` is done with.
    consumed: usize,
    /// The client sends no more, or is gone.
    gone: bool,
}

/// What may end a wait before its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Interrupt {
    /// The connection is closed.
    Gone,
    /// A cancel request.
    Cancel,
    /// The session must end.
    Terminate,
}

/// The interrupts that a wait was already told of.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Told {
    pub(super) gone: bool,
    pub(super) cancel: bool,
    pub(super) terminate: bool,
}

/// What came of waiting.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Attended<T> {
    Answered(T),
    /// Nobody is left to answer.
    Lost,
    TimedOut,
    Interrupted(Interrupt),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) const fn new(stream: S, input: Vec<u8>) -> Self {
        Self { stream, input, consumed: 0, gone: false }
    }

    /// The next frame, if it is there. `body_max` says how long the body of a type may be.
    pub(super) fn frame(
        &self,
        body_max: impl Fn(u8) -> usize,
    ) -> Result<Option<Frame<'_>>, Malformed> {
        let rest = self.input.get(self.consumed..).unwrap_or_default();
        match rest.first() {
            None => Ok(None),
            Some(kind) => decode_frame(rest, body_max(*kind)),
        }
    }

    /// Is done with a frame of that length.
    pub(super) const fn consume(&mut self, len: usize) {
        self.consumed += len;
    }

    /// Takes the body of the frame of that length; a long one is not copied.
    pub(super) fn take_body(&mut self, len: usize) -> Vec<u8> {
        let (start, end) = (self.consumed + FRAME_HEADER_LEN, self.consumed + len);
        if len < READ_LEN {
            self.consumed = end;
            return self.input.get(start..end).unwrap_or_default().to_vec();
        }
        let rest = self.input.split_off(end);
        let mut body = std::mem::replace(&mut self.input, rest);
        self.consumed = 0;
        body.drain(..start);
        body
    }

    /// Takes the body of the frame of that length, to be kept in parts without a copy.
    pub(super) fn share_body(&mut self, len: usize) -> Bytes {
        let (start, end) = (self.consumed + FRAME_HEADER_LEN, self.consumed + len);
        let rest = self.input.split_off(end);
        let frame = std::mem::replace(&mut self.input, rest);
        self.consumed = 0;
        Bytes::from(frame).slice(start..)
    }

    /// Reads more; `false` at the end.
    pub(super) async fn fill(&mut self) -> io::Result<bool> {
        if self.gone {
            return Ok(false);
        }
        self.input.drain(..self.consumed);
        self.consumed = 0;
        if self.input.is_empty() && self.input.capacity() > INPUT_KEPT_MAX {
            self.input = Vec::new();
        }
        self.input.reserve(READ_LEN);
        Ok(self.stream.read_buf(&mut self.input).await? > 0)
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.stream.flush().await
    }

    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Waits for an answer, and meanwhile for what may end the wait. What the client sends is kept.
    pub(super) async fn attend<T>(
        &mut self,
        interrupts: &Interrupts,
        told: &mut Told,
        answer: &mut oneshot::Receiver<T>,
        deadline: Option<Instant>,
    ) -> Attended<T> {
        let mut canceled = std::pin::pin!(interrupts.canceled());
        let mut terminated = std::pin::pin!(interrupts.terminated());
        let timeout = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        let mut timeout = std::pin::pin!(timeout);
        loop {
            if self.gone && !told.gone {
                told.gone = true;
                return Attended::Interrupted(Interrupt::Gone);
            }
            let has_room = self.input.len() - self.consumed < READ_AHEAD_MAX;
            tokio::select! {
                biased;
                answer = &mut *answer => {
                    return answer.map_or(Attended::Lost, Attended::Answered);
                }
                () = &mut terminated, if !told.terminate => {
                    told.terminate = true;
                    return Attended::Interrupted(Interrupt::Terminate);
                }
                () = &mut canceled, if !told.cancel => {
                    told.cancel = true;
                    return Attended::Interrupted(Interrupt::Cancel);
                }
                () = &mut timeout => return Attended::TimedOut,
                read = self.stream.read_buf(&mut self.input), if has_room && !self.gone => {
                    self.gone = !read.is_ok_and(|len| len > 0);
                }
            }
        }
    }
}
