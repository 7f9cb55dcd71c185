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
    /// FROM: where rows come from.
    pub source: Source,
    /// WHERE: which rows count.
    pub filter: Option<Expr>,
    /// GROUP BY, and the aggregates.
    pub grouping: Option<Grouping>,
    /// HAVING: which groups count.
    pub having: Option<Expr>,
    /// What follows SELECT, and what rows are sorted by beside that.
    pub outputs: Vec<Output>,
    /// How many of `outputs` the client sees.
    pub visible: usize,
    /// DISTINCT: of equal rows, only one.
    pub distinct: bool,
    /// ORDER BY: the keys, most significant first.
    pub order: Vec<SortKey>,
    /// LIMIT: how many rows at most.
    pub limit: Option<Expr>,
    /// OFFSET: how many rows are left out first.
    pub offset: Option<Expr>,
    /// Whether it names columns of the row of the query that it is an expression of.
    pub uses_outer: bool,
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
    /// VALUES: rows of expressions.
    Values(Vec<Vec<Expr>>),
    /// generate_series of these two or three numbers.
    Series(Vec<Expr>),
    /// Each row of one with each of the other: the columns of the left come first.
    Join(Box<Join>),
}

/// Two sources.
#[derive(Clone, PartialEq, Debug)]
pub struct Join {
    /// Whose columns come first.
    pub left: Source,
    /// Whose columns come after them.
    pub right: Source,
    /// ON: which pairs count; all of them without it.
    pub on: Option<Expr>,
    /// LEFT JOIN: a row of the left that has no match stays, with so many NULLs.
    pub nulls: Option<usize>,
}

/// GROUP BY and the aggregates; the row after it is the keys, then the aggregates.
#[derive(Clone, PartialEq, Debug)]
pub struct Grouping {
    /// GROUP BY: rows that agree in these are one group.
    pub keys: Vec<Expr>,
    /// The aggregates of the query.
    pub aggregates: Vec<AggregateCall>,
}

/// A column of the result.
#[derive(Clone, PartialEq, Debug)]
pub struct Output {
    /// Name of the column.
    pub name: String,
    /// What the column shows.
    pub expr: Expr,
}

/// Orders by the output of that index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SortKey {
    /// Index of the output.
    pub output: usize,
    /// Ascending or descending, and where NULLs go.
    pub direction: Direction,
}

