//! Interrupts a core's turn before it loads a published position: another core of the hub has a turn there.
//!
//! What two cores do at the same time comes between any two of each other's steps. The steps that matter are those
//! at which a core looks at what others have published, and so it is there that others get their turns.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use walhub_engine::io::Io;
use walhub_engine::published::set_before_load;
use walhub_hub::core_loop::Core;

use crate::io::{SimIo, SimWaker};
use crate::net::SimConn;
use crate::rng::{Rng, bytes, size};

/// One core of a life, and its disk and network.
pub(crate) type SharedCore = Rc<RefCell<(SimIo, Core<SimConn, SimWaker>)>>;

/// Who may have a turn inside of another one's.
pub(crate) struct Preemption {
    pub(crate) cores: Vec<SharedCore>,
    /// Cores whose loop has ended.
    pub(crate) ended: BTreeSet<usize>,
    pub(crate) rng: Rng,
    /// Loads before which it happens, in cases of a thousand.
    pub(crate) per_mille: u64,
    /// How often it has happened.
    pub(crate) count: u64,
    is_inside: bool,
}

thread_local! {
    static CURRENT: RefCell<Option<Preemption>> = const { RefCell::new(None) };
}

impl Preemption {
    pub(crate) fn new(
        cores: Vec<SharedCore>,
        ended: BTreeSet<usize>,
        rng: Rng,
        per_mille: u64,
    ) -> Self {
        Self { cores, ended, rng, per_mille, count: 0, is_inside: false }
    }

    /// Does `act`, which does not unwind, with interruptions.
    pub(crate) fn during<T>(self, act: impl FnOnce() -> T) -> (T, Self) {
        CURRENT.set(Some(self));
        set_before_load(Some(interrupt));
        let result = act();
        set_before_load(None);
        (result, CURRENT.take().expect("it is set"))
    }

    /// A core for a turn, now and then.
    fn choose(&mut self) -> Option<(usize, SharedCore)> {
        if self.is_inside || !self.rng.chance(self.per_mille) {
            return None;
        }
        let number = size(self.rng.below(bytes(self.cores.len())));
        if self.ended.contains(&number) {
            return None;
        }
        self.is_inside = true;
        Some((number, Rc::clone(&self.cores[number])))
    }
}

fn interrupt() {
    let chosen = CURRENT.with_borrow_mut(|current| current.as_mut().and_then(Preemption::choose));
    let Some((number, core)) = chosen else { return };
    // The core that is interrupted has itself.
    let go_on = core.try_borrow_mut().ok().map(|mut core| {
        let (io, core) = &mut *core;
        run_once(io, core, || ())
    });
    CURRENT.with_borrow_mut(|current| {
        let Some(current) = current else { return };
        current.is_inside = false;
        current.count += u64::from(go_on.is_some());
        if go_on == Some(Some(false)) {
            current.ended.insert(number);
        }
    });
}

/// Runs one core once, as [`Core::run`] does; `None` if the power went off, else whether it goes on. `look` is
/// called after each step.
pub(crate) fn run_once(
    io: &mut SimIo,
    core: &mut Core<SimConn, SimWaker>,
    mut look: impl FnMut(),
) -> Option<bool> {
    let mut completions = Vec::new();
    io.wait(None, &mut completions).expect("the simulator waits");
    for completion in completions {
        core.handle(io, completion);
        look();
        if io.is_dead() {
            return None;
        }
    }
    let go_on = core.turn(io);
    look();
    if io.is_dead() {
        return None;
    }
    if let Some(deadline) = core.deadline_ns().filter(|_| go_on) {
        io.run_at(deadline);
    }
    Some(go_on)
}
