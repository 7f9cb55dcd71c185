//! The data directory: its creation, permissions, lock and pid file.
