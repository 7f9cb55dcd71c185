//! Running aggregate functions.

use std::cmp::Ordering;

use crate::env::Env;
use crate::failure::{Result, out_of_range};
use crate::plan::{Aggregate, AggregateCall, Expr};
use crate::value::Value;
use crate::value::float;
use crate::value::numeric::Numeric;
use crate::value::row::cost;

/// One input row of an aggregate.
struct Input {
    value: Value,
    delimiter: Value,
    sort: Vec<Value>,
}

impl Input {
    /// Bytes that it takes.
    fn cost(&self) -> usize {
        let sort = if self.sort.is_empty() { 0 } else { cost(&self.sort) };
        size_of::<Self>() + self.value.heap_len() + self.delimiter.heap_len() + sort
    }

    /// How DISTINCT sees two of them.
    fn compare(&self, other: &Self) -> Ordering {
        self.value.compare(&other.value).then_with(|| self.delimiter.compare(&other.delimiter))
    }
}

impl AggregateCall {
    /// The aggregate over the rows of a group.
    pub(crate) fn run<'a>(
        &self,
        rows: impl Iterator<Item = &'a [Value]>,
        env: &Env<'_>,
    ) -> Result<Value> {
        let mut inputs = Vec::new();
        let before = env.held();
        for row in rows {
            env.step()?;
            if let Some(filter) = &self.filter
                && !filter.holds(row, env)?
            {
                continue;
            }
            let known = |expr: &Option<Expr>| match expr {
                Some(expr) => expr.known(row, env),
                None => Ok(Value::Bool(true)),
            };
            let value = match &self.argument {
                // Whether there is a value is all that it wants to know.
                Some(argument) if self.aggregate == Aggregate::Count && !self.distinct => {
                    argument.eval(row, env)?
                }
                argument => known(argument)?,
            };
            // All but array_agg are blind to NULL.
            if value.is_null() && self.aggregate != Aggregate::ArrayAgg {
                continue;
            }
            let sort: Result<Vec<Value>> =
                self.order.iter().map(|(expr, _)| expr.known(row, env)).collect();
            let input = Input { value, delimiter: known(&self.delimiter)?, sort: sort? };
            env.hold(input.cost())?;
            inputs.push(input);
        }
        if self.distinct {
            inputs.sort_by(Input::compare);
            inputs.dedup_by(|left, right| left.compare(right).is_eq());
        }
        inputs.sort_by(|left, right| self.compare(left, right));
        let folded = self.fold(inputs)?;
        env.release_to(before);
        Ok(folded)
    }

    fn compare(&self, left: &Input, right: &Input) -> Ordering {
        left.sort
            .iter()
            .zip(&right.sort)
            .zip(&self.order)
            .map(|((left, right), (_, direction))| direction.compare(left, right))
            .find(|ordering| ordering.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    fn fold(&self, inputs: Vec<Input>) -> Result<Value> {
        let count = i64::try_from(inputs.len()).expect("no memory holds so much");
        if self.aggregate == Aggregate::Count {
            return Ok(Value::Int(count));
        }
        if self.aggregate == Aggregate::StringAgg {
            return Ok(join(inputs));
        }
        let mut values = inputs.into_iter().map(|input| input.value);
        if self.aggregate == Aggregate::ArrayAgg {
            let items: Vec<Option<String>> = values
                .map(|value| if let Value::Text(text) = value { Some(text) } else { None })
                .collect();
            return Ok(if items.is_empty() { Value::Null } else { Value::Array(items) });
        }
        let Some(first) = values.next() else { return Ok(Value::Null) };
        let total = values.try_fold(first, |total, value| self.combine(total, value))?;
        if self.aggregate == Aggregate::Avg { divide(total, count) } else { Ok(total) }
    }

    fn combine(&self, total: Value, value: Value) -> Result<Value> {
        Ok(match self.aggregate {
            Aggregate::Min if value.compare(&total).is_lt() => value,
            Aggregate::Max if value.compare(&total).is_gt() => value,
            Aggregate::Min | Aggregate::Max => total,
            Aggregate::BoolAnd => Value::Bool(total == Value::Bool(true) && value == total),
            Aggregate::BoolOr => {
                Value::Bool(total == Value::Bool(true) || value == Value::Bool(true))
            }
            Aggregate::Sum | Aggregate::Avg => add(total, value)?,
            Aggregate::Count | Aggregate::StringAgg | Aggregate::ArrayAgg => total,
        })
    }
}

fn join(inputs: Vec<Input>) -> Value {
    let mut joined: Option<String> = None;
    for input in inputs {
        let Value::Text(text) = input.value else { continue };
        match &mut joined {
            None => joined = Some(text),
            Some(joined) => {
                if let Value::Text(delimiter) = &input.delimiter {
                    joined.push_str(delimiter);
                }
                joined.push_str(&text);
            }
        }
    }
    Value::or_null(joined, Value::Text)
}

fn add(left: Value, right: Value) -> Result<Value> {
    Ok(match (left, right) {
        (Value::Int(left), Value::Int(right)) => {
            Value::Int(left.checked_add(right).ok_or_else(|| out_of_range("bigint"))?)
        }
        (Value::Numeric(left), Value::Numeric(right)) => Value::Numeric(left.try_add(right)?),
        (Value::Float(left), Value::Float(right)) => Value::Float(left + right),
        (Value::Interval(left), Value::Interval(right)) => Value::Interval(left.try_add(right)?),
        (left, right) => unreachable!("sum of {left:?} and {right:?}: not in the signatures"),
    })
}

fn divide(total: Value, count: i64) -> Result<Value> {
    // Zero rows have no average: the caller has answered NULL.
    let divisor = float::from_i64(count);
    Ok(match total {
        Value::Numeric(total) => Value::Numeric(total.divide(Numeric::from(count))?),
        Value::Float(total) => Value::Float(total / divisor),
        Value::Interval(total) => Value::Interval(total.divide(divisor)?),
        other => other,
    })
}
