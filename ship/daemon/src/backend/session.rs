//! A console session: messages in, messages out.
//!
//! Running a statement is bounded, and what takes long is done on another thread (`offload`). The session waits for that, for the socket,
//! for the WAL that it appends (`commit`), and for what a statement says to wait for (`wait_for`, `copy`).
//!
//! PostgreSQL: `PostgresMain` (src/backend/tcop/postgres.c).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::time::Timestamp;
use walhub_proto::wire::backend::Report;
use walhub_proto::wire::frontend::{self, Frontend, LARGE_MESSAGE_LIMIT};
use walhub_proto::wire::reader::Malformed;

use super::activity::{self, Activity, BackendState};
use super::commit::Settle;
use super::extended::{Portal, violation};
use super::memory::{Account, Reservation};
use super::output::Output;
use super::parameters::Parameters;
use super::pending::Pending;
use super::statement::{self, Prepared};
use super::transaction::Transaction;
use super::turns::Turn;
use super::user_ids::UserIds;
use super::wire::{Body, Wire};
use super::{BackendParams, Served, SettingsView};
use crate::clock;
use walhub_hub::api::hub::Identity;
use walhub_sql::failure::{Failure, PROGRAM_LIMIT_EXCEEDED, Result, canceled, fail, unsupported};
use walhub_sql::parse::{self, Parsed};
use walhub_sql::value::binary;

/// Bytes of one message from the client that carries no data.
pub(super) const MESSAGE_LEN_MAX: usize = 1 << 20;
/// Bytes of answers that are collected before they are written.
const OUTPUT_LEN_SOFT_MAX: usize = 64 << 10;
/// Bytes of answers that wait for their transaction. After them positions are told as in a block.
const OUTPUT_HELD_MAX: usize = 32 << 20;
/// Query texts whose statements a session remembers, and bytes of one.
const CACHED_TEXTS_MAX: usize = 16;
const CACHED_TEXT_LEN_MAX: usize = 4096;

/// Whether the session goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    Continue,
    End(Served),
}

/// Why a session cannot go on after what it was doing.
pub(super) enum Ending {
    /// The WAL is gone.
    Fatal(Report),
    /// The server stops while the session waits for standbys: neither success nor failure may be
    /// told. PostgreSQL: `SyncRepWaitForLSN`.
    Silent(Report),
    /// There is nobody to tell, or everything is said.
    Gone,
}

/// A query text that was run, and its statements.
type Cached = (Arc<str>, Arc<[Arc<Prepared>]>);

/// A session, without its socket. PostgreSQL: a backend process.
pub(crate) struct Backend<V> {
    pub(super) params: BackendParams<V>,
    pub(super) parameters: Parameters,
    pub(super) transaction: Transaction,
    pub(super) transaction_start: Timestamp,
    pub(super) statement_start: Timestamp,
    pub(super) statements: BTreeMap<String, Arc<Prepared>>,
    pub(super) unnamed_statement: Option<Arc<Prepared>>,
    pub(super) portals: BTreeMap<String, Portal>,
    pub(super) unnamed_portal: Option<Portal>,
    /// An extended message failed: everything up to Sync is skipped.
    skip_to_sync: bool,
    /// What the transaction emitted.
    pub(super) pending: Pending,
    pub(super) ending: Option<Ending>,
    /// The memory that the session holds.
    pub(super) account: Arc<Account>,
    /// Of the answers that wait.
    pub(super) answers_memory: Reservation,
    pub(super) turn: Turn,
    /// Cancel requests that had come when the message was begun.
    cancels: u64,
    cached: Vec<Cached>,
    cached_next: usize,
    /// The client believes that the server is a standby.
    told_in_recovery: bool,
    /// The connection takes replication commands, and SQL beside them.
    pub(super) is_walsender: bool,
    pub(super) out: Output,
}

