//! The SQL console: monitoring views and functions over the hub.
