//! `send-path`: what it costs to get bytes from memory or page cache into a TCP socket.
//!
//! Messages with a small header go over loopback to a thread that reads and drops them. Over
//! loopback the kernel copies once into the receiver whatever the sender does, and zero-copy sends
//! are copied after all: sendfile and splice look better here than on a network card, SEND_ZC worse.
//! iperf3 is the limit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IoSlice, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use rustix::fs::sendfile;
use rustix::net::{SendFlags, send};
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, pipe, splice};
use rustix::time::{ClockId, clock_gettime};
use walhub_engine::buffer::Buffer;
use walhub_engine::io::{Done, Gather, Head, Io as _, Op};
use walhub_engine::uring::{Uring, UringConfig};
use walhub_proto::wire::copy::XLOGDATA_FIELDS_LEN;
use walhub_proto::wire::reader::FRAME_HEADER_LEN;

use super::disk::one;
use super::{Context, Scenario, Watch, join, parse_size, put, value};
use crate::method::pairs::{Experiment, Figure, Leg, Run};
use crate::peer::iperf;

/// Its name.
pub const NAME: &str = "send-path";

const SIDES: [&str; 7] =
    ["io_uring SEND", "pread + send", "send", "writev", "sendfile", "splice", "iperf3"];
const IPERF3: usize = 6;
const FIGURES: &[Figure] = &[
    Figure::more("rate", "sent, MB/s"),
    Figure::less("cpu_s_per_gb", "sender CPU, s/GB"),
    Figure::less("machine_cpu_s_per_gb", "machine CPU, s/GB"),
];
/// Before every payload: what a message of WAL begins with.
const HEADER: [u8; FRAME_HEADER_LEN + XLOGDATA_FIELDS_LEN] =
    [b'h'; FRAME_HEADER_LEN + XLOGDATA_FIELDS_LEN];
/// Bytes of the file and of the memory that payloads come from, over and over: larger than the
/// caches of a CPU.
const SOURCE_LEN: usize = 64 << 20;
/// Bytes received at once.
const RECEIVE_LEN: usize = 256 << 10;

/// Ways to send over loopback, by size: bytes a second and CPU, with iperf3 as limit.
#[derive(Args, Clone, Debug)]
pub struct SendPath {
    /// Bytes of one message, an experiment for each.
    #[arg(long, value_delimiter = ',', default_value = "8kB,32kB,128kB,1MB",
          value_parser = parse_size)]
    pub messages: Vec<usize>,
    /// Bytes that each run sends.
    #[arg(long, default_value = "4GB", value_parser = parse_size)]
    pub size: usize,
}

impl SendPath {
    /// As small as it can be.
    #[must_use]
    pub fn smoke() -> Self {
        Self { messages: vec![128 << 10], size: 32 << 20 }
    }
}

impl Scenario for SendPath {
    fn name(&self) -> &'static str {
        NAME
    }

    fn parameters(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([("messages", join(&self.messages)), ("size_bytes", self.size.to_string())])
    }

    fn run(&self, context: &Context) -> Result<Vec<Experiment>> {
        let scratch = context.scratch()?;
        let file = scratch.path().join("payload");
        std::fs::write(&file, vec![b'p'; SOURCE_LEN])?;
        let mut experiments = Vec::new();
        for &message in &self.messages {
            let name = format!("send-path {} kB", message >> 10);
            let run = |run| self.one_leg(context, &file, message, run);
            let experiment = Experiment::run(&name, &SIDES, FIGURES, context.plan, run)?;
            experiments.push(experiment.at(message as f64));
        }
        Ok(experiments)
    }
}

impl SendPath {
    fn one_leg(&self, context: &Context, file: &Path, message: usize, run: Run) -> Result<Leg> {
        let scratch = context.scratch()?;
        if run.side == IPERF3 {
            let watch = Watch::start(None, scratch.path())?;
            let sent = iperf::send(1, u64::try_from(self.size)?, message, scratch.path())?;
            let mut leg = watch.stop(&[])?;
            figures(&mut leg, sent.bytes, sent.seconds, sent.sender_cpu_s);
            return Ok(leg);
        }
        let job = Job { file: file.to_owned(), message, count: self.size.div_ceil(message) };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let (peer, _) = listener.accept()?;
        let watch = Watch::start(None, scratch.path())?;
        let began = Instant::now();
        let receiving = std::thread::spawn(move || receive(peer));
        // In a thread of its own, so that its CPU time is only this.
        let side = run.side;
        let sending = std::thread::spawn(move || -> Result<f64> {
            job.send(side, stream)?;
            let used = clock_gettime(ClockId::ThreadCPUTime);
            Ok(used.tv_sec as f64 + used.tv_nsec as f64 / 1e9)
        });
        let sent = sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
        let received = receiving.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))?;
        let seconds = began.elapsed().as_secs_f64();
        let mut leg = watch.stop(&[])?;
        let (cpu, bytes) = (sent?, received?);
        let wanted = self.size.div_ceil(message) * (message + HEADER.len());
        if bytes != wanted {
            bail!("{bytes} bytes of {wanted} came");
        }
        figures(&mut leg, bytes as f64, seconds, cpu);
        Ok(leg)
    }
}

