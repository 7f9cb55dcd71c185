//! Resolves the names and types of expressions.
//!
//! A literal or a parameter without a type takes the one that its context asks for, as in
//! PostgreSQL; what no context asks for becomes text.
//!
//! Not here: casts (`coerce`), functions (`call`), the clauses of a query (`select`).
//!
//! PostgreSQL: `transformExpr` (src/backend/parser/parse_expr.c), parse_coerce.c, parse_func.c.

mod call;
mod coerce;
mod select;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlparser::ast::{self, BinaryOperator, UnaryOperator};
use walhub_proto::sqlstate::SqlState;

use crate::env::{Catalog, Function, Relation};
use crate::failure::{
    AMBIGUOUS_COLUMN, AMBIGUOUS_FUNCTION, Failure, Result, STATEMENT_TOO_COMPLEX,
    UNDEFINED_PARAMETER, fail, hinted, unsupported,
};
use crate::functions::{self, OPERATORS};
use crate::parse::location;
use crate::plan::{AggregateCall, Expr, Node, Plan};
use crate::value::Value;
use crate::value::comparison::Comparison;
use crate::value::types::Type;

/// Nesting of expressions and subqueries.
const DEPTH_MAX: usize = 150;
/// Parameters of one statement.
const PARAMETERS_MAX: usize = 1024;

/// A column that expressions may name.
#[derive(Clone, Debug)]
pub(crate) struct ScopeColumn {
    pub(crate) table: Option<String>,
    pub(crate) name: String,
    pub(crate) ty: Type,
    /// Whether `*` leaves it out.
    pub(crate) by_name_only: bool,
}

/// What expressions of one query may name.
#[derive(Default)]
pub(crate) struct Scope {
    pub(crate) columns: Vec<ScopeColumn>,
    /// The aggregates met so far.
    pub(crate) aggregates: Vec<AggregateCall>,
    /// The clause that may not aggregate, when the expression is in one.
    pub(crate) no_aggregates: Option<&'static str>,
}

/// What IS asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Truth {
    True,
    NotTrue,
    False,
    NotFalse,
}

/// LIKE, ILIKE, and either with NOT.
#[derive(Clone, Copy)]
struct Like {
    fold_case: bool,
    negated: bool,
}

/// A query that is resolved.
pub struct Bound {
    /// What is to be run.
    pub plan: Plan,
    /// Type of each parameter; `Unknown` where the context does not tell.
    pub parameters: Vec<Type>,
    /// The relations that it reads, each as often as it does.
    pub relations: Vec<&'static Relation>,
    /// The functions of the server that it calls.
    pub functions: Vec<&'static Function>,
}

/// Resolves a query. `sql` is its text, for errors; `declared` are the types of parameters that the client gave.
pub fn bind(
    query: &ast::Query,
    sql: &str,
    declared: Vec<Type>,
    catalog: &dyn Catalog,
) -> Result<Bound> {
    let (ctes, relations, functions) = (BTreeMap::new(), Vec::new(), Vec::new());
    let outer = Vec::new();
    let mut binder =
        Binder { sql, params: declared, ctes, depth: 0, catalog, relations, functions, outer };
    let plan = binder.bind_query(query)?;
    let Binder { params: parameters, relations, functions, .. } = binder;
    Ok(Bound { plan, parameters, relations, functions })
}

/// Resolves one statement.
pub(crate) struct Binder<'a> {
    pub(crate) sql: &'a str,
    /// Type of each parameter; `Unknown` until the context tells.
    pub(crate) params: Vec<Type>,
    /// Queries of WITH by name.
    pub(crate) ctes: BTreeMap<String, Arc<Plan>>,
    pub(crate) depth: usize,
    /// The names that the server adds.
    pub(crate) catalog: &'a dyn Catalog,
    /// The relations that the statement reads, each as often as it does.
    pub(crate) relations: Vec<&'static Relation>,
    /// The functions of the server that it calls.
    pub(crate) functions: Vec<&'static Function>,
    /// What the queries around this one may name, the outermost first.
    outer: Vec<OuterScope>,
}

/// What a query around another one may name.
struct OuterScope {
    columns: Vec<ScopeColumn>,
    /// Whether the inner one does.
    is_used: bool,
}

