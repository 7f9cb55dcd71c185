//! Replication commands of one walsender connection.
//!
//! Only simple queries are taken. START_REPLICATION hands the socket to a ship core and takes it
//! back when the stream has ended; SQL of a walsender that is connected to a database is answered by
//! `backend`, one query at a time.
//!
//! PostgreSQL: `exec_replication_command` (src/backend/replication/walsender.c), `PostgresMain`
//! (src/backend/tcop/postgres.c).

mod decoding;
mod logical;

use std::io;

use tokio::sync::oneshot;
use walhub_proto::command::{self, Command, CommandError, CommandOption};
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::roles::predefined::PG_READ_ALL_SETTINGS;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Column, ColumnType, Report, Severity};
use walhub_proto::wire::frontend::{self, BadMessage, Frontend};
use walhub_proto::wire::reader::Malformed;
use walhub_proto::wire::startup::ReplicationMode;

use crate::backend::Backend;
use crate::net::session::{ClientSession, Ended, canonical_name, log_report};
use crate::net::stream::{Connection, Detached, Stream};
use crate::settings::{SUPERUSER_ONLY, Settings};
use walhub_hub::api::hub::{Positions, SlotRequest, StartStreaming, StreamEnd};
use walhub_sql::value::binary::text_parameter;

/// Length word that a message in command mode may have: no command comes near it.
const COMMAND_BYTES_MAX: usize = 1 << 20;

/// What a client said in command mode.
enum ClientMessage {
    Query(String),
    /// Part of the extended protocol, which walsenders do not speak.
    Extended,
    FunctionCall,
    Sync,
    /// Left over from a stream that has ended.
    Ignored,
    /// A message whose fields are wrong; the next one is where it should be.
    Malformed(Report),
    Terminate,
}

/// Serves commands until the session ends; the connection comes back unless it is closed.
pub(crate) async fn serve(
    session: &ClientSession,
    connection: Connection,
) -> (Option<Connection>, Ended) {
    let mut walsender =
        WalSender { session, sql: None, owns_temporary_slot: false, ignore_till_sync: false };
    let mut connection = Some(connection);
    let ended = loop {
        let Some(current) = connection.as_mut() else { break Ended::Quietly };
        let step = tokio::select! {
            request = next_request(current) => request,
            ended = session.terminated() => Err(ended),
        };
        let step = match step {
            Ok(request) => walsender.answer(&mut connection, request).await,
            Err(ended) => Err(ended),
        };
        if let Err(ended) = step {
            break ended;
        }
    };
    walsender.drop_temporary_slots().await;
    (connection, ended)
}

/// Reads the next message. Dropping the future loses nothing.
async fn next_request(connection: &mut Connection) -> Result<ClientMessage, Ended> {
    loop {
        let decoded = match frontend::decode_within(&connection.read, COMMAND_BYTES_MAX) {
            Ok(None) => None,
            Ok(Some((message, len))) => Some((request_of(&message)?, len)),
            Err(BadMessage { rule, frame_len: Some(len) }) => {
                let report = Report::error(SqlState::PROTOCOL_VIOLATION, rule.to_string());
                Some((ClientMessage::Malformed(report), len))
            }
            Err(BadMessage { rule, frame_len: None }) => return Err(lost_place(rule)),
        };
        if let Some((request, len)) = decoded {
            connection.consume(len);
            return Ok(request);
        }
        if !connection.fill().await? {
            return Err(Ended::Quietly);
        }
    }
}

fn request_of(message: &Frontend<'_>) -> Result<ClientMessage, Ended> {
    Ok(match message {
        Frontend::Query(text) => match text_parameter(text) {
            Ok(text) => ClientMessage::Query(text.to_owned()),
            Err(report) => ClientMessage::Malformed(*report),
        },
        Frontend::Parse { .. }
        | Frontend::Bind(_)
        | Frontend::Describe { .. }
        | Frontend::Execute { .. }
        | Frontend::Close { .. } => ClientMessage::Extended,
        Frontend::FunctionCall(_) => ClientMessage::FunctionCall,
        Frontend::Sync => ClientMessage::Sync,
        Frontend::Flush | Frontend::CopyData(_) | Frontend::CopyDone | Frontend::CopyFail(_) => {
            ClientMessage::Ignored
        }
        Frontend::Terminate => ClientMessage::Terminate,
        Frontend::Password(_) => {
            return Err(lost_place(Malformed::MessageType { got: b'p' }));
        }
    })
}

