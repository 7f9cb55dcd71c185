//! One downstream connection from its first byte.
