//! Gives expressions the type that their context asks for.
//!
//! PostgreSQL: src/backend/parser/parse_coerce.c.

use jiff::tz::TimeZone;
use sqlparser::ast;
use walhub_proto::sqlstate::SqlState;

use crate::bind::{Binder, Scope, no_operator};
use crate::failure::{CANNOT_COERCE, Result, fail, unsupported};
use crate::plan::{Expr, Node};
use crate::value::Value;
use crate::value::types::Type;

impl Binder<'_> {
    /// A type, and the scale of `numeric(p, s)`.
    pub(crate) fn data_type(&self, data_type: &ast::DataType) -> Result<(Type, Option<u32>)> {
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
    pub(crate) fn cast(&mut self, operand: Expr, ty: Type, scale: Option<u32>) -> Result<Expr> {
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
    pub(crate) fn coerce(&mut self, expr: Expr, ty: Type) -> Result<Expr> {
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
    pub(crate) fn widens(own: Type, ty: Type) -> bool {
        own.is_number() && ty.is_number()
    }

    /// Gives an expression without a type one: text.
    pub(crate) fn settled(&mut self, scope: &mut Scope, expr: &ast::Expr) -> Result<Box<Expr>> {
        let bound = self.bind(scope, expr)?;
        self.settle(bound).map(Box::new)
    }

    /// As [`Binder::settled`], for a bound one.
    pub(crate) fn settle(&mut self, expr: Expr) -> Result<Expr> {
        if expr.ty == Type::Unknown { self.coerce(expr, Type::Text) } else { Ok(expr) }
    }

    /// Brings all to their common type. PostgreSQL: `select_common_type`.
    pub(crate) fn unify(&mut self, all: Vec<Expr>, what: &str) -> Result<(Vec<Expr>, Type)> {
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
    pub(crate) fn condition(&mut self, expr: Expr, clause: &str) -> Result<Expr> {
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

    pub(crate) fn same_type(
        &mut self,
        left: Expr,
        symbol: &str,
        right: Expr,
    ) -> Result<(Box<Expr>, Box<Expr>)> {
        let common = left.ty.common(right.ty).ok_or_else(|| no_operator(symbol, &left, &right))?;
        let common = if common == Type::Unknown { Type::Text } else { common };
        let is_comparable =
            common.is_ordered() || (common == Type::Xid && matches!(symbol, "=" | "<>"));
        if !is_comparable {
            return Err(no_operator(symbol, &left, &right));
        }
        Ok((Box::new(self.coerce(left, common)?), Box::new(self.coerce(right, common)?)))
    }
}
