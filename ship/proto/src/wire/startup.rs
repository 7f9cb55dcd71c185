//! The first packet of a connection.