fn figures(leg: &mut Leg, bytes: f64, seconds: f64, cpu: f64) {
    put(leg, "rate", bytes / 1e6 / seconds);
    put(leg, "cpu_s_per_gb", cpu / (bytes / 1e9));
    let machine = value(leg, "machine_cpu_s") / (bytes / 1e9);
    put(leg, "machine_cpu_s_per_gb", machine);
}

fn receive(mut stream: TcpStream) -> Result<usize> {
    let mut buffer = vec![0; RECEIVE_LEN];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(bytes),
            count => bytes += count,
        }
    }
}

/// What one run sends.
struct Job {
    file: PathBuf,
    message: usize,
    count: usize,
}

impl Job {
    fn send(&self, side: usize, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        match side {
            0 => self.by_ring(stream),
            1 => self.by_pread(stream),
            2 => self.by_send(stream),
            3 => self.by_writev(stream),
            4 => self.by_sendfile(&stream),
            5 => self.by_splice(&stream),
            side => bail!("no side {side}"),
        }
    }

    /// Where in the source each payload begins.
    fn offsets(&self) -> impl Iterator<Item = usize> {
        let slots = (SOURCE_LEN / self.message).max(1);
        let message = self.message;
        (0..self.count).map(move |index| index % slots * message)
    }

    fn memory(&self) -> Vec<u8> {
        vec![b'p'; SOURCE_LEN.max(self.message)]
    }

    fn by_ring(&self, stream: TcpStream) -> Result<()> {
        let mut ring = Uring::new(UringConfig::default())?;
        let mut buffer = Buffer::with_capacity(SOURCE_LEN.max(self.message));
        buffer.zero_pad_to(buffer.capacity());
        let memory = buffer.freeze();
        let socket = ring.adopt(OwnedFd::from(stream));
        for offset in self.offsets() {
            let mut head = Head::new(&HEADER);
            let mut body = memory.slice(offset..offset + self.message);
            loop {
                let whole = head.as_slice().len() + body.len();
                let gather = Gather::from_iter([body.clone()]);
                let done = one(&mut ring, Op::Send { socket, head, body: gather })?;
                let Done::Sent(count) = done else { bail!("the ring did {done:?}") };
                if count == whole {
                    break;
                }
                let of_head = count.min(head.as_slice().len());
                body = body.slice(count - of_head..);
                head = Head::new(head.as_slice().get(of_head..).unwrap_or_default());
            }
        }
        ring.close_socket(socket);
        Ok(())
    }

    /// As a walsender: from the file into a buffer behind the header, and off.
    fn by_pread(&self, mut stream: TcpStream) -> Result<()> {
        let file = File::open(&self.file)?;
        let mut buffer = HEADER.to_vec();
        buffer.resize(HEADER.len() + self.message, 0);
        for offset in self.offsets() {
            let payload = buffer.get_mut(HEADER.len()..).unwrap_or_default();
            file.read_exact_at(payload, u64::try_from(offset)?)?;
            stream.write_all(&buffer)?;
        }
        Ok(stream.shutdown(Shutdown::Write)?)
    }

    /// Header and payload, each for itself.
    fn by_send(&self, mut stream: TcpStream) -> Result<()> {
        let memory = self.memory();
        for offset in self.offsets() {
            send(&stream, &HEADER, SendFlags::MORE)?;
            stream.write_all(memory.get(offset..offset + self.message).unwrap_or_default())?;
        }
        Ok(stream.shutdown(Shutdown::Write)?)
    }

    /// Header and payload in one call.
    fn by_writev(&self, mut stream: TcpStream) -> Result<()> {
        let memory = self.memory();
        for offset in self.offsets() {
            let payload = memory.get(offset..offset + self.message).unwrap_or_default();
            let count = stream.write_vectored(&[IoSlice::new(&HEADER), IoSlice::new(payload)])?;
            match count.checked_sub(HEADER.len()) {
                Some(sent) => stream.write_all(payload.get(sent..).unwrap_or_default())?,
                None => {
                    stream.write_all(HEADER.get(count..).unwrap_or_default())?;
                    stream.write_all(payload)?;
                }
            }
        }
        Ok(stream.shutdown(Shutdown::Write)?)
    }

    fn by_sendfile(&self, stream: &TcpStream) -> Result<()> {
        let file = File::open(&self.file)?;
        for offset in self.offsets() {
            send(stream, &HEADER, SendFlags::MORE)?;
            let mut offset = u64::try_from(offset)?;
            let mut left = self.message;
            while left > 0 {
                left -= sendfile(stream, &file, Some(&mut offset), left)?;
            }
        }
        Ok(stream.shutdown(Shutdown::Write)?)
    }

    fn by_splice(&self, stream: &TcpStream) -> Result<()> {
        let file = File::open(&self.file)?;
        let (out, into) = pipe()?;
        // More than a user may have is refused: then it stays as large as it was.
        let _ = fcntl_setpipe_size(&into, self.message.max(64 << 10));
        for offset in self.offsets() {
            send(stream, &HEADER, SendFlags::MORE)?;
            let mut offset = u64::try_from(offset)?;
            let mut left = self.message;
            while left > 0 {
                let taken =
                    splice(&file, Some(&mut offset), &into, None, left, SpliceFlags::empty())?;
                let mut held = taken;
                while held > 0 {
                    held -= splice(&out, None, stream, None, held, SpliceFlags::empty())?;
                }
                left -= taken;
            }
        }
        Ok(stream.shutdown(Shutdown::Write)?)
    }
}
