//! Threads of the control plane for work that blocks. They run on any CPU: they are started before its own thread may be
//! pinned to one, and what a thread makes inherits its CPUs.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// Threads for work that blocks. They are started with the server: a limit on threads is met then, and not by a session
/// that asks for something later.
#[derive(Debug)]
struct Workers {
    jobs: mpsc::Sender<Job>,
}

static WORKERS: OnceLock<Workers> = OnceLock::new();

/// More than long statements, reads and passwords may use at a time: resolving an upstream's name waits for none of them.
const WORKERS_COUNT: usize = 7;
/// Of each. Expressions are evaluated there, which nest.
const WORKER_STACK_BYTES: usize = 8 << 20;

impl Workers {
    fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..WORKERS_COUNT {
            let queue = Arc::clone(&queue);
            let worker = thread::Builder::new().name(format!("walhub-worker-{number}"));
            worker.stack_size(WORKER_STACK_BYTES).spawn(move || work(&queue))?;
        }
        Ok(Self { jobs })
    }
}

fn work(queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // Nothing can panic while it is locked.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        job();
    }
}

/// Starts the threads for work that blocks.
///
/// # Errors
/// When the system has none left.
pub(crate) fn start_workers() -> io::Result<()> {
    if WORKERS.get().is_none() {
        // Who started them at the same moment, of several servers in one process, has done it for all.
        let _ = WORKERS.set(Workers::start()?);
    }
    Ok(())
}

/// Has another thread do what blocks, on whichever CPU is free. The answer is lost when the work panics.
pub(crate) fn spawn_blocking<F, R>(work: F) -> oneshot::Receiver<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let job: Job = Box::new(move || drop(reply.send(work())));
    // Without threads, which only a test of a part may be, it is done at once.
    let refused = match start_workers() {
        Ok(()) => WORKERS.get().and_then(|workers| workers.jobs.send(job).err().map(|it| it.0)),
        Err(_) => Some(job),
    };
    if let Some(job) = refused {
        job();
    }
    answer
}

#[cfg(test)]
mod tests {
    use walhub_engine::cpu;

    use super::*;

    #[test]
    fn work_runs_on_any_cpu_when_the_thread_that_asks_is_pinned() {
        start_workers().unwrap();
        let cpus = cpu::allowed_cpus();
        let pinned = thread::spawn(move || {
            cpu::pin_current_thread(cpus[0]).unwrap();
            assert_eq!(spawn_blocking(cpu::allowed_cpus).blocking_recv().unwrap(), cpus);
        });
        pinned.join().unwrap();
    }
}
