//! The roles that are there from the beginning, with the OIDs that they have in every PostgreSQL.
//!
//! Those of PostgreSQL 15, and of later majors those whose privilege means something here.
//!
//! PostgreSQL: src/include/catalog/pg_authid.dat, src/backend/catalog/system_functions.sql.

use alloc::string::String;

use super::{BOOTSTRAP_SUPERUSER, Membership, Role};

/// May see all settings, statistics and what else a monitor looks at.
pub const PG_MONITOR: u32 = 3373;
/// May see the settings that only superusers see.
pub const PG_READ_ALL_SETTINGS: u32 = 3374;
/// May see what others' sessions do.
pub const PG_READ_ALL_STATS: u32 = 3375;
/// May run monitoring functions that lock tables.
pub const PG_STAT_SCAN_TABLES: u32 = 3377;
/// May cancel and end others' sessions, superusers' aside.
pub const PG_SIGNAL_BACKEND: u32 = 4200;
/// May have a checkpoint made.
pub const PG_CHECKPOINT: u32 = 4544;
/// May take one of the connections that `reserved_connections` sets aside: of PostgreSQL 16.
pub const PG_USE_RESERVED_CONNECTIONS: u32 = 4550;
/// May read what is in the server's files.
pub const PG_READ_SERVER_FILES: u32 = 4569;
/// May write the server's files.
pub const PG_WRITE_SERVER_FILES: u32 = 4570;
/// May have the server run programs.
pub const PG_EXECUTE_SERVER_PROGRAM: u32 = 4571;
/// The owner of the database that one is connected to.
pub const PG_DATABASE_OWNER: u32 = 6171;
/// May read all tables.
pub const PG_READ_ALL_DATA: u32 = 6181;
/// May write all tables.
pub const PG_WRITE_ALL_DATA: u32 = 6182;

const NAMES: [(u32, &str); 13] = [
    (PG_MONITOR, "pg_monitor"),
    (PG_READ_ALL_SETTINGS, "pg_read_all_settings"),
    (PG_READ_ALL_STATS, "pg_read_all_stats"),
    (PG_STAT_SCAN_TABLES, "pg_stat_scan_tables"),
    (PG_SIGNAL_BACKEND, "pg_signal_backend"),
    (PG_CHECKPOINT, "pg_checkpoint"),
    (PG_USE_RESERVED_CONNECTIONS, "pg_use_reserved_connections"),
    (PG_READ_SERVER_FILES, "pg_read_server_files"),
    (PG_WRITE_SERVER_FILES, "pg_write_server_files"),
    (PG_EXECUTE_SERVER_PROGRAM, "pg_execute_server_program"),
    (PG_DATABASE_OWNER, "pg_database_owner"),
    (PG_READ_ALL_DATA, "pg_read_all_data"),
    (PG_WRITE_ALL_DATA, "pg_write_all_data"),
];

/// The predefined roles.
pub fn roles() -> impl Iterator<Item = Role> {
    NAMES.iter().map(|(oid, name)| Role::new(*oid, String::from(*name)))
}

/// What pg_monitor is a member of.
pub fn memberships() -> impl Iterator<Item = Membership> {
    [PG_READ_ALL_SETTINGS, PG_READ_ALL_STATS, PG_STAT_SCAN_TABLES].into_iter().map(|role| {
        Membership { role, member: PG_MONITOR, grantor: BOOTSTRAP_SUPERUSER, admin_option: false }
    })
}

/// Whether a role is one of these.
#[must_use]
pub fn is_predefined(oid: u32) -> bool {
    NAMES.iter().any(|(known, _)| *known == oid)
}

/// Whether a name belongs to the system. PostgreSQL: `IsReservedName`.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    name.starts_with("pg_")
}
