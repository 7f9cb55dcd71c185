//! How many transaction ids may yet be given out.
//!
//! Ids are compared on a circle: one that lies more than half of it after the oldest that rows still
//! have would be taken for an older one. On a hot standby it comes out of order, and the standby ends.
//!
//! Not here: who moves the oldest on (VACUUM, of which walhub has none), what a session is told.
//!
//! PostgreSQL: `SetTransactionIdLimit`, `GetNewTransactionId` (src/backend/access/transam/varsup.c).

use super::FIRST_NORMAL_XID;
use crate::page::WalVersion;

/// PostgreSQL: `MaxTransactionId >> 1`.
const HALF_CIRCLE: u32 = u32::MAX >> 1;
/// The oldest id is moved on without being asked when it is so old.
/// PostgreSQL: the default of `autovacuum_freeze_max_age`.
const FREEZE_MAX_AGE: u32 = 200_000_000;

/// Whether another transaction id may be given out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XidRoom {
    /// It may, and there are ids enough.
    Ample,
    /// It may; so many ids are left before old rows would be taken for new ones.
    Scarce {
        /// How many ids may still be given.
        left: u32,
    },
    /// No id may be given: the database would wrap around.
    Exhausted,
}

/// The limits that follow from the oldest transaction id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XidLimits {
    oldest: u32,
    /// PostgreSQL: `xidWarnLimit`.
    warn: u32,
    /// PostgreSQL: `xidStopLimit`.
    stop: u32,
    /// PostgreSQL: `xidWrapLimit`.
    wrap: u32,
}

impl XidLimits {
    /// Those of a server that writes WAL of `version`; 14 has moved them.
    #[must_use]
    pub const fn new(oldest: u32, version: WalVersion) -> Self {
        let (stop_before, warn_before) = if version.is_since(WalVersion::PG14) {
            (3_000_000, 40_000_000)
        } else {
            (1_000_000, 11_000_000)
        };
        let wrap = oldest.wrapping_add(HALF_CIRCLE);
        let wrap = if wrap < FIRST_NORMAL_XID { wrap + FIRST_NORMAL_XID } else { wrap };
        let (stop, warn) = (before(wrap, stop_before), before(wrap, warn_before));
        Self { oldest, warn, stop, wrap }
    }

    /// Whether `xid` may be given out. The ages of ids are compared and not the ids: one that is already
    /// past half of the circle is past the limit, too.
    #[must_use]
    pub const fn room(&self, xid: u32) -> XidRoom {
        let age = self.age(xid);
        if age >= self.age(self.stop) {
            XidRoom::Exhausted
        } else if age >= self.age(self.warn) {
            XidRoom::Scarce { left: self.wrap.wrapping_sub(xid) }
        } else {
            XidRoom::Ample
        }
    }

    /// Whether the oldest id is so old, at `xid`, that it should be moved on.
    #[must_use]
    pub const fn should_freeze(&self, xid: u32) -> bool {
        self.age(xid) >= FREEZE_MAX_AGE
    }

    const fn age(&self, xid: u32) -> u32 {
        xid.wrapping_sub(self.oldest)
    }
}

/// The id `count` before `xid`, or the next one before that which is no reserved one.
const fn before(xid: u32, count: u32) -> u32 {
    let limit = xid.wrapping_sub(count);
    if limit < FIRST_NORMAL_XID { limit.wrapping_sub(FIRST_NORMAL_XID) } else { limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(oldest: u32, xid: u32) -> XidRoom {
        XidLimits::new(oldest, WalVersion::PG15).room(xid)
    }

    #[test]
    fn ids_end_three_million_before_half_of_the_circle_also_where_it_closes() {
        for oldest in [3, 726, 1 << 31, (1 << 31) + 3_000_002, u32::MAX - 5, u32::MAX] {
            let wrap = oldest.wrapping_add(HALF_CIRCLE);
            let stop = wrap.wrapping_sub(3_000_000);
            assert_eq!(room(oldest, oldest), XidRoom::Ample);
            assert_eq!(room(oldest, wrap.wrapping_sub(40_000_010)), XidRoom::Ample);
            for left in [39_999_990, 3_000_010] {
                let XidRoom::Scarce { left: got } = room(oldest, wrap.wrapping_sub(left)) else {
                    panic!("{oldest}: {left} left")
                };
                assert!(got.abs_diff(left) <= 3, "{oldest}: {got}, {left}");
            }
            // Past the limit, past half of the circle, and nearly all of the way round.
            for past in [5, 1_000_000, 3_000_000, 3_000_010, 1 << 30, 2_000_000_000] {
                assert_eq!(room(oldest, stop.wrapping_add(past)), XidRoom::Exhausted, "{past}");
            }
        }
    }

    /// A standby keeps the ids that run in the order of the circle. PostgreSQL: `KnownAssignedXidsAdd`
    /// ends it with "out-of-order XID insertion".
    #[test]
    fn an_id_that_is_given_out_comes_after_every_id_that_may_still_run_on_a_standby() {
        let follows = |xid: u32, older: u32| xid.wrapping_sub(older).cast_signed() > 0;
        for oldest in [3, 726, 5_000_000, 1 << 31, u32::MAX - 3_000_000, u32::MAX] {
            let mut counters = crate::rmgr::counters::Counters::first();
            counters.oldest_xid = oldest;
            for ahead in [2_107_483_000, 2_144_483_600_u64] {
                counters.next_xid = u64::from(oldest) + ahead;
                let mut given = 0;
                while room(oldest, crate::rmgr::xid_of(counters.next_xid)) != XidRoom::Exhausted {
                    let xid = counters.take_xid();
                    assert!(
                        xid >= FIRST_NORMAL_XID && follows(xid, oldest),
                        "{xid} after {oldest}"
                    );
                    given += 1;
                    if given > 5_000 {
                        break;
                    }
                }
                assert!(given > 40, "{oldest}: {given}");
            }
        }
    }

    #[test]
    fn the_limits_are_postgresqls() {
        // As pg_controldata and SetTransactionIdLimit's DEBUG1 message of 15 have them.
        let limits = XidLimits::new(716, WalVersion::PG15);
        assert_eq!(
            (limits.wrap, limits.stop, limits.warn),
            (2_147_484_363, 2_144_484_363, 2_107_484_363)
        );
        let limits = XidLimits::new(716, WalVersion::PG13);
        assert_eq!(
            (limits.wrap, limits.stop, limits.warn),
            (2_147_484_363, 2_146_484_363, 2_136_484_363)
        );
        // None of them is a reserved id.
        assert_eq!(XidLimits::new(0x8000_0002, WalVersion::PG15).wrap, 4);
        let stop = |oldest| XidLimits::new(oldest, WalVersion::PG15).stop;
        assert_eq!(stop(0x8000_0001_u32.wrapping_add(3_000_000)), u32::MAX - 2);
    }

    #[test]
    fn the_oldest_is_moved_on_every_200_million_ids() {
        let limits = XidLimits::new(u32::MAX - 9, WalVersion::PG18);
        assert!(!limits.should_freeze(199_999_989));
        assert!(limits.should_freeze(199_999_990));
    }
}
