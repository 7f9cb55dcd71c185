//! Resolves the clauses of a query into a plan.
//!
//! PostgreSQL: `transformSelectStmt` (src/backend/parser/analyze.c), parse_clause.c,
//! `FigureColname` (parse_target.c).

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlparser::ast;
use walhub_proto::sqlstate::SqlState;

use crate::bind::{Binder, Scope, ScopeColumn, fold, fold_name};
use crate::failure::{
    DUPLICATE_ALIAS, Failure, GROUPING_ERROR, INVALID_COLUMN_REFERENCE, Result,
    STATEMENT_TOO_COMPLEX, fail, hinted, unsupported,
};
use crate::plan::{Direction, Expr, Grouping, Join, Node, Output, Plan, SortKey, Source};
use crate::value::Value;
use crate::value::types::Type;

/// Nesting of queries.
const QUERY_DEPTH_COST: usize = 4;

impl Binder<'_> {
    /// Resolves a query.
    pub(crate) fn bind_query(&mut self, query: &ast::Query) -> Result<Plan> {
        // A query inside a query takes more of the stack than an expression in one.
        self.depth += QUERY_DEPTH_COST;
        if self.depth > 120 {
            return Err(fail(STATEMENT_TOO_COMPLEX, "stack depth limit exceeded"));
        }
        let outer = self.ctes.clone();
        let plan = self.bind_query_parts(query);
        self.ctes = outer;
        self.depth -= QUERY_DEPTH_COST;
        plan
    }

    fn bind_query_parts(&mut self, query: &ast::Query) -> Result<Plan> {
        if let Some(with) = &query.with {
            if with.recursive {
                return Err(unsupported("WITH RECURSIVE"));
            }
            let mut names = BTreeMap::new();
            for cte in &with.cte_tables {
                let name = fold(&cte.alias.name);
                if names.insert(name.clone(), ()).is_some() {
                    let message = format!("WITH query name \"{name}\" specified more than once");
                    return Err(fail(DUPLICATE_ALIAS, message));
                }
                let mut plan = self.bind_query(&cte.query)?;
                rename(&mut plan, &cte.alias)?;
                self.ctes.insert(name, Arc::new(plan));
            }
        }
        if !query.locks.is_empty() || query.for_clause.is_some() || !query.pipe_operators.is_empty()
        {
            return Err(unsupported("FOR UPDATE and the like"));
        }
        let mut plan = match &*query.body {
            ast::SetExpr::Select(select) => {
                return self.bind_select(select, query);
            }
            ast::SetExpr::Query(inner) => self.bind_query(inner)?,
            ast::SetExpr::SetOperation { op, .. } => return Err(unsupported(op)),
            ast::SetExpr::Values(values) => self.bind_values(values)?,
            _ => return Err(unsupported("this form of query")),
        };
        if query.order_by.is_some() || query.limit_clause.is_some() || query.fetch.is_some() {
            // (SELECT ...) LIMIT 1: the clauses apply to the result of the parentheses.
            if plan.limit.is_some() || plan.offset.is_some() || query.order_by.is_some() {
                return Err(unsupported("ORDER BY or LIMIT outside parentheses"));
            }
            self.bind_limits(&mut plan, query)?;
        }
        Ok(plan)
    }

    fn bind_select(&mut self, select: &ast::Select, query: &ast::Query) -> Result<Plan> {
        refuse_extensions(select)?;
        let (source, columns) = self.bind_from(&select.from)?;
        let mut scope = Scope { columns, ..Scope::default() };
        let filter = self.bind_condition(&mut scope, select.selection.as_ref(), "WHERE")?;
        let mut outputs = self.bind_projection(&mut scope, select)?;
        let visible = outputs.len();
        let keys = self.bind_group_by(&mut scope, select, &outputs)?;
        let having = match &select.having {
            Some(having) => {
                let bound = self.bind(&mut scope, having)?;
                Some(self.condition(bound, "HAVING")?)
            }
            None => None,
        };
        let distinct = match &select.distinct {
            None => false,
            Some(ast::Distinct::Distinct) => true,
            Some(ast::Distinct::On(_)) => return Err(unsupported("DISTINCT ON")),
        };
        let order = self.bind_order_by(&mut scope, query, &mut outputs, visible)?;
        if distinct && outputs.len() > visible {
            return Err(fail(
                INVALID_COLUMN_REFERENCE,
                "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
            ));
        }
        let grouped = !keys.is_empty()
            || !scope.aggregates.is_empty()
            || having.is_some()
            || group_by_exprs(select)?.is_some_and(|exprs| !exprs.is_empty());
        let mut plan = Plan {
            source,
            filter,
            grouping: None,
            having,
            outputs,
            visible,
            distinct,
            order,
            limit: None,
            offset: None,
            uses_outer: false,
        };
        if grouped {
            let after = plan.outputs.iter_mut().map(|output| &mut output.expr);
            for expr in after.chain(plan.having.as_mut()) {
                regroup(expr, &keys, &scope.columns)?;
            }
            plan.grouping = Some(Grouping { keys, aggregates: scope.aggregates });
        }
        self.bind_limits(&mut plan, query)?;
        Ok(plan)
    }

    fn bind_from(&mut self, from: &[ast::TableWithJoins]) -> Result<(Source, Vec<ScopeColumn>)> {
        let mut bound = None;
        for item in from {
            let right = self.bind_joins(item)?;
            bound = Some(match bound {
                None => right,
                Some(left) => joined(left, right, false)?,
            });
        }
        Ok(bound.unwrap_or((Source::Nothing, Vec::new())))
    }

    /// A FROM item with its JOINs. PostgreSQL: `transformFromClauseItem`.
    fn bind_joins(&mut self, item: &ast::TableWithJoins) -> Result<(Source, Vec<ScopeColumn>)> {
        let mut bound = self.bind_table(&item.relation)?;
        for join in &item.joins {
            use ast::JoinOperator as J;
            let (constraint, is_left) = match &join.join_operator {
                J::Join(constraint) | J::Inner(constraint) => (Some(constraint), false),
                J::Left(constraint) | J::LeftOuter(constraint) => (Some(constraint), true),
                J::CrossJoin(ast::JoinConstraint::None) => (None, false),
                _ => return Err(unsupported("this kind of join")),
            };
            let right = self.bind_table(&join.relation)?;
            let (mut source, columns) = joined(bound, right, is_left)?;
            let mut scope = Scope { columns, ..Scope::default() };
            match constraint {
                None => {}
                Some(ast::JoinConstraint::On(condition)) => {
                    let on = self.bind_condition(&mut scope, Some(condition), "JOIN/ON")?;
                    if let Source::Join(join) = &mut source {
                        join.on = on;
                    }
                }
                Some(_) => return Err(unsupported("a join without ON")),
            }
            bound = (source, scope.columns);
        }
        Ok(bound)
    }

    fn bind_table(&mut self, table: &ast::TableFactor) -> Result<(Source, Vec<ScopeColumn>)> {
        let scope_columns = |table: &str, columns: Vec<(String, Type)>| {
            let column = |(name, ty)| ScopeColumn {
                table: Some(table.to_owned()),
                name,
                ty,
                by_name_only: false,
            };
            columns.into_iter().map(column).collect::<Vec<_>>()
        };
        match table {
            ast::TableFactor::Table { name, alias, args: None, sample: None, .. } => {
                let parts = fold_name(name);
                let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
                let first = name.0.first().and_then(ast::ObjectNamePart::as_ident);
                let missing = || {
                    let failure = undefined_table(&parts.join("."));
                    first.map_or_else(|| undefined_table(""), |ident| self.at(failure, ident))
                };
                let (source, columns, own): (Source, Vec<(String, Type)>, &str) = match &*parts {
                    [own] if self.ctes.contains_key(*own) => {
                        let plan = self.ctes.get(*own).cloned().ok_or_else(missing)?;
                        let columns =
                            plan.columns().map(|(name, ty)| (name.to_owned(), ty)).collect();
                        (Source::Query(plan), columns, own)
                    }
                    [own] | [_, own] => {
                        let schema = if let [schema, _] = &*parts { schema } else { "pg_catalog" };
                        let relation = self.catalog.relation(schema, own).ok_or_else(missing)?;
                        self.relations.push(relation);
                        let columns =
                            relation.columns.iter().map(|(name, ty)| ((*name).to_owned(), *ty));
                        (Source::Relation(relation), columns.collect(), own)
                    }
                    _ => return Err(missing()),
                };
                let (columns, own) = aliased(columns, own, alias.as_ref())?;
                let mut columns = scope_columns(&own, columns);
                if let Source::Relation(relation) = &source {
                    columns.extend(relation.later.iter().map(|(name, ty)| ScopeColumn {
                        table: Some(own.clone()),
                        name: (*name).to_owned(),
                        ty: *ty,
                        by_name_only: true,
                    }));
                }
                Ok((source, columns))
            }
            ast::TableFactor::Table { name, alias, args: Some(args), sample: None, .. } => {
                let (source, ty) = self.bind_series(name, args)?;
                let own = "generate_series".to_owned();
                let mut columns = vec![(own.clone(), ty)];
                // The alias of a function names its one column too.
                if let Some(alias) = alias.as_ref().filter(|alias| alias.columns.is_empty()) {
                    columns = vec![(fold(&alias.name), ty)];
                }
                let (columns, own) = aliased(columns, &own, alias.as_ref())?;
                Ok((source, scope_columns(&own, columns)))
            }
            ast::TableFactor::Derived { lateral: false, subquery, alias } => {
                let Some(alias) = alias else {
                    let failure =
                        fail(SqlState::SYNTAX_ERROR, "subquery in FROM must have an alias");
                    return Err(hinted(failure, "For example, FROM (SELECT ...) [AS] foo."));
                };
                let plan = self.bind_query(subquery)?;
                let columns = plan.columns().map(|(name, ty)| (name.to_owned(), ty)).collect();
                let (columns, own) = aliased(columns, "", Some(alias))?;
                Ok((Source::Query(Arc::new(plan)), scope_columns(&own, columns)))
            }
            ast::TableFactor::NestedJoin { .. } => Err(unsupported("a join")),
            _ => Err(unsupported("a function in FROM")),
        }
    }

    /// The one function in FROM. PostgreSQL: `generate_series_int4`, `generate_series_int8`.
    fn bind_series(
        &mut self,
        name: &ast::ObjectName,
        args: &ast::TableFunctionArgs,
    ) -> Result<(Source, Type)> {
        let parts = fold_name(name);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if !matches!(&*parts, ["generate_series"] | ["pg_catalog", "generate_series"]) {
            return Err(unsupported("this function in FROM"));
        }
        let mut bound = Vec::new();
        for arg in &args.args {
            let ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) = arg else {
                return Err(unsupported("this argument of generate_series"));
            };
            bound.push(self.bind(&mut Scope::default(), expr)?);
        }
        let is_int = |ty: Type| matches!(ty, Type::Int2 | Type::Int4 | Type::Unknown);
        let ty = if bound.iter().all(|arg| is_int(arg.ty)) { Type::Int4 } else { Type::Int8 };
        let types: Vec<Type> = bound.iter().map(|arg| arg.ty).collect();
        let fits = types.iter().all(|ty| is_int(*ty) || *ty == Type::Int8);
        if !fits || !matches!(types.len(), 2 | 3) {
            let types: Vec<&str> = types.into_iter().map(Type::sql_name).collect();
            let message = format!("function generate_series({}) does not exist", types.join(", "));
            return Err(fail(SqlState::UNDEFINED_FUNCTION, message));
        }
        let args = bound.into_iter().map(|arg| self.coerce(arg, ty)).collect::<Result<_>>()?;
        Ok((Source::Series(args), ty))
    }

    fn bind_condition(
        &mut self,
        scope: &mut Scope,
        condition: Option<&ast::Expr>,
        clause: &'static str,
    ) -> Result<Option<Expr>> {
        let Some(condition) = condition else { return Ok(None) };
        let outer = scope.no_aggregates.replace(clause);
        let bound = self.bind(scope, condition)?;
        scope.no_aggregates = outer;
        self.condition(bound, clause).map(Some)
    }

    fn bind_projection(&mut self, scope: &mut Scope, select: &ast::Select) -> Result<Vec<Output>> {
        let mut outputs = Vec::new();
        for item in &select.projection {
            let (expr, name) = match item {
                ast::SelectItem::UnnamedExpr(expr) => (expr, column_name(expr).0),
                ast::SelectItem::ExprWithAlias { expr, alias } => (expr, fold(alias)),
                ast::SelectItem::Wildcard(_) => {
                    if scope.columns.is_empty() {
                        let message = "SELECT * with no tables specified is not valid";
                        return Err(fail(SqlState::SYNTAX_ERROR, message));
                    }
                    outputs.extend(all_columns(scope, None));
                    continue;
                }
                ast::SelectItem::QualifiedWildcard(
                    ast::SelectItemQualifiedWildcardKind::ObjectName(name),
                    _,
                ) => {
                    let table = fold_name(name).pop().unwrap_or_default();
                    let expanded: Vec<Output> = all_columns(scope, Some(&table)).collect();
                    if expanded.is_empty() {
                        let message = format!("missing FROM-clause entry for table \"{table}\"");
                        return Err(fail(SqlState::UNDEFINED_TABLE, message));
                    }
                    outputs.extend(expanded);
                    continue;
                }
                ast::SelectItem::QualifiedWildcard(..) => {
                    return Err(unsupported("the columns of an expression"));
                }
            };
            let bound = self.bind(scope, expr)?;
            outputs.push(Output { name, expr: self.settle(bound)? });
        }
        // The wire counts columns in 16 bits. PostgreSQL: MaxTupleAttributeNumber.
        if outputs.len() > 1664 {
            let message = "target lists can have at most 1664 entries";
            return Err(fail(crate::failure::PROGRAM_LIMIT_EXCEEDED, message));
        }
        Ok(outputs)
    }

    fn bind_group_by(
        &mut self,
        scope: &mut Scope,
        select: &ast::Select,
        outputs: &[Output],
    ) -> Result<Vec<Expr>> {
        let mut keys = Vec::new();
        for expr in group_by_exprs(select)?.unwrap_or_default() {
            // PostgreSQL takes an input column first, then an output's name or number.
            let named = match expr {
                ast::Expr::Identifier(ident) => {
                    let name = fold(ident);
                    let input = scope.columns.iter().any(|column| column.name == name);
                    outputs.iter().find(|output| !input && output.name == name)
                }
                other => {
                    ordinal(other, outputs.len(), "GROUP BY")?.and_then(|index| outputs.get(index))
                }
            };
            let key = match named {
                Some(output) => output.expr.clone(),
                None => {
                    let outer = scope.no_aggregates.replace("GROUP BY");
                    let key = self.bind(scope, expr)?;
                    scope.no_aggregates = outer;
                    self.settle(key)?
                }
            };
            if contains_aggregate(&mut key.clone()) {
                let message = "aggregate functions are not allowed in GROUP BY";
                return Err(fail(GROUPING_ERROR, message));
            }
            keys.push(key);
        }
        Ok(keys)
    }

    fn bind_order_by(
        &mut self,
        scope: &mut Scope,
        query: &ast::Query,
        outputs: &mut Vec<Output>,
        visible: usize,
    ) -> Result<Vec<SortKey>> {
        let Some(order_by) = &query.order_by else { return Ok(Vec::new()) };
        let ast::OrderByKind::Expressions(exprs) = &order_by.kind else {
            return Err(unsupported("ORDER BY ALL"));
        };
        let mut keys = Vec::new();
        for item in exprs {
            let direction = direction(item);
            // An output's name or number first, then an expression over the input.
            let named = match &item.expr {
                ast::Expr::Identifier(ident) => {
                    let name = fold(ident);
                    outputs.iter().take(visible).position(|output| output.name == name)
                }
                other => ordinal(other, visible, "ORDER BY")?,
            };
            let output = match named {
                Some(index) => index,
                None => {
                    let bound = self.bind(scope, &item.expr)?;
                    let expr = self.settle(bound)?;
                    let same = outputs.iter().position(|output| output.expr == expr);
                    same.unwrap_or_else(|| {
                        outputs.push(Output { name: String::new(), expr });
                        outputs.len() - 1
                    })
                }
            };
            if outputs.get(output).is_some_and(|output| !output.expr.ty.is_ordered()) {
                let message = "could not identify an ordering operator for type xid";
                return Err(fail(SqlState::UNDEFINED_FUNCTION, message));
            }
            keys.push(SortKey { output, direction });
        }
        Ok(keys)
    }

    fn bind_limits(&mut self, plan: &mut Plan, query: &ast::Query) -> Result<()> {
        match &query.limit_clause {
            None => {}
            Some(ast::LimitClause::LimitOffset { limit, offset, limit_by }) => {
                if !limit_by.is_empty() {
                    return Err(unsupported("LIMIT BY"));
                }
                if let Some(limit) = limit {
                    plan.limit = Some(self.bind_constant(limit, Type::Int8)?);
                }
                if let Some(offset) = offset {
                    plan.offset = Some(self.bind_constant(&offset.value, Type::Int8)?);
                }
            }
            Some(ast::LimitClause::OffsetCommaLimit { .. }) => {
                return Err(fail(SqlState::SYNTAX_ERROR, "LIMIT #,# syntax is not supported"));
            }
        }
        if let Some(fetch) = &query.fetch {
            if fetch.percent || fetch.with_ties {
                return Err(unsupported("FETCH with PERCENT or TIES"));
            }
            plan.limit = Some(match &fetch.quantity {
                Some(quantity) => self.bind_constant(quantity, Type::Int8)?,
                None => Expr::new(Type::Int8, Node::Const(Value::Int(1))),
            });
        }
        Ok(())
    }
}

