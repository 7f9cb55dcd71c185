//! Settings under their PostgreSQL names, parsed into types that cannot be wrong.
//!
//! A setting is defined once, in [`table`]. It takes its value from, in this order, its default,
//! `walhub.toml`, and the command line; [`source`] reads them, [`Reloader`] reads them again. [`value`] is
//! PostgreSQL's value grammar, [`show`] what `SHOW` and `pg_settings` tell.
//!
//! PostgreSQL: src/backend/utils/misc/guc.c.

mod check;
pub mod definition;
pub mod error;
mod foreign;
mod reloader;
pub mod show;
pub mod source;
mod table;
#[cfg(test)]
mod tests;
pub mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use walhub_engine::io::{CongestionControl, TcpTuning};
use walhub_proto::page::WalVersion;
use walhub_proto::syncrep::{SyncRepConfig, SynchronousCommit};

pub use error::SettingError;
pub use reloader::Reloader;
pub use show::SettingRow;
pub use source::{Change, Sources};
pub use table::DEFINITIONS;

use error::Place;
use value::Value;
use walhub_hub::api::settings::{CatchupPath, Forward, HubSettings, ZerocopySend};

/// How many cores the data plane uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cores {
    /// As many as suit the machine.
    Auto,
    /// This many: 1 to 256.
    Count(u16),
}

/// Whether the wal core has a thread of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DedicatedWalCore {
    /// As suits the machine and what the server is.
    Auto,
    /// It has.
    On,
    /// It shares that of the SQL sessions.
    Off,
}

/// How WAL is forced to disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalSyncMethod {
    /// What a probe of the device finds best.
    Auto,
    /// Write with O_DSYNC.
    OpenDatasync,
    /// Write, then fdatasync.
    Fdatasync,
    /// Write, then fsync.
    Fsync,
    /// Write with O_SYNC.
    OpenSync,
}

/// Form of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogDestination {
    /// Text lines.
    Stderr,
    /// One JSON object a line, with the fields of PostgreSQL's jsonlog.
    Json,
}

/// Level of a log message, in the order in which `log_min_messages` is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "each is the level of that name")]
pub enum MessageLevel {
    Debug5,
    Debug4,
    Debug3,
    Debug2,
    Debug1,
    Info,
    Notice,
    Warning,
    Error,
    Log,
    Fatal,
    Panic,
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ValueSource {
    /// The default.
    Default,
    /// A line of the configuration file.
    File(Place),
    /// `-c`, or an option that stands for it.
    CommandLine,
}

/// A value and what `pg_settings` tells about it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Assigned {
    value: Value,
    source: ValueSource,
    pending_restart: bool,
}

/// Every setting, typed. Sizes are bytes.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// What the hub is told.
    pub hub: HubSettings,
    /// Host names and addresses to listen on; `*` is every one, empty is none.
    pub listen_addresses: Vec<String>,
    /// TCP port; 0 lets the kernel choose.
    pub port: u16,
    /// Most connections at once.
    pub max_connections: u32,
    /// Of these, those that only Unix-domain sockets can have.
    pub superuser_reserved_connections: u32,
    /// Where to put Unix-domain sockets; empty is nowhere.
    pub unix_socket_directories: Vec<PathBuf>,
    /// Idle time before the first keepalive; `None` is the system's default.
    pub tcp_keepalives_idle: Option<Duration>,
    /// Time between keepalives; `None` is the system's default.
    pub tcp_keepalives_interval: Option<Duration>,
    /// Keepalives that may be lost; `None` is the system's default.
    pub tcp_keepalives_count: Option<u32>,
    /// TCP_USER_TIMEOUT; `None` is the system's default.
    pub tcp_user_timeout: Option<Duration>,
    /// Longest time from connect to the end of the startup.
    pub authentication_timeout: Duration,
    /// Cores of the data plane.
    pub cores: Cores,
    /// Whose thread the wal core runs on.
    pub dedicated_wal_core: DedicatedWalCore,
    /// `catchup_cores`; `None` lets walhub choose.
    pub catchup_cores: Option<u16>,
    /// Microseconds for which a core looks for work before it sleeps, at most; `None` lets walhub
    /// choose.
    pub busy_poll_us: Option<u32>,
    /// Memory for all SQL sessions.
    pub sql_memory_limit: u64,
    /// How WAL is forced to disk.
    pub wal_sync_method: WalSyncMethod,
    /// Version of WAL of the hub's own.
    pub wal_page_magic: WalVersion,
    /// What a commit waits for.
    pub synchronous_commit: SynchronousCommit,
    /// File that asks for a promotion; empty is none.
    pub promote_trigger_file: String,
    /// Form of the log.
    pub log_destination: LogDestination,
    /// Least level that is logged.
    pub log_min_messages: MessageLevel,
    /// Log connections.
    pub log_connections: bool,
    /// Log disconnections.
    pub log_disconnections: bool,
    /// What each log line begins with.
    pub log_line_prefix: String,
    /// Log replication commands.
    pub log_replication_commands: bool,
    /// Zone of the log's timestamps.
    pub log_timezone: TimeZone,
    /// Name in the process title.
    pub cluster_name: String,
    values: BTreeMap<&'static str, Assigned>,
}

