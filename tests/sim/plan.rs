//! What a seed means: topology, sizes, settings, fault rates. Each seed draws its own extremes.

use std::sync::Arc;
use std::time::Duration;

use walhub::settings::Settings;
use walhub_hub::api::settings::{Forward, HubSettings, ZerocopySend};
use walhub_hub::store::recover::NewCluster;
use walhub_hub::wal_core::MAX_WAL_SIZE;
use walhub_proto::page::WalVersion;
use walhub_proto::segment::SegmentSize;
use walhub_proto::syncrep::{SyncRepConfig, WaitLevel, WaitMode};

use crate::clients::OwnPlan;
use crate::disk::DiskFaults;
use crate::hub::HubPlan;
use crate::net::NetShape;
use crate::primary::PrimaryPlan;
use crate::restore::RestorePlan;
use crate::rng::Rng;
use crate::standby::StandbyPlan;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// A fault that somebody makes now and then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// A hub's machine loses power a few operations from now.
    HubPower,
    /// A hub's machine loses power when its control file is written next.
    HubPowerAtControl,
    /// A hub's process is killed, or its machine loses power, while it saves a slot.
    HubCrashAtSlot,
    /// A hub's process is killed a few operations from now.
    HubKill,
    /// A hub is asked to stop, and started again.
    HubStop,
    /// A hub's disk is full for a while.
    HubDiskFull,
    /// A connection breaks.
    Reset,
    /// Two machines do not reach each other for a while.
    Partition,
    /// A standby does not read for a while.
    Stall,
    StandbyDies,
    PrimaryRestart,
    /// A new primary on a new timeline.
    Failover,
    /// The upstream goes over to a new timeline without ending a connection.
    TimelineSwitch,
}

/// Everything about one run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) segment_size: SegmentSize,
    pub(crate) major: u32,
    pub(crate) record_len_max: u64,
    /// Most records are as short as can be.
    pub(crate) short_records: bool,
    pub(crate) primary: PrimaryPlan,
    pub(crate) hubs: Vec<HubPlan>,
    pub(crate) disks: Vec<DiskFaults>,
    pub(crate) standbys: Vec<StandbyPlan>,
    pub(crate) net: NetShape,
    pub(crate) sleepy: u64,
    /// Virtual time with faults.
    pub(crate) faults_ns: u64,
    pub(crate) fault_pause_ns: (u64, u64),
    /// Faults and how often each comes.
    pub(crate) faults: Vec<(Fault, u64)>,
    /// Virtual time after the last fault within which all must be well.
    pub(crate) patience_ns: u64,
    /// Nothing is slow, and within that time everybody has what the source has made durable.
    pub(crate) prompt_ns: Option<u64>,
    /// All hubs are stopped in good order at the end.
    pub(crate) stop_at_end: bool,
    /// A slot may never be invalidated, whatever the settings say: to prove that the checker notices.
    pub(crate) slots_are_sacred: bool,
    /// One standby more must have what a policy promises: to prove that the checker notices.
    pub(crate) promises_are_too_much: bool,
    /// Messages from hubs to standbys damaged, in cases of a thousand. Outside the fault model.
    pub(crate) damage: u64,
    /// The first hub is a primary of its own WAL, and this is who appends to it.
    pub(crate) own: Option<OwnPlan>,
    /// The primary is lost in the middle of the faults, the first hub is promoted, and this is who appends
    /// to it then.
    pub(crate) promoted: Option<OwnPlan>,
    /// With the primary the hub loses power, in a moment in which a standby has more than is durable there.
    pub(crate) loses_tail: bool,
    /// The first hub, which has WAL of its own, comes back in an earlier state.
    pub(crate) restore: Option<RestorePlan>,
}

fn settings(rng: &mut Rng, slots_bounded: bool) -> HubSettings {
    let mb = |count: u64| count << 20;
    let timeout = |rng: &mut Rng| Some(Duration::from_millis(rng.log_range(2_000, 15_000)));
    let mut settings = Settings::default().hub;
    settings.primary_conninfo = "host=upstream".to_owned();
    settings.tail_cache_size = mb(rng.pick(&[4, 4, 6, 8]));
    settings.wal_keep_size = mb(rng.pick(&[0, 0, 1, 4]));
    settings.min_wal_size = mb(rng.pick(&[2, 2, 3, 5]));
    settings.max_slot_wal_keep_size = slots_bounded.then(|| mb(rng.pick(&[1, 2, 4])));
    settings.max_wal_senders = 16;
    settings.max_replication_slots = 16;
    settings.wal_sender_timeout = timeout(rng);
    settings.wal_receiver_timeout = timeout(rng);
    settings.wal_receiver_status_interval = Some(Duration::from_secs(1));
    settings.wal_retrieve_retry_interval = Duration::from_millis(rng.log_range(50, 3_000));
    settings.wal_sender_message_size = rng.log_range(8 << 10, 512 << 10);
    settings.forward = rng.pick(&[Forward::Received, Forward::Received, Forward::Flushed]);
    settings
}

