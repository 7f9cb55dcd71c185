//! One run: all machines, the faults, and the checkers that stand outside the hub.
//!
//! 1. No position that a hub published or acknowledged as flushed is ever lost: after each crash the
//!    recovered end is not before it, and `pg_wal` holds the primary's bytes.
//! 2. Every byte that a standby receives is the primary's, durable there, on the right timeline.
//! 3. No segment that a slot's standby can still ask for is removed.
//! 4. Published positions never go back in one life, and flush <= write <= received.
//! 5. What a hub with a policy told the primary is on as many standbys as the policy asks for.
//! 6. Of a hub with WAL of its own: what it calls durable is valid WAL, of what was asked for and nothing
//!    else, no transaction id twice; a session that is told "committed" at a level finds its records
//!    wherever that level promised them, and every session is told something.
//! 7. Where nothing is slow or goes wrong ([`Plan::prompt_ns`]), nobody waits: WAL is received, told and
//!    answered within bounded time.
//! 8. Once faults stop, all hubs and standbys reach the primary's end within bounded time.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use walhub_engine::io::Fs as _;
use walhub_hub::api::hub::Hub as _;
use walhub_hub::store::recover::CONTROL_FILE;
use walhub_proto::history::TimelineHistory;
use walhub_proto::lsn::{Lsn, LsnRange, TimelineId};
use walhub_proto::segment::SegNo;

use crate::clients::Clients;
use crate::disk::{Disk, SimFs};
use crate::hub::{Ask, DATA_DIR, HubMachine};
use crate::io::finish_disk;
use crate::net::{Net, Owner, SimConn};
use crate::plan::{Fault, Plan};
use crate::primary::Primary;
use crate::promptness::Promptness;
use crate::restore::Restore;
use crate::rng::Rng;
use crate::source::Source;
use crate::standby::{Standby, Want};
use crate::world::{Actor, Event, Shared, World};

const SECOND: u64 = 1_000_000_000;
/// More events than any run has: a core that never sleeps would make as many.
const EVENTS_MAX: u64 = 3_000_000;
const STANDBY_MACHINES: usize = 100;
/// How far before the end the bit is that rots: durable for a while, and read at a start.
const ROT_BYTES_BACK: u64 = 32 << 10;

fn hub_machine(hub: usize) -> usize {
    1 + hub
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) events: u64,
    pub(crate) virtual_ns: u64,
    pub(crate) wal_bytes: u64,
    pub(crate) standby_bytes: u64,
    pub(crate) power_losses: u64,
    pub(crate) kills: u64,
    pub(crate) stops: u64,
    pub(crate) timelines: u64,
    pub(crate) removed: u64,
    /// Standbys that were made anew because they had WAL that was abandoned.
    pub(crate) rebuilt: u64,
    pub(crate) segments_gone: u64,
    pub(crate) flipped: u64,
    /// Positions told with a policy.
    pub(crate) promises: u64,
    pub(crate) commits: u64,
    /// Sessions that went from one core to another.
    pub(crate) moves: u64,
    /// Sends from memory of the tail that ended.
    pub(crate) released: u64,
    /// WAL that was received where it belongs, in bytes.
    pub(crate) landed: u64,
    /// The longest time for which a hub took no WAL though there was some.
    pub(crate) stalled_ns: u64,
    /// From the first word of a promotion to the first commit.
    pub(crate) first_commit_ns: u64,
    /// Processes that ended themselves because their disk failed.
    pub(crate) fatals: u64,
    /// Times that cores ran inside another one's turn.
    pub(crate) preempted: u64,
}

impl Stats {
    /// Its numbers, in the order of the fields.
    pub(crate) fn numbers(&self) -> [u64; 21] {
        [
            self.events,
            self.virtual_ns,
            self.wal_bytes,
            self.standby_bytes,
            self.power_losses,
            self.kills,
            self.stops,
            self.timelines,
            self.removed,
            self.rebuilt,
            self.segments_gone,
            self.flipped,
            self.promises,
            self.commits,
            self.moves,
            self.released,
            self.landed,
            self.stalled_ns,
            self.first_commit_ns,
            self.fatals,
            self.preempted,
        ]
    }