/// A name as SQL folds it.
pub(crate) fn fold(ident: &ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

/// The parts of a qualified name, folded.
pub(crate) fn fold_name(name: &ast::ObjectName) -> Vec<String> {
    name.0.iter().filter_map(ast::ObjectNamePart::as_ident).map(fold).collect()
}

impl Binder<'_> {
    /// Adds where in the text the failure is.
    pub(crate) fn at(&self, failure: Failure, ident: &ast::Ident) -> Failure {
        location::at(failure, self.sql, ident.span.start)
    }

    /// Resolves an expression.
    pub(crate) fn bind(&mut self, scope: &mut Scope, expr: &ast::Expr) -> Result<Expr> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(fail(STATEMENT_TOO_COMPLEX, "stack depth limit exceeded"));
        }
        let bound = self.bind_node(scope, expr);
        self.depth -= 1;
        bound
    }

    fn bind_node(&mut self, scope: &mut Scope, expr: &ast::Expr) -> Result<Expr> {
        use ast::Expr as E;
        match expr {
            E::Nested(inner) | E::Collate { expr: inner, .. } => self.bind(scope, inner),
            E::Value(value) => self.bind_literal(&value.value),
            E::Identifier(ident) => self.bind_column(scope, &[], ident),
            E::CompoundIdentifier(parts) => match parts.split_last() {
                Some((column, qualifier)) => self.bind_column(scope, qualifier, column),
                None => Err(unsupported("this expression")),
            },
            E::Cast {
                kind: ast::CastKind::Cast | ast::CastKind::DoubleColon,
                expr,
                data_type,
                ..
            } => {
                let (ty, scale) = self.data_type(data_type)?;
                let operand = self.bind(scope, expr)?;
                self.cast(operand, ty, scale)
            }
            E::TypedString(typed) => {
                let (ty, scale) = self.data_type(&typed.data_type)?;
                let operand = self.bind_literal(&typed.value.value)?;
                self.cast(operand, ty, scale)
            }
            E::Interval(interval) => self.bind_interval(scope, interval),
            E::UnaryOp { op, expr } => self.bind_unary(scope, *op, expr),
            E::BinaryOp { left, op, right } => {
                let (left, right) = (self.bind(scope, left)?, self.bind(scope, right)?);
                self.bind_binary(left, op, right)
            }
            E::Case { operand, conditions, else_result, .. } => {
                self.bind_case(scope, operand.as_deref(), conditions, else_result.as_deref())
            }
            E::Subquery(query) => {
                let plan = self.bind_scalar_query(scope, query)?;
                let ty = plan.columns().next().map_or(Type::Text, |(_, ty)| ty);
                Ok(Expr::new(ty, Node::Scalar(plan)))
            }
            E::Exists { subquery, negated } => {
                let plan = Arc::new(self.bind_inner_query(scope, subquery)?);
                Ok(Expr::bool(Node::Exists { plan, negated: *negated }))
            }
            E::Function(function) => self.bind_function(scope, function),
            other => self.bind_predicate(scope, other),
        }
    }

    /// Questions beside the operators: IS, IN, BETWEEN, LIKE.
    fn bind_predicate(&mut self, scope: &mut Scope, expr: &ast::Expr) -> Result<Expr> {
        use ast::Expr as E;
        match expr {
            E::IsNull(operand) | E::IsUnknown(operand) => {
                let operand = self.settled(scope, operand)?;
                Ok(Expr::bool(Node::IsNull { operand, negated: false }))
            }
            E::IsNotNull(operand) | E::IsNotUnknown(operand) => {
                let operand = self.settled(scope, operand)?;
                Ok(Expr::bool(Node::IsNull { operand, negated: true }))
            }
            E::IsTrue(operand) => self.bind_is(scope, operand, Truth::True),
            E::IsNotTrue(operand) => self.bind_is(scope, operand, Truth::NotTrue),
            E::IsFalse(operand) => self.bind_is(scope, operand, Truth::False),
            E::IsNotFalse(operand) => self.bind_is(scope, operand, Truth::NotFalse),
            E::IsDistinctFrom(left, right) => {
                let (left, right) = self.bind_alike(scope, left, right)?;
                Ok(Expr::bool(Node::Distinct { left, right, negated: false }))
            }
            E::IsNotDistinctFrom(left, right) => {
                let (left, right) = self.bind_alike(scope, left, right)?;
                Ok(Expr::bool(Node::Distinct { left, right, negated: true }))
            }
            E::InList { expr, list, negated } => {
                let mut all = vec![self.bind(scope, expr)?];
                for item in list {
                    all.push(self.bind(scope, item)?);
                }
                let mut all = self.unify(all, "IN")?.0.into_iter();
                let operand = Box::new(all.next().ok_or_else(|| unsupported("an empty IN"))?);
                Ok(Expr::bool(Node::In { operand, list: all.collect(), negated: *negated }))
            }
            E::InSubquery { expr, subquery, negated } => {
                let operand = self.bind(scope, expr)?;
                let plan = self.bind_scalar_query(scope, subquery)?;
                let ty = plan.columns().next().map_or(Type::Text, |(_, ty)| ty);
                let operand = Box::new(self.coerce(operand, ty)?);
                Ok(Expr::bool(Node::InQuery { operand, plan, negated: *negated }))
            }
            E::Between { expr, negated, low, high } => {
                let all =
                    vec![self.bind(scope, expr)?, self.bind(scope, low)?, self.bind(scope, high)?];
                match <[Expr; 3]>::try_from(self.unify(all, "BETWEEN")?.0) {
                    Ok([operand, low, high]) => Ok(Expr::bool(Node::Between {
                        operand: Box::new(operand),
                        low: Box::new(low),
                        high: Box::new(high),
                        negated: *negated,
                    })),
                    Err(_) => Err(unsupported("this BETWEEN")),
                }
            }
            E::Like { negated, any: false, expr, pattern, escape_char: None } => {
                self.bind_like(scope, expr, pattern, Like { fold_case: false, negated: *negated })
            }
            E::ILike { negated, any: false, expr, pattern, escape_char: None } => {
                self.bind_like(scope, expr, pattern, Like { fold_case: true, negated: *negated })
            }
            other => self.bind_call_syntax(scope, other),
        }
    }

    /// Calls of functions that have a syntax of their own.
    fn bind_call_syntax(&mut self, scope: &mut Scope, expr: &ast::Expr) -> Result<Expr> {
        use ast::Expr as E;
        match expr {
            E::Extract { field, expr, .. } => {
                if !matches!(field, ast::DateTimeField::Epoch) {
                    return Err(unsupported(format_args!("EXTRACT({field} ...)")));
                }
                let operand = self.bind(scope, expr)?;
                self.call("extract epoch", vec![operand])
            }
            E::Ceil {
                expr,
                field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime),
            } => {
                let operand = self.bind(scope, expr)?;
                self.call("ceil", vec![operand])
            }
            E::Floor {
                expr,
                field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime),
            } => {
                let operand = self.bind(scope, expr)?;
                self.call("floor", vec![operand])
            }
            E::Position { expr, r#in } => {
                let args = vec![self.bind(scope, r#in)?, self.bind(scope, expr)?];
                self.call("position", args)
            }
            E::Substring { expr, substring_from, substring_for, .. } => {
                let mut args = vec![self.bind(scope, expr)?];
                match substring_from {
                    Some(from) => args.push(self.bind(scope, from)?),
                    None => args.push(Expr::new(Type::Int4, Node::Const(Value::Int(1)))),
                }
                if let Some(len) = substring_for {
                    args.push(self.bind(scope, len)?);
                }
                self.call("substring", args)
            }
            E::Trim { expr, trim_where, trim_what, trim_characters: None } => {
                let name = match trim_where {
                    Some(ast::TrimWhereField::Leading) => "ltrim",
                    Some(ast::TrimWhereField::Trailing) => "rtrim",
                    Some(ast::TrimWhereField::Both) | None => "btrim",
                };
                let mut args = vec![self.bind(scope, expr)?];
                if let Some(what) = trim_what {
                    args.push(self.bind(scope, what)?);
                }
                self.call(name, args)
            }
            other => Err(unsupported(kind(other))),
        }
    }

    fn bind_literal(&mut self, value: &ast::Value) -> Result<Expr> {
        use ast::Value as V;
        let constant = |ty, value| Ok(Expr::new(ty, Node::Const(value)));
        match value {
            V::Null => constant(Type::Unknown, Value::Null),
            V::Boolean(value) => constant(Type::Bool, Value::Bool(*value)),
            V::Number(text, _) => match text.parse::<i64>() {
                Ok(number) if i32::try_from(number).is_ok() => {
                    constant(Type::Int4, Value::Int(number))
                }
                Ok(number) => constant(Type::Int8, Value::Int(number)),
                Err(_) => {
                    let number = crate::value::numeric::Numeric::from_text(text)?;
                    constant(Type::Numeric, Value::Numeric(number))
                }
            },
            V::SingleQuotedString(text)
            | V::EscapedStringLiteral(text)
            | V::UnicodeStringLiteral(text) => constant(Type::Unknown, Value::Text(text.clone())),
            V::DollarQuotedString(text) => constant(Type::Unknown, Value::Text(text.value.clone())),
            V::Placeholder(name) => self.bind_parameter(name),
            other => Err(unsupported(format_args!("literal {other}"))),
        }
    }

    fn bind_parameter(&mut self, name: &str) -> Result<Expr> {
        let number = name.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok());
        let index = number
            .and_then(|number| number.checked_sub(1))
            .filter(|index| *index < PARAMETERS_MAX)
            .ok_or_else(|| fail(UNDEFINED_PARAMETER, format!("there is no parameter {name}")))?;
        if self.params.len() <= index {
            self.params.resize(index + 1, Type::Unknown);
        }
        let ty = self.params.get(index).copied().unwrap_or(Type::Unknown);
        Ok(Expr::new(ty, Node::Param(index)))
    }

    fn bind_column(
        &mut self,
        scope: &Scope,
        qualifier: &[ast::Ident],
        ident: &ast::Ident,
    ) -> Result<Expr> {
        let name = fold(ident);
        let table = match qualifier {
            [] => None,
            [table] => Some(table),
            [schema, table] if fold(schema) == "pg_catalog" => Some(table),
            [first, ..] => {
                return Err(self.at(unsupported(format_args!("the name {first}.{name}")), first));
            }
        };
        let from = |column: &ScopeColumn| {
            table.is_none_or(|table| column.table.as_deref() == Some(&*fold(table)))
        };
        let mut found = scope
            .columns
            .iter()
            .enumerate()
            .filter(|(_, column)| from(column) && column.name == name);
        if let Some((index, column)) = found.next() {
            if found.next().is_some() {
                let message = format!("column reference \"{name}\" is ambiguous");
                return Err(self.at(fail(AMBIGUOUS_COLUMN, message), ident));
            }
            return Ok(Expr::new(column.ty, Node::Column(index)));
        }
        if let Some(found) = self.bind_outer_column(table, &name) {
            return found.map_err(|failure| self.at(failure, ident));
        }
        let failure = match table {
            // Words that are functions without parentheses.
            None if ident.quote_style.is_none()
                && ["current_schema", "current_role", "current_catalog", "system_user"]
                    .contains(&&*name) =>
            {
                return self.call(&name, Vec::new());
            }
            None => fail(SqlState::UNDEFINED_COLUMN, format!("column \"{name}\" does not exist")),
            Some(table) if scope.columns.iter().any(from) => fail(
                SqlState::UNDEFINED_COLUMN,
                format!("column {}.{name} does not exist", fold(table)),
            ),
            Some(table) => {
                let message = format!("missing FROM-clause entry for table \"{}\"", fold(table));
                return Err(self.at(fail(SqlState::UNDEFINED_TABLE, message), table));
            }
        };
        Err(self.at(failure, ident))
    }

    /// A column of the nearest query around this one that has it.
    fn bind_outer_column(
        &mut self,
        table: Option<&ast::Ident>,
        name: &str,
    ) -> Option<Result<Expr>> {
        let table = table.map(fold);
        let is_it = |column: &ScopeColumn| {
            column.name == name && (table.is_none() || column.table == table)
        };
        for (level, outer) in self.outer.iter_mut().enumerate().rev() {
            let mut found = outer.columns.iter().enumerate().filter(|(_, column)| is_it(column));
            let Some((index, column)) = found.next() else { continue };
            if found.next().is_some() {
                let message = format!("column reference \"{name}\" is ambiguous");
                return Some(Err(fail(AMBIGUOUS_COLUMN, message)));
            }
            outer.is_used = true;
            return Some(Ok(Expr::new(column.ty, Node::Outer { level, column: index })));
        }
        None
    }

    fn bind_is(&mut self, scope: &mut Scope, operand: &ast::Expr, truth: Truth) -> Result<Expr> {
        let operand = self.bind(scope, operand)?;
        let wanted = matches!(truth, Truth::True | Truth::NotTrue);
        let negated = matches!(truth, Truth::NotTrue | Truth::NotFalse);
        let operand =
            Box::new(self.condition(operand, if wanted { "IS TRUE" } else { "IS FALSE" })?);
        Ok(Expr::bool(Node::IsBool { operand, wanted, negated }))
    }

    /// Both, made to be of one type.
    fn bind_alike(
        &mut self,
        scope: &mut Scope,
        left: &ast::Expr,
        right: &ast::Expr,
    ) -> Result<(Box<Expr>, Box<Expr>)> {
        let (left, right) = (self.bind(scope, left)?, self.bind(scope, right)?);
        self.same_type(left, "=", right)
    }

    fn bind_interval(&mut self, scope: &mut Scope, interval: &ast::Interval) -> Result<Expr> {
        let operand = self.bind(scope, &interval.value)?;
        let operand = match (&interval.leading_field, operand.node) {
            (None, node) => Expr::new(operand.ty, node),
            (Some(unit), Node::Const(Value::Text(number))) if interval.last_field.is_none() => {
                Expr::new(Type::Unknown, Node::Const(Value::Text(format!("{number} {unit}"))))
            }
            _ => return Err(unsupported("this form of INTERVAL")),
        };
        self.cast(operand, Type::Interval, None)
    }

    fn bind_unary(
        &mut self,
        scope: &mut Scope,
        op: UnaryOperator,
        expr: &ast::Expr,
    ) -> Result<Expr> {
        let operand = self.bind(scope, expr)?;
        match op {
            UnaryOperator::Not => {
                Ok(Expr::bool(Node::Not(Box::new(self.condition(operand, "NOT")?))))
            }
            UnaryOperator::Plus if operand.ty.is_number() => Ok(operand),
            UnaryOperator::Minus => {
                // PostgreSQL folds the sign into the literal. PostgreSQL: doNegate.
                if let (Type::Int8, Node::Const(Value::Int(2_147_483_648))) =
                    (operand.ty, &operand.node)
                {
                    return Ok(Expr::new(Type::Int4, Node::Const(Value::Int(-2_147_483_648))));
                }
                let function = functions::resolve(OPERATORS, "-", &[operand.ty])
                    .filter(|_| operand.ty != Type::Unknown)
                    .ok_or_else(|| {
                        let message =
                            format!("operator does not exist: - {}", operand.ty.sql_name());
                        fail(SqlState::UNDEFINED_FUNCTION, message)
                    })?;
                self.apply(function, vec![operand])
            }
            other => Err(unsupported(format_args!("operator {other}"))),
        }
    }

    fn bind_binary(&mut self, left: Expr, op: &BinaryOperator, right: Expr) -> Result<Expr> {
        let comparison = match op {
            BinaryOperator::Eq => Some(Comparison::Eq),
            BinaryOperator::NotEq => Some(Comparison::NotEq),
            BinaryOperator::Lt => Some(Comparison::Lt),
            BinaryOperator::LtEq => Some(Comparison::LtEq),
            BinaryOperator::Gt => Some(Comparison::Gt),
            BinaryOperator::GtEq => Some(Comparison::GtEq),
            _ => None,
        };
        if let Some(comparison) = comparison {
            let (left, right) = self.same_type(left, &op.to_string(), right)?;
            return Ok(Expr::bool(Node::Compare(comparison, left, right)));
        }
        if let Some((fold_case, negated)) = regular_expression(op) {
            return self.matches(left, right, Like { fold_case, negated });
        }
        match op {
            BinaryOperator::And | BinaryOperator::Or => {
                let word = op.to_string();
                let left = Box::new(self.condition(left, &word)?);
                let right = Box::new(self.condition(right, &word)?);
                let node = if *op == BinaryOperator::And {
                    Node::And(left, right)
                } else {
                    Node::Or(left, right)
                };
                Ok(Expr::bool(node))
            }
            BinaryOperator::PGLikeMatch => {
                self.like(left, right, Like { fold_case: false, negated: false })
            }
            BinaryOperator::PGILikeMatch => {
                self.like(left, right, Like { fold_case: true, negated: false })
            }
            BinaryOperator::PGNotLikeMatch => {
                self.like(left, right, Like { fold_case: false, negated: true })
            }
            BinaryOperator::PGNotILikeMatch => {
                self.like(left, right, Like { fold_case: true, negated: true })
            }
            BinaryOperator::StringConcat => {
                // One side must be a string; the other is shown. PostgreSQL: textanycat.
                let stringy = |ty: Type| ty.is_string() || ty == Type::Unknown;
                if !stringy(left.ty) && !stringy(right.ty) {
                    return Err(no_operator("||", &left, &right));
                }
                let args =
                    vec![self.cast(left, Type::Text, None)?, self.cast(right, Type::Text, None)?];
                match functions::resolve(OPERATORS, "||", &[Type::Text, Type::Text]) {
                    Some(function) => self.apply(function, args),
                    None => Err(unsupported("operator ||")),
                }
            }
            BinaryOperator::Plus
            | BinaryOperator::Minus
            | BinaryOperator::Multiply
            | BinaryOperator::Divide
            | BinaryOperator::Modulo
            | BinaryOperator::PGExp => {
                let symbol = op.to_string();
                if left.ty == Type::Unknown && right.ty == Type::Unknown {
                    let message = format!("operator is not unique: unknown {symbol} unknown");
                    return Err(fail(AMBIGUOUS_FUNCTION, message));
                }
                // An unknown operand is first taken for the other's type.
                let guess = |ty: Type, other: Type| if ty == Type::Unknown { other } else { ty };
                let guessed = [guess(left.ty, right.ty), guess(right.ty, left.ty)];
                let function = functions::resolve(OPERATORS, &symbol, &guessed)
                    .or_else(|| functions::resolve(OPERATORS, &symbol, &[left.ty, right.ty]))
                    .ok_or_else(|| no_operator(&symbol, &left, &right))?;
                self.apply(function, vec![left, right])
            }
            other => Err(unsupported(format_args!("operator {other}"))),
        }
    }

    /// `~` and its like. PostgreSQL: `textregexeq`.
    fn matches(&mut self, operand: Expr, pattern: Expr, like: Like) -> Result<Expr> {
        let Like { fold_case, negated } = like;
        let texts = operand.ty.implicit_cost(Type::Text).and(pattern.ty.implicit_cost(Type::Text));
        if texts.is_none() {
            let symbol = match (fold_case, negated) {
                (false, false) => "~",
                (false, true) => "!~",
                (true, false) => "~*",
                (true, true) => "!~*",
            };
            return Err(no_operator(symbol, &operand, &pattern));
        }
        let operand = Box::new(self.coerce(operand, Type::Text)?);
        let pattern = Box::new(self.coerce(pattern, Type::Text)?);
        Ok(Expr::bool(Node::Matches { operand, pattern, fold_case, negated }))
    }

    fn bind_like(
        &mut self,
        scope: &mut Scope,
        operand: &ast::Expr,
        pattern: &ast::Expr,
        like: Like,
    ) -> Result<Expr> {
        let (operand, pattern) = (self.bind(scope, operand)?, self.bind(scope, pattern)?);
        self.like(operand, pattern, like)
    }

    fn like(&mut self, operand: Expr, pattern: Expr, like: Like) -> Result<Expr> {
        let Like { fold_case, negated } = like;
        let texts = operand.ty.implicit_cost(Type::Text).and(pattern.ty.implicit_cost(Type::Text));
        if texts.is_none() {
            let symbol = match (fold_case, negated) {
                (false, false) => "~~",
                (false, true) => "!~~",
                (true, false) => "~~*",
                (true, true) => "!~~*",
            };
            return Err(no_operator(symbol, &operand, &pattern));
        }
        let operand = Box::new(self.coerce(operand, Type::Text)?);
        let pattern = Box::new(self.coerce(pattern, Type::Text)?);
        Ok(Expr::bool(Node::Like { operand, pattern, fold_case, negated }))
    }

    fn bind_case(
        &mut self,
        scope: &mut Scope,
        operand: Option<&ast::Expr>,
        conditions: &[ast::CaseWhen],
        otherwise: Option<&ast::Expr>,
    ) -> Result<Expr> {
        let (mut whens, mut thens) = (Vec::new(), Vec::new());
        for case in conditions {
            whens.push(self.bind(scope, &case.condition)?);
            thens.push(self.bind(scope, &case.result)?);
        }
        let operand = match operand {
            Some(operand) => {
                whens.insert(0, self.bind(scope, operand)?);
                whens = self.unify(whens, "CASE/WHEN")?.0;
                Some(Box::new(whens.remove(0)))
            }
            None => {
                let conditions: Result<Vec<Expr>> =
                    whens.into_iter().map(|when| self.condition(when, "CASE/WHEN")).collect();
                whens = conditions?;
                None
            }
        };
        if let Some(otherwise) = otherwise {
            thens.push(self.bind(scope, otherwise)?);
        }
        let (mut thens, ty) = self.unify(thens, "CASE")?;
        let otherwise = otherwise.and_then(|_| thens.pop()).map(Box::new);
        let branches = whens.into_iter().zip(thens).collect();
        Ok(Expr::new(ty, Node::Case { operand, branches, otherwise }))
    }

    /// A query that is an expression over the rows of this one, whose columns it may name.
    pub(crate) fn bind_inner_query(&mut self, scope: &Scope, query: &ast::Query) -> Result<Plan> {
        self.outer.push(OuterScope { columns: scope.columns.clone(), is_used: false });
        let plan = self.bind_query(query);
        let uses_outer = self.outer.pop().is_some_and(|outer| outer.is_used);
        Ok(Plan { uses_outer, ..plan? })
    }

    pub(crate) fn bind_scalar_query(
        &mut self,
        scope: &Scope,
        query: &ast::Query,
    ) -> Result<Arc<Plan>> {
        let plan = self.bind_inner_query(scope, query)?;
        if plan.visible != 1 {
            return Err(fail(SqlState::SYNTAX_ERROR, "subquery must return only one column"));
        }
        Ok(Arc::new(plan))
    }

    /// An expression for LIMIT and the like: no columns.
    pub(crate) fn bind_constant(&mut self, expr: &ast::Expr, ty: Type) -> Result<Expr> {
        let bound = self.bind(&mut Scope::default(), expr)?;
        self.coerce(bound, ty)
    }
}

