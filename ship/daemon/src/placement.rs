//! Where the control plane's threads run: its own thread may be kept to a CPU, those for work that
//! blocks run anywhere.

use std::io;
use std::sync::OnceLock;

use tokio::task::JoinHandle;
use walhub_engine::cpu::{self, Cpus};

/// What a thread could run on before it was kept to one CPU; threads that it makes would inherit that.
static ALL: OnceLock<Cpus> = OnceLock::new();

/// Keeps the calling thread to `cpu`.
///
/// # Errors
/// When the system refuses.
pub(crate) fn keep_to(cpu: usize) -> io::Result<()> {
    let cpus = Cpus::of_current_thread()?;
    ALL.get_or_init(|| cpus);
    cpu::pin_current_thread(cpu)
}

/// [`tokio::task::spawn_blocking`], on whichever CPU is free.
pub(crate) fn spawn_blocking<F, R>(work: F) -> JoinHandle<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    tokio::task::spawn_blocking(move || {
        if let Some(cpus) = ALL.get() {
            // Refused, the work is done where the control plane is.
            let _ = cpus.give_to_current_thread();
        }
        work()
    })
}
