//! The byte stream of a session: frames in, answers out, and both while it waits for something.
//!
//! PostgreSQL: src/backend/libpq/pqcomm.c.

use std::future::pending;
use std::io;

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use walhub_proto::wire::reader::{FRAME_HEADER_LEN, Frame, Malformed, decode_frame};

use super::interrupts::Interrupts;
use super::memory::{Account, Reservation};
use walhub_sql::failure::Failure;
use walhub_sql::parse::{TEXT_LEN_MAX, too_long};

/// Bytes read from the socket at a time.
const READ_LEN: usize = 64 << 10;
/// Bytes that are read ahead while the session waits: after them the client waits too.
const READ_AHEAD_MAX: usize = 1 << 20;
/// Bytes of the input buffer that are kept for the next message.
const INPUT_KEPT_MAX: usize = 128 << 10;
/// Bytes of a Parse message beside the text of the query.
const NAME_ROOM: usize = 1 << 20;

/// A message that there is no memory for: its bytes are thrown away as they come.
#[derive(Debug)]
struct Discarded {
    kind: u8,
    left: usize,
    failure: Failure,
}

/// A stream, what was read from it and not yet understood.
pub(super) struct Wire<S> {
    stream: S,
    input: Vec<u8>,
    /// How much of `input` is done with.
    consumed: usize,
    /// The client sends no more, or is gone.
    gone: bool,
    /// What `input` takes.
    memory: Reservation,
    discarded: Option<Discarded>,
}

/// The body of a message, and the memory that it takes.
pub(super) struct Body<B> {
    pub(super) bytes: B,
    pub(super) memory: Reservation,
}

