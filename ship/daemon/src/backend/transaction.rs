//! Transactions: a state, and the parameters to go back to.
//!
//! A transaction is what a client sees of one: tags, warnings, `now()`, and SET that a ROLLBACK
//! takes back. The messages that it emits are the session's (`pending`); a savepoint marks them.
//!
//! PostgreSQL: src/backend/access/transam/xact.c.

use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Report, Severity};

use super::parameters::Parameters;
use super::pending::Mark;
use walhub_sql::failure::{
    ACTIVE_SQL_TRANSACTION, INVALID_SAVEPOINT, NO_ACTIVE_SQL_TRANSACTION, PROGRAM_LIMIT_EXCEEDED,
    Result, fail,
};

/// Savepoints of one transaction.
const SAVEPOINTS_MAX: usize = 64;

/// What ROLLBACK TO goes back to.
struct Savepoint {
    name: String,
    parameters: Parameters,
    after: Parameters,
    mark: Mark,
}

/// A transaction block.
struct Block {
    failed: bool,
    /// What ROLLBACK goes back to.
    before: Parameters,
    /// What COMMIT goes on with: SET LOCAL is not in it.
    after: Parameters,
    savepoints: Vec<Savepoint>,
}

/// The session's transaction, if there is one.
#[derive(Default)]
pub(super) struct Transaction {
    block: Option<Block>,
}

/// What ends a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Commit,
    Rollback,
}

/// The tag of a command that ran, and what to warn of.
pub(super) type Done = (&'static str, Option<Report>);

fn warning(sqlstate: SqlState, message: &str) -> Report {
    Report::new(Severity::Warning, sqlstate, message)
}

impl Transaction {
    /// The letter of ReadyForQuery.
    pub(super) fn status(&self) -> u8 {
        match &self.block {
            None => b'I',
            Some(block) if block.failed => b'E',
            Some(_) => b'T',
        }
    }

    /// Whether there is a transaction block.
    pub(super) const fn is_open(&self) -> bool {
        self.block.is_some()
    }

    /// Whether every statement but its end is refused.
    pub(super) fn is_failed(&self) -> bool {
        self.block.as_ref().is_some_and(|block| block.failed)
    }

    /// A statement failed.
    pub(super) fn fail(&mut self) {
        if let Some(block) = &mut self.block {
            block.failed = true;
        }
    }

    /// BEGIN. PostgreSQL: `BeginTransactionBlock`.
    pub(super) fn begin(&mut self, start: bool, parameters: &Parameters) -> Done {
        let tag = if start { "START TRANSACTION" } else { "BEGIN" };
        if self.block.is_some() {
            let message = "there is already a transaction in progress";
            return (tag, Some(warning(ACTIVE_SQL_TRANSACTION, message)));
        }
        self.block = Some(Block {
            failed: false,
            before: parameters.clone(),
            after: parameters.clone(),
            savepoints: Vec::new(),
        });
        (tag, None)
    }

    /// COMMIT or ROLLBACK. PostgreSQL: `EndTransactionBlock`, `UserAbortTransactionBlock`.
    pub(super) fn end(
        &mut self,
        end: End,
        chain: bool,
        parameters: &mut Parameters,
    ) -> Result<Done> {
        let tag = if end == End::Commit { "COMMIT" } else { "ROLLBACK" };
        let Some(block) = self.block.take() else {
            if chain {
                let message = format!("{tag} AND CHAIN can only be used in transaction blocks");
                return Err(fail(NO_ACTIVE_SQL_TRANSACTION, message));
            }
            let message = "there is no transaction in progress";
            return Ok((tag, Some(warning(NO_ACTIVE_SQL_TRANSACTION, message))));
        };
        let commits = end == End::Commit && !block.failed;
        *parameters = if commits { block.after } else { block.before };
        parameters.end_transaction();
        if chain {
            self.begin(false, parameters);
        }
        Ok((if commits { "COMMIT" } else { "ROLLBACK" }, None))
    }

    /// What the transaction held at its last savepoint, before which nothing can be lost yet.
    pub(super) fn last_mark(&self) -> Mark {
        let block = self.block.as_ref();
        block
            .and_then(|block| block.savepoints.last())
            .map(|savepoint| savepoint.mark)
            .unwrap_or_default()
    }

    /// Has a SET outlive the transaction, when it commits.
    pub(super) fn change_at_commit(&mut self, change: impl Fn(&mut Parameters)) {
        if let Some(block) = &mut self.block {
            change(&mut block.after);
        }
    }

    fn block(&mut self, command: &str) -> Result<&mut Block> {
        self.block.as_mut().ok_or_else(|| {
            let message = format!("{command} can only be used in transaction blocks");
            fail(NO_ACTIVE_SQL_TRANSACTION, message)
        })
    }

    /// SAVEPOINT: what is emitted and set from here on can be taken back alone.
    pub(super) fn savepoint(
        &mut self,
        name: &str,
        parameters: &Parameters,
        mark: Mark,
    ) -> Result<Done> {
        let block = self.block("SAVEPOINT")?;
        if block.savepoints.len() >= SAVEPOINTS_MAX {
            let message = format!("a transaction may have {SAVEPOINTS_MAX} savepoints");
            return Err(fail(PROGRAM_LIMIT_EXCEEDED, message));
        }
        block.savepoints.push(Savepoint {
            name: name.to_owned(),
            parameters: parameters.clone(),
            after: block.after.clone(),
            mark,
        });
        Ok(("SAVEPOINT", None))
    }

    /// RELEASE SAVEPOINT: forgets it and those after it.
    pub(super) fn release(&mut self, name: &str) -> Result<Done> {
        let block = self.block("RELEASE SAVEPOINT")?;
        let index = find(&block.savepoints, name)?;
        block.savepoints.truncate(index);
        Ok(("RELEASE", None))
    }

    /// ROLLBACK TO SAVEPOINT; the mark says what the transaction held then.
    pub(super) fn rollback_to(
        &mut self,
        name: &str,
        parameters: &mut Parameters,
    ) -> Result<(Done, Mark)> {
        let block = self.block("ROLLBACK TO SAVEPOINT")?;
        let index = find(&block.savepoints, name)?;
        block.savepoints.truncate(index + 1);
        let mut mark = Mark::default();
        if let Some(savepoint) = block.savepoints.last() {
            parameters.clone_from(&savepoint.parameters);
            block.after.clone_from(&savepoint.after);
            mark = savepoint.mark;
        }
        block.failed = false;
        Ok((("ROLLBACK", None), mark))
    }
}

fn find(savepoints: &[Savepoint], name: &str) -> Result<usize> {
    savepoints
        .iter()
        .rposition(|savepoint| savepoint.name == name)
        .ok_or_else(|| fail(INVALID_SAVEPOINT, format!("savepoint \"{name}\" does not exist")))
}
