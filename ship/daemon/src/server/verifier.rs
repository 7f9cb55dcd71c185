//! Reads the WAL that was there at the start once more, slowly, on a thread of its own.
//!
//! A damaged segment is named in the log, served to nobody from then on, and slots that need it are shown
//! as lost: better now than when a standby that needs it comes.
//!
//! Not here: reading (`walhub_hub::store::verify`).

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc as channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use walhub_proto::lsn::Lsn;
use walhub_proto::sqlstate::SqlState;

use walhub_hub::publish::handle::Handle;
use walhub_hub::publish::positions::DamagedSegment;
use walhub_hub::store::verify::{READ_LEN, Watcher, verify};

/// How long to rest after each read: some 30 MB/s are read in all, of which neither a disk nor a core
/// notices much.
const REST: Duration = Duration::from_millis(30);
const _: () = assert!(READ_LEN == 1 << 20);

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Verifier {
    stop: Option<channel::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Paced {
    stop: channel::Receiver<()>,
    front: Arc<Handle<OwnedFd>>,
}

impl Watcher for Paced {
    fn read(&mut self, _bytes: usize) -> bool {
        matches!(self.stop.recv_timeout(REST), Err(channel::RecvTimeoutError::Timeout))
    }

    fn fault(&mut self, fault: DamagedSegment) {
        if self.front.shared().damaged.add(&fault) {
            let DamagedSegment { file, at, reason, .. } = fault;
            tracing::error!(
                sqlstate = SqlState::DATA_CORRUPTED.0,
                detail = "It is not served any more, and slots that need it are shown as lost.",
                hint = "Put back the file from an archive or a standby and restart this server.",
                "WAL segment \"{file}\" is damaged at {at}: {reason}"
            );
        }
    }

    fn unread(&mut self, file: &str, at: Lsn, reason: &str) {
        tracing::warn!(
            detail = "It is served all the same, as far as it can be read.",
            hint = "Once the reason is gone, \"walhub verify\" reads all WAL again.",
            "could not read WAL segment \"{file}\" at {at}: {reason}"
        );
    }
}

impl Verifier {
    /// Begins to read the WAL in `data_dir` before `to`.
    pub(super) fn start(data_dir: PathBuf, to: Lsn, front: Arc<Handle<OwnedFd>>) -> Self {
        let (stop, stopped) = channel::channel();
        let body = move || match verify(&data_dir, to, &mut Paced { stop: stopped, front }) {
            Ok(verified) => tracing::debug!(
                "{} segments of WAL before {} were read again",
                verified.segments,
                verified.end
            ),
            Err(error) => tracing::warn!("could not read WAL again: {error}"),
        };
        let thread = thread::Builder::new().name("walhub-verify".to_owned()).spawn(body);
        let thread =
            thread.inspect_err(|error| tracing::warn!("could not start a thread: {error}")).ok();
        Self { stop: Some(stop), thread }
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