/// Whether an operator matches a regular expression: without regard to case, and whether it denies.
fn regular_expression(op: &BinaryOperator) -> Option<(bool, bool)> {
    let custom = match op {
        // OPERATOR(pg_catalog.~)
        BinaryOperator::PGCustomBinaryOperator(parts) => match &**parts {
            [symbol] => Some(&**symbol),
            [schema, symbol] if schema == "pg_catalog" => Some(&**symbol),
            _ => None,
        },
        _ => None,
    };
    match (op, custom) {
        (BinaryOperator::PGRegexMatch, _) | (_, Some("~")) => Some((false, false)),
        (BinaryOperator::PGRegexNotMatch, _) | (_, Some("!~")) => Some((false, true)),
        (BinaryOperator::PGRegexIMatch, _) | (_, Some("~*")) => Some((true, false)),
        (BinaryOperator::PGRegexNotIMatch, _) | (_, Some("!~*")) => Some((true, true)),
        _ => None,
    }
}

/// What an expression is called that the console has not. Never its text: that may be deep.
fn kind(expr: &ast::Expr) -> &'static str {
    use ast::Expr as E;
    match expr {
        E::AnyOp { .. } => "ANY",
        E::AllOp { .. } => "ALL",
        E::Array(_) => "ARRAY",
        E::Tuple(_) => "a row constructor",
        E::AtTimeZone { .. } => "AT TIME ZONE",
        E::SimilarTo { .. } => "SIMILAR TO",
        E::Like { .. } | E::ILike { .. } => "LIKE with ESCAPE",
        E::CompoundFieldAccess { .. } | E::JsonAccess { .. } => "a subscript",
        E::Overlay { .. } => "OVERLAY",
        E::GroupingSets(_) | E::Cube(_) | E::Rollup(_) => "a grouping set",
        _ => "this expression",
    }
}

/// The error for operands that no operator takes.
pub(crate) fn no_operator(symbol: &str, left: &Expr, right: &Expr) -> Failure {
    let message =
        format!("operator does not exist: {} {symbol} {}", left.ty.sql_name(), right.ty.sql_name());
    hinted(
        fail(SqlState::UNDEFINED_FUNCTION, message),
        "No operator matches the given name and argument types. You might need to add explicit \
         type casts.",
    )
}
