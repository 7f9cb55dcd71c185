//! Turns completions into contiguous `write_lsn` and `flush_lsn`.
