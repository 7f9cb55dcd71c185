//! Transaction ids: the next one, and none where they would come round to old ones.
//!
//! A hub that was promoted goes on with the ids of a database that it has no tables of, so it cannot
//! freeze rows: it warns and stops where PostgreSQL does. In a cluster that walhub made there never was a
//! row, and each transaction ends with the record after its messages: there the oldest id is moved on by a
//! checkpoint, as a VACUUM of everything would. A standby only copies that number; it forgets states of
//! transactions by CLOG_TRUNCATE alone, which is not written here.
//!
//! Not here: the limits (`walhub_proto::rmgr::xid_limits`).
//!
//! PostgreSQL: `GetNewTransactionId`, `SetTransactionIdLimit` (src/backend/access/transam/varsup.c),
//! `vac_truncate_clog` (src/backend/commands/vacuum.c).

use walhub_proto::page::WalVersion;
use walhub_proto::rmgr::xid_limits::{XidLimits, XidRoom};
use walhub_proto::rmgr::{slru, xid_of};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::Timestamp;
use walhub_proto::wire::backend::{Report, Severity};

use super::OwnWal;

const HINT: &str = "A hub has no tables that VACUUM could freeze. Promote a standby of the database, run a \
                    database-wide VACUUM in that database there, and let walhub follow that server.";
/// A warning is logged once in so many transactions; its session is told each time.
/// PostgreSQL: `GetNewTransactionId` calls for autovacuum as often.
const LOG_EVERY: u32 = 65_536;

impl OwnWal {
    /// The next transaction id, and what the session is to be warned of. The pages that standbys keep its
    /// state in come first.
    ///
    /// # Errors
    /// When there is none left.
    pub(crate) fn take_xid(
        &mut self,
        now: Timestamp,
    ) -> Result<(u32, Option<Box<Report>>), Report> {
        let xid = xid_of(self.counters.next_xid);
        if !self.has_database && self.limits().should_freeze(xid) {
            // Moves the oldest id on, too.
            self.put_checkpoint(false, now);
        }
        let warning = match self.limits().room(xid) {
            XidRoom::Ample => None,
            XidRoom::Scarce { left } => Some(self.scarce(left)),
            XidRoom::Exhausted => return Err(self.exhausted()),
        };
        if let Some(warning) = warning.as_ref().filter(|_| xid.is_multiple_of(LOG_EVERY)) {
            crate::api::report::report(warning);
        }
        let pages = slru::pages_before(&self.counters, self.version());
        for (rmid, body) in pages.into_iter().flatten() {
            self.put(rmid, slru::ZEROPAGE, 0, &body);
        }
        Ok((self.counters.take_xid(), warning.map(Box::new)))
    }

    /// Moves the oldest id up to the next, where no row has any.
    pub(crate) fn freeze(&mut self) {
        let next = xid_of(self.counters.next_xid);
        if !self.has_database && self.limits().should_freeze(next) {
            self.counters.oldest_xid = next;
        }
    }

    /// Says at the start how few are left. PostgreSQL: `SetTransactionIdLimit`.
    pub(crate) fn warn_of_limits(&self) {
        match self.limits().room(xid_of(self.counters.next_xid)) {
            XidRoom::Ample => {}
            XidRoom::Scarce { left } => crate::api::report::report(&self.scarce(left)),
            XidRoom::Exhausted => crate::api::report::report(&self.exhausted()),
        }
    }

    fn limits(&self) -> XidLimits {
        XidLimits::new(self.counters.oldest_xid, self.version())
    }

    fn scarce(&self, left: u32) -> Report {
        let database = self.counters.oldest_xid_db;
        let message =
            format!("database with OID {database} must be vacuumed within {left} transactions");
        Report::new(Severity::Warning, SqlState::WARNING, message).hint(HINT)
    }

    fn exhausted(&self) -> Report {
        // 17 has found words for what still works.
        let commands = if self.version().is_since(WalVersion::PG17) {
            "commands that assign new transaction IDs"
        } else {
            "commands"
        };
        let database = self.counters.oldest_xid_db;
        let message = format!(
            "database is not accepting {commands} to avoid wraparound data loss in database with OID \
             {database}"
        );
        Report::error(SqlState::PROGRAM_LIMIT_EXCEEDED, message).hint(HINT)
    }
}
