//! The extended protocol: Parse, Bind, Describe, Execute, Close.
//!
//! PostgreSQL: `exec_parse_message`, `exec_bind_message`, `exec_execute_message` (src/backend/tcop/postgres.c).

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Column;
use walhub_proto::wire::frontend::{Bind, Frontend, StatementOrPortal, decode_body, format_of};

use super::SettingsView;
use super::activity;
use super::emit::{large_message_record, message_record};
use super::memory::Reservation;
use super::offload::{Arguments, ResultRows};
use super::pending::{Position, Waiting};
use super::session::Backend;
use super::statement::{self, Argument, MessageShape, Prepared, Statement};
use super::wire::Wire;
use walhub_hub::api::append::{self, NewRecord};
use walhub_sql::env::TEXT_LEN_MAX as VALUE_LEN_MAX;
use walhub_sql::failure::{DUPLICATE_CURSOR, PROGRAM_LIMIT_EXCEEDED, Result, fail, hinted};
use walhub_sql::value::binary;
use walhub_sql::value::row::cost;
use walhub_sql::value::types::Type;
use walhub_sql::value::{Value, parse_bool, parse_bytea};

/// Prepared statements of one session.
const STATEMENTS_MAX: usize = 256;
/// Bytes of query text in all prepared statements of one session.
const STATEMENT_BYTES_MAX: usize = 1 << 20;
/// Bytes of a message bound to the unnamed portal that are not counted: there is one such portal.
const UNCOUNTED_LEN_MAX: usize = 8 << 10;
/// Bytes of a row from which on it is counted while it is encoded.
const LARGE_ROW_LEN: usize = 64 << 10;
/// Open portals of one session.
const PORTALS_MAX: usize = 64;

/// A statement with its parameters, or what is left of its result.
pub(super) struct Portal {
    pub(super) prepared: Arc<Prepared>,
    pub(super) formats: SmallVec<[i16; 4]>,
    pub(super) state: PortalState,
    /// What the parameters, the message or the rows take.
    memory: Reservation,
}

pub(super) enum PortalState {
    /// It has not run.
    New(Arguments),
    /// It has not run, and does nothing but emit this message; whether to flush it.
    Message(NewRecord, bool),
    /// It has run, and this is left.
    Rows(VecDeque<Vec<Value>>),
}

impl<V: SettingsView> Backend<V> {
    /// PostgreSQL: `exec_parse_message`.
    pub(super) fn parse(&mut self, name: &[u8], query: &[u8], types: &[u32]) -> Result<()> {
        self.begin_statement();
        let name = binary::text_parameter(name)?;
        let sql: Arc<str> = binary::text_parameter(query)?.into();
        self.show_running(&activity::shown(&sql));
        let _room = statement::room_to_parse(&self.account, sql.len())?;
        let mut parsed = self.parse_text(&sql)?;
        if parsed.len() > 1 {
            let message = "cannot insert multiple commands into a prepared statement";
            return Err(fail(SqlState::SYNTAX_ERROR, message));
        }
        let parsed = parsed.pop();
        if self.transaction.is_failed() && !statement::may_end_transaction(parsed.as_ref()) {
            return Err(statement::aborted());
        }
        let prepared = Arc::new(statement::prepare(parsed, &sql, sql.len(), types, &self.account)?);
        if name.is_empty() {
            self.unnamed_statement = Some(prepared);
        } else {
            self.check_statement(name, sql.len())?;
            self.statements.insert(name.to_owned(), prepared);
        }
        self.out.empty(b'1');
        Ok(())
    }

