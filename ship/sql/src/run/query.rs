//! Running a query.
//!
//! Source, filter, grouping, HAVING, output, DISTINCT, ORDER BY, OFFSET, LIMIT, in that order.
//! Sort keys that are not in the select list are outputs after the visible ones.

use std::cmp::Ordering;

use walhub_proto::sqlstate::SqlState;

use crate::env::{Env, Scan};
use crate::failure::{INVALID_LIMIT, INVALID_OFFSET, Result, fail};
use crate::plan::{Expr, Grouping, Join, Plan, Source};
use crate::value::row::{Rows, compare_rows, cost, row_cost};
use crate::value::{Value, not_known};

impl Plan {
    /// Runs the query. What its rows take is held; nothing else is, afterwards.
    pub fn run(&self, env: &Env<'_>) -> Result<Rows> {
        let before = env.held();
        let rows = self.run_parts(env)?;
        env.release_to(before + rows.iter().map(|row| cost(row)).sum::<usize>());
        Ok(rows)
    }

    /// Runs a query whose rows are looked at in passing.
    pub fn run_within<T>(&self, env: &Env<'_>, look: impl FnOnce(Rows) -> T) -> Result<T> {
        let before = env.held();
        let seen = look(self.run_parts(env)?);
        env.release_to(before);
        Ok(seen)
    }