/// After a frame that cannot be trusted nobody knows where the next one begins.
fn lost_place(rule: Malformed) -> Ended {
    Ended::Fatal(Report::fatal(SqlState::PROTOCOL_VIOLATION, rule.to_string()))
}

struct WalSender<'a> {
    session: &'a ClientSession,
    /// What answers its SQL, from the first such query on.
    sql: Option<Box<Backend<Settings>>>,
    owns_temporary_slot: bool,
    ignore_till_sync: bool,
}

impl WalSender<'_> {
    /// Answers one message; `connection` is empty after it when the stream took it for good.
    async fn answer(
        &mut self,
        connection: &mut Option<Connection>,
        request: ClientMessage,
    ) -> Result<(), Ended> {
        let refused = |what: &str| {
            let message = format!("{what} not supported in a replication connection");
            Report::error(SqlState::PROTOCOL_VIOLATION, message)
        };
        let mut statement = None;
        let outcome = match request {
            ClientMessage::Terminate => return Err(Ended::Quietly),
            ClientMessage::Sync => {
                self.ignore_till_sync = false;
                Ok(())
            }
            ClientMessage::Query(_)
            | ClientMessage::Extended
            | ClientMessage::FunctionCall
            | ClientMessage::Malformed(_)
                if self.ignore_till_sync =>
            {
                return Ok(());
            }
            ClientMessage::Ignored => return Ok(()),
            ClientMessage::Malformed(report) => Err(report),
            ClientMessage::Query(text) => {
                let answered = self.query(connection, &text).await?;
                statement = Some(text);
                match answered {
                    Answered::Ready => return Ok(()),
                    Answered::Done => Ok(()),
                    Answered::Failed(report) => Err(report),
                }
            }
            // PostgreSQL: `forbidden_in_wal_sender`.
            ClientMessage::Extended => {
                self.ignore_till_sync = true;
                Err(refused("extended query protocol"))
            }
            ClientMessage::FunctionCall => Err(refused("fastpath function calls")),
        };
        let Some(connection) = connection.as_mut() else { return Ok(()) };
        if let Err(report) = outcome {
            log_report(&report, statement.as_deref());
            connection.out.report(&report);
            if report.severity == Severity::Error {
                // PostgreSQL: `WalSndErrorCleanup`.
                self.drop_temporary_slots().await;
            }
        }
        if !self.ignore_till_sync {
            connection.out.ready_for_query(b'I');
        }
        connection.flush().await?;
        Ok(())
    }

    async fn query(
        &mut self,
        connection: &mut Option<Connection>,
        text: &str,
    ) -> Result<Answered, Ended> {
        let command = match command::parse(text) {
            Ok(Some(command)) => command,
            Ok(None) => return self.sql(connection, text).await,
            Err(error) => return Ok(Answered::Failed(report_of(&error))),
        };
        if self.session.services.settings().log_replication_commands {
            tracing::info!("received replication command: {text}");
        } else {
            tracing::debug!("received replication command: {text}");
        }
        let tag = command.tag();
        let outcome = if let Command::StartReplication { slot, start, timeline } = command {
            let streaming = self.start_replication(connection, slot, start, timeline);
            self.session.until_interrupted(streaming).await?
        } else if let Command::StartLogicalReplication { slot, start, options } = command {
            let streaming = self.start_logical(connection, &slot, start, &options);
            self.session.until_interrupted(streaming).await?
        } else if let Some(connection) = connection.as_mut() {
            self.execute(connection, command).await
        } else {
            return Ok(Answered::Done);
        };
        match outcome {
            Ok(()) => {
                if let Some(connection) = connection.as_mut() {
                    connection.out.command_complete(tag);
                }
                Ok(Answered::Done)
            }
            Err(report) => Ok(Answered::Failed(report)),
        }
    }

    async fn sql(
        &mut self,
        connection: &mut Option<Connection>,
        text: &str,
    ) -> Result<Answered, Ended> {
        if self.session.mode != ReplicationMode::Database {
            return Ok(Answered::Failed(Report::error(
                SqlState::FEATURE_NOT_SUPPORTED,
                "cannot execute SQL commands in WAL sender for physical replication",
            )));
        }
        let Some(connection) = connection.as_mut() else { return Ok(Answered::Done) };
        let begin = || Box::new(Backend::of_walsender(self.session.backend_params()));
        let sql = self.sql.get_or_insert_with(begin);
        let Connection { stream, read, .. } = connection;
        // What SQL needs is in memory only while it runs: few walsenders ever do.
        if Box::pin(sql.answer_query(stream, read, text)).await? {
            Ok(Answered::Ready)
        } else {
            Err(Ended::Quietly)
        }
    }

    async fn execute(
        &mut self,
        connection: &mut Connection,
        command: Command,
    ) -> Result<(), Report> {
        match command {
            Command::IdentifySystem => self.identify_system(connection),
            Command::Show { name } => self.show(connection, &name),
            Command::TimelineHistory { timeline } => self.timeline_history(connection, timeline),
            Command::ReadReplicationSlot { slot } => self.read_replication_slot(connection, &slot),
            Command::CreateReplicationSlot { slot, temporary, plugin: Some(plugin), options } => {
                self.create_logical_slot(connection, slot, temporary, plugin, &options).await
            }
            Command::CreateReplicationSlot { slot, temporary, plugin: None, options } => {
                self.create_replication_slot(connection, slot, temporary, &options).await
            }
            Command::DropReplicationSlot { slot, wait } => {
                self.slot(SlotRequest::Drop { name: slot, wait }).await.map(drop)
            }
            Command::AlterReplicationSlot { slot, .. } => Err(self.alter_refusal(&slot)),
            Command::UploadManifest => Err(not_supported("UPLOAD_MANIFEST is not supported yet")),
            Command::BaseBackup { .. } => Err(not_supported("BASE_BACKUP is not supported yet")),
            Command::StartReplication { .. } | Command::StartLogicalReplication { .. } => {
                unreachable!("it takes the connection away")
            }
        }
    }

    /// PostgreSQL: `IdentifySystem`.
    fn identify_system(&self, connection: &mut Connection) -> Result<(), Report> {
        let identity = self.session.services.hub.identity().ok_or_else(starting_up)?;
        let positions = self.positions()?;
        let database =
            (self.session.mode == ReplicationMode::Database).then(|| self.session.database.clone());
        // PostgreSQL 16 widened it; the answer looks like the upstream's own.
        let wide = identity.server_version_num >= 160_000;
        let timeline_type = if wide { ColumnType::INT8 } else { ColumnType::INT4 };
        connection.out.row_description(&[
            Column::text("systemid", ColumnType::TEXT),
            Column::text("timeline", timeline_type),
            Column::text("xlogpos", ColumnType::TEXT),
            Column::text("dbname", ColumnType::TEXT),
        ]);
        connection.out.data_row(&[
            Some(identity.system_identifier.to_string()),
            Some(positions.timeline.to_string()),
            Some(positions.sendable_lsn.to_string()),
            database,
        ]);
        Ok(())
    }

    fn positions(&self) -> Result<Positions, Report> {
        self.session.services.hub.positions().ok_or_else(starting_up)
    }

    /// PostgreSQL: `GetPGVariable`.
    fn show(&self, connection: &mut Connection, name: &str) -> Result<(), Report> {
        let name = canonical_name(name);
        let roles = self.session.services.roles.current();
        let hidden = SUPERUSER_ONLY.iter().any(|hidden| hidden.eq_ignore_ascii_case(name));
        if hidden && !roles.has_privs_of(self.session.authenticated, PG_READ_ALL_SETTINGS) {
            let message = format!(
                "must be superuser or have privileges of pg_read_all_settings to examine \"{name}\""
            );
            return Err(Report::error(SqlState::INSUFFICIENT_PRIVILEGE, message));
        }
        let value = self
            .session
            .show_session(name)
            .or_else(|| self.session.services.settings().show(name))
            .ok_or_else(|| {
                let message = format!("unrecognized configuration parameter \"{name}\"");
                Report::error(SqlState::UNDEFINED_OBJECT, message)
            })?;
        connection.out.row_description(&[Column::text(name, ColumnType::TEXT)]);
        connection.out.data_row(&[Some(value)]);
        Ok(())
    }

    /// PostgreSQL: `SendTimeLineHistory`.
    fn timeline_history(
        &self,
        connection: &mut Connection,
        timeline: TimelineId,
    ) -> Result<(), Report> {
        let name = format!("{:08X}.history", timeline.to_u32());
        let failed = |sqlstate, verb: &str, why: &str| {
            Report::error(sqlstate, format!("could not {verb} file \"pg_wal/{name}\": {why}"))
        };
        let content = match self.session.services.hub.timeline_history(timeline) {
            Ok(Some(content)) => content,
            Ok(None) => {
                let why = "No such file or directory";
                return Err(failed(SqlState::UNDEFINED_FILE, "open", why));
            }
            Err(error) => return Err(failed(SqlState::IO_ERROR, "read", &error.to_string())),
        };
        connection.out.row_description(&[
            Column::text("filename", ColumnType::TEXT),
            Column::text("content", ColumnType::TEXT),
        ]);
        connection.out.data_row(&[Some(name.into_bytes()), Some(content)]);
        Ok(())
    }

    /// PostgreSQL: `ReadReplicationSlot`. A slot that does not exist gives a row of NULLs.
    fn read_replication_slot(&self, connection: &mut Connection, name: &str) -> Result<(), Report> {
        let slots = self.session.services.hub.snapshot().slots;
        let slot = slots.into_iter().find(|slot| slot.slot_name == name);
        if slot.as_ref().is_some_and(|slot| slot.logical.is_some()) {
            let text = "cannot use READ_REPLICATION_SLOT with a logical replication slot";
            return Err(not_supported(text));
        }
        let restart = slot.as_ref().and_then(|slot| slot.restart_lsn);
        let timeline = slot.as_ref().and_then(|slot| slot.restart_tli);
        connection.out.row_description(&[
            Column::text("slot_type", ColumnType::TEXT),
            Column::text("restart_lsn", ColumnType::TEXT),
            Column::text("restart_tli", ColumnType::INT8),
        ]);
        connection.out.data_row(&[
            slot.map(|_| "physical".to_owned()),
            restart.map(|lsn| lsn.to_string()),
            timeline.map(|tli| tli.to_string()),
        ]);
        Ok(())
    }

    /// PostgreSQL: `CreateReplicationSlot`.
    async fn create_replication_slot(
        &mut self,
        connection: &mut Connection,
        name: String,
        temporary: bool,
        options: &[CommandOption],
    ) -> Result<(), Report> {
        let reserve_wal =
            command::physical_slot_reserves_wal(options).map_err(|error| report_of(&error))?;
        command::validate_slot_name(&name).map_err(|error| report_of(&error))?;
        let owner = self.session.client.pid;
        self.slot(SlotRequest::Create { name: name.clone(), temporary, reserve_wal, owner })
            .await?;
        self.owns_temporary_slot |= temporary;
        answer_created(connection, name, Lsn::INVALID, None);
        Ok(())
    }

    async fn slot(&self, request: SlotRequest) -> Result<(), Report> {
        match self.session.services.hub.slot(request).await {
            Ok(answer) => answer.map(drop),
            Err(oneshot::error::RecvError { .. }) => Err(shutting_down()),
        }
    }

    /// PostgreSQL: `ReplicationSlotAlter`.
    fn alter_refusal(&self, name: &str) -> Report {
        let slots = self.session.services.hub.snapshot().slots;
        match slots.iter().find(|slot| slot.slot_name == name) {
            Some(slot) if slot.logical.is_some() => {
                not_supported("ALTER_REPLICATION_SLOT is not supported by walhub")
            }
            Some(_) => {
                not_supported("cannot use ALTER_REPLICATION_SLOT with a physical replication slot")
            }
            None => {
                let message = format!("replication slot \"{name}\" does not exist");
                Report::error(SqlState::UNDEFINED_OBJECT, message)
            }
        }
    }

    async fn drop_temporary_slots(&mut self) {
        if std::mem::take(&mut self.owns_temporary_slot) {
            let request = SlotRequest::DropTemporary { owner: self.session.client.pid };
            if let Err(report) = self.slot(request).await {
                log_report(&report, None);
            }
        }
    }

    /// Lends the socket to a ship core. PostgreSQL: `StartReplication`.
    async fn start_replication(
        &self,
        connection: &mut Option<Connection>,
        slot: Option<String>,
        start: Lsn,
        timeline: Option<TimelineId>,
    ) -> Result<Result<(), Report>, Ended> {
        let timeline = match timeline.map_or_else(|| self.positions().map(|at| at.timeline), Ok) {
            Ok(timeline) => timeline,
            Err(report) => return Ok(Err(report)),
        };
        let Some(Connection { stream, read, .. }) = connection.take() else {
            return Err(Ended::Quietly);
        };
        let Detached { fd: conn, kind, tls, unread } = stream.detach()?;
        let unread = [read, unread].concat();
        let client = self.session.client.clone();
        let streaming = Box::new(StartStreaming {
            conn,
            tls,
            unread,
            slot,
            logical: false,
            start,
            timeline,
            client,
        });
        let back = |conn, tls, unread| -> io::Result<_> {
            Ok(Connection::new(Stream::attach(conn, kind, tls)?, unread))
        };
        match self.session.services.hub.start(streaming).await {
            Ok(StreamEnd::Finished { conn, tls, unread, next }) => {
                let connection = connection.insert(back(conn, tls, unread)?);
                if let Some((next_tli, startpos)) = next {
                    connection.out.row_description(&[
                        Column::text("next_tli", ColumnType::INT8),
                        Column::text("next_tli_startpos", ColumnType::TEXT),
                    ]);
                    connection
                        .out
                        .data_row(&[Some(next_tli.to_string()), Some(startpos.to_string())]);
                }
                // A second CommandComplete follows, with the command's own tag.
                connection.out.command_complete("START_STREAMING");
                Ok(Ok(()))
            }
            Ok(StreamEnd::Refused { conn, tls, unread, report }) => {
                *connection = Some(back(conn, tls, unread)?);
                if report.severity == Severity::Fatal {
                    return Err(Ended::Fatal(report));
                }
                Ok(Err(report))
            }
            Ok(StreamEnd::Closed) | Err(oneshot::error::RecvError { .. }) => Err(Ended::Quietly),
        }
    }
}