    /// From the words that another process wrote of [`Stats::numbers`].
    pub(crate) fn of_numbers(text: &str) -> Self {
        let mut numbers = text.split(' ').map(|word| word.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Self {
            events: next(),
            virtual_ns: next(),
            wal_bytes: next(),
            standby_bytes: next(),
            power_losses: next(),
            kills: next(),
            stops: next(),
            timelines: next(),
            removed: next(),
            rebuilt: next(),
            segments_gone: next(),
            flipped: next(),
            promises: next(),
            commits: next(),
            moves: next(),
            released: next(),
            landed: next(),
            stalled_ns: next(),
            first_commit_ns: next(),
            fatals: next(),
            preempted: next(),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let sums: Vec<String> =
            self.numbers().iter().zip(other.numbers()).map(|(a, b)| (a + b).to_string()).collect();
        *self = Self::of_numbers(&sums.join(" "));
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        format!(
            "{} MB of WAL made, {} MB received in place, {} MB received by standbys, {:.1} hours of virtual time, {} events: {} power losses, {} kills, \
             {} stops, {} timelines, {} segments gone, {} fresh starts, {} rebuilt, {} replies with a policy, {} commits, {} sends without a copy, {} ends by a failed disk, {} turns inside turns",
            self.wal_bytes >> 20,
            self.landed >> 20,
            self.standby_bytes >> 20,
            seconds(self.virtual_ns) / 3600.0,
            self.events,
            self.power_losses,
            self.kills,
            self.stops,
            self.timelines,
            self.segments_gone,
            self.removed,
            self.rebuilt,
            self.promises,
            self.commits,
            self.released,
            self.fatals,
            self.preempted
        )
    }
}

/// How a hub's process will end at its next dead operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Death {
    Power,
    Kill,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Faults,
    /// Faults have stopped; until this time all must be well.
    Quiet(u64),
    /// All hubs were asked to stop.
    Stopping(u64),
    Done,
}

/// How far the promotion of the first hub has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Promotion {
    /// There is none, or not yet.
    None,
    /// The primary has made its last checkpoint, up to there.
    Checkpointed(Lsn),
    /// The primary is gone, and the hub is asked again and again.
    Asked,
    Done,
}

/// One run.
pub(crate) struct Sim {
    plan: Plan,
    world: Shared,
    primary: Primary,
    /// Sessions of the first hub, when it has WAL of its own.
    clients: Option<Clients>,
    promotion: Promotion,
    restore: Restore,
    /// When it was first asked for.
    promotion_at: Option<u64>,
    hubs: Vec<HubMachine>,
    deaths: Vec<Death>,
    down_until: Vec<u64>,
    standbys: Vec<Standby>,
    chaos: Rng,
    stage: Stage,
    stats: Stats,
    promptness: Promptness,
}

impl Sim {
    pub(crate) fn new(plan: Plan) -> Self {
        let seed = plan.seed;
        let rng = |salt: &str| Rng::new(seed, salt);
        let mut net = Net::new(rng("network"), plan.net.clone());
        net.damage = plan.damage;
        let world = World::new(seed, net);
        world.borrow_mut().sleepy = plan.sleepy;
        let source = match &plan.own {
            Some(_) => Source::of_hub(plan.segment_size, plan.major),
            None => {
                Source::new(rng("workload"), plan.segment_size, plan.major, plan.record_len_max)
            }
        };
        let mut source = source;
        source.short_records = plan.short_records;
        let clients = plan.own.clone().map(|own| Clients::new(own, seed, plan.segment_size));
        let primary = Primary::new(source, plan.primary.clone(), rng("primary"));
        let hubs: Vec<HubMachine> = plan
            .hubs
            .iter()
            .zip(&plan.disks)
            .enumerate()
            .map(|(number, (hub, faults))| {
                let disk = Disk::new(rng(&format!("disk {number}")), faults.clone());
                let fs = SimFs(std::sync::Arc::new(std::sync::Mutex::new(disk)));
                HubMachine::new(number, hub.clone(), fs)
            })
            .collect();
        let standbys = plan
            .standbys
            .iter()
            .enumerate()
            .map(|(number, standby)| {
                Standby::new(number, standby.clone(), rng(&format!("standby {number}")))
            })
            .collect();
        Self {
            promotion: Promotion::None,
            restore: plan.restore.map_or(Restore::None, Restore::Planned),
            promotion_at: None,
            deaths: vec![Death::Power; hubs.len()],
            down_until: vec![0; hubs.len()],
            chaos: rng("crash"),
            stage: Stage::Faults,
            stats: Stats::default(),
            promptness: Promptness::new(plan.prompt_ns, plan.standbys.len(), plan.hubs.len()),
            plan,
            world,
            primary,
            clients,
            hubs,
            standbys,
        }
    }

    /// Runs to the end; the error says what a checker found.
    pub(crate) fn run(mut self) -> Result<Stats, String> {
        let result = self.run_to_end();
        let now = self.world.borrow().now;
        result.map_err(|reason| {
            format!("{reason} (at {:.6} s, {} events)", seconds(now), self.stats.events)
        })?;
        self.stats.virtual_ns = now;
        self.stats.wal_bytes = self
            .primary
            .source
            .timelines
            .iter()
            .map(|timeline| timeline.end() - timeline.begin)
            .sum();
        self.stats.standby_bytes = self.standbys.iter().map(|standby| standby.bytes).sum();
        self.stats.removed = self.standbys.iter().map(|standby| standby.removed).sum();
        self.stats.rebuilt = self.standbys.iter().map(|standby| standby.rebuilt).sum();
        self.stats.timelines = crate::rng::bytes(self.primary.source.timelines.len());
        self.stats.flipped = self.primary.flipped;
        self.stats.commits = self.clients.as_ref().map_or(0, |clients| clients.answered);
        self.stats.released = self.world.borrow().net.released;
        self.stats.landed = self.world.borrow().net.landed;
        self.stats.stalled_ns = self.primary.stalled_ns;
        self.stats.preempted = self.hubs.iter().map(|hub| hub.preempted).sum();
        self.stats.moves = self.hubs.iter().map(HubMachine::moves).sum();
        Ok(self.stats)
    }

