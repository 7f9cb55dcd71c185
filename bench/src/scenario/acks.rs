//! `acks`: what one reply of a standby costs the core that decides what is synchronous.
//!
//! In this process, on the very types of the hub: a reply is stored and marked as a ship core does
//! it, drained and counted as the wal core does it. The other side is what PostgreSQL does at each
//! reply: look at every walsender, choose the candidates, sort.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Args;
use walhub_hub::publish::positions::StandbyTable;
use walhub_proto::lsn::Lsn;
use walhub_proto::syncrep::{ModeLsns, SyncRepConfig, SyncStandbys, Synced};
use walhub_proto::walsender::WalSenderState;

use super::{Context, Scenario, Watch, join, put};
use crate::method::pairs::{Experiment, Figure, Leg, Run};

/// Its name.
pub const NAME: &str = "acks";

const SIDES: [&str; 2] = ["walhub", "scan and sort"];
const FIGURES: &[Figure] = &[
    Figure::less("ns_per_ack", "one reply at a time, ns/reply"),
    Figure::less("ns_per_ack_together", "all replies at once, ns/reply"),
];

/// One reply of 1, 100 and 1000 standbys, against a scan of all walsenders as PostgreSQL does it.
#[derive(Args, Clone, Debug)]
pub struct Acks {
    /// Numbers of standbys, an experiment for each.
    #[arg(long, value_delimiter = ',', default_value = "1,100,1000")]
    pub standbys: Vec<usize>,
    /// Replies in each run.
    #[arg(long, default_value_t = 1_000_000)]
    pub replies: u64,
}

impl Acks {
    /// As small as it can be.
    #[must_use]
    pub fn smoke() -> Self {
        Self { standbys: vec![1, 100], replies: 2000 }
    }
}

impl Scenario for Acks {
    fn name(&self) -> &'static str {
        NAME
    }

    fn parameters(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([("standbys", join(&self.standbys)), ("replies", self.replies.to_string())])
    }

    fn run(&self, context: &Context) -> Result<Vec<Experiment>> {
        let mut experiments = Vec::new();
        for &standbys in &self.standbys {
            for (which, names) in [
                ("first", "FIRST 1 (*)".to_owned()),
                ("quorum", format!("ANY {} (*)", standbys / 2 + 1)),
            ] {
                let name = format!("acks {which} {standbys} standbys");
                let run = |run| self.one_leg(context, standbys, &names, run);
                let experiment = Experiment::run(&name, &SIDES, FIGURES, context.plan, run)?;
                experiments.push(experiment.at(standbys as f64));
            }
        }
        Ok(experiments)
    }
}

impl Acks {
    fn one_leg(&self, context: &Context, standbys: usize, names: &str, run: Run) -> Result<Leg> {
        let scratch = context.scratch()?;
        let config = SyncRepConfig::parse(names).ok().flatten().context("a list of standbys")?;
        let mut bench = Bench::new(standbys, config)?;
        // There are no system calls to count.
        let watch = Watch::start(None, scratch.path())?;
        let walhub = run.side == 0;
        // A scan takes as long as there are standbys: no more of them than takes a second or so.
        let count = if walhub { self.replies } else { self.replies / 10 }.max(1);
        let alone = bench.replies(count, 1, walhub);
        let together = bench.replies(count, standbys, walhub);
        let mut leg = watch.stop(&[])?;
        put(&mut leg, "ns_per_ack", alone);
        put(&mut leg, "ns_per_ack_together", together);
        Ok(leg)
    }
}

struct Bench {
    table: StandbyTable,
    sync: SyncStandbys,
    config: SyncRepConfig,
    standbys: usize,
    lsn: u64,
}

impl Bench {
    fn new(standbys: usize, config: SyncRepConfig) -> Result<Self> {
        let table = StandbyTable::new(standbys);
        let mut sync = SyncStandbys::new(Some(config.clone()));
        for _ in 0..standbys {
            let index = table.claim().context("no entry is free")?;
            sync.handle_connected(index, &format!("standby{index}"));
            sync.handle_state(index, WalSenderState::Streaming);
            let standby = table.standby(index);
            standby.set_state(WalSenderState::Streaming);
            sync.handle_reply(index, ModeLsns::of_wire(Lsn(1), Lsn(1), Lsn(1)));
        }
        Ok(Self { table, sync, config, standbys, lsn: 1 })
    }

    /// Makes `count` replies, looks at them whenever there are `at_once`; returns the nanoseconds
    /// of one.
    fn replies(&mut self, count: u64, at_once: usize, walhub: bool) -> f64 {
        let began = Instant::now();
        let mut waiting = 0;
        let mut index = 0;
        for _ in 0..count {
            self.lsn += 1;
            let standby = self.table.standby(index);
            let lsn = Lsn(self.lsn);
            standby.set_mode_lsns(lsn, lsn, lsn);
            self.table.mark(index);
            waiting += 1;
            if waiting == at_once {
                waiting = 0;
                black_box(if walhub { self.look() } else { self.scan() });
            }
            index = (index + 1) % self.standbys;
        }
        began.elapsed().as_nanos() as f64 / count as f64
    }

    /// As the wal core does.
    fn look(&mut self) -> Option<Lsn> {
        let sync = &mut self.sync;
        self.table.drain(|index, standby| sync.handle_reply(index, standby.mode_lsns()));
        match self.sync.synced() {
            Synced::Reached(lsns) => lsns.flush,
            Synced::Undefined | Synced::TooFew => None,
        }
    }

    /// As PostgreSQL does: `SyncRepReleaseWaiters` calls `SyncRepGetCandidateStandbys` and then
    /// `SyncRepGetNthLatestSyncRecPtr` or `SyncRepGetOldestSyncRecPtr`.
    fn scan(&mut self) -> Option<Lsn> {
        let mut candidates = Vec::with_capacity(self.standbys);
        for (index, standby) in self.table.in_use() {
            let ModeLsns { write, flush, apply } = standby.mode_lsns();
            if standby.state() == WalSenderState::Streaming && flush.is_some() {
                let lsns = [write, flush, apply];
                // `*` gives all of them the same priority.
                candidates.push((1, index, lsns));
            }
        }
        let wanted = self.config.num_sync;
        if self.config.method == walhub_proto::syncrep::SyncRepMethod::Priority {
            candidates.sort_unstable_by_key(|&(priority, index, _)| (priority, index));
            candidates.truncate(wanted);
        }
        let nth = |mode: usize| {
            let mut all: Vec<Option<Lsn>> =
                candidates.iter().filter_map(|(.., lsns)| lsns.get(mode).copied()).collect();
            all.sort_unstable_by(|one, other| other.cmp(one));
            all.get(wanted - 1).copied().flatten()
        };
        let [_, flush, _] = [nth(0), nth(1), nth(2)];
        flush
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_find_the_same() {
        for names in ["FIRST 2 (*)", "ANY 3 (*)"] {
            let config = SyncRepConfig::parse(names).unwrap().unwrap();
            let mut bench = Bench::new(5, config).unwrap();
            assert!(bench.replies(13, 1, true) > 0.0);
            assert_eq!(bench.look(), bench.scan());
            assert!(bench.look() > Some(Lsn(1)));
        }
    }
}
