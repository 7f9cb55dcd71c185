//! The table of every setting. To have a new one, add its row here; with `in hub`, add the field to
//! `HubSettings` too.
//!
//! Names, units, bounds and defaults are PostgreSQL 15's (src/backend/utils/misc/guc.c) except where
//! the description says otherwise; a test compares them with `pg_settings` of a real server. Numbers
//! are in the unit of the setting, as there. The description is what users read.
//!
//! Not here: what is made of a row (`definition`), the types (`setting_type`), their words (`words`).

use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use walhub_engine::io::CongestionControl;
use walhub_hub::api::settings::{CatchupPath, Forward, HubSettings, ZerocopySend};
use walhub_proto::page::WalVersion;
use walhub_proto::syncrep::{SyncRepConfig, SynchronousCommit};

use super::definition::{Context, Definition, fields, settings};
use super::setting_type::{
    Kilobytes, Megabytes, Microseconds, Milliseconds, Reading, Seconds, SettingType, auto_or,
    boolean, int, optional, tcp_port, text, word,
};
use super::words::{
    DedicatedWalCore, LogDestination, MessageLevel, PasswordEncryption, SslMaxProtocolVersion,
    SslMinProtocolVersion, WalSyncMethod,
};
use super::{Assigned, check};

const INT_MAX: i64 = 2_147_483_647;
/// PostgreSQL: `MAX_BACKENDS` (src/include/postmaster/postmaster.h).
const BACKENDS_MAX: i64 = 0x3_FFFF;

const AUTHENTICATION: &str = "Connections and Authentication / Authentication";
const FILES: &str = "File Locations";
const CONNECTION: &str = "Connections and Authentication / Connection Settings";
const TCP: &str = "Connections and Authentication / TCP Settings";
const SSL: &str = "Connections and Authentication / SSL";
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

