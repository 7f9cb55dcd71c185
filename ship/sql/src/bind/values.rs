//! VALUES: rows that are written in the query.
//!
//! psql's `\gdesc` sends a described statement's columns back in this form, to format them.
//!
//! PostgreSQL: `transformValuesClause` (src/backend/parser/analyze.c).

use sqlparser::ast;
use walhub_proto::sqlstate::SqlState;

use crate::bind::{Binder, Scope};
use crate::failure::{PROGRAM_LIMIT_EXCEEDED, Result, fail, unsupported};
use crate::plan::{Expr, Node, Output, Plan, Source};

/// Columns of one row. PostgreSQL: `MaxTupleAttributeNumber`.
const COLUMNS_MAX: usize = 1664;

impl Binder<'_> {
    /// Resolves VALUES; each column has the type that all its values have in common.
    pub(crate) fn bind_values(&mut self, values: &ast::Values) -> Result<Plan> {
        let width = values.rows.first().map_or(0, Vec::len);
        if values.rows.iter().any(|row| row.len() != width) {
            let message = "VALUES lists must all be the same length";
            return Err(fail(SqlState::SYNTAX_ERROR, message));
        }
        if width > COLUMNS_MAX {
            let message = format!("target lists can have at most {COLUMNS_MAX} entries");
            return Err(fail(PROGRAM_LIMIT_EXCEEDED, message));
        }
        let mut rows: Vec<Vec<Expr>> = vec![Vec::with_capacity(width); values.rows.len()];
        let mut outputs = Vec::with_capacity(width);
        for column in 0..width {
            let mut scope = Scope { no_aggregates: Some("VALUES"), ..Scope::default() };
            let mut bound = Vec::with_capacity(rows.len());
            for value in values.rows.iter().filter_map(|row| row.get(column)) {
                if matches!(value, ast::Expr::Identifier(name) if is_default(name)) {
                    return Err(unsupported("DEFAULT in VALUES"));
                }
                bound.push(self.bind(&mut scope, value)?);
            }
            let (bound, ty) = self.unify(bound, "VALUES")?;
            for (row, value) in rows.iter_mut().zip(bound) {
                row.push(value);
            }
            let name = format!("column{}", column + 1);
            outputs.push(Output { name, expr: Expr::new(ty, Node::Column(column)) });
        }
        Ok(Plan {
            source: Source::Values(rows),
            filter: None,
            grouping: None,
            having: None,
            outputs,
            visible: width,
            distinct: false,
            order: Vec::new(),
            limit: None,
            offset: None,
            uses_outer: false,
        })
    }
}

fn is_default(name: &ast::Ident) -> bool {
    name.quote_style.is_none() && name.value.eq_ignore_ascii_case("default")
}
