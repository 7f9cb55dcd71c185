//! What the demo must not leave behind: processes and a directory.
//!
//! A release build aborts on a panic, and a signal may come at any time, so nothing here counts on
//! destructors: whichever way the demo ends, [`clean_up`] runs, and every program and the directory
//! are known from the moment they exist.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};
use walhub_peers::process::{AllEnded, end_all};

/// The directory of the demo, once there is one.
static DIRECTORY: Mutex<Option<PathBuf>> = Mutex::new(None);
/// Whether it stays.
static KEEP: AtomicBool = AtomicBool::new(false);

/// Cleans up when a signal or a panic ends the demo, from now on.
pub(super) fn watch(keep: bool) -> anyhow::Result<()> {
    KEEP.store(keep, Ordering::Relaxed);
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        drop(clean_up());
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let watch = {
        let _context = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        async move {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
                _ = hang_up.recv() => 129,
            }
        }
    };
    let body = move || {
        let code = runtime.block_on(watch);
        let _ = writeln!(io::stdout(), "\ninterrupted: cleaning up");
        // Kept until the process is gone: the main thread cannot start another program meanwhile.
        let _ended = clean_up();
        std::process::exit(code);
    };
    std::thread::Builder::new().name("signals".into()).spawn(body)?;
    Ok(())
}

/// The directory that is removed at the end, or kept and named.
pub(super) fn set_directory(path: &Path) {
    *DIRECTORY.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.to_owned());
}

/// Ends every program and removes the directory.
pub(super) fn clean_up() -> AllEnded {
    let ended = end_all();
    let directory = DIRECTORY.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(path) = directory else { return ended };
    let shown = path.display();
    if KEEP.load(Ordering::Relaxed) {
        let _ = writeln!(io::stdout(), "kept: {shown}");
    } else if let Err(error) = std::fs::remove_dir_all(&path) {
        let _ = writeln!(io::stderr(), "walhub: could not remove \"{shown}\": {error}");
    }
    ended
}
