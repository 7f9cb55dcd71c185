//! What a statement sees of the world while it is resolved and while it runs.
//!
//! The language knows no server. A server adds relations and functions to it: their names and types are a
//! [`Catalog`], and their rows and effects are a [`Host`]. Everything else that a statement depends on is in its
//! [`Env`]: limits, the time zone, the values of its parameters.
//!
//! Not here: what the language has of its own (`functions`).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::tz::TimeZone;

use walhub_proto::convert::to_u64;

use crate::failure::{
    PROGRAM_LIMIT_EXCEEDED, Result, STATEMENT_TOO_COMPLEX, canceled, fail, hinted, unsupported,
};
use crate::value::Value;
use crate::value::row::Rows;
use crate::value::types::Type;

/// Steps of evaluation in one statement.
const STEPS_MAX: u64 = 2_000_000;
/// Steps of evaluation where the session is, which take some hundred microseconds: other sessions wait meanwhile.
const STEPS_HERE_MAX: u64 = 10_000;
/// Elsewhere, after how many steps it looks whether it is still wanted.
const STEPS_BETWEEN_LOOKS: u64 = 1024;
/// Bytes that are copied or looked at in the time of a step.
const BYTES_A_STEP: usize = 1024;
/// Bytes of text that one statement may build.
const TEXT_BYTES_MAX: usize = 32 << 20;
/// Bytes of one text value.
pub const TEXT_LEN_MAX: usize = 1 << 20;

/// A relation of the server.
#[derive(Debug)]
pub struct Relation {
    /// The schema that it is in.
    pub schema: &'static str,
    /// Its name within the schema.
    pub name: &'static str,
    /// Names and types of its columns.
    pub columns: &'static [(&'static str, Type)],
    /// Columns of later majors, after the others. They can be named, and `*` leaves them out.
    pub later: &'static [(&'static str, Type)],
}

impl PartialEq for Relation {
    fn eq(&self, other: &Self) -> bool {
        self.schema == other.schema && self.name == other.name
    }
}

/// How a function is evaluated.
pub enum Eval {
    /// By the language itself.
    Pure(fn(&Env<'_>, &[Value]) -> Result<Value>),
    /// The server runs it: it changes something, or looks at what changes.
    Host,
}

impl fmt::Debug for Eval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pure(_) => "Pure",
            Self::Host => "Host",
        })
    }
}

/// A function or an operator for one list of argument types.
#[derive(Debug)]
pub struct Function {
    /// Its name, in lower case.
    pub name: &'static str,
    /// Types of the arguments.
    pub args: &'static [Type],
    /// Names and defaults of the arguments, when a call may name them.
    pub named: &'static [(&'static str, Value)],
    /// The last argument may come any number of times.
    pub variadic: bool,
    /// Type of the value.
    pub result: Type,
    /// NULL when any argument is.
    pub strict: bool,
    /// How it is evaluated.
    pub eval: Eval,
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.args == other.args
    }
}

impl Function {
    /// A strict function that the language evaluates.
    pub const fn pure(
        name: &'static str,
        args: &'static [Type],
        result: Type,
        eval: fn(&Env<'_>, &[Value]) -> Result<Value>,
    ) -> Self {
        let eval = Eval::Pure(eval);
        Self { name, args, named: &[], variadic: false, result, strict: true, eval }
    }

    /// A strict function that the server evaluates.
    pub const fn host(name: &'static str, args: &'static [Type], result: Type) -> Self {
        let eval = Eval::Host;
        Self { name, args, named: &[], variadic: false, result, strict: true, eval }
    }
}

/// The names that a server adds to the language.
pub trait Catalog {
    /// The relation of that name.
    fn relation(&self, schema: &str, name: &str) -> Option<&'static Relation>;

    /// The functions of that name, in lower case.
    fn functions(&self, name: &str) -> Vec<&'static Function>;
}

/// What a relation has for a statement.
#[derive(Default)]
pub struct Scan {
    /// The rows, each as wide as the relation, later columns included.
    pub rows: Rows,
    /// Whether WHERE holds for all of the rows already.
    pub is_filtered: bool,
    /// How many rows there are, when the query asks for nothing else and `rows` is empty.
    pub count: Option<i64>,
    /// Whether the memory of the rows is counted by what has read them.
    pub is_counted: bool,
}

/// The server, as a running statement sees it.
pub trait Host {
    /// The rows of a relation of its catalog.
    fn scan(&self, relation: &'static Relation) -> Scan;

    /// Evaluates a function of its catalog.
    fn call(&self, function: &'static Function, args: &[Value], env: &Env<'_>) -> Result<Value>;

    /// Sets memory aside: the rows of the statement take so many bytes in all.
    fn grow_to(&self, bytes: usize) -> Result<()>;
}

/// How long a statement may take.
#[derive(Clone, Copy, Debug)]
pub enum Pace<'a> {
    /// A moment: it is on the sessions' thread.
    Here,
    /// As long as it is not asked to stop.
    Elsewhere(&'a AtomicBool),
}

/// All that a statement depends on.
pub struct Env<'a> {
    /// The server that the statement runs on.
    pub host: &'a dyn Host,
    /// The session's time zone.
    pub zone: &'a TimeZone,
    /// Values of `$1`, `$2`, ...
    pub arguments: &'a [Value],
    /// What is spent of the statement's limits.
    limits: Limits<'a>,
    /// The rows of the queries around the one that runs, the outermost first.
    outer: RefCell<Vec<Vec<Value>>>,
}

/// Steps and bytes of one statement so far.
struct Limits<'a> {
    pace: Pace<'a>,
    steps: Cell<u64>,
    /// After how many steps there is something to look at.
    look_at: Cell<u64>,
    /// It takes too long for where it is. Every further step fails.
    outgrown: Cell<bool>,
    text_bytes: Cell<usize>,
    /// Bytes of rows.
    held: Cell<usize>,
}

