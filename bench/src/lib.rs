//! Measures walhub beside its peers, in one run on one disk.
//!
//! A scenario (`scenario`) compares two sides by turns (`method`); sides are real programs
//! (`peer`), fed by a walsender in memory (`source`) and drained by null standbys (`sink`).
//! Figures come out as a table and as JSON (`report`), with the machine they are from
//! (`environment`).
//!
//! Not here: anything of walhub's own code but its pure protocol crate. The hub is measured
//! through its sockets, as the peers are.

#![forbid(unsafe_code)]

pub mod environment;
pub mod method;
pub mod peer;
pub mod report;
pub mod scenario;
pub mod sink;
pub mod source;
