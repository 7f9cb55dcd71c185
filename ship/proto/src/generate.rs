//! Builds valid WAL: pages, records, checkpoints.
