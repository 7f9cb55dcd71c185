//! A statement from its text to its result.
//!
//! Not here: the messages around it (`session`), what transactions are (`transaction`).

use std::sync::Arc;

use walhub_proto::sqlstate::SqlState;

use super::activity;
use super::context::{Context, Names};
use super::emit::message_record;
use super::memory::{Account, Reservation};
use super::parameters;
use super::views::is_messages;
use walhub_hub::api::append::NewRecord;
use walhub_sql::bind::bind;
use walhub_sql::env::{Function, Relation};
use walhub_sql::failure::{Result, fail};
use walhub_sql::parse::utility::Utility;
use walhub_sql::parse::{self, Parsed, QUERY_LEN_MAX};
use walhub_sql::plan::{Expr, Node, Plan, Source};
use walhub_sql::value::Value;
use walhub_sql::value::row::Rows;
use walhub_sql::value::types::Type;

/// A statement whose names and types are resolved.
#[derive(Clone, Debug)]
pub(super) enum Statement {
    /// Nothing but space and comments.
    Empty,
    Query(Arc<Plan>),
    Utility(Utility),
}

/// A statement, its parameters and its text.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) statement: Statement,
    pub(super) sql: Arc<str>,
    /// The text as others may see it.
    pub(super) shown: Arc<str>,
    /// Declared OID and type of each parameter.
    pub(super) parameters: Vec<(u32, Type)>,
    /// Names and types of the result's columns; `None` when there is no result.
    pub(super) columns: Option<Vec<(String, Type)>>,
    /// When it does nothing but emit one message: with what.
    pub(super) message: Option<MessageShape>,
    /// How often it reads `walhub.messages`.
    pub(super) message_scans: usize,
    /// The relations that it reads, and the functions of the server that it calls.
    pub(super) relations: Vec<&'static Relation>,
    pub(super) functions: Vec<&'static Function>,
    /// What it takes, for as long as anybody has it.
    _memory: Reservation,
}

/// Bytes of memory that a statement of that text takes once it is resolved: the text, the values of its literals, and
/// a tree, which is several times as large as the text outside them.
const fn cost(len: usize) -> usize {
    let outside_literals = if len < QUERY_LEN_MAX { len } else { QUERY_LEN_MAX };
    3 * len + 8 * outside_literals
}

/// The arguments of `SELECT pg_logical_emit_message(...)`, each a parameter or a constant.
#[derive(Clone, Debug)]
pub(super) struct MessageShape {
    pub(super) arguments: Vec<Argument>,
}

/// A parameter, counted from zero, or a constant that is not NULL.
#[derive(Clone, Debug)]
pub(super) enum Argument {
    Parameter(usize, Type),
    Constant(Value),
}

impl MessageShape {
    /// The message, when every argument is a constant, and whether to flush it.
    pub(super) fn constant(&self) -> Option<Result<(NewRecord, bool)>> {
        let constant = |argument: &Argument| match argument {
            Argument::Constant(value) => Some(value.clone()),
            Argument::Parameter(..) => None,
        };
        let arguments: Vec<Value> = self.arguments.iter().map(constant).collect::<Option<_>>()?;
        let (flush, arguments) = match &*arguments {
            [arguments @ .., Value::Bool(flush)] => (*flush, arguments),
            arguments => (false, arguments),
        };
        let record = match arguments {
            [Value::Bool(transactional), Value::Text(prefix), Value::Text(content)] => {
                message_record(*transactional, prefix, content.as_bytes())
            }
            [Value::Bool(transactional), Value::Text(prefix), Value::Bytes(content)] => {
                message_record(*transactional, prefix, content)
            }
            _ => return None,
        };
        Some(record.map(|record| (record, flush)))
    }

    /// The shape of a plan, when it has it.
    fn of(plan: &Plan, parameters: &[(u32, Type)]) -> Option<Self> {
        let [output] = &*plan.outputs else { return None };
        let plain = plan.source == Source::Nothing
            && plan.filter.is_none()
            && plan.grouping.is_none()
            && plan.having.is_none()
            && plan.limit.is_none()
            && plan.offset.is_none();
        let Node::Call(function, args) = &output.expr.node else { return None };
        if !plain || function.name != "pg_logical_emit_message" {
            return None;
        }
        let argument = |arg: &Expr| match &arg.node {
            Node::Param(index) => parameters
                .get(*index)
                .filter(|(_, ty)| *ty == arg.ty)
                .map(|(_, ty)| Argument::Parameter(*index, *ty)),
            Node::Const(value) if !value.is_null() => Some(Argument::Constant(value.clone())),
            _ => None,
        };
        Some(Self { arguments: args.iter().map(argument).collect::<Option<_>>()? })
    }
}

