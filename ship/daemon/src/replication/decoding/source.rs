//! The walreceiver's side of the stream from the hub: frames in, taken apart as they come.
//!
//! A frame of WAL is handed on in pieces: it need not be all there.

use std::os::fd::OwnedFd;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use walhub_proto::wire::backend::Report;
use walhub_proto::wire::copy::{
    COPY_DATA, COPY_DONE, PrimaryKeepalive, XLOGDATA_HEADER_LEN, XLogData,
};
use walhub_proto::wire::reader::{FRAME_HEADER_LEN, Malformed, decode_frame};

use crate::net::session::Ended;
use walhub_hub::api::hub::StreamEnd;

/// Bytes of one read, and of WAL that is decoded at a time.
const READ_LEN: usize = 64 << 10;
/// Bytes of a frame that carries no WAL.
const FRAME_BYTES_MAX: usize = 64 << 10;

/// Something that the hub said.
#[derive(PartialEq, Eq, Debug)]
pub(in super::super) enum Said<'a> {
    /// The next WAL.
    Wal(&'a [u8]),
    Keepalive(PrimaryKeepalive),
    /// A frame that says why the stream ends, as it is.
    LastWord(&'a [u8]),
    /// The timeline is at its end.
    Done,
    /// Nothing that a client is to know.
    Nothing,
}

/// What was read from the hub and not yet understood.
#[derive(Default, Debug)]
pub(in super::super) struct Incoming {
    pub(super) bytes: Vec<u8>,
    /// How much of them is done with.
    consumed: usize,
    /// Bytes of WAL that belong to the frame that has begun.
    wal_left: usize,
}

impl Incoming {
    /// Makes room for the next read.
    pub(super) fn reserve(&mut self) {
        self.bytes.drain(..self.consumed);
        self.consumed = 0;
        self.bytes.reserve(READ_LEN);
    }

    fn take(&mut self, len: usize) -> &[u8] {
        let start = self.consumed;
        self.consumed += len;
        self.bytes.get(start..self.consumed).unwrap_or_default()
    }

    /// The next thing; `None` when more must be read.
    pub(super) fn next(&mut self) -> Result<Option<Said<'_>>, Malformed> {
        let rest = self.bytes.get(self.consumed..).unwrap_or_default();
        if self.wal_left > 0 {
            let len = rest.len().min(self.wal_left).min(READ_LEN);
            // The first two bytes of all say what version it is.
            if len < self.wal_left.min(2) {
                return Ok(None);
            }
            self.wal_left -= len;
            return Ok(Some(Said::Wal(self.take(len))));
        }
        let kind = rest.get(FRAME_HEADER_LEN).copied();
        if rest.first() == Some(&COPY_DATA) && matches!(kind, None | Some(XLogData::KIND)) {
            let Some(header) = rest.get(..XLOGDATA_HEADER_LEN) else { return Ok(None) };
            let word = header.get(1..FRAME_HEADER_LEN).and_then(|word| word.try_into().ok());
            let len =
                usize::try_from(u32::from_be_bytes(word.unwrap_or_default())).expect("64 bits");
            self.wal_left = (1 + len).saturating_sub(XLOGDATA_HEADER_LEN);
            self.take(XLOGDATA_HEADER_LEN);
            return Ok(Some(Said::Nothing));
        }
        let Some(frame) = decode_frame(rest, FRAME_BYTES_MAX)? else { return Ok(None) };
        let (len, kind) = (frame.len, frame.kind);
        let said = match (kind, frame.body.first()) {
            (COPY_DATA, Some(&PrimaryKeepalive::KIND)) => {
                Some(Said::Keepalive(PrimaryKeepalive::decode(frame.body)?))
            }
            (b'C' | b'E', _) => None,
            (COPY_DONE, _) => Some(Said::Done),
            _ => Some(Said::Nothing),
        };
        let whole = self.take(len);
        Ok(Some(said.unwrap_or(Said::LastWord(whole))))
    }
}