/// Serves a client from after its first ReadyForQuery until it leaves or the session must end.
///
/// `input` is what was read from the stream after the startup packet.
///
/// # Errors
/// When the stream fails.
pub async fn serve<S, V>(stream: S, input: Vec<u8>, params: BackendParams<V>) -> io::Result<Served>
where
    S: AsyncRead + AsyncWrite + Unpin,
    V: SettingsView,
{
    let interrupts = Arc::clone(&params.member.interrupts);
    let mut backend = Backend::new(params);
    let mut wire = Wire::new(stream, input, &backend.account);
    loop {
        match backend.answer_frames(&mut wire).await? {
            Next::Continue => {}
            Next::End(served) => {
                wire.write(&backend.out.take()).await?;
                wire.flush().await?;
                if served == Served::Left {
                    wire.shutdown().await?;
                }
                return Ok(served);
            }
        }
        let more = tokio::select! {
            biased;
            () = interrupts.terminated() => return Ok(Served::Terminated),
            more = wire.fill() => more?,
        };
        // A client that goes without Terminate is only gone.
        backend.turn.begin();
        if !more {
            return backend.leave(&mut wire).await.map(|()| Served::Left);
        }
    }
}

impl<V: SettingsView> Backend<V> {
    fn new(params: BackendParams<V>) -> Self {
        let mut options = params.startup_options.clone();
        let activity = Activity::new(&params.client, &params.database);
        params.member.interrupts.show(activity);
        let account = Arc::clone(params.member.interrupts.account());
        params.sessions.memory().set_limit(params.settings.borrow().sql_memory_limit());
        options.insert("application_name".to_owned(), params.client.application_name.clone());
        let users = UserIds::of_login(params.authenticated, &params.roles.current());
        params.member.interrupts.set_user(params.authenticated);
        let mut parameters = Parameters::new(&options, users);
        parameters.set_system_user(params.system_user.as_deref());
        Self {
            parameters,
            told_in_recovery: params.hub.in_recovery(),
            is_walsender: false,
            params,
            transaction: Transaction::default(),
            transaction_start: clock::now(),
            statement_start: clock::now(),
            statements: BTreeMap::new(),
            unnamed_statement: None,
            portals: BTreeMap::new(),
            unnamed_portal: None,
            skip_to_sync: false,
            pending: Pending::new(&account),
            ending: None,
            answers_memory: account.reservation(),
            account,
            turn: Turn::new(),
            cancels: 0,
            cached: Vec::new(),
            cached_next: 0,
            out: Output::default(),
        }
    }

    /// A session for the SQL of a walsender connection, which reads the messages itself.
    pub(crate) fn of_walsender(params: BackendParams<V>) -> Self {
        Self { is_walsender: true, ..Self::new(params) }
    }