/// Clauses of other databases that the parser knows.
fn refuse_extensions(select: &ast::Select) -> Result<()> {
    let plain = select.into.is_none()
        && select.top.is_none()
        && select.lateral_views.is_empty()
        && select.prewhere.is_none()
        && select.cluster_by.is_empty()
        && select.distribute_by.is_empty()
        && select.sort_by.is_empty()
        && select.named_window.is_empty()
        && select.qualify.is_none()
        && select.connect_by.is_none()
        && select.value_table_mode.is_none()
        && select.exclude.is_none();
    if plain { Ok(()) } else { Err(unsupported("this clause of SELECT")) }
}

/// The columns of both sources, the left's first. Each has a name of its own.
fn joined(
    (left, mut columns): (Source, Vec<ScopeColumn>),
    (right, others): (Source, Vec<ScopeColumn>),
    keeps_left: bool,
) -> Result<(Source, Vec<ScopeColumn>)> {
    let twice = others.first().and_then(|other| other.table.as_ref());
    if let Some(table) =
        twice.filter(|name| columns.iter().any(|it| it.table.as_ref() == Some(*name)))
    {
        let message = format!("table name \"{table}\" specified more than once");
        return Err(fail(DUPLICATE_ALIAS, message));
    }
    let nulls = keeps_left.then_some(others.len());
    columns.extend(others);
    Ok((Source::Join(Box::new(Join { left, right, on: None, nulls })), columns))
}

