//! Values that several views have.

use walhub_hub::api::hub::Client;
use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::time::Timestamp;
use walhub_sql::value::Value;

/// A position; 0/0 is none.
pub(in crate::backend) fn lsn(lsn: Option<Lsn>) -> Value {
    Value::or_null(lsn.and_then(Lsn::valid), Value::Lsn)
}

/// A time, NULL where there is none.
pub(in crate::backend) fn time(time: Option<Timestamp>) -> Value {
    Value::or_null(time, Value::Timestamp)
}

/// A number, NULL where there is none.
pub(in crate::backend) fn uint(value: Option<u32>) -> Value {
    Value::or_null(value, |value| Value::Int(i64::from(value)))
}

/// A text, NULL where there is none.
pub(in crate::backend) fn text(value: Option<&str>) -> Value {
    Value::or_null(value, Value::text_of)
}

/// A process id, which is int4 in PostgreSQL.
pub(in crate::backend) fn pid(pid: u32) -> Value {
    Value::Int(i64::from(pid & 0x7FFF_FFFF))
}

/// A timeline, which is int4 in PostgreSQL.
pub(in crate::backend) fn timeline(tli: Option<TimelineId>) -> Value {
    Value::or_null(tli, |tli| Value::Int(i64::from(tli.to_u32().cast_signed())))
}

/// `client_addr` and `client_port`; a unix socket has no address and port -1.
pub(in crate::backend) fn address(client: &Client) -> (Value, Value) {
    client.address.map_or((Value::Null, Value::Int(-1)), |address| {
        (
            Value::text_of(address.ip().to_canonical().to_string()),
            Value::Int(i64::from(address.port())),
        )
    })
}
