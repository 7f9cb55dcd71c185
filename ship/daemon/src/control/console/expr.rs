//! Bound expressions, and their evaluation over a row.
//!
//! Every node knows its type, and the binder has put a cast wherever types differ: evaluation
//! meets no surprise. Truth has three values: NULL is unknown.
//!
//! PostgreSQL: `ExecInterpExpr` (src/backend/executor/execExprInterp.c).

use std::cmp::Ordering;
use std::sync::Arc;

use super::context::Context;
use super::failure::{CARDINALITY_VIOLATION, Result, fail};
use super::functions::Function;
use super::plan::{Plan, Rows};
use super::types::Type;
use super::value::Value;

/// An expression and its type.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Expr {
    pub(super) ty: Type,
    pub(super) node: Node,
}

/// What an expression does.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Node {
    Const(Value),
    /// A column of the row.
    Column(usize),
    /// A parameter, counted from zero.
    Param(usize),
    /// An aggregate of the query; replaced by a column before anything is evaluated.
    Aggregate(usize),
    Call(&'static Function, Vec<Expr>),
    /// To the type of the expression; with a scale for `numeric(p, s)`.
    Cast(Box<Expr>, Option<u32>),
    Compare(Comparison, Box<Expr>, Box<Expr>),
    /// IS [NOT] DISTINCT FROM.
    Distinct {
        left: Box<Expr>,
        right: Box<Expr>,
        negated: bool,
    },
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    IsNull {
        operand: Box<Expr>,
        negated: bool,
    },
    /// IS [NOT] TRUE and IS [NOT] FALSE.
    IsBool {
        operand: Box<Expr>,
        wanted: bool,
        negated: bool,
    },
    In {
        operand: Box<Expr>,
        list: Vec<Expr>,
        negated: bool,
    },
    InQuery {
        operand: Box<Expr>,
        plan: Arc<Plan>,
        negated: bool,
    },
    Between {
        operand: Box<Expr>,
        low: Box<Expr>,
        high: Box<Expr>,
        negated: bool,
    },
    Like {
        operand: Box<Expr>,
        pattern: Box<Expr>,
        fold_case: bool,
        negated: bool,
    },
    /// CASE: with an operand, each WHEN is a value of the operand's type, else a condition.
    Case {
        operand: Option<Box<Expr>>,
        branches: Vec<(Expr, Expr)>,
        otherwise: Option<Box<Expr>>,
    },
    Coalesce(Vec<Expr>),
    NullIf(Box<Expr>, Box<Expr>),
    /// GREATEST or LEAST: the one that compares so to all others.
    Extreme(Ordering, Vec<Expr>),
    Scalar(Arc<Plan>),
    Exists {
        plan: Arc<Plan>,
        negated: bool,
    },
}

/// A comparison operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Comparison {
    Eq,
    NotEq,
    Lt,
    LtEq,
    Gt,
    GtEq,
}

impl Comparison {
    /// Whether it holds for operands that compare so.
    const fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Eq => ordering.is_eq(),
            Self::NotEq => ordering.is_ne(),
            Self::Lt => ordering.is_lt(),
            Self::LtEq => ordering.is_le(),
            Self::Gt => ordering.is_gt(),
            Self::GtEq => ordering.is_ge(),
        }
    }
}

impl Expr {
    /// An expression of that type.
    pub(super) const fn new(ty: Type, node: Node) -> Self {
        Self { ty, node }
    }

    /// A boolean expression.
    pub(super) const fn bool(node: Node) -> Self {
        Self { ty: Type::Bool, node }
    }

    /// The direct operands.
    pub(super) fn operands_mut(&mut self) -> Vec<&mut Self> {
        match &mut self.node {
            Node::Const(_)
            | Node::Column(_)
            | Node::Param(_)
            | Node::Aggregate(_)
            | Node::Scalar(_)
            | Node::Exists { .. } => Vec::new(),
            Node::Call(_, args) | Node::Coalesce(args) | Node::Extreme(_, args) => {
                args.iter_mut().collect()
            }
            Node::Cast(operand, _)
            | Node::Not(operand)
            | Node::IsNull { operand, .. }
            | Node::IsBool { operand, .. }
            | Node::InQuery { operand, .. } => vec![operand],
            Node::Compare(_, left, right)
            | Node::Distinct { left, right, .. }
            | Node::And(left, right)
            | Node::Or(left, right)
            | Node::NullIf(left, right) => vec![left, right],
            Node::Like { operand, pattern, .. } => vec![operand, pattern],
            Node::Between { operand, low, high, .. } => vec![operand, low, high],
            Node::In { operand, list, .. } => {
                std::iter::once(&mut **operand).chain(list.iter_mut()).collect()
            }
            Node::Case { operand, branches, otherwise } => operand
                .iter_mut()
                .map(|operand| &mut **operand)
                .chain(branches.iter_mut().flat_map(|(when, then)| [when, then]))
                .chain(otherwise.iter_mut().map(|otherwise| &mut **otherwise))
                .collect(),
        }
    }

