//! A bound query, and running it.
//!
//! Source, filter, grouping, HAVING, output, DISTINCT, ORDER BY, OFFSET, LIMIT, in that order.
//! Sort keys that are not in the select list are outputs after the visible ones.

use std::cmp::Ordering;
use std::sync::Arc;

use walhub_proto::sqlstate::SqlState;

use super::aggregate::AggregateCall;
use super::catalog::Relation;
use super::context::Context;
use super::expr::Expr;
use super::failure::{INVALID_LIMIT, INVALID_OFFSET, Result, fail, hinted};
use super::types::Type;
use super::value::Value;

/// Rows of values.
pub(super) type Rows = Vec<Vec<Value>>;

/// Bytes of memory that a row takes, near enough.
pub(super) fn cost(row: &[Value]) -> usize {
    row_cost(row.len()) + row.iter().map(Value::heap_len).sum::<usize>()
}

/// Bytes of a row of so many values that have nothing on the heap: its place among the rows, and its own.
const fn row_cost(values: usize) -> usize {
    size_of::<Vec<Value>>() + values * size_of::<Value>() + 16
}

/// A query with every name and type resolved.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Plan {
    pub(super) source: Source,
    pub(super) filter: Option<Expr>,
    pub(super) grouping: Option<Grouping>,
    pub(super) having: Option<Expr>,
    pub(super) outputs: Vec<Output>,
    /// How many of `outputs` the client sees.
    pub(super) visible: usize,
    pub(super) distinct: bool,
    pub(super) order: Vec<SortKey>,
    pub(super) limit: Option<Expr>,
    pub(super) offset: Option<Expr>,
}

/// Where the rows come from.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Source {
    /// No FROM: one row without columns.
    Nothing,
    Relation(&'static Relation),
    Query(Arc<Plan>),
    /// VALUES.
    Values(Vec<Vec<Expr>>),
    /// generate_series of these two or three numbers.
    Series(Vec<Expr>),
}

/// GROUP BY and the aggregates; the row after it is the keys, then the aggregates.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Grouping {
    pub(super) keys: Vec<Expr>,
    pub(super) aggregates: Vec<AggregateCall>,
}

/// A column of the result.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Output {
    pub(super) name: String,
    pub(super) expr: Expr,
}

/// Orders by the output of that index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SortKey {
    pub(super) output: usize,
    pub(super) direction: Direction,
}

/// ASC or DESC, and where NULL goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Direction {
    pub(super) descending: bool,
    pub(super) nulls_first: bool,
}

impl Direction {
    /// How two values order.
    pub(super) fn compare(self, left: &Value, right: &Value) -> Ordering {
        match (left.is_null(), right.is_null()) {
            (true, true) => Ordering::Equal,
            (true, false) if self.nulls_first => Ordering::Less,
            (true, false) => Ordering::Greater,
            (false, true) if self.nulls_first => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) if self.descending => right.compare(left),
            (false, false) => left.compare(right),
        }
    }
}

/// How whole rows order, column by column; NULLs are equal.
pub(super) fn compare_rows(left: &[Value], right: &[Value]) -> Ordering {
    left.iter()
        .zip(right)
        .map(|(left, right)| left.compare(right))
        .find(|ordering| ordering.is_ne())
        .unwrap_or(Ordering::Equal)
}

impl Plan {
    /// Names and types of the columns that the client sees.
    pub(super) fn columns(&self) -> impl Iterator<Item = (&str, Type)> {
        self.outputs.iter().take(self.visible).map(|output| (&*output.name, output.expr.ty))
    }

    /// Runs the query. What its rows take is held; nothing else is, afterwards.
    pub(super) fn run(&self, ctx: &Context<'_>) -> Result<Rows> {
        let before = ctx.held();
        let rows = self.run_parts(ctx)?;
        ctx.release_to(before + rows.iter().map(|row| cost(row)).sum::<usize>());
        Ok(rows)
    }

