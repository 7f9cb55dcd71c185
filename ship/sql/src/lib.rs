//! A small SELECT over rows: the language of walhub's SQL console.
//!
//! From text to rows: `parse` reads it, `bind` resolves names and types into a `plan`, `run` evaluates that in an
//! `env`, which is all that a statement sees of the world. Everything is bounded: text, tokens, depth, steps, bytes.
//!
//! Not here: a server. Its relations and functions come in through the traits of `env`; sessions, transactions and the
//! protocol around statements are the daemon's (`backend`).

#![forbid(unsafe_code)]

pub mod bind;
pub mod copy_rows;
pub mod env;
pub mod failure;
mod functions;
pub mod parse;
pub mod plan;
pub mod run;
pub mod value;