fn group_by_exprs(select: &ast::Select) -> Result<Option<Vec<&ast::Expr>>> {
    match &select.group_by {
        ast::GroupByExpr::All(_) => Err(unsupported("GROUP BY ALL")),
        ast::GroupByExpr::Expressions(_, modifiers) if !modifiers.is_empty() => {
            Err(unsupported("a modifier of GROUP BY"))
        }
        ast::GroupByExpr::Expressions(exprs, _) => Ok(Some(exprs.iter().collect())),
    }
}

fn all_columns(scope: &Scope, table: Option<&str>) -> impl Iterator<Item = Output> {
    scope
        .columns
        .iter()
        .enumerate()
        .filter(move |(_, column)| {
            !column.by_name_only && table.is_none_or(|table| column.table.as_deref() == Some(table))
        })
        .map(|(index, column)| Output {
            name: column.name.clone(),
            expr: Expr::new(column.ty, Node::Column(index)),
        })
}

/// Names of the columns after the alias of their table, and the table's name.
fn aliased(
    mut columns: Vec<(String, Type)>,
    own: &str,
    alias: Option<&ast::TableAlias>,
) -> Result<(Vec<(String, Type)>, String)> {
    let Some(alias) = alias else { return Ok((columns, own.to_owned())) };
    let name = fold(&alias.name);
    if alias.columns.len() > columns.len() {
        let message = format!(
            "table \"{name}\" has {} columns available but {} columns specified",
            columns.len(),
            alias.columns.len()
        );
        return Err(fail(INVALID_COLUMN_REFERENCE, message));
    }
    for (column, renamed) in columns.iter_mut().zip(&alias.columns) {
        column.0 = fold(&renamed.name);
    }
    Ok((columns, name))
}

