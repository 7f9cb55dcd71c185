//! WAL made in memory before the clock runs, cut into the messages that a primary would send.

use walhub_proto::convert::{to_u64, to_usize};
use walhub_proto::generate::{WalGenerator, WalShape, next_random};
use walhub_proto::lsn::{Lsn, SystemIdentifier, TimelineId};
use walhub_proto::page::WalVersion;
use walhub_proto::segment::SegmentSize;

use crate::peer::postgres::EndOfWal;

/// The most WAL in one message. PostgreSQL: `MAX_SEND_SIZE`.
const MESSAGE_BYTES_MAX: usize = 128 << 10;
/// The longest commit.
const COMMIT_LEN_MAX: usize = 8 << 10;

/// How the WAL comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// Full messages, as fast as they are taken: a bulk load, or catching up.
    Bulk,
    /// One message per commit, of 200 bytes to 8 kB.
    Commits,
}

/// WAL and where its messages end.
#[derive(Clone, Debug)]
pub struct Wal {
    /// The bytes, from [`Wal::start`] on.
    pub bytes: Vec<u8>,
    /// Offset in `bytes` of the end of each message.
    pub message_ends: Vec<usize>,
    start: Lsn,
    shape: WalShape,
}

impl Wal {
    /// At least `bytes_min` bytes of whole records, with which the WAL of a cluster goes on that was
    /// shut down. They begin with its last segment.
    #[must_use]
    pub fn generate(load: Load, bytes_min: usize, after: &EndOfWal) -> Self {
        let shape = WalShape {
            system_identifier: after.system_identifier,
            segment_size: after.segment_size,
            timeline: TimelineId::FIRST,
            version: after.version,
            crc: crc32c::crc32c_append,
        };
        let mut generator = WalGenerator::after(15, shape, after.end(), after.last_record);
        let mut bytes = Vec::with_capacity(bytes_min + (1 << 20));
        bytes.extend_from_slice(&after.segment);
        let mut message_ends = Vec::new();
        match load {
            Load::Bulk => {
                generator.fill(bytes_min, &mut bytes);
                message_ends.extend(
                    (1..).map(|n| n * MESSAGE_BYTES_MAX).take_while(|&end| end < bytes.len()),
                );
            }
            Load::Commits => {
                // No record is longer than the window of a source may be: a receiver that checks
                // records flushes whole ones only.
                let mut random = 15;
                let noise = noise(&mut random);
                message_ends.push(bytes.len());
                while bytes.len() < bytes_min {
                    let message = noise.get(..commit_len(&mut random)).unwrap_or_default();
                    generator.append_message(message, &mut bytes);
                    message_ends.push(bytes.len());
                }
            }
        }
        if message_ends.last() != Some(&bytes.len()) {
            message_ends.push(bytes.len());
        }
        Self { bytes, message_ends, start: after.start, shape }
    }

    /// Position of the first byte.
    #[must_use]
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// One past the last byte.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.lsn(self.bytes.len())
    }

    /// Position of the byte at `offset`.
    #[must_use]
    pub fn lsn(&self, offset: usize) -> Lsn {
        self.start + to_u64(offset)
    }

    /// Whose it is.
    #[must_use]
    pub fn system_identifier(&self) -> SystemIdentifier {
        self.shape.system_identifier
    }

    /// Which PostgreSQL could have written it.
    #[must_use]
    pub fn version(&self) -> WalVersion {
        self.shape.version
    }

    /// Size of its segments.
    #[must_use]
    pub fn segment_size(&self) -> SegmentSize {
        self.shape.segment_size
    }
}

/// Bytes that messages of commits are cut from.
fn noise(random: &mut u64) -> Vec<u8> {
    (0..COMMIT_LEN_MAX / 8).flat_map(|_| next_random(random).to_le_bytes()).collect()
}

/// 200 bytes to 8 kB, small ones more often: the size doubles evenly.
fn commit_len(random: &mut u64) -> usize {
    let shift = next_random(random) % 5;
    let base = 200_u64 << shift;
    to_usize(base + next_random(random) % base).min(COMMIT_LEN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of a cluster that had begun a segment before.
    fn shut_down() -> EndOfWal {
        EndOfWal {
            system_identifier: SystemIdentifier(7_300_000_000_000_000_001),
            segment_size: SegmentSize::DEFAULT,
            version: WalVersion::PG15,
            start: Lsn(16 << 20),
            last_record: Lsn((16 << 20) + 40),
            segment: vec![0; 160],
        }
    }

    #[test]
    fn messages_cover_the_wal_and_none_is_too_long() {
        for load in [Load::Bulk, Load::Commits] {
            let wal = Wal::generate(load, 3 << 20, &shut_down());
            assert!(wal.bytes.len() >= 3 << 20);
            assert_eq!(wal.message_ends.last(), Some(&wal.bytes.len()));
            let starts = std::iter::once(&0).chain(&wal.message_ends);
            for (start, end) in starts.zip(&wal.message_ends) {
                assert!(start < end && end - start <= MESSAGE_BYTES_MAX, "{load:?} {start} {end}");
            }
        }
    }

    #[test]
    fn most_commits_are_small() {
        let wal = Wal::generate(Load::Commits, 4 << 20, &shut_down());
        let mean = wal.bytes.len() / wal.message_ends.len();
        assert!((1000..4000).contains(&mean), "{mean}");
    }
}
