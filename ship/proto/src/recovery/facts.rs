//! The part of the control file that says what outlives the primary.
//!
//! ```text
//!    0  4  flags: 1 it is known which transactions are prepared, 2 wal_level is known
//!    4  4  wal_level
//!    8  4  number of words of prepared transactions
//!   12  4  number of holders of locks
//!   16  .. the words (`rmgr::prepared`), then the holders' ids
//! ```
//!
//! A version of walhub that did not know of it left zeros: what is prepared is then not known, until the
//! upstream lists what runs. Of WAL of its own that version has said that nothing is.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::convert::to_u32;
use crate::rmgr::facts::{DatabaseFacts, HOLDERS_MAX};
use crate::rmgr::prepared::{PREPARED_WORDS_MAX, PreparedXacts};
use crate::rmgr::xlog::WalLevel;

/// Where in a copy of the control file the part begins.
pub(super) const AT: usize = 1024;
const HEAD_WORDS: usize = 4;
/// Words of all together. Holders that do not fit are left out: a standby keeps their locks, no more.
const WORDS_MAX: usize = 766;
/// Bytes that the part has at most.
pub(super) const LEN_MAX: usize = 4 * WORDS_MAX;
const _: () = assert!(HEAD_WORDS + PREPARED_WORDS_MAX <= WORDS_MAX);

const PREPARED_KNOWN: u32 = 1;
const WAL_LEVEL_KNOWN: u32 = 2;

pub(super) fn encode(facts: &DatabaseFacts, block: &mut Vec<u8>) {
    let prepared = facts.prepared.as_ref().and_then(|prepared| prepared.words());
    let mut flags = if prepared.is_some() { PREPARED_KNOWN } else { 0 };
    if facts.wal_level.is_some() {
        flags |= WAL_LEVEL_KNOWN;
    }
    let words = prepared.unwrap_or_default();
    let room = WORDS_MAX - HEAD_WORDS - words.len();
    let holders = facts.lock_holders.get(..room.min(facts.lock_holders.len())).unwrap_or_default();
    let wal_level = facts.wal_level.map_or(0, WalLevel::number);
    let head = [flags, wal_level, to_u32(words.len()), to_u32(holders.len())];
    for word in head.iter().chain(&words).chain(holders) {
        block.extend_from_slice(&word.to_le_bytes());
    }
}

/// `None` when nothing has written that.
pub(super) fn decode(part: &[u8], own_wal: bool) -> Option<DatabaseFacts> {
    let (words, _) = part.as_chunks::<4>();
    let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let (&[flags, wal_level, count, holders], words) = words.split_first_chunk()?;
    if flags == 0 && own_wal {
        return Some(DatabaseFacts::of_own_wal());
    }
    let (prepared, words) = words.split_at_checked(usize::try_from(count).ok()?)?;
    let (holders, _) = words.split_at_checked(usize::try_from(holders).ok()?)?;
    let prepared = match flags & PREPARED_KNOWN {
        0 => None,
        _ => Some(Arc::new(PreparedXacts::of_words(prepared)?)),
    };
    let holders = holders.get(..HOLDERS_MAX.min(holders.len()))?;
    let wal_level = Some(WalLevel::of_number(wal_level)).filter(|_| flags & WAL_LEVEL_KNOWN != 0);
    Some(DatabaseFacts { prepared, lock_holders: Arc::new(holders.to_vec()), wal_level })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;
    use crate::record::{RecordHeader, RecordSink};
    use crate::rmgr::standby::{RunningXacts, XLOG_RUNNING_XACTS};
    use crate::rmgr::{RM_STANDBY, facts::FactReader, facts::Facts};

    fn round_trip(facts: &DatabaseFacts, own_wal: bool) -> Option<DatabaseFacts> {
        let mut block = Vec::new();
        encode(facts, &mut block);
        assert!(block.len() <= LEN_MAX);
        block.resize(LEN_MAX, 0);
        decode(&block, own_wal)
    }

    /// As after a list of running transactions that began before all WAL.
    fn unseen(xids: Vec<u32>) -> DatabaseFacts {
        let mut reader = FactReader::new(Lsn(8), Facts::default());
        let body = RunningXacts { xids, ..RunningXacts::none(10_000) }.body();
        let (start, end) = (Lsn(8), Lsn(800));
        let info = XLOG_RUNNING_XACTS;
        let record =
            RecordHeader { start, end, prev: Lsn(0), len: 0, xid: 0, rmid: RM_STANDBY, info };
        reader.body(&record, &body);
        reader.record(&record);
        reader.facts().database
    }

    #[test]
    fn what_is_known_round_trips() {
        let lock_holders = Arc::new(Vec::from([700, 710]));
        for wal_level in [None, Some(WalLevel::Replica), Some(WalLevel::Logical)] {
            for xids in [[].to_vec(), [500, 600].to_vec()] {
                let lock_holders = Arc::clone(&lock_holders);
                let facts = DatabaseFacts { lock_holders, wal_level, ..unseen(xids) };
                assert_eq!(round_trip(&facts, false), Some(facts));
            }
            let facts = DatabaseFacts { wal_level, ..DatabaseFacts::default() };
            assert_eq!(round_trip(&facts, false), Some(facts));
        }
    }

    #[test]
    fn a_file_of_before_knows_nothing_of_a_relay_and_that_own_wal_has_no_database() {
        assert_eq!(decode(&[0; LEN_MAX], false), Some(DatabaseFacts::default()));
        assert_eq!(decode(&[0; LEN_MAX], true), Some(DatabaseFacts::of_own_wal()));
    }

    #[test]
    fn too_many_are_not_known() {
        let facts = unseen((100..100 + 2000).collect());
        assert!(facts.prepared.is_some());
        assert_eq!(round_trip(&facts, false), Some(DatabaseFacts::default()));
    }

    #[test]
    fn as_many_holders_as_the_part_has_room_for_are_kept() {
        let lock_holders: Arc<Vec<u32>> = Arc::new((1000..1000 + 256).collect());
        let facts = DatabaseFacts { lock_holders, ..unseen((100..100 + 300).collect()) };
        let words = facts.prepared.as_ref().unwrap().words().unwrap().len();
        let room = 766 - 4 - words;
        assert!((1..256).contains(&room), "{room}");
        let mut block = Vec::new();
        encode(&facts, &mut block);
        assert_eq!((block.len(), LEN_MAX), (3064, 3064));
        let kept = decode(&block, false).unwrap();
        assert_eq!(kept.lock_holders.as_slice(), &facts.lock_holders[..room]);
        assert_eq!(kept.prepared, facts.prepared);
    }

    #[test]
    fn numbers_that_lead_out_of_the_file_are_refused() {
        for (flags, count, holders) in [(1, 10_000, 0), (2, 0, 10_000), (1, 1, 0), (3, u32::MAX, 1)]
        {
            let mut block = Vec::new();
            for word in [flags, 1, count, holders] {
                block.extend_from_slice(&u32::to_le_bytes(word));
            }
            block.resize(LEN_MAX, 0);
            assert_eq!(decode(&block, false), None);
        }
    }
}
