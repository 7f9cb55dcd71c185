//! What a transaction has emitted and not yet appended, and the rows that wait for it.
//!
//! PostgreSQL: `TransactionStateData`, `PortalStrategy`; but there a message is in the WAL at once.

use std::sync::Arc;

use smallvec::SmallVec;
use walhub_proto::lsn::Lsn;

use super::emit::{TRANSACTION_BYTES_MAX, cost};
use super::memory::{Account, Reservation};
use super::offload::ResultRows;
use super::statement::Prepared;
use walhub_hub::api::append::NewRecord;
use walhub_sql::failure::{Result, transaction_too_large};
use walhub_sql::value::Value;
use walhub_sql::value::row::Rows;

/// Where a message will lie, or lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Position {
    /// Number of it among the transactional messages.
    Transactional(usize),
    /// Number of it among the others.
    Immediate(usize),
    Known(Lsn),
}

/// Messages that are not in the WAL yet.
pub(super) struct Pending {
    /// Those of the transaction.
    pub(super) transactional: Vec<NewRecord>,
    /// Those that stay whatever becomes of it. They are appended before the next answer is sent.
    pub(super) immediate: Vec<NewRecord>,
    /// Whether any of `immediate` must be durable.
    pub(super) flush: bool,
    transaction_bytes: usize,
    immediate_bytes: usize,
    transaction_memory: Reservation,
    immediate_memory: Reservation,
}

/// Bytes of memory of so many bytes of records, one more among them than there are in `records`.
fn memory_of(records: &Vec<NewRecord>, bytes: usize) -> usize {
    let len = records.len() + 1;
    let room = if len > records.capacity() { len.next_power_of_two() } else { records.capacity() };
    bytes + room * size_of::<NewRecord>()
}

/// How much a transaction held at a savepoint.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Mark {
    records: usize,
    bytes: usize,
}

impl Pending {
    pub(super) fn new(account: &Arc<Account>) -> Self {
        Self {
            transactional: Vec::new(),
            immediate: Vec::new(),
            flush: false,
            transaction_bytes: 0,
            immediate_bytes: 0,
            transaction_memory: account.reservation(),
            immediate_memory: account.reservation(),
        }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.transaction_bytes + self.immediate_bytes
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.transactional.is_empty() && self.immediate.is_empty()
    }

    /// Takes a message, with the memory that was set aside for it already.
    pub(super) fn push(
        &mut self,
        record: NewRecord,
        flush: bool,
        memory: Option<Reservation>,
    ) -> Result<Position> {
        let cost = cost(&record);
        if self.bytes() + cost > TRANSACTION_BYTES_MAX {
            return Err(transaction_too_large());
        }
        let (records, bytes, held) = if record.transactional {
            (&self.transactional, self.transaction_bytes, &mut self.transaction_memory)
        } else {
            (&self.immediate, self.immediate_bytes, &mut self.immediate_memory)
        };
        if let Some(memory) = memory {
            held.absorb(memory);
        }
        held.grow_to(memory_of(records, bytes + cost))?;
        Ok(if record.transactional {
            self.transaction_bytes += cost;
            self.transactional.push(record);
            Position::Transactional(self.transactional.len() - 1)
        } else {
            self.immediate_bytes += cost;
            self.flush |= flush;
            self.immediate.push(record);
            Position::Immediate(self.immediate.len() - 1)
        })
    }

    /// Gives out what belongs to no transaction, and the memory that it takes.
    pub(super) fn take_immediate(&mut self) -> (Vec<NewRecord>, bool, Reservation) {
        self.immediate_bytes = 0;
        let records = std::mem::take(&mut self.immediate);
        (records, std::mem::take(&mut self.flush), self.immediate_memory.take())
    }

    /// Gives out the transaction, and the memory that it takes.
    pub(super) fn take_transaction(&mut self) -> (Vec<NewRecord>, Reservation) {
        self.transaction_bytes = 0;
        (std::mem::take(&mut self.transactional), self.transaction_memory.take())
    }

    /// Where a savepoint would be.
    pub(super) fn mark(&self) -> Mark {
        Mark { records: self.transactional.len(), bytes: self.transaction_bytes }
    }

    /// Forgets what came after the savepoint.
    pub(super) fn roll_back_to(&mut self, mark: Mark) {
        self.transactional.truncate(mark.records);
        self.transactional.shrink_to_fit();
        self.transaction_bytes = mark.bytes;
        self.transaction_memory.shrink_to(memory_of(&self.transactional, mark.bytes));
    }
}

/// What a call of a statement is answered with.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// The position of a message.
    Message(Position),
    Known(Value),
}

impl Answer {
    /// Whether it is not known before the messages of the session are appended.
    pub(super) const fn waits(&self) -> bool {
        matches!(self, Self::Message(Position::Transactional(_) | Position::Immediate(_)))
    }
}

/// A row, or several, that wait until it is known where messages lie.
pub(super) enum Waiting {
    /// The row of a statement that emits one message and returns its position.
    Row {
        position: Position,
        format: i16,
        suspends: bool,
        /// Whose RowDescription comes first.
        describes: Option<Arc<Prepared>>,
    },
    /// The rows of any other statement.
    Rows(Box<WaitingRows>),
}

/// The result of a statement some of whose values are not known yet.
pub(super) struct WaitingRows {
    pub(super) prepared: Arc<Prepared>,
    pub(super) result: ResultRows,
    pub(super) formats: SmallVec<[i16; 4]>,
    pub(super) answers: Vec<Answer>,
    /// Whether RowDescription comes first.
    pub(super) describes: bool,
    /// What the answers take.
    pub(super) memory: Reservation,
}

/// Where everything lies.
#[derive(Debug)]
pub(super) struct Lsns {
    /// One past each transactional message; when they are not appended, what to say instead.
    pub(super) transactional: std::result::Result<Vec<Lsn>, Lsn>,
    pub(super) immediate: Vec<Lsn>,
}

impl Lsns {
    /// When nothing was appended.
    pub(super) const fn none() -> Self {
        Self { transactional: Err(Lsn::INVALID), immediate: Vec::new() }
    }

    pub(super) fn of(&self, position: Position) -> Lsn {
        match position {
            Position::Known(lsn) => lsn,
            Position::Immediate(index) => self.immediate.get(index).copied().unwrap_or_default(),
            Position::Transactional(index) => match &self.transactional {
                Ok(lsns) => lsns.get(index).copied().unwrap_or_default(),
                Err(lsn) => *lsn,
            },
        }
    }

    /// Puts what the calls of a statement are answered with into its rows.
    pub(super) fn resolve(&self, rows: &mut Rows, answers: &[Answer]) {
        if answers.is_empty() {
            return;
        }
        let answer = |index: usize| match answers.get(index) {
            Some(Answer::Message(position)) => Value::Lsn(self.of(*position)),
            Some(Answer::Known(value)) => value.clone(),
            None => unreachable!("every call of a statement is answered"),
        };
        rows.iter_mut().flatten().for_each(|value| value.resolve(answer));
    }
}
