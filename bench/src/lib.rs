//! Measures walhub beside its peers, in one run on one disk.
//!
//! A scenario (`scenario`) compares two sides by turns (`method`); sides are real programs
//! (`peer`), fed by a walsender in memory (`source`) and drained by null standbys (`sink`).
//! Figures come out as a table, as JSON and as a page (`report`), with the machine they are from
//! (`environment`).
//!
//! The hub is measured through its sockets, as the peers are; only what a socket cannot tell (one
//! reply, one durable write, one send) is measured on walhub's own code.

#![forbid(unsafe_code)]

pub mod environment;
pub mod method;
pub mod peer;
pub mod report;
pub mod scenario;
pub mod sink;
pub mod source;
