//! COPY walhub.messages FROM STDIN: each row is a message of the transaction.
//!
//! A COPY that fails leaves nothing in the WAL, so its rows stay in memory until the transaction
//! commits, and count towards what it may hold (`emit::TRANSACTION_BYTES_MAX`).
//!
//! PostgreSQL: `DoCopy`, `CopyFrom`, `CopyGetData` (src/backend/commands/copyfromparse.c).

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;
use walhub_proto::wire::reader::Malformed;

use super::SettingsView;
use super::commit::Settle;
use super::emit::{TRANSACTION_BYTES_MAX, message_record};
use super::interrupts::{CopyProgress, Interrupts};
use super::session::{Backend, Ending, Next};
use super::wire::{Body, Wire};
use walhub_hub::api::append;
use walhub_sql::copy_rows::{RowReader, client_failed};
use walhub_sql::failure::{Failure, Result, canceled, fail};
use walhub_sql::parse::copy_options::{CopyFrom, Format};
use walhub_sql::value::binary::text_parameter;

/// Rows that are taken as one step of a turn.
const ROWS_A_STEP: u64 = 32;

/// Shows the COPY while it runs.
struct Shown<'a> {
    interrupts: &'a Interrupts,
    progress: CopyProgress,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.interrupts.show_copy(None);
    }
}

/// What the client sent.
enum Sent {
    Data(Body<Vec<u8>>),
    Done,
    Failed(Body<Vec<u8>>),
}

impl<V: SettingsView> Backend<V> {
    /// Takes rows from the client; how many there were.
    pub(super) async fn copy_in<S>(&mut self, wire: &mut Wire<S>, copy: &CopyFrom) -> Result<u64>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.params.hub.in_recovery() {
            return Err(Box::new(append::in_recovery("COPY FROM")));
        }
        if self.is_walsender {
            return Err(client_failed("a walsender connection takes no data"));
        }
        // The client hears what came before, and then that it may send.
        self.settle(wire, Settle::Tell).await?;
        self.copy_in_response(&copy.format);
        self.write(wire).await.map_err(|_| self.client_gone())?;
        let interrupts = Arc::clone(&self.params.member.interrupts);
        let database = self.params.database.clone();
        let progress = CopyProgress { database, ..CopyProgress::default() };
        let mut shown = Shown { interrupts: &interrupts, progress };
        let mut reader = RowReader::new(copy, TRANSACTION_BYTES_MAX);
        let mut memory = self.account.reservation();
        loop {
            let sent = self.copy_data(wire, &interrupts).await;
            let (data, at_end) = match sent.map_err(|failure| located(failure, &reader))? {
                Sent::Data(data) => (Some(data), false),
                Sent::Done => (None, true),
                Sent::Failed(message) => {
                    let message = &message.bytes;
                    let message = text_parameter(message.strip_suffix(b"\0").unwrap_or(message));
                    let failure = message.map_or_else(|failure| failure, client_failed);
                    return Err(located(failure, &reader));
                }
            };
            if let Some(Body { bytes, memory: _read }) = &data {
                shown.progress.bytes_processed += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                // A row that is whole is there three times: as it came, as fields, and as a message.
                let room = 3 * (reader.waiting_len() + bytes.len());
                let room = memory.grow_to(room).and_then(|()| reader.push(bytes));
                room.map_err(|failure| located(failure, &reader))?;
            }
            drop(data);
            while let Some(row) = reader.next(at_end)? {
                let emitted = message_record(true, &row.prefix, &row.content)
                    .and_then(|record| self.pending.push(record, false, None));
                emitted.map_err(|failure| located(failure, &reader))?;
                shown.progress.tuples_processed += 1;
                if shown.progress.tuples_processed.is_multiple_of(ROWS_A_STEP) {
                    self.turn.pass().await;
                }
            }
            if at_end {
                return Ok(shown.progress.tuples_processed);
            }
            interrupts.show_copy(Some(shown.progress.clone()));
        }
    }

    fn copy_in_response(&mut self, format: &Format) {
        let format: u16 = match format {
            Format::Binary => 1,
            Format::Lines(_) => 0,
        };
        self.out.frame(b'G', |buf| {
            buf.extend(u8::try_from(format));
            for word in [2, format, format] {
                buf.extend_from_slice(&word.to_be_bytes());
            }
        });
    }

    /// The next message that matters.
    async fn copy_data<S>(&mut self, wire: &mut Wire<S>, interrupts: &Interrupts) -> Result<Sent>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            let body_max = self.body_max();
            let (kind, len) = match wire.frame(body_max) {
                Ok(Some(frame)) => (frame.kind, frame.len),
                Ok(None) => match wire.take_discarded() {
                    Some((_, failure)) => return Err(failure),
                    None => {
                        self.more(wire, interrupts).await?;
                        continue;
                    }
                },
                Err(malformed) => return Err(self.out_of_step(malformed)),
            };
            let body = wire.take_body(len);
            return Ok(match kind {
                b'd' => Sent::Data(body),
                b'c' => Sent::Done,
                b'f' => Sent::Failed(body),
                // For the convenience of client libraries. PostgreSQL: CopyGetData.
                b'H' | b'S' => continue,
                b'X' => return Err(self.client_gone()),
                kind => {
                    let message =
                        format!("unexpected message type 0x{kind:02X} during COPY from stdin");
                    let report = Report::fatal(SqlState::PROTOCOL_VIOLATION, message);
                    self.ending = Some(Ending::Fatal(report.clone()));
                    return Err(Box::new(report));
                }
            });
        }
    }

    async fn more<S>(&mut self, wire: &mut Wire<S>, interrupts: &Interrupts) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        tokio::select! {
            biased;
            () = interrupts.terminated() => {
                let message = "terminating connection due to administrator command";
                let report = Report::fatal(SqlState::ADMIN_SHUTDOWN, message);
                self.ending = Some(Ending::Fatal(report.clone()));
                Err(Box::new(report))
            }
            () = interrupts.canceled() => Err(canceled()),
            more = wire.fill() => match more {
                Ok(true) => Ok(()),
                Ok(false) | Err(_) => Err(self.client_gone()),
            },
        }
    }

    fn out_of_step(&mut self, malformed: Malformed) -> Failure {
        // The answer is in `out`; the session ends with it.
        let next = self.handle_bad_frame(malformed);
        debug_assert_ne!(next, Next::Continue);
        self.ending = Some(Ending::Gone);
        fail(SqlState::PROTOCOL_VIOLATION, malformed.to_string())
    }

    pub(super) fn client_gone(&mut self) -> Failure {
        self.ending = Some(Ending::Gone);
        fail(SqlState::CONNECTION_FAILURE, "unexpected EOF on client connection")
    }
}

fn located(mut failure: Failure, reader: &RowReader<'_>) -> Failure {
    failure.context = Some(reader.context().into());
    failure
}