    /// The value over `row`.
    pub(super) fn eval(&self, row: &[Value], ctx: &Context<'_>) -> Result<Value> {
        ctx.step()?;
        Ok(match &self.node {
            Node::Const(value) => copied(Some(value), ctx)?,
            Node::Column(index) => copied(row.get(*index), ctx)?,
            Node::Param(index) => copied(ctx.arguments.get(*index), ctx)?,
            Node::Aggregate(_) => unreachable!("the planner replaces aggregates by columns"),
            Node::Call(function, args) => return eval_call(function, args, row, ctx),
            Node::Cast(operand, scale) => {
                let value = operand.eval(row, ctx)?.cast(operand.ty, self.ty, ctx.zone())?;
                let value = match (value, scale) {
                    (Value::Numeric(number), Some(scale)) => {
                        Value::Numeric(number.with_scale(*scale)?)
                    }
                    (value, _) => value,
                };
                return ctx.charge(value);
            }
            Node::Compare(comparison, left, right) => {
                compare(*comparison, &left.eval(row, ctx)?, &right.eval(row, ctx)?)
            }
            Node::Distinct { left, right, negated } => {
                let same = left.eval(row, ctx)?.compare(&right.eval(row, ctx)?).is_eq();
                Value::Bool(same == *negated)
            }
            Node::And(left, right) => match left.eval(row, ctx)? {
                Value::Bool(false) => Value::Bool(false),
                left => match (left, right.eval(row, ctx)?) {
                    (_, Value::Bool(false)) => Value::Bool(false),
                    (Value::Null, _) => Value::Null,
                    (_, right) => right,
                },
            },
            Node::Or(left, right) => match left.eval(row, ctx)? {
                Value::Bool(true) => Value::Bool(true),
                left => match (left, right.eval(row, ctx)?) {
                    (_, Value::Bool(true)) => Value::Bool(true),
                    (Value::Null, _) => Value::Null,
                    (_, right) => right,
                },
            },
            Node::Not(operand) => negate(operand.eval(row, ctx)?),
            Node::IsNull { operand, negated } => {
                Value::Bool(operand.eval(row, ctx)?.is_null() != *negated)
            }
            Node::IsBool { operand, wanted, negated } => {
                Value::Bool((operand.eval(row, ctx)? == Value::Bool(*wanted)) != *negated)
            }
            Node::In { operand, list, negated } => {
                let operand = operand.eval(row, ctx)?;
                let items = list.iter().map(|item| item.eval(row, ctx));
                member(&operand, items, *negated)?
            }
            Node::InQuery { operand, plan, negated } => {
                let operand = operand.eval(row, ctx)?;
                let first = |row: Vec<Value>| Ok(row.into_iter().next().unwrap_or(Value::Null));
                let is_member =
                    |rows: Rows| member(&operand, rows.into_iter().map(first), *negated);
                plan.run_within(ctx, is_member)??
            }
            Node::Between { operand, low, high, negated } => {
                let value = operand.eval(row, ctx)?;
                let above = compare(Comparison::GtEq, &value, &low.eval(row, ctx)?);
                let below = compare(Comparison::LtEq, &value, &high.eval(row, ctx)?);
                let within = match (above, below) {
                    (Value::Bool(false), _) | (_, Value::Bool(false)) => Value::Bool(false),
                    (Value::Null, _) | (_, Value::Null) => Value::Null,
                    _ => Value::Bool(true),
                };
                if *negated { negate(within) } else { within }
            }
            Node::Like { operand, pattern, fold_case, negated } => {
                match (operand.eval(row, ctx)?, pattern.eval(row, ctx)?) {
                    (Value::Text(text), Value::Text(pattern)) => {
                        Value::Bool(like(&text, &pattern, *fold_case, ctx)? != *negated)
                    }
                    _ => Value::Null,
                }
            }
            Node::Case { operand, branches, otherwise } => {
                return eval_case(operand.as_deref(), branches, otherwise.as_deref(), row, ctx);
            }
            Node::Coalesce(args) => {
                for arg in args {
                    let value = arg.eval(row, ctx)?;
                    if !value.is_null() {
                        return Ok(value);
                    }
                }
                Value::Null
            }
            Node::NullIf(left, right) => {
                let left = left.eval(row, ctx)?;
                match compare(Comparison::Eq, &left, &right.eval(row, ctx)?) {
                    Value::Bool(true) => Value::Null,
                    _ => left,
                }
            }
            Node::Extreme(wanted, args) => {
                let mut best = Value::Null;
                for arg in args {
                    let value = arg.eval(row, ctx)?;
                    if !value.is_null() && (best.is_null() || value.compare(&best) == *wanted) {
                        best = value;
                    }
                }
                best
            }
            Node::Scalar(plan) => {
                let (first, is_only) = plan.run_within(ctx, |rows| {
                    let is_only = rows.len() <= 1;
                    (rows.into_iter().next(), is_only)
                })?;
                if !is_only {
                    return Err(fail(
                        CARDINALITY_VIOLATION,
                        "more than one row returned by a subquery used as an expression",
                    ));
                }
                first.and_then(|row| row.into_iter().next()).unwrap_or(Value::Null)
            }
            Node::Exists { plan, negated } => {
                Value::Bool(plan.run_within(ctx, |rows| rows.is_empty())? == *negated)
            }
        })
    }

