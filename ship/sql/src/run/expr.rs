//! Evaluating expressions over a row.
//!
//! Every node knows its type, and the binder has put a cast wherever types differ: evaluation
//! meets no surprise. Truth has three values: NULL is unknown.
//!
//! PostgreSQL: `ExecInterpExpr` (src/backend/executor/execExprInterp.c).

use std::cell::RefCell;

use regex::{Regex, RegexBuilder};

use crate::env::{Env, Eval, Function};
use crate::failure::{CARDINALITY_VIOLATION, INVALID_REGULAR_EXPRESSION, Result, fail};
use crate::plan::{Expr, Node, Plan};
use crate::value::comparison::Comparison;
use crate::value::row::Rows;
use crate::value::types::Type;
use crate::value::{Value, not_known};

impl Expr {
    /// The value over `row`.
    pub fn eval(&self, row: &[Value], env: &Env<'_>) -> Result<Value> {
        env.step()?;
        Ok(match &self.node {
            Node::Const(value) => copied(Some(value), env)?,
            Node::Column(index) => copied(row.get(*index), env)?,
            Node::Outer { level, column } => env.outer(*level, *column)?,
            Node::Param(index) => copied(env.arguments.get(*index), env)?,
            Node::Aggregate(_) => unreachable!("the planner replaces aggregates by columns"),
            Node::Call(function, args) => return eval_call(function, args, row, env),
            Node::Cast(operand, scale) => {
                let value = match operand.eval(row, env)? {
                    Value::Pending(pending) => {
                        let pending = pending.cast(operand.ty, self.ty).ok_or_else(not_known)?;
                        Value::Pending(pending)
                    }
                    value => value.cast(operand.ty, self.ty, env.zone)?,
                };
                let value = match (value, scale) {
                    (Value::Numeric(number), Some(scale)) => {
                        Value::Numeric(number.with_scale(*scale)?)
                    }
                    (value, _) => value,
                };
                return env.charge(value);
            }
            Node::Compare(comparison, left, right) => {
                compare_pending(*comparison, left.eval(row, env)?, right.eval(row, env)?)?
            }
            Node::Case { operand, branches, otherwise } => {
                return eval_case(operand.as_deref(), branches, otherwise.as_deref(), row, env);
            }
            Node::Coalesce(args) => {
                for arg in args {
                    let value = arg.eval(row, env)?;
                    if !value.is_null() {
                        return Ok(value);
                    }
                }
                Value::Null
            }
            Node::NullIf(left, right) => {
                let left = left.known(row, env)?;
                match compare(Comparison::Eq, &left, &right.known(row, env)?) {
                    Value::Bool(true) => Value::Null,
                    _ => left,
                }
            }
            Node::Extreme(wanted, args) => {
                let mut best = Value::Null;
                for arg in args {
                    let value = arg.known(row, env)?;
                    if !value.is_null() && (best.is_null() || value.compare(&best) == *wanted) {
                        best = value;
                    }
                }
                best
            }
            Node::Scalar(plan) => {
                let (first, is_only) = run_inner(plan, row, env, |rows| {
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
            Node::Array(plan) => {
                let items = run_inner(plan, row, env, |rows| {
                    rows.into_iter().map(item_of).collect::<Result<Vec<_>>>()
                })??;
                return env.charge(Value::Array(items));
            }
            Node::Distinct { .. }
            | Node::And(..)
            | Node::Or(..)
            | Node::Not(_)
            | Node::IsNull { .. }
            | Node::IsBool { .. }
            | Node::In { .. }
            | Node::InQuery { .. }
            | Node::Between { .. }
            | Node::Like { .. }
            | Node::Matches { .. }
            | Node::Exists { .. } => return self.eval_predicate(row, env),
        })
    }

    /// The value of a question: AND, IS, IN, BETWEEN, LIKE, EXISTS.
    fn eval_predicate(&self, row: &[Value], env: &Env<'_>) -> Result<Value> {
        Ok(match &self.node {
            Node::Distinct { left, right, negated } => {
                let same = left.known(row, env)?.compare(&right.known(row, env)?).is_eq();
                Value::Bool(same == *negated)
            }
            Node::And(left, right) => match left.known(row, env)? {
                Value::Bool(false) => Value::Bool(false),
                left => match (left, right.known(row, env)?) {
                    (_, Value::Bool(false)) => Value::Bool(false),
                    (Value::Null, _) => Value::Null,
                    (_, right) => right,
                },
            },
            Node::Or(left, right) => match left.known(row, env)? {
                Value::Bool(true) => Value::Bool(true),
                left => match (left, right.known(row, env)?) {
                    (_, Value::Bool(true)) => Value::Bool(true),
                    (Value::Null, _) => Value::Null,
                    (_, right) => right,
                },
            },
            Node::Not(operand) => negate(operand.known(row, env)?),
            Node::IsNull { operand, negated } => {
                Value::Bool(operand.eval(row, env)?.is_null() != *negated)
            }
            Node::IsBool { operand, wanted, negated } => {
                Value::Bool((operand.known(row, env)? == Value::Bool(*wanted)) != *negated)
            }
            Node::In { operand, list, negated } => {
                let operand = operand.known(row, env)?;
                let items = list.iter().map(|item| item.known(row, env));
                member(&operand, items, *negated)?
            }
            Node::InQuery { operand, plan, negated } => {
                let operand = operand.known(row, env)?;
                let first = |row: Vec<Value>| row.into_iter().next().unwrap_or(Value::Null).known();
                let is_member =
                    |rows: Rows| member(&operand, rows.into_iter().map(first), *negated);
                run_inner(plan, row, env, is_member)??
            }
            Node::Between { operand, low, high, negated } => {
                let value = operand.known(row, env)?;
                let above = compare(Comparison::GtEq, &value, &low.known(row, env)?);
                let below = compare(Comparison::LtEq, &value, &high.known(row, env)?);
                let within = match (above, below) {
                    (Value::Bool(false), _) | (_, Value::Bool(false)) => Value::Bool(false),
                    (Value::Null, _) | (_, Value::Null) => Value::Null,
                    _ => Value::Bool(true),
                };
                if *negated { negate(within) } else { within }
            }
            Node::Like { operand, pattern, fold_case, negated } => {
                match (operand.known(row, env)?, pattern.known(row, env)?) {
                    (Value::Text(text), Value::Text(pattern)) => {
                        Value::Bool(like(&text, &pattern, *fold_case, env)? != *negated)
                    }
                    _ => Value::Null,
                }
            }
            Node::Matches { operand, pattern, fold_case, negated } => {
                match (operand.known(row, env)?, pattern.known(row, env)?) {
                    (Value::Text(text), Value::Text(pattern)) => {
                        Value::Bool(matches(&text, &pattern, *fold_case, env)? != *negated)
                    }
                    _ => Value::Null,
                }
            }
            Node::Exists { plan, negated } => {
                Value::Bool(run_inner(plan, row, env, |rows| rows.is_empty())? == *negated)
            }
            node => unreachable!("eval knows {node:?}"),
        })
    }

    /// Whether the value over `row` is true: what WHERE, HAVING and FILTER ask.
    pub(crate) fn holds(&self, row: &[Value], env: &Env<'_>) -> Result<bool> {
        Ok(self.known(row, env)? == Value::Bool(true))
    }

    /// The value over `row`, which must be known already.
    pub(crate) fn known(&self, row: &[Value], env: &Env<'_>) -> Result<Value> {
        self.eval(row, env)?.known()
    }
}

/// Runs a query that is an expression over `row`.
fn run_inner<T>(
    plan: &Plan,
    row: &[Value],
    env: &Env<'_>,
    look: impl FnOnce(Rows) -> T,
) -> Result<T> {
    let row = if plan.uses_outer { row.to_vec() } else { Vec::new() };
    env.work(row.iter().map(Value::heap_len).sum())?;
    env.within(row, || plan.run_within(env, look))
}

/// What an array has of a row.
fn item_of(row: Vec<Value>) -> Result<Option<String>> {
    Ok(match row.into_iter().next().unwrap_or(Value::Null).known()? {
        Value::Text(text) => Some(text),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    })
}

/// A value of its own. A large one takes its time.
fn copied(value: Option<&Value>, env: &Env<'_>) -> Result<Value> {
    let Some(value) = value else { return Ok(Value::Null) };
    env.work(value.heap_len())?;
    Ok(value.clone())
}

fn eval_call(
    function: &'static Function,
    args: &[Expr],
    row: &[Value],
    env: &Env<'_>,
) -> Result<Value> {
    let mut values = Vec::with_capacity(args.len());
    for arg in args {
        let value = arg.eval(row, env)?;
        if function.strict && value.is_null() {
            return Ok(Value::Null);
        }
        values.push(value);
    }
    if values.iter().any(Value::is_pending) {
        return difference(function, &values).ok_or_else(not_known);
    }
    env.charge(match function.eval {
        Eval::Pure(eval) => eval(env, &values)?,
        Eval::Host => env.host.call(function, &values, env)?,
    })
}

/// Only the branch taken is evaluated: queries guard pg_current_wal_lsn() with CASE.
fn eval_case(
    operand: Option<&Expr>,
    branches: &[(Expr, Expr)],
    otherwise: Option<&Expr>,
    row: &[Value],
    env: &Env<'_>,
) -> Result<Value> {
    let operand = operand.map(|operand| operand.known(row, env)).transpose()?;
    for (when, then) in branches {
        let when = when.known(row, env)?;
        let taken = match &operand {
            Some(operand) => compare(Comparison::Eq, operand, &when),
            None => when,
        };
        if taken == Value::Bool(true) {
            return then.eval(row, env);
        }
    }
    otherwise.map_or(Ok(Value::Null), |otherwise| otherwise.eval(row, env))
}

/// The difference of two positions one of which is not known yet.
fn difference(function: &Function, values: &[Value]) -> Option<Value> {
    // The operator, and pg_wal_lsn_diff().
    if function.args != [Type::Lsn, Type::Lsn] || function.result != Type::Numeric {
        return None;
    }
    let pending = match values {
        [Value::Pending(pending), Value::Lsn(lsn)] => pending.bytes_after(*lsn),
        [Value::Lsn(lsn), Value::Pending(pending)] => pending.bytes_before(*lsn),
        _ => None,
    };
    pending.map(Value::Pending)
}

/// Compares two values of which one may be not known yet.
fn compare_pending(comparison: Comparison, left: Value, right: Value) -> Result<Value> {
    let pending = match (left, right) {
        (Value::Null, _) | (_, Value::Null) => return Ok(Value::Null),
        (Value::Pending(_), Value::Pending(_)) => None,
        (Value::Pending(pending), right) => pending.compare(comparison, right),
        (left, Value::Pending(pending)) => pending.compare(comparison.mirrored(), left),
        (left, right) => return Ok(compare(comparison, &left, &right)),
    };
    pending.map(Value::Pending).ok_or_else(not_known)
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

/// Steps that making a regular expression counts for.
const REGEX_STEPS: usize = 1000;
/// Bytes of memory that one may take.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// A pattern, whether it has regard to case, and what was made of it.
type LastRegex = Option<(String, bool, Regex)>;

thread_local! {
    /// The last one: a query asks the same of each row.
    static LAST_REGEX: RefCell<LastRegex> = const { RefCell::new(None) };
}

/// `~`: PostgreSQL's advanced regular expressions, as far as they are also those of the crate, which has no
/// references back. PostgreSQL: `textregexeq`, `RE_compile_and_cache` (src/backend/utils/adt/regexp.c).
fn matches(text: &str, pattern: &str, fold_case: bool, env: &Env<'_>) -> Result<bool> {
    env.work(text.len().saturating_mul(4))?;
    LAST_REGEX.with_borrow_mut(|last| {
        let is_it =
            last.as_ref().is_some_and(|(known, folds, _)| known == pattern && *folds == fold_case);
        if !is_it {
            for _ in 0..REGEX_STEPS {
                env.step()?;
            }
            let mut builder = RegexBuilder::new(pattern);
            builder.case_insensitive(fold_case).size_limit(REGEX_BYTES_MAX);
            let regex = builder.dot_matches_new_line(true).build().map_err(|error| {
                let message = format!("invalid regular expression: {error}");
                fail(INVALID_REGULAR_EXPRESSION, message)
            })?;
            *last = Some((pattern.to_owned(), fold_case, regex));
        }
        Ok(last.as_ref().is_some_and(|(_, _, regex)| regex.is_match(text)))
    })
}

/// LIKE with `%`, `_` and backslash. PostgreSQL: `MatchText` (src/backend/utils/adt/like_match.c).
fn like(text: &str, pattern: &str, fold_case: bool, env: &Env<'_>) -> Result<bool> {
    #[derive(PartialEq)]
    enum Token {
        Any,
        One,
        Char(char),
    }
    // Each character is looked at, and kept in four bytes.
    env.work((text.len() + pattern.len()).saturating_mul(16))?;
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
        env.step()?;
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