    fn check_statement(&self, name: &str, len: usize) -> Result<()> {
        if self.statements.contains_key(name) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(fail(SqlState::DUPLICATE_PREPARED_STATEMENT, message));
        }
        let held: usize = self.statements.values().map(|held| held.sql.len()).sum();
        if self.statements.len() >= STATEMENTS_MAX || held + len > STATEMENT_BYTES_MAX {
            let message = format!(
                "a session may hold {STATEMENTS_MAX} prepared statements of {STATEMENT_BYTES_MAX} \
                 bytes in all"
            );
            return Err(fail(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message));
        }
        Ok(())
    }

    pub(super) fn statement(&self, name: &str) -> Result<&Arc<Prepared>> {
        if name.is_empty() {
            return self.unnamed_statement.as_ref().ok_or_else(|| {
                let message = "unnamed prepared statement does not exist";
                fail(SqlState::INVALID_SQL_STATEMENT_NAME, message)
            });
        }
        self.statements.get(name).ok_or_else(|| {
            let message = format!("prepared statement \"{name}\" does not exist");
            fail(SqlState::INVALID_SQL_STATEMENT_NAME, message)
        })
    }

    /// `bytes` is the message when that is a large one, and `memory` what it takes.
    ///
    /// PostgreSQL: `exec_bind_message`.
    pub(super) fn bind(
        &mut self,
        bind: &Bind<'_>,
        bytes: Option<&Bytes>,
        memory: Option<Reservation>,
    ) -> Result<()> {
        self.begin_statement();
        let portal = binary::text_parameter(bind.portal)?;
        let prepared = Arc::clone(self.statement(binary::text_parameter(bind.statement)?)?);
        self.show_running(&prepared.shown);
        check_counts(bind, &prepared)?;
        if self.transaction.is_failed() && !prepared.ends_transaction() {
            return Err(statement::aborted());
        }
        let mut memory = memory.unwrap_or_else(|| self.account.reservation());
        let read = memory.bytes();
        let message = match &prepared.message {
            Some(shape) => {
                // Text of a bytea is decoded, and then copied into the record.
                let _decoded = match bytes {
                    Some(bytes) if !bind.is_binary() => Some(self.account.reserve(bytes.len())?),
                    _ => None,
                };
                message_of(shape, bind, bytes)?
            }
            None => None,
        };
        let large = message.as_ref().is_some_and(|(record, _)| record.body_len() > VALUE_LEN_MAX);
        if large && !portal.is_empty() {
            return Err(fail(
                PROGRAM_LIMIT_EXCEEDED,
                "a message of more than 1 MB can be bound to the unnamed portal only",
            ));
        }
        // What the record shares with the message stays, else it has its own. A small one costs nothing to count.
        let state = match message {
            Some((record, flush)) => {
                if !portal.is_empty() || record.body_len() > UNCOUNTED_LEN_MAX {
                    memory.grow_to(record.body_len())?;
                    memory.shrink_to(read.max(record.body_len()));
                }
                PortalState::Message(record, flush)
            }
            None => {
                let copied =
                    bind.parameters.iter().flatten().map(|bytes| bytes.len()).sum::<usize>();
                let kept =
                    self.account.reserve(copied + bind.parameters.len() * size_of::<Value>())?;
                let arguments = self.arguments(bind, &prepared)?;
                memory = kept;
                PortalState::New(arguments)
            }
        };
        let formats = bind.result_formats.len();
        let columns = prepared.columns.as_ref().map_or(0, Vec::len);
        if formats > 1 && formats != columns {
            return Err(violation(format!(
                "bind message has {formats} result formats but query has {columns} columns"
            )));
        }
        if let Some(format) = bind.result_formats.iter().find(|format| !matches!(format, 0 | 1)) {
            return Err(unsupported_format(*format));
        }
        let made = Portal { prepared, formats: bind.result_formats.clone(), state, memory };
        if portal.is_empty() {
            self.unnamed_portal = Some(made);
        } else {
            if self.portals.contains_key(portal) {
                let message = format!("cursor \"{portal}\" already exists");
                return Err(fail(DUPLICATE_CURSOR, message));
            }
            if self.portals.len() >= PORTALS_MAX {
                let message = format!("a session may have {PORTALS_MAX} open portals");
                return Err(fail(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message));
            }
            self.portals.insert(portal.to_owned(), made);
        }
        self.out.empty(b'2');
        Ok(())
    }

    fn arguments(&self, bind: &Bind<'_>, prepared: &Prepared) -> Result<Arguments> {
        let too_large = |bytes: &&[u8]| bytes.len() > VALUE_LEN_MAX;
        if bind.parameters.iter().flatten().any(too_large) {
            let failure = fail(PROGRAM_LIMIT_EXCEEDED, "parameter is too large");
            return Err(hinted(
                failure,
                "Only the content of SELECT pg_logical_emit_message($1, $2, $3) may have more \
                 than 1 MB.",
            ));
        }
        let declared = bind.parameters.iter().zip(&prepared.parameters).enumerate();
        declared
            .map(|(index, (bytes, (oid, ty)))| match (bytes, bind.parameter_format(index)) {
                (None, _) => Ok(Value::Null),
                (Some(bytes), 0) => {
                    Value::parse(binary::text_parameter(bytes)?, *ty, self.parameters.zone())
                }
                (Some(bytes), 1) => binary::decode(bytes, *oid, *ty, index + 1),
                (Some(_), format) => Err(unsupported_format(format)),
            })
            .collect()
    }

    fn portal(&self, name: &str) -> Result<&Portal> {
        let portal =
            if name.is_empty() { self.unnamed_portal.as_ref() } else { self.portals.get(name) };
        portal.ok_or_else(|| {
            let message = format!("portal \"{name}\" does not exist");
            fail(SqlState::INVALID_CURSOR_NAME, message)
        })
    }

    fn take_portal(&mut self, name: &str) -> Option<Portal> {
        if name.is_empty() { self.unnamed_portal.take() } else { self.portals.remove(name) }
    }

    fn put_portal(&mut self, name: &str, portal: Portal) {
        if name.is_empty() {
            self.unnamed_portal = Some(portal);
        } else {
            self.portals.insert(name.to_owned(), portal);
        }
    }

    /// PostgreSQL: `exec_describe_statement_message`, `exec_describe_portal_message`.
    pub(super) fn describe(&mut self, target: StatementOrPortal, name: &[u8]) -> Result<()> {
        let name = binary::text_parameter(name)?;
        let (prepared, formats) = match target {
            StatementOrPortal::Statement => (Arc::clone(self.statement(name)?), SmallVec::new()),
            StatementOrPortal::Portal => {
                let portal = self.portal(name)?;
                (Arc::clone(&portal.prepared), portal.formats.clone())
            }
            StatementOrPortal::Unknown(got) => {
                return Err(violation(format!("invalid DESCRIBE message subtype {got}")));
            }
        };
        if self.transaction.is_failed() && prepared.columns.is_some() {
            return Err(statement::aborted());
        }
        if target == StatementOrPortal::Statement {
            self.out.frame(b't', |buf| {
                let count = u16::try_from(prepared.parameters.len()).unwrap_or(u16::MAX);
                buf.extend_from_slice(&count.to_be_bytes());
                for (oid, _) in &prepared.parameters {
                    buf.extend_from_slice(&oid.to_be_bytes());
                }
            });
        }
        match &prepared.columns {
            Some(columns) => self.describe_row(columns, &formats),
            None => {
                self.out.empty(b'n');
            }
        }
        Ok(())
    }

    pub(super) fn close(&mut self, target: StatementOrPortal, name: &[u8]) -> Result<()> {
        let name = binary::text_parameter(name)?;
        match target {
            StatementOrPortal::Statement if name.is_empty() => self.unnamed_statement = None,
            StatementOrPortal::Statement => drop(self.statements.remove(name)),
            StatementOrPortal::Portal => drop(self.take_portal(name)),
            StatementOrPortal::Unknown(got) => {
                return Err(violation(format!("invalid CLOSE message subtype {got}")));
            }
        }
        self.out.empty(b'3');
        Ok(())
    }

    /// Executes the unnamed portal when it only emits a message; `None` when it is not so.
    pub(super) fn execute_message(&mut self, body: &[u8]) -> Option<Result<()>> {
        let Ok(Frontend::Execute { portal: b"", rows_max }) = decode_body(b'E', body) else {
            return None;
        };
        let portal = self.unnamed_portal.as_mut()?;
        if self.transaction.is_failed() || !matches!(portal.state, PortalState::Message(..)) {
            return None;
        }
        let done = PortalState::Rows(VecDeque::new());
        let PortalState::Message(record, flush) = std::mem::replace(&mut portal.state, done) else {
            return None;
        };
        let (format, memory) = (format_of(&portal.formats, 0), portal.memory.take());
        Some(self.emit_message(record, flush, Some(memory), format, rows_max, None))
    }

    /// Emits the message that a statement is, and answers with its row.
    pub(super) fn emit_message(
        &mut self,
        record: NewRecord,
        flush: bool,
        memory: Option<Reservation>,
        format: i16,
        rows_max: i32,
        describes: Option<&Arc<Prepared>>,
    ) -> Result<()> {
        if self.params.hub.in_recovery() {
            return Err(Box::new(append::in_recovery("pg_logical_emit_message()")));
        }
        let position = self.pending.push(record, flush, memory)?;
        let suspends = rows_max == 1;
        if matches!(position, Position::Transactional(_)) && self.transaction.is_open() {
            let lsn = self.insert_lsn();
            self.describe_first(describes.map(|prepared| &**prepared));
            self.message_row(lsn, format, suspends, &mut String::new());
        } else {
            let describes = describes.cloned();
            self.out.push(Waiting::Row { position, format, suspends, describes });
        }
        Ok(())
    }

    /// RowDescription of a simple query, where there is one.
    pub(super) fn describe_first(&mut self, prepared: Option<&Prepared>) {
        if let Some(columns) = prepared.and_then(|prepared| prepared.columns.as_deref()) {
            self.describe_row(columns, &[]);
        }
    }

    /// PostgreSQL: `exec_execute_message`.
    pub(super) async fn execute<S>(
        &mut self,
        wire: &mut Wire<S>,
        name: &[u8],
        rows_max: i32,
    ) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = binary::text_parameter(name)?;
        self.portal(name)?;
        // Taken out while it runs: a statement may close portals.
        let Some(mut portal) = self.take_portal(name) else { return Ok(()) };
        let prepared = Arc::clone(&portal.prepared);
        self.show_running(&prepared.shown);
        if matches!(prepared.statement, Statement::Empty) {
            self.out.empty(b'I');
            self.put_portal(name, portal);
            return Ok(());
        }
        if self.transaction.is_failed() && !prepared.ends_transaction() {
            return Err(statement::aborted());
        }
        let limit = usize::try_from(rows_max).ok().filter(|limit| *limit > 0);
        let left = match portal.state {
            PortalState::Message(record, flush) => {
                let format = format_of(&portal.formats, 0);
                let memory = Some(portal.memory.take());
                self.emit_message(record, flush, memory, format, rows_max, None)?;
                VecDeque::new()
            }
            PortalState::Rows(rows) => {
                self.answer_rows(wire, &prepared, rows, &portal.formats, limit).await?
            }
            PortalState::New(arguments) => match (limit, &prepared.statement) {
                (Some(_), Statement::Query(_)) => {
                    let result = self.rows_now(wire, &prepared, &arguments).await?;
                    portal.memory = result.memory;
                    let rows = result.rows.into();
                    self.answer_rows(wire, &prepared, rows, &portal.formats, limit).await?
                }
                _ => {
                    self.answer(wire, &prepared, arguments, &portal.formats, false).await?;
                    VecDeque::new()
                }
            },
        };
        portal.memory.shrink_to(left.iter().map(|row| cost(row)).sum());
        portal.state = PortalState::Rows(left);
        self.put_portal(name, portal);
        Ok(())
    }

    /// Sends rows up to the limit; what is left comes back.
    async fn answer_rows<S>(
        &mut self,
        wire: &mut Wire<S>,
        prepared: &Prepared,
        mut rows: VecDeque<Vec<Value>>,
        formats: &[i16],
        limit: Option<usize>,
    ) -> Result<VecDeque<Vec<Value>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let limit = limit.unwrap_or(usize::MAX);
        let sent = limit.min(rows.len());
        if let Some(columns) = &prepared.columns {
            for row in rows.drain(..sent) {
                self.data_row(columns, formats, &row);
                self.write_when_full(wire).await?;
            }
        }
        match &prepared.statement {
            // Exactly as many as asked for: PostgreSQL has not looked whether there is another.
            Statement::Query(_) if sent == limit => {
                self.out.empty(b's');
            }
            Statement::Query(_) => {
                self.out.command_complete(&format!("SELECT {sent}"));
            }
            // PostgreSQL's portal of a utility statement runs once, and is done.
            Statement::Utility(_) | Statement::Empty => {
                self.out.command_complete("");
            }
        }
        Ok(rows)
    }

    pub(super) fn describe_row(&mut self, columns: &[(String, Type)], formats: &[i16]) {
        let columns: Vec<Column> = columns
            .iter()
            .enumerate()
            .map(|(index, (name, ty))| Column {
                name: name.clone(),
                ty: ty.column_type(),
                format: format_of(formats, index),
            })
            .collect();
        self.out.row_description(&columns);
    }

    /// Sends rows as the client takes them: no more than one buffer of them is encoded at a time, and what is sent is
    /// given back.
    pub(super) async fn send_rows<S>(
        &mut self,
        wire: &mut Wire<S>,
        columns: &[(String, Type)],
        formats: &[i16],
        result: ResultRows,
    ) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let ResultRows { rows, mut memory } = result;
        let mut sent = 0;
        for row in rows {
            let taken = cost(&row);
            // A large one is there as text, and again among the answers, until it is written.
            let _encoded = match taken {
                LARGE_ROW_LEN.. => Some(self.account.reserve(taken.saturating_mul(4))?),
                _ => None,
            };
            self.data_row(columns, formats, &row);
            sent += taken;
            drop(row);
            if self.write_when_full(wire).await? {
                memory.shrink_to(memory.bytes().saturating_sub(std::mem::take(&mut sent)));
            }
        }
        Ok(())
    }

    fn data_row(&mut self, columns: &[(String, Type)], formats: &[i16], row: &[Value]) {
        let zone = self.parameters.zone();
        let values: SmallVec<[Option<Vec<u8>>; 8]> = row
            .iter()
            .zip(columns)
            .enumerate()
            .map(|(index, (value, (_, ty)))| match format_of(formats, index) {
                1 => binary::encode(value, *ty),
                _ => value.text(zone).map(String::into_bytes),
            })
            .collect();
        self.out.data_row(&values);
    }
}

