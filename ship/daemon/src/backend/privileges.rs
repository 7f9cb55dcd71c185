//! Who may do what in SQL: the rules that PostgreSQL has in grants and in the code of functions.
//!
//! The table in ship/daemon/README.md has a line for each. The current user counts, not who has logged in.
//!
//! Not here: who may change roles (`walhub_proto::roles::change`), who may come in at all (`net`).
//!
//! PostgreSQL: system_functions.sql, system_views.sql, `pg_signal_backend` (src/backend/storage/ipc/signalfuncs.c).

use walhub_proto::roles::Roles;
use walhub_proto::roles::predefined::{
    PG_CHECKPOINT, PG_READ_ALL_SETTINGS, PG_READ_ALL_STATS, PG_READ_SERVER_FILES, PG_SIGNAL_BACKEND,
};
use walhub_proto::sqlstate::SqlState;
use walhub_sql::env::{Function, Relation};
use walhub_sql::failure::{Failure, Result, fail, hinted};

use super::context::Context;
use super::views::is_messages;
use crate::settings::SUPERUSER_ONLY;

/// Functions that only superusers may call: PostgreSQL has revoked them from PUBLIC.
const FUNCTIONS_OF_SUPERUSERS: [&str; 5] =
    ["pg_promote", "pg_reload_conf", "pg_stat_reset", "pg_stat_reset_shared", "pg_switch_wal"];
/// Relations that only superusers may read.
const RELATIONS_OF_SUPERUSERS: [&str; 4] =
    ["pg_authid", "pg_hba_file_rules", "pg_ident_file_mappings", "pg_shadow"];

fn denied(message: impl Into<String>) -> Failure {
    fail(SqlState::INSUFFICIENT_PRIVILEGE, message)
}

/// A role among the roles: whose rights they are.
#[derive(Clone, Copy)]
pub(super) struct Rights<'a> {
    pub(super) roles: &'a Roles,
    pub(super) user: u32,
}

impl Rights<'_> {
    /// PostgreSQL: `superuser`.
    pub(super) fn is_superuser(self) -> bool {
        self.roles.is_superuser(self.user)
    }

    /// PostgreSQL: `has_privs_of_role`.
    pub(super) fn has_privs_of(self, role: u32) -> bool {
        self.roles.has_privs_of(self.user, role)
    }

    /// Whether it sees what the sessions of all users do.
    pub(super) fn reads_all_stats(self) -> bool {
        self.has_privs_of(PG_READ_ALL_STATS)
    }

    /// Whether it sees what that user's session does; `None` is a process of no user.
    /// PostgreSQL: `HAS_PGSTAT_PERMISSIONS`.
    pub(super) fn sees_session_of(self, user: Option<u32>) -> bool {
        self.reads_all_stats() || user.is_some_and(|user| self.has_privs_of(user))
    }

    /// Whether it sees a setting. PostgreSQL: `GUC_SUPERUSER_ONLY`.
    pub(super) fn sees_setting(self, name: &str) -> bool {
        let is_hidden = SUPERUSER_ONLY.iter().any(|it| it.eq_ignore_ascii_case(name));
        !is_hidden || self.has_privs_of(PG_READ_ALL_SETTINGS)
    }

    /// PostgreSQL: `GetConfigOptionByName`.
    pub(super) fn check_setting(self, name: &str) -> Result<()> {
        if self.sees_setting(name) {
            return Ok(());
        }
        Err(denied(format!(
            "must be superuser or have privileges of pg_read_all_settings to examine \"{name}\""
        )))
    }

    /// PostgreSQL: `standard_ProcessUtility`, case `T_CheckPointStmt`.
    pub(super) fn check_checkpoint(self) -> Result<()> {
        if self.has_privs_of(PG_CHECKPOINT) {
            return Ok(());
        }
        Err(denied("must be superuser or have privileges of pg_checkpoint to do CHECKPOINT"))
    }

    /// PostgreSQL: `CheckSlotPermissions`.
    pub(super) fn check_slots(self) -> Result<()> {
        if self.roles.may_replicate(self.user) {
            return Ok(());
        }
        Err(denied("must be superuser or replication role to use replication slots"))
    }

    /// Whether a session of `owner` may be canceled or ended. PostgreSQL: `pg_signal_backend`.
    pub(super) fn check_signal(self, owner: u32, signal: Signal) -> Result<()> {
        if self.roles.is_superuser(owner) && !self.is_superuser() {
            return Err(denied(match signal {
                Signal::Cancel => "must be a superuser to cancel superuser query",
                Signal::Terminate => "must be a superuser to terminate superuser process",
            }));
        }
        if self.has_privs_of(owner) || self.has_privs_of(PG_SIGNAL_BACKEND) {
            return Ok(());
        }
        Err(denied(match signal {
            Signal::Cancel => {
                "must be a member of the role whose query is being canceled or member of \
                 pg_signal_backend"
            }
            Signal::Terminate => {
                "must be a member of the role whose process is being terminated or member of \
                 pg_signal_backend"
            }
        }))
    }

    /// What a query reads and calls. PostgreSQL: `ExecCheckRTPerms`, `ExecInitFunc`.
    pub(super) fn check_query(
        self,
        relations: &[&'static Relation],
        functions: &[&'static Function],
    ) -> Result<()> {
        if self.is_superuser() {
            return Ok(());
        }
        for relation in relations {
            let name = relation.name;
            if RELATIONS_OF_SUPERUSERS.contains(&name) {
                // pg_authid is a table in PostgreSQL.
                let kind = if name == "pg_authid" { "table" } else { "view" };
                return Err(denied(format!("permission denied for {kind} {name}")));
            }
            if is_messages(relation) {
                self.check_messages()?;
            }
        }
        for function in functions {
            if FUNCTIONS_OF_SUPERUSERS.contains(&function.name) {
                let message = format!("permission denied for function {}", function.name);
                return Err(denied(message));
            }
        }
        Ok(())
    }

    /// Who may have the WAL may read what is in it: by replication, or as pg_walinspect's functions allow.
    fn check_messages(self) -> Result<()> {
        if self.roles.may_replicate(self.user) || self.has_privs_of(PG_READ_SERVER_FILES) {
            return Ok(());
        }
        Err(hinted(
            denied("permission denied for table messages"),
            "Reading the WAL takes the attribute REPLICATION, or the privileges of \
             pg_read_server_files.",
        ))
    }
}

/// What is done to another session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Signal {
    Cancel,
    Terminate,
}

impl Context<'_> {
    /// What the current user may do.
    pub(super) fn rights(&self) -> Rights<'_> {
        Rights { roles: self.roles, user: self.parameters.users().current() }
    }

    /// The name of a role; one that was dropped meanwhile has none. PostgreSQL: `GetUserNameFromId`.
    pub(super) fn user_name(&self, oid: u32) -> Result<String> {
        self.roles
            .by_oid(oid)
            .map(|role| role.name.clone())
            .ok_or_else(|| fail(SqlState::UNDEFINED_OBJECT, format!("invalid role OID: {oid}")))
    }

    /// Whose session that is: by what it has logged in as, or, of one that is no longer among them, by its name.
    pub(super) fn owner_of(&self, client: &walhub_hub::api::hub::Client) -> Option<u32> {
        let by_name = || self.roles.get(&client.user).map(|role| role.oid);
        self.sessions.user_of(client.pid).or_else(by_name)
    }
}