    /// Runs a query whose rows are looked at in passing.
    pub(super) fn run_within<T>(
        &self,
        ctx: &Context<'_>,
        look: impl FnOnce(Rows) -> T,
    ) -> Result<T> {
        let before = ctx.held();
        let seen = look(self.run_parts(ctx)?);
        ctx.release_to(before);
        Ok(seen)
    }

    fn run_parts(&self, ctx: &Context<'_>) -> Result<Rows> {
        let mut rows = match &self.source {
            Source::Nothing => vec![Vec::new()],
            // The rows of walhub.messages are held by what has read them.
            Source::Relation(relation) if relation.is_messages() => (relation.rows)(ctx),
            Source::Relation(relation) => {
                let rows = (relation.rows)(ctx);
                ctx.hold(rows.iter().map(|row| cost(row)).sum())?;
                rows
            }
            Source::Query(plan) => plan.run(ctx)?,
            Source::Values(rows) => values(rows, ctx)?,
            Source::Series(args) => series(args, ctx)?,
        };
        let fetched = match &self.source {
            Source::Relation(relation) if relation.is_messages() => ctx.messages,
            _ => None,
        };
        if !fetched.is_some_and(|fetched| fetched.is_filtered) {
            retain(&mut rows, self.filter.as_ref(), ctx)?;
        }
        if let Some(grouping) = &self.grouping {
            rows = match fetched.and_then(|fetched| fetched.count) {
                Some(count) => vec![vec![Value::Int(count); grouping.aggregates.len()]],
                None => grouping.run(rows, ctx)?,
            };
        }
        retain(&mut rows, self.having.as_ref(), ctx)?;
        let mut results: Rows = Vec::new();
        // Each row makes room for what comes of it.
        for row in rows {
            let result: Result<Vec<Value>> =
                self.outputs.iter().map(|output| output.expr.eval(&row, ctx)).collect();
            // What was read from the WAL has a limit of its own.
            let result = result?.into_iter().map(|value| match fetched {
                Some(_) => Ok(value),
                None => ctx.charge(value),
            });
            let result: Vec<Value> = result.collect::<Result<_>>()?;
            if fetched.is_none() {
                ctx.hold(cost(&result))?;
            }
            results.push(result);
        }
        if self.distinct {
            results.sort_by(|left, right| compare_rows(left, right));
            results.dedup_by(|left, right| compare_rows(left, right).is_eq());
        }
        if !self.order.is_empty() {
            results.sort_by(|left, right| self.compare_sort_keys(left, right));
        }
        let offset = row_count(self.offset.as_ref(), "OFFSET", ctx)?.unwrap_or(0);
        let limit = row_count(self.limit.as_ref(), "LIMIT", ctx)?.unwrap_or(usize::MAX);
        Ok(results
            .into_iter()
            .skip(offset)
            .take(limit)
            .map(|mut row| {
                row.truncate(self.visible);
                row
            })
            .collect())
    }

