//! A simulated machine that runs a hub: the production cores on simulated disk and network, and a
//! simulated control plane that connects, answers commands and hands connections over.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use walhub_engine::io::{Fs, Io as _};
use walhub_hub::api::hub::{Client, Hub as _, SlotRequest, SlotRow, StartStreaming, StreamEnd};
use walhub_hub::api::settings::HubSettings;
use walhub_hub::assemble::{Assembled, Assembly};
use walhub_hub::mail::{ConnectAnswer, StopMode, ToControl, Upstream};
use walhub_hub::publish::handle::{Clock, Handle};
use walhub_hub::store::recover::{NewCluster, Recovered, create_cluster, recover};
use walhub_hub::store::writer::FlushMethod;
use walhub_proto::command::Command;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::segment::SegNo;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::syncrep::WaitLevel;
use walhub_proto::time::Timestamp;
use walhub_proto::wire::backend::{Report, Severity};

use crate::answers::{self, Asked, Talk};
use crate::disk::SimFs;
use crate::io::SimIo;
use crate::net::{End, SimConn};
use crate::preempt::{Preemption, SharedCore, run_once};
use crate::rng::Rng;
use crate::world::{Actor, CoreKey, Event, World};

/// Where a hub's data directory is, on its own disk.
pub(crate) const DATA_DIR: &str = "/data";

/// How a hub is set up.
#[derive(Clone, Debug)]
pub(crate) struct HubPlan {
    /// The hub it streams from; `None` is the primary.
    pub(crate) upstream: Option<usize>,
    /// Begins as a primary of its own WAL.
    pub(crate) own: Option<NewCluster>,
    pub(crate) cores: usize,
    /// Further ones, for standbys that are behind.
    pub(crate) catchup_cores: usize,
    pub(crate) direct: bool,
    pub(crate) durable_write: bool,
    pub(crate) settings: Arc<HubSettings>,
    /// Bytes that connected standbys without a slot hold back at most.
    pub(crate) max_wal_size: u64,
    /// Loads of a published position before which another core has a turn, in cases of a thousand.
    pub(crate) preempt: u64,
}

type SlotAnswer = oneshot::Receiver<Result<Option<SlotRow>, Report>>;

/// What a downstream connection is doing.
#[derive(Debug)]
enum Phase {
    Talking,
    Streaming(oneshot::Receiver<StreamEnd<SimConn>>),
    Slot(String, SlotAnswer),
    /// The last words are on their way.
    Leaving,
}

#[derive(Debug)]
struct Downstream {
    talk: Talk,
    phase: Phase,
    client: Client,
    owns_temporary: bool,
}

/// One life of a hub process.
pub(crate) struct Life {
    pub(crate) number: u32,
    cores: Vec<SharedCore>,
    pub(crate) front: Handle<SimConn>,
    /// What the control plane's clock shows.
    clock: Arc<AtomicI64>,
    asks: Arc<Mutex<VecDeque<ToControl>>>,
    downstream: BTreeMap<End, Downstream>,
    next_pid: u32,
    /// Cores whose loop has ended.
    ended: BTreeSet<usize>,
}

/// What the hub wants of the world.
#[derive(Debug)]
pub(crate) enum Ask {
    Connect,
    Stopped,
}

/// A machine with a hub.
pub(crate) struct HubMachine {
    pub(crate) number: usize,
    pub(crate) plan: HubPlan,
    pub(crate) fs: SimFs,
    pub(crate) life: Option<Life>,
    live: u32,
    /// Highest flush position that any life published.
    pub(crate) flushed: Lsn,
    /// The same, with what a life published in the moment in which it died.
    pub(crate) claimed: Lsn,
    published: [Lsn; 3],
    /// Sessions that went from core to core in earlier live.
    moves: u64,
    /// Its process has ended itself.
    pub(crate) fatal: bool,
    preempt_rng: Rng,
    /// Times that cores ran inside another one's turn.
    pub(crate) preempted: u64,
}

/// What is thrown where a process would end.
struct Fatal(String);

/// Has a process that cannot go on end its hub's life only.
pub(crate) fn catch_fatal() {
    walhub_engine::fatal::set_fatal_hook(|reason, message| {
        resume_unwind(Box::new(Fatal(format!("{reason:?}: {message}"))))
    });
}

