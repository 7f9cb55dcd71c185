//! Hot standby feedback of many standbys, as one.
//!
//! Each standby says which transaction is the oldest that its queries need; the upstream hears the
//! oldest of all.
//!
//! PostgreSQL: `ProcessStandbyHSFeedbackMessage`, `TransactionIdInRecentPast` (walsender.c),
//! `XLogWalRcvSendHSFeedback` (walreceiver.c).

use crate::time::Timestamp;
use crate::wire::copy::HotStandbyFeedback;

/// The first transaction id that is not reserved. PostgreSQL: `FirstNormalTransactionId`.
const FIRST_NORMAL_XID: u32 = 3;

/// A transaction id with its epoch. Never a reserved one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FullTransactionId(u64);

impl FullTransactionId {
    /// `None` for a reserved id, such as the invalid one.
    #[must_use]
    pub const fn new(epoch: u32, xid: u32) -> Option<Self> {
        if xid < FIRST_NORMAL_XID {
            return None;
        }
        let [e0, e1, e2, e3] = epoch.to_be_bytes();
        let [x0, x1, x2, x3] = xid.to_be_bytes();
        Some(Self(u64::from_be_bytes([e0, e1, e2, e3, x0, x1, x2, x3])))
    }

    /// As one number, with the epoch in front; `None` for a reserved id. PostgreSQL:
    /// `FullTransactionIdFromU64`.
    #[must_use]
    pub const fn from_u64(number: u64) -> Option<Self> {
        let [e0, e1, e2, e3, x0, x1, x2, x3] = number.to_be_bytes();
        Self::new(u32::from_be_bytes([e0, e1, e2, e3]), u32::from_be_bytes([x0, x1, x2, x3]))
    }

    /// The reverse of [`FullTransactionId::from_u64`].
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// How often ids had wrapped around.
    #[must_use]
    pub const fn epoch(self) -> u32 {
        let [e0, e1, e2, e3, ..] = self.0.to_be_bytes();
        u32::from_be_bytes([e0, e1, e2, e3])
    }

    /// The id as tuples carry it.
    #[must_use]
    pub const fn xid(self) -> u32 {
        let [.., x0, x1, x2, x3] = self.0.to_be_bytes();
        u32::from_be_bytes([x0, x1, x2, x3])
    }

    /// Whether this lies before `next`, and not so far that its id has been used again.
    /// PostgreSQL: `TransactionIdInRecentPast`.
    #[must_use]
    pub const fn is_in_recent_past(self, next: Self) -> bool {
        self.0 <= next.0 && next.0 - self.0 <= 1 << 31
    }
}

/// The oldest transactions that standbys need; by default none does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Horizons {
    /// For rows of tables.
    pub xmin: Option<FullTransactionId>,
    /// For rows of the catalogue.
    pub catalog_xmin: Option<FullTransactionId>,
}

impl Horizons {
    /// What one standby said.
    #[must_use]
    pub const fn of(feedback: &HotStandbyFeedback) -> Self {
        Self {
            xmin: FullTransactionId::new(feedback.xmin_epoch, feedback.xmin),
            catalog_xmin: FullTransactionId::new(
                feedback.catalog_xmin_epoch,
                feedback.catalog_xmin,
            ),
        }
    }

    /// Whether no standby needs any.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.xmin.is_none() && self.catalog_xmin.is_none()
    }

    /// The older of each.
    #[must_use]
    pub fn oldest(self, other: Self) -> Self {
        let oldest = |one: Option<_>, other: Option<_>| one.into_iter().chain(other).min();
        Self {
            xmin: oldest(self.xmin, other.xmin),
            catalog_xmin: oldest(self.catalog_xmin, other.catalog_xmin),
        }
    }

    /// Whether each lies in the recent past of `next`; feedback that does not is ignored whole.
    #[must_use]
    pub fn are_in_recent_past(self, next: FullTransactionId) -> bool {
        let fits =
            |xid: Option<FullTransactionId>| xid.is_none_or(|xid| xid.is_in_recent_past(next));
        fits(self.xmin) && fits(self.catalog_xmin)
    }

    /// The message that says so; zeros where no standby needs any.
    #[must_use]
    pub fn message(self, sent: Timestamp) -> HotStandbyFeedback {
        let parts = |xid: Option<FullTransactionId>| xid.map_or((0, 0), |x| (x.xid(), x.epoch()));
        let (xmin, xmin_epoch) = parts(self.xmin);
        let (catalog_xmin, catalog_xmin_epoch) = parts(self.catalog_xmin);
        HotStandbyFeedback { sent, xmin, xmin_epoch, catalog_xmin, catalog_xmin_epoch }
    }
}

impl FromIterator<Self> for Horizons {
    /// The oldest of all.
    fn from_iter<I: IntoIterator<Item = Self>>(all: I) -> Self {
        all.into_iter().fold(Self::default(), Self::oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(epoch: u32, xid: u32) -> Option<FullTransactionId> {
        FullTransactionId::new(epoch, xid)
    }

    #[test]
    fn reserved_ids_are_none() {
        for xid in 0..FIRST_NORMAL_XID {
            assert_eq!(full(7, xid), None);
        }
        let xid = full(7, 3).unwrap();
        assert_eq!((xid.epoch(), xid.xid()), (7, 3));
        assert_eq!(FullTransactionId::from_u64(xid.to_u64()), Some(xid));
        assert_eq!(FullTransactionId::from_u64((7 << 32) + 2), None);
    }

    #[test]
    fn the_oldest_is_by_epoch_then_id_and_each_kind_apart() {
        let all = [
            Horizons { xmin: full(1, 10), catalog_xmin: None },
            Horizons { xmin: full(0, 4_000_000_000), catalog_xmin: full(1, 3) },
            Horizons { xmin: None, catalog_xmin: full(1, 9) },
        ];
        let oldest: Horizons = all.into_iter().collect();
        assert_eq!(oldest, Horizons { xmin: full(0, 4_000_000_000), catalog_xmin: full(1, 3) });
        assert_eq!(Horizons::from_iter([]), Horizons::default());
    }

    #[test]
    fn recent_past_ends_at_the_next_id_and_half_a_circle_back() {
        let next = full(1, 100).unwrap();
        assert!(next.is_in_recent_past(next));
        assert!(full(0, u32::MAX).unwrap().is_in_recent_past(next));
        assert!(!full(1, 101).unwrap().is_in_recent_past(next));
        assert!(!full(0, 100).unwrap().is_in_recent_past(next));
        assert!(full(0, 100 + (1 << 31)).unwrap().is_in_recent_past(next));
        assert!(!full(0, 99 + (1 << 31)).unwrap().is_in_recent_past(next));
        let far = Horizons { xmin: full(1, 99), catalog_xmin: full(2, 3) };
        assert!(!far.are_in_recent_past(next));
    }

    #[test]
    fn a_message_says_what_was_heard() {
        let heard = HotStandbyFeedback {
            sent: Timestamp(1),
            xmin: 700,
            xmin_epoch: 2,
            catalog_xmin: 0,
            catalog_xmin_epoch: 9,
        };
        let said = Horizons::of(&heard).message(Timestamp(5));
        let want = HotStandbyFeedback { sent: Timestamp(5), catalog_xmin_epoch: 0, ..heard };
        assert_eq!(said, want);
    }
}
