//! Prepared transactions as words of 32 bits, of which a control file has room for so many.
//!
//! ```text
//!   number of transactions, number of unseen subtransactions and whether there are too many,
//!   of each transaction: its id; its subtransactions and whether there are too many, its locks and whether
//!                        it is unseen; the subtransactions; database and relation of each lock
//!   the unseen subtransactions
//! ```
//!
//! Where there is not room for all, subtransactions are left out, which is the same as too many, then locks.

use alloc::vec::Vec;

use crate::convert::to_u32;

use super::{LOCKS_MAX, PREPARED_MAX, Prepared, PreparedXacts, SUBXIDS_MAX};

/// Words that [`PreparedXacts::words`] gives at most.
pub const PREPARED_WORDS_MAX: usize = 720;
const _: () = assert!(2 + 2 * PREPARED_MAX <= PREPARED_WORDS_MAX);

/// The flag of subtransactions that were too many to be named.
const OVERFLOWED: u32 = 1 << 31;
/// Not seen to begin.
const UNSEEN: u32 = 1 << 30;
/// The number of subtransactions begins at this bit; below it is that of the locks.
const SUBXIDS_SHIFT: u32 = 16;
const LOCKS_MASK: u32 = (1 << SUBXIDS_SHIFT) - 1;
const SUBXIDS_MASK: u32 = (1 << 8) - 1;
const _: () = assert!(SUBXIDS_MAX <= 0xFF && LOCKS_MAX <= 0xFFFF);

impl PreparedXacts {
    /// As words; `None` when even the ids are too many.
    #[must_use]
    pub fn words(&self) -> Option<Vec<u32>> {
        if self.len() > PREPARED_MAX {
            return None;
        }
        let fits = |xacts: &Self| Some(xacts.all_words()).filter(|w| w.len() <= PREPARED_WORDS_MAX);
        fits(self).or_else(|| fits(&self.without_subxids())).or_else(|| {
            let mut less = self.without_subxids();
            less.xacts.values_mut().for_each(|xact| xact.locks.clear());
            fits(&less)
        })
    }

    fn without_subxids(&self) -> Self {
        let mut less = self.clone();
        for xact in less.xacts.values_mut() {
            xact.is_overflowed |= !xact.subxids.is_empty();
            xact.subxids.clear();
        }
        less.unseen_overflowed |= !less.unseen_subxids.is_empty();
        less.unseen_subxids.clear();
        less
    }

    fn all_words(&self) -> Vec<u32> {
        let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
        let unseen = flag(self.unseen_overflowed, OVERFLOWED);
        let mut words = Vec::from([to_u32(self.len()), to_u32(self.unseen_subxids.len()) | unseen]);
        for (&xid, xact) in &self.xacts {
            let counts = to_u32(xact.subxids.len()) << SUBXIDS_SHIFT | to_u32(xact.locks.len());
            let flags = flag(xact.is_overflowed, OVERFLOWED) | flag(xact.is_unseen, UNSEEN);
            words.extend_from_slice(&[xid, counts | flags]);
            words.extend_from_slice(&xact.subxids);
            words.extend(xact.locks.iter().flat_map(|&(database, relation)| [database, relation]));
        }
        words.extend(&self.unseen_subxids);
        words
    }

    /// The reverse of [`PreparedXacts::words`]; `None` when that has not made them.
    #[must_use]
    pub fn of_words(words: &[u32]) -> Option<Self> {
        let mut words = words.iter().copied();
        let mut xacts = Self::default();
        let (xact_count, unseen) = (words.next()?, words.next()?);
        xacts.unseen_overflowed = unseen & OVERFLOWED != 0;
        for _ in 0..xact_count {
            let (xid, counts) = (words.next()?, words.next()?);
            let mut xact = Prepared {
                is_overflowed: counts & OVERFLOWED != 0,
                is_unseen: counts & UNSEEN != 0,
                ..Prepared::default()
            };
            for _ in 0..(counts >> SUBXIDS_SHIFT & SUBXIDS_MASK) {
                xact.subxids.push(words.next()?);
            }
            for _ in 0..(counts & LOCKS_MASK) {
                xact.locks.insert((words.next()?, words.next()?));
            }
            xacts.xacts.insert(xid, xact);
        }
        for _ in 0..(unseen & !OVERFLOWED) {
            xacts.unseen_subxids.insert(words.next()?);
        }
        Some(xacts)
    }
}