    fn run_parts(&self, env: &Env<'_>) -> Result<Rows> {
        let Scan { mut rows, is_filtered, count, is_counted } = self.source.scan(env)?;
        if !is_filtered {
            retain(&mut rows, self.filter.as_ref(), env)?;
        }
        if let Some(grouping) = &self.grouping {
            rows = match count {
                Some(count) => vec![vec![Value::Int(count); grouping.aggregates.len()]],
                None => grouping.run(rows, env)?,
            };
        }
        retain(&mut rows, self.having.as_ref(), env)?;
        let mut results: Rows = Vec::new();
        // Each row makes room for what comes of it.
        for row in rows {
            let result: Result<Vec<Value>> =
                self.outputs.iter().map(|output| output.expr.eval(&row, env)).collect();
            let mut result = result?;
            // What has read the rows has limits of its own.
            if !is_counted {
                result =
                    result.into_iter().map(|value| env.charge(value)).collect::<Result<_>>()?;
                env.hold(cost(&result))?;
            }
            results.push(result);
        }
        let is_compared =
            |output: usize| self.distinct || self.order.iter().any(|key| key.output == output);
        let mut values = results.iter().flat_map(|row| row.iter().enumerate());
        if values.any(|(output, value)| value.is_pending() && is_compared(output)) {
            return Err(not_known());
        }
        if self.distinct {
            results.sort_by(|left, right| compare_rows(left, right));
            results.dedup_by(|left, right| compare_rows(left, right).is_eq());
        }
        if !self.order.is_empty() {
            results.sort_by(|left, right| self.compare_sort_keys(left, right));
        }
        let offset = row_count(self.offset.as_ref(), "OFFSET", env)?.unwrap_or(0);
        let limit = row_count(self.limit.as_ref(), "LIMIT", env)?.unwrap_or(usize::MAX);
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

impl Source {
    fn scan(&self, env: &Env<'_>) -> Result<Scan> {
        let rows = match self {
            Self::Nothing => vec![Vec::new()],
            Self::Relation(relation) => {
                let scan = env.host.scan(relation);
                if !scan.is_counted {
                    env.hold(scan.rows.iter().map(|row| cost(row)).sum())?;
                }
                return Ok(scan);
            }
            Self::Query(plan) => plan.run(env)?,
            Self::Join(join) => join.run(env)?,
            Self::Values(rows) => values(rows, env)?,
            Self::Series(args) => series(args, env)?,
        };
        Ok(Scan { rows, ..Scan::default() })
    }
}

impl Join {
    /// Each pair is looked at. PostgreSQL: `ExecNestLoop`.
    fn run(&self, env: &Env<'_>) -> Result<Rows> {
        let (left, right) = (self.left.scan(env)?.rows, self.right.scan(env)?.rows);
        let mut rows = Rows::new();
        for outer in &left {
            let matches = rows.len();
            for inner in &right {
                env.step()?;
                let row: Vec<Value> = outer.iter().chain(inner).cloned().collect();
                env.work(cost(&row))?;
                if self.on.as_ref().map_or(Ok(true), |on| on.holds(&row, env))? {
                    env.hold(cost(&row))?;
                    rows.push(row);
                }
            }
            if let Some(nulls) = self.nulls.filter(|_| rows.len() == matches) {
                let nulls = std::iter::repeat_n(Value::Null, nulls);
                let row: Vec<Value> = outer.iter().cloned().chain(nulls).collect();
                env.hold(cost(&row))?;
                rows.push(row);
            }
        }
        Ok(rows)
    }
}

fn values(rows: &[Vec<Expr>], env: &Env<'_>) -> Result<Rows> {
    let eval = |expr: &Expr| env.charge(expr.eval(&[], env)?);
    let row = |row: &Vec<Expr>| {
        let row: Vec<Value> = row.iter().map(eval).collect::<Result<_>>()?;
        env.hold(cost(&row))?;
        Ok(row)
    };
    rows.iter().map(row).collect()
}

/// PostgreSQL: `generate_step_series_int8`.
fn series(args: &[Expr], env: &Env<'_>) -> Result<Rows> {
    let mut numbers = [0, 0, 1];
    for (number, arg) in numbers.iter_mut().zip(args) {
        match arg.known(&[], env)? {
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
        env.step()?;
        env.hold(row_cost(1))?;
        rows.push(vec![Value::Int(number)]);
        next = number.checked_add(step);
    }
    Ok(rows)
}

/// Keeps the rows for which the condition holds.
pub fn retain(rows: &mut Rows, condition: Option<&Expr>, env: &Env<'_>) -> Result<()> {
    let Some(condition) = condition else { return Ok(()) };
    let mut failure = None;
    rows.retain(|row| {
        // What follows a failure is not looked at.
        failure.is_none()
            && condition.holds(row, env).unwrap_or_else(|error| {
                failure = Some(error);
                false
            })
    });
    failure.map_or(Ok(()), Err)
}

/// The number after LIMIT or OFFSET.
pub fn row_count(expr: Option<&Expr>, clause: &str, env: &Env<'_>) -> Result<Option<usize>> {
    let Some(expr) = expr else { return Ok(None) };
    match expr.known(&[], env)? {
        Value::Int(count) => usize::try_from(count).map(Some).map_err(|_| {
            let state = if clause == "LIMIT" { INVALID_LIMIT } else { INVALID_OFFSET };
            fail(state, format!("{clause} must not be negative"))
        }),
        // LIMIT NULL is LIMIT ALL.
        _ => Ok(None),
    }
}

impl Grouping {
    fn run(&self, rows: Rows, env: &Env<'_>) -> Result<Rows> {
        let mut keyed: Vec<(Vec<Value>, Vec<Value>)> = Vec::new();
        for row in rows {
            let key: Result<Vec<Value>> =
                self.keys.iter().map(|key| key.known(&row, env)).collect();
            let key = key?;
            env.hold(cost(&key))?;
            keyed.push((key, row));
        }
        // Stable: rows of one group keep their order, as string_agg without ORDER BY shows it.
        keyed.sort_by(|left, right| compare_rows(&left.0, &right.0));
        let mut results = Vec::new();
        for group in keyed.chunk_by(|left, right| compare_rows(&left.0, &right.0).is_eq()) {
            let key = group.first().map(|(key, _)| key.clone()).unwrap_or_default();
            results.push(self.finish(key, group.iter().map(|(_, row)| &**row), env)?);
        }
        // Without GROUP BY there is one group, even of no rows.
        if results.is_empty() && self.keys.is_empty() {
            results.push(self.finish(Vec::new(), std::iter::empty(), env)?);
        }
        Ok(results)
    }

    fn finish<'a>(
        &self,
        mut row: Vec<Value>,
        group: impl Iterator<Item = &'a [Value]> + Clone,
        env: &Env<'_>,
    ) -> Result<Vec<Value>> {
        for aggregate in &self.aggregates {
            row.push(env.charge(aggregate.run(group.clone(), env)?)?);
        }
        env.hold(cost(&row))?;
        Ok(row)
    }
}
