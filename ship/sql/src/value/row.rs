//! Rows: what they take, and how they order.

use std::cmp::Ordering;

use crate::value::Value;

/// Rows of values, each as long as the others.
pub type Rows = Vec<Vec<Value>>;

/// Bytes of memory that a row takes, near enough.
pub fn cost(row: &[Value]) -> usize {
    row_cost(row.len()) + row.iter().map(Value::heap_len).sum::<usize>()
}

/// Bytes of a row of so many values that have nothing on the heap: its place among the rows, and its own.
pub const fn row_cost(values: usize) -> usize {
    size_of::<Vec<Value>>() + values * size_of::<Value>() + 16
}

/// How whole rows order, column by column; NULLs are equal.
pub fn compare_rows(left: &[Value], right: &[Value]) -> Ordering {
    left.iter()
        .zip(right)
        .map(|(left, right)| left.compare(right))
        .find(|ordering| ordering.is_ne())
        .unwrap_or(Ordering::Equal)
}