/// The connection to the hub.
pub(in super::super) struct Source {
    pub(super) from_hub: OwnedReadHalf,
    pub(super) to_hub: OwnedWriteHalf,
    pub(super) incoming: Incoming,
    /// How the stream ended. However it did: the connection was ours.
    pub(super) answer: oneshot::Receiver<StreamEnd<OwnedFd>>,
    /// The hub has ended the stream.
    pub(super) is_over: bool,
    /// It says nothing any more.
    pub(super) is_silent: bool,
}

impl Source {
    pub(in super::super) fn new(
        stream: UnixStream,
        answer: oneshot::Receiver<StreamEnd<OwnedFd>>,
    ) -> Self {
        let (from_hub, to_hub) = stream.into_split();
        Self {
            from_hub,
            to_hub,
            incoming: Incoming::default(),
            answer,
            is_over: false,
            is_silent: false,
        }
    }

    /// Waits until the hub streams, or refuses to.
    pub(in super::super) async fn begin(&mut self) -> Result<Result<(), Report>, Ended> {
        self.incoming.reserve();
        tokio::select! {
            biased;
            read = self.from_hub.read_buf(&mut self.incoming.bytes) => {
                if read? == 0 { Err(Ended::Quietly) } else { Ok(Ok(())) }
            }
            end = &mut self.answer => {
                self.is_over = true;
                match end {
                    Ok(StreamEnd::Refused { report, .. }) => Ok(Err(report)),
                    Ok(StreamEnd::Finished { .. } | StreamEnd::Closed) | Err(_) => {
                        Err(Ended::Quietly)
                    }
                }
            }
        }
    }

    /// Leaves, and waits until the slot is free again. What the hub still said is in `incoming`.
    pub(super) async fn leave(mut self) -> Incoming {
        if self.is_over {
            // The hub has closed its end, so this comes to one.
            self.incoming.reserve();
            while self.from_hub.read_buf(&mut self.incoming.bytes).await.is_ok_and(|len| len > 0) {
                self.incoming.reserve();
            }
            return self.incoming;
        }
        let Self { from_hub, to_hub, incoming, answer, .. } = self;
        drop((from_hub, to_hub));
        drop(answer.await);
        incoming
    }
}

#[cfg(test)]
mod tests {
    use walhub_proto::lsn::Lsn;
    use walhub_proto::time::Timestamp;
    use walhub_proto::wire::backend::Encoder;

    use super::*;

    #[test]
    fn frames_are_taken_apart_wherever_reads_end() {
        let keepalive = PrimaryKeepalive { end: Lsn(9), sent: Timestamp(1), reply_requested: true };
        let mut encoder = Encoder::new();
        encoder.copy_both_response();
        for wal in [&b"ab"[..], b"cdefg"] {
            let data = XLogData { start: Lsn(1), end: Lsn(2), sent: Timestamp(3) };
            let len = u64::try_from(wal.len()).unwrap();
            encoder.raw(&data.encode_header(len)).raw(wal);
            encoder.raw(&keepalive.encode());
        }
        encoder.command_complete("COPY 0");
        let bytes = encoder.take();
        for piece in [1, 3, 7, 1000] {
            let mut incoming = Incoming::default();
            let (mut wal, mut keepalives, mut last) = (Vec::new(), 0, Vec::new());
            for piece in bytes.chunks(piece) {
                incoming.reserve();
                incoming.bytes.extend_from_slice(piece);
                while let Some(said) = incoming.next().unwrap() {
                    match said {
                        Said::Wal(piece) => wal.extend_from_slice(piece),
                        Said::Keepalive(got) => {
                            assert_eq!(got, keepalive);
                            keepalives += 1;
                        }
                        Said::LastWord(frame) => last = frame.to_vec(),
                        Said::Nothing => {}
                        Said::Done => panic!("there was no CopyDone"),
                    }
                }
            }
            assert_eq!(
                (&*wal, keepalives, &*last),
                (&b"abcdefg"[..], 2, &b"C\0\0\0\x0bCOPY 0\0"[..])
            );
        }
    }
}
