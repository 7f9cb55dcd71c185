//! Statements that are not queries: transactions, SET, SHOW, and the like.
//!
//! They are read from tokens: their grammar is a list of words, and PostgreSQL's is not that of
//! other databases.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use walhub_proto::roles::statement::RoleStatement;

use crate::failure::Result;
use crate::parse::copy_options::CopyFrom;
use crate::parse::wait_for::WaitFor;
use crate::parse::words::Words;

/// A statement that is not a query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Utility {
    /// BEGIN or START TRANSACTION.
    Begin {
        /// Whether it was START TRANSACTION, which the command tag says.
        start: bool,
        /// The modes that the transaction is to have.
        modes: Vec<Mode>,
    },
    /// COMMIT or END.
    Commit {
        /// AND CHAIN: a transaction with the same modes begins at once.
        chain: bool,
    },
    /// ROLLBACK or ABORT.
    Rollback {
        /// AND CHAIN: a transaction with the same modes begins at once.
        chain: bool,
    },
    /// SAVEPOINT and its name.
    Savepoint(String),
    /// RELEASE SAVEPOINT and its name.
    Release(String),
    /// ROLLBACK TO SAVEPOINT and its name.
    RollbackTo(String),
    /// SET of a parameter.
    Set {
        /// Name of the parameter.
        name: String,
        /// The new value; `None` is DEFAULT.
        value: Option<String>,
        /// LOCAL: until the transaction ends.
        local: bool,
    },
    /// SET TRANSACTION, or SET SESSION CHARACTERISTICS.
    SetModes {
        /// The modes to set.
        modes: Vec<Mode>,
        /// For all transactions of the session that follow.
        session: bool,
    },
    /// RESET of a parameter; `None` is ALL.
    Reset(Option<String>),
    /// SHOW of a parameter; `None` is ALL.
    Show(Option<String>),
    /// DISCARD, and what.
    Discard(&'static str),
    /// DEALLOCATE of a prepared statement; `None` is ALL.
    Deallocate(Option<String>),
    /// CLOSE of a cursor; `None` is ALL.
    Close(Option<String>),
    /// UNLISTEN, of whatever channel: no session listens.
    Unlisten,
    /// CHECKPOINT.
    Checkpoint,
    /// WAIT FOR LSN.
    WaitFor(WaitFor),
    /// COPY FROM STDIN.
    Copy(CopyFrom),
    /// About roles.
    Role(RoleStatement),
}

/// A mode of a transaction: a parameter and its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mode {
    /// The parameter that it sets.
    pub name: &'static str,
    /// What it is to become.
    pub value: &'static str,
}

impl Words<'_> {
    fn modes(&mut self) -> Result<Vec<Mode>> {
        let mut modes = Vec::new();
        while self.peek().is_some() {
            let mode = |name, value| Mode { name, value };
            modes.push(if self.accept_all(&["isolation", "level"]) {
                let level = if self.accept("serializable") {
                    "serializable"
                } else if self.accept_all(&["repeatable", "read"]) {
                    "repeatable read"
                } else if self.accept_all(&["read", "committed"]) {
                    "read committed"
                } else if self.accept_all(&["read", "uncommitted"]) {
                    "read uncommitted"
                } else {
                    return Err(self.error());
                };
                mode("transaction_isolation", level)
            } else if self.accept_all(&["read", "only"]) {
                mode("transaction_read_only", "on")
            } else if self.accept_all(&["read", "write"]) {
                mode("transaction_read_only", "off")
            } else if self.accept("deferrable") {
                mode("transaction_deferrable", "on")
            } else if self.accept_all(&["not", "deferrable"]) {
                mode("transaction_deferrable", "off")
            } else {
                return Err(self.error());
            });
            if self.peek() == Some(&Token::Comma) {
                self.next += 1;
            }
        }
        Ok(modes)
    }

    /// `[WORK | TRANSACTION] [AND [NO] CHAIN]`
    fn chain(&mut self) -> Result<bool> {
        let _ = self.accept("work") || self.accept("transaction");
        if !self.accept("and") {
            return Ok(false);
        }
        let chain = !self.accept("no");
        self.expect("chain")?;
        Ok(chain)
    }

    fn set(&mut self) -> Result<Utility> {
        if self.accept_all(&["session", "characteristics", "as", "transaction"]) {
            return Ok(Utility::SetModes { modes: self.modes()?, session: true });
        }
        if self.accept("transaction") {
            return Ok(Utility::SetModes { modes: self.modes()?, session: false });
        }
        let local = self.accept("local");
        let session = !local && self.accept("session");
        if self.accept_all(&["session", "authorization"])
            || (session && self.accept("authorization"))
        {
            let value = if self.accept("default") { None } else { Some(self.value()?) };
            return Ok(Utility::Set { name: "session_authorization".to_owned(), value, local });
        }
        let start = self.next;
        if self.accept("role") {
            if self.peek() != Some(&Token::Eq) && !self.accept("to") {
                let value = Some(self.value()?);
                return Ok(Utility::Set { name: "role".to_owned(), value, local });
            }
            self.next = start;
        }
        if self.accept_all(&["time", "zone"]) {
            let value = if self.accept("local") || self.accept("default") {
                None
            } else {
                Some(self.value()?)
            };
            return Ok(Utility::Set { name: "timezone".to_owned(), value, local });
        }
        if self.accept("names") {
            let value = if self.accept("default") { None } else { Some(self.value()?) };
            return Ok(Utility::Set { name: "client_encoding".to_owned(), value, local });
        }
        let name = self.parameter()?;
        if self.peek() == Some(&Token::Eq) {
            self.next += 1;
        } else {
            self.expect("to")?;
        }
        if self.accept("default") {
            return Ok(Utility::Set { name, value: None, local });
        }
        let mut values = vec![self.value()?];
        while self.peek() == Some(&Token::Comma) {
            self.next += 1;
            values.push(self.value()?);
        }
        Ok(Utility::Set { name, value: Some(values.join(", ")), local })
    }

    /// A parameter of SHOW or RESET; `None` is ALL.
    fn parameter_or_all(&mut self) -> Result<Option<String>> {
        if self.accept("all") {
            Ok(None)
        } else if self.accept_all(&["time", "zone"]) {
            Ok(Some("timezone".to_owned()))
        } else if self.accept_all(&["transaction", "isolation", "level"]) {
            Ok(Some("transaction_isolation".to_owned()))
        } else if self.accept_all(&["session", "authorization"]) {
            Ok(Some("session_authorization".to_owned()))
        } else {
            self.parameter().map(Some)
        }
    }

    fn name_or_all(&mut self) -> Result<Option<String>> {
        if self.accept("all") { Ok(None) } else { self.name().map(Some) }
    }
}

