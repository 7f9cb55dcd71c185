//! The table of every setting.
//!
//! Names, units, bounds and defaults are PostgreSQL 15's (src/backend/utils/misc/guc.c) except where
//! the description says otherwise; a test compares them with `pg_settings` of a real server.

use super::check;
use super::definition::{Context, Definition, EnumOption, Kind, Unit};
use Context::{Postmaster, Sighup, User};

const INT_MAX: i64 = 2_147_483_647;
/// PostgreSQL: `MAX_BACKENDS` (src/include/postmaster/postmaster.h).
const BACKENDS_MAX: i64 = 0x3_FFFF;

const AUTHENTICATION: &str = "Connections and Authentication / Authentication";
const CONNECTION: &str = "Connections and Authentication / Connection Settings";
const TCP: &str = "Connections and Authentication / TCP Settings";
const SENDING: &str = "Replication / Sending Servers";
const PRIMARY: &str = "Replication / Primary Server";
const STANDBY: &str = "Replication / Standby Servers";
const WAL_SETTINGS: &str = "Write-Ahead Log / Settings";
const WAL_CHECKPOINTS: &str = "Write-Ahead Log / Checkpoints";
const WAL_ARCHIVING: &str = "Write-Ahead Log / Archiving";
const LOG_WHAT: &str = "Reporting and Logging / What to Log";
const LOG_WHEN: &str = "Reporting and Logging / When to Log";
const LOG_WHERE: &str = "Reporting and Logging / Where to Log";
const PROCESS_TITLE: &str = "Reporting and Logging / Process Title";
const RESOURCES: &str = "Resource Usage / Data Plane";

const fn option(name: &'static str) -> EnumOption {
    EnumOption { name, means: name, hidden: false }
}

const fn alias(name: &'static str, means: &'static str) -> EnumOption {
    EnumOption { name, means, hidden: true }
}

const fn int(min: i64, max: i64) -> Kind {
    Kind::Int { unit: None, min, max, words: &[] }
}

const fn measured(unit: Unit, min: i64, max: i64) -> Kind {
    Kind::Int { unit: Some(unit), min, max, words: &[] }
}

const fn text(check: fn(&str) -> Result<(), super::error::Objection>) -> Kind {
    Kind::String { check }
}

const WAL_SYNC_METHODS: &[EnumOption] = &[
    option("auto"),
    option("open_datasync"),
    option("fdatasync"),
    option("fsync"),
    option("open_sync"),
];
const AUTO_ON_OFF: &[EnumOption] = &[option("auto"), option("on"), option("off")];
const CATCHUP_PATHS: &[EnumOption] = &[option("auto"), option("read")];
const FORWARDS: &[EnumOption] = &[option("received"), option("flushed")];
/// PostgreSQL: `synchronous_commit_options`, whose Booleans are aliases.
const SYNCHRONOUS_COMMITS: &[EnumOption] = &[
    option("local"),
    option("remote_write"),
    option("remote_apply"),
    option("on"),
    option("off"),
    alias("true", "on"),
    alias("false", "off"),
    alias("yes", "on"),
    alias("no", "off"),
    alias("1", "on"),
    alias("0", "off"),
];
const LOG_DESTINATIONS: &[EnumOption] =
    &[option("stderr"), option("json"), alias("jsonlog", "json")];
/// PostgreSQL: `server_message_level_options`.
const MESSAGE_LEVELS: &[EnumOption] = &[
    option("debug5"),
    option("debug4"),
    option("debug3"),
    option("debug2"),
    option("debug1"),
    alias("debug", "debug2"),
    option("info"),
    option("notice"),
    option("warning"),
    option("error"),
    option("log"),
    option("fatal"),
    option("panic"),
];

macro_rules! table {
    ($($name:literal, $kind:expr, $default:literal, $context:ident, $category:ident, $description:literal;)*) => {
        /// Every setting, in the order of PostgreSQL's documentation.
        pub static DEFINITIONS: &[Definition] = &[$(Definition {
            name: $name,
            kind: $kind,
            default: $default,
            context: $context,
            category: $category,
            description: $description,
        },)*];
    };
}

