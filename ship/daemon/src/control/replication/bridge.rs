//! SQL inside a walsender connection: passes single queries to the console and its answers back.

use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use walhub_proto::wire::backend::Encoder;
use walhub_proto::wire::frontend::LARGE_MESSAGE_LIMIT;
use walhub_proto::wire::reader::{FRAME_HEADER_LEN, Malformed};

use crate::backend::{self, ConsoleParams, Served};
use crate::control::stream::Stream;

/// Bytes in flight between the console and the client.
const PIPE_BYTES_MAX: usize = 64 * 1024;

/// A console that serves one walsender connection, between its replication commands.
pub(super) struct Bridge {
    console: Pin<Box<dyn Future<Output = io::Result<Served>>>>,
    ours: DuplexStream,
}

impl Bridge {
    pub(super) fn new(params: ConsoleParams) -> Self {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES_MAX);
        Self { console: Box::pin(backend::serve(theirs, Vec::new(), params)), ours }
    }

    /// Has one query answered, ReadyForQuery included; `false` when the console ended the session.
    pub(super) async fn query(&mut self, client: &mut Stream, text: &str) -> io::Result<bool> {
        let mut encoder = Encoder::new();
        encoder.frame(b'Q', |buf| {
            buf.extend_from_slice(text.as_bytes());
            buf.push(0);
        });
        let ours = &mut self.ours;
        let relay = async {
            ours.write_all(encoder.bytes()).await?;
            pass_answer(ours, client).await
        };
        let mut relay = std::pin::pin!(relay);
        let ended = tokio::select! {
            biased;
            answered = &mut relay => return answered,
            ended = &mut self.console => ended,
        };
        // The console has closed its end of the pipe; its last words may still be in it.
        match relay.await {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ended.map(|_| false),
            Ok(_) => ended.map(|_| false),
            Err(error) => Err(error),
        }
    }
}

/// Passes frames on up to ReadyForQuery (`true`) or the end of the pipe (`false`), each as it comes: none is in memory
/// as a whole.
async fn pass_answer(from: &mut DuplexStream, to: &mut Stream) -> io::Result<bool> {
    let mut buf = Vec::new();
    // What is left of the frame that has begun, and whether it is the last one.
    let (mut left, mut ready) = (0, false);
    loop {
        let mut passed = 0;
        loop {
            let here = left.min(buf.len() - passed);
            (passed, left) = (passed + here, left - here);
            let Some((kind, len)) = frame_begun(&buf[passed..])? else { break };
            if left > 0 || ready {
                break;
            }
            if kind == b'G' {
                if buf.len() - passed < len {
                    break;
                }
                // Nobody here passes data on: the console is told that none comes.
                to.write_all(&buf[..passed]).await?;
                buf.drain(..passed + len);
                passed = 0;
                let mut encoder = Encoder::new();
                encoder.frame(b'f', |buf| {
                    buf.extend_from_slice(b"a walsender connection takes no data\0");
                });
                from.write_all(encoder.bytes()).await?;
                continue;
            }
            (left, ready) = (len, kind == b'Z');
        }
        to.write_all(&buf[..passed]).await?;
        buf.drain(..passed);
        if ready && left == 0 {
            return Ok(true);
        }
        if from.read_buf(&mut buf).await? == 0 {
            return Ok(false);
        }
    }
}

/// Type and length, with both, of the frame that begins here.
fn frame_begun(bytes: &[u8]) -> io::Result<Option<(u8, usize)>> {
    let Some(head) = bytes.first_chunk::<FRAME_HEADER_LEN>() else { return Ok(None) };
    let [kind, word @ ..] = *head;
    let len = usize::try_from(u32::from_be_bytes(word)).unwrap_or(usize::MAX);
    if (4..=LARGE_MESSAGE_LIMIT).contains(&len) {
        return Ok(Some((kind, 1 + len)));
    }
    let malformed = Malformed::Length { got: u32::from_be_bytes(word) };
    Err(io::Error::new(io::ErrorKind::InvalidData, malformed.to_string()))
}
