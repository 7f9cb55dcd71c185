//! An endless stream of WAL from a seed.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{WalShape, WalWriter};
use crate::convert::{to_u64, to_usize};
use crate::lsn::{Lsn, LsnRange};
use crate::record::RM_XLOG;
use crate::rmgr::RM_LOGICALMSG;
use crate::rmgr::counters::Counters;
use crate::rmgr::message::{XLOG_LOGICAL_MESSAGE, logical_message_head};
use crate::rmgr::xlog::{Checkpoint, WalLevel, XLOG_CHECKPOINT_SHUTDOWN};
use crate::time::Timestamp;

/// Prefix of every message.
const PREFIX: &str = "walhub";
/// The database that every message is from.
const DATABASE: u32 = 5;
/// The longest message that [`WalGenerator`] makes by itself.
const MESSAGE_BYTES_MAX: usize = 200_000;
/// Bytes that messages are cut from, each at a place of its own.
const NOISE_LEN: usize = 1 << 18;
const _: () = assert!(MESSAGE_BYTES_MAX < NOISE_LEN);

/// An endless stream of logical messages, after one checkpoint record.
///
/// A clone goes on as the original does and shares what is large: keep one for each segment, and
/// any position can be made again.
#[derive(Clone, Debug)]
pub struct WalGenerator {
    writer: WalWriter,
    random: u64,
    noise: Arc<[u8]>,
}

impl WalGenerator {
    /// Begins at `start`.
    ///
    /// # Panics
    /// If `start` is not the start of a segment.
    #[must_use]
    pub fn new(seed: u64, shape: WalShape, start: Lsn) -> Self {
        assert!(shape.segment_size.offset(start) == 0, "{start} is inside a segment");
        Self::over(seed, WalWriter::new(shape, start, None))
    }

    /// Goes on at `end`, after the record that begins at `last_record`; makes no checkpoint record.
    #[must_use]
    pub fn after(seed: u64, shape: WalShape, end: Lsn, last_record: Lsn) -> Self {
        Self::over(seed, WalWriter::new(shape, end, Some(last_record)))
    }

    fn over(seed: u64, writer: WalWriter) -> Self {
        let mut random = seed;
        let noise = (0..NOISE_LEN / 8).flat_map(|_| next_random(&mut random).to_le_bytes());
        let noise = noise.collect();
        Self { writer, random, noise }
    }

    /// End of what was made.
    #[must_use]
    pub const fn lsn(&self) -> Lsn {
        self.writer.lsn()
    }

    /// Start of the last record.
    #[must_use]
    pub const fn last_record(&self) -> Option<Lsn> {
        self.writer.last_record()
    }

    /// Appends whole records until at least `bytes_min` bytes were appended.
    pub fn fill(&mut self, bytes_min: usize, out: &mut Vec<u8>) {
        let end = out.len().saturating_add(bytes_min);
        while out.len() < end {
            self.append_next(out);
        }
    }

    /// Appends the next record.
    pub fn append_next(&mut self, out: &mut Vec<u8>) -> LsnRange {
        if self.writer.last_record().is_none() {
            return self.append_checkpoint(out);
        }
        let len = self.next_len();
        let start = below(&mut self.random, NOISE_LEN - len);
        let noise = Arc::clone(&self.noise);
        let message = noise.get(start..start + len).unwrap_or_default();
        self.append_message(message, out)
    }

    /// Appends a logical message with this content, as `pg_logical_emit_message(false, ..)` does.
    ///
    /// # Panics
    /// If the record would be too long.
    pub fn append_message(&mut self, message: &[u8], out: &mut Vec<u8>) -> LsnRange {
        let head = logical_message_head(DATABASE, false, PREFIX, message.len());
        let Ok(head) = head else { panic!("a message of {} bytes", message.len()) };
        self.writer.append_record(RM_LOGICALMSG, XLOG_LOGICAL_MESSAGE, 0, &[&head, message], out)
    }

    /// Ends the segment, as `pg_switch_wal()` does.
    pub fn switch_segment(&mut self, out: &mut Vec<u8>) {
        self.writer.switch_segment(out);
    }

    /// A cluster that was shut down cleanly begins with such a record.
    fn append_checkpoint(&mut self, out: &mut Vec<u8>) -> LsnRange {
        let (redo, shape) = (self.writer.next_record(), *self.writer.shape());
        let checkpoint = Checkpoint {
            redo,
            timeline: shape.timeline,
            prev_timeline: shape.timeline,
            wal_level: WalLevel::Replica,
            counters: Counters { next_xid: 750, oldest_xid: 717, ..Counters::first() },
            time: Timestamp::from_unix_micros(0),
            oldest_active_xid: 0,
        };
        let body = checkpoint.body(shape.version);
        self.writer.append_record(RM_XLOG, XLOG_CHECKPOINT_SHUTDOWN, 0, &[&body], out)
    }

    /// Mostly small changes, sometimes a full-page image, rarely a run of pages.
    fn next_len(&mut self) -> usize {
        match below(&mut self.random, 1000) {
            0..=899 => 50 + below(&mut self.random, 450),
            900..=989 => 500 + below(&mut self.random, 3_500),
            990..=998 => 8_192,
            _ => 8_192 + below(&mut self.random, MESSAGE_BYTES_MAX - 8_192),
        }
    }
}

/// A number below `bound`.
fn below(random: &mut u64, bound: usize) -> usize {
    to_usize(next_random(random) % to_u64(bound))
}

/// The next number of a seed's: `SplitMix64`.
pub const fn next_random(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *random;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