impl HubMachine {
    pub(crate) fn new(number: usize, plan: HubPlan, fs: SimFs) -> Self {
        let data = Path::new(DATA_DIR);
        // Nothing is wrong before the first start.
        let errors = std::mem::take(&mut fs.disk().faults.errors);
        for dir in [data.to_path_buf(), data.join("pg_wal"), data.join("slots")] {
            fs.create_dir(&dir).expect("a new disk");
        }
        if let Some(new) = &plan.own {
            create_cluster(&fs, data, new).expect("a new disk");
        }
        fs.disk().faults.errors = errors;
        Self {
            number,
            plan,
            fs,
            life: None,
            live: 0,
            flushed: Lsn::INVALID,
            claimed: Lsn::INVALID,
            published: [Lsn::INVALID; 3],
            moves: 0,
            fatal: false,
            preempt_rng: Rng::new(crate::rng::bytes(number), "preemption"),
            preempted: 0,
        }
    }

    /// Sessions that went from one core to another.
    pub(crate) fn moves(&self) -> u64 {
        let rows = self.life.iter().flat_map(|life| life.front.core_stats());
        self.moves + rows.map(|row| row.moved_in).sum::<u64>()
    }

    /// Connections that stream as `name`. Each counts, as in PostgreSQL: one of them may be of a standby
    /// that has gone and come again.
    pub(crate) fn connections(&self, name: &str) -> usize {
        let downstream = self.life.iter().flat_map(|life| life.downstream.values());
        let streams = |of: &&Downstream| {
            matches!(of.phase, Phase::Streaming(_)) && of.client.application_name == name
        };
        downstream.filter(streams).count()
    }

    pub(crate) fn wal_dir(&self) -> PathBuf {
        Path::new(DATA_DIR).join("pg_wal")
    }

    fn key(&self, core: usize) -> CoreKey {
        CoreKey { hub: self.number, life: self.live, core }
    }

    /// Starts the process on what the disk holds, as the daemon's `server` does.
    ///
    /// Returns the recovered end of WAL.
    pub(crate) fn start(&mut self, world: &crate::world::Shared) -> Result<Option<Lsn>, String> {
        let data = Path::new(DATA_DIR);
        let recovered = recover(&self.fs, data)
            .map_err(|error| format!("hub {} cannot start: {error}", self.number))?;
        let end = recovered.wal.as_ref().map(|wal| wal.end);
        self.check_slots(&recovered)?;
        self.live += 1;
        let ios: Vec<SimIo> = (0..self.plan.cores + self.plan.catchup_cores)
            .map(|core| SimIo::new(world, self.key(core), &self.fs))
            .collect();
        let asks = Arc::new(Mutex::new(VecDeque::new()));
        let asked = Arc::clone(&asks);
        let clock = Arc::new(AtomicI64::new(0));
        let told = Arc::clone(&clock);
        let method = if self.plan.durable_write {
            FlushMethod::DurableWrite
        } else if self.number.is_multiple_of(2) {
            FlushMethod::BySize
        } else {
            FlushMethod::WriteThenSync
        };
        let assembly = Assembly {
            data_dir: data.to_path_buf(),
            recovered,
            fs: Box::new(self.fs.clone()),
            clock: Clock(Box::new(move || Timestamp(told.load(Ordering::Relaxed)))),
            settings: Arc::clone(&self.plan.settings),
            wakers: ios.iter().map(SimIo::waker).collect(),
            catchup_cores: self.plan.catchup_cores,
            direct: self.plan.direct,
            method,
            max_wal_size: self.plan.max_wal_size,
            control: Box::new(move |ask| {
                asked.lock().expect("nobody panics with it").push_back(ask)
            }),
        };
        let Assembled { front, cores } = assembly.assemble();
        let begun = ios.into_iter().zip(cores).map(|(io, core)| {
            let core = core.begin(&io);
            Rc::new(RefCell::new((io, core)))
        });
        let cores: Vec<SharedCore> = begun.collect();
        for number in 0..cores.len() {
            world.borrow_mut().run_soon(self.key(number));
        }
        self.published = [Lsn::INVALID; 3];
        self.life = Some(Life {
            number: self.live,
            cores,
            front,
            clock,
            asks,
            downstream: BTreeMap::new(),
            next_pid: 1000 * self.live,
            ended: BTreeSet::new(),
        });
        Ok(end)
    }

    /// What the files of slots ask for is there.
    fn check_slots(&self, recovered: &Recovered) -> Result<(), String> {
        let Some(wal) = &recovered.wal else { return Ok(()) };
        for slot in &recovered.slots {
            let Some(lsn) = slot.restart_lsn.filter(|&lsn| lsn < wal.end) else { continue };
            let segno = SegNo::of_start(lsn, wal.timelines.segment_size);
            if !wal.held.contains_key(&segno) {
                return Err(format!(
                    "hub {} has the slot {} from {lsn} on, and its WAL only from {:?}",
                    self.number,
                    slot.name,
                    wal.held.keys().next()
                ));
            }
        }
        Ok(())
    }