pub(super) fn violation(message: String) -> walhub_sql::failure::Failure {
    fail(SqlState::PROTOCOL_VIOLATION, message)
}

fn unsupported_format(format: i16) -> walhub_sql::failure::Failure {
    let message = format!("unsupported format code: {format}");
    fail(SqlState::INVALID_PARAMETER_VALUE, message)
}

fn check_counts(bind: &Bind<'_>, prepared: &Prepared) -> Result<()> {
    let (formats, given) = (bind.parameter_formats.len(), bind.parameters.len());
    if formats > 1 && formats != given {
        return Err(violation(format!(
            "bind message has {formats} parameter formats but {given} parameters"
        )));
    }
    if given != prepared.parameters.len() {
        let statement = String::from_utf8_lossy(bind.statement);
        return Err(violation(format!(
            "bind message supplies {given} parameters, but prepared statement \"{statement}\" \
             requires {}",
            prepared.parameters.len()
        )));
    }
    Ok(())
}

/// The message that a statement emits, straight from the bytes of Bind; `None` when an argument
/// is NULL, or is none of the plain types. A large parameter stays where it is, in `bytes`.
fn message_of(
    shape: &MessageShape,
    bind: &Bind<'_>,
    bytes: Option<&Bytes>,
) -> Result<Option<(NewRecord, bool)>> {
    let [transactional, prefix, argument, flush @ ..] = &*shape.arguments else { return Ok(None) };
    let (Some(transactional), Some(prefix), Some(content)) =
        (bool_of(transactional, bind)?, text_of(prefix, bind)?, content_of(argument, bind)?)
    else {
        return Ok(None);
    };
    let flush = match flush {
        [] => false,
        [flush, ..] => match bool_of(flush, bind)? {
            Some(flush) => flush,
            None => return Ok(None),
        },
    };
    let record = match (content, argument, bytes) {
        (Cow::Borrowed(content), Argument::Parameter(..), Some(bytes))
            if content.len() > VALUE_LEN_MAX =>
        {
            large_message_record(transactional, prefix, content, bytes)?
        }
        (content, ..) => message_record(transactional, prefix, &content)?,
    };
    Ok(Some((record, flush)))
}