impl Default for Settings {
    fn default() -> Self {
        Self::from_values(Self::default_values())
    }
}

impl Settings {
    /// Connections that are kept for an operator, who comes by a Unix socket: none where there is no such socket.
    #[must_use]
    pub fn reserved_connections(&self) -> u32 {
        if self.unix_socket_directories.is_empty() {
            0
        } else {
            self.superuser_reserved_connections
        }
    }

    /// The value every setting starts from.
    fn default_values() -> BTreeMap<&'static str, Assigned> {
        DEFINITIONS
            .iter()
            .map(|definition| {
                let value = definition.boot_value();
                let assigned =
                    Assigned { value, source: ValueSource::Default, pending_restart: false };
                (definition.name, assigned)
            })
            .collect()
    }

    /// Gives every checked value its type.
    fn from_values(values: BTreeMap<&'static str, Assigned>) -> Self {
        let v = Typed(&values);
        Self {
            hub: HubSettings {
                tail_cache_size: v.bytes("tail_cache_size").unwrap_or(0),
                min_wal_size: v.bytes("min_wal_size").unwrap_or(0),
                archive_timeout: v.duration("archive_timeout"),
                max_wal_senders: v.number("max_wal_senders"),
                max_replication_slots: v.number("max_replication_slots"),
                wal_keep_size: v.bytes("wal_keep_size").unwrap_or(0),
                max_slot_wal_keep_size: v.bytes("max_slot_wal_keep_size"),
                wal_sender_timeout: v.duration_unless_zero("wal_sender_timeout"),
                synchronous_standby_names: SyncRepConfig::parse(
                    v.text("synchronous_standby_names"),
                )
                .unwrap_or_default(),
                wal_sender_message_size: v.bytes("wal_sender_message_size").unwrap_or(0),
                tcp_tuning: TcpTuning {
                    send_buffer: v.bytes("wal_sender_sndbuf").filter(|&bytes| bytes > 0),
                    notsent_lowat: v.bytes("tcp_notsent_lowat").filter(|&bytes| bytes > 0),
                    congestion_control: match v.text("tcp_congestion_control") {
                        "auto" => CongestionControl::UnpacedIfLocal,
                        "" => CongestionControl::System,
                        name => CongestionControl::Named(name.to_owned()),
                    },
                },
                coalesce: Duration::from_micros(v.number("coalesce_us")),
                catchup_path: match v.text("catchup_path") {
                    "read" => CatchupPath::Read,
                    _ => CatchupPath::Auto,
                },
                zerocopy_send: match v.text("zerocopy_send") {
                    "on" => ZerocopySend::On,
                    "off" => ZerocopySend::Off,
                    _ => ZerocopySend::Auto,
                },
                forward: match v.text("forward") {
                    "flushed" => Forward::Flushed,
                    _ => Forward::Received,
                },
                primary_conninfo: v.text("primary_conninfo").to_owned(),
                primary_slot_name: Some(v.text("primary_slot_name").to_owned())
                    .filter(|name| !name.is_empty()),
                primary_slot_create: v.bool("primary_slot_create"),
                hot_standby_feedback: v.bool("hot_standby_feedback"),
                wal_receiver_timeout: v.duration_unless_zero("wal_receiver_timeout"),
                wal_receiver_status_interval: v
                    .duration_unless_zero("wal_receiver_status_interval"),
                wal_retrieve_retry_interval: v.duration("wal_retrieve_retry_interval"),
            },
            listen_addresses: v.list("listen_addresses"),
            port: v.number("port"),
            max_connections: v.number("max_connections"),
            superuser_reserved_connections: v.number("superuser_reserved_connections"),
            unix_socket_directories: v
                .list("unix_socket_directories")
                .into_iter()
                .map(PathBuf::from)
                .collect(),
            tcp_keepalives_idle: v.duration_unless_zero("tcp_keepalives_idle"),
            tcp_keepalives_interval: v.duration_unless_zero("tcp_keepalives_interval"),
            tcp_keepalives_count: Some(v.number("tcp_keepalives_count")).filter(|&n: &u32| n > 0),
            tcp_user_timeout: v.duration_unless_zero("tcp_user_timeout"),
            authentication_timeout: v.duration("authentication_timeout"),
            cores: match v.number("cores") {
                0 => Cores::Auto,
                count => Cores::Count(count),
            },
            dedicated_wal_core: match v.text("dedicated_wal_core") {
                "on" => DedicatedWalCore::On,
                "off" => DedicatedWalCore::Off,
                _ => DedicatedWalCore::Auto,
            },
            catchup_cores: u16::try_from(v.number::<i64>("catchup_cores")).ok(),
            busy_poll_us: u32::try_from(v.number::<i64>("busy_poll_us")).ok(),
            sql_memory_limit: v.bytes("sql_memory_limit").unwrap_or(0),
            wal_sync_method: match v.text("wal_sync_method") {
                "open_datasync" => WalSyncMethod::OpenDatasync,
                "fdatasync" => WalSyncMethod::Fdatasync,
                "fsync" => WalSyncMethod::Fsync,
                "open_sync" => WalSyncMethod::OpenSync,
                _ => WalSyncMethod::Auto,
            },
            wal_page_magic: check::parse_wal_page_magic(v.text("wal_page_magic"))
                .unwrap_or(WalVersion::PG15),
            synchronous_commit: SynchronousCommit::parse(v.text("synchronous_commit"))
                .unwrap_or_default(),
            promote_trigger_file: v.text("promote_trigger_file").to_owned(),
            log_destination: match v.text("log_destination") {
                "json" => LogDestination::Json,
                _ => LogDestination::Stderr,
            },
            log_min_messages: MessageLevel::parse(v.text("log_min_messages"))
                .unwrap_or(MessageLevel::Warning),
            log_connections: v.bool("log_connections"),
            log_disconnections: v.bool("log_disconnections"),
            log_line_prefix: v.text("log_line_prefix").to_owned(),
            log_replication_commands: v.bool("log_replication_commands"),
            log_timezone: check::find_time_zone(v.text("log_timezone")).unwrap_or(TimeZone::UTC),
            cluster_name: v.text("cluster_name").to_owned(),
            values,
        }
    }
}