    /// The process is gone, with everything in its memory.
    pub(crate) fn drop_life(&mut self, world: &mut World) {
        self.moves = self.moves();
        // Cores drop their sockets and mail; the machine's connections are dealt with by the caller.
        self.life = None;
        world.net.dropped.lock().expect("nobody panics with it").clear();
        let number = self.number;
        world.cores.retain(|key, _| key.hub != number);
    }

    /// Runs one core once, as [`Core::run`] does.
    pub(crate) fn run(&mut self, world: &crate::world::Shared, key: CoreKey) -> Result<(), String> {
        {
            let mut world = world.borrow_mut();
            let time = world.now;
            let Some(state) = world.cores.get_mut(&key) else { return Ok(()) };
            if state.scheduled.is_some_and(|at| at <= time) {
                state.scheduled = None;
            }
        }
        let Some(life) = &mut self.life else { return Ok(()) };
        if life.number != key.life || life.ended.contains(&key.core) {
            return Ok(());
        }
        let core = Rc::clone(&life.cores[key.core]);
        let shared = life.front.shared();
        let mut claimed = self.claimed;
        let turn = || {
            let (io, core) = &mut *core.borrow_mut();
            let look = || claimed = claimed.max(shared.flush_lsn.load());
            run_once(io, core, look)
        };
        let rng = self.preempt_rng.clone();
        let preemption =
            Preemption::new(life.cores.clone(), life.ended.clone(), rng, self.plan.preempt);
        let (outcome, preemption) = preemption.during(|| catch_unwind(AssertUnwindSafe(turn)));
        self.preempt_rng = preemption.rng;
        self.preempted += preemption.count;
        life.ended = preemption.ended;
        self.claimed = claimed.max(life.front.shared().flush_lsn.load());
        match outcome {
            Ok(None) => return Ok(()),
            Ok(Some(true)) => {}
            Ok(Some(false)) => {
                life.ended.insert(key.core);
            }
            Err(thrown) => match thrown.downcast::<Fatal>() {
                Ok(fatal) => return self.end_by(*fatal),
                Err(thrown) => resume_unwind(thrown),
            },
        }
        self.check_published()
    }

    /// The process has ended itself: rightly, if its disk has failed.
    fn end_by(&mut self, Fatal(why): Fatal) -> Result<(), String> {
        let mut disk = self.fs.disk();
        if disk.failed == 0 {
            return Err(format!("hub {} ended its process: {why}", self.number));
        }
        disk.dead = true;
        self.fatal = true;
        Ok(())
    }

    /// Published positions are in order and never go back.
    fn check_published(&mut self) -> Result<(), String> {
        let Some(life) = &self.life else { return Ok(()) };
        let shared = life.front.shared();
        let seen =
            [&shared.flush_lsn, &shared.write_lsn, &shared.received_lsn].map(|lsn| lsn.load());
        let [flush, write, received] = seen;
        if flush > write || write > received {
            return Err(format!(
                "hub {} published flush {flush}, write {write}, received {received}",
                self.number
            ));
        }
        for (before, now) in self.published.iter().zip(seen) {
            if now < *before {
                return Err(format!("hub {} published {now} after {before}", self.number));
            }
        }
        self.published = seen;
        self.flushed = self.flushed.max(flush);
        Ok(())
    }

    /// What the cores asked of the control plane.
    pub(crate) fn asks(&mut self) -> Result<Vec<Ask>, String> {
        let Some(life) = &mut self.life else { return Ok(Vec::new()) };
        let asks: Vec<ToControl> =
            life.asks.lock().expect("nobody panics with it").drain(..).collect();
        let mut out = Vec::new();
        for ask in asks {
            match ask {
                ToControl::Connect { .. } => out.push(Ask::Connect),
                ToControl::Stopped => out.push(Ask::Stopped),
                // A simulated attempt is answered in any case.
                ToControl::Status | ToControl::Promoted | ToControl::GiveUpConnecting => {}
                ToControl::Commits => life.front.look(),
                ToControl::Failed(why) => return Err(format!("hub {} failed: {why}", self.number)),
            }
        }
        Ok(out)
    }

    /// The control plane, at that time.
    ///
    /// # Panics
    /// If the hub is down.
    pub(crate) fn front(&self, now: Timestamp) -> &Handle<SimConn> {
        let life = self.life.as_ref().expect("the hub is up");
        life.clock.store(now.0, Ordering::Relaxed);
        &life.front
    }