/// The bytes of a parameter and whether they are binary; `None` is NULL.
fn parameter<'a>(bind: &'a Bind<'_>, index: usize) -> Result<Option<(&'a [u8], bool)>> {
    let Some(bytes) = bind.parameters.get(index).copied().flatten() else { return Ok(None) };
    match bind.parameter_format(index) {
        0 => Ok(Some((bytes, false))),
        1 => Ok(Some((bytes, true))),
        format => Err(unsupported_format(format)),
    }
}

fn bool_of(argument: &Argument, bind: &Bind<'_>) -> Result<Option<bool>> {
    match argument {
        Argument::Constant(Value::Bool(value)) => Ok(Some(*value)),
        Argument::Parameter(index, Type::Bool) => match parameter(bind, *index)? {
            None => Ok(None),
            Some(([byte], true)) => Ok(Some(*byte != 0)),
            Some((b"t" | b"true", false)) => Ok(Some(true)),
            Some((b"f" | b"false", false)) => Ok(Some(false)),
            // The general way knows every spelling, and every error.
            Some((bytes, false)) => Ok(parse_bool(binary::text_parameter(bytes)?.trim_ascii())),
            Some((_, true)) => Ok(None),
        },
        _ => Ok(None),
    }
}

fn text_of<'a>(argument: &'a Argument, bind: &'a Bind<'_>) -> Result<Option<&'a str>> {
    match argument {
        Argument::Constant(Value::Text(text)) => Ok(Some(text)),
        Argument::Parameter(index, Type::Text) => match parameter(bind, *index)? {
            None => Ok(None),
            Some((bytes, _)) => binary::text_parameter(bytes).map(Some),
        },
        _ => Ok(None),
    }
}

fn content_of<'a>(argument: &'a Argument, bind: &'a Bind<'_>) -> Result<Option<Cow<'a, [u8]>>> {
    match argument {
        Argument::Constant(Value::Bytes(bytes)) => Ok(Some(Cow::Borrowed(bytes))),
        Argument::Parameter(index, Type::Bytea) => match parameter(bind, *index)? {
            None => Ok(None),
            Some((bytes, true)) => Ok(Some(Cow::Borrowed(bytes))),
            Some((bytes, false)) => {
                parse_bytea(binary::text_parameter(bytes)?).map(|bytes| Some(Cow::Owned(bytes)))
            }
        },
        text => Ok(text_of(text, bind)?.map(|text| Cow::Borrowed(text.as_bytes()))),
    }
}