/// ASC or DESC, and where NULL goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Direction {
    /// DESC: the largest first.
    pub descending: bool,
    /// NULLS FIRST: NULLs before all others.
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
#[derive(Clone, PartialEq, Debug)]
pub enum Node {
    /// A value that is known.
    Const(Value),
    /// A column of the row.
    Column(usize),
    /// A column of the row of a query around this one.
    Outer {
        /// Which query: the outermost is 0.
        level: usize,
        /// Which of its columns.
        column: usize,
    },
    /// A parameter, counted from zero.
    Param(usize),
    /// An aggregate of the query; replaced by a column before anything is evaluated.
    Aggregate(usize),
    /// A function or an operator, and its arguments.
    Call(&'static Function, Vec<Expr>),
    /// To the type of the expression; with a scale for `numeric(p, s)`.
    Cast(Box<Expr>, Option<u32>),
    /// One of the six comparisons of two operands.
    Compare(Comparison, Box<Expr>, Box<Expr>),
    /// IS \[NOT\] DISTINCT FROM.
    Distinct {
        /// One operand.
        left: Box<Expr>,
        /// The other, of the same type.
        right: Box<Expr>,
        /// IS NOT DISTINCT FROM.
        negated: bool,
    },
    /// True when both are, false when one is false, NULL else.
    And(Box<Expr>, Box<Expr>),
    /// True when one is, false when both are false, NULL else.
    Or(Box<Expr>, Box<Expr>),
    /// The opposite; NULL stays NULL.
    Not(Box<Expr>),
    /// IS \[NOT\] NULL.
    IsNull {
        /// What is looked at.
        operand: Box<Expr>,
        /// IS NOT NULL.
        negated: bool,
    },
    /// IS \[NOT\] TRUE and IS \[NOT\] FALSE.
    IsBool {
        /// What is looked at.
        operand: Box<Expr>,
        /// Whether TRUE is asked for, or FALSE.
        wanted: bool,
        /// With NOT.
        negated: bool,
    },
    /// \[NOT\] IN, with a list.
    In {
        /// What is looked for.
        operand: Box<Expr>,
        /// Where it is looked for.
        list: Vec<Expr>,
        /// NOT IN.
        negated: bool,
    },
    /// \[NOT\] IN, with a query of one column.
    InQuery {
        /// What is looked for.
        operand: Box<Expr>,
        /// The query whose rows it is looked for in.
        plan: Arc<Plan>,
        /// NOT IN.
        negated: bool,
    },
    /// \[NOT\] BETWEEN; both bounds are inside.
    Between {
        /// What is compared.
        operand: Box<Expr>,
        /// The lower bound.
        low: Box<Expr>,
        /// The upper bound.
        high: Box<Expr>,
        /// NOT BETWEEN.
        negated: bool,
    },
    /// \[NOT\] LIKE and \[NOT\] ILIKE.
    Like {
        /// The text.
        operand: Box<Expr>,
        /// The pattern, with `%`, `_` and the escape `\`.
        pattern: Box<Expr>,
        /// ILIKE: upper and lower case are the same.
        fold_case: bool,
        /// With NOT.
        negated: bool,
    },
    /// CASE.
    Case {
        /// What each WHEN is compared with; without it, each WHEN is a condition.
        operand: Option<Box<Expr>>,
        /// WHEN and THEN.
        branches: Vec<(Expr, Expr)>,
        /// ELSE; NULL without it.
        otherwise: Option<Box<Expr>>,
    },
    /// COALESCE: the first that is not NULL.
    Coalesce(Vec<Expr>),
    /// NULLIF: NULL when both are equal, else the first.
    NullIf(Box<Expr>, Box<Expr>),
    /// GREATEST or LEAST: the one that compares so to all others.
    Extreme(Ordering, Vec<Expr>),
    /// A query in parentheses: the one value of its one row, or NULL without a row.
    Scalar(Arc<Plan>),
    /// ARRAY and a query in parentheses: the values of its one column.
    Array(Arc<Plan>),
    /// `~`, and what PostgreSQL has around it.
    Matches {
        /// The text.
        operand: Box<Expr>,
        /// The regular expression.
        pattern: Box<Expr>,
        /// `~*`: upper and lower case are the same.
        fold_case: bool,
        /// `!~`
        negated: bool,
    },
    /// \[NOT\] EXISTS.
    Exists {
        /// The query, of which one row is enough.
        plan: Arc<Plan>,
        /// NOT EXISTS.
        negated: bool,
    },
}

impl Expr {
    /// Whether a query in it, outside of its operands, names columns of the row that it is evaluated over.
    pub fn has_correlated_query(&self) -> bool {
        match &self.node {
            Node::Scalar(plan)
            | Node::Array(plan)
            | Node::Exists { plan, .. }
            | Node::InQuery { plan, .. } => plan.uses_outer,
            _ => false,
        }
    }

    /// An expression of that type.
    pub const fn new(ty: Type, node: Node) -> Self {
        Self { ty, node }
    }

    /// An expression of type boolean.
    pub const fn bool(node: Node) -> Self {
        Self { ty: Type::Bool, node }
    }

    /// Its direct operands, to be rewritten.
    pub fn operands_mut(&mut self) -> Vec<&mut Self> {
        match &mut self.node {
            Node::Const(_)
            | Node::Column(_)
            | Node::Param(_)
            | Node::Aggregate(_)
            | Node::Outer { .. }
            | Node::Scalar(_)
            | Node::Array(_)
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
            Node::Like { operand, pattern, .. } | Node::Matches { operand, pattern, .. } => {
                vec![operand, pattern]
            }
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
    /// Which aggregate it is.
    pub aggregate: Aggregate,
    /// What is aggregated; `None` for `count(*)`.
    pub argument: Option<Expr>,
    /// What `string_agg` puts between two.
    pub delimiter: Option<Expr>,
    /// DISTINCT: of equal inputs, only one.
    pub distinct: bool,
    /// ORDER BY: in which order inputs are taken.
    pub order: Vec<(Expr, Direction)>,
    /// FILTER: which rows count.
    pub filter: Option<Expr>,
    /// Type of the value.
    pub ty: Type,
}
