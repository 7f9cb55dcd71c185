//! Running a plan: rows in, rows out.

mod aggregate;
mod expr;
mod query;

pub use crate::run::query::{retain, row_count};