    fn compare_sort_keys(&self, left: &[Value], right: &[Value]) -> Ordering {
        self.order
            .iter()
            .filter_map(|key| {
                Some(key.direction.compare(left.get(key.output)?, right.get(key.output)?))
            })
            .find(|ordering| ordering.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

fn values(rows: &[Vec<Expr>], ctx: &Context<'_>) -> Result<Rows> {
    let eval = |expr: &Expr| ctx.charge(expr.eval(&[], ctx)?);
    let row = |row: &Vec<Expr>| {
        let row: Vec<Value> = row.iter().map(eval).collect::<Result<_>>()?;
        ctx.hold(cost(&row))?;
        Ok(row)
    };
    rows.iter().map(row).collect()
}

/// PostgreSQL: `generate_step_series_int8`.
fn series(args: &[Expr], ctx: &Context<'_>) -> Result<Rows> {
    let mut numbers = [0, 0, 1];
    for (number, arg) in numbers.iter_mut().zip(args) {
        match arg.eval(&[], ctx)? {
            Value::Int(value) => *number = value,
            _ => return Ok(Vec::new()),
        }
    }
    let [first, last, step] = numbers;
    if step == 0 {
        return Err(fail(SqlState::INVALID_PARAMETER_VALUE, "step size cannot equal zero"));
    }
    let mut rows = Vec::new();
    let mut next = Some(first);
    while let Some(number) = next.filter(|it| if step > 0 { *it <= last } else { *it >= last }) {
        ctx.step()?;
        ctx.hold(row_cost(1))?;
        rows.push(vec![Value::Int(number)]);
        next = number.checked_add(step);
    }
    Ok(rows)
}

/// Keeps the rows for which the condition holds.
pub(super) fn retain(rows: &mut Rows, condition: Option<&Expr>, ctx: &Context<'_>) -> Result<()> {
    let Some(condition) = condition else { return Ok(()) };
    let mut failure = None;
    rows.retain(|row| {
        // What follows a failure is not looked at.
        failure.is_none()
            && condition.holds(row, ctx).unwrap_or_else(|error| {
                failure = Some(error);
                false
            })
    });
    failure.map_or(Ok(()), Err)
}

/// The number after LIMIT or OFFSET.
pub(super) fn row_count(
    expr: Option<&Expr>,
    clause: &str,
    ctx: &Context<'_>,
) -> Result<Option<usize>> {
    let Some(expr) = expr else { return Ok(None) };
    match expr.eval(&[], ctx)? {
        Value::Int(count) => usize::try_from(count).map(Some).map_err(|_| {
            let state = if clause == "LIMIT" { INVALID_LIMIT } else { INVALID_OFFSET };
            fail(state, format!("{clause} must not be negative"))
        }),
        // LIMIT NULL is LIMIT ALL.
        _ => Ok(None),
    }
}

impl Grouping {
    fn run(&self, rows: Rows, ctx: &Context<'_>) -> Result<Rows> {
        let mut keyed: Vec<(Vec<Value>, Vec<Value>)> = Vec::new();
        for row in rows {
            let key: Result<Vec<Value>> = self.keys.iter().map(|key| key.eval(&row, ctx)).collect();
            let key = key?;
            ctx.hold(cost(&key))?;
            keyed.push((key, row));
        }
        // Stable: rows of one group keep their order, as string_agg without ORDER BY shows it.
        keyed.sort_by(|left, right| compare_rows(&left.0, &right.0));
        let mut results = Vec::new();
        for group in keyed.chunk_by(|left, right| compare_rows(&left.0, &right.0).is_eq()) {
            let key = group.first().map(|(key, _)| key.clone()).unwrap_or_default();
            results.push(self.finish(key, group.iter().map(|(_, row)| &**row), ctx)?);
        }
        // Without GROUP BY there is one group, even of no rows.
        if results.is_empty() && self.keys.is_empty() {
            results.push(self.finish(Vec::new(), std::iter::empty(), ctx)?);
        }
        Ok(results)
    }

    fn finish<'a>(
        &self,
        mut row: Vec<Value>,
        group: impl Iterator<Item = &'a [Value]> + Clone,
        ctx: &Context<'_>,
    ) -> Result<Vec<Value>> {
        for aggregate in &self.aggregates {
            row.push(ctx.charge(aggregate.run(group.clone(), ctx)?)?);
        }
        ctx.hold(cost(&row))?;
        Ok(row)
    }
}

/// The error for a column that is neither grouped nor aggregated.
pub(super) fn ungrouped(table: Option<&str>, column: &str) -> super::failure::Failure {
    let name = table.map_or_else(|| column.to_owned(), |table| format!("{table}.{column}"));
    fail(
        super::failure::GROUPING_ERROR,
        format!(
            "column \"{name}\" must appear in the GROUP BY clause or be used in an aggregate function"
        ),
    )
}

/// The error for a relation that is not there.
pub(super) fn undefined_table(name: &str) -> super::failure::Failure {
    let failure = fail(SqlState::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"));
    hinted(
        failure,
        "walhub has the relations pg_stat_replication, pg_stat_wal_receiver, \
        pg_replication_slots, pg_stat_activity, pg_settings and pg_database.",
    )
}
