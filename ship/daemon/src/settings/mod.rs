//! Settings under their PostgreSQL names, parsed into types that cannot be wrong.

use std::path::PathBuf;
use std::time::Duration;

/// Every setting that listening and serving connections need.
#[derive(Clone, Debug)]
pub struct Settings {
    /// listen_addresses
    pub listen_addresses: Vec<String>,
    /// port
    pub port: u16,
    /// unix_socket_directories
    pub unix_socket_directories: Vec<PathBuf>,
    /// max_wal_senders
    pub max_wal_senders: u32,
    /// max_connections
    pub max_connections: u32,
    /// tcp_keepalives_idle
    pub tcp_keepalives_idle: Option<Duration>,
    /// tcp_keepalives_interval
    pub tcp_keepalives_interval: Option<Duration>,
    /// tcp_keepalives_count
    pub tcp_keepalives_count: Option<u32>,
    /// tcp_user_timeout
    pub tcp_user_timeout: Option<Duration>,
    /// log_connections
    pub log_connections: bool,
    /// log_disconnections
    pub log_disconnections: bool,
    /// log_replication_commands
    pub log_replication_commands: bool,
    /// authentication_timeout
    pub authentication_timeout: Duration,
    _values: (),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen_addresses: vec!["localhost".into()],
            port: 5432,
            unix_socket_directories: vec!["/tmp".into()],
            max_wal_senders: 10,
            max_connections: 100,
            tcp_keepalives_idle: None,
            tcp_keepalives_interval: None,
            tcp_keepalives_count: None,
            tcp_user_timeout: None,
            log_connections: false,
            log_disconnections: false,
            log_replication_commands: false,
            authentication_timeout: Duration::from_secs(60),
            _values: (),
        }
    }
}

impl Settings {
    /// Value of a setting as SHOW prints it.
    #[must_use]
    pub fn show(&self, name: &str) -> Option<String> {
        match name {
            "port" => Some(self.port.to_string()),
            "max_wal_senders" => Some(self.max_wal_senders.to_string()),
            "listen_addresses" => Some(self.listen_addresses.join(",")),
            _ => None,
        }
    }
}
