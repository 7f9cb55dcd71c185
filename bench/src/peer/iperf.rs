//! iperf3 over loopback: how fast bytes can be sent when nothing else is done with them.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use walhub_peers::log::Log;
use walhub_peers::process::Process;

use super::free_port;
use super::program::{IPERF3, command};

/// iperf3 has no more streams than this.
pub const STREAMS_MAX: usize = 128;
/// How long its server may take to listen.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);

/// What one run of iperf3 saw.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Outcome {
    /// Bytes that were sent.
    pub bytes: f64,
    /// Seconds it took.
    pub seconds: f64,
    /// CPU seconds of the sender.
    pub sender_cpu_s: f64,
}

/// Sends at least `bytes` bytes on `streams` connections, `length` at once.
///
/// # Errors
/// When iperf3 is missing or fails.
pub fn send(streams: usize, bytes: u64, length: usize) -> Result<Outcome> {
    let port = free_port()?.to_string();
    let mut server = command(IPERF3.find()?);
    server.args(["-s", "-1", "--forceflush", "-p", &port]);
    let log = Log::new(IPERF3.name);
    let server = Process::spawn(&mut server, Signal::TERM, &log)?;
    if !log.wait_count("listening", 1, LISTEN_TIMEOUT) {
        server.check()?;
        bail!("iperf3 does not listen");
    }
    let mut client = command(IPERF3.find()?);
    client.args(["-c", "127.0.0.1", "-p", &port, "-J"]);
    client.args(["-P", &streams.min(STREAMS_MAX).to_string()]);
    client.args(["-n", &bytes.to_string(), "-l", &length.to_string()]);
    let printed = IPERF3.run(&mut client)?;
    parse(&printed).with_context(|| format!("iperf3 printed:\n{printed}"))
}

fn parse(json: &str) -> Option<Outcome> {
    let json: Value = serde_json::from_str(json).ok()?;
    let end = json.get("end")?;
    let sent = end.get("sum_sent")?;
    let seconds = sent.get("seconds")?.as_f64()?;
    let percent = end.get("cpu_utilization_percent")?.get("host_total")?.as_f64()?;
    Some(Outcome {
        bytes: sent.get("bytes")?.as_f64()?,
        seconds,
        sender_cpu_s: percent / 100.0 * seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_read() {
        let json = r#"{"end": {"sum_sent": {"seconds": 2.0, "bytes": 8000},
                       "cpu_utilization_percent": {"host_total": 50.0}}}"#;
        let want = Outcome { bytes: 8000.0, seconds: 2.0, sender_cpu_s: 1.0 };
        assert_eq!(parse(json), Some(want));
        assert_eq!(parse("{\"error\": \"refused\"}"), None);
    }
}
