//! The end of the demo: everything stopped, compared and told.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use walhub_engine::crc::crc32c;
use walhub_peers::source::Started;
use walhub_peers::standby::Received;
use walhub_peers::wal::{SEGMENT, SHAPE, START, Sums, len_u64};
use walhub_proto::segment::SegNo;

use super::{Demo, STOP_TIMEOUT, Times};
use crate::demo::screen;

impl Demo {
    /// Stops everything, compares, and shows the table; whether all is well.
    pub(super) fn finish(&mut self, times: &Times) -> anyhow::Result<bool> {
        self.screen.heading("Verifying");
        for (standby, _) in &self.standbys {
            standby.stop();
        }
        let mut rows = vec![
            ["", "received", "rate", "lag p50", "p99", "max", "reconnects", "identical"]
                .map(str::to_owned)
                .to_vec(),
        ];
        let sent = self.source.wal.sums();
        let mut failures = Vec::new();
        for (standby, thread) in std::mem::take(&mut self.standbys) {
            let received = thread.join().ok().context("a standby's thread has panicked")?;
            let difference = difference(&sent, &received.sums);
            let answer = if difference.is_none() { "yes" } else { "NO" };
            rows.push(row(&standby.name, &received, times, standby.starts(), answer));
            failures.extend(difference.map(|text| format!("{}: {text}", standby.name)));
        }
        self.hub.stop(STOP_TIMEOUT)?;
        let on_disk = self.check_disk(&sent)?;
        let heard = self.source.heard().clone();
        for start in &heard.starts {
            failures.extend(self.lost(start));
        }

        for line in screen::table(&rows) {
            self.screen.line(&line);
        }
        let bytes = screen::size(sent.lsn() - START);
        self.screen.line("");
        self.screen.line(&format!(
            "  hub       {bytes} durable in {} flushes, acknowledged up to {}",
            heard.acks, heard.acked
        ));
        if let Some(restart) = heard.starts.get(1) {
            let (acked, lsn, back) = (restart.acked, restart.lsn, screen::time(times.hub_back));
            self.screen.line(&format!(
                "            acknowledged {acked} when killed; went on from {lsn} after {back}"
            ));
            if self.lost(restart).is_none() {
                self.screen.line("            lost no acknowledged record");
            }
        }
        match on_disk {
            Ok(count) => self.screen.line(&format!(
                "            {count} segments in its pg_wal, identical to what was sent"
            )),
            Err(text) => failures.push(text),
        }
        let pieces = sent.finished().len() + 1;
        self.screen.line(&format!(
            "  checksum  {:08x} of what was sent, CRC-32C in {pieces} pieces of {SEGMENT}",
            sent.digest()
        ));
        if failures.is_empty() {
            self.screen.line("\nEvery byte arrived everywhere, identical.");
        }
        for failure in &failures {
            self.screen.line(&format!("  FAILED    {failure}"));
        }
        Ok(failures.is_empty())
    }

    /// What a hub that began to stream had acknowledged earlier and does not have.
    fn lost(&self, start: &Started) -> Option<String> {
        let whole = self.source.wal.last_record_end(start.acked.max(START));
        (start.lsn < whole).then(|| {
            let (acked, lsn) = (start.acked, start.lsn);
            format!("the hub had acknowledged {acked} and then asked for WAL from {lsn}")
        })
    }

    /// Compares the segments that the stopped hub has with what was sent; how many there are.
    fn check_disk(&self, sent: &Sums) -> anyhow::Result<Result<usize, String>> {
        let pg_wal = self.hub.serve.data.join("pg_wal");
        let first = SegNo::of_start(START, SEGMENT).0;
        let mut count = 0;
        for entry in fs::read_dir(&pg_wal).context("could not read the hub's pg_wal")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let Some((timeline, segno)) = SegNo::parse_file_name(&name, SEGMENT) else { continue };
            let index = segno.0.checked_sub(first).and_then(|index| usize::try_from(index).ok());
            let last = SegNo::of_end(sent.lsn(), SEGMENT);
            // Segments past the end are spare ones.
            if segno > last {
                continue;
            }
            let bytes = fs::read(pg_wal.join(&name))?;
            let valid = usize::try_from((sent.lsn() - segno.start(SEGMENT)).min(SEGMENT.bytes()))?;
            let sum = bytes.get(..valid).map(|bytes| crc32c(0, bytes));
            let same = sum.is_some() && index.is_some_and(|index| sent.sum_of(index) == sum);
            if timeline != SHAPE.timeline || !same {
                return Ok(Err(format!("segment {name} of the hub differs from what was sent")));
            }
            count += 1;
        }
        if count == 0 {
            return Ok(Err("the hub has no segment in its pg_wal".to_owned()));
        }
        Ok(Ok(count))
    }
}

fn row(name: &str, received: &Received, times: &Times, starts: u64, answer: &str) -> Vec<String> {
    let lag = |nanos| screen::time(Duration::from_nanos(nanos));
    vec![
        name.to_owned(),
        screen::size(received.sums.lsn() - START),
        screen::rate(times.bulk_bytes, times.bulk),
        lag(received.lag.value_at_quantile(0.5)),
        lag(received.lag.value_at_quantile(0.99)),
        lag(received.lag.max()),
        starts.saturating_sub(1).to_string(),
        answer.to_owned(),
    ]
}

/// Where what was received is not what was sent.
fn difference(sent: &Sums, received: &Sums) -> Option<String> {
    if sent == received {
        return None;
    }
    let pairs = sent.finished().iter().zip(received.finished());
    let first = pairs.take_while(|(sent, received)| sent == received).count();
    let from = START + len_u64(first) * SEGMENT.bytes();
    let (got, want) = (received.lsn(), sent.lsn());
    Some(format!("differs from what was sent in the {SEGMENT} from {from} (at {got} of {want})"))
}
