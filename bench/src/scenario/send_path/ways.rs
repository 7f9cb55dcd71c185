//! Each way into a socket, in as little code as it takes.

use std::fs::File;
use std::io::{IoSlice, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use rustix::fs::sendfile;
use rustix::net::{SendFlags, send};
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, pipe, splice, tee};
use walhub_engine::buffer::Buffer;
use walhub_engine::io::{Done, Gather, Head, Io as _, Op, Token};
use walhub_engine::trial::{BundleSender, PIECES_MAX, Trial};
use walhub_engine::uring::{Uring, UringConfig};
use walhub_proto::wire::copy::XLOGDATA_FIELDS_LEN;
use walhub_proto::wire::reader::FRAME_HEADER_LEN;

/// Before every payload: what a message of WAL begins with.
pub(super) const HEADER: [u8; FRAME_HEADER_LEN + XLOGDATA_FIELDS_LEN] =
    [b'h'; FRAME_HEADER_LEN + XLOGDATA_FIELDS_LEN];
/// As many messages as fit are one bundle.
const BUNDLE_LEN: usize = 256 << 10;

/// A way to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// The engine's SEND of header and payload.
    Ring,
    /// As a walsender.
    PreadSend,
    /// Header and payload, each for itself.
    Send,
    /// Header and payload in one call.
    Writev,
    /// Many messages in one operation, from a ring of buffers.
    Bundle,
    /// The engine's send without a copy, as far as the kernel can.
    SendZc,
    /// From the page cache.
    Sendfile,
    /// From the page cache, through a pipe.
    Splice,
    /// The same for two receivers, from one look into the page cache.
    Tee,
    /// The limit.
    Iperf3,
}

impl Way {
    /// Ours, the peer, all others, the limit.
    pub(super) const ALL: [Self; 10] = [
        Self::Ring,
        Self::PreadSend,
        Self::Send,
        Self::Writev,
        Self::Bundle,
        Self::SendZc,
        Self::Sendfile,
        Self::Splice,
        Self::Tee,
        Self::Iperf3,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ring => "io_uring SEND",
            Self::PreadSend => "pread + send",
            Self::Send => "send",
            Self::Writev => "writev",
            Self::Bundle => "bundle",
            Self::SendZc => "SEND_ZC",
            Self::Sendfile => "sendfile",
            Self::Splice => "splice",
            Self::Tee => "splice + tee",
            Self::Iperf3 => "iperf3",
        }
    }

    /// The operation that a kernel may lack.
    pub(super) fn trial(self) -> Option<Trial> {
        match self {
            Self::Bundle => Some(Trial::Bundle),
            Self::SendZc => Some(Trial::SendZc),
            Self::Ring
            | Self::PreadSend
            | Self::Send
            | Self::Writev
            | Self::Sendfile
            | Self::Splice
            | Self::Tee
            | Self::Iperf3 => None,
        }
    }

    pub(super) fn receivers(self) -> usize {
        if self == Self::Tee { 2 } else { 1 }
    }
}

/// What payloads come from: the same bytes in a file and in memory.
#[derive(Clone, Debug)]
pub(super) struct Source {
    file: PathBuf,
    memory: Bytes,
}

impl Source {
    /// Bytes of which no two ranges are alike.
    pub(super) fn make(dir: &Path, len: usize) -> Result<Self> {
        let mut memory = Buffer::with_capacity(len);
        memory.zero_pad_to(len);
        for (index, word) in (0_u64..).zip(memory.chunks_mut(8)) {
            let mixed = index.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).to_le_bytes();
            word.copy_from_slice(mixed.get(..word.len()).unwrap_or_default());
        }
        let file = dir.join("payload");
        std::fs::write(&file, &memory)?;
        Ok(Self { file, memory: memory.freeze() })
    }
}

/// What became of sends without a copy.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Usage {
    /// Those whose memory is free again.
    pub(super) released: u64,
    /// Those of them that the kernel copied after all, in part at least.
    pub(super) copied: u64,
}

impl Usage {
    /// Waits for completions, and returns how many bytes a send among them has sent.
    fn wait(&mut self, ring: &mut Uring) -> Result<Option<usize>> {
        let mut completions = Vec::new();
        ring.wait(None, &mut completions)?;
        let mut sent = None;
        for completion in completions {
            match completion.result? {
                Done::Sent(count) => sent = Some(count),
                Done::Released(released) => {
                    self.released += 1;
                    self.copied += u64::from(released.copied);
                }
                done => bail!("the ring did {done:?}"),
            }
        }
        Ok(sent)
    }
}

