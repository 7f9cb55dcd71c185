//! `send-path`: what it costs to get bytes from memory or page cache into a TCP socket.
//!
//! Messages with a small header go over loopback to a thread that reads and drops them. Over
//! loopback the kernel copies once into the receiver whatever the sender does, and zero-copy sends
//! are copied after all: sendfile and splice look better here than on a network card, SEND_ZC worse.
//! iperf3 is the limit.

mod ways;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use rustix::time::{ClockId, clock_gettime};
use walhub_engine::trial::Trial;

use self::ways::{HEADER, Job, Source, Usage, Way};
use super::{Context, Scenario, Watch, join, parse_size, put, value};
use crate::method::pairs::{Experiment, Figure, Leg};
use crate::peer::iperf;

/// Its name.
pub const NAME: &str = "send-path";

const FIGURES: &[Figure] = &[
    Figure::more("rate", "sent, MB/s"),
    Figure::less("cpu_s_per_gb", "sender CPU, s/GB"),
    Figure::less("machine_cpu_s_per_gb", "machine CPU, s/GB"),
    Figure::neutral("copied_percent", "copied after all, %"),
];
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
        let (ways, notes) = available(Trial::check)?;
        let sides: Vec<&str> = ways.iter().map(|way| way.name()).collect();
        let scratch = context.scratch()?;
        let len = self.messages.iter().copied().max().unwrap_or(0).max(SOURCE_LEN);
        let source = Source::make(scratch.path(), len)?;
        let mut experiments = Vec::new();
        for &message in &self.messages {
            let name = format!("send-path {} kB", message >> 10);
            let experiment = Experiment::run(&name, &sides, FIGURES, context.plan, |run| {
                let way = ways.get(run.side).copied().unwrap_or(Way::Iperf3);
                self.one_leg(context, &source, message, way)
            })?;
            experiments.push(experiment.at(message as f64).noting(&notes));
        }
        Ok(experiments)
    }
}

/// The ways whose operations `check` finds in the kernel, and a note on each other one.
fn available(check: impl Fn(Trial) -> io::Result<()>) -> Result<(Vec<Way>, Vec<String>)> {
    let (mut ways, mut notes) = (Vec::new(), Vec::new());
    for way in Way::ALL {
        match way.trial().map_or(Ok(()), &check) {
            Ok(()) => ways.push(way),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                notes.push(format!("{} was not measured: {error}", way.name()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((ways, notes))
}

impl SendPath {
    fn one_leg(&self, context: &Context, source: &Source, message: usize, way: Way) -> Result<Leg> {
        let scratch = context.scratch()?;
        if way == Way::Iperf3 {
            return self.iperf3(scratch.path(), message);
        }
        // Two receivers get half each: every run moves as many bytes.
        let receivers = way.receivers();
        let count = self.size.div_ceil(message).div_ceil(receivers);
        let job = Job { source: source.clone(), message, count };
        let mut streams = Vec::new();
        let mut peers = Vec::new();
        for _ in 0..receivers {
            let (stream, peer) = connection()?;
            streams.push(stream);
            peers.push(peer);
        }
        let watch = Watch::start(None, scratch.path())?;
        let began = Instant::now();
        let receiving: Vec<_> =
            peers.into_iter().map(|peer| std::thread::spawn(move || receive(peer))).collect();
        // In a thread of its own, so that its CPU time is only this.
        let sending = std::thread::spawn(move || -> Result<(f64, Option<Usage>)> {
            let usage = job.send(way, streams)?;
            let used = clock_gettime(ClockId::ThreadCPUTime);
            Ok((used.tv_sec as f64 + used.tv_nsec as f64 / 1e9, usage))
        });
        let sent = sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
        let received: Result<Vec<usize>> = receiving.into_iter().map(counted).collect();
        let seconds = began.elapsed().as_secs_f64();
        let mut leg = watch.stop(&[])?;
        let ((cpu, usage), received) = (sent?, received?);
        let wanted = count * (message + HEADER.len());
        if let Some(bytes) = received.iter().find(|&&bytes| bytes != wanted) {
            bail!("{bytes} bytes of {wanted} came");
        }
        figures(&mut leg, (wanted * receivers) as f64, seconds, cpu);
        if let Some(usage) = usage {
            let share = usage.copied as f64 / usage.released as f64;
            put(&mut leg, "copied_percent", share * 100.0);
        }
        Ok(leg)
    }

    fn iperf3(&self, scratch: &Path, message: usize) -> Result<Leg> {
        let watch = Watch::start(None, scratch)?;
        let sent = iperf::send(1, u64::try_from(self.size)?, message)?;
        let mut leg = watch.stop(&[])?;
        figures(&mut leg, sent.bytes, sent.seconds, sent.sender_cpu_s);
        Ok(leg)
    }
}

/// Both ends of a connection over loopback.
fn connection() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let (peer, _) = listener.accept()?;
    Ok((stream, peer))
}

fn counted(receiving: JoinHandle<Result<usize>>) -> Result<usize> {
    receiving.join().map_err(|_| anyhow::anyhow!("a receiver panicked"))?
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

#[cfg(test)]
mod tests {
    use walhub_engine::trial::Missing;

    use super::*;

    #[test]
    fn a_way_that_the_kernel_lacks_is_named_with_its_version() {
        let (all, notes) = available(|_| Ok(())).unwrap();
        assert_eq!((all, notes), (Way::ALL.to_vec(), Vec::new()));
        let (ways, notes) = available(|trial| match trial {
            Trial::Bundle => Err(io::Error::new(ErrorKind::Unsupported, Missing(trial))),
            Trial::SendZc => Ok(()),
        })
        .unwrap();
        assert!(ways.len() == Way::ALL.len() - 1 && !ways.contains(&Way::Bundle));
        assert!(notes[0].starts_with("bundle was not measured: "), "{notes:?}");
        assert!(notes[0].ends_with("Linux 6.10 or newer is needed"), "{notes:?}");
        // Any other refusal is an error: it says what to mend.
        assert!(available(|_| Err(ErrorKind::PermissionDenied.into())).is_err());
    }

    #[test]
    fn every_way_delivers_every_byte_to_every_receiver() {
        let dir = tempfile::tempdir().unwrap();
        let source = Source::make(dir.path(), 1 << 20).unwrap();
        for (message, count) in [(8 << 10, 300), (300_000, 20)] {
            let job = Job { source: source.clone(), message, count };
            let wanted = job.stream();
            assert_eq!(wanted.len(), count * (message + HEADER.len()));
            for way in Way::ALL.into_iter().filter(|&way| way != Way::Iperf3) {
                let ends = (0..way.receivers()).map(|_| connection().unwrap());
                let (streams, peers): (Vec<_>, Vec<_>) = ends.unzip();
                let receive = |mut peer: TcpStream| {
                    std::thread::spawn(move || {
                        let mut bytes = Vec::new();
                        peer.read_to_end(&mut bytes).map(|_| bytes)
                    })
                };
                let receiving: Vec<_> = peers.into_iter().map(receive).collect();
                let usage = job.send(way, streams).unwrap();
                for receiving in receiving {
                    assert!(receiving.join().unwrap().unwrap() == wanted, "{}", way.name());
                }
                let released = usage.map(|usage| usage.released);
                assert_eq!(released, (way == Way::SendZc).then_some(count as u64));
            }
        }
    }
}
