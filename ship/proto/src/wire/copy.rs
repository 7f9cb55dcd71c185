//! Messages inside the CopyBoth stream of physical replication.
