//! Shared parts of the test suites: real servers, load on them, and comparing what they hold.

pub mod authority;
pub mod client;
pub mod compare;
pub mod fake_upstream;
pub mod hub;
pub mod mount;
pub mod postgres;
pub mod process;
pub mod receivewal;
pub mod scratch;
pub mod tls;
pub mod topology;
pub mod veth;
pub mod waldump;
pub mod workload;

pub use walhub_peers::{log, wait};
