use super::*;
use crate::page::WalVersion;
use std::vec;

/// Records of real servers: see `tests/golden/prepare/make.sh`. The first id is that of the transaction.
const REAL: [(WalVersion, u32, &[u8]); 4] = [
    (WalVersion::PG13, 486, include_bytes!("../../../../../tests/golden/prepare/13.bin")),
    (WalVersion::PG15, 725, include_bytes!("../../../../../tests/golden/prepare/15.bin")),
    (WalVersion::PG16, 731, include_bytes!("../../../../../tests/golden/prepare/16.bin")),
    (WalVersion::PG18, 753, include_bytes!("../../../../../tests/golden/prepare/18.bin")),
];

#[test]
fn what_a_prepared_transaction_has_is_read_in_each_major() {
    for (version, xid, data) in REAL {
        let prepare = XactPrepare::decode(XLOG_XACT_PREPARE, data, version).unwrap();
        let database = if version == WalVersion::PG13 { 13_383 } else { 5 };
        assert_eq!((prepare.xid, prepare.database), (xid, database));
        assert_eq!(prepare.subxacts, [xid + 1, xid + 2]);
        // The table that was locked, the one that was dropped, and the new one.
        let mut locks = prepare.locks.clone();
        locks.sort_unstable();
        let tables = [16_387, 16_390, 16_393].map(|relation| (database, relation));
        assert_eq!(locks, tables, "{version:?}");
        assert!(!prepare.is_cut);
    }
}

#[test]
fn of_a_part_of_the_record_it_is_known_that_something_may_be_missing() {
    for (version, xid, data) in REAL {
        for cut in 0..data.len() - 8 {
            let prepare = XactPrepare::decode(XLOG_XACT_PREPARE, &data[..cut], version);
            let head = if version.is_since(WalVersion::PG15) { 72 } else { 64 };
            assert_eq!(prepare.is_some(), cut >= head);
            assert!(prepare.is_none_or(|prepare| prepare.is_cut && prepare.xid == xid));
        }
    }
    assert_eq!(XactPrepare::decode(XLOG_XACT_COMMIT, REAL[0].2, REAL[0].0), None);
}

#[test]
fn no_counts_make_the_decoder_panic() {
    for (version, _, data) in REAL {
        for at in (0..data.len()).step_by(4) {
            for word in [[0xFF; 4], [0, 0, 0, 0x80]] {
                let mut wrong = vec![0; data.len()];
                wrong.copy_from_slice(data);
                wrong[at..at + 4].copy_from_slice(&word);
                let _ = XactPrepare::decode(XLOG_XACT_PREPARE, &wrong, version);
            }
        }
    }
}