/// What is left to say after a query.
enum Answered {
    /// Nothing: ReadyForQuery was sent.
    Ready,
    /// Nothing but ReadyForQuery.
    Done,
    /// Why it failed, and ReadyForQuery.
    Failed(Report),
}

fn report_of(error: &CommandError) -> Report {
    let report = Report::error(error.sqlstate(), error.to_string());
    match error.hint() {
        Some(hint) => report.hint(hint),
        None => report,
    }
}

fn not_supported(message: &str) -> Report {
    Report::error(SqlState::FEATURE_NOT_SUPPORTED, message)
}

fn starting_up() -> Report {
    Report::error(SqlState::CANNOT_CONNECT_NOW, "the database system is starting up")
        .detail("walhub has not yet received WAL from its upstream.")
}

/// The answer to CREATE_REPLICATION_SLOT.
fn answer_created(connection: &mut Connection, name: String, point: Lsn, plugin: Option<String>) {
    connection.out.row_description(&[
        Column::text("slot_name", ColumnType::TEXT),
        Column::text("consistent_point", ColumnType::TEXT),
        Column::text("snapshot_name", ColumnType::TEXT),
        Column::text("output_plugin", ColumnType::TEXT),
    ]);
    connection.out.data_row(&[Some(name), Some(point.to_string()), None, plugin]);
}

fn shutting_down() -> Report {
    Report::error(SqlState::CANNOT_CONNECT_NOW, "the database system is shutting down")
}
