//! Resolves the names and types of expressions.
//!
//! A literal or a parameter without a type takes the one that its context asks for, as in
//! PostgreSQL; what no context asks for becomes text.
//!
//! Not here: the clauses of a query (`select`).
//!
//! PostgreSQL: `transformExpr` (src/backend/parser/parse_expr.c), parse_coerce.c, parse_func.c.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;
use sqlparser::ast::{self, BinaryOperator, UnaryOperator};
use walhub_proto::sqlstate::SqlState;

use super::aggregate::AggregateCall;
use super::expr::{Comparison, Expr, Node};
use super::failure::{
    AMBIGUOUS_COLUMN, AMBIGUOUS_FUNCTION, CANNOT_COERCE, Failure, Result, STATEMENT_TOO_COMPLEX,
    UNDEFINED_PARAMETER, fail, hinted, unsupported,
};
use super::functions::{self, FUNCTIONS, OPERATORS};
use super::parse;
use super::plan::Plan;
use super::types::Type;
use super::value::Value;

/// Nesting of expressions and subqueries.
const DEPTH_MAX: usize = 150;
/// Parameters of one statement.
const PARAMETERS_MAX: usize = 1024;

/// A column that expressions may name.
#[derive(Clone, Debug)]
pub(super) struct ScopeColumn {
    pub(super) table: Option<String>,
    pub(super) name: String,
    pub(super) ty: Type,
}

/// What expressions of one query may name.
#[derive(Default)]
pub(super) struct Scope {
    pub(super) columns: Vec<ScopeColumn>,
    /// The aggregates met so far.
    pub(super) aggregates: Vec<AggregateCall>,
    /// The clause that may not aggregate, when the expression is in one.
    pub(super) no_aggregates: Option<&'static str>,
}

/// Resolves one statement.
pub(super) struct Binder<'a> {
    pub(super) sql: &'a str,
    /// Type of each parameter; `Unknown` until the context tells.
    pub(super) params: Vec<Type>,
    /// Queries of WITH by name.
    pub(super) ctes: BTreeMap<String, Arc<Plan>>,
    pub(super) depth: usize,
}

