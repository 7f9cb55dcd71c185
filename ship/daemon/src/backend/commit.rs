//! Appending what a session emitted, and waiting until it is as safe as was asked for.
//!
//! A transaction is appended as a whole when it commits. Until then its messages are in memory
//! only, so the position that a message has is known at COMMIT: within a transaction block the
//! answer is the insert position at that moment.
//!
//! PostgreSQL: `RecordTransactionCommit` (src/backend/access/transam/xact.c), `SyncRepWaitForLSN`
//! (src/backend/replication/syncrep.c).

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use walhub_proto::lsn::Lsn;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::syncrep::{SynchronousCommit, WaitLevel};
use walhub_proto::wire::backend::{Report, Severity};

use super::SettingsView;
use super::memory::Reservation;
use super::output::Piece;
use super::pending::{Lsns, Waiting, WaitingRows};
use super::session::{Backend, Ending};
use super::wire::{Attended, Told, Wire};
use crate::clock;
use walhub_hub::api::append::{Append, Appended, NewRecord, Waited, WalRequest};
use walhub_hub::api::hub::Hub;
use walhub_sql::failure::Result;

/// What is to become of an implicit transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Settle {
    /// It commits. In a transaction block, it goes on.
    Commit,
    /// Its answers are wanted now; it goes on.
    Tell,
    /// It failed: its messages are forgotten.
    Discard,
}

/// Ends the wait of a session that is dropped while it waits.
struct CancelOnDrop<'a> {
    hub: &'a dyn Hub<OwnedFd>,
    owner: u32,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.hub.cancel_wait(self.owner);
    }
}