table! {
    "listen_addresses", text(check::address_list), "localhost", Postmaster, CONNECTION,
        "Sets the host name or IP address(es) to listen to.";
    "port", int(1, 65535), "5432", Postmaster, CONNECTION,
        "Sets the TCP port the server listens on; 0 on the command line lets the kernel choose.";
    "max_connections", int(1, BACKENDS_MAX), "100", Postmaster, CONNECTION,
        "Sets the maximum number of concurrent connections.";
    "superuser_reserved_connections", int(0, BACKENDS_MAX), "3", Postmaster, CONNECTION,
        "Sets the number of connection slots reserved for superusers: here, for Unix sockets, where there are any.";
    "unix_socket_directories", text(check::directory_list), "", Postmaster, CONNECTION,
        "Sets the directories where Unix-domain sockets will be created; walhub's default is none.";
    "tcp_keepalives_idle", measured(Unit::Seconds, 0, INT_MAX), "0", Sighup, TCP,
        "Time between issuing TCP keepalives; 0 is the system's default.";
    "tcp_keepalives_interval", measured(Unit::Seconds, 0, INT_MAX), "0", Sighup, TCP,
        "Time between TCP keepalive retransmits; 0 is the system's default.";
    "tcp_keepalives_count", int(0, INT_MAX), "0", Sighup, TCP,
        "Maximum number of TCP keepalive retransmits; 0 is the system's default.";
    "tcp_user_timeout", measured(Unit::Milliseconds, 0, INT_MAX), "0", Sighup, TCP,
        "TCP user timeout; 0 is the system's default.";
    "authentication_timeout", measured(Unit::Seconds, 1, 600), "1min", Sighup, AUTHENTICATION,
        "Sets the maximum allowed time to complete client authentication.";
    "cores", Kind::Int { unit: None, min: 0, max: 256, words: &[("auto", 0)] }, "auto", Postmaster, RESOURCES,
        "Sets the number of data-plane cores; auto lets walhub choose (walhub only).";
    "dedicated_wal_core", Kind::Enum { options: AUTO_ON_OFF }, "auto", Postmaster, RESOURCES,
        "Sets whether writing WAL has a thread of its own or shares that of the SQL sessions, which commits faster on few CPUs (walhub only).";
    "catchup_cores", Kind::Int { unit: None, min: -1, max: 64, words: &[("auto", -1)] }, "auto", Postmaster, RESOURCES,
        "Sets the number of further cores that send old WAL; auto lets walhub choose (walhub only).";
    "busy_poll_us", Kind::Int { unit: None, min: -1, max: 10_000, words: &[("auto", -1)] }, "auto", Postmaster, RESOURCES,
        "Sets for how many microseconds at most a core that has nothing to do looks for work before it sleeps; auto has core 0 alone do it (walhub only).";
    "tail_cache_size", measured(Unit::Megabytes, 16, 65536), "64MB", Postmaster, RESOURCES,
        "Sets the memory that keeps the newest WAL for live standbys (walhub only).";
    "sql_memory_limit", measured(Unit::Megabytes, 1, 1 << 20), "128MB", Sighup, RESOURCES,
        "Sets the memory that all SQL sessions together may hold; what needs more fails with \"out of memory\" (walhub only).";
    "wal_sync_method", Kind::Enum { options: WAL_SYNC_METHODS }, "auto", Postmaster, WAL_SETTINGS,
        "Selects the method used for forcing WAL to disk; auto, walhub's default, probes the device.";
    "synchronous_commit", Kind::Enum { options: SYNCHRONOUS_COMMITS }, "on", User, WAL_SETTINGS,
        "Sets the current transaction's synchronization level.";
    "min_wal_size", measured(Unit::Megabytes, 2, INT_MAX), "80MB", Sighup, WAL_CHECKPOINTS,
        "Sets the size to keep of recycled WAL segments.";
    "archive_timeout", measured(Unit::Seconds, 0, INT_MAX / 2), "0", Sighup, WAL_ARCHIVING,
        "Sets the amount of time to wait before forcing a switch to the next WAL file; 0 is never.";
    "wal_page_magic", text(check::wal_page_magic), "D110", Postmaster, WAL_SETTINGS,
        "Sets the magic number of the pages of walhub's own WAL: D110 is PostgreSQL 15's (walhub only).";
    "max_wal_senders", int(0, BACKENDS_MAX), "10", Postmaster, SENDING,
        "Sets the maximum number of simultaneously running WAL sender processes.";
    "max_replication_slots", int(0, BACKENDS_MAX), "10", Postmaster, SENDING,
        "Sets the maximum number of simultaneously defined replication slots.";
    "wal_keep_size", measured(Unit::Megabytes, 0, INT_MAX), "0", Sighup, SENDING,
        "Sets the size of WAL files held for standby servers.";
    "max_slot_wal_keep_size", measured(Unit::Megabytes, -1, INT_MAX), "-1", Sighup, SENDING,
        "Sets the maximum WAL size that can be reserved by replication slots; -1 is no limit.";
    "wal_sender_timeout", measured(Unit::Milliseconds, 0, INT_MAX), "1min", Sighup, SENDING,
        "Sets the maximum time to wait for WAL replication; 0 disables the timeout.";
    "synchronous_standby_names", text(check::standby_names), "", Sighup, PRIMARY,
        "Number of synchronous standbys and list of names of potential synchronous ones.";
    "wal_sender_message_size", measured(Unit::Kilobytes, 8, 16384), "128kB", Postmaster, SENDING,
        "Sets the most WAL that one message to a standby carries (walhub only).";
    "tcp_congestion_control", text(check::any), "auto", Sighup, SENDING,
        "Sets the congestion control of standbys' connections; empty is the system's default, and auto, too, but does not pace on this machine (walhub only).";
    "wal_sender_sndbuf", measured(Unit::Kilobytes, 0, 1 << 20), "0", Sighup, SENDING,
        "Sets the send buffer of standbys' connections; 0 lets the kernel size it (walhub only).";
    "tcp_notsent_lowat", measured(Unit::Kilobytes, 0, 1 << 20), "0", Sighup, SENDING,
        "Sets how much may wait unsent in a standby's socket; 0 is the system's default (walhub only).";
    "catchup_path", Kind::Enum { options: CATCHUP_PATHS }, "auto", Sighup, SENDING,
        "Selects how old WAL is sent: from the page cache without a copy, or through a buffer (walhub only).";
    "zerocopy_send", Kind::Enum { options: AUTO_ON_OFF }, "auto", Sighup, SENDING,
        "Sets whether large messages of new WAL are sent without copying them; auto does so to standbys on other machines while the kernel does (walhub only).";
    "coalesce_us", int(0, 100_000), "1000", Sighup, SENDING,
        "Sets the most microseconds that WAL is put off under load, to go to all standbys in fewer pieces (walhub only).";
    "forward", Kind::Enum { options: FORWARDS }, "received", Postmaster, SENDING,
        "Selects whether WAL is sent on once received or once flushed here (walhub only).";
    "primary_conninfo", text(check::any), "", Sighup, STANDBY,
        "Sets the connection string to be used to connect to the sending server.";
    "primary_slot_name", text(check::slot_name), "", Sighup, STANDBY,
        "Sets the name of the replication slot to use on the sending server.";
    "primary_slot_create", Kind::Bool, "off", Sighup, STANDBY,
        "Creates primary_slot_name on the sending server when it is missing (walhub only).";
    "promote_trigger_file", text(check::any), "", Sighup, STANDBY,
        "Specifies a file name whose presence ends recovery in the standby.";
    "hot_standby_feedback", Kind::Bool, "off", Sighup, STANDBY,
        "Allows feedback from downstream standbys to the sending server.";
    "wal_receiver_timeout", measured(Unit::Milliseconds, 0, INT_MAX), "1min", Sighup, STANDBY,
        "Sets the maximum wait time to receive data from the sending server; 0 disables the timeout.";
    "wal_receiver_status_interval", measured(Unit::Seconds, 0, INT_MAX / 1000), "10s", Sighup, STANDBY,
        "Sets the maximum interval between status reports to the sending server; 0 disables them.";
    "wal_retrieve_retry_interval", measured(Unit::Milliseconds, 1, INT_MAX), "5s", Sighup, STANDBY,
        "Sets the time to wait before retrying to retrieve WAL after a failed attempt.";
    "log_destination", Kind::Enum { options: LOG_DESTINATIONS }, "stderr", Sighup, LOG_WHERE,
        "Sets the form of the server log: text lines or JSON lines, both on stderr.";
    "log_min_messages", Kind::Enum { options: MESSAGE_LEVELS }, "warning", Sighup, LOG_WHEN,
        "Sets the message levels that are logged.";
    "log_connections", Kind::Bool, "off", Sighup, LOG_WHAT,
        "Logs each successful connection.";
    "log_disconnections", Kind::Bool, "off", Sighup, LOG_WHAT,
        "Logs end of a session, including duration.";
    "log_line_prefix", text(check::any), "%m [%p] ", Sighup, LOG_WHAT,
        "Controls information prefixed to each log line.";
    "log_replication_commands", Kind::Bool, "off", Sighup, LOG_WHAT,
        "Logs each replication command.";
    "log_timezone", text(check::time_zone), "system", Sighup, LOG_WHAT,
        "Sets the time zone to use in log messages; walhub's default is the system's.";
    "cluster_name", text(check::any), "", Postmaster, PROCESS_TITLE,
        "Sets the name of the cluster, which is included in the process title.";
}