    /// Whether the value over `row` is true: what WHERE, HAVING and FILTER ask.
    pub(super) fn holds(&self, row: &[Value], ctx: &Context<'_>) -> Result<bool> {
        Ok(self.eval(row, ctx)? == Value::Bool(true))
    }
}

/// A value of its own. A large one takes its time.
fn copied(value: Option<&Value>, ctx: &Context<'_>) -> Result<Value> {
    let Some(value) = value else { return Ok(Value::Null) };
    ctx.work(value.heap_len())?;
    Ok(value.clone())
}

fn eval_call(
    function: &'static Function,
    args: &[Expr],
    row: &[Value],
    ctx: &Context<'_>,
) -> Result<Value> {
    let mut values = Vec::with_capacity(args.len());
    for arg in args {
        let value = arg.eval(row, ctx)?;
        if function.strict && value.is_null() {
            return Ok(Value::Null);
        }
        values.push(value);
    }
    ctx.charge((function.eval)(ctx, &values)?)
}

/// Only the branch taken is evaluated: queries guard pg_current_wal_lsn() with CASE.
fn eval_case(
    operand: Option<&Expr>,
    branches: &[(Expr, Expr)],
    otherwise: Option<&Expr>,
    row: &[Value],
    ctx: &Context<'_>,
) -> Result<Value> {
    let operand = operand.map(|operand| operand.eval(row, ctx)).transpose()?;
    for (when, then) in branches {
        let when = when.eval(row, ctx)?;
        let taken = match &operand {
            Some(operand) => compare(Comparison::Eq, operand, &when),
            None => when,
        };
        if taken == Value::Bool(true) {
            return then.eval(row, ctx);
        }
    }
    otherwise.map_or(Ok(Value::Null), |otherwise| otherwise.eval(row, ctx))
}

fn compare(comparison: Comparison, left: &Value, right: &Value) -> Value {
    if left.is_null() || right.is_null() {
        return Value::Null;
    }
    Value::Bool(comparison.holds(left.compare(right)))
}

fn negate(value: Value) -> Value {
    match value {
        Value::Bool(value) => Value::Bool(!value),
        other => other,
    }
}

/// IN: unknown when nothing matches and something is NULL.
fn member(
    operand: &Value,
    items: impl Iterator<Item = Result<Value>>,
    negated: bool,
) -> Result<Value> {
    let (mut found, mut unknown) = (false, false);
    for item in items {
        match compare(Comparison::Eq, operand, &item?) {
            Value::Bool(true) => found = true,
            Value::Null => unknown = true,
            _ => {}
        }
    }
    Ok(if found {
        Value::Bool(!negated)
    } else if unknown {
        Value::Null
    } else {
        Value::Bool(negated)
    })
}

/// LIKE with `%`, `_` and backslash. PostgreSQL: `MatchText` (src/backend/utils/adt/like_match.c).
fn like(text: &str, pattern: &str, fold_case: bool, ctx: &Context<'_>) -> Result<bool> {
    #[derive(PartialEq)]
    enum Token {
        Any,
        One,
        Char(char),
    }
    // Each character is looked at, and kept in four bytes.
    ctx.work((text.len() + pattern.len()).saturating_mul(16))?;
    let fold = |text: &str| if fold_case { text.to_lowercase() } else { text.to_owned() };
    let text: Vec<char> = fold(text).chars().collect();
    let mut tokens = Vec::new();
    let pattern = fold(pattern);
    let mut chars = pattern.chars();
    while let Some(character) = chars.next() {
        tokens.push(match character {
            '%' => Token::Any,
            '_' => Token::One,
            '\\' => Token::Char(chars.next().ok_or_else(|| {
                fail(
                    walhub_proto::sqlstate::SqlState("22025"),
                    "LIKE pattern must not end with escape character",
                )
            })?),
            other => Token::Char(other),
        });
    }
    // Greedy with one point to come back to: the last `%` is the only one that may still grow.
    let (mut at, mut token, mut retry) = (0, 0, None);
    while at < text.len() {
        ctx.step()?;
        match tokens.get(token) {
            Some(Token::Any) => {
                retry = Some((token, at));
                token += 1;
            }
            Some(Token::One) => (at, token) = (at + 1, token + 1),
            Some(Token::Char(wanted)) if text.get(at) == Some(wanted) => {
                (at, token) = (at + 1, token + 1);
            }
            _ => match retry {
                Some((any, from)) => {
                    retry = Some((any, from + 1));
                    (at, token) = (from + 1, any + 1);
                }
                None => return Ok(false),
            },
        }
    }
    Ok(tokens.iter().skip(token).all(|rest| *rest == Token::Any))
}
