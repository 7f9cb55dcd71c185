//! Functions that make and drop replication slots.
//!
//! Not here: replication commands (`replication`), the slots themselves (the hub).
//!
//! PostgreSQL: src/backend/replication/slotfuncs.c.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use walhub_proto::lsn::Lsn;
use walhub_proto::pgoutput::PLUGIN_NAME;
use walhub_proto::slot::LogicalSlot;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use super::SettingsView;
use super::context::Context;
use super::emit::Call;
use super::session::Backend;
use super::wire::{Attended, Told, Wire};
use walhub_hub::api::append::{DATABASE, WalRequest};
use walhub_hub::api::hub::SlotRequest;
use walhub_sql::failure::{Result, fail, unsupported};
use walhub_sql::value::Value;

/// What is to be done with a slot.
pub(super) enum SlotCall {
    CreatePhysical { name: String, reserve_wal: bool },
    CreateLogical { name: String, plugin: String, two_phase: bool },
    Drop { name: String },
}

/// Has it done once the statement has run.
pub(super) fn call(ctx: &Context<'_>, call: SlotCall, temporary: bool) -> Result<Value> {
    ctx.rights().check_slots()?;
    if temporary {
        return Err(unsupported("a temporary replication slot of an SQL session"));
    }
    Ok(ctx.emitter.push(Call::Slot(call)))
}

impl<V: SettingsView> Backend<V> {
    /// Does it. The answer is the text of the record (slot_name, lsn), and nothing for a slot that is dropped.
    pub(super) async fn call_slot<S>(&mut self, wire: &mut Wire<S>, call: SlotCall) -> Result<Value>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let owner = self.params.client.pid;
        let made = match &call {
            SlotCall::CreatePhysical { name, .. } | SlotCall::CreateLogical { name, .. } => {
                Some(name.clone())
            }
            SlotCall::Drop { .. } => None,
        };
        let request = match call {
            SlotCall::Drop { name } => SlotRequest::Drop { name, wait: false },
            SlotCall::CreatePhysical { name, reserve_wal } => {
                SlotRequest::Create { name, temporary: false, reserve_wal, owner }
            }
            SlotCall::CreateLogical { name, plugin, two_phase } => {
                if self.params.hub.in_recovery() {
                    let message = "logical decoding cannot be used while in recovery";
                    return Err(fail(SqlState::FEATURE_NOT_SUPPORTED, message));
                }
                check_plugin(&plugin)?;
                let logical = LogicalSlot {
                    plugin,
                    database: self.params.database.clone(),
                    database_oid: DATABASE,
                    confirmed_flush_lsn: self.wal(wire, WalRequest::Checkpoint).await?,
                    two_phase,
                    failover: false,
                };
                SlotRequest::CreateLogical { name, temporary: false, logical, owner }
            }
        };
        let mut answer = self.params.hub.slot(request);
        let interrupts = Arc::clone(&self.params.member.interrupts);
        let mut told = Told::default();
        loop {
            match wire.attend(&interrupts, &mut told, &mut answer, None).await {
                Attended::Answered(answered) => {
                    let row = answered?;
                    let logical = row.as_ref().and_then(|row| row.logical.as_ref());
                    let confirmed = logical.map(|logical| logical.confirmed_flush_lsn);
                    let restart_lsn = row.as_ref().and_then(|row| row.restart_lsn);
                    let lsn = confirmed.or(restart_lsn).and_then(Lsn::valid);
                    let lsn = lsn.map(|lsn| lsn.to_string()).unwrap_or_default();
                    return Ok(Value::Text(match made {
                        Some(name) => format!("({name},{lsn})"),
                        None => String::new(),
                    }));
                }
                Attended::Lost => return Err(self.lost()),
                // It does not take long, and cannot be taken back.
                Attended::Interrupted(_) | Attended::TimedOut => {}
            }
        }
    }
}

/// PostgreSQL: `LoadOutputPlugin`.
///
/// # Errors
/// When there is no such plugin.
pub(crate) fn check_plugin(plugin: &str) -> std::result::Result<(), Report> {
    if plugin == PLUGIN_NAME {
        return Ok(());
    }
    let message = format!("could not access file \"{plugin}\": No such file or directory");
    let report = Report::error(SqlState::UNDEFINED_FILE, message);
    Err(report.hint("walhub has the output plugin pgoutput."))
}
