//! One downstream session: startup, catchup, streaming, stopping.