    /// Answers one query, ReadyForQuery included; `false` when the connection ends with it. `read` is what was read
    /// of the stream beyond the query, and may be more afterwards.
    ///
    /// PostgreSQL: `exec_replication_command`, which leaves to `exec_simple_query` what is no replication command.
    pub(crate) async fn answer_query<S>(
        &mut self,
        stream: &mut S,
        read: &mut Vec<u8>,
        query: &str,
    ) -> io::Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut wire = Wire::new(stream, std::mem::take(read), &self.account);
        self.turn.begin();
        self.begin_statement();
        let next = self.query(&mut wire, query.as_bytes()).await;
        self.write(&mut wire).await?;
        wire.flush().await?;
        *read = wire.into_unread();
        Ok(next == Next::Continue)
    }

    /// Answers everything that was read, and writes the answers.
    async fn answer_frames<S>(&mut self, wire: &mut Wire<S>) -> io::Result<Next>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            let body_max = self.body_max();
            let next = match wire.frame(body_max) {
                Ok(None) => match wire.take_discarded() {
                    Some((kind, failure)) => self.handle_discarded(wire, kind, failure).await,
                    None => break,
                },
                Ok(Some(frame)) => {
                    let (kind, len) = (frame.kind, frame.len);
                    let handled = if kind == b'B' && len > MESSAGE_LEN_MAX && !self.skip_to_sync {
                        let Body { bytes, memory } = wire.share_body(len);
                        Some(self.bind_message(&bytes, Some((&bytes, memory))))
                    } else {
                        let handled = self.handle_at_once(kind, frame.body);
                        if handled.is_some() {
                            wire.consume(len);
                        }
                        handled
                    };
                    match handled {
                        Some(Ok(())) => Next::Continue,
                        Some(Err(failure)) => self.failed(wire, failure, true).await,
                        None => {
                            let body = wire.take_body(len);
                            self.handle(wire, kind, &body.bytes).await?
                        }
                    }
                }
                Err(malformed) => self.handle_bad_frame(malformed),
            };
            if next != Next::Continue {
                return Ok(next);
            }
            let len = self.out.bytes().len();
            if self.holds_too_much()
                && let Err(failure) = self.settle(wire, Settle::Tell).await
                && let Next::End(served) = self.failed(wire, failure, true).await
            {
                return Ok(Next::End(served));
            }
            if len >= OUTPUT_LEN_SOFT_MAX {
                self.write(wire).await?;
            }
            self.turn.pass().await;
        }
        self.write(wire).await?;
        wire.flush().await?;
        Ok(Next::Continue)
    }

    /// Whether the answers that wait are so many that they are given now.
    fn holds_too_much(&mut self) -> bool {
        if !self.out.waits() {
            return false;
        }
        let bytes = self.out.held_bytes();
        self.out.bytes().len() >= OUTPUT_HELD_MAX || self.answers_memory.grow_to(bytes).is_err()
    }

    /// A message that there was no memory for has gone by.
    async fn handle_discarded<S>(&mut self, wire: &mut Wire<S>, kind: u8, failure: Failure) -> Next
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.skip_to_sync {
            return Next::Continue;
        }
        self.failed(wire, failure, frontend::is_extended(kind)).await
    }

    /// Writes the answers once they are a buffer full, as far as they can be told; whether it has.
    pub(super) async fn write_when_full<S>(&mut self, wire: &mut Wire<S>) -> Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.out.bytes().len() < OUTPUT_LEN_SOFT_MAX {
            return Ok(false);
        }
        if self.out.waits() {
            // What comes before the rows waits for its messages: they cannot be told later than the rows.
            Box::pin(self.settle(wire, Settle::Tell)).await?;
        }
        self.write(wire).await.map_err(|_| self.client_gone())?;
        self.turn.begin();
        Ok(true)
    }

    /// Lets other sessions have their turn between two statements.
    ///
    /// PostgreSQL: `CHECK_FOR_INTERRUPTS` in `exec_simple_query`.
    pub(super) async fn pass_turn(&mut self) -> Result<()> {
        let interrupts = &self.params.member.interrupts;
        if self.turn.pass().await && interrupts.cancels() != self.cancels {
            return Err(canceled());
        }
        Ok(())
    }

    /// Writes the answers that wait for nothing.
    pub(super) async fn write<S>(&mut self, wire: &mut Wire<S>) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.out.waits() || self.out.bytes().is_empty() {
            return Ok(());
        }
        // A client that reads nothing does not keep the server from stopping.
        let bytes = self.out.take();
        let interrupts = Arc::clone(&self.params.member.interrupts);
        tokio::select! {
            biased;
            written = wire.write(&bytes) => written,
            () = interrupts.terminated() => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Longest body of a message of each type. PostgreSQL: `SocketBackend`.
    pub(super) fn body_max(&self) -> impl Fn(u8) -> usize + use<V> {
        let data_max =
            if self.params.hub.in_recovery() { MESSAGE_LEN_MAX } else { LARGE_MESSAGE_LIMIT };
        move |kind| match kind {
            b'Q' | b'P' | b'B' | b'd' => data_max,
            _ => MESSAGE_LEN_MAX,
        }
    }

    pub(super) fn handle_bad_frame(&mut self, malformed: Malformed) -> Next {
        let report = match malformed {
            Malformed::Length { got } if usize::try_from(got).is_ok_and(|got| got > 4) => {
                let message = format!("message of {got} bytes is too long");
                Report::fatal(PROGRAM_LIMIT_EXCEEDED, message)
            }
            _ => Report::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length"),
        };
        self.drop_waiting();
        self.out.report(&report);
        Next::End(Served::Left)
    }

    pub(super) fn begin_statement(&mut self) {
        self.statement_start = clock::now();
        self.cancels = self.params.member.interrupts.cancels();
        if !self.transaction.is_open() && self.pending.is_empty() {
            self.transaction_start = self.statement_start;
        }
    }

    /// Handles a message that has nothing to wait for; `None` when it may have.
    fn handle_at_once(&mut self, kind: u8, body: &[u8]) -> Option<Result<()>> {
        if self.skip_to_sync && !matches!(kind, b'S' | b'X') {
            return Some(Ok(()));
        }
        let handled = match kind {
            b'B' => return Some(self.bind_message(body, None)),
            b'E' => return self.execute_message(body),
            b'P' | b'D' | b'C' => frontend::decode_body(kind, body).map(|message| match message {
                Frontend::Parse { statement, query, parameter_types } => {
                    self.parse(statement, query, &parameter_types)
                }
                Frontend::Describe { target, name } => self.describe(target, name),
                Frontend::Close { target, name } => self.close(target, name),
                _ => Ok(()),
            }),
            _ => return None,
        };
        Some(handled.unwrap_or_else(|malformed| Err(violation(malformed.to_string()))))
    }

    /// `shared` is the body when that is a large one.
    fn bind_message(&mut self, body: &[u8], shared: Option<(&Bytes, Reservation)>) -> Result<()> {
        let (bytes, memory) = shared.unzip();
        match frontend::decode_bind(body) {
            Ok(bind) => self.bind(&bind, bytes, memory),
            Err(malformed) => Err(violation(malformed.to_string())),
        }
    }

    async fn handle<S>(&mut self, wire: &mut Wire<S>, kind: u8, body: &[u8]) -> io::Result<Next>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let is_extended = frontend::is_extended(kind);
        let decoded = match frontend::decode_body(kind, body) {
            Ok(Frontend::Password(_)) => Err(Malformed::MessageType { got: kind }),
            decoded => decoded,
        };
        let message = match decoded {
            Ok(message) => message,
            Err(unknown @ Malformed::MessageType { .. }) => {
                self.drop_waiting();
                self.out.report(&Report::fatal(SqlState::PROTOCOL_VIOLATION, unknown.to_string()));
                return Ok(Next::End(Served::Left));
            }
            Err(malformed) => {
                let failure = violation(malformed.to_string());
                return Ok(self.failed(wire, failure, is_extended).await);
            }
        };
        self.begin_statement();
        let result = match message {
            Frontend::Terminate => {
                self.leave(wire).await?;
                return Ok(Next::End(Served::Left));
            }
            Frontend::Sync => self.sync(wire).await,
            Frontend::Flush => self.settle(wire, Settle::Tell).await.map(drop),
            Frontend::Query(query) => return Ok(self.query(wire, query).await),
            Frontend::FunctionCall(_) => Err(unsupported("the function call message")),
            Frontend::Execute { portal, rows_max } => self.execute(wire, portal, rows_max).await,
            // Parse and its like were handled at once; COPY's are left over from one that failed.
            _ => Ok(()),
        };
        Ok(match result {
            Ok(()) => Next::Continue,
            Err(failure) => self.failed(wire, failure, is_extended).await,
        })
    }

    /// The end of an implicit transaction. PostgreSQL: `finish_xact_command`.
    async fn sync<S>(&mut self, wire: &mut Wire<S>) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.skip_to_sync = false;
        self.settle(wire, Settle::Commit).await?;
        self.close_portals();
        self.ready();
        Ok(())
    }

    /// What the client leaves behind: messages that belong to no transaction are written, the
    /// transaction is forgotten.
    async fn leave<S>(&mut self, wire: &mut Wire<S>) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // Nobody is left to hear of a failure.
        let _ = self.settle(wire, Settle::Discard).await;
        self.out = Output::default();
        Ok(())
    }

    fn ready(&mut self) {
        self.tell_end_of_recovery();
        let status = self.transaction.status();
        self.out.ready_for_query(status);
        let now = clock::now();
        self.params.member.interrupts.change_activity(|activity| {
            activity.state = BackendState::of_status(status);
            activity.state_change = now;
            if activity.state == BackendState::Idle {
                activity.xact_start = None;
            }
        });
    }

    /// Tells the client once that the server has become a primary. PostgreSQL: `ReportChangedGUCOptions`.
    fn tell_end_of_recovery(&mut self) {
        if self.told_in_recovery && !self.params.hub.in_recovery() {
            self.told_in_recovery = false;
            let has_parameter = |identity: &Identity| identity.server_version_num >= 140_000;
            if self.params.hub.identity().as_ref().is_some_and(has_parameter) {
                self.out.parameter_status("in_hot_standby", "off");
            }
        }
    }

    /// Shows what is being done: of a query what [`activity::shown`] gives. PostgreSQL: `pgstat_report_activity` with
    /// `STATE_RUNNING`.
    pub(super) fn show_running(&self, query: &Arc<str>) {
        let (xact_start, now) = (self.transaction_start, self.statement_start);
        self.params.member.interrupts.change_activity(|activity| {
            activity.state = BackendState::Active;
            activity.query = Arc::clone(query);
            activity.xact_start = Some(xact_start);
            activity.query_start = Some(now);
            activity.state_change = now;
        });
    }

    /// Tells client and others of the settings that they see and that were others `before`.
    pub(super) fn tell_changes(&mut self, before: Option<&Parameters>) {
        if let Some(before) = before {
            self.tell_users(before.users());
        }
        let reported = before.map(|before| self.parameters.reported_since(before));
        for (name, value) in reported.into_iter().flatten() {
            self.out.parameter_status(name, &value);
            if name == "application_name" {
                self.params.member.interrupts.change_activity(|activity| {
                    activity.client.application_name = value;
                });
            }
        }
    }

    /// Tells the client as whom it acts, if that was somebody else before.
    fn tell_users(&mut self, before: UserIds) {
        let (users, roles) = (self.parameters.users(), self.params.roles.current());
        let is_superuser = roles.is_superuser(users.current());
        if is_superuser != roles.is_superuser(before.current()) {
            self.out.parameter_status("is_superuser", if is_superuser { "on" } else { "off" });
        }
        if users.session() != before.session() {
            let name = roles.by_oid(users.session()).map(|role| role.name.clone());
            self.out.parameter_status("session_authorization", &name.unwrap_or_default());
        }
    }

    /// Portals live as long as their transaction, and outside a block that ends here.
    pub(super) fn close_portals(&mut self) {
        if !self.transaction.is_open() {
            self.portals.clear();
            self.unnamed_portal = None;
        }
    }

    /// Tells the client, and forgets what the transaction emitted when it is an implicit one.
    async fn failed<S>(&mut self, wire: &mut Wire<S>, failure: Failure, extended: bool) -> Next
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.ending.is_none() {
            // What is worse than the failure itself is the ending, which is looked at below.
            let _ = self.settle(wire, Settle::Discard).await;
        }
        match self.ending.take() {
            Some(Ending::Fatal(report)) => {
                self.drop_waiting();
                self.out.report(&report);
                return Next::End(Served::Left);
            }
            Some(Ending::Silent(report)) => {
                self.drop_waiting();
                self.out.report(&report);
                return Next::End(Served::Silenced);
            }
            Some(Ending::Gone) => {
                self.drop_waiting();
                return Next::End(Served::Left);
            }
            None => {}
        }
        self.out.report(&failure);
        if self.transaction.is_open() {
            // Nothing of what came after the last savepoint can be committed any more.
            self.pending.roll_back_to(self.transaction.last_mark());
        }
        self.transaction.fail();
        if extended {
            self.skip_to_sync = true;
        } else {
            self.close_portals();
            self.ready();
        }
        Next::Continue
    }

    /// Answers a query that was begun, ReadyForQuery included.
    async fn query<S>(&mut self, wire: &mut Wire<S>, query: &[u8]) -> Next
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match self.simple_query(wire, query).await {
            Ok(()) => {
                self.ready();
                Next::Continue
            }
            Err(failure) => self.failed(wire, failure, false).await,
        }
    }

    /// PostgreSQL: `exec_simple_query`.
    async fn simple_query<S>(&mut self, wire: &mut Wire<S>, query: &[u8]) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let text = binary::text_parameter(query)?;
        self.unnamed_portal = None;
        match self.cached(text) {
            Some((sql, statements)) => {
                self.show_running(&activity::shown(&sql));
                for prepared in &*statements {
                    self.pass_turn().await?;
                    self.simple_statement(wire, prepared).await?;
                }
            }
            None => self.simple_text(wire, text).await?,
        }
        self.settle(wire, Settle::Commit).await?;
        self.close_portals();
        Ok(())
    }

    /// The statements of a text; the client is told what there is to know of it.
    pub(super) fn parse_text(&mut self, sql: &str) -> Result<Vec<Parsed>> {
        let mut notices = Vec::new();
        let parsed = parse::parse(sql, &mut notices);
        for notice in &notices {
            self.out.report(notice);
        }
        parsed
    }

    async fn simple_text<S>(&mut self, wire: &mut Wire<S>, text: &str) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let sql: Arc<str> = text.into();
        self.show_running(&activity::shown(&sql));
        let _room = statement::room_to_parse(&self.account, sql.len())?;
        let parsed = self.parse_text(&sql)?;
        if parsed.is_empty() {
            self.out.empty(b'I');
        }
        let len = sql.len() / parsed.len().max(1);
        let is_kept = sql.len() <= CACHED_TEXT_LEN_MAX;
        let mut statements = Vec::new();
        for parsed in parsed {
            self.pass_turn().await?;
            if self.transaction.is_failed() && !statement::may_end_transaction(Some(&parsed)) {
                return Err(statement::aborted());
            }
            let prepared = statement::prepare(Some(parsed), &sql, len, &[], &self.account)?;
            if !prepared.parameters.is_empty() {
                let message = "there is no parameter $1";
                return Err(fail(walhub_sql::failure::UNDEFINED_PARAMETER, message));
            }
            let prepared = Arc::new(prepared);
            self.simple_statement(wire, &prepared).await?;
            if is_kept && !prepared.is_about_roles() {
                statements.push(prepared);
            }
        }
        if !statements.is_empty() {
            self.remember(sql, statements);
        }
        Ok(())
    }

    async fn simple_statement<S>(
        &mut self,
        wire: &mut Wire<S>,
        prepared: &Arc<Prepared>,
    ) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.transaction.is_failed() && !prepared.ends_transaction() {
            return Err(statement::aborted());
        }
        self.answer(wire, prepared, Arc::default(), &[], true).await
    }

    /// The statements of a text that was run before.
    fn cached(&self, text: &str) -> Option<Cached> {
        self.cached.iter().find(|(known, _)| &**known == text).cloned()
    }

    fn remember(&mut self, sql: Arc<str>, statements: Vec<Arc<Prepared>>) {
        let entry = (sql, statements.into());
        match self.cached.get_mut(self.cached_next) {
            Some(oldest) => *oldest = entry,
            None => self.cached.push(entry),
        }
        self.cached_next = (self.cached_next + 1) % CACHED_TEXTS_MAX;
    }
}
