//! Replication commands: what a walsender is asked to do.