/// What may end a wait before its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WaitInterrupt {
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
    Interrupted(WaitInterrupt),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S, input: Vec<u8>, account: &Arc<Account>) -> Self {
        let memory = account.reservation();
        Self { stream, input, consumed: 0, gone: false, memory, discarded: None }
    }

    /// What was read and not yet understood, without the room that was counted for more.
    pub(super) fn into_unread(mut self) -> Vec<u8> {
        self.input.drain(..self.consumed);
        self.input.shrink_to_fit();
        self.input
    }

    /// The next frame, if it is there. `body_max` says how long the body of a type may be.
    pub(super) fn frame(
        &self,
        body_max: impl Fn(u8) -> usize,
    ) -> Result<Option<Frame<'_>>, Malformed> {
        let rest = self.input.get(self.consumed..).unwrap_or_default();
        match rest.first() {
            _ if self.discarded.is_some() => Ok(None),
            None => Ok(None),
            Some(kind) => decode_frame(rest, body_max(*kind)),
        }
    }

    /// Is done with a frame of that length.
    pub(super) const fn consume(&mut self, len: usize) {
        self.consumed += len;
    }

    /// Takes the body of the frame of that length; a long one is not copied.
    pub(super) fn take_body(&mut self, len: usize) -> Body<Vec<u8>> {
        let (start, end) = (self.consumed + FRAME_HEADER_LEN, self.consumed + len);
        if len < READ_LEN {
            self.consumed = end;
            let bytes = self.input.get(start..end).unwrap_or_default().to_vec();
            return Body { bytes, memory: self.memory.account().reservation() };
        }
        let (mut bytes, memory) = self.split_off(end);
        bytes.drain(..start);
        Body { bytes, memory }
    }

    /// Takes the body of the frame of that length, to be kept in parts without a copy.
    pub(super) fn share_body(&mut self, len: usize) -> Body<Bytes> {
        let (start, end) = (self.consumed + FRAME_HEADER_LEN, self.consumed + len);
        let (frame, memory) = self.split_off(end);
        Body { bytes: Bytes::from(frame).slice(start..), memory }
    }

    /// Gives the buffer up to `end` away, with the memory that it takes; a new one has the rest, of one read at most.
    fn split_off(&mut self, end: usize) -> (Vec<u8>, Reservation) {
        let rest = self.input.split_off(end);
        let memory = self.memory.take();
        self.memory.grow_anyway(rest.capacity());
        self.consumed = 0;
        (std::mem::replace(&mut self.input, rest), memory)
    }

    /// The message that was thrown away, once it is over: its type, and why.
    pub(super) fn take_discarded(&mut self) -> Option<(u8, Failure)> {
        let discarded = self.discarded.take_if(|discarded| discarded.left == 0)?;
        Some((discarded.kind, discarded.failure))
    }

    /// Makes room for one read. A message that is longer than the buffer makes it grow as it comes, and no further
    /// than to its own end and one read: so much may come at once and so much is a message's own.
    fn make_room(&mut self) -> Result<(), Failure> {
        if self.consumed > 0 {
            self.input.drain(..self.consumed);
            self.consumed = 0;
        }
        if self.input.is_empty() && self.input.capacity() > INPUT_KEPT_MAX {
            self.input = Vec::new();
            self.memory.shrink_to(0);
        }
        let (len, room) = (self.input.len(), self.input.capacity());
        if room - len >= READ_LEN / 2 {
            return Ok(());
        }
        let larger = (len + READ_LEN).max(room + room / 2);
        let wanted = match self.message_len() {
            Some(message) if message > len => larger.min(message + READ_LEN),
            _ => len + READ_LEN,
        };
        self.memory.grow_to(wanted)?;
        self.input.reserve_exact(wanted - len);
        Ok(())
    }

    /// Length of the message that is being read.
    fn message_len(&self) -> Option<usize> {
        let word = self.input.get(self.consumed + 1..self.consumed + FRAME_HEADER_LEN)?;
        let word = u32::from_be_bytes(word.try_into().ok()?);
        usize::try_from(word).ok()?.checked_add(1)
    }

    /// Looks at the length of the message that begins, before it is read, and throws it away when it is too long.
    ///
    /// PostgreSQL: `pq_getmessage`, which does the same when it gets no memory.
    fn check_length(&mut self) -> Result<(), Failure> {
        let (Some(kind), Some(len)) = (self.input.get(self.consumed), self.message_len()) else {
            return Ok(());
        };
        // The text of a query, which is taken apart, beside a name.
        if matches!(kind, b'Q' | b'P') && len > TEXT_LEN_MAX + NAME_ROOM {
            return Err(too_long(len - FRAME_HEADER_LEN));
        }
        self.memory.account().check_fits(len)
    }

    fn discard(&mut self, failure: Failure) {
        let (kind, len) = (self.input.first().copied(), self.message_len());
        let (Some(kind), Some(len)) = (kind, len) else { return };
        let left = len.saturating_sub(self.input.len());
        self.input = Vec::new();
        self.memory.shrink_to(0);
        self.discarded = Some(Discarded { kind, left, failure });
    }

    /// Reads more; `false` at the end.
    pub(super) async fn fill(&mut self) -> io::Result<bool> {
        if self.gone {
            return Ok(false);
        }
        if self.discarded.is_none()
            && let Err(failure) = self.check_length().and_then(|()| self.make_room())
        {
            self.input.drain(..self.consumed);
            self.consumed = 0;
            self.discard(failure);
        }
        if self.discarded.is_some() {
            return self.fill_and_discard().await;
        }
        Ok(self.stream.read_buf(&mut self.input).await? > 0)
    }

    async fn fill_and_discard(&mut self) -> io::Result<bool> {
        self.input.reserve(READ_LEN);
        let is_open = self.stream.read_buf(&mut self.input).await? > 0;
        if let Some(discarded) = &mut self.discarded {
            let gone = discarded.left.min(self.input.len());
            discarded.left -= gone;
            self.input.drain(..gone);
        }
        Ok(is_open)
    }

    fn has_room(&self) -> bool {
        self.input.capacity() > self.input.len()
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
                return Attended::Interrupted(WaitInterrupt::Gone);
            }
            // Without memory to read ahead the client waits, too.
            let has_room = self.discarded.is_none()
                && self.input.len() - self.consumed < READ_AHEAD_MAX
                && (self.has_room() || self.make_room().is_ok());
            tokio::select! {
                biased;
                answer = &mut *answer => {
                    return answer.map_or(Attended::Lost, Attended::Answered);
                }
                () = &mut terminated, if !told.terminate => {
                    told.terminate = true;
                    return Attended::Interrupted(WaitInterrupt::Terminate);
                }
                () = &mut canceled, if !told.cancel => {
                    told.cancel = true;
                    return Attended::Interrupted(WaitInterrupt::Cancel);
                }
                () = &mut timeout => return Attended::TimedOut,
                read = self.stream.read_buf(&mut self.input), if has_room && !self.gone => {
                    self.gone = !read.is_ok_and(|len| len > 0);
                }
            }
        }
    }
}