/// Who streams from whom: every entry is a hub's upstream.
fn topology(rng: &mut Rng) -> Vec<Option<usize>> {
    match rng.below(10) {
        0..=5 => vec![None],
        6..=7 => vec![None, Some(0)],
        8 => vec![None, None],
        _ => vec![None, Some(0), Some(crate::rng::size(rng.below(2)))],
    }
}

impl Plan {
    pub(crate) fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed, "plan");
        let rng = &mut rng;
        let topology = topology(rng);
        let slots_bounded = topology.len() == 1 && rng.chance(150);
        let base = settings(rng, slots_bounded);
        let mut hubs: Vec<HubPlan> =
            topology.into_iter().map(|upstream| hub(rng, &base, upstream)).collect();
        let disks = hubs.iter().map(|_| disk(rng)).collect();
        let standbys: Vec<StandbyPlan> =
            (0..rng.range(1, 5)).map(|_| standby(rng, hubs.len())).collect();
        policies(&mut Rng::new(seed, "policy"), &mut hubs, &standbys);
        let total = rng.log_range(1 << 20, 6 << 20);
        let mut plan = Self {
            seed,
            segment_size: SegmentSize::new(if rng.chance(900) { 1 << 20 } else { 2 << 20 })
                .expect("a size"),
            major: u32::try_from(rng.range(13, 18)).expect("small"),
            record_len_max: rng.pick(&[20_000, 200_000, 200_000, 3 << 20]),
            short_records: false,
            primary: primary(rng, total),
            hubs,
            disks,
            standbys,
            net: network(rng),
            sleepy: rng.pick(&[0, 0, 5, 50]),
            faults_ns: rng.range(5, 25) * SECOND,
            fault_pause_ns: (20 * MS, rng.log_range(100, 4_000) * MS),
            faults: faults(rng),
            patience_ns: 300 * SECOND,
            prompt_ns: None,
            stop_at_end: rng.chance(300),
            slots_are_sacred: false,
            promises_are_too_much: false,
            damage: 0,
            own: None,
            promoted: None,
            loses_tail: false,
            restore: None,
        };
        let mut rng = Rng::new(seed, "catchup cores");
        for hub in &mut plan.hubs {
            hub.catchup_cores = rng.pick(&[0, 0, 1, 2]);
        }
        let mut rng = Rng::new(seed, "zero copy");
        for hub in &mut plan.hubs {
            use ZerocopySend::{Auto, Off, On};
            Arc::make_mut(&mut hub.settings).zerocopy_send = rng.pick(&[Auto, Auto, On, On, Off]);
        }
        let mut rng = Rng::new(seed, "own");
        if rng.chance(300) && plan.hubs.iter().skip(1).all(|hub| hub.upstream.is_some()) {
            plan.make_own(&mut rng);
        }
        let mut rng = Rng::new(seed, "promotion");
        if rng.chance(200) && plan.hubs.len() == 1 && plan.own.is_none() {
            plan.make_promoted(&mut rng);
        }
        let mut rng = Rng::new(seed, "errors");
        if rng.chance(200) {
            plan.disks.iter_mut().for_each(|disk| disk.errors = rng.pick(&[3, 20, 100]));
        }
        let mut rng = Rng::new(seed, "preemption");
        if rng.chance(300) {
            plan.hubs.iter_mut().for_each(|hub| hub.preempt = rng.pick(&[20, 100, 300]));
        }
        if Rng::new(seed, "prompt").chance(50) {
            plan.make_prompt();
        }
        plan
    }

    /// Nothing goes wrong and nothing is slow, but for what `short` transfers cost.
    pub(crate) fn make_prompt(&mut self) {
        let long = Some(Duration::from_secs(60));
        self.prompt_ns = Some(150 * MS);
        self.faults = Vec::new();
        self.sleepy = 0;
        self.promoted = None;
        self.faults_ns = 20 * SECOND;
        self.net.latency_ns = (20_000, MS);
        self.net.ns_per_kib = (100, 2_000);
        self.net.window = (256 << 10, 4 << 20);
        (self.primary.pause_ns, self.primary.burst) = ((10 * MS, 400 * MS), (100, 20_000));
        (self.primary.total, self.primary.switch, self.primary.timeout) = (1 << 20, 0, long);
        self.record_len_max = 20_000;
        for disk in &mut self.disks {
            (disk.slow, disk.errors) = (0, 0);
        }
        for standby in &mut self.standbys {
            standby.flush_ns = (50_000, 5 * MS);
            standby.apply_ns = standby.apply_ns.map(|_| (10_000, 5 * MS));
            (standby.status_interval, standby.timeout) = (Some(Duration::from_secs(10)), long);
            standby.retry_ns = 10 * MS;
        }
        for hub in &mut self.hubs {
            let settings = Arc::make_mut(&mut hub.settings);
            settings.wal_receiver_status_interval = Some(Duration::from_secs(10));
            (settings.wal_sender_timeout, settings.wal_receiver_timeout) = (long, long);
            settings.wal_retrieve_retry_interval = Duration::from_millis(50);
        }
        if let Some(own) = &mut self.own {
            (own.content_max, own.total, own.cancel) = (20_000, own.total.min(1 << 20), 0);
            own.think_ns = (10_000, 200 * MS);
        }
    }

    /// The primary is lost, and the hub takes its place.
    fn make_promoted(&mut self, rng: &mut Rng) {
        let names = &self.hubs[0].settings.synchronous_standby_names;
        let names = names.as_ref().map(ToString::to_string);
        self.promoted = Some(OwnPlan {
            clients: crate::rng::size(rng.log_range(1, 20)),
            think_ns: (10_000, rng.log_range(1, 500) * MS),
            total: rng.log_range(10 << 10, 3 << 20),
            content_max: rng.pick(&[100, 2_000, 20_000, 300_000, 2 << 20]),
            one_size: false,
            levels: vec![
                None,
                Some(WaitLevel::LocalFlush),
                Some(WaitLevel::Standbys(WaitMode::Write)),
                Some(WaitLevel::Standbys(WaitMode::Flush)),
            ],
            cancel: rng.pick(&[0, 0, 50]),
            requests: rng.pick(&[0, 10, 100]),
            names: names.unwrap_or_default(),
        });
    }

    /// The first hub has WAL of its own instead of an upstream.
    fn make_own(&mut self, rng: &mut Rng) {
        self.standbys[0].hub = 0;
        let direct: Vec<String> = self
            .standbys
            .iter_mut()
            .enumerate()
            .filter(|(_, standby)| standby.hub == 0)
            .map(|(number, standby)| {
                standby.apply_ns = Some((10_000, rng.log_range(1, 200) * MS));
                format!("standby_{number}")
            })
            .collect();
        let count = rng.range(1, crate::rng::bytes(direct.len()));
        let names = match rng.below(4) {
            0 => String::new(),
            1 => format!("FIRST {count} ({})", direct.join(", ")),
            _ => format!("ANY {count} ({})", direct.join(", ")),
        };
        let all = [
            None,
            Some(WaitLevel::LocalFlush),
            Some(WaitLevel::Standbys(WaitMode::Write)),
            Some(WaitLevel::Standbys(WaitMode::Flush)),
            Some(WaitLevel::Standbys(WaitMode::Apply)),
        ];
        let some: Vec<Option<WaitLevel>> = (0..2).map(|_| rng.pick(&all)).collect();
        let own = OwnPlan {
            clients: crate::rng::size(rng.log_range(1, 30)),
            think_ns: (10_000, rng.log_range(1, 500) * MS),
            total: rng.log_range(100 << 10, 4 << 20),
            content_max: rng.pick(&[100, 2_000, 20_000, 300_000, 5 << 20]),
            one_size: false,
            levels: if rng.chance(500) { all.to_vec() } else { some },
            cancel: rng.pick(&[0, 0, 50, 300]),
            requests: rng.pick(&[0, 10, 10, 100]),
            names,
        };
        self.set_own(own);
        if rng.chance(300) {
            let mut settings = (*self.hubs[0].settings).clone();
            settings.archive_timeout = Duration::from_secs(rng.range(1, 20));
            self.hubs[0].settings = Arc::new(settings);
        }
    }

    pub(crate) fn set_own(&mut self, own: OwnPlan) {
        let version = WalVersion::of_major(self.major).expect("a known major");
        let hub = &mut self.hubs[0];
        hub.own = Some(NewCluster {
            system_identifier: crate::source::SYSTEM,
            segment_size: self.segment_size,
            version,
        });
        let mut settings = (*hub.settings).clone();
        settings.primary_conninfo = String::new();
        settings.primary_slot_name = None;
        settings.synchronous_standby_names = own.sync();
        hub.settings = Arc::new(settings);
        // A primary that is simulated has no part in it.
        self.faults.retain(|(fault, _)| {
            !matches!(fault, Fault::PrimaryRestart | Fault::Failover | Fault::TimelineSwitch)
        });
        self.own = Some(own);
    }

    /// Nothing goes wrong but what a scenario adds, and two standbys of three must confirm.
    pub(crate) fn calm_own(seed: u64) -> Self {
        let mut plan = Self::calm(seed);
        let mut rng = Rng::new(seed, "calm own");
        plan.standbys = (0..3).map(|_| standby(&mut rng, 1)).collect();
        for standby in &mut plan.standbys {
            standby.apply_ns = Some((10_000, 20 * MS));
            standby.flush_ns = (50_000, 20 * MS);
        }
        plan.set_own(OwnPlan {
            clients: 8,
            think_ns: (10_000, 20 * MS),
            total: 4 << 20,
            content_max: 20_000,
            one_size: false,
            levels: vec![
                None,
                Some(WaitLevel::LocalFlush),
                Some(WaitLevel::Standbys(WaitMode::Write)),
                Some(WaitLevel::Standbys(WaitMode::Flush)),
                Some(WaitLevel::Standbys(WaitMode::Apply)),
            ],
            cancel: 0,
            requests: 10,
            names: "ANY 2 (standby_0, standby_1, standby_2)".to_owned(),
        });
        plan
    }

    /// A relay that is promoted, with a standby whose confirmation commits wait for; nothing else goes
    /// wrong but what a scenario adds.
    pub(crate) fn calm_promotion(seed: u64) -> Self {
        let mut plan = Self::calm(seed);
        let names = "ANY 1 (standby_0, standby_1)";
        plan.hubs[0].set_policy(names);
        plan.primary.total = 2 << 20;
        plan.faults_ns = 40 * SECOND;
        plan.fault_pause_ns = (5 * MS, 500 * MS);
        plan.promoted = Some(OwnPlan {
            clients: 5,
            think_ns: (10_000, 100 * MS),
            total: 1 << 20,
            content_max: 20_000,
            one_size: false,
            levels: vec![
                None,
                Some(WaitLevel::LocalFlush),
                Some(WaitLevel::Standbys(WaitMode::Write)),
                Some(WaitLevel::Standbys(WaitMode::Flush)),
            ],
            cancel: 0,
            requests: 10,
            names: names.to_owned(),
        });
        plan
    }

    /// Nothing goes wrong but what a scenario adds.
    pub(crate) fn calm(seed: u64) -> Self {
        let mut plan = Self::of_seed(seed);
        let mut rng = Rng::new(seed, "calm");
        let base = settings(&mut rng, false);
        plan.hubs = vec![hub(&mut rng, &base, None)];
        plan.disks = vec![DiskFaults::default()];
        plan.standbys = (0..2).map(|_| standby(&mut rng, 1)).collect();
        plan.segment_size = SegmentSize::MIN;
        plan.record_len_max = 200_000;
        plan.sleepy = 0;
        plan.faults = Vec::new();
        plan.primary.total = 5 << 20;
        plan.own = None;
        plan.promoted = None;
        plan.restore = None;
        plan.prompt_ns = None;
        plan
    }
}

