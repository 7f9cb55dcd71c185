//! Physical replication slots.
