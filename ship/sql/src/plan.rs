//! A bound query as data: every name and type is resolved.
//!
//! Not here: how it came about (`bind`), running it (`query`, `expr`, `aggregate`).

use std::cmp::Ordering;
use std::sync::Arc;

use crate::env::{Function, Relation};
use crate::value::Value;
use crate::value::comparison::Comparison;
use crate::value::types::Type;

/// A query with every name and type resolved.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// FROM.
    pub source: Source,
    /// WHERE.
    pub filter: Option<Expr>,
    /// GROUP BY, and the aggregates.
    pub grouping: Option<Grouping>,
    /// HAVING.
    pub having: Option<Expr>,
    /// What follows SELECT, and what rows are sorted by beside that.
    pub outputs: Vec<Output>,
    /// How many of `outputs` the client sees.
    pub visible: usize,
    /// SELECT DISTINCT.
    pub distinct: bool,
    /// ORDER BY.
    pub order: Vec<SortKey>,
    /// LIMIT.
    pub limit: Option<Expr>,
    /// OFFSET.
    pub offset: Option<Expr>,
}

/// Where the rows come from.
#[derive(Clone, PartialEq, Debug)]
pub enum Source {
    /// No FROM: one row without columns.
    Nothing,
    /// A relation of the server.
    Relation(&'static Relation),
    /// A query in FROM, or one of WITH.
    Query(Arc<Plan>),
    /// VALUES.
    Values(Vec<Vec<Expr>>),
    /// generate_series of these two or three numbers.
    Series(Vec<Expr>),
}

/// GROUP BY and the aggregates; the row after it is the keys, then the aggregates.
#[derive(Clone, PartialEq, Debug)]
pub struct Grouping {
    /// GROUP BY.
    pub keys: Vec<Expr>,
    /// The aggregates of the query.
    pub aggregates: Vec<AggregateCall>,
}

/// A column of the result.
#[derive(Clone, PartialEq, Debug)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its value.
    pub expr: Expr,
}

/// Orders by the output of that index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SortKey {
    /// Index of the output.
    pub output: usize,
    /// ASC or DESC.
    pub direction: Direction,
}

/// ASC or DESC, and where NULL goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Direction {
    /// DESC.
    pub descending: bool,
    /// NULLS FIRST.
    pub nulls_first: bool,
}

impl Direction {
    /// How two values order.
    pub fn compare(self, left: &Value, right: &Value) -> Ordering {
        match (left.is_null(), right.is_null()) {
            (true, true) => Ordering::Equal,
            (true, false) if self.nulls_first => Ordering::Less,
            (true, false) => Ordering::Greater,
            (false, true) if self.nulls_first => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) if self.descending => right.compare(left),
            (false, false) => left.compare(right),
        }
    }
}

impl Plan {
    /// Names and types of the columns that the client sees.
    pub fn columns(&self) -> impl Iterator<Item = (&str, Type)> {
        self.outputs.iter().take(self.visible).map(|output| (&*output.name, output.expr.ty))
    }
}

/// An expression and its type.
#[derive(Clone, PartialEq, Debug)]
pub struct Expr {
    /// Type of the value.
    pub ty: Type,
    /// How it comes about.
    pub node: Node,
}

/// What an expression does.
#[allow(missing_docs, reason = "each is the syntax of its name, and its operands")]
#[derive(Clone, PartialEq, Debug)]
pub enum Node {
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

impl Expr {
    /// An expression of that type.
    pub const fn new(ty: Type, node: Node) -> Self {
        Self { ty, node }
    }

    /// A boolean expression.
    pub const fn bool(node: Node) -> Self {
        Self { ty: Type::Bool, node }
    }

    /// The direct operands.
    pub fn operands_mut(&mut self) -> Vec<&mut Self> {
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
}

/// Which aggregate it is.
#[allow(missing_docs, reason = "each is the aggregate of its name")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aggregate {
    /// `count(*)` and `count(x)`.
    Count,
    Sum,
    Avg,
    Min,
    Max,
    StringAgg,
    ArrayAgg,
    BoolAnd,
    BoolOr,
}

impl Aggregate {
    /// The aggregate of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "count" => Self::Count,
            "sum" => Self::Sum,
            "avg" => Self::Avg,
            "min" => Self::Min,
            "max" => Self::Max,
            "string_agg" => Self::StringAgg,
            "array_agg" => Self::ArrayAgg,
            "bool_and" | "every" => Self::BoolAnd,
            "bool_or" => Self::BoolOr,
            _ => return None,
        })
    }

    /// The type that its first argument is cast to and the type of its result, for an argument of
    /// type `arg`; `None` when there is no such aggregate.
    pub fn signature(self, arg: Type) -> Option<(Type, Type)> {
        match (self, arg) {
            (Self::Count, Type::Unknown) => Some((Type::Text, Type::Int8)),
            (Self::Count, arg) => Some((arg, Type::Int8)),
            (Self::Sum, Type::Int2 | Type::Int4) => Some((arg, Type::Int8)),
            (Self::Sum | Self::Avg, Type::Int2 | Type::Int4 | Type::Int8 | Type::Numeric) => {
                Some((Type::Numeric, Type::Numeric))
            }
            (Self::Sum | Self::Avg, Type::Float8 | Type::Interval) => Some((arg, arg)),
            (Self::Min | Self::Max, Type::Unknown | Type::Name) => Some((Type::Text, Type::Text)),
            (Self::Min | Self::Max, Type::Bool | Type::Void | Type::Xid) => None,
            (Self::Min | Self::Max, arg) => Some((arg, arg)),
            (Self::StringAgg, arg) => {
                arg.implicit_cost(Type::Text).map(|_| (Type::Text, Type::Text))
            }
            (Self::ArrayAgg, Type::Text | Type::Unknown) => Some((Type::Text, Type::TextArray)),
            (Self::BoolAnd | Self::BoolOr, Type::Bool | Type::Unknown) => {
                Some((Type::Bool, Type::Bool))
            }
            _ => None,
        }
    }
}

/// One aggregate of a query.
#[derive(Clone, PartialEq, Debug)]
pub struct AggregateCall {
    /// Which one.
    pub aggregate: Aggregate,
    /// `None` for `count(*)`.
    pub argument: Option<Expr>,
    /// Of string_agg.
    pub delimiter: Option<Expr>,
    /// DISTINCT.
    pub distinct: bool,
    /// ORDER BY.
    pub order: Vec<(Expr, Direction)>,
    /// FILTER.
    pub filter: Option<Expr>,
    /// Type of the value.
    pub ty: Type,
}
