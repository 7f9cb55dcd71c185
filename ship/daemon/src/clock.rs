//! The clock of the control plane. Cores are told the time by their `Io`.

use walhub_engine::clock::unix_micros;
use walhub_proto::time::Timestamp;

/// The time on the machine's clock.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_unix_micros(unix_micros())
}