/// Gives some hubs a policy that everyone together can fulfil.
fn policies(rng: &mut Rng, hubs: &mut [HubPlan], standbys: &[StandbyPlan]) {
    for number in 0..hubs.len() {
        let behind = standbys.iter().enumerate().filter(|(_, standby)| standby.hub == number);
        let mut names: Vec<String> = behind.map(|(index, _)| format!("standby_{index}")).collect();
        let hubs_behind = hubs.iter().enumerate().filter(|(_, hub)| hub.upstream == Some(number));
        names.extend(hubs_behind.map(|(index, _)| format!("hub_{index}")));
        if names.is_empty() || !rng.chance(300) {
            continue;
        }
        let count = rng.range(1, crate::rng::bytes(names.len()));
        let method = rng.pick(&["FIRST", "ANY"]);
        hubs[number].set_policy(&format!("{method} {count} ({})", names.join(", ")));
    }
}

impl HubPlan {
    /// Sets `synchronous_standby_names`.
    pub(crate) fn set_policy(&mut self, names: &str) {
        let mut settings = (*self.settings).clone();
        settings.synchronous_standby_names = SyncRepConfig::parse(names).expect("a list");
        self.settings = Arc::new(settings);
    }
}

fn hub(rng: &mut Rng, base: &HubSettings, upstream: Option<usize>) -> HubPlan {
    let mut settings = base.clone();
    if upstream.is_some() || rng.chance(500) {
        settings.primary_slot_name = Some(format!("hub_{}", rng.below(1 << 30)));
        settings.primary_slot_create = true;
    }
    if rng.chance(200) {
        settings.hot_standby_feedback = true;
    }
    HubPlan {
        upstream,
        own: None,
        cores: crate::rng::size(rng.range(1, 3)),
        catchup_cores: 0,
        direct: rng.chance(750),
        durable_write: rng.chance(500),
        settings: Arc::new(settings),
        max_wal_size: MAX_WAL_SIZE,
        preempt: 0,
    }
}

