//! A console session: messages in, messages out.
//!
//! Everything between reading a message and writing its answer is synchronous and bounded; the
//! only waits are for the socket.
//!
//! PostgreSQL: `PostgresMain` (src/backend/tcop/postgres.c).

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::Timestamp;
use walhub_proto::wire::backend::{Column, Encoder, Report};
use walhub_proto::wire::reader::{Malformed, decode_frame};

use super::binary;
use super::failure::{
    DUPLICATE_CURSOR, Failure, PROGRAM_LIMIT_EXCEEDED, Result, fail, unsupported,
};
use super::messages::{self, Bind, Broken, Message, Target};
use super::parameters::Parameters;
use super::parse;
use super::statement::{self, Prepared, Statement};
use super::transaction::Transaction;
use super::types::Type;
use super::value::Value;
use super::{ConsoleParams, SettingsView, clock};

/// Bytes of one message from the client. PostgreSQL allows 1 GB, for data that no console takes.
pub(super) const MESSAGE_LEN_MAX: usize = 1 << 20;
/// Prepared statements of one session.
const STATEMENTS_MAX: usize = 256;
/// Bytes of query text in all prepared statements of one session.
const STATEMENT_BYTES_MAX: usize = 1 << 20;
/// Open portals of one session.
const PORTALS_MAX: usize = 64;
/// Bytes of answers that are collected before they are written.
const OUTPUT_LEN_SOFT_MAX: usize = 64 << 10;
/// Bytes read from the socket at a time.
const READ_LEN: usize = 8192;

/// A statement with its parameters, and what is left of its result.
pub(super) struct Portal {
    prepared: Arc<Prepared>,
    arguments: Vec<Value>,
    formats: Vec<i16>,
    /// `None` until it has run.
    rows: Option<VecDeque<Vec<Value>>>,
}

/// Whether the session goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Continue,
    End,
}

/// Everything but the socket.
pub(super) struct Session<V> {
    pub(super) params: ConsoleParams<V>,
    pub(super) parameters: Parameters,
    pub(super) transaction: Transaction,
    pub(super) transaction_start: Timestamp,
    pub(super) statement_start: Timestamp,
    pub(super) statements: BTreeMap<String, Arc<Prepared>>,
    pub(super) portals: BTreeMap<String, Portal>,
    /// An extended message failed: everything up to Sync is skipped.
    skip_to_sync: bool,
    pub(super) out: Encoder,
}