/// What one run sends.
pub(super) struct Job {
    pub(super) source: Source,
    pub(super) message: usize,
    pub(super) count: usize,
}

impl Job {
    /// Sends everything to each of the `streams`, and closes them. Tells of zero-copy sends what became
    /// of them.
    pub(super) fn send(&self, way: Way, streams: Vec<TcpStream>) -> Result<Option<Usage>> {
        for stream in &streams {
            stream.set_nodelay(true)?;
        }
        let mut streams = streams.into_iter();
        let stream = streams.next().context("nobody to send to")?;
        match way {
            Way::Ring => drop(self.by_ring(stream, false)?),
            Way::PreadSend => self.by_pread(stream)?,
            Way::Send => self.by_send(stream)?,
            Way::Writev => self.by_writev(stream)?,
            Way::Bundle => self.by_bundle(stream)?,
            Way::SendZc => return self.by_ring(stream, true).map(Some),
            Way::Sendfile => self.by_sendfile(&stream)?,
            Way::Splice => self.by_splice(&stream)?,
            Way::Tee => self.by_tee(&stream, &streams.next().context("one receiver")?)?,
            Way::Iperf3 => bail!("iperf3 sends for itself"),
        }
        Ok(None)
    }

    /// Everything that a receiver is to get.
    #[cfg(test)]
    pub(super) fn stream(&self) -> Vec<u8> {
        self.payloads().flat_map(|payload| [&HEADER, &*payload].concat()).collect()
    }

    /// Where in the source each payload begins.
    fn offsets(&self) -> impl Iterator<Item = usize> {
        let slots = (self.source.memory.len() / self.message).max(1);
        let message = self.message;
        (0..self.count).map(move |index| index % slots * message)
    }

    fn payloads(&self) -> impl Iterator<Item = Bytes> {
        self.offsets().map(|offset| self.source.memory.slice(offset..offset + self.message))
    }

    /// Header and payload in one operation of the engine's.
    fn by_ring(&self, stream: TcpStream, zero_copy: bool) -> Result<Usage> {
        let mut ring = Uring::new(UringConfig::default())?;
        let socket = ring.adopt(OwnedFd::from(stream));
        let (mut usage, mut to_release) = (Usage::default(), 0);
        for payload in self.payloads() {
            let mut head = Head::new(&HEADER);
            let mut rest = payload;
            loop {
                let whole = head.as_slice().len() + rest.len();
                let body = Gather::from_iter([rest.clone()]);
                let op = if zero_copy {
                    Op::SendZeroCopy { socket, head, body }
                } else {
                    Op::Send { socket, head, body }
                };
                ring.submit(Token(0), op);
                to_release += u64::from(zero_copy);
                let count = loop {
                    if let Some(count) = usage.wait(&mut ring)? {
                        break count;
                    }
                };
                if count == whole {
                    break;
                }
                if count == 0 {
                    bail!("the socket took nothing: raise RLIMIT_MEMLOCK (ulimit -l)");
                }
                let of_head = count.min(head.as_slice().len());
                rest = rest.slice(count - of_head..);
                head = Head::new(head.as_slice().get(of_head..).unwrap_or_default());
            }
        }
        ring.close_socket(socket);
        while usage.released < to_release {
            usage.wait(&mut ring)?;
        }
        Ok(usage)
    }

    /// As a walsender: from the file into a buffer behind the header, and off.
    fn by_pread(&self, mut stream: TcpStream) -> Result<()> {
        let file = File::open(&self.source.file)?;
        let mut buffer = HEADER.to_vec();
        buffer.resize(HEADER.len() + self.message, 0);
        for offset in self.offsets() {
            let payload = buffer.get_mut(HEADER.len()..).unwrap_or_default();
            file.read_exact_at(payload, u64::try_from(offset)?)?;
            stream.write_all(&buffer)?;
        }
        Ok(stream.shutdown(Shutdown::Write)?)
    }

    fn by_send(&self, mut stream: TcpStream) -> Result<()> {
        for payload in self.payloads() {
            send_header(&stream)?;
            stream.write_all(&payload)?;
        }
        Ok(stream.shutdown(Shutdown::Write)?)
    }

