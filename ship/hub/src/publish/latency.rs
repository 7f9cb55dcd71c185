//! Where a commit's time goes: one histogram a stage, counted by the cores, read by the views.
//!
//! A record's time begins when it is in the tail, appended or received; each stage says how long
//! after that it was reached. `append` and `release` are of the session that asked: from its request
//! to the record's place, and to the answer. A few thousand records a second are followed at most,
//! each group of records that arrived together as one.
//!
//! Not here: the lag of each standby (`walhub_proto::lag`).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;
use walhub_proto::convert::{to_u64, to_usize};
use walhub_proto::lsn::Lsn;
use walhub_proto::syncrep::{ModeLsns, WaitMode};
use walhub_proto::time::Instant;

/// A step on the way of a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// From the session's request to the record's place in the WAL.
    Append,
    /// From the upstream's sending to the receipt here, by both machines' clocks.
    Receive,
    /// Written to the own disk.
    Write,
    /// Durable on the own disk.
    Flush,
    /// Handed to the network for the first standby.
    Send,
    /// Written by the required standbys.
    DownstreamWrite,
    /// Durable on the required standbys.
    DownstreamFlush,
    /// Replayed by the required standbys.
    DownstreamApply,
    /// From the session's request to its answer.
    Release,
}

impl Stage {
    /// Every stage, in the order of the view.
    pub const ALL: [Self; 9] = [
        Self::Append,
        Self::Receive,
        Self::Write,
        Self::Flush,
        Self::Send,
        Self::DownstreamWrite,
        Self::DownstreamFlush,
        Self::DownstreamApply,
        Self::Release,
    ];

    /// As the view shows it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Receive => "receive",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Send => "send",
            Self::DownstreamWrite => "downstream write",
            Self::DownstreamFlush => "downstream flush",
            Self::DownstreamApply => "downstream apply",
            Self::Release => "release",
        }
    }
}

/// Values below this have a bucket each; above, every power of two has half as many.
const LINEAR: u64 = 64;
const LINEAR_BITS: u32 = 6;
/// Longest time that is told from longer ones: an hour and a bit.
const MICROS_MAX: u64 = (1 << 32) - 1;
const BUCKETS: usize = 64 + (32 - 6) * 32;
/// Records that are followed at once.
const FOLLOWED_MAX: usize = 1024;

/// Counts of times in microseconds, to 3 %. Written by any thread without waiting.
#[derive(Debug)]
pub struct Counts {
    buckets: Box<[AtomicU64]>,
    micros_max: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            micros_max: AtomicU64::new(0),
        }
    }
}

/// The bucket of a time, and its reverse in [`bucket_end`].
fn bucket_of(micros: u64) -> usize {
    let micros = micros.min(MICROS_MAX);
    if micros < LINEAR {
        return to_usize(micros);
    }
    let shift = micros.ilog2() - (LINEAR_BITS - 1);
    let group = to_usize(u64::from(shift - 1));
    let within = to_usize((micros >> shift) - LINEAR / 2);
    64 + group * 32 + within
}

/// The longest time in a bucket.
fn bucket_end(bucket: usize) -> u64 {
    let bucket = to_u64(bucket);
    if bucket < LINEAR {
        return bucket;
    }
    let (group, within) = ((bucket - LINEAR) / 32, (bucket - LINEAR) % 32);
    ((LINEAR / 2 + within + 1) << (group + 1)) - 1
}

impl Counts {
    /// Counts one time.
    pub fn record(&self, micros: u64) {
        if let Some(bucket) = self.buckets.get(bucket_of(micros)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.micros_max.fetch_max(micros, Ordering::Relaxed);
    }

    fn reset(&self) {
        self.buckets.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
        self.micros_max.store(0, Ordering::Relaxed);
    }

    fn histogram(&self) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, MICROS_MAX, 3).expect("bounds in order");
        for (index, bucket) in self.buckets.iter().enumerate() {
            let count = bucket.load(Ordering::Relaxed);
            if count > 0 {
                histogram.saturating_record_n(bucket_end(index), count);
            }
        }
        histogram
    }
}