    fn run_to_end(&mut self) -> Result<(), String> {
        for hub in 0..self.hubs.len() {
            self.start_hub(hub)?;
        }
        {
            let mut world = self.world.borrow_mut();
            match &self.clients {
                None => world.after(0, Event::Wake(Actor::Primary, None)),
                Some(clients) => {
                    for client in 0..clients.plan.clients {
                        world.after(1_000_000, Event::Wake(Actor::Client(client), None));
                    }
                }
            }
            world.after(0, Event::Wake(Actor::Chaos, None));
            for standby in 0..self.standbys.len() {
                world.after(1_000_000, Event::Wake(Actor::Standby(standby), None));
            }
        }
        while self.stage != Stage::Done {
            let event = self.world.borrow_mut().next().ok_or("nothing is left to happen")?;
            self.stats.events += 1;
            if self.stats.events > EVENTS_MAX {
                return Err(format!(
                    "more than {EVENTS_MAX} events: somebody does not sleep; now {event:?}"
                ));
            }
            self.step(event)?;
        }
        for hub in 0..self.hubs.len() {
            self.check_wal(hub)?;
        }
        Ok(())
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Run(key) => {
                self.hubs[key.hub].run(&self.world, key)?;
                self.after_hub(key.hub)
            }
            Event::Disk(key, token, op) => {
                finish_disk(&mut self.world.borrow_mut(), key, token, op);
                self.check_gone(key.hub)
            }
            Event::Complete(key, completion) => {
                let mut world = self.world.borrow_mut();
                world.net.released += 1;
                world.complete(key, completion);
                Ok(())
            }
            Event::Arrive(end) => {
                let mut world = self.world.borrow_mut();
                let now = world.now;
                world.net.arrive(now, end);
                Ok(())
            }
            Event::Wake(Actor::Primary, end) => {
                let world = Rc::clone(&self.world);
                self.primary.wake(&mut world.borrow_mut(), end)?;
                self.promptness.made(world.borrow().now, self.primary.source.durable_end());
                let told = std::mem::take(&mut self.primary.told);
                for &(hub, _, lsn) in &told {
                    self.promptness.told(world.borrow().now, hub, lsn)?;
                }
                told.into_iter().try_for_each(|told| self.check_told(told))
            }
            Event::Wake(Actor::Control(hub), Some(end)) => {
                let world = Rc::clone(&self.world);
                self.hubs[hub].serve(&mut world.borrow_mut(), end);
                Ok(())
            }
            Event::Wake(Actor::Control(hub), None) => {
                if self.hubs[hub].life.is_none() && self.world.borrow().now >= self.down_until[hub]
                {
                    self.start_hub(hub)?;
                }
                Ok(())
            }
            Event::Wake(Actor::Standby(number), end) => {
                let world = Rc::clone(&self.world);
                let want =
                    self.standbys[number].wake(&mut world.borrow_mut(), end, &self.primary)?;
                if self.plan.loses_tail && matches!(self.promotion, Promotion::Checkpointed(_)) {
                    self.lose_primary();
                }
                let received = self.standbys[number].received();
                self.promptness.received(world.borrow().now, number, received)?;
                if want == Want::Connect {
                    self.connect_standby(number);
                }
                Ok(())
            }
            Event::Wake(Actor::Client(number), _) => {
                let world = Rc::clone(&self.world);
                if let Some(clients) = &mut self.clients {
                    clients.wake(&mut world.borrow_mut(), number, &self.hubs[0]);
                }
                // Some are answered at once.
                self.take_answers()
            }
            Event::Wake(Actor::Chaos, _) => self.direct(),
        }
    }

    /// What a hub told is so on the standbys that its policy asks for.
    fn check_told(&mut self, (hub, tli, lsn): (usize, TimelineId, Lsn)) -> Result<(), String> {
        if lsn.is_valid() && !self.is_promised(hub, tli, lsn) {
            let policy = &self.plan.hubs[hub].settings.synchronous_standby_names;
            let standbys: Vec<_> = self.standbys.iter().map(|standby| standby.confirmed).collect();
            return Err(format!(
                "hub {hub} told {lsn} of timeline {tli} with the policy {policy:?}, but the standbys have {standbys:?}"
            ));
        }
        self.stats.promises += u64::from(
            lsn.is_valid() && self.plan.hubs[hub].settings.synchronous_standby_names.is_some(),
        );
        Ok(())
    }

    /// Whether a hub has a position, and its policy is fulfilled with it.
    fn is_promised(&self, hub: usize, tli: TimelineId, lsn: Lsn) -> bool {
        if self.hubs[hub].claimed < lsn {
            return false;
        }
        let Some(policy) = &self.plan.hubs[hub].settings.synchronous_standby_names else {
            return true;
        };
        let named = |name: String| policy.priority(&name) > 0;
        // A position is on an older timeline too when it is before its end.
        let switchpoint = |of| self.primary.source.history.switchpoint(of);
        let has = |(of, end): (TimelineId, Lsn)| {
            end >= lsn && (of >= tli || switchpoint(of).is_some_and(|(last, _)| last >= lsn))
        };
        let standbys = self.standbys.iter().filter(|standby| {
            standby.plan.hub == hub
                && named(format!("standby_{}", standby.number))
                && standby.confirmed.is_some_and(has)
        });
        // A session whose end nobody has seen yet counts beside the standby's new one, as in PostgreSQL: the
        // documentation of synchronous_standby_names asks for unique names, and nothing enforces them.
        let votes = |number: usize| self.hubs[hub].connections(&format!("standby_{number}")).max(1);
        let votes: usize = standbys.map(|standby| votes(standby.number)).sum();
        let hubs = self.hubs.iter().filter(|other| {
            other.plan.upstream == Some(hub)
                && named(format!("hub_{}", other.number))
                && self.is_promised(other.number, tli, lsn)
        });
        let wanted = policy.num_sync + usize::from(self.plan.promises_are_too_much);
        votes + hubs.count() >= wanted
    }

    /// After a core ran: a death, requests, answers.
    fn after_hub(&mut self, hub: usize) -> Result<(), String> {
        if self.hubs[hub].fs.disk().dead {
            if std::mem::take(&mut self.hubs[hub].fatal) {
                self.stats.fatals += 1;
                self.deaths[hub] = Death::Kill;
            }
            return self.bury(hub);
        }
        self.follow(hub)?;
        self.check_gone(hub)?;
        for ask in self.hubs[hub].asks()? {
            match ask {
                Ask::Connect => self.connect_hub(hub),
                Ask::Stopped => {
                    self.stats.stops += 1;
                    self.deaths[hub] = Death::Kill;
                    return self.bury(hub);
                }
            }
        }
        let world = Rc::clone(&self.world);
        self.hubs[hub].poll_control(&mut world.borrow_mut());
        self.take_answers()
    }

    /// The first hub has become a primary: its WAL is the truth from where its timeline begins.
    fn follow_promotion(&mut self) -> Result<(), String> {
        let machine = &self.hubs[0];
        let (Some(plan), Some(life)) = (&self.plan.promoted, &machine.life) else { return Ok(()) };
        // What a process does between its death and the end of its turn, nobody sees.
        let is_dead = machine.fs.disk().dead;
        let is_primary = !life.front.in_recovery();
        if is_dead || !is_primary || self.promotion == Promotion::Done {
            return Ok(());
        }
        if self.promotion != Promotion::Asked {
            return Err("a hub was promoted that nobody asked".to_owned());
        }
        let tli = TimelineId::new(life.front.shared().timeline.load(Ordering::Acquire))
            .expect("a timeline");
        let name = walhub_proto::history::file_name(tli);
        let path = machine.wal_dir().join(name);
        // The checker's own look does not fail.
        let content = machine.fs.disk().content(&path).map(<[u8]>::to_vec);
        let content = content.ok_or("a timeline without history")?;
        let history = TimelineHistory::parse(content, tli).map_err(|error| error.to_string())?;
        let begin = history.entry(tli).map(|entry| entry.begin).unwrap_or_default();
        if begin < machine.flushed.min(self.primary.source.current().end()) {
            let flushed = machine.flushed;
            return Err(format!("timeline {tli} begins at {begin}, and {flushed} was durable"));
        }
        let last_record = self.primary.source.hub_promoted(tli, begin);
        let (seed, size) = (self.plan.seed, self.plan.segment_size);
        let clients = Clients::of_promoted(plan.clone(), seed, size, tli, (begin, last_record));
        let mut world = self.world.borrow_mut();
        for client in 0..clients.plan.clients {
            world.after(1_000_000, Event::Wake(Actor::Client(client), None));
        }
        self.clients = Some(clients);
        self.promotion = Promotion::Done;
        Ok(())
    }

    /// The primary is lost, once the hub has its last checkpoint, and the hub is promoted.
    fn lose_primary(&mut self) {
        if self.plan.promoted.is_none() {
            return;
        }
        let world = Rc::clone(&self.world);
        let world = &mut *world.borrow_mut();
        match self.promotion {
            // A hub that begins after it does not know what it says.
            Promotion::None
                if world.now * 3 > self.plan.faults_ns && self.hubs[0].flushed.is_valid() =>
            {
                self.primary.source.checkpoint();
                let end = self.primary.source.current().end();
                self.promotion = Promotion::Checkpointed(end);
            }
            Promotion::Checkpointed(end)
                if self.hubs[0].flushed >= end
                    && self.hubs[0].timeline() == Some(self.primary.source.current().tli)
                    && (!self.plan.loses_tail || self.is_standby_ahead()) =>
            {
                if self.plan.loses_tail {
                    self.deaths[0] = Death::Power;
                    self.hubs[0].die_soon();
                }
                self.primary.restart(world, SECOND, false);
                self.primary.down_until = u64::MAX;
                self.promotion = Promotion::Asked;
            }
            Promotion::Asked => {
                self.promotion_at.get_or_insert(world.now);
                self.hubs[0].wait_for_nothing();
                // In between it may die, and lose what its standbys have.
                if self.chaos.chance(300) || self.stage != Stage::Faults {
                    self.hubs[0].promote();
                }
            }
            Promotion::None | Promotion::Checkpointed(_) | Promotion::Done => {}
        }
    }

    /// Whether a standby has made durable what the hub has not.
    fn is_standby_ahead(&self) -> bool {
        let claimed = self.hubs[0].claimed;
        self.standbys.iter().any(|standby| standby.flushed.is_some_and(|(_, lsn)| lsn > claimed))
    }

    /// What a hub with WAL of its own has called durable is the truth.
    fn follow(&mut self, hub: usize) -> Result<(), String> {
        if hub == 0 {
            self.follow_promotion()?;
        }
        let machine = &self.hubs[hub];
        let is_own = machine.plan.own.is_some() || hub == 0 && self.promotion == Promotion::Done;
        let (Some(clients), Some(life), true) = (&mut self.clients, &machine.life, is_own) else {
            return Ok(());
        };
        let timeline = self.primary.source.current().tli;
        let (end, size) = (life.front.shared().flush_lsn.load(), self.plan.segment_size);
        let mut from = self.primary.source.current().end();
        while from < end {
            let segno = SegNo::of_start(from, size);
            let to = end.min(segno.end(size));
            let path = machine.wal_dir().join(segno.file_name(timeline, size));
            let disk = machine.fs.disk();
            let offset = crate::rng::size(size.offset(from));
            let wal = disk.content(&path).unwrap_or_default();
            let wal = wal.get(offset..offset + crate::rng::size(to - from));
            let wal = wal.ok_or_else(|| format!("hub {hub}: {path:?} does not reach {to}"))?;
            clients.found(wal)?;
            self.primary.source.extend(wal);
            from = to;
        }
        self.promptness.made(self.world.borrow().now, from);
        Ok(())
    }

    /// Sessions look at their answers.
    fn take_answers(&mut self) -> Result<(), String> {
        let Some(clients) = &mut self.clients else { return Ok(()) };
        let named = clients.plan.sync().map(|sync| sync.members).unwrap_or_default();
        let (standbys, source) = (&self.standbys, &self.primary.source);
        let hub = &self.hubs[0];
        let reached = |mode, lsn| {
            let direct = standbys.iter().filter(|standby| standby.plan.hub == 0);
            let there = direct.filter(|standby| standby.has(source, mode, lsn));
            let names = there.map(|standby| format!("standby_{}", standby.number));
            let named = names.filter(|name| named.contains(name));
            named.map(|name| hub.connections(&name).max(1)).sum()
        };
        let life = self.hubs[0].life.as_ref().map(|life| life.number);
        let durable = self.primary.source.current().end();
        let mut world = self.world.borrow_mut();
        clients.take_answers(&mut world, life, durable, &reached)?;
        if let (Some(at), true, 0) =
            (self.promotion_at, clients.answered > 0, self.stats.first_commit_ns)
        {
            self.stats.first_commit_ns = world.now - at;
        }
        self.promptness.answered(clients.slowest)
    }

    fn bury(&mut self, hub: usize) -> Result<(), String> {
        // What it called durable in its last moment is so.
        self.follow(hub)?;
        self.forget(hub)
    }

    /// Ends a hub's life.
    fn forget(&mut self, hub: usize) -> Result<(), String> {
        let mut world = self.world.borrow_mut();
        world.settle();
        self.hubs[hub].drop_life(&mut world);
        let power = self.deaths[hub] == Death::Power;
        let now = world.now;
        world.net.vanish(now, hub_machine(hub), power && self.chaos.chance(500));
        world.settle();
        if power {
            self.stats.power_losses += 1;
            self.hubs[hub].fs.disk().crash();
        } else {
            self.stats.kills += 1;
            self.hubs[hub].fs.disk().kill();
        }
        if hub == 0 {
            self.restore.handle_death(&self.hubs[0].fs, now);
        }
        self.rot(hub);
        self.down_until[hub] = now + self.chaos.log_range(SECOND / 100, 5 * SECOND);
        world.at(self.down_until[hub], Event::Wake(Actor::Control(hub), None));
        drop(world);
        self.take_answers()
    }

    /// Damages WAL some way before the end of what is durable, if the hub's disk is such a one.
    fn rot(&self, hub: usize) {
        let (claimed, size) = (self.hubs[hub].claimed, self.plan.segment_size);
        let begun = size.offset(claimed);
        if self.hubs[hub].fs.disk().faults.rots && begun > 2 * ROT_BYTES_BACK {
            let name = SegNo::of_start(claimed, size).file_name(TimelineId::FIRST, size);
            let path = self.hubs[hub].wal_dir().join(name);
            self.hubs[hub].fs.disk().rot(&path, begun - ROT_BYTES_BACK);
        }
    }

    fn start_hub(&mut self, hub: usize) -> Result<(), String> {
        if matches!(self.stage, Stage::Stopping(_)) {
            return Ok(());
        }
        {
            let mut world = self.world.borrow_mut();
            let now = world.now;
            world.net.refuse_old(now, hub_machine(hub));
        }
        let is_restored = hub == 0 && matches!(self.restore, Restore::Back);
        if is_restored {
            self.hubs[hub].forget_published();
        }
        self.hubs[hub].fs.disk().failed = 0;
        let mut started = self.hubs[hub].start(&self.world);
        // A hub that cannot start for want of room is started again once there is some.
        if started.is_err() && std::mem::take(&mut self.hubs[hub].fs.disk().full) {
            started = self.hubs[hub].start(&self.world);
        }
        // Neither can one whose disk fails; somebody starts it again.
        let failed = self.hubs[hub].fs.disk().failed > 0;
        if failed && started.as_ref().is_err_and(|error| error.contains("cannot start")) {
            let mut world = self.world.borrow_mut();
            self.down_until[hub] = world.now + SECOND / 10;
            world.at(self.down_until[hub], Event::Wake(Actor::Control(hub), None));
            return Ok(());
        }
        let end = started?;
        if self.hubs[hub].fs.disk().dead {
            // In the middle of its start: what it then called durable was never flushed, and nobody heard.
            return self.forget(hub);
        }
        if is_restored {
            self.restore = Restore::None;
            self.note_restored(end.unwrap_or_default())?;
        }
        let flushed = self.hubs[hub].flushed;
        let acknowledged = self.primary.acknowledged.get(&hub).copied().unwrap_or_default();
        let end = end.unwrap_or_default();
        if end < flushed {
            let life = self.hubs[hub].life.as_ref();
            let timeline = life
                .and_then(|life| life.front.shared().positions())
                .map(|positions| positions.timeline);
            let files = self.hubs[hub].fs.list(&self.hubs[hub].wal_dir()).unwrap_or_default();
            let files: Vec<String> = files.into_iter().map(|entry| entry.name).collect();
            return Err(format!(
                "hub {hub} recovered to {end}, but had published flush {flushed}; timeline {timeline:?}, files {files:?}"
            ));
        }
        if end < acknowledged {
            return Err(format!(
                "hub {hub} recovered to {end}, but had acknowledged flush {acknowledged}"
            ));
        }
        self.follow(hub)?;
        if let Some(clients) = self.clients.as_mut().filter(|_| hub == 0) {
            clients.lose_unfound();
        }
        self.check_wal(hub)
    }

    /// The first hub has come back in an earlier state, which ends at `end`: what came after is no more.
    fn note_restored(&mut self, end: Lsn) -> Result<(), String> {
        self.primary.source.forget_after(end);
        for standby in self.standbys.iter_mut().filter(|standby| standby.plan.hub == 0) {
            standby.note_abandoned(end);
        }
        let Some(clients) = &mut self.clients else { return Ok(()) };
        clients.forget_after(self.primary.source.current().bytes(), self.plan.segment_size)
    }

    /// What a hub has on disk is what the primary made.
    fn check_wal(&self, hub: usize) -> Result<(), String> {
        let machine = &self.hubs[hub];
        let limit = match &machine.life {
            Some(life) => life.front.shared().flush_lsn.load(),
            None => machine.flushed,
        };
        let (dir, size) = (machine.wal_dir(), self.plan.segment_size);
        let entries = machine.fs.list(&dir).unwrap_or_default();
        let disk = machine.fs.disk();
        for entry in entries {
            let Some((tli, segno)) = SegNo::parse_file_name(&entry.name, size) else { continue };
            let Some(timeline) = self.primary.source.timeline(tli) else { continue };
            let own_end =
                self.primary.source.history.switchpoint(tli).map_or(timeline.end(), |(lsn, _)| lsn);
            let start = segno.start(size).max(size.start_of(timeline.begin));
            let end = segno.end(size).min(limit).min(own_end);
            if start >= end {
                continue;
            }
            let range = LsnRange::new(start, end);
            let truth = timeline.get(range).expect("the truth is whole");
            let content = disk.content(&dir.join(&entry.name)).unwrap_or_default();
            let offset = crate::rng::size(size.offset(start));
            let got = content.get(offset..offset + truth.len()).unwrap_or_default();
            if got != truth {
                let at = truth.iter().zip(got).position(|(a, b)| a != b).unwrap_or(got.len());
                return Err(format!(
                    "hub {hub}: file {} differs from the primary's WAL at {}, durable up to {limit}",
                    entry.name,
                    start + crate::rng::bytes(at)
                ));
            }
        }
        Ok(())
    }

    /// Segments that went away were needed by nobody.
    fn check_gone(&mut self, hub: usize) -> Result<(), String> {
        let gone = std::mem::take(&mut self.hubs[hub].fs.disk().gone);
        let bounded = self.plan.hubs[hub].settings.max_slot_wal_keep_size.is_some();
        if gone.is_empty() || bounded && !self.plan.slots_are_sacred {
            return Ok(());
        }
        let Some(life) = &self.hubs[hub].life else { return Ok(()) };
        let (flush, size) = (life.front.shared().flush_lsn.load(), self.plan.segment_size);
        for path in gone {
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            let Some((tli, segno)) = SegNo::parse_file_name(&name, size) else { continue };
            // A spare file has a name in which its timeline has no WAL, and a promotion that a crash broke
            // off has left the first segment of a timeline that never was.
            let source = &self.primary.source;
            if !source.history.contains(tli) {
                continue;
            }
            let end = source.history.switchpoint(tli).map_or(flush, |(lsn, _)| lsn.min(flush));
            if segno.start(size) >= end {
                continue;
            }
            // A promotion keeps it under another name, and its WAL in the new timeline's.
            let partial = self.hubs[hub].wal_dir().join(format!("{name}.partial"));
            if self.hubs[hub].fs.disk().content(&partial).is_some() {
                continue;
            }
            self.stats.segments_gone += 1;
            let standbys =
                self.standbys.iter().filter(|standby| standby.plan.hub == hub && standby.has_slot);
            let standbys = standbys.filter_map(|standby| {
                Some((format!("standby {}", standby.number), standby.flushed?.1))
            });
            let hubs = self
                .hubs
                .iter()
                .filter(|other| other.plan.upstream == Some(hub) && other.flushed.is_valid());
            let hubs = hubs.map(|other| (format!("hub {}", other.number), other.flushed));
            for (who, needed) in standbys.chain(hubs) {
                if segno.end(size) > needed {
                    return Err(format!(
                        "hub {hub} removed segment {name}, but {who} has a slot and only {needed}"
                    ));
                }
            }
        }
        Ok(())
    }

    fn connect_hub(&mut self, hub: usize) {
        let upstream = self.plan.hubs[hub].upstream;
        let mut world = self.world.borrow_mut();
        let now = world.now;
        let (machine, owner, up) = match upstream {
            None => (0, Actor::Primary, now >= self.primary.down_until),
            Some(other) => {
                (hub_machine(other), Actor::Control(other), self.hubs[other].life.is_some())
            }
        };
        if !up || world.net.parted_until(hub_machine(hub), machine, now).is_some() {
            drop(world);
            return self.hubs[hub]
                .connected(Err("could not connect to the primary server".to_owned()));
        }
        let from = (Owner::Actor(Actor::Control(hub)), hub_machine(hub));
        let end = world.net.connect(from, (Owner::Actor(owner), machine));
        match upstream {
            None => self.primary.accept(end.other(), hub),
            Some(other) => self.hubs[other].accept(end.other(), &format!("hub_{hub}")),
        }
        self.hubs[hub].connected(Ok(SimConn::new(end, &world.net.dropped)));
    }

    fn connect_standby(&mut self, number: usize) {
        let hub = self.standbys[number].plan.hub;
        let machine = STANDBY_MACHINES + number;
        let mut world = self.world.borrow_mut();
        let now = world.now;
        let up = self.hubs[hub].life.is_some();
        if !up || world.net.parted_until(machine, hub_machine(hub), now).is_some() {
            let retry = self.standbys[number].plan.retry_ns;
            return self.standbys[number].disconnect(&mut world, false, retry);
        }
        let from = (Owner::Actor(Actor::Standby(number)), machine);
        let end = world.net.connect(from, (Owner::Actor(Actor::Control(hub)), hub_machine(hub)));
        self.hubs[hub].accept(end.other(), &format!("standby_{number}"));
        self.standbys[number].connected(&mut world, end, Some(self.plan.segment_size));
    }

    /// Makes faults, ends them, waits for all to be well.
    fn direct(&mut self) -> Result<(), String> {
        let now = self.world.borrow().now;
        self.lose_primary();
        if self.stage == Stage::Faults && self.restore.is_due(now) {
            self.deaths[0] = Death::Kill;
            self.hubs[0].die_soon();
        }
        let pause = match self.stage {
            Stage::Faults if now < self.plan.faults_ns => {
                self.fault();
                self.chaos.log_range(self.plan.fault_pause_ns.0, self.plan.fault_pause_ns.1)
            }
            Stage::Faults => {
                self.end_faults();
                self.stage = Stage::Quiet(now + self.plan.patience_ns);
                SECOND / 10
            }
            Stage::Quiet(until) => {
                match self.unwell() {
                    None if self.plan.stop_at_end => {
                        self.stage = Stage::Stopping(now + self.plan.patience_ns);
                        (0..self.hubs.len()).for_each(|hub| self.stop(hub));
                    }
                    None => self.stage = Stage::Done,
                    Some(why) if now > until => {
                        return Err(format!(
                            "no end within {} s: {why}",
                            self.plan.patience_ns / SECOND
                        ));
                    }
                    Some(_) => {}
                }
                SECOND / 4
            }
            Stage::Stopping(until) => {
                if self.hubs.iter().all(|hub| hub.life.is_none()) {
                    self.stage = Stage::Done;
                } else if now > until {
                    return Err("a hub that was asked to stop did not".to_owned());
                }
                SECOND / 4
            }
            Stage::Done => return Ok(()),
        };
        self.world.borrow_mut().after(pause, Event::Wake(Actor::Chaos, None));
        Ok(())
    }

    /// A fast shutdown begins.
    fn stop(&mut self, hub: usize) {
        self.hubs[hub].stop();
        if let Some(clients) = self.clients.as_mut().filter(|_| hub == 0) {
            clients.cancel_all(&self.hubs[0]);
        }
    }

    fn end_faults(&mut self) {
        let mut world = self.world.borrow_mut();
        world.net.heal();
        self.primary.quiet = true;
        if let Some(clients) = &mut self.clients {
            clients.quiet = true;
        }
        if self.primary.down_until != u64::MAX {
            self.primary.down_until = 0;
        }
        for hub in &self.hubs {
            let mut disk = hub.fs.disk();
            disk.full = false;
            disk.crash_in = None;
            disk.crash_at = None;
            disk.faults.slow = 0;
            disk.faults.errors = 0;
            drop(disk);
            hub.reload();
        }
    }

    /// Who has not reached the end yet.
    fn unwell(&self) -> Option<String> {
        if self.plan.promoted.is_some() && self.promotion != Promotion::Done {
            return Some(format!("the hub is not promoted: {:?}", self.promotion));
        }
        let current = self.primary.source.current();
        let (tli, end) = (current.tli, current.end());
        if let Some(waiting) = self.clients.as_ref().and_then(|clients| clients.waiting(end)) {
            return Some(waiting);
        }
        if current.flush_lsn != end {
            return Some("the primary has not flushed".to_owned());
        }
        for hub in &self.hubs {
            let Some(positions) =
                hub.life.as_ref().and_then(|life| life.front.shared().positions())
            else {
                return Some(format!("hub {} is down or has no WAL", hub.number));
            };
            if positions.flush_lsn != end || positions.timeline != tli {
                let state = hub
                    .life
                    .as_ref()
                    .map_or("down", |life| life.front.shared().receiver.state_name());
                return Some(format!(
                    "hub {} ({state}) is at {positions:?}, the primary at {end} on timeline {tli}",
                    hub.number
                ));
            }
        }
        for hub in
            self.hubs.iter().filter(|hub| hub.plan.upstream.is_none() && hub.plan.own.is_none())
        {
            if self.promotion == Promotion::Done {
                break;
            }
            let told = self.primary.acknowledged.get(&hub.number).copied().unwrap_or_default();
            if told != end {
                return Some(format!("hub {} has told {told}, and WAL ends at {end}", hub.number));
            }
        }
        let late = self.standbys.iter().find(|standby| standby.flushed != Some((tli, end)))?;
        Some(format!(
            "standby {} of hub {} is at {:?}, the primary at {end} on timeline {tli}; last error: {}; {}",
            late.number,
            late.plan.hub,
            late.flushed,
            late.last_error,
            late.describe(&self.world.borrow())
        ))
    }

    fn fault(&mut self) {
        let total: u64 = self.plan.faults.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return;
        }
        let mut at = self.chaos.below(total);
        let mut chosen = None;
        for &(fault, weight) in &self.plan.faults {
            if at < weight {
                chosen = Some(fault);
                break;
            }
            at -= weight;
        }
        let Some(fault) = chosen else { return };
        let world = Rc::clone(&self.world);
        self.make(&mut world.borrow_mut(), fault);
    }

    fn make(&mut self, world: &mut World, fault: Fault) {
        let now = world.now;
        let hub = crate::rng::size(self.chaos.below(crate::rng::bytes(self.hubs.len())));
        let standby = crate::rng::size(self.chaos.below(crate::rng::bytes(self.standbys.len())));
        let span = self.chaos.log_range(SECOND / 50, 10 * SECOND);
        match fault {
            Fault::PrimaryRestart | Fault::Failover | Fault::TimelineSwitch
                if self.primary.down_until == u64::MAX => {}
            Fault::HubPower | Fault::HubKill => {
                self.deaths[hub] =
                    if fault == Fault::HubPower { Death::Power } else { Death::Kill };
                // A hub that is down dies while it starts.
                let operations = self.chaos.log_range(1, 200) - 1;
                self.hubs[hub].fs.disk().crash_in = Some(operations);
            }
            Fault::HubPowerAtControl => {
                self.deaths[hub] = Death::Power;
                let path = std::path::Path::new(DATA_DIR).join(CONTROL_FILE);
                self.hubs[hub].fs.disk().crash_at = Some((path, 0));
            }
            Fault::HubCrashAtSlot => {
                self.deaths[hub] = self.chaos.pick(&[Death::Power, Death::Kill]);
                let dir = std::path::Path::new(DATA_DIR).join("slots");
                self.hubs[hub].fs.disk().crash_at = Some((dir, self.chaos.below(8)));
            }
            Fault::HubStop => self.stop(hub),
            Fault::HubDiskFull => {
                let full = !self.hubs[hub].fs.disk().full;
                // The control file of a new hub must find room, or the process ends.
                let known = self.hubs[hub]
                    .life
                    .as_ref()
                    .is_some_and(|life| life.front.identity().is_some());
                self.hubs[hub].fs.disk().full = full && known;
            }
            Fault::Reset => {
                let open = world.net.open();
                if !open.is_empty() {
                    let conn = self.chaos.pick(&open);
                    world.net.reset(now, conn);
                }
            }
            Fault::Partition => {
                let machine = hub_machine(hub);
                let upstream = self.plan.hubs[hub].upstream.map_or(0, hub_machine);
                let other =
                    if self.chaos.chance(500) { upstream } else { STANDBY_MACHINES + standby };
                world.net.partition(machine, other, now + span);
            }
            Fault::Stall => {
                if let Some(end) = self.standbys[standby].end() {
                    world.net.stall(end, now + span);
                }
            }
            Fault::StandbyDies => self.standbys[standby].die(world, span),
            Fault::PrimaryRestart => self.primary.restart(world, span, false),
            Fault::Failover => self.primary.restart(world, span, true),
            Fault::TimelineSwitch => self.primary.switch_timeline(world),
        }
    }
}

fn seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}