impl<V: SettingsView> Backend<V> {
    /// Appends what cannot wait, and gives the answers that waited for it.
    pub(super) async fn settle<S>(&mut self, wire: &mut Wire<S>, how: Settle) -> Result<Lsns>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut lsns = Lsns::none();
        let in_block = self.transaction.is_open();
        let result = if self.pending.is_empty() && !self.out.waits() {
            Ok(())
        } else {
            self.append_pending(wire, how, in_block, &mut lsns).await
        };
        match result {
            Ok(()) => {
                self.release(wire, &lsns).await?;
                Ok(lsns)
            }
            Err(failure) => {
                self.drop_waiting();
                Err(failure)
            }
        }
    }

    async fn append_pending<S>(
        &mut self,
        wire: &mut Wire<S>,
        how: Settle,
        in_block: bool,
        lsns: &mut Lsns,
    ) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (records, flush, memory) = self.pending.take_immediate();
        if !records.is_empty() {
            let wait = flush.then_some(WaitLevel::LocalFlush);
            let append = Append { records, commit: None, wait, owner: self.params.client.pid };
            lsns.immediate = self.append(wire, append, memory).await?.ends;
        }
        if how == Settle::Commit && !in_block {
            let (records, memory) = self.pending.take_transaction();
            if !records.is_empty() {
                lsns.transactional = Ok(self.append_transaction(wire, records, memory).await?.ends);
            }
        } else {
            lsns.transactional = Err(self.insert_lsn());
            if how == Settle::Discard && !in_block {
                self.pending.take_transaction();
            }
        }
        Ok(())
    }

    /// Where the WAL ends now.
    pub(super) fn insert_lsn(&self) -> Lsn {
        self.params.hub.positions().map_or(Lsn::INVALID, |positions| positions.received_lsn)
    }

    /// Appends a whole transaction and waits as `synchronous_commit` says.
    pub(super) async fn append_transaction<S>(
        &mut self,
        wire: &mut Wire<S>,
        records: Vec<NewRecord>,
        memory: Reservation,
    ) -> Result<Appended>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let append = Append {
            records,
            commit: Some(clock::now()),
            wait: WaitLevel::of_commit(self.synchronous_commit()),
            owner: self.params.client.pid,
        };
        self.append(wire, append, memory).await
    }

    fn synchronous_commit(&self) -> SynchronousCommit {
        let set =
            self.parameters.session_value("synchronous_commit").and_then(SynchronousCommit::parse);
        set.unwrap_or_else(|| self.params.settings.borrow().synchronous_commit())
    }

    /// Has it appended. Until it is answered the records may wait for room in the tail: `memory` is theirs.
    async fn append<S>(
        &mut self,
        wire: &mut Wire<S>,
        append: Append,
        memory: Reservation,
    ) -> Result<Appended>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let hub = Arc::clone(&self.params.hub);
        let mut answer = hub.append(append);
        let mut told = Told::default();
        let answered = match answer.try_recv() {
            Ok(answered) => answered,
            Err(_) => {
                let interrupts = Arc::clone(&self.params.member.interrupts);
                let owner = self.params.client.pid;
                let guard = CancelOnDrop { hub: &*hub, owner };
                loop {
                    match wire.attend(&interrupts, &mut told, &mut answer, None).await {
                        Attended::Answered(answered) => {
                            // There is nothing left to cancel.
                            std::mem::forget(guard);
                            break answered;
                        }
                        Attended::Lost => return Err(self.lost()),
                        // It is answered all the same, as soon as it is durable here.
                        Attended::Interrupted(_) => hub.cancel_wait(owner),
                        Attended::TimedOut => {}
                    }
                }
            }
        };
        drop(memory);
        let mut appended = answered.map_err(Box::new)?;
        if let Some(warning) = appended.warning.take() {
            self.out.report_first(&warning);
        }
        if appended.waited == Waited::Canceled {
            self.warn_canceled(told)?;
        }
        Ok(appended)
    }

    /// The hub is gone, and nobody knows what became of the request.
    pub(super) fn lost(&mut self) -> walhub_sql::failure::Failure {
        let message = "terminating connection due to administrator command";
        let report = Report::fatal(SqlState::ADMIN_SHUTDOWN, message);
        self.ending = Some(Ending::Fatal(report.clone()));
        Box::new(report)
    }

    /// PostgreSQL: `SyncRepWaitForLSN`.
    fn warn_canceled(&mut self, told: Told) -> Result<()> {
        const DETAIL: &str = "The transaction has already committed locally, but might not have \
                              been replicated to the standby.";
        let stops = self.params.member.interrupts.is_terminated() || self.params.hub.is_stopping();
        if stops && !told.cancel {
            let message = "canceling the wait for synchronous replication and terminating \
                           connection due to administrator command";
            let warning = Report::new(Severity::Warning, SqlState::ADMIN_SHUTDOWN, message);
            let warning = warning.detail(DETAIL);
            crate::logging::report(&warning);
            self.ending = Some(Ending::Silent(warning.clone()));
            return Err(Box::new(warning));
        }
        let message = "canceling wait for synchronous replication due to user request";
        let warning = Report::new(Severity::Warning, SqlState::WARNING, message).detail(DETAIL);
        crate::logging::report(&warning);
        self.out.report_first(&warning);
        Ok(())
    }

    /// Does something else with the WAL.
    pub(super) async fn wal<S>(&mut self, wire: &mut Wire<S>, request: WalRequest) -> Result<Lsn>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut answer = self.params.hub.wal(request);
        let interrupts = Arc::clone(&self.params.member.interrupts);
        let mut told = Told::default();
        loop {
            match wire.attend(&interrupts, &mut told, &mut answer, None).await {
                Attended::Answered(answered) => return answered.map_err(Box::new),
                Attended::Lost => return Err(self.lost()),
                // It does not take long, and cannot be taken back.
                Attended::Interrupted(_) | Attended::TimedOut => {}
            }
        }
    }

    /// Forgets the rows that wait, and everything after the first of them.
    pub(super) fn drop_waiting(&mut self) {
        self.out.forget_waiting();
        self.answers_memory.shrink_to(0);
    }

    /// Encodes the rows that waited, each where it belongs.
    async fn release<S>(&mut self, wire: &mut Wire<S>, lsns: &Lsns) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !self.out.waits() {
            return Ok(());
        }
        let (mut pieces, frames) = self.out.take_pieces();
        let mut rest = &frames[..];
        let mut text = String::new();
        for piece in pieces.drain(..) {
            match piece {
                Piece::Frames(len) => {
                    let (frames, after) = rest.split_at(len);
                    self.out.raw(frames);
                    rest = after;
                }
                Piece::Report(report) => {
                    self.out.report(&report);
                }
                Piece::Rows(Waiting::Row { position, format, suspends, describes }) => {
                    self.describe_first(describes.as_deref());
                    self.message_row(lsns.of(position), format, suspends, &mut text);
                }
                Piece::Rows(Waiting::Rows(rows)) => self.release_rows(wire, *rows, lsns).await?,
            }
        }
        self.out.raw(rest);
        self.out.give_back(pieces);
        self.answers_memory.shrink_to(0);
        Ok(())
    }

    /// The one row of a statement that emits one message.
    pub(super) fn message_row(&mut self, lsn: Lsn, format: i16, suspends: bool, text: &mut String) {
        if format == 1 {
            self.out.data_row(&[Some(lsn.0.to_be_bytes())]);
        } else {
            text.clear();
            // Writing to a string cannot fail.
            let _ = write!(text, "{lsn}");
            self.out.data_row(&[Some(&*text)]);
        }
        if suspends {
            self.out.empty(b's');
        } else {
            self.out.command_complete("SELECT 1");
        }
    }

    async fn release_rows<S>(
        &mut self,
        wire: &mut Wire<S>,
        rows: WaitingRows,
        lsns: &Lsns,
    ) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let WaitingRows { prepared, mut result, formats, answers, describes, memory } = rows;
        lsns.resolve(&mut result.rows, &answers);
        drop((answers, memory));
        let columns = prepared.columns.as_deref().unwrap_or_default();
        if describes {
            self.describe_row(columns, &[]);
        }
        let count = result.rows.len();
        match self.send_rows(wire, columns, &formats, result).await {
            Ok(()) => {
                self.out.command_complete(&format!("SELECT {count}"));
                Ok(())
            }
            Err(failure) if self.ending.is_some() => Err(failure),
            // Its messages are in the WAL; there is no memory to show where.
            Err(failure) => {
                self.out.report(&failure);
                Ok(())
            }
        }
    }
}
