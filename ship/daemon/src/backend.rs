//! The SQL console: monitoring views and functions over the hub.
//!
//! A session speaks PostgreSQL's protocol, simple and extended, and answers what psql, drivers and
//! monitoring tools ask of a server's WAL. The language is walhub-sql's; `views` and `functions` are what this server
//! adds to it, and `context` is what they see. `memory` is what all sessions may hold together. What takes longer than
//! a moment is evaluated on a thread that is no session's (`offload`), and `turns` says whose.
//!
//! A statement is evaluated once, and that has no effect: functions leave in `emit` what is to be done. `execute` does
//! it and puts the answers into the rows. Messages are kept by `pending` until their transaction ends, and `commit`
//! appends them and waits; rows that show where they lie wait in `output` meanwhile.
//!
//! Not here: the language (walhub-sql); start-up and authentication, which come before; replication commands.

mod activity;
mod commit;
mod context;
mod copy;
mod emit;
mod execute;
mod extended;
mod functions;
mod interrupts;
mod memory;
mod message_scan;
mod offload;
mod output;
mod parameters;
mod pending;
mod privileges;
mod promote;
mod roles;
mod session;
mod slot_calls;
mod statement;
#[cfg(test)]
mod tests;
mod transaction;
mod turns;
mod user_ids;
mod views;
mod wait_for;
mod wire;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::watch;
use walhub_proto::syncrep::SynchronousCommit;

pub use self::interrupts::{
    CancelKey, CopyProgress, Interrupt, Interrupts, Member, Sessions, SslStatus,
};
pub use self::memory::Memory;
pub(crate) use self::parameters::{check_startup, reported_at_startup};
pub(crate) use self::session::Backend;
pub use self::session::serve;
pub(crate) use self::slot_calls::check_plugin;
use crate::roles::RoleStore;
use crate::settings::{SettingRow, Settings};
use walhub_hub::api::hub::{Client, Hub};

/// The server's settings, as SHOW and pg_settings see them.
pub trait SettingsView: Send + Sync + 'static {
    /// A setting as SHOW prints it, with its unit; the name is in lower case.
    fn show(&self, name: &str) -> Option<String>;

    /// Every setting, as `pg_settings` shows it.
    fn all(&self) -> Vec<SettingRow>;

    /// Bytes that all sessions together may hold.
    fn sql_memory_limit(&self) -> usize {
        memory::LIMIT_DEFAULT
    }

    /// What a commit waits for when the session has not said.
    fn synchronous_commit(&self) -> SynchronousCommit {
        let shown = self.show("synchronous_commit");
        shown.and_then(|value| SynchronousCommit::parse(&value)).unwrap_or_default()
    }
}

impl SettingsView for Settings {
    fn show(&self, name: &str) -> Option<String> {
        Self::show(self, name)
    }

    fn all(&self) -> Vec<SettingRow> {
        Self::all(self)
    }

    fn sql_memory_limit(&self) -> usize {
        usize::try_from(self.sql_memory_limit).unwrap_or(usize::MAX)
    }

    fn synchronous_commit(&self) -> SynchronousCommit {
        self.synchronous_commit
    }
}

/// What a backend needs.
pub struct BackendParams<V = Settings> {
    /// Who is connected.
    pub client: Client,
    /// `database` of the startup packet.
    pub database: String,
    /// Parameters of the startup packet other than user, database, replication and options, and
    /// those that `options` sets with `-c`. What is no session parameter is ignored.
    pub startup_options: BTreeMap<String, String>,
    /// The session among the others.
    pub member: Arc<Member>,
    /// All sessions, which views show and functions signal.
    pub sessions: Arc<Sessions>,
    /// The hub that is shown and written to.
    pub hub: Arc<dyn Hub<OwnedFd>>,
    /// The server's settings now.
    pub settings: watch::Receiver<Arc<V>>,
    /// The server's roles.
    pub roles: Arc<RoleStore>,
    /// OID of the role that has logged in.
    pub authenticated: u32,
    /// Who has logged in and how, unless that was not asked: `method:name`.
    pub system_user: Option<String>,
}

/// How a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Served {
    /// The client left, or was told why it cannot stay.
    Left,
    /// The session must end, and the client was not told yet.
    Terminated,
    /// The session must end, and nothing more may be said: whether a commit is as safe as the
    /// client asked for is not known.
    Silenced,
}