/// A name as SQL folds it.
pub(super) fn fold(ident: &ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

/// The parts of a qualified name, folded.
pub(super) fn fold_name(name: &ast::ObjectName) -> Vec<String> {
    name.0.iter().filter_map(ast::ObjectNamePart::as_ident).map(fold).collect()
}

impl Binder<'_> {
    /// Adds where in the text the failure is.
    pub(super) fn at(&self, failure: Failure, ident: &ast::Ident) -> Failure {
        parse::at(failure, self.sql, ident.span.start)
    }

    /// Resolves an expression.
    pub(super) fn bind(&mut self, scope: &mut Scope, expr: &ast::Expr) -> Result<Expr> {
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
            E::IsNull(operand) | E::IsUnknown(operand) => {
                let operand = self.settled(scope, operand)?;
                Ok(Expr::bool(Node::IsNull { operand, negated: false }))
            }
            E::IsNotNull(operand) | E::IsNotUnknown(operand) => {
                let operand = self.settled(scope, operand)?;
                Ok(Expr::bool(Node::IsNull { operand, negated: true }))
            }
            E::IsTrue(operand) => self.bind_is(scope, operand, true, false),
            E::IsNotTrue(operand) => self.bind_is(scope, operand, true, true),
            E::IsFalse(operand) => self.bind_is(scope, operand, false, false),
            E::IsNotFalse(operand) => self.bind_is(scope, operand, false, true),
            E::IsDistinctFrom(left, right) => self.bind_distinct(scope, left, right, false),
            E::IsNotDistinctFrom(left, right) => self.bind_distinct(scope, left, right, true),
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
                let plan = self.bind_scalar_query(subquery)?;
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
                self.bind_like(scope, expr, pattern, false, *negated)
            }
            E::ILike { negated, any: false, expr, pattern, escape_char: None } => {
                self.bind_like(scope, expr, pattern, true, *negated)
            }
            E::Case { operand, conditions, else_result, .. } => {
                self.bind_case(scope, operand.as_deref(), conditions, else_result.as_deref())
            }
            E::Subquery(query) => {
                let plan = self.bind_scalar_query(query)?;
                let ty = plan.columns().next().map_or(Type::Text, |(_, ty)| ty);
                Ok(Expr::new(ty, Node::Scalar(plan)))
            }
            E::Exists { subquery, negated } => {
                let plan = Arc::new(self.bind_query(subquery)?);
                Ok(Expr::bool(Node::Exists { plan, negated: *negated }))
            }
            E::Function(function) => self.bind_function(scope, function),
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
                    let number = super::numeric::Numeric::from_text(text)?;
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
        let failure = match table {
            // Words that are functions without parentheses.
            None if ident.quote_style.is_none()
                && ["current_schema", "current_role", "current_catalog"].contains(&&*name) =>
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

    /// A type, and the scale of `numeric(p, s)`.
    fn data_type(&self, data_type: &ast::DataType) -> Result<(Type, Option<u32>)> {
        let text = data_type.to_string().to_ascii_lowercase();
        let plain = text.trim_matches('"');
        if let Some(ty) = Type::from_name(plain) {
            return Ok((ty, None));
        }
        if let Some(modifier) =
            plain.strip_prefix("numeric(").or_else(|| plain.strip_prefix("decimal("))
        {
            let mut numbers = modifier.trim_end_matches(')').split(',').map(str::trim);
            let precision = numbers.next().and_then(|number| number.parse::<u32>().ok());
            let scale = numbers.next().map_or(Some(0), |number| number.parse::<u32>().ok());
            if let (Some(1..=1000), Some(scale @ 0..=38)) = (precision, scale) {
                return Ok((Type::Numeric, Some(scale)));
            }
        }
        Err(unsupported(format_args!("type {plain}")))
    }

    /// CAST. PostgreSQL: `coerce_to_target_type` with COERCION_EXPLICIT.
    fn cast(&mut self, operand: Expr, ty: Type, scale: Option<u32>) -> Result<Expr> {
        if operand.ty == Type::Unknown && scale.is_none() {
            return self.coerce(operand, ty);
        }
        if !operand.ty.casts_to(ty) {
            let message =
                format!("cannot cast type {} to {}", operand.ty.sql_name(), ty.sql_name());
            return Err(fail(CANNOT_COERCE, message));
        }
        if operand.ty == ty && scale.is_none() {
            return Ok(operand);
        }
        let operand = if operand.ty == Type::Unknown { self.coerce(operand, ty)? } else { operand };
        Ok(Expr::new(ty, Node::Cast(Box::new(operand), scale)))
    }

    /// Makes the expression be of type `ty`, by an implicit cast or by telling a literal.
    pub(super) fn coerce(&mut self, expr: Expr, ty: Type) -> Result<Expr> {
        match (expr.ty, expr.node) {
            (own, node) if own == ty => Ok(Expr::new(own, node)),
            (Type::Unknown, Node::Const(Value::Null)) => {
                Ok(Expr::new(ty, Node::Const(Value::Null)))
            }
            // Its meaning depends on the session's time zone: read when it runs.
            (Type::Unknown, node @ Node::Const(_)) if ty == Type::TimestampTz => {
                let literal = Box::new(Expr::new(Type::Text, node));
                Ok(Expr::new(ty, Node::Cast(literal, None)))
            }
            (Type::Unknown, Node::Const(Value::Text(text))) => {
                let value = Value::parse(&text, ty, &TimeZone::UTC)?;
                Ok(Expr::new(ty, Node::Const(value)))
            }
            (Type::Unknown, Node::Param(index)) => {
                if let Some(param) = self.params.get_mut(index) {
                    // The first use decides; a later one casts.
                    if *param == Type::Unknown {
                        *param = ty;
                    }
                    let known = *param;
                    let param = Expr::new(known, Node::Param(index));
                    return if known == ty { Ok(param) } else { self.cast(param, ty, None) };
                }
                Ok(Expr::new(ty, Node::Param(index)))
            }
            (own, node) if own.implicit_cost(ty).is_some() || Self::widens(own, ty) => {
                Ok(Expr::new(ty, Node::Cast(Box::new(Expr::new(own, node)), None)))
            }
            (own, _) => Err(fail(
                SqlState::DATATYPE_MISMATCH,
                format!("argument must be type {}, not type {}", ty.sql_name(), own.sql_name()),
            )),
        }
    }

    /// Conversions that only `Type::common` asks for.
    fn widens(own: Type, ty: Type) -> bool {
        own.is_number() && ty.is_number()
    }

    /// Gives an expression without a type one: text.
    fn settled(&mut self, scope: &mut Scope, expr: &ast::Expr) -> Result<Box<Expr>> {
        let bound = self.bind(scope, expr)?;
        self.settle(bound).map(Box::new)
    }

    /// As [`Binder::settled`], for a bound one.
    pub(super) fn settle(&mut self, expr: Expr) -> Result<Expr> {
        if expr.ty == Type::Unknown { self.coerce(expr, Type::Text) } else { Ok(expr) }
    }

    /// Brings all to their common type. PostgreSQL: `select_common_type`.
    pub(super) fn unify(&mut self, all: Vec<Expr>, what: &str) -> Result<(Vec<Expr>, Type)> {
        let mut common = Type::Unknown;
        for expr in &all {
            common = common.common(expr.ty).ok_or_else(|| {
                fail(
                    SqlState::DATATYPE_MISMATCH,
                    format!(
                        "{what} types {} and {} cannot be matched",
                        common.sql_name(),
                        expr.ty.sql_name()
                    ),
                )
            })?;
        }
        if common == Type::Unknown {
            common = Type::Text;
        }
        let all: Result<Vec<Expr>> =
            all.into_iter().map(|expr| self.coerce(expr, common)).collect();
        Ok((all?, common))
    }

    /// A condition. PostgreSQL: `coerce_to_boolean`.
    pub(super) fn condition(&mut self, expr: Expr, clause: &str) -> Result<Expr> {
        if expr.ty != Type::Bool && expr.ty != Type::Unknown {
            return Err(fail(
                SqlState::DATATYPE_MISMATCH,
                format!(
                    "argument of {clause} must be type boolean, not type {}",
                    expr.ty.sql_name()
                ),
            ));
        }
        self.coerce(expr, Type::Bool)
    }

    fn bind_is(
        &mut self,
        scope: &mut Scope,
        operand: &ast::Expr,
        wanted: bool,
        negated: bool,
    ) -> Result<Expr> {
        let operand = self.bind(scope, operand)?;
        let operand =
            Box::new(self.condition(operand, if wanted { "IS TRUE" } else { "IS FALSE" })?);
        Ok(Expr::bool(Node::IsBool { operand, wanted, negated }))
    }

    fn bind_distinct(
        &mut self,
        scope: &mut Scope,
        left: &ast::Expr,
        right: &ast::Expr,
        negated: bool,
    ) -> Result<Expr> {
        let (left, right) = (self.bind(scope, left)?, self.bind(scope, right)?);
        let (left, right) = self.same_type(left, "=", right)?;
        Ok(Expr::bool(Node::Distinct { left, right, negated }))
    }

    fn same_type(
        &mut self,
        left: Expr,
        symbol: &str,
        right: Expr,
    ) -> Result<(Box<Expr>, Box<Expr>)> {
        let common = left.ty.common(right.ty).ok_or_else(|| no_operator(symbol, &left, &right))?;
        let common = if common == Type::Unknown { Type::Text } else { common };
        if !common.is_ordered() && !(common == Type::Xid && matches!(symbol, "=" | "<>")) {
            return Err(no_operator(symbol, &left, &right));
        }
        Ok((Box::new(self.coerce(left, common)?), Box::new(self.coerce(right, common)?)))
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
            BinaryOperator::PGLikeMatch => self.like(left, right, false, false),
            BinaryOperator::PGILikeMatch => self.like(left, right, true, false),
            BinaryOperator::PGNotLikeMatch => self.like(left, right, false, true),
            BinaryOperator::PGNotILikeMatch => self.like(left, right, true, true),
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

    fn bind_like(
        &mut self,
        scope: &mut Scope,
        operand: &ast::Expr,
        pattern: &ast::Expr,
        fold_case: bool,
        negated: bool,
    ) -> Result<Expr> {
        let (operand, pattern) = (self.bind(scope, operand)?, self.bind(scope, pattern)?);
        self.like(operand, pattern, fold_case, negated)
    }

    fn like(
        &mut self,
        operand: Expr,
        pattern: Expr,
        fold_case: bool,
        negated: bool,
    ) -> Result<Expr> {
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

    /// Applies a function by name. PostgreSQL: `ParseFuncOrColumn`.
    pub(super) fn call(&mut self, name: &str, args: Vec<Expr>) -> Result<Expr> {
        let types: Vec<Type> = args.iter().map(|arg| arg.ty).collect();
        if let Some(function) = functions::resolve(FUNCTIONS, name, &types) {
            return self.apply(function, args);
        }
        // A type's name with one argument is a cast, as in pg_lsn('0/0').
        if let (Some(ty), [_]) = (Type::from_name(name), &*types) {
            let mut args = args;
            return match args.pop() {
                Some(arg) => self.cast(arg, ty, None),
                None => Err(unsupported("this cast")),
            };
        }
        let shown = name.strip_suffix(" epoch").unwrap_or(name);
        let types: Vec<&str> = types.into_iter().map(Type::sql_name).collect();
        let message = format!("function {shown}({}) does not exist", types.join(", "));
        let hint = if functions::exists(name) {
            "No function matches the given name and argument types. You might need to add explicit \
             type casts."
        } else {
            "walhub has the WAL position functions of PostgreSQL, version(), current_setting(), \
             now(), the session functions, and common functions of numbers and text."
        };
        Err(hinted(fail(SqlState::UNDEFINED_FUNCTION, message), hint))
    }

    /// Casts the arguments to what the function takes.
    fn apply(&mut self, function: &'static functions::Function, args: Vec<Expr>) -> Result<Expr> {
        let last = function.args.last().copied().unwrap_or(Type::Text);
        let wanted = function.args.iter().copied().chain(std::iter::repeat(last));
        let args: Result<Vec<Expr>> =
            args.into_iter().zip(wanted).map(|(arg, wanted)| self.coerce(arg, wanted)).collect();
        Ok(Expr::new(function.result, Node::Call(function, args?)))
    }

    /// What looks like a function and is syntax. PostgreSQL: `CoalesceExpr`, `MinMaxExpr`.
    pub(super) fn bind_syntax(&mut self, name: &str, mut args: Vec<Expr>) -> Result<Expr> {
        match name {
            "coalesce" | "greatest" | "least" if !args.is_empty() => {
                let (args, ty) = self.unify(args, &name.to_ascii_uppercase())?;
                let node = match name {
                    "coalesce" => Node::Coalesce(args),
                    "greatest" => Node::Extreme(Ordering::Greater, args),
                    _ => Node::Extreme(Ordering::Less, args),
                };
                Ok(Expr::new(ty, node))
            }
            "nullif" if args.len() == 2 => match (args.pop(), args.pop()) {
                (Some(right), Some(left)) => {
                    let (left, right) = self.same_type(left, "=", right)?;
                    Ok(Expr::new(left.ty, Node::NullIf(left, right)))
                }
                _ => Err(unsupported("this NULLIF")),
            },
            // Any type is shown as text. PostgreSQL: text_concat.
            "concat" if !args.is_empty() => {
                let args: Result<Vec<Expr>> = args
                    .into_iter()
                    .map(|arg| match arg.ty {
                        // concat shows values by their output functions: `t`, not `true`.
                        Type::Bool | Type::Inet => Err(unsupported(format_args!(
                            "concat of {}, cast it to text",
                            arg.ty.sql_name()
                        ))),
                        _ => self.cast(arg, Type::Text, None),
                    })
                    .collect();
                self.call("concat", args?)
            }
            _ => self.call(name, args),
        }
    }

    fn bind_scalar_query(&mut self, query: &ast::Query) -> Result<Arc<Plan>> {
        let plan = self.bind_query(query)?;
        if plan.visible != 1 {
            return Err(fail(SqlState::SYNTAX_ERROR, "subquery must return only one column"));
        }
        Ok(Arc::new(plan))
    }

    /// An expression for LIMIT and the like: no columns.
    pub(super) fn bind_constant(&mut self, expr: &ast::Expr, ty: Type) -> Result<Expr> {
        let bound = self.bind(&mut Scope::default(), expr)?;
        self.coerce(bound, ty)
    }
}

fn no_operator(symbol: &str, left: &Expr, right: &Expr) -> Failure {
    let message =
        format!("operator does not exist: {} {symbol} {}", left.ty.sql_name(), right.ty.sql_name());
    hinted(
        fail(SqlState::UNDEFINED_FUNCTION, message),
        "No operator matches the given name and argument types. You might need to add explicit \
         type casts.",
    )
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