impl MessageLevel {
    /// The level that `name` names, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "debug5" => Self::Debug5,
            "debug4" => Self::Debug4,
            "debug3" => Self::Debug3,
            "debug2" => Self::Debug2,
            "debug1" => Self::Debug1,
            "info" => Self::Info,
            "notice" => Self::Notice,
            "warning" => Self::Warning,
            "error" => Self::Error,
            "log" => Self::Log,
            "fatal" => Self::Fatal,
            "panic" => Self::Panic,
            _ => return None,
        })
    }

    /// As a log line shows it. PostgreSQL: `error_severity`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug5 | Self::Debug4 | Self::Debug3 | Self::Debug2 | Self::Debug1 => "DEBUG",
            Self::Info => "INFO",
            Self::Notice => "NOTICE",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Log => "LOG",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
        }
    }
}

/// Reads checked values by name and type.
///
/// A name or type that the table does not have is a mistake in [`Settings::from_values`], which
/// every start of walhub and every test would meet.
struct Typed<'a>(&'a BTreeMap<&'static str, Assigned>);

impl Typed<'_> {
    fn value(&self, name: &str) -> &Value {
        let Some(assigned) = self.0.get(name) else { panic!("no setting is named {name}") };
        &assigned.value
    }

    fn bool(&self, name: &str) -> bool {
        let Value::Bool(value) = self.value(name) else { panic!("{name} is not a Boolean") };
        *value
    }

    fn int(&self, name: &str) -> i64 {
        let Value::Int(value) = self.value(name) else { panic!("{name} is not an integer") };
        *value
    }

    fn text(&self, name: &str) -> &str {
        match self.value(name) {
            Value::Text(value) => value,
            Value::Word(value) => value,
            Value::Bool(_) | Value::Int(_) => panic!("{name} is not a text"),
        }
    }

    fn list(&self, name: &str) -> Vec<String> {
        check::split_list(self.text(name)).unwrap_or_default()
    }

    fn number<T: TryFrom<i64>>(&self, name: &str) -> T {
        let Ok(number) = T::try_from(self.int(name)) else {
            panic!("the range of {name} is wider than its type")
        };
        number
    }

    /// `None` when negative.
    fn bytes(&self, name: &str) -> Option<u64> {
        let count = u64::try_from(self.int(name)).ok()?;
        Some(
            count
                << if value::unit_of(name) == Some(definition::Unit::Kilobytes) { 10 } else { 20 },
        )
    }

    fn duration(&self, name: &str) -> Duration {
        let count = u64::try_from(self.int(name)).unwrap_or(0);
        match value::unit_of(name) {
            Some(definition::Unit::Seconds) => Duration::from_secs(count),
            _ => Duration::from_millis(count),
        }
    }

    fn duration_unless_zero(&self, name: &str) -> Option<Duration> {
        Some(self.duration(name)).filter(|duration| !duration.is_zero())
    }
}