    /// Ends a session's wait for standbys.
    pub(crate) fn cancel(&self, owner: u32) {
        if let Some(life) = &self.life {
            life.front.cancel_wait(owner);
        }
    }

    /// The answer to [`Ask::Connect`].
    pub(crate) fn connected(&self, conn: Result<SimConn, String>) {
        let Some(life) = &self.life else { return };
        life.front.answer_connect(match conn {
            Ok(conn) => ConnectAnswer::Connected(Upstream {
                tls: None,
                conn,
                unread: Vec::new(),
                server_version: "15.18".to_owned(),
                server_version_num: 150_018,
            }),
            Err(reason) => ConnectAnswer::Failed(reason),
        });
    }

    /// A fast shutdown begins.
    pub(crate) fn stop(&self) {
        if let Some(life) = &self.life {
            life.front.stop(StopMode::Fast);
        }
    }

    /// The timeline that it is on, when it is up.
    pub(crate) fn timeline(&self) -> Option<TimelineId> {
        let positions = self.life.as_ref()?.front.positions()?;
        Some(positions.timeline)
    }

    /// A session waits for a position that is here, as of a relay: everything that is published is looked
    /// at, and noted.
    pub(crate) fn wait_for_nothing(&self) {
        if let Some(life) = &self.life {
            let lsn = life.front.shared().flush_lsn.load();
            drop(life.front.wait(lsn, WaitLevel::LocalFlush, u32::MAX));
        }
    }

    /// The process is to die now.
    pub(crate) fn die_soon(&self) {
        self.fs.disk().crash_in = Some(0);
    }

    /// What was published before says nothing about the disk any more.
    pub(crate) fn forget_published(&mut self) {
        (self.flushed, self.claimed) = (Lsn::INVALID, Lsn::INVALID);
    }

    /// The hub is to become the primary of its WAL.
    pub(crate) fn promote(&self) {
        if let Some(life) = &self.life {
            drop(life.front.promote());
        }
    }

    /// A reload of unchanged settings: "try the upstream again".
    pub(crate) fn reload(&self) {
        if let Some(life) = &self.life {
            life.front.reload(Arc::clone(&self.plan.settings));
        }
    }

    /// Somebody downstream connected.
    pub(crate) fn accept(&mut self, end: End, name: &str) {
        let Some(life) = &mut self.life else { return };
        life.next_pid += 1;
        let client = Client {
            pid: life.next_pid,
            user: "replicator".to_owned(),
            application_name: name.to_owned(),
            address: None,
            backend_start: Timestamp(0),
        };
        life.downstream.insert(
            end,
            Downstream {
                talk: Talk::default(),
                phase: Phase::Talking,
                client,
                owns_temporary: false,
            },
        );
    }

    /// Looks at answers of the cores, which may have come after any of their turns.
    pub(crate) fn poll_control(&mut self, world: &mut World) {
        let Some(life) = &mut self.life else { return };
        let waiting = |downstream: &Downstream| {
            matches!(downstream.phase, Phase::Streaming(_) | Phase::Slot(..))
        };
        let ends: Vec<End> = life
            .downstream
            .iter()
            .filter(|(_, downstream)| waiting(downstream))
            .map(|(end, _)| *end)
            .collect();
        for end in ends {
            self.poll_answer(world, end);
        }
    }