/// Row of `walhub.commit_latency`; times in microseconds, `None` when nothing was counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LatencyRow {
    /// The stage.
    pub stage: &'static str,
    /// How many were counted.
    pub count: u64,
    /// Half, 99 of 100, and 999 of 1000 took at most as long.
    pub quantiles_us: Option<[u64; 3]>,
    /// The longest.
    pub max_us: Option<u64>,
}

/// One histogram a stage.
#[derive(Debug, Default)]
pub struct Latencies {
    counts: [Counts; 9],
}

impl Latencies {
    /// Counts one time of a stage.
    pub fn record(&self, stage: Stage, micros: u64) {
        if let Some(at) = Stage::ALL.iter().position(|&known| known == stage)
            && let Some(counts) = self.counts.get(at)
        {
            counts.record(micros);
        }
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.counts.iter().for_each(Counts::reset);
    }

    /// One row a stage.
    #[must_use]
    pub fn rows(&self) -> Vec<LatencyRow> {
        let rows = Stage::ALL.iter().zip(&self.counts).map(|(stage, counts)| {
            let histogram = counts.histogram();
            let some = !histogram.is_empty();
            let longest = counts.micros_max.load(Ordering::Relaxed);
            let quantile = |q: f64| histogram.value_at_quantile(q).min(longest);
            LatencyRow {
                stage: stage.as_str(),
                count: histogram.len(),
                quantiles_us: some.then(|| [0.5, 0.99, 0.999].map(quantile)),
                max_us: some.then_some(longest),
            }
        });
        rows.collect()
    }
}

/// The wal core's end: positions, and when they came into the tail.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    positions: VecDeque<(Lsn, Instant)>,
    /// Of how many, from the front on, each of these stages was counted.
    counted: [usize; 6],
}

const STAGES: [Stage; 6] = [
    Stage::Write,
    Stage::Flush,
    Stage::Send,
    Stage::DownstreamWrite,
    Stage::DownstreamFlush,
    Stage::DownstreamApply,
];

/// How far each stage is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reached {
    pub(crate) write: Lsn,
    pub(crate) flush: Lsn,
    /// `None` while there is no standby.
    pub(crate) sent: Option<Lsn>,
    pub(crate) downstream: ModeLsns,
}

impl Followed {
    /// Something new is in the tail.
    pub(crate) fn begin(&mut self, end: Lsn, now: Instant) {
        if self.positions.len() < FOLLOWED_MAX
            && self.positions.back().is_none_or(|&(last, _)| last < end)
        {
            self.positions.push_back((end, now));
        }
    }

    /// WAL goes on on another timeline: what was on its way on the old one is not followed any more.
    pub(crate) fn forget_all(&mut self) {
        *self = Self::default();
    }

    /// Counts what has got further.
    pub(crate) fn reach(&mut self, reached: &Reached, now: Instant, latencies: &Latencies) {
        let downstream = |mode| reached.downstream.of(mode).unwrap_or_default();
        let lsns = [
            reached.write,
            reached.flush,
            // What waited for the first standby to come was not under way.
            reached.sent.unwrap_or_else(|| {
                let [_, _, counted, ..] = &mut self.counted;
                *counted = self.positions.len();
                Lsn::INVALID
            }),
            downstream(WaitMode::Write),
            downstream(WaitMode::Flush),
            downstream(WaitMode::Apply),
        ];
        for ((counted, stage), lsn) in self.counted.iter_mut().zip(STAGES).zip(lsns) {
            while let Some(&(end, began)) = self.positions.get(*counted)
                && end <= lsn
            {
                let micros = now.since(began).as_micros();
                latencies.record(stage, u64::try_from(micros).unwrap_or(u64::MAX));
                *counted += 1;
            }
        }
        self.forget();
    }