    fn by_writev(&self, mut stream: TcpStream) -> Result<()> {
        for payload in self.payloads() {
            let count = stream.write_vectored(&[IoSlice::new(&HEADER), IoSlice::new(&payload)])?;
            match count.checked_sub(HEADER.len()) {
                Some(sent) => stream.write_all(payload.get(sent..).unwrap_or_default())?,
                None => {
                    stream.write_all(HEADER.get(count..).unwrap_or_default())?;
                    stream.write_all(&payload)?;
                }
            }
        }
        Ok(stream.shutdown(Shutdown::Write)?)
    }

    /// Headers and payloads of as many messages as a bundle holds, in one operation.
    fn by_bundle(&self, stream: TcpStream) -> Result<()> {
        let mut sender = BundleSender::new(OwnedFd::from(stream))?;
        let header = Bytes::from_static(&HEADER);
        let messages = (BUNDLE_LEN / self.message).clamp(1, PIECES_MAX / 2);
        let mut queued = 0;
        for payload in self.payloads() {
            sender.push(header.clone());
            sender.push(payload);
            queued += 1;
            if queued == messages {
                sender.send()?;
                queued = 0;
            }
        }
        Ok(sender.send()?)
    }

    fn by_sendfile(&self, stream: &TcpStream) -> Result<()> {
        let file = File::open(&self.source.file)?;
        for offset in self.offsets() {
            send_header(stream)?;
            let mut offset = u64::try_from(offset)?;
            let mut left = self.message;
            while left > 0 {
                left -= sendfile(stream, &file, Some(&mut offset), left)?;
            }
        }
        Ok(stream.shutdown(Shutdown::Write)?)
    }

    fn by_splice(&self, stream: &TcpStream) -> Result<()> {
        let file = File::open(&self.source.file)?;
        let (out, into) = self.pipe()?;
        for offset in self.offsets() {
            send_header(stream)?;
            let mut offset = u64::try_from(offset)?;
            let mut left = self.message;
            while left > 0 {
                let taken =
                    splice(&file, Some(&mut offset), &into, None, left, SpliceFlags::empty())?;
                drain(&out, stream, taken)?;
                left -= taken;
            }
        }
        Ok(stream.shutdown(Shutdown::Write)?)
    }

    /// The page cache is asked once: a second pipe gets references to the same pages.
    fn by_tee(&self, one: &TcpStream, other: &TcpStream) -> Result<()> {
        let file = File::open(&self.source.file)?;
        let (out, into) = self.pipe()?;
        let (copy_out, copy_into) = self.pipe()?;
        for offset in self.offsets() {
            send_header(one)?;
            send_header(other)?;
            let mut offset = u64::try_from(offset)?;
            let mut left = self.message;
            while left > 0 {
                let taken =
                    splice(&file, Some(&mut offset), &into, None, left, SpliceFlags::empty())?;
                let mut held = taken;
                // What the second pipe had no room for is still at the front of the first.
                while held > 0 {
                    let copied = tee(&out, &copy_into, held, SpliceFlags::empty())?;
                    drain(&out, one, copied)?;
                    drain(&copy_out, other, copied)?;
                    held -= copied;
                }
                left -= taken;
            }
        }
        one.shutdown(Shutdown::Write)?;
        Ok(other.shutdown(Shutdown::Write)?)
    }

    /// A pipe that holds a message, when it may be as large.
    fn pipe(&self) -> Result<(OwnedFd, OwnedFd)> {
        let (out, into) = pipe()?;
        // More than a user may have is refused: then it stays as large as it was.
        let _ = fcntl_setpipe_size(&into, self.message.max(64 << 10));
        Ok((out, into))
    }
}

fn send_header(stream: &TcpStream) -> Result<()> {
    let count = send(stream, &HEADER, SendFlags::MORE)?;
    if count != HEADER.len() {
        bail!("{count} bytes of a header were sent");
    }
    Ok(())
}

/// Moves `len` bytes from a pipe into a socket.
fn drain(pipe: impl AsFd, stream: &TcpStream, len: usize) -> Result<()> {
    let mut left = len;
    while left > 0 {
        left -= splice(&pipe, None, stream, None, left, SpliceFlags::empty())?;
    }
    Ok(())
}
