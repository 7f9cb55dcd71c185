//! Commands about logical slots, and the way into the stream of one.
//!
//! Only WAL of walhub's own is decoded: what is in that of an upstream is in its catalogs.
//!
//! Not here: the stream itself (`decoding`).
//!
//! PostgreSQL: `CreateReplicationSlot`, `StartLogicalReplication` (walsender.c),
//! `CreateDecodingContext` (src/backend/replication/logical/logical.c).

use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::oneshot;
use walhub_proto::command::{self, CommandOption, SnapshotAction};
use walhub_proto::decode::reading_start;
use walhub_proto::lsn::Lsn;
use walhub_proto::pgoutput::{PLUGIN_NAME, PgoutputOptions};
use walhub_proto::slot::LogicalSlot;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Report, Severity};
use walhub_proto::wire::startup::ReplicationMode;

use super::decoding::{Decoding, DecodingStart, Source};
use super::{WalSender, not_supported, report_of, shutting_down, starting_up};
use crate::backend::check_plugin;
use crate::net::session::Ended;
use crate::net::stream::Connection;
use walhub_hub::api::append::{DATABASE, WalRequest};
use walhub_hub::api::hub::{SlotRequest, StartStreaming};

impl WalSender<'_> {
    /// PostgreSQL: `CheckLogicalDecodingRequirements`.
    fn check_decoding(&self) -> Result<(), Report> {
        if self.session.mode != ReplicationMode::Database {
            let message = "logical decoding requires a database connection";
            return Err(Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message));
        }
        if self.session.services.hub.in_recovery() {
            let report = not_supported("logical decoding cannot be used while in recovery");
            return Err(report.detail(
                "walhub decodes WAL of its own; what is in that of an upstream is in the \
                 upstream's catalogs.",
            ));
        }
        Ok(())
    }

    /// CREATE_REPLICATION_SLOT name LOGICAL plugin. There are no tables and so no snapshots of them:
    /// the answer names none.
    pub(super) async fn create_logical_slot(
        &mut self,
        connection: &mut Connection,
        name: String,
        temporary: bool,
        plugin: String,
        options: &[CommandOption],
    ) -> Result<(), Report> {
        let options = command::logical_slot_options(options).map_err(|error| report_of(&error))?;
        self.check_decoding()?;
        if options.snapshot == SnapshotAction::Use {
            return Err(not_supported("walhub has no tables, and no snapshots of them"));
        }
        command::validate_slot_name(&name).map_err(|error| report_of(&error))?;
        let slots = self.session.services.hub.snapshot().slots;
        if slots.iter().any(|slot| slot.slot_name == name) {
            let message = format!("replication slot \"{name}\" already exists");
            return Err(Report::error(SqlState::DUPLICATE_OBJECT, message));
        }
        check_plugin(&plugin)?;
        let consistent_point = self.consistent_point().await?;
        let logical = LogicalSlot {
            plugin: plugin.clone(),
            database: self.session.database.clone(),
            database_oid: DATABASE,
            confirmed_flush_lsn: consistent_point,
            two_phase: options.two_phase,
            failover: options.failover,
        };
        let owner = self.session.client.pid;
        self.slot(SlotRequest::CreateLogical { name: name.clone(), temporary, logical, owner })
            .await?;
        self.owns_temporary_slot |= temporary;
        super::answer_created(connection, name, consistent_point, Some(plugin));
        Ok(())
    }

    /// A durable position at which no transaction is under way: transactions are appended whole, and
    /// a checkpoint record comes between two of them. PostgreSQL: `DecodingContextFindStartpoint`,
    /// which has `LogStandbySnapshot` write the record that it looks for.
    async fn consistent_point(&self) -> Result<Lsn, Report> {
        let answer = self.session.services.hub.wal(WalRequest::Checkpoint).await;
        let point = answer.map_err(|oneshot::error::RecvError { .. }| shutting_down())??;
        let detail = "There are no running transactions.";
        tracing::info!(detail, "logical decoding found consistent point at {point}");
        Ok(point)
    }

    /// START_REPLICATION SLOT name LOGICAL; the connection comes back unless it is closed.
    pub(super) async fn start_logical(
        &self,
        connection: &mut Option<Connection>,
        slot: &str,
        start: Lsn,
        options: &[CommandOption],
    ) -> Result<Result<(), Report>, Ended> {
        let request = match self.logical_request(slot, start, options) {
            Ok(request) => request,
            Err(report) => return Ok(Err(report)),
        };
        // To the hub it is a standby that wants WAL from where decoding begins.
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let answer = self.session.services.hub.start(Box::new(StartStreaming {
            conn: theirs.into(),
            tls: None,
            unread: Vec::new(),
            slot: Some(slot.to_owned()),
            logical: true,
            start: request.start_reading,
            timeline: request.timeline,
            client: self.session.client.clone(),
        }));
        let mut source = Source::new(UnixStream::from_std(ours)?, answer);
        if let Err(report) = source.begin().await? {
            return if report.severity == Severity::Fatal {
                Err(Ended::Fatal(report))
            } else {
                Ok(Err(report))
            };
        }
        log_start(slot, start, &request);
        let Some(client) = connection.take() else { return Err(Ended::Quietly) };
        let hub = Arc::clone(&self.session.services.hub);
        let (client, ended) = Decoding::new(hub, request, source).run(client).await;
        let connection = connection.insert(client);
        ended?;
        connection.out.command_complete("COPY 0");
        Ok(Ok(()))
    }

    /// What is to be decoded, and from where. PostgreSQL: `CreateDecodingContext`.
    fn logical_request(
        &self,
        slot: &str,
        start: Lsn,
        options: &[CommandOption],
    ) -> Result<DecodingStart, Report> {
        self.check_decoding()?;
        let hub = &self.session.services.hub;
        let identity = hub.identity().ok_or_else(starting_up)?;
        let snapshot = hub.snapshot();
        let positions = snapshot.positions.ok_or_else(starting_up)?;
        let row =
            snapshot.slots.into_iter().find(|row| row.slot_name == slot).ok_or_else(|| {
                let message = format!("replication slot \"{slot}\" does not exist");
                Report::error(SqlState::UNDEFINED_OBJECT, message)
            })?;
        let Some(logical) = row.logical else {
            let message = "cannot use physical replication slot for logical decoding";
            return Err(Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message));
        };
        let options = PgoutputOptions::parse(options).map_err(|error| {
            let context = format!(
                "slot \"{slot}\", output plugin \"{PLUGIN_NAME}\", in the startup callback"
            );
            Report::error(error.sqlstate(), error.to_string()).context(context)
        })?;
        // Of one that has lost its WAL the hub says so.
        let confirmed = logical.confirmed_flush_lsn;
        let restart_lsn = row.restart_lsn.unwrap_or(confirmed);
        let (size, oldest) = (identity.segment_size, positions.oldest_lsn);
        Ok(DecodingStart {
            slot: slot.to_owned(),
            messages: options.messages,
            system_identifier: identity.system_identifier,
            segment_size: size,
            timeline: positions.timeline,
            restart_lsn,
            confirmed,
            start_reading: reading_start(restart_lsn, size, oldest),
            start_decoding_at: start.max(confirmed),
        })
    }
}

/// PostgreSQL: `CreateDecodingContext`.
fn log_start(slot: &str, start: Lsn, request: &DecodingStart) {
    let DecodingStart { confirmed, start_decoding_at, restart_lsn, .. } = request;
    if start.is_valid() && start < *confirmed {
        tracing::info!("{start} has been already streamed, forwarding to {confirmed}");
    }
    let detail = format!(
        "Streaming transactions committing after {start_decoding_at}, reading WAL from \
         {restart_lsn}."
    );
    tracing::info!(detail, "starting logical decoding for slot \"{slot}\"");
}