settings! {
    /// Sets the host name or IP address(es) to listen to.
    listen_addresses: Vec<String> = text("localhost", check::list), Postmaster, CONNECTION;
    /// Sets the TCP port the server listens on; 0 on the command line lets the kernel choose.
    port: u16 = tcp_port(5432), Postmaster, CONNECTION;
    /// Sets the maximum number of concurrent connections.
    max_connections: u32 = int::<u32>(100, 1..=BACKENDS_MAX), Postmaster, CONNECTION;
    /// Sets the number of connection slots reserved for roles with privileges of
    /// pg_use_reserved_connections.
    reserved_connections: u32 = int::<u32>(0, 0..=BACKENDS_MAX), Postmaster, CONNECTION;
    /// Sets the number of connection slots reserved for superusers.
    superuser_reserved_connections: u32 = int::<u32>(3, 0..=BACKENDS_MAX), Postmaster, CONNECTION;
    /// Sets the directories where Unix-domain sockets will be created; walhub's default is none.
    unix_socket_directories: Vec<PathBuf> = text("", check::directories), Postmaster, CONNECTION;
    /// Time between issuing TCP keepalives; 0 is the system's default.
    tcp_keepalives_idle: Option<Duration> = optional::<Seconds>(None, 0..=INT_MAX), Sighup, TCP;
    /// Time between TCP keepalive retransmits; 0 is the system's default.
    tcp_keepalives_interval: Option<Duration> = optional::<Seconds>(None, 0..=INT_MAX), Sighup, TCP;
    /// Maximum number of TCP keepalive retransmits; 0 is the system's default.
    tcp_keepalives_count: Option<u32> = optional::<u32>(None, 0..=INT_MAX), Sighup, TCP;
    /// TCP user timeout; 0 is the system's default.
    tcp_user_timeout: Option<Duration> = optional::<Milliseconds>(None, 0..=INT_MAX), Sighup, TCP;
    /// Sets the maximum allowed time to complete client authentication.
    authentication_timeout: Duration = int::<Seconds>(60, 1..=600), Sighup, AUTHENTICATION;
    /// Sets how long a client that has failed to show who it is waits to hear it; in PostgreSQL
    /// auth_delay.milliseconds.
    auth_delay: Duration = int::<Milliseconds>(0, 0..=INT_MAX / 1000), Sighup, AUTHENTICATION;
    /// Enables SSL connections.
    ssl: bool = boolean(false), Sighup, SSL;
    /// Location of the SSL certificate authority file.
    ssl_ca_file: String = text("", check::anything), Sighup, SSL;
    /// Location of the SSL server certificate file.
    ssl_cert_file: String = text("server.crt", check::anything), Sighup, SSL;
    /// Location of the SSL certificate revocation list file.
    ssl_crl_file: String = text("", check::anything), Sighup, SSL;
    /// Location of the SSL certificate revocation list directory.
    ssl_crl_dir: String = text("", check::anything), Sighup, SSL;
    /// Location of the SSL server private key file.
    ssl_key_file: String = text("server.key", check::anything), Sighup, SSL;
    /// Sets the list of allowed TLSv1.3 cipher suites; empty is all of them.
    ssl_tls13_ciphers: String = text("", check::anything), Sighup, SSL;
    /// Sets the list of allowed SSL ciphers, up to TLSv1.2.
    ssl_ciphers: String = text("HIGH:MEDIUM:+3DES:!aNULL", check::anything), Sighup, SSL;
    /// Give priority to server ciphersuite order.
    ssl_prefer_server_ciphers: bool = boolean(true), Sighup, SSL;
    /// Sets the group(s) to use for Diffie-Hellman key exchange; ssl_ecdh_curve is its older name.
    ssl_groups: String = text("X25519:prime256v1", check::anything), Sighup, SSL;
    /// Sets the minimum SSL/TLS protocol version to use.
    ssl_min_protocol_version: SslMinProtocolVersion =
        word(SslMinProtocolVersion::Tls12), Sighup, SSL;
    /// Sets the maximum SSL/TLS protocol version to use.
    ssl_max_protocol_version: SslMaxProtocolVersion =
        word(SslMaxProtocolVersion::Any), Sighup, SSL;
    /// Location of the SSL DH parameters file; walhub has no use for one.
    ssl_dh_params_file: String = text("", check::anything), Sighup, SSL;
    /// Command to obtain passphrases for SSL.
    ssl_passphrase_command: String = text("", check::anything), Sighup, SSL;
    /// Controls whether ssl_passphrase_command is called during server reload.
    ssl_passphrase_command_supports_reload: bool = boolean(false), Sighup, SSL;
    /// Sets the server's "hba" configuration file; empty is pg_hba.conf in the data directory.
    hba_file: String = text("", check::anything), Postmaster, FILES;
    /// Sets the server's "ident" configuration file; empty is pg_ident.conf in the data directory.
    ident_file: String = text("", check::anything), Postmaster, FILES;
    /// Sets the role as which the upstream is asked for roles that were not made here; empty is not to ask it (walhub only,
    /// as PgBouncer's).
    auth_user: String = text("", check::anything), Sighup, AUTHENTICATION;
    /// Sets the statement that finds the name and the secret of the role `$1` in the upstream (walhub only, as PgBouncer's).
    auth_query: String = text(
        "SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1",
        check::anything,
    ), Sighup, AUTHENTICATION;
    /// Sets the database in which the upstream is asked (walhub only, as PgBouncer's).
    auth_dbname: String = text("postgres", check::anything), Sighup, AUTHENTICATION;
    /// Sets a file of users and secrets in the format of PgBouncer's userlist.txt (walhub only, as PgBouncer's).
    auth_file: String = text("", check::anything), Sighup, AUTHENTICATION;
    /// Chooses the algorithm for encrypting passwords.
    password_encryption: PasswordEncryption =
        word(PasswordEncryption::ScramSha256), User, AUTHENTICATION;
    /// Sets the iteration count for SCRAM secret generation; walhub's most is a million.
    scram_iterations: u32 = int::<u32>(4096, 1..=1_000_000), User, AUTHENTICATION;
    /// Sets the number of data-plane cores; auto lets walhub choose (walhub only).
    cores: Option<u16> = auto_or::<u16>(0..=256), Postmaster, RESOURCES;
    /// Sets whether writing WAL has a thread of its own or shares that of the SQL sessions, which
    /// commits faster on few CPUs (walhub only).
    dedicated_wal_core: DedicatedWalCore = word(DedicatedWalCore::Auto), Postmaster, RESOURCES;
    /// Sets the number of further cores that send old WAL; auto lets walhub choose (walhub only).
    catchup_cores: Option<u16> = auto_or::<u16>(-1..=64), Postmaster, RESOURCES;
    /// Sets for how many microseconds at most a core that has nothing to do looks for work before
    /// it sleeps; auto has core 0 alone do it (walhub only).
    busy_poll_us: Option<u32> = auto_or::<u32>(-1..=10_000), Postmaster, RESOURCES;
    /// Sets the memory that keeps the newest WAL for live standbys (walhub only).
    tail_cache_size in hub: u64 = int::<Megabytes>(64, 16..=65_536), Postmaster, RESOURCES;
    /// Sets the memory that all SQL sessions together may hold; what needs more fails with "out of
    /// memory" (walhub only).
    sql_memory_limit: u64 = int::<Megabytes>(128, 1..=1 << 20), Sighup, RESOURCES;
    /// Selects the method used for forcing WAL to disk; auto, walhub's default, probes the device.
    wal_sync_method: WalSyncMethod = word(WalSyncMethod::Auto), Postmaster, WAL_SETTINGS;
    /// Sets the current transaction's synchronization level.
    synchronous_commit: SynchronousCommit = word(SynchronousCommit::On), User, WAL_SETTINGS;
    /// Sets the size to keep of recycled WAL segments.
    min_wal_size in hub: u64 = int::<Megabytes>(80, 2..=INT_MAX), Sighup, WAL_CHECKPOINTS;
    /// Sets the amount of time to wait before forcing a switch to the next WAL file; 0 is never.
    archive_timeout in hub: Duration = int::<Seconds>(0, 0..=INT_MAX / 2), Sighup, WAL_ARCHIVING;
    /// Sets the magic number of the pages of walhub's own WAL: D110 is PostgreSQL 15's (walhub
    /// only).
    wal_page_magic: WalVersion = text("D110", check::wal_page_magic), Postmaster, WAL_SETTINGS;
    /// Sets the maximum number of simultaneously running WAL sender processes.
    max_wal_senders in hub: u32 = int::<u32>(10, 0..=BACKENDS_MAX), Postmaster, SENDING;
    /// Sets the maximum number of simultaneously defined replication slots.
    max_replication_slots in hub: u32 = int::<u32>(10, 0..=BACKENDS_MAX), Postmaster, SENDING;
    /// Sets the size of WAL files held for standby servers.
    wal_keep_size in hub: u64 = int::<Megabytes>(0, 0..=INT_MAX), Sighup, SENDING;
    /// Sets the maximum WAL size that can be reserved by replication slots; -1 is no limit.
    max_slot_wal_keep_size in hub: Option<u64> =
        optional::<Megabytes>(None, -1..=INT_MAX), Sighup, SENDING;
    /// Sets the maximum time to wait for WAL replication; 0 disables the timeout.
    wal_sender_timeout in hub: Option<Duration> =
        optional::<Milliseconds>(Some(60_000), 0..=INT_MAX), Sighup, SENDING;
    /// Number of synchronous standbys and list of names of potential synchronous ones.
    synchronous_standby_names in hub: Option<SyncRepConfig> =
        text("", check::standby_names), Sighup, PRIMARY;
    /// Sets the most WAL that one message to a standby carries (walhub only).
    wal_sender_message_size in hub: u64 = int::<Kilobytes>(128, 8..=16_384), Postmaster, SENDING;
    /// Sets the congestion control of standbys' connections; empty is the system's default, and
    /// auto, too, but does not pace on this machine (walhub only).
    tcp_congestion_control in hub: CongestionControl =
        text("auto", check::congestion_control), Sighup, SENDING;
    /// Sets the send buffer of standbys' connections; 0 lets the kernel size it (walhub only).
    wal_sender_sndbuf in hub: Option<u64> =
        optional::<Kilobytes>(None, 0..=1 << 20), Sighup, SENDING;
    /// Sets how much may wait unsent in a standby's socket; 0 is the system's default (walhub
    /// only).
    tcp_notsent_lowat in hub: Option<u64> =
        optional::<Kilobytes>(None, 0..=1 << 20), Sighup, SENDING;
    /// Selects how old WAL is sent: from the page cache without a copy, or through a buffer (walhub
    /// only).
    catchup_path in hub: CatchupPath = word(CatchupPath::Auto), Sighup, SENDING;
    /// Sets whether large messages of new WAL are sent without copying them; auto does so to
    /// standbys on other machines while the kernel does (walhub only).
    zerocopy_send in hub: ZerocopySend = word(ZerocopySend::Auto), Sighup, SENDING;
    /// Sets the most microseconds that WAL is put off under load, to go to all standbys in fewer
    /// pieces (walhub only).
    coalesce_us in hub: Duration = int::<Microseconds>(1000, 0..=100_000), Sighup, SENDING;
    /// Selects whether WAL is sent on once received or once flushed here (walhub only).
    forward in hub: Forward = word(Forward::Received), Postmaster, SENDING;
    /// Sets the connection string to be used to connect to the sending server.
    primary_conninfo in hub: String = text("", check::anything), Sighup, STANDBY;
    /// Sets the name of the replication slot to use on the sending server.
    primary_slot_name in hub: Option<String> = text("", check::slot_name), Sighup, STANDBY;
    /// Creates primary_slot_name on the sending server when it is missing (walhub only).
    primary_slot_create in hub: bool = boolean(false), Sighup, STANDBY;
    /// Specifies a file name whose presence ends recovery in the standby.
    promote_trigger_file: String = text("", check::anything), Sighup, STANDBY;
    /// Allows feedback from downstream standbys to the sending server.
    hot_standby_feedback in hub: bool = boolean(false), Sighup, STANDBY;
    /// Sets the maximum wait time to receive data from the sending server; 0 disables the timeout.
    wal_receiver_timeout in hub: Option<Duration> =
        optional::<Milliseconds>(Some(60_000), 0..=INT_MAX), Sighup, STANDBY;
    /// Sets the maximum interval between status reports to the sending server; 0 disables them.
    wal_receiver_status_interval in hub: Option<Duration> =
        optional::<Seconds>(Some(10), 0..=INT_MAX / 1000), Sighup, STANDBY;
    /// Sets the time to wait before retrying to retrieve WAL after a failed attempt.
    wal_retrieve_retry_interval in hub: Duration =
        int::<Milliseconds>(5000, 1..=INT_MAX), Sighup, STANDBY;
    /// Sets the form of the server log: text lines or JSON lines, both on stderr.
    log_destination: LogDestination = word(LogDestination::Stderr), Sighup, LOG_WHERE;
    /// Sets the message levels that are logged.
    log_min_messages: MessageLevel = word(MessageLevel::Warning), Sighup, LOG_WHEN;
    /// Logs each successful connection.
    log_connections: bool = boolean(false), Sighup, LOG_WHAT;
    /// Logs end of a session, including duration.
    log_disconnections: bool = boolean(false), Sighup, LOG_WHAT;
    /// Controls information prefixed to each log line.
    log_line_prefix: String = text("%m [%p] ", check::anything), Sighup, LOG_WHAT;
    /// Logs each replication command.
    log_replication_commands: bool = boolean(false), Sighup, LOG_WHAT;
    /// Sets the time zone to use in log messages; walhub's default is the system's.
    log_timezone: TimeZone = text("system", check::time_zone), Sighup, LOG_WHAT;
    /// Sets the name of the cluster, which is included in the process title.
    cluster_name: String = text("", check::anything), Postmaster, PROCESS_TITLE;
}
