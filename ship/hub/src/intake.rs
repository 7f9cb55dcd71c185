//! WAL in: from an upstream, or of this server's own.

pub(crate) mod first_contact;
pub(crate) mod own;
mod reason;
pub(crate) mod trouble;
pub(crate) mod upstream;
