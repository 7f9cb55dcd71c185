//! The wal core's loop as a task of the control plane, where the two have few CPUs between them.
//!
//! A commit then costs no switch of threads: what a session asks for is done when the sessions that can
//! be heard were heard, and the session answers in the same round in which its flush is seen.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};
use walhub_engine::cpu::pin_current_thread;
use walhub_engine::probe::NearestCpu;
use walhub_engine::uring::{Uring, UringConfig, UringWaker};

use walhub_hub::core_loop::Core;
use walhub_hub::mail::ToControl;
use walhub_hub::publish::handle::Handle;

/// What a core is to do; made on the thread that does it.
pub(super) type Work = Box<dyn FnOnce(&Uring) -> Core<OwnedFd, UringWaker> + Send>;

/// Turns without a pause after which the sessions have theirs.
const TURNS_MAX: u32 = 8;

/// A loop that has not begun.
pub(super) struct SharedLoop {
    wakeup: Wakeup,
    work: Work,
    to_control: mpsc::UnboundedSender<ToControl>,
    nearest: Option<NearestCpu>,
}

/// How a loop is woken that is still to be made.
pub(super) struct Wakeup {
    pub(super) waker: UringWaker,
    woken: Arc<Notify>,
    commits_moved: Arc<AtomicBool>,
}

impl Wakeup {
    pub(super) fn new() -> Self {
        let woken = Arc::new(Notify::new());
        let notify = Arc::clone(&woken);
        let waker = UringWaker::calling(move || notify.notify_one());
        Self { waker, woken, commits_moved: Arc::default() }
    }

    /// What the wal core says to the control plane, of which the loop itself takes the news of commits.
    pub(super) fn control(
        &self,
        to_control: mpsc::UnboundedSender<ToControl>,
    ) -> Box<dyn Fn(ToControl) + Send> {
        let commits_moved = Arc::clone(&self.commits_moved);
        Box::new(move |ask| match ask {
            ToControl::Commits => commits_moved.store(true, Ordering::Relaxed),
            // The control plane ends only with the process.
            ask => drop(to_control.send(ask)),
        })
    }

    pub(super) fn begin(
        self,
        work: Work,
        to_control: mpsc::UnboundedSender<ToControl>,
        nearest: Option<NearestCpu>,
    ) -> SharedLoop {
        SharedLoop { wakeup: self, work, to_control, nearest }
    }
}

impl SharedLoop {
    /// Runs until the hub is stopped.
    pub(super) async fn run(self, front: Arc<Handle<OwnedFd>>) {
        let Self { wakeup, work, to_control, nearest } = self;
        if let Some(nearest) = nearest {
            keep_to(nearest);
        }
        if let Err(error) = run_core(wakeup, work, &front).await {
            // Whoever does not listen any more is ending already.
            let _ = to_control.send(ToControl::Failed(format!("core 0 failed: {error}")));
        }
    }
}

async fn run_core(wakeup: Wakeup, work: Work, front: &Handle<OwnedFd>) -> io::Result<()> {
    let Wakeup { waker, woken, commits_moved } = wakeup;
    let mut io = Uring::polled(UringConfig::default(), waker)?;
    let completed = io.completed().try_clone_to_owned()?;
    #[expect(deprecated, reason = "it is unsound for what lends a descriptor; this owns it")]
    let completed = AsyncFd::with_interest(completed, Interest::READABLE)?;
    let mut core = work(&io);
    let mut completions = Vec::new();
    let mut turns = 0;
    loop {
        let goes_on = core.turn(&mut io);
        if commits_moved.swap(false, Ordering::Relaxed) {
            front.look();
        }
        if !goes_on {
            return Ok(());
        }
        turns += 1;
        while !io.poll(core.deadline_ns(), &mut completions)? {
            turns = 0;
            tokio::select! {
                biased;
                ready = completed.readable() => ready?.clear_ready(),
                () = woken.notified() => {}
            }
        }
        for completion in completions.drain(..) {
            core.handle(&mut io, completion);
        }
        if turns >= TURNS_MAX {
            turns = 0;
            tokio::task::yield_now().await;
        }
    }
}

fn keep_to(NearestCpu { cpu, us, elsewhere_us }: NearestCpu) {
    match pin_current_thread(cpu) {
        Ok(()) => tracing::info!(
            "keeping to CPU {cpu}: a durable 4 kB write takes {us} us from there, {elsewhere_us} us from elsewhere"
        ),
        Err(error) => tracing::warn!("could not keep to CPU {cpu}: {error}"),
    }
}