/// Sets memory aside for taking a text apart and resolving it, which keeps several copies of it.
pub(super) fn room_to_parse(account: &Arc<Account>, len: usize) -> Result<Reservation> {
    account.reserve(cost(len))
}

/// Resolves a statement, which is `len` bytes of the text. `declared` are the parameter types that the client gave, 0
/// for none.
pub(super) fn prepare(
    parsed: Option<Parsed>,
    sql: &Arc<str>,
    len: usize,
    declared: &[u32],
    account: &Arc<Account>,
) -> Result<Prepared> {
    let _memory = account.reserve(cost(len))?;
    let mut types = Vec::with_capacity(declared.len());
    for oid in declared {
        types.push(Type::from_oid(*oid).ok_or_else(|| {
            walhub_sql::failure::unsupported(format_args!("a parameter of the type with OID {oid}"))
        })?);
    }
    let (mut types, mut message_scans) = (types, 0);
    let (mut relations, mut functions) = (Vec::new(), Vec::new());
    let statement = match parsed {
        None => Statement::Empty,
        Some(Parsed::Query(query)) => {
            let bound = bind(&query, sql, types, &Names)?;
            message_scans = bound.relations.iter().filter(|it| is_messages(it)).count();
            types = bound.parameters;
            (relations, functions) = (bound.relations, bound.functions);
            Statement::Query(Arc::new(bound.plan))
        }
        Some(Parsed::Utility(utility)) => Statement::Utility(utility),
        Some(Parsed::Unsupported(name)) => return Err(parse::unsupported_command(&name)),
    };
    let parameters = types.iter().enumerate().map(|(index, ty)| {
        let ty = if *ty == Type::Unknown { Type::Text } else { *ty };
        let oid = declared.get(index).copied().filter(|oid| *oid != 0 && *oid != 705);
        (oid.unwrap_or_else(|| ty.oid()), ty)
    });
    let parameters: Vec<(u32, Type)> = parameters.collect();
    let message = match &statement {
        Statement::Query(plan) => MessageShape::of(plan, &parameters),
        Statement::Utility(_) | Statement::Empty => None,
    };
    let columns = columns(&statement);
    Ok(Prepared {
        parameters,
        columns,
        message,
        message_scans,
        relations,
        functions,
        statement,
        shown: activity::shown(sql),
        sql: sql.clone(),
        _memory,
    })
}

fn columns(statement: &Statement) -> Option<Vec<(String, Type)>> {
    match statement {
        Statement::Query(plan) => {
            Some(plan.columns().map(|(name, ty)| (name.to_owned(), ty)).collect())
        }
        Statement::Utility(Utility::Show(Some(name))) => {
            Some(vec![(parameters::canonical_name(name), Type::Text)])
        }
        Statement::Utility(Utility::Show(None)) => {
            let columns = ["name", "setting", "description"];
            Some(columns.map(|name| (name.to_owned(), Type::Text)).to_vec())
        }
        Statement::Utility(Utility::WaitFor(_)) => Some(vec![("status".to_owned(), Type::Text)]),
        Statement::Utility(_) | Statement::Empty => None,
    }
}

impl Prepared {
    /// Whether its text may hold a password.
    pub(super) const fn is_about_roles(&self) -> bool {
        matches!(self.statement, Statement::Utility(Utility::Role(_)))
    }

    /// Whether it may run in a failed transaction. PostgreSQL: `IsTransactionExitStmt`.
    pub(super) const fn ends_transaction(&self) -> bool {
        matches!(
            self.statement,
            Statement::Utility(
                Utility::Commit { .. } | Utility::Rollback { .. } | Utility::RollbackTo(_)
            )
        )
    }
}

/// Whether a parsed statement may run in a failed transaction.
pub(super) const fn may_end_transaction(parsed: Option<&Parsed>) -> bool {
    matches!(
        parsed,
        None | Some(Parsed::Utility(
            Utility::Commit { .. } | Utility::Rollback { .. } | Utility::RollbackTo(_)
        ))
    )
}

/// The rows of SHOW.
pub(super) fn show(ctx: &Context<'_>, name: Option<&str>) -> Result<Rows> {
    match name {
        Some(name) => Ok(vec![vec![Value::Text(ctx.show(name)?)]]),
        None => Ok(parameters::all(ctx)
            .into_iter()
            .map(|row| {
                let shown = ctx.show_opt(&row.name);
                let shown = Value::or_null(shown, Value::Text);
                vec![Value::Text(row.name), shown, Value::Text(row.short_desc)]
            })
            .collect()),
    }
}

/// The error for a statement in a failed transaction.
pub(super) fn aborted() -> walhub_sql::failure::Failure {
    fail(
        SqlState::IN_FAILED_SQL_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}
