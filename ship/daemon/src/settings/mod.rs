//! Settings under their PostgreSQL names, parsed into types that cannot be wrong.

use std::time::Duration;

/// Every setting that listening and serving connections need.
#[derive(Clone, Debug)]
pub struct Settings {
    /// listen_addresses
    pub listen_addresses: String,
    /// port
    pub port: u16,
    /// unix_socket_directories
    pub unix_socket_directories: String,
    /// max_wal_senders
    pub max_wal_senders: usize,
    /// max_connections
    pub max_connections: usize,
    /// tcp_keepalives_idle
    pub tcp_keepalives_idle: Duration,
    /// tcp_keepalives_interval
    pub tcp_keepalives_interval: Duration,
    /// tcp_keepalives_count
    pub tcp_keepalives_count: u32,
    /// tcp_user_timeout
    pub tcp_user_timeout: Duration,
    /// log_connections
    pub log_connections: bool,
    /// log_disconnections
    pub log_disconnections: bool,
    /// log_replication_commands
    pub log_replication_commands: bool,
    /// authentication_timeout
    pub authentication_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen_addresses: "localhost".into(),
            port: 5432,
            unix_socket_directories: "/tmp".into(),
            max_wal_senders: 10,
            max_connections: 100,
            tcp_keepalives_idle: Duration::ZERO,
            tcp_keepalives_interval: Duration::ZERO,
            tcp_keepalives_count: 0,
            tcp_user_timeout: Duration::ZERO,
            log_connections: false,
            log_disconnections: false,
            log_replication_commands: false,
            authentication_timeout: Duration::from_secs(60),
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
            "listen_addresses" => Some(self.listen_addresses.clone()),
            _ => None,
        }
    }
}