/// Reads a utility statement; `None` when the tokens are not one.
pub(crate) fn parse(sql: &str, tokens: &[TokenWithSpan]) -> Result<Option<Utility>> {
    let mut words = Words { sql, tokens, next: 0 };
    if let Some(statement) = words.role_statement()? {
        return words.end(Utility::Role(statement));
    }
    let utility = if words.accept("begin") {
        let _ = words.accept("work") || words.accept("transaction");
        Utility::Begin { start: false, modes: words.modes()? }
    } else if words.accept_all(&["start", "transaction"]) {
        Utility::Begin { start: true, modes: words.modes()? }
    } else if words.accept("commit") || words.accept("end") {
        Utility::Commit { chain: words.chain()? }
    } else if words.accept("rollback") {
        let _ = words.accept("work") || words.accept("transaction");
        if words.accept("to") {
            words.accept("savepoint");
            Utility::RollbackTo(words.name()?)
        } else {
            Utility::Rollback { chain: words.chain()? }
        }
    } else if words.accept("abort") {
        Utility::Rollback { chain: words.chain()? }
    } else if words.accept("savepoint") {
        Utility::Savepoint(words.name()?)
    } else if words.accept("release") {
        words.accept("savepoint");
        Utility::Release(words.name()?)
    } else if words.accept("set") {
        words.set()?
    } else if words.accept("reset") {
        Utility::Reset(words.parameter_or_all()?)
    } else if words.accept("show") {
        Utility::Show(words.parameter_or_all()?)
    } else if words.accept("discard") {
        let targets = ["all", "plans", "sequences", "temporary", "temp"];
        let tags = ["ALL", "PLANS", "SEQUENCES", "TEMP", "TEMP"];
        let target = targets.iter().zip(tags).find(|(target, _)| words.accept(target));
        Utility::Discard(target.ok_or_else(|| words.error())?.1)
    } else if words.accept("deallocate") {
        words.accept("prepare");
        Utility::Deallocate(words.name_or_all()?)
    } else if words.accept("close") {
        Utility::Close(words.name_or_all()?)
    } else if words.accept("unlisten") {
        // There is no LISTEN here, so no session has a channel to forget.
        if words.peek() == Some(&Token::Mul) {
            words.next += 1;
        } else {
            words.name()?;
        }
        Utility::Unlisten
    } else if words.accept("checkpoint") {
        Utility::Checkpoint
    } else if words.accept_all(&["wait", "for", "lsn"]) {
        Utility::WaitFor(words.wait_for()?)
    } else if words.accept("copy") {
        match words.copy_from()? {
            Some(copy) => Utility::Copy(copy),
            None => return Ok(None),
        }
    } else {
        return Ok(None);
    };
    words.end(utility)
}
