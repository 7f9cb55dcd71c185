//! `walhub.commit_latency`: where the time of commits goes.

use walhub_hub::publish::latency::LatencyRow;
use walhub_sql::env::Relation;
use walhub_sql::value::Value;
use walhub_sql::value::datetime::Interval;
use walhub_sql::value::types::Type;

use super::View;

/// `walhub.commit_latency`, its columns and where its rows come from.
pub(super) static VIEW: View = View {
    relation: Relation {
        schema: "walhub",
        name: "commit_latency",
        columns: &[
            ("stage", Type::Text),
            ("count", Type::Int8),
            ("p50", Type::Interval),
            ("p99", Type::Interval),
            ("p99_9", Type::Interval),
            ("max", Type::Interval),
        ],
        later: &[],
    },
    rows: |ctx| ctx.hub.commit_latency().into_iter().map(commit_latency).collect(),
};

/// Where commits' time goes.
fn commit_latency(row: LatencyRow) -> Vec<Value> {
    let time = |micros: Option<u64>| {
        let micros = micros.and_then(|micros| i64::try_from(micros).ok());
        micros.map_or(Value::Null, |micros| Value::Interval(Interval::from_micros(micros)))
    };
    let [half, most, nearly_all] = row.quantiles_us.map_or([None; 3], |all| all.map(Some));
    vec![
        Value::text_of(row.stage),
        Value::Int(i64::try_from(row.count).unwrap_or(i64::MAX)),
        time(half),
        time(most),
        time(nearly_all),
        time(row.max_us),
    ]
}
