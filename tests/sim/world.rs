//! Virtual time, the queue of everything that will happen, and what all machines share.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use walhub_engine::io::{Completion, Op, Token};

use crate::disk::{Flush, SimFs};
use crate::net::{Effect, End, Net};
use crate::rng::Rng;

/// A core of one life of a hub.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct CoreKey {
    pub(crate) hub: usize,
    pub(crate) life: u32,
    pub(crate) core: usize,
}

/// Whoever is not production code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Actor {
    Primary,
    /// A hub's control plane.
    Control(usize),
    Standby(usize),
    /// A session that appends.
    Client(usize),
    /// Whoever makes the faults.
    Chaos,
}

/// What will happen.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "most events are disk operations, and none live long")]
pub(crate) enum Event {
    /// A core looks at its completions, its mail and the time.
    Run(CoreKey),
    /// A disk operation ends.
    Disk(CoreKey, Token, DiskOp),
    /// An operation completes for the second time.
    Complete(CoreKey, Completion),
    /// Bytes arrive.
    Arrive(End),
    /// An actor looks at an end, or at the time.
    Wake(Actor, Option<End>),
}

/// A disk operation under way.
#[derive(Debug)]
pub(crate) enum DiskOp {
    Other(Op),
    Write { write: u64, durable: bool, unit: usize },
    Flush(Flush),
    DirFlush { path: std::path::PathBuf, up_to: u64 },
    SendFile(FileSend),
}

/// Bytes of a file on their way to a socket: they are taken one piece after the other.
#[derive(Debug)]
pub(crate) struct FileSend {
    pub(crate) end: End,
    /// Number on the disk.
    pub(crate) file: u64,
    pub(crate) offset: u64,
    pub(crate) len: usize,
    /// What was taken, behind the header.
    pub(crate) data: Vec<bytes::Bytes>,
}

/// An `Io`'s part of the world.
#[derive(Debug)]
pub(crate) struct CoreState {
    pub(crate) fs: SimFs,
    pub(crate) wake: Arc<AtomicBool>,
    pub(crate) ready: VecDeque<Completion>,
    pub(crate) scheduled: Option<u64>,
    /// Open files: number on the disk, and whether direct.
    pub(crate) files: BTreeMap<u32, (u64, bool)>,
    pub(crate) sockets: BTreeMap<u32, End>,
    pub(crate) next_id: u32,
}

/// Everything but the production code and the actors.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: u64,
    number: u64,
    events: BTreeMap<(u64, u64), Event>,
    pub(crate) net: Net,
    pub(crate) cores: BTreeMap<CoreKey, CoreState>,
    pub(crate) rng: Rng,
    /// Cores that do not run for a while now and then, in cases of ten thousand.
    pub(crate) sleepy: u64,
}

/// The world, as everybody in it holds it.
pub(crate) type Shared = Rc<RefCell<World>>;

impl World {
    pub(crate) fn new(seed: u64, net: Net) -> Shared {
        let world = Self {
            now: 1_000_000_000,
            number: 0,
            events: BTreeMap::new(),
            net,
            cores: BTreeMap::new(),
            rng: Rng::new(seed, "world"),
            sleepy: 0,
        };
        Rc::new(RefCell::new(world))
    }

    pub(crate) fn at(&mut self, time: u64, event: Event) {
        self.number += 1;
        self.events.insert((time.max(self.now), self.number), event);
    }

    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Goes to the next event.
    pub(crate) fn next(&mut self) -> Option<Event> {
        self.settle();
        let ((time, _), event) = self.events.pop_first()?;
        self.now = time;
        Some(event)
    }

    /// How long it takes to the next piece of a file that is sent: now and then something comes between.
    pub(crate) fn file_step(&mut self) -> u64 {
        let long = self.rng.chance(20);
        self.rng.log_range(500, if long { 100_000_000 } else { 50_000 })
    }

    /// A core is to run, soon.
    pub(crate) fn run_soon(&mut self, key: CoreKey) {
        let mut delay = self.rng.range(200, 20_000);
        if self.rng.below(10_000) < self.sleepy {
            delay += self.rng.range(1_000_000, 200_000_000);
        }
        self.run_at(key, self.now + delay);
    }

    /// A core is to run at `time` at the latest.
    pub(crate) fn run_at(&mut self, key: CoreKey, time: u64) {
        let Some(core) = self.cores.get_mut(&key) else { return };
        if core.scheduled.is_some_and(|scheduled| scheduled <= time) {
            return;
        }
        core.scheduled = Some(time);
        self.at(time, Event::Run(key));
    }

    /// Turns what the network did, and what was dropped, into events.
    pub(crate) fn settle(&mut self) {
        let dropped = std::mem::take(&mut *self.net.dropped.lock().expect("nobody panics with it"));
        for end in dropped {
            self.net.close(self.now, end);
        }
        let effects: Vec<Effect> = self.net.effects.drain(..).collect();
        for effect in effects {
            match effect {
                Effect::Complete(key, token, result) => {
                    self.complete(key, Completion { token, result })
                }
                Effect::Later(time, key, token, result) => {
                    self.at(time, Event::Complete(key, Completion { token, result }));
                }
                Effect::Notify(actor, end) => self.at(self.now, Event::Wake(actor, Some(end))),
                Effect::Arrival(time, end) => self.at(time, Event::Arrive(end)),
            }
        }
        let woken: Vec<CoreKey> = self
            .cores
            .iter()
            .filter(|(_, core)| core.wake.swap(false, std::sync::atomic::Ordering::AcqRel))
            .map(|(key, _)| *key)
            .collect();
        for key in woken {
            self.run_soon(key);
        }
    }

    pub(crate) fn complete(&mut self, key: CoreKey, completion: Completion) {
        if let Some(core) = self.cores.get_mut(&key) {
            core.ready.push_back(completion);
            self.run_soon(key);
        }
    }
}
