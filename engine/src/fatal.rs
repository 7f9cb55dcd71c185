//! The few reasons to stop the whole process at once, with an exit status each.
//!
//! Stopping is part of the design: after one of these nothing that this process believes about its
//! disk or its memory may reach a peer. What is on disk decides at the next start.
//!
//! Not here: orderly shutdown.

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;

/// Why the process cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FatalReason {
    /// A write to a WAL segment failed in a way that waiting cannot mend.
    WalWriteFailed,
    /// A flush failed: what is durable is unknown, and trying again would tell lies.
    /// PostgreSQL: `data_sync_elevel`.
    WalFlushFailed,
    /// The control file or the directory of segments cannot be kept.
    ControlFileFailed,
    /// What was read back is not what was written.
    WalCorrupted,
    /// A core's ring cannot be used any more.
    RingFailed,
    /// A thread that the others need has ended.
    ThreadLost,
    /// The data directory is gone, or another's by now.
    DataDirectoryLost,
}

impl FatalReason {
    /// Every reason, in the order of the variants.
    pub const ALL: [Self; 7] = [
        Self::WalWriteFailed,
        Self::WalFlushFailed,
        Self::ControlFileFailed,
        Self::WalCorrupted,
        Self::RingFailed,
        Self::ThreadLost,
        Self::DataDirectoryLost,
    ];

    /// What the process exits with. 1 and 2 are left to ordinary errors and bad usage, 101 to
    /// Rust's panics, and 126 upward to shells.
    #[must_use]
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::WalWriteFailed => 10,
            Self::WalFlushFailed => 11,
            Self::ControlFileFailed => 12,
            Self::WalCorrupted => 13,
            Self::RingFailed => 14,
            Self::ThreadLost => 15,
            Self::DataDirectoryLost => 16,
        }
    }
}

/// Ends what stands for the process where a process runs many of them: in the simulator.
pub type FatalHook = fn(FatalReason, &str) -> !;

static HOOK: OnceLock<FatalHook> = OnceLock::new();

/// From now on `hook` is called instead of ending the process. The first one stays.
pub fn set_fatal_hook(hook: FatalHook) {
    let _ = HOOK.set(hook);
}

/// Prints `PANIC:  message` to standard error and ends the process: no destructor runs, and no other
/// thread does anything after it.
pub fn fatal(reason: FatalReason, message: impl fmt::Display) -> ! {
    if let Some(hook) = HOOK.get() {
        hook(reason, &message.to_string());
    }
    // One write, so that no other thread's line comes between. A closed standard error changes
    // nothing about the end.
    let line = format!("PANIC:  {message}\n");
    let _ = io::stderr().write_all(line.as_bytes());
    // SAFETY: the call takes no memory and does not return.
    unsafe { libc::_exit(i32::from(reason.exit_status())) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::process::Command;

    use super::*;

    /// Set for the process that is to die.
    const DIE: &str = "WALHUB_TEST_FATAL";

    #[test]
    fn statuses_differ_and_mean_nothing_else() {
        let statuses: BTreeSet<u8> = FatalReason::ALL.map(FatalReason::exit_status).into();
        assert_eq!(statuses.len(), FatalReason::ALL.len());
        assert!(statuses.iter().all(|status| (3..101).contains(status)));
    }

    #[test]
    fn the_process_ends_with_the_reason() {
        if std::env::var_os(DIE).is_some() {
            fatal(FatalReason::WalFlushFailed, "could not fdatasync file \"x\": I/O error");
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["fatal::tests::the_process_ends_with_the_reason", "--exact", "--nocapture"]);
        let output = child.env(DIE, "1").output().unwrap();
        assert_eq!(output.status.code(), Some(11));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("PANIC:  could not fdatasync file \"x\": I/O error\n"), "{stderr}");
    }
}