fn rename(plan: &mut Plan, alias: &ast::TableAlias) -> Result<()> {
    let columns = plan.columns().map(|(name, ty)| (name.to_owned(), ty)).collect();
    let (columns, _) = aliased(columns, "", Some(alias))?;
    for (output, (name, _)) in plan.outputs.iter_mut().zip(columns) {
        output.name = name;
    }
    Ok(())
}

/// The direction of an ORDER BY item.
pub(crate) fn direction(item: &ast::OrderByExpr) -> Direction {
    let descending = item.options.asc == Some(false);
    // NULLs are the largest values, unless the query says where they go.
    Direction { descending, nulls_first: item.options.nulls_first.unwrap_or(descending) }
}

/// The output that a bare number names.
fn ordinal(expr: &ast::Expr, outputs: usize, clause: &str) -> Result<Option<usize>> {
    let ast::Expr::Value(value) = expr else { return Ok(None) };
    match &value.value {
        ast::Value::Number(text, _) => {
            let index = text.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
            match index.filter(|index| *index < outputs) {
                Some(index) => Ok(Some(index)),
                None => Err(fail(
                    INVALID_COLUMN_REFERENCE,
                    format!("{clause} position {text} is not in select list"),
                )),
            }
        }
        ast::Value::Placeholder(_) => Ok(None),
        _ => Err(fail(SqlState::SYNTAX_ERROR, format!("non-integer constant in {clause}"))),
    }
}

