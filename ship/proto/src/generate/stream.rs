//! An endless stream of WAL from a seed.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{WalShape, WalWriter};
use crate::lsn::{Lsn, LsnRange};
use crate::record::RM_XLOG;

/// PostgreSQL: `RM_LOGICALMSG_ID`.
const RM_LOGICALMSG: u8 = 21;
/// PostgreSQL: `XLOG_LOGICAL_MESSAGE`.
const XLOG_LOGICAL_MESSAGE: u8 = 0;
/// PostgreSQL: `XLOG_CHECKPOINT_SHUTDOWN`.
const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0;
/// Main data of up to 255 bytes follows its length byte. PostgreSQL: `XLR_BLOCK_ID_DATA_SHORT`.
const BLOCK_ID_DATA_SHORT: u8 = 255;
/// Main data follows its length word. PostgreSQL: `XLR_BLOCK_ID_DATA_LONG`.
const BLOCK_ID_DATA_LONG: u8 = 254;

/// Prefix of every message, with its terminating zero.
const PREFIX: &[u8] = b"walhub\0";
/// Bytes of a message before the prefix. PostgreSQL: `SizeOfLogicalMessage`.
const MESSAGE_HEADER_LEN: usize = 24;
/// The longest message that [`WalGenerator`] makes by itself.
const MESSAGE_BYTES_MAX: usize = 200_000;
/// Bytes that messages are cut from, each at a place of its own.
const NOISE_LEN: usize = 1 << 18;
const _: () = assert!(MESSAGE_BYTES_MAX < NOISE_LEN);
/// Bytes of a checkpoint's body. PostgreSQL: `sizeof(CheckPoint)`, 13 to 18.
const CHECKPOINT_LEN: usize = 88;

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
        let mut random = seed;
        let noise = (0..NOISE_LEN / 8).flat_map(|_| next_random(&mut random).to_le_bytes());
        let noise = noise.collect();
        Self { writer: WalWriter::new(shape, start, None), random, noise }
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
    pub fn append_message(&mut self, message: &[u8], out: &mut Vec<u8>) -> LsnRange {
        let len = MESSAGE_HEADER_LEN + PREFIX.len() + message.len();
        let mut head = main_data_header(len);
        // dbId, transactional and its padding, prefix_size, message_size.
        head.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0]);
        head.extend_from_slice(&len_u64(PREFIX.len()).to_le_bytes());
        head.extend_from_slice(&len_u64(message.len()).to_le_bytes());
        head.extend_from_slice(PREFIX);
        let payload = [head.as_slice(), message];
        self.writer.append_record(RM_LOGICALMSG, XLOG_LOGICAL_MESSAGE, 0, &payload, out)
    }

    /// Ends the segment, as `pg_switch_wal()` does.
    pub fn switch_segment(&mut self, out: &mut Vec<u8>) {
        self.writer.switch_segment(out);
    }

    /// A cluster that was shut down cleanly begins with such a record.
    fn append_checkpoint(&mut self, out: &mut Vec<u8>) -> LsnRange {
        let tli = self.writer.shape().timeline.to_u32();
        let mut payload = main_data_header(CHECKPOINT_LEN);
        payload.extend_from_slice(&self.writer.next_record().0.to_le_bytes()); // redo
        payload.extend_from_slice(&tli.to_le_bytes()); // ThisTimeLineID
        payload.extend_from_slice(&tli.to_le_bytes()); // PrevTimeLineID
        payload.extend_from_slice(&1_u64.to_le_bytes()); // fullPageWrites
        payload.extend_from_slice(&750_u64.to_le_bytes()); // nextXid
        for word in [
            16_384_u32, // nextOid: FirstNormalObjectId
            1,          // nextMulti
            0,          // nextMultiOffset
            717,        // oldestXid
            1,          // oldestXidDB
            1,          // oldestMulti
            1,          // oldestMultiDB
            0,          // padding
        ] {
            payload.extend_from_slice(&word.to_le_bytes());
        }
        // time, oldestCommitTsXid, newestCommitTsXid, oldestActiveXid, padding
        payload.extend_from_slice(&[0; 8 + 4 + 4 + 4 + 4]);
        self.writer.append_record(RM_XLOG, XLOG_CHECKPOINT_SHUTDOWN, 0, &[&payload], out)
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
    usize::try_from(next_random(random) % len_u64(bound)).unwrap_or(0)
}

/// `SplitMix64`.
const fn next_random(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *random;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What stands before the main data of a record without block references.
fn main_data_header(len: usize) -> Vec<u8> {
    let mut header = Vec::with_capacity(64);
    match u8::try_from(len) {
        Ok(len) => header.extend_from_slice(&[BLOCK_ID_DATA_SHORT, len]),
        Err(_) => {
            header.push(BLOCK_ID_DATA_LONG);
            header.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        }
    }
    header
}

fn len_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
