//! A primary under load whose standbys are watched: how long WAL takes to reach them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use walhub_peers::client::Client;
use walhub_proto::lsn::Lsn;

use super::put;
use crate::method::pairs::{Figure, Leg};
use crate::method::stats::median;
use crate::peer::pgbench::{self, Outcome};
use crate::peer::postgres::Postgres;
use crate::sink::Arrivals;

/// How often the primary is asked where its WAL ends.
const PROBE_INTERVAL: Duration = Duration::from_millis(10);

/// Bytes of one record that is made for its size.
const EMITTED_LEN: usize = 64 << 10;
/// Such records in one statement.
const EMITTED_AT_ONCE: usize = 2048;

/// The figures of [`lags`].
pub(super) const LAG_FIGURES: [Figure; 2] =
    [Figure::less("lag_p50_ms", "lag p50, ms"), Figure::less("lag_p99_ms", "lag p99, ms")];

/// Settings of a primary on whose runs nothing falls but the load.
pub(super) fn primary_settings(standbys_max: usize) -> Vec<String> {
    vec![
        "wal_level=replica".to_owned(),
        format!("max_wal_senders={}", standbys_max + 10),
        "synchronous_commit=on".to_owned(),
        "fsync=on".to_owned(),
        "shared_buffers=512MB".to_owned(),
        // Checkpoints and vacuum would fall on one side and not on the other.
        "checkpoint_timeout=1d".to_owned(),
        "max_wal_size=64GB".to_owned(),
        "autovacuum=off".to_owned(),
        // A hub that starts while the last one's WAL is being recycled must find its own.
        "wal_keep_size=64GB".to_owned(),
    ]
}

/// Runs pgbench, and asks the primary meanwhile where its WAL ends.
pub(super) fn load(
    primary: &Postgres,
    mut client: Client,
    arguments: &[&str],
) -> Result<(Outcome, Arrivals)> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let probing = scope.spawn(|| -> Result<Arrivals> {
            let mut probes = Arrivals::new();
            while !stop.load(Ordering::Acquire) {
                let asked = Instant::now();
                let lsn = flush_lsn(&mut client)?;
                // It was the end somewhere between question and answer.
                probes.push((asked + asked.elapsed() / 2, lsn));
                std::thread::sleep(PROBE_INTERVAL);
            }
            probes.push((Instant::now(), flush_lsn(&mut client)?));
            Ok(probes)
        });
        let outcome = pgbench::run(primary, arguments);
        stop.store(true, Ordering::Release);
        let probes = probing.join().map_err(|_| anyhow::anyhow!("the probe panicked"))?;
        Ok((outcome?, probes?))
    })
}

/// Makes a server write about `bytes` of WAL, as fast as it can, and flush it.
pub(super) fn emit(client: &mut Client, bytes: usize) -> Result<()> {
    let mut left = bytes.div_ceil(EMITTED_LEN);
    while left > 0 {
        // A question that is answered in good time.
        let count = left.min(EMITTED_AT_ONCE);
        client.query(&format!(
            "SELECT count(pg_logical_emit_message(false, 'walhub-bench', repeat(md5(g::text), {}))) \
             FROM generate_series(1, {count}) g",
            EMITTED_LEN / 32
        ))?;
        left -= count;
    }
    client.query("SELECT pg_logical_emit_message(true, 'walhub-bench', '')")?;
    Ok(())
}

/// End of what a primary has flushed.
pub(super) fn flush_lsn(client: &mut Client) -> Result<Lsn> {
    let text = client.value("SELECT pg_current_wal_flush_lsn()")?;
    text.parse().ok().with_context(|| format!("not a position: {text}"))
}

/// Time from when the primary had flushed a position until an observed standby had it.
pub(super) fn lags(leg: &mut Leg, probes: &Arrivals, arrivals: &[Arrivals]) {
    let mut lags = Vec::new();
    // What was there at the last look has been counted then.
    let moved = probes.chunk_by(|(_, one), (_, next)| one == next).filter_map(<[_]>::first);
    let moved: Vec<_> = moved.skip(1).collect();
    for arrivals in arrivals {
        for &&(asked, lsn) in &moved {
            let index = arrivals.partition_point(|&(_, received)| received < lsn);
            if let Some(&(arrived, _)) = arrivals.get(index) {
                lags.push(arrived.saturating_duration_since(asked).as_secs_f64() * 1e3);
            }
        }
    }
    lags.sort_by(f64::total_cmp);
    if let Some(middle) = median(&lags) {
        put(leg, "lag_p50_ms", middle);
        let rank = (lags.len() * 99).div_ceil(100).saturating_sub(1);
        put(leg, "lag_p99_ms", lags.get(rank).copied().unwrap_or(f64::NAN));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn lag_is_from_probe_to_first_arrival_past_it() {
        let t = Instant::now();
        let at = |ms| t + Duration::from_millis(ms);
        let mut leg =
            Leg { values: BTreeMap::new(), steal: 0.0, foreign: 0.0, syscalls: BTreeMap::new() };
        let probes = [(5, 50), (10, 100), (15, 100), (20, 200), (25, 200)];
        let probes = probes.map(|(ms, lsn)| (at(ms), Lsn(lsn))).to_vec();
        let arrivals = vec![(at(5), Lsn(100)), (at(25), Lsn(150)), (at(27), Lsn(300))];
        lags(&mut leg, &probes, &[arrivals]);
        assert_eq!(leg.values["lag_p50_ms"], 3.5);
        assert_eq!(leg.values["lag_p99_ms"], 7.0);
    }
}