fn contains_aggregate(expr: &mut Expr) -> bool {
    matches!(expr.node, Node::Aggregate(_))
        || expr.operands_mut().into_iter().any(contains_aggregate)
}

/// Rewrites an expression over the input into one over the row after grouping.
///
/// PostgreSQL: `check_ungrouped_columns_walker`.
fn regroup(expr: &mut Expr, keys: &[Expr], columns: &[ScopeColumn]) -> Result<()> {
    if let Some(index) = keys.iter().position(|key| key == expr) {
        expr.node = Node::Column(index);
        return Ok(());
    }
    if expr.has_correlated_query() {
        return Err(unsupported("a query that depends on a row, where rows are grouped"));
    }
    match expr.node {
        Node::Aggregate(index) => {
            expr.node = Node::Column(keys.len() + index);
            Ok(())
        }
        Node::Column(index) => {
            let column = columns.get(index);
            let table = column.and_then(|column| column.table.as_deref());
            Err(ungrouped(table, column.map_or("", |column| &column.name)))
        }
        _ => {
            expr.operands_mut().into_iter().try_for_each(|operand| regroup(operand, keys, columns))
        }
    }
}

/// The name of a column without an alias, and how sure it is: 0 none, 1 a guess, 2 a name.
///
/// PostgreSQL: `FigureColnameInternal`.
fn column_name(expr: &ast::Expr) -> (String, u8) {
    use ast::Expr as E;
    let named = |name: &str| (name.to_owned(), 2);
    let of_type = |operand: &ast::Expr, data_type: &ast::DataType| {
        let (name, strength) = column_name(operand);
        if strength > 1 {
            return (name, strength);
        }
        let text = data_type.to_string().to_ascii_lowercase();
        let text = text.split('(').next().unwrap_or_default();
        let name = Type::from_name(text).map_or_else(|| text.to_owned(), |ty| ty.name().to_owned());
        (name, 1)
    };
    match expr {
        E::Identifier(ident) => (fold(ident), 2),
        E::CompoundIdentifier(parts) => (parts.last().map(fold).unwrap_or_default(), 2),
        E::Function(call) => (fold_name(&call.name).pop().unwrap_or_default(), 2),
        E::Nested(inner) | E::Collate { expr: inner, .. } => column_name(inner),
        E::Cast { expr, data_type, .. } => of_type(expr, data_type),
        E::TypedString(typed) => of_type(&E::Value(typed.value.clone()), &typed.data_type),
        E::Interval(_) => ("interval".to_owned(), 1),
        E::Case { else_result, .. } => match else_result.as_deref().map(column_name) {
            Some((name, strength)) if strength > 1 => (name, strength),
            _ => ("case".to_owned(), 1),
        },
        E::Extract { .. } => named("extract"),
        E::Ceil { .. } => named("ceil"),
        E::Floor { .. } => named("floor"),
        E::Position { .. } => named("position"),
        E::Substring { shorthand: true, .. } => named("substr"),
        E::Substring { .. } => named("substring"),
        E::Trim { trim_where: Some(ast::TrimWhereField::Leading), .. } => named("ltrim"),
        E::Trim { trim_where: Some(ast::TrimWhereField::Trailing), .. } => named("rtrim"),
        E::Trim { .. } => named("btrim"),
        E::Exists { negated: false, .. } => named("exists"),
        E::Subquery(query) => match &*query.body {
            ast::SetExpr::Select(select) => match select.projection.first() {
                Some(ast::SelectItem::ExprWithAlias { alias, .. }) => (fold(alias), 2),
                Some(ast::SelectItem::UnnamedExpr(inner)) => column_name(inner),
                _ => ("?column?".to_owned(), 0),
            },
            _ => ("?column?".to_owned(), 0),
        },
        _ => ("?column?".to_owned(), 0),
    }
}

/// The error for a column that is neither grouped nor aggregated.
fn ungrouped(table: Option<&str>, column: &str) -> Failure {
    let name = table.map_or_else(|| column.to_owned(), |table| format!("{table}.{column}"));
    fail(
        GROUPING_ERROR,
        format!(
            "column \"{name}\" must appear in the GROUP BY clause or be used in an aggregate function"
        ),
    )
}

/// The error for a relation that is not there.
fn undefined_table(name: &str) -> Failure {
    let failure = fail(SqlState::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"));
    hinted(
        failure,
        "walhub has the relations pg_stat_replication, pg_stat_wal_receiver, \
        pg_replication_slots, pg_stat_activity, pg_settings and pg_database.",
    )
}