/// Reads and answers until the client leaves.
pub(super) async fn run<S, V>(
    mut stream: S,
    mut input: Vec<u8>,
    params: ConsoleParams<V>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    V: SettingsView,
{
    let mut session = Session::new(params);
    loop {
        let mut consumed = 0;
        let mut next = Next::Continue;
        while next == Next::Continue {
            let rest = input.get(consumed..).unwrap_or_default();
            match decode_frame(rest, MESSAGE_LEN_MAX) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    consumed += frame.len;
                    next = session.handle(frame.kind, frame.body);
                }
                Err(malformed) => next = session.handle_bad_frame(malformed),
            }
            if session.out.bytes().len() >= OUTPUT_LEN_SOFT_MAX {
                stream.write_all(&session.out.take()).await?;
            }
        }
        if !session.out.bytes().is_empty() {
            stream.write_all(&session.out.take()).await?;
        }
        stream.flush().await?;
        if next == Next::End {
            return stream.shutdown().await;
        }
        input.drain(..consumed);
        input.reserve(READ_LEN);
        // A client that goes without Terminate is only gone.
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

impl<V: SettingsView> Session<V> {
    fn new(params: ConsoleParams<V>) -> Self {
        let mut options = params.startup_options.clone();
        options.insert("application_name".to_owned(), params.client.application_name.clone());
        Self {
            parameters: Parameters::new(&options),
            params,
            transaction: Transaction::default(),
            transaction_start: clock(),
            statement_start: clock(),
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
            skip_to_sync: false,
            out: Encoder::new(),
        }
    }

    fn handle_bad_frame(&mut self, malformed: Malformed) -> Next {
        let report = match malformed {
            Malformed::Length { got } if usize::try_from(got).is_ok_and(|got| got > 4) => {
                let message =
                    format!("message of {got} bytes is longer than {MESSAGE_LEN_MAX} bytes");
                Report::fatal(PROGRAM_LIMIT_EXCEEDED, message)
            }
            _ => Report::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length"),
        };
        self.out.report(&report);
        Next::End
    }

    fn handle(&mut self, kind: u8, body: &[u8]) -> Next {
        if self.skip_to_sync && !matches!(kind, b'S' | b'X') {
            return Next::Continue;
        }
        self.statement_start = clock();
        if !self.transaction.is_open() {
            self.transaction_start = self.statement_start;
        }
        let message = match messages::decode(kind, body) {
            Ok(message) => message,
            Err(Broken::Kind(kind)) => {
                let message = format!("invalid frontend message type {kind}");
                self.out.report(&Report::fatal(SqlState::PROTOCOL_VIOLATION, message));
                return Next::End;
            }
            Err(Broken::Body(message)) => {
                self.failed(
                    &fail(SqlState::PROTOCOL_VIOLATION, message),
                    messages::is_extended(kind),
                );
                return Next::Continue;
            }
        };
        let result = match message {
            Message::Terminate => return Next::End,
            Message::Copy | Message::Flush => Ok(()),
            Message::Sync => {
                self.skip_to_sync = false;
                self.close_portals();
                self.ready();
                Ok(())
            }
            Message::Query(query) => {
                match self.simple_query(query) {
                    Ok(()) => self.ready(),
                    Err(failure) => self.failed(&failure, false),
                }
                Ok(())
            }
            Message::FunctionCall => {
                self.failed(&unsupported("the function call message"), false);
                Ok(())
            }
            Message::Parse { name, query, types } => self.parse(name, query, &types),
            Message::Bind(bind) => self.bind(&bind),
            Message::Describe(target, name) => self.describe(target, name),
            Message::Close(target, name) => self.close(target, name),
            Message::Execute { portal, rows_max } => self.execute(portal, rows_max),
        };
        if let Err(failure) = result {
            self.failed(&failure, true);
        }
        Next::Continue
    }

    fn ready(&mut self) {
        self.out.ready_for_query(self.transaction.status());
    }

    /// Portals live as long as their transaction, and outside a block that ends here.
    pub(super) fn close_portals(&mut self) {
        if !self.transaction.is_open() {
            self.portals.clear();
        }
    }

    fn failed(&mut self, failure: &Failure, extended: bool) {
        self.out.report(failure);
        self.transaction.fail();
        if extended {
            self.skip_to_sync = true;
        } else {
            self.close_portals();
            self.ready();
        }
    }

    /// PostgreSQL: `exec_simple_query`.
    fn simple_query(&mut self, query: &[u8]) -> Result<()> {
        let sql: Arc<str> = binary::text_parameter(query)?.into();
        self.portals.remove("");
        let parsed = parse::parse(&sql)?;
        if parsed.is_empty() {
            self.out.empty(b'I');
        }
        for parsed in parsed {
            if self.transaction.is_failed() && !statement::may_end_transaction(Some(&parsed)) {
                return Err(statement::aborted());
            }
            let prepared = statement::prepare(Some(parsed), &sql, &[])?;
            if !prepared.parameters.is_empty() {
                let message = "there is no parameter $1";
                return Err(fail(super::failure::UNDEFINED_PARAMETER, message));
            }
            let columns = prepared.columns();
            let (rows, tag) = self.run(&prepared, &[])?;
            if let Some(columns) = columns {
                self.describe_row(&columns, &[]);
                self.data_rows(&columns, &[], rows.iter());
            }
            self.out.command_complete(&tag);
        }
        self.close_portals();
        Ok(())
    }

    /// PostgreSQL: `exec_parse_message`.
    fn parse(&mut self, name: &[u8], query: &[u8], types: &[u32]) -> Result<()> {
        let name = binary::text_parameter(name)?.to_owned();
        let sql: Arc<str> = binary::text_parameter(query)?.into();
        let mut parsed = parse::parse(&sql)?;
        if parsed.len() > 1 {
            let message = "cannot insert multiple commands into a prepared statement";
            return Err(fail(SqlState::SYNTAX_ERROR, message));
        }
        let parsed = parsed.pop();
        if self.transaction.is_failed() && !statement::may_end_transaction(parsed.as_ref()) {
            return Err(statement::aborted());
        }
        let prepared = statement::prepare(parsed, &sql, types)?;
        if !name.is_empty() && self.statements.contains_key(&name) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(fail(SqlState::DUPLICATE_PREPARED_STATEMENT, message));
        }
        let held: usize = self.statements.values().map(|held| held.sql.len()).sum();
        if self.statements.len() >= STATEMENTS_MAX || held + sql.len() > STATEMENT_BYTES_MAX {
            let message = format!(
                "a session may hold {STATEMENTS_MAX} prepared statements of {STATEMENT_BYTES_MAX} \
                 bytes in all"
            );
            return Err(fail(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message));
        }
        self.statements.insert(name, Arc::new(prepared));
        self.out.empty(b'1');
        Ok(())
    }

    pub(super) fn statement(&self, name: &str) -> Result<Arc<Prepared>> {
        self.statements.get(name).cloned().ok_or_else(|| {
            let message = if name.is_empty() {
                "unnamed prepared statement does not exist".to_owned()
            } else {
                format!("prepared statement \"{name}\" does not exist")
            };
            fail(SqlState::INVALID_SQL_STATEMENT_NAME, message)
        })
    }

    /// PostgreSQL: `exec_bind_message`.
    fn bind(&mut self, bind: &Bind<'_>) -> Result<()> {
        let portal = binary::text_parameter(bind.portal)?.to_owned();
        let prepared = self.statement(binary::text_parameter(bind.statement)?)?;
        let violation = |message: String| fail(SqlState::PROTOCOL_VIOLATION, message);
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
        if self.transaction.is_failed() && !prepared.ends_transaction() {
            return Err(statement::aborted());
        }
        let mut arguments = Vec::with_capacity(given);
        let declared = bind.parameters.iter().zip(&prepared.parameters).enumerate();
        for (index, (bytes, (oid, ty))) in declared {
            let format = format_of(&bind.parameter_formats, index);
            arguments.push(match (bytes, format) {
                (None, _) => Value::Null,
                (Some(bytes), 0) => {
                    Value::parse(binary::text_parameter(bytes)?, *ty, self.parameters.zone())?
                }
                (Some(bytes), 1) => binary::decode(bytes, *oid, *ty, index + 1)?,
                (Some(_), format) => {
                    let message = format!("unsupported format code: {format}");
                    return Err(fail(SqlState::INVALID_PARAMETER_VALUE, message));
                }
            });
        }
        let columns = prepared.columns().map_or(0, |columns| columns.len());
        let formats = bind.result_formats.len();
        if formats > 1 && formats != columns {
            return Err(violation(format!(
                "bind message has {formats} result formats but query has {columns} columns"
            )));
        }
        if let Some(format) = bind.result_formats.iter().find(|format| !matches!(format, 0 | 1)) {
            let message = format!("unsupported format code: {format}");
            return Err(fail(SqlState::INVALID_PARAMETER_VALUE, message));
        }
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            let message = format!("cursor \"{portal}\" already exists");
            return Err(fail(DUPLICATE_CURSOR, message));
        }
        if self.portals.len() >= PORTALS_MAX {
            let message = format!("a session may have {PORTALS_MAX} open portals");
            return Err(fail(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message));
        }
        let formats = bind.result_formats.clone();
        self.portals.insert(portal, Portal { prepared, arguments, formats, rows: None });
        self.out.empty(b'2');
        Ok(())
    }

    fn portal(&self, name: &str) -> Result<&Portal> {
        self.portals.get(name).ok_or_else(|| {
            let message = format!("portal \"{name}\" does not exist");
            fail(SqlState::INVALID_CURSOR_NAME, message)
        })
    }

    /// PostgreSQL: `exec_describe_statement_message`, `exec_describe_portal_message`.
    fn describe(&mut self, target: Target, name: &[u8]) -> Result<()> {
        let name = binary::text_parameter(name)?;
        let (prepared, formats) = match target {
            Target::Statement => (self.statement(name)?, Vec::new()),
            Target::Portal => {
                let portal = self.portal(name)?;
                (portal.prepared.clone(), portal.formats.clone())
            }
        };
        if self.transaction.is_failed() && prepared.columns().is_some() {
            return Err(statement::aborted());
        }
        if target == Target::Statement {
            self.out.frame(b't', |buf| {
                let count = u16::try_from(prepared.parameters.len()).unwrap_or(u16::MAX);
                buf.extend_from_slice(&count.to_be_bytes());
                for (oid, _) in &prepared.parameters {
                    buf.extend_from_slice(&oid.to_be_bytes());
                }
            });
        }
        match prepared.columns() {
            Some(columns) => self.describe_row(&columns, &formats),
            None => {
                self.out.empty(b'n');
            }
        }
        Ok(())
    }

    fn close(&mut self, target: Target, name: &[u8]) -> Result<()> {
        let name = binary::text_parameter(name)?;
        match target {
            Target::Statement => drop(self.statements.remove(name)),
            Target::Portal => drop(self.portals.remove(name)),
        }
        self.out.empty(b'3');
        Ok(())
    }

    /// PostgreSQL: `exec_execute_message`.
    fn execute(&mut self, name: &[u8], rows_max: i32) -> Result<()> {
        let name = binary::text_parameter(name)?;
        self.portal(name)?;
        // Taken out while it runs: a statement may close portals.
        let Some(mut portal) = self.portals.remove(name) else { return Ok(()) };
        let prepared = portal.prepared.clone();
        if matches!(prepared.statement, Statement::Empty) {
            self.out.empty(b'I');
            self.portals.insert(name.to_owned(), portal);
            return Ok(());
        }
        if self.transaction.is_failed() && !prepared.ends_transaction() {
            return Err(statement::aborted());
        }
        let is_query = matches!(prepared.statement, Statement::Query(_));
        let mut tag = String::new();
        let mut rows = match portal.rows.take() {
            Some(rows) => rows,
            None => {
                let (rows, its_tag) = self.run(&prepared, &portal.arguments)?;
                tag = its_tag;
                rows.into()
            }
        };
        let limit = usize::try_from(rows_max).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let sent = limit.min(rows.len());
        if let Some(columns) = prepared.columns() {
            self.data_rows(&columns, &portal.formats, rows.iter().take(sent));
        }
        rows.drain(..sent);
        // Exactly as many as asked for: PostgreSQL has not looked whether there is another.
        if sent == limit && is_query {
            self.out.empty(b's');
        } else if is_query {
            self.out.command_complete(&format!("SELECT {sent}"));
        } else {
            self.out.command_complete(&tag);
        }
        portal.rows = Some(rows);
        self.portals.insert(name.to_owned(), portal);
        Ok(())
    }

    fn describe_row(&mut self, columns: &[(String, Type)], formats: &[i16]) {
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

    fn data_rows<'a>(
        &mut self,
        columns: &[(String, Type)],
        formats: &[i16],
        rows: impl Iterator<Item = &'a Vec<Value>>,
    ) {
        let zone = self.parameters.zone().clone();
        for row in rows {
            let values: Vec<Option<Vec<u8>>> = row
                .iter()
                .zip(columns)
                .enumerate()
                .map(|(index, (value, (_, ty)))| match format_of(formats, index) {
                    1 => binary::encode(value, *ty),
                    _ => value.text(&zone).map(String::into_bytes),
                })
                .collect();
            self.out.data_row(&values);
        }
    }
}

/// No format is text for all, one is for all, else each has its own.
fn format_of(formats: &[i16], index: usize) -> i16 {
    match formats {
        [] => 0,
        [one] => *one,
        each => each.get(index).copied().unwrap_or(0),
    }
}