fn disk(rng: &mut Rng) -> DiskFaults {
    DiskFaults {
        short_write: rng.pick(&[0, 0, 20, 200]),
        short_read: rng.pick(&[0, 0, 20, 200]),
        slow: rng.pick(&[0, 0, 2, 20]),
        full_blocks_all: rng.chance(300),
        errors: 0,
        lies: false,
        rots: false,
        ns_per_kib: 0,
    }
}

fn standby(rng: &mut Rng, hubs: usize) -> StandbyPlan {
    StandbyPlan {
        hub: crate::rng::size(rng.below(crate::rng::bytes(hubs))),
        slot: rng.chance(400),
        flush_ns: (50_000, rng.log_range(1, 500) * MS),
        whole_segments: rng.chance(500),
        status_interval: Some(Duration::from_millis(rng.log_range(200, 5_000))),
        timeout: Some(Duration::from_millis(rng.log_range(2_000, 20_000))),
        retry_ns: rng.log_range(10, 2_000) * MS,
        apply_ns: None,
        lies: false,
    }
}

fn primary(rng: &mut Rng, total: u64) -> PrimaryPlan {
    PrimaryPlan {
        pause_ns: (100_000, rng.log_range(1, 500) * MS),
        burst: (100, rng.log_range(1 << 10, 1 << 20)),
        total,
        switch: rng.pick(&[0, 2, 20]),
        message_bytes_max: rng.log_range(8 << 10, 256 << 10),
        timeout: Some(Duration::from_millis(rng.log_range(2_000, 20_000))),
        flip: 0,
    }
}

fn network(rng: &mut Rng) -> NetShape {
    NetShape {
        latency_ns: (20_000, rng.log_range(40_000, 10 * MS)),
        ns_per_kib: (100, rng.log_range(200, 20_000)),
        window: (rng.pick(&[20_000, 100_000]), rng.log_range(128 << 10, 4 << 20)),
        short: rng.pick(&[0, 10, 100, 400]),
    }
}

fn faults(rng: &mut Rng) -> Vec<(Fault, u64)> {
    let all = [
        Fault::HubPower,
        Fault::HubPower,
        Fault::HubKill,
        Fault::HubStop,
        Fault::HubDiskFull,
        Fault::Reset,
        Fault::Partition,
        Fault::Stall,
        Fault::StandbyDies,
        Fault::PrimaryRestart,
        Fault::Failover,
        Fault::TimelineSwitch,
    ];
    // A swarm: each run has its own faults in its own proportions.
    let mut chosen = Vec::new();
    for fault in all {
        if rng.chance(500) {
            let rare =
                matches!(fault, Fault::Failover | Fault::TimelineSwitch | Fault::PrimaryRestart);
            chosen.push((fault, rng.range(1, if rare { 3 } else { 10 })));
        }
    }
    chosen
}
