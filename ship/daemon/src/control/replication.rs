//! Replication commands of one walsender connection.
