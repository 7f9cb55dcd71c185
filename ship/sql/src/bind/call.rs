//! Resolves functions, aggregates, and syntax that looks like them.
//!
//! PostgreSQL: src/backend/parser/parse_func.c, parse_agg.c.

use std::cmp::Ordering;

use sqlparser::ast;
use walhub_proto::sqlstate::SqlState;

use crate::bind::select::direction;
use crate::bind::{Binder, Scope, fold_name};
use crate::env::{Eval, Function};
use crate::failure::{GROUPING_ERROR, INVALID_COLUMN_REFERENCE, Result, fail, hinted, unsupported};
use crate::functions::{self, FUNCTIONS};
use crate::plan::{Aggregate, AggregateCall, Expr, Node};
use crate::value::Value;
use crate::value::types::Type;

impl Binder<'_> {
    /// Applies a function by name. PostgreSQL: `ParseFuncOrColumn`.
    pub(crate) fn call(&mut self, name: &str, args: Vec<Expr>) -> Result<Expr> {
        let types: Vec<Type> = args.iter().map(|arg| arg.ty).collect();
        let of_server = self.catalog.functions(name);
        let function = functions::resolve(of_server.iter().copied(), name, &types)
            .or_else(|| functions::resolve(FUNCTIONS, name, &types));
        if let Some(function) = function {
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
        let hint = if !of_server.is_empty() || functions::exists(name) {
            "No function matches the given name and argument types. You might need to add explicit \
             type casts."
        } else {
            "walhub has the WAL position functions of PostgreSQL, version(), current_setting(), \
             now(), the session functions, and common functions of numbers and text."
        };
        Err(hinted(fail(SqlState::UNDEFINED_FUNCTION, message), hint))
    }

    /// Casts the arguments to what the function takes.
    pub(crate) fn apply(&mut self, function: &'static Function, args: Vec<Expr>) -> Result<Expr> {
        if matches!(function.eval, Eval::Host) {
            self.functions.push(function);
        }
        let last = function.args.last().copied().unwrap_or(Type::Text);
        let wanted = function.args.iter().copied().chain(std::iter::repeat(last));
        let args: Result<Vec<Expr>> =
            args.into_iter().zip(wanted).map(|(arg, wanted)| self.coerce(arg, wanted)).collect();
        Ok(Expr::new(function.result, Node::Call(function, args?)))
    }

    /// What looks like a function and is syntax. PostgreSQL: `CoalesceExpr`, `MinMaxExpr`.
    pub(crate) fn bind_syntax(&mut self, name: &str, mut args: Vec<Expr>) -> Result<Expr> {
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

    /// A function, an aggregate, or syntax that looks like one.
    pub(crate) fn bind_function(
        &mut self,
        scope: &mut Scope,
        call: &ast::Function,
    ) -> Result<Expr> {
        let parts = fold_name(&call.name);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let first = call.name.0.first().and_then(ast::ObjectNamePart::as_ident);
        let name = match &*parts {
            [name] | ["pg_catalog", name] => *name,
            _ => {
                let message = format!("function {}() does not exist", parts.join("."));
                return Err(fail(SqlState::UNDEFINED_FUNCTION, message));
            }
        };
        if call.over.is_some() || !call.within_group.is_empty() || call.null_treatment.is_some() {
            return Err(unsupported("a window function or WITHIN GROUP"));
        }
        let (args, list) = match &call.args {
            ast::FunctionArguments::None => (Vec::new(), None),
            ast::FunctionArguments::Subquery(query) if name == "array" => {
                return self.bind_array_query(scope, query);
            }
            ast::FunctionArguments::Subquery(_) => {
                return Err(unsupported("a query as an argument"));
            }
            ast::FunctionArguments::List(list) => (self.arguments(name, list)?, Some(list)),
        };
        let located = |binder: &Self, failure| match first {
            Some(ident) => binder.at(failure, ident),
            None => failure,
        };
        if let Some(aggregate) = Aggregate::from_name(name) {
            let bound = self.bind_aggregate(scope, aggregate, name, call, list);
            return bound.map_err(|failure| match failure.position {
                None => located(self, failure),
                Some(_) => failure,
            });
        }
        let plain =
            list.is_none_or(|list| list.duplicate_treatment.is_none() && list.clauses.is_empty());
        if !plain || call.filter.is_some() {
            let message =
                format!("DISTINCT, ORDER BY and FILTER: {name} is not an aggregate function");
            return Err(located(self, fail(SqlState("42809"), message)));
        }
        let bound = args.into_iter().map(|arg| match arg {
            Argument::Expr(expr) => self.bind(scope, expr),
            Argument::Default(ty, value) => Ok(Expr::new(ty, Node::Const(value.clone()))),
            Argument::Star => Err(fail(
                SqlState("42809"),
                format!("{name}(*) specified, but {name} is not an aggregate function"),
            )),
        });
        let bound: Vec<Expr> = bound.collect::<Result<_>>()?;
        self.bind_syntax(name, bound).map_err(|failure| {
            if failure.sqlstate == SqlState::UNDEFINED_FUNCTION && failure.position.is_none() {
                located(self, failure)
            } else {
                failure
            }
        })
    }

    /// ARRAY(SELECT ...), of values that are text. PostgreSQL: `ARRAY_SUBLINK`.
    fn bind_array_query(&mut self, scope: &mut Scope, query: &ast::Query) -> Result<Expr> {
        let plan = self.bind_scalar_query(scope, query)?;
        let ty = plan.columns().next().map_or(Type::Text, |(_, ty)| ty);
        let array = match ty {
            _ if ty.is_string() => Type::TextArray,
            Type::Oid => Type::OidArray,
            _ => return Err(unsupported(format_args!("an array of {}", ty.sql_name()))),
        };
        Ok(Expr::new(array, Node::Array(plan)))
    }

    /// The arguments of a call in their places, also where it names some of them.
    ///
    /// PostgreSQL: `MatchNamedCall` (src/backend/catalog/namespace.c).
    fn arguments<'a>(
        &self,
        name: &str,
        list: &'a ast::FunctionArgumentList,
    ) -> Result<Vec<Argument<'a>>> {
        let is_named = |arg: &ast::FunctionArg| !matches!(arg, ast::FunctionArg::Unnamed(_));
        let function = self.catalog.functions(name).into_iter().max_by_key(|it| it.named.len());
        let Some(function) = function
            .filter(|function| !function.named.is_empty() && list.args.iter().any(is_named))
        else {
            let argument = |arg: Option<&'a ast::Expr>| arg.map_or(Argument::Star, Argument::Expr);
            return Ok(function_args(list)?.into_iter().map(argument).collect());
        };
        let mut given = vec![None; function.named.len()];
        for (position, arg) in list.args.iter().enumerate() {
            let (named, expr) = match arg {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) => (None, expr),
                ast::FunctionArg::Named { name, arg: ast::FunctionArgExpr::Expr(expr), .. } => {
                    (Some(name.to_string()), expr)
                }
                ast::FunctionArg::ExprNamed {
                    name, arg: ast::FunctionArgExpr::Expr(expr), ..
                } => (Some(name.to_string()), expr),
                _ => return Err(unsupported("a named argument")),
            };
            let position = named.map_or(Some(position), |named| {
                function.named.iter().position(|(known, _)| known.eq_ignore_ascii_case(&named))
            });
            let place = position.and_then(|position| given.get_mut(position));
            let Some(place) = place.filter(|place| place.is_none()) else {
                let message = format!("function {name} does not exist");
                return Err(fail(SqlState::UNDEFINED_FUNCTION, message));
            };
            *place = Some(expr);
        }
        let len = given.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let defaults = function.args.iter().zip(function.named);
        let argument =
            |(given, (ty, (_, default))): (Option<&'a ast::Expr>, (&Type, &'static _))| {
                given.map_or(Argument::Default(*ty, default), Argument::Expr)
            };
        Ok(given.into_iter().take(len).zip(defaults).map(argument).collect())
    }

    fn bind_aggregate(
        &mut self,
        scope: &mut Scope,
        aggregate: Aggregate,
        name: &str,
        call: &ast::Function,
        list: Option<&ast::FunctionArgumentList>,
    ) -> Result<Expr> {
        if let Some(clause) = scope.no_aggregates {
            let message = if clause == "an aggregate" {
                "aggregate function calls cannot be nested".to_owned()
            } else {
                format!("aggregate functions are not allowed in {clause}")
            };
            return Err(fail(GROUPING_ERROR, message));
        }
        scope.no_aggregates = Some("an aggregate");
        let bound = self.bind_aggregate_parts(scope, aggregate, name, call, list);
        scope.no_aggregates = None;
        let bound = bound?;
        let ty = bound.ty;
        let known = scope.aggregates.iter().position(|known| *known == bound);
        let index = known.unwrap_or_else(|| {
            scope.aggregates.push(bound);
            scope.aggregates.len() - 1
        });
        Ok(Expr::new(ty, Node::Aggregate(index)))
    }

    fn bind_aggregate_parts(
        &mut self,
        scope: &mut Scope,
        aggregate: Aggregate,
        name: &str,
        call: &ast::Function,
        list: Option<&ast::FunctionArgumentList>,
    ) -> Result<AggregateCall> {
        let args = list.map(function_args).transpose()?.unwrap_or_default();
        let mut bound: Vec<Option<Expr>> = Vec::new();
        for arg in &args {
            bound.push(arg.map(|expr| self.bind(scope, expr)).transpose()?);
        }
        let types: Vec<&str> =
            bound.iter().map(|arg| arg.as_ref().map_or("*", |arg| arg.ty.sql_name())).collect();
        let missing = || {
            let message = format!("function {name}({}) does not exist", types.join(", "));
            fail(SqlState::UNDEFINED_FUNCTION, message)
        };
        let wanted = if aggregate == Aggregate::StringAgg { 2 } else { 1 };
        if bound.len() != wanted {
            return Err(missing());
        }
        let mut bound = bound.into_iter();
        let (argument, ty) = match bound.next().flatten() {
            None if aggregate == Aggregate::Count => (None, Type::Int8),
            None => return Err(missing()),
            Some(argument) => {
                let (arg_ty, ty) = aggregate.signature(argument.ty).ok_or_else(missing)?;
                (Some(self.coerce(argument, arg_ty)?), ty)
            }
        };
        let delimiter = match bound.next().flatten() {
            Some(delimiter) => Some(self.coerce(delimiter, Type::Text)?),
            None => None,
        };
        let mut order = Vec::new();
        for clause in list.map(|list| &*list.clauses).unwrap_or_default() {
            let ast::FunctionArgumentClause::OrderBy(items) = clause else {
                return Err(unsupported("this clause of an aggregate"));
            };
            for item in items {
                let key = self.bind(scope, &item.expr)?;
                order.push((self.settle(key)?, direction(item)));
            }
        }
        let distinct = list.and_then(|list| list.duplicate_treatment)
            == Some(ast::DuplicateTreatment::Distinct);
        let sorts_by_argument =
            order.iter().all(|(key, _)| argument.as_ref().is_some_and(|argument| argument == key));
        if distinct && !sorts_by_argument {
            return Err(fail(
                INVALID_COLUMN_REFERENCE,
                "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list",
            ));
        }
        let filter = match &call.filter {
            Some(filter) => {
                let bound = self.bind(scope, filter)?;
                Some(self.condition(bound, "FILTER")?)
            }
            None => None,
        };
        Ok(AggregateCall { aggregate, argument, delimiter, distinct, order, filter, ty })
    }
}

/// What a function is called with.
enum Argument<'a> {
    Expr(&'a ast::Expr),
    /// `*`
    Star,
    /// What the call leaves out before an argument that it names.
    Default(Type, &'static Value),
}

/// The arguments; `None` is `*`.
fn function_args(list: &ast::FunctionArgumentList) -> Result<Vec<Option<&ast::Expr>>> {
    list.args
        .iter()
        .map(|arg| match arg {
            ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) => Ok(Some(expr)),
            ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Wildcard) => Ok(None),
            _ => Err(unsupported("a named argument")),
        })
        .collect()
}
