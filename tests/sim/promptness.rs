//! Latency has a bound where nothing is slow: a wake-up that is lost is a failure and not a slow run.
//!
//! Of every position that the source made durable it is known when that was. Each standby must have received it, and
//! each hub have told the primary of it, within a time that is far more than it takes and far less than the next
//! timer away.

use walhub_proto::lsn::Lsn;

/// What was made before has other reasons to come late: connections begin.
const WARM_UP_NS: u64 = 5_000_000_000;

/// How many of the positions that were made somebody has reached.
#[derive(Clone, Copy, Debug, Default)]
struct Follower(usize);

impl Follower {
    /// How long the first of the positions in `made` took that `lsn` has reached just now.
    fn reach(&mut self, now: u64, made: &[(u64, Lsn)], lsn: Lsn) -> Option<(u64, Lsn)> {
        let first = made.get(self.0).copied().filter(|(_, position)| *position <= lsn);
        self.0 = made.partition_point(|(_, position)| *position <= lsn).max(self.0);
        first.map(|(at, position)| (now - at, position))
    }
}

/// Who got what how late.
#[derive(Debug)]
pub(crate) struct Promptness {
    limit_ns: Option<u64>,
    made: Vec<(u64, Lsn)>,
    last: Lsn,
    standbys: Vec<Follower>,
    hubs: Vec<Follower>,
}

impl Promptness {
    /// `None` is no limit.
    pub(crate) fn new(limit_ns: Option<u64>, standbys: usize, hubs: usize) -> Self {
        Self {
            limit_ns,
            made: Vec::new(),
            last: Lsn::INVALID,
            standbys: vec![Follower::default(); standbys],
            hubs: vec![Follower::default(); hubs],
        }
    }

    /// The source has made all records up to `lsn` durable.
    pub(crate) fn made(&mut self, now: u64, lsn: Lsn) {
        if self.limit_ns.is_none() || lsn <= self.last {
            return;
        }
        self.last = lsn;
        if now > WARM_UP_NS {
            self.made.push((now, lsn));
        }
    }

    /// A standby that streams has received up to `lsn`.
    pub(crate) fn received(
        &mut self,
        now: u64,
        standby: usize,
        lsn: Option<Lsn>,
    ) -> Result<(), String> {
        let Some(lsn) = lsn else { return Ok(()) };
        let slowest = self.standbys[standby].reach(now, &self.made, lsn);
        self.check(slowest, || format!("standby {standby} received"))
    }

    /// A hub has told that it has `lsn`.
    pub(crate) fn told(&mut self, now: u64, hub: usize, lsn: Lsn) -> Result<(), String> {
        if !lsn.is_valid() {
            return Ok(());
        }
        let slowest = self.hubs[hub].reach(now, &self.made, lsn);
        self.check(slowest, || format!("hub {hub} told of"))
    }

    /// The slowest answer to a session took that long.
    pub(crate) fn answered(&self, slowest_ns: u64) -> Result<(), String> {
        self.check(Some((slowest_ns, Lsn::INVALID)), || "a session was told of".to_owned())
    }

    fn check(&self, slowest: Option<(u64, Lsn)>, who: impl Fn() -> String) -> Result<(), String> {
        match (self.limit_ns, slowest) {
            (Some(limit), Some((took, lsn))) if took > limit => {
                let (took, limit) = (took / 1_000, limit / 1_000);
                Err(format!("{} {lsn} {took} us after it was there, more than {limit} us", who()))
            }
            _ => Ok(()),
        }
    }
}
