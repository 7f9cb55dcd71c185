//! The mark: how far the WAL was durable a moment ago.
//!
//! The control file's bound moves with segments and checkpoints. Between its moves a record that became
//! damaged would look like the torn end that a crash leaves, with everything after it. So what is called
//! durable is noted here some hundred times a second, without waiting for the note to be durable itself:
//! whatever of it survives was true when it was written, for a flush had completed before. After a process
//! was killed the note is at most a moment old; after a power loss it may be older, never wrong.
//!
//! Layout, little-endian, in one sector, so that a torn write leaves the old note or the new:
//!
//! ```text
//!    0  8  "walhubDU"            24  8  flush_lsn
//!    8  8  system_identifier     32  8  lost_to, zero when nothing is missing
//!   16  4  timeline              40  4  CRC-32C of all before
//!   20  4  zero                  44  .. zeros
//! ```

use alloc::vec::Vec;

use crate::lsn::{Lsn, SystemIdentifier, TimelineId};
use crate::record::Crc32c;

/// Bytes of the file: one disk block.
pub const MARK_LEN: usize = 4096;
const MAGIC: &[u8; 8] = b"walhubDU";
const CRC_AT: usize = 40;

/// Up to where WAL was durable when the mark was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DurableMark {
    /// The cluster whose WAL it is.
    pub system_identifier: SystemIdentifier,
    /// The timeline that `flush_lsn` is a position of.
    pub timeline: TimelineId,
    /// A lower bound of what is durable.
    pub flush_lsn: Lsn,
    /// WAL up to here was durable once, was found damaged, and has not come again yet.
    pub lost_to: Option<Lsn>,
}

impl DurableMark {
    /// The block to write.
    #[must_use]
    pub fn encode(&self, crc: Crc32c) -> Vec<u8> {
        let mut block = Vec::with_capacity(MARK_LEN);
        block.extend_from_slice(MAGIC);
        block.extend_from_slice(&self.system_identifier.0.to_le_bytes());
        block.extend_from_slice(&self.timeline.to_u32().to_le_bytes());
        block.extend_from_slice(&[0; 4]);
        block.extend_from_slice(&self.flush_lsn.0.to_le_bytes());
        block.extend_from_slice(&self.lost_to.unwrap_or(Lsn::INVALID).0.to_le_bytes());
        let checksum = crc(0, &block);
        block.extend_from_slice(&checksum.to_le_bytes());
        block.resize(MARK_LEN, 0);
        block
    }

    /// Decodes the block; `None` when it is none, for then nothing is known.
    #[must_use]
    pub fn decode(block: &[u8], crc: Crc32c) -> Option<Self> {
        let (checked, rest) = block.split_at_checked(CRC_AT)?;
        let stored = u32::from_le_bytes(*rest.first_chunk()?);
        let (magic, rest) = checked.split_first_chunk::<8>()?;
        if magic != MAGIC || crc(0, checked) != stored {
            return None;
        }
        let (system_identifier, rest) = rest.split_first_chunk()?;
        let (timeline, rest) = rest.split_first_chunk()?;
        let (_, rest) = rest.split_first_chunk::<4>()?;
        let (flush_lsn, rest) = rest.split_first_chunk()?;
        let (lost_to, _) = rest.split_first_chunk()?;
        Some(Self {
            system_identifier: SystemIdentifier(u64::from_le_bytes(*system_identifier)),
            timeline: TimelineId::new(u32::from_le_bytes(*timeline))?,
            flush_lsn: Lsn(u64::from_le_bytes(*flush_lsn)),
            lost_to: Lsn(u64::from_le_bytes(*lost_to)).valid(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_a_damaged_one_says_nothing() {
        let mark = DurableMark {
            system_identifier: SystemIdentifier(u64::MAX - 7),
            timeline: TimelineId::new(5).unwrap(),
            flush_lsn: Lsn(0x1_2345_6789),
            lost_to: None,
        };
        for mark in [mark, DurableMark { lost_to: Some(Lsn(0x2_0000_0000)), ..mark }] {
            let block = mark.encode(crc32c::crc32c_append);
            assert_eq!(block.len(), MARK_LEN);
            assert_eq!(DurableMark::decode(&block, crc32c::crc32c_append), Some(mark));
            for at in 0..CRC_AT + 4 {
                let mut damaged = block.clone();
                damaged[at] ^= 1;
                assert_eq!(DurableMark::decode(&damaged, crc32c::crc32c_append), None, "byte {at}");
                assert_eq!(DurableMark::decode(&block[..at], crc32c::crc32c_append), None);
            }
        }
        assert_eq!(DurableMark::decode(&[0; MARK_LEN], crc32c::crc32c_append), None);
    }
}