    fn poll_answer(&mut self, world: &mut World, end: End) {
        let Some(life) = &mut self.life else { return };
        let Some(downstream) = life.downstream.get_mut(&end) else { return };
        match &mut downstream.phase {
            Phase::Talking | Phase::Leaving => {}
            Phase::Slot(name, answer) => match answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {}
                Ok(Ok(_)) => {
                    let name = std::mem::take(name);
                    downstream.talk.answer(|out| answers::created_slot(out, &name));
                    downstream.phase = Phase::Talking;
                    world.at(world.now, Event::Wake(Actor::Control(self.number), Some(end)));
                }
                Ok(Err(report)) => refuse(downstream, world, self.number, end, &report),
                Err(oneshot::error::TryRecvError::Closed) => downstream.phase = Phase::Leaving,
            },
            Phase::Streaming(answer) => match answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {}
                Ok(StreamEnd::Finished { conn, unread, next, .. }) => {
                    assert_eq!(conn.into_end(), end, "another connection came back");
                    downstream.talk.input.extend(unread);
                    downstream.talk.answer(|out| answers::stream_ended(out, next));
                    downstream.phase = Phase::Talking;
                    world.at(world.now, Event::Wake(Actor::Control(self.number), Some(end)));
                }
                Ok(StreamEnd::Refused { conn, unread, report, .. }) => {
                    assert_eq!(conn.into_end(), end, "another connection came back");
                    downstream.talk.input.extend(unread);
                    refuse(downstream, world, self.number, end, &report);
                }
                Ok(StreamEnd::Closed) | Err(oneshot::error::TryRecvError::Closed) => {
                    life.downstream.remove(&end);
                }
            },
        }
    }

    /// Reads and answers commands.
    pub(crate) fn serve(&mut self, world: &mut World, end: End) {
        loop {
            let Some(life) = &mut self.life else { return };
            let Some(downstream) = life.downstream.get_mut(&end) else { return };
            match downstream.phase {
                Phase::Streaming(_) => return,
                // A request is answered before the next is read.
                Phase::Slot(..) => return,
                Phase::Leaving => {
                    if downstream.talk.flush(world.now, &mut world.net, end) != Some(false) {
                        self.hang_up(world, end);
                    }
                    return;
                }
                Phase::Talking => {}
            }
            match downstream.talk.flush(world.now, &mut world.net, end) {
                None => return self.hang_up(world, end),
                Some(false) => return,
                Some(true) => {}
            }
            match downstream.talk.next() {
                Some(Asked::Goodbye) => return self.hang_up(world, end),
                Some(Asked::Command(command)) => self.command(world, end, command),
                None => match world.net.take(world.now, end, 4096) {
                    None => return,
                    Some(Ok(data)) if !data.is_empty() => downstream.talk.input.extend(data),
                    Some(_) => return self.hang_up(world, end),
                },
            }
        }
    }

    fn hang_up(&mut self, world: &mut World, end: End) {
        let Some(life) = &mut self.life else { return };
        if let Some(downstream) = life.downstream.remove(&end)
            && downstream.owns_temporary
        {
            drop(life.front.slot(SlotRequest::DropTemporary { owner: downstream.client.pid }));
        }
        world.net.close(world.now, end);
    }

    fn command(&mut self, world: &World, end: End, command: Command) {
        let Some(life) = &mut self.life else { return };
        let Some(downstream) = life.downstream.get_mut(&end) else { return };
        let (Some(identity), Some(positions)) = (life.front.identity(), life.front.positions())
        else {
            let report =
                Report::fatal(SqlState::CANNOT_CONNECT_NOW, "the database system is starting up");
            downstream.talk.answer(|out| {
                out.report(&report);
            });
            downstream.phase = Phase::Leaving;
            return;
        };
        let talk = &mut downstream.talk;
        match command {
            Command::IdentifySystem => {
                talk.answer(|out| {
                    answers::identify(out, positions.timeline, positions.sendable_lsn)
                });
            }
            Command::Show { name } => {
                talk.answer(|out| answers::show(out, &name, &identity.segment_size.to_string()))
            }
            Command::TimelineHistory { timeline } => {
                let history = life.front.timeline_history(timeline);
                talk.answer(|out| answers::history(out, timeline, &history))
            }
            Command::ReadReplicationSlot { slot } => {
                let rows = life.front.slots();
                let row = rows.iter().find(|row| row.slot_name == slot);
                talk.answer(|out| {
                    answers::read_slot(out, row.map(|row| (row.restart_lsn, row.restart_tli)))
                });
            }
            Command::CreateReplicationSlot { slot, temporary, .. } => {
                let owner = downstream.client.pid;
                downstream.owns_temporary |= temporary;
                let request =
                    SlotRequest::Create { name: slot.clone(), temporary, reserve_wal: true, owner };
                downstream.phase = Phase::Slot(slot, life.front.slot(request));
            }
            Command::StartReplication { slot, start, timeline } => {
                let start = Box::new(StartStreaming {
                    conn: SimConn::new(end, &world.net.dropped),
                    tls: None,
                    unread: std::mem::take(&mut talk.input),
                    logical: false,
                    slot,
                    start,
                    timeline: timeline.unwrap_or(positions.timeline),
                    client: downstream.client.clone(),
                });
                downstream.phase = Phase::Streaming(life.front.start(start));
            }
            other => panic!("a standby sent {other:?}"),
        }
    }
}

fn refuse(downstream: &mut Downstream, world: &mut World, hub: usize, end: End, report: &Report) {
    let fatal = report.severity == Severity::Fatal;
    downstream.talk.answer(|out| {
        out.report(report);
        if !fatal {
            out.ready_for_query(b'I');
        }
    });
    downstream.phase = if fatal { Phase::Leaving } else { Phase::Talking };
    world.at(world.now, Event::Wake(Actor::Control(hub), Some(end)));
}