    /// Drops what every stage was counted of, and when there are many, what is durable here: there may be
    /// no standby to come.
    fn forget(&mut self) {
        let done = self.counted.iter().copied().min().unwrap_or(0);
        let [_, flushed, ..] = self.counted;
        let crowded = self.positions.len() > FOLLOWED_MAX / 2;
        let gone = if crowded { flushed.max(done) } else { done };
        self.positions.drain(..gone);
        for counted in &mut self.counted {
            *counted = counted.saturating_sub(gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_time_in_order_and_to_three_percent() {
        let mut last = 0;
        for micros in (0..5000).chain((1..33).flat_map(|bit| [(1 << bit) - 1, 1 << bit])) {
            let end = bucket_end(bucket_of(micros));
            assert!(end >= micros.min(MICROS_MAX), "{micros} in a bucket up to {end}");
            assert!(end - micros.min(MICROS_MAX) <= micros / 32, "{micros}: {end}");
        }
        for bucket in 1..BUCKETS {
            assert!(bucket_end(bucket) > bucket_end(bucket - 1));
            assert_eq!(bucket_of(bucket_end(bucket)), bucket);
            last = bucket;
        }
        assert_eq!(bucket_of(u64::MAX), last);
    }

    #[test]
    fn rows_tell_quantiles_and_a_reset_forgets_them() {
        let latencies = Latencies::default();
        for micros in 1..=1000 {
            latencies.record(Stage::Flush, micros);
        }
        let rows = latencies.rows();
        let flush = &rows[3];
        assert_eq!((flush.stage, flush.count, flush.max_us), ("flush", 1000, Some(1000)));
        let [half, most, nearly_all] = flush.quantiles_us.unwrap();
        assert!((500..=516).contains(&half) && (990..=1000).contains(&most), "{half} {most}");
        assert_eq!(nearly_all, 1000);
        assert_eq!((rows[0].count, rows[0].quantiles_us, rows[0].max_us), (0, None, None));
        latencies.reset();
        assert!(latencies.rows().iter().all(|row| row.count == 0 && row.max_us.is_none()));
    }

    #[test]
    fn each_stage_of_each_position_is_counted_once() {
        let latencies = Latencies::default();
        let mut followed = Followed::default();
        followed.begin(Lsn(10), Instant(0));
        followed.begin(Lsn(10), Instant(500));
        followed.begin(Lsn(20), Instant(1_000_000));
        let sent = Some(Lsn::INVALID);
        let mut reached = Reached { write: Lsn(15), sent, ..Reached::default() };
        followed.reach(&reached, Instant(3_000_000), &latencies);
        reached = Reached {
            write: Lsn(20),
            flush: Lsn(20),
            sent: Some(Lsn(20)),
            downstream: ModeLsns::of_wire(Lsn(20), Lsn(20), Lsn(10)),
        };
        followed.reach(&reached, Instant(5_000_000), &latencies);
        followed.reach(&reached, Instant(9_000_000), &latencies);
        let counts: Vec<_> = latencies.rows().iter().map(|row| (row.count, row.max_us)).collect();
        let [none, two] = [(0, None), (2, Some(5000))];
        let want = [none, none, (2, Some(4000)), two, two, two, two, (1, Some(5000)), none];
        assert_eq!(counts, want);
        assert_eq!(followed.positions.len(), 1);
    }

    #[test]
    fn what_came_before_the_first_standby_was_not_sent_late() {
        let latencies = Latencies::default();
        let mut followed = Followed::default();
        followed.begin(Lsn(10), Instant(0));
        followed.reach(&Reached::default(), Instant(1000), &latencies);
        followed.begin(Lsn(20), Instant(5000));
        let reached = Reached { sent: Some(Lsn(20)), ..Reached::default() };
        followed.reach(&reached, Instant(7000), &latencies);
        let send = &latencies.rows()[4];
        assert_eq!((send.stage, send.count, send.max_us), ("send", 1, Some(2)));
    }

    #[test]
    fn without_standbys_nothing_piles_up() {
        let latencies = Latencies::default();
        let mut followed = Followed::default();
        for at in 1..10_000 {
            followed.begin(Lsn(at), Instant(at));
            let reached = Reached { write: Lsn(at), flush: Lsn(at), ..Reached::default() };
            followed.reach(&reached, Instant(at), &latencies);
        }
        assert_eq!(latencies.rows()[3].count, 9_999);
        assert!(followed.positions.len() <= FOLLOWED_MAX);
    }
}