impl<'a> Limits<'a> {
    const fn new(pace: Pace<'a>) -> Self {
        let look_at = match pace {
            Pace::Here => STEPS_HERE_MAX,
            Pace::Elsewhere(_) => STEPS_BETWEEN_LOOKS,
        };
        Self {
            pace,
            steps: Cell::new(0),
            look_at: Cell::new(look_at),
            outgrown: Cell::new(false),
            text_bytes: Cell::new(0),
            held: Cell::new(0),
        }
    }

    #[cold]
    fn look(&self, steps: u64) -> Result<()> {
        if steps > STEPS_MAX {
            return Err(hinted(
                fail(STATEMENT_TOO_COMPLEX, "statement too complex"),
                "A statement of walhub's console may take 2 million steps.",
            ));
        }
        match self.pace {
            Pace::Here => {
                self.outgrown.set(true);
                Err(fail(STATEMENT_TOO_COMPLEX, "statement takes too long here"))
            }
            Pace::Elsewhere(stop) if stop.load(Ordering::Relaxed) => Err(canceled()),
            Pace::Elsewhere(_) => {
                self.look_at.set(STEPS_MAX.min(steps + STEPS_BETWEEN_LOOKS));
                Ok(())
            }
        }
    }
}

impl<'a> Env<'a> {
    /// Of a statement that begins.
    pub fn new(
        host: &'a dyn Host,
        zone: &'a TimeZone,
        arguments: &'a [Value],
        pace: Pace<'a>,
    ) -> Self {
        Self { host, zone, arguments, limits: Limits::new(pace), outer: RefCell::default() }
    }

    /// Evaluates a query that is an expression over `row`.
    pub fn within<T>(&self, row: Vec<Value>, run: impl FnOnce() -> Result<T>) -> Result<T> {
        self.outer.borrow_mut().push(row);
        let result = run();
        self.outer.borrow_mut().pop();
        result
    }

    /// A column of the row of a query around the one that runs.
    pub fn outer(&self, level: usize, column: usize) -> Result<Value> {
        let outer = self.outer.borrow();
        let value = outer.get(level).and_then(|row| row.get(column));
        let value = value.ok_or_else(|| unsupported("a column of an outer query here"))?;
        self.work(value.heap_len())?;
        Ok(value.clone())
    }

    /// Whether what came out is nothing but that it takes too long here.
    pub const fn is_outgrown(&self) -> bool {
        self.limits.outgrown.get()
    }

    /// Counts one step of evaluation.
    pub fn step(&self) -> Result<()> {
        self.steps(1)
    }

    fn steps(&self, count: u64) -> Result<()> {
        let steps = self.limits.steps.get().saturating_add(count);
        self.limits.steps.set(steps);
        if steps <= self.limits.look_at.get() { Ok(()) } else { self.limits.look(steps) }
    }

    /// Counts that so many bytes are copied, or looked at.
    pub fn work(&self, bytes: usize) -> Result<()> {
        match bytes / BYTES_A_STEP {
            0 => Ok(()),
            steps => self.steps(to_u64(steps)),
        }
    }

    /// Counts memory that rows take, until [`Env::release_to`].
    pub fn hold(&self, bytes: usize) -> Result<()> {
        let held = self.limits.held.get().saturating_add(bytes);
        self.limits.held.set(held);
        self.host.grow_to(held)
    }

    /// Bytes of rows now.
    pub const fn held(&self) -> usize {
        self.limits.held.get()
    }

    /// What is held beyond that is gone.
    pub fn release_to(&self, bytes: usize) {
        self.limits.held.set(bytes);
    }

    /// Counts the text that a value holds.
    pub fn charge(&self, value: Value) -> Result<Value> {
        let len = value.heap_len();
        if len == 0 {
            return Ok(value);
        }
        let total = self.limits.text_bytes.get().saturating_add(len);
        self.limits.text_bytes.set(total);
        if len > TEXT_LEN_MAX || total > TEXT_BYTES_MAX {
            return Err(fail(PROGRAM_LIMIT_EXCEEDED, "result of the statement is too large"));
        }
        Ok(value)
    }
}
