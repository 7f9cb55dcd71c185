//! `walhub verify`: reads all WAL in a data directory and says what is damaged. A server may run in it.

use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;

use walhub_proto::lsn::Lsn;

use crate::datadir::MARKER;
use walhub_hub::publish::positions::DamagedSegment;
use walhub_hub::store::verify::{Watcher, verify};

/// How often progress is told, in bytes.
const PROGRESS_BYTES: u64 = 64 << 20;

struct Progress<'a, W> {
    out: &'a mut W,
    bytes: u64,
    faults: u64,
    unread: u64,
    /// On a terminal progress overwrites itself, elsewhere it would be in the way.
    is_shown: bool,
}

impl<W: Write> Watcher for Progress<'_, W> {
    fn read(&mut self, bytes: usize) -> bool {
        let before = self.bytes / PROGRESS_BYTES;
        self.bytes += u64::try_from(bytes).expect("64 bits");
        if self.is_shown && self.bytes / PROGRESS_BYTES > before {
            let _ = write!(io::stderr(), "{} MB\r", self.bytes >> 20);
        }
        true
    }

    fn fault(&mut self, fault: DamagedSegment) {
        self.faults += 1;
        let DamagedSegment { file, at, reason, .. } = fault;
        // A reader that has gone away changes nothing.
        let _ = writeln!(self.out, "{file}: damaged at {at}: {reason}");
    }

    fn unread(&mut self, file: &str, at: Lsn, reason: &str) {
        self.unread += 1;
        let _ = writeln!(self.out, "{file}: could not be read at {at}: {reason}");
    }
}

/// Exit code 0: all is whole; 1: something is not, or could not be looked at.
pub(super) fn run(data_dir: &Path, out: &mut impl Write) -> ExitCode {
    let shown = data_dir.display();
    if !data_dir.join(MARKER).exists() {
        let _ =
            writeln!(io::stderr(), "walhub: directory \"{shown}\" is not a walhub data directory");
        return ExitCode::FAILURE;
    }
    let is_shown = io::stderr().is_terminal();
    let mut progress = Progress { out, bytes: 0, faults: 0, unread: 0, is_shown };
    let verified = match verify(data_dir, Lsn::MAX, &mut progress) {
        Ok(verified) => verified,
        Err(error) => {
            let _ = writeln!(io::stderr(), "walhub: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (faults, unread) = (progress.faults, progress.unread);
    let _ = writeln!(
        out,
        "{} MB of WAL in {} segments read, from {} to {}: {}",
        verified.bytes >> 20,
        verified.segments,
        verified.start,
        verified.end,
        match (faults, unread) {
            (0, 0) => "no damage".to_owned(),
            (faults, 0) => format!("{faults} segments damaged"),
            (faults, unread) => {
                format!("{faults} segments damaged, {unread} segments could not be read")
            }
        }
    );
    if faults == 0 && unread == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
