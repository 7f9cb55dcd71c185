//! Pages of per-transaction states, which whoever gives out transaction ids must begin.
//!
//! A standby that replays a commit looks for its transaction's page, and stops when the page was never made.
//!
//! PostgreSQL: `ExtendCLOG` (src/backend/access/transam/clog.c), `ExtendCommitTs` (commit_ts.c).

use alloc::vec::Vec;

use super::counters::Counters;
use super::{FIRST_NORMAL_XID, RM_CLOG, RM_COMMIT_TS, body_of, xid_of};
use crate::page::WalVersion;

/// A new page of zeros. PostgreSQL: `CLOG_ZEROPAGE`, `COMMIT_TS_ZEROPAGE`.
pub const ZEROPAGE: u8 = 0x00;
/// PostgreSQL: `CLOG_XACTS_PER_PAGE`.
const CLOG_XACTS_PER_PAGE: u32 = 8192 * 4;
/// PostgreSQL: `COMMIT_TS_XACTS_PER_PAGE`.
const COMMIT_TS_XACTS_PER_PAGE: u32 = 8192 / 10;

/// The records that must come before the next transaction id is given out, each as its resource manager
/// and body; mostly there are none.
#[must_use]
pub fn pages_before(counters: &Counters, version: WalVersion) -> [Option<(u8, Vec<u8>)>; 2] {
    let xid = xid_of(counters.next_xid).max(FIRST_NORMAL_XID);
    // A new cluster has the first page.
    let is_wrapped = xid == FIRST_NORMAL_XID && counters.next_xid > u64::from(u32::MAX);
    let page = |rmid, per_page: u32| {
        let is_first = xid.is_multiple_of(per_page) || is_wrapped;
        is_first.then(|| (rmid, zero_page(xid / per_page, version)))
    };
    let has_commit_ts = counters.newest_commit_ts_xid != 0;
    [
        page(RM_CLOG, CLOG_XACTS_PER_PAGE),
        page(RM_COMMIT_TS, COMMIT_TS_XACTS_PER_PAGE).filter(|_| has_commit_ts),
    ]
}

/// 17 has made page numbers longer.
fn zero_page(page: u32, version: WalVersion) -> Vec<u8> {
    if version.is_since(WalVersion::PG17) {
        body_of(&u64::from(page).to_le_bytes())
    } else {
        body_of(&page.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_begins_with_its_first_transaction() {
        let pages = |next_xid, newest_commit_ts_xid| {
            let counters = Counters { next_xid, newest_commit_ts_xid, ..Counters::first() };
            pages_before(&counters, WalVersion::PG15).map(|page| page.map(|(_, body)| body[2]))
        };
        assert_eq!(pages(3, 3), [None, None]);
        assert_eq!(pages(32_767, 0), [None, None]);
        assert_eq!(pages(32_768, 0), [Some(1), None]);
        assert_eq!(pages(819 * 5, 0), [None, None]);
        assert_eq!(pages(819 * 5, 3), [None, Some(5)]);
        for wrapped in [1 << 32, (1 << 32) + 3] {
            assert_eq!(pages(wrapped, 3), [Some(0), Some(0)]);
        }
        assert_eq!(pages((7 << 32) + 32_768, 0), [Some(1), None]);
    }

    #[test]
    fn page_numbers_are_longer_since_17() {
        let counters = Counters { next_xid: 0x0100_0000, ..Counters::first() };
        let [clog, _] = pages_before(&counters, WalVersion::PG16);
        assert_eq!(clog, Some((3, [255, 4, 0, 2, 0, 0].to_vec())));
        let [clog, _] = pages_before(&counters, WalVersion::PG17);
        assert_eq!(clog, Some((3, [255, 8, 0, 2, 0, 0, 0, 0, 0, 0].to_vec())));
    }
}
