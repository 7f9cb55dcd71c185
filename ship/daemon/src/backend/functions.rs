//! The functions that the server adds to the language: those that look at it, and those that change it.
//!
//! Each is one item: its name, its types and what it does.
//!
//! Not here: functions of numbers, time and text (`functions`).

use super::context::Context;
use walhub_sql::env::{Env, Function};
use walhub_sql::failure::Result;
use walhub_sql::value::Value;
use walhub_sql::value::types::Type;

macro_rules! call {
    // A pattern over the arguments, which the binder has cast to the declared types.
    ($ctx:pat_param, $env:pat_param, [$($pattern:pat),*] => $body:expr) => {
        |$ctx, $env, args| match args {
            [$($pattern),*] => $body,
            _ => unreachable!("argument types are the binder's"),
        }
    };
}

mod messages;
mod promotion;
mod roles;
mod session;
mod slots;
mod wal;

pub(super) use self::wal::{CONTROL_HINT, not_in_recovery};

type Call = fn(&Context<'_>, &Env<'_>, &[Value]) -> Result<Value>;

/// A function that the server evaluates.
pub(super) struct HostFunction {
    function: Function,
    call: Call,
}

const fn function(
    name: &'static str,
    args: &'static [Type],
    result: Type,
    call: Call,
) -> HostFunction {
    HostFunction { function: Function::host(name, args, result), call }
}

static TABLES: [&[HostFunction]; 6] = [
    wal::FUNCTIONS,
    messages::FUNCTIONS,
    slots::FUNCTIONS,
    promotion::FUNCTIONS,
    roles::FUNCTIONS,
    session::FUNCTIONS,
];

/// Those of that name.
pub(super) fn named(name: &str) -> Vec<&'static Function> {
    let all = TABLES.iter().flat_map(|table| table.iter()).map(|it| &it.function);
    all.filter(|function| function.name == name).collect()
}

/// What a function does that [`named`] has given.
pub(super) fn call_of(function: &'static Function) -> Call {
    let mut all = TABLES.iter().flat_map(|table| table.iter());
    match all.find(|it| std::ptr::eq(&raw const it.function, function)) {
        Some(found) => found.call,
        None => unreachable!("{} is not of this server", function.name),
    }
}
