//! The frontend/backend protocol, version 3: frames and fields.
//!
//! A decoder has three answers: `Ok(Some(message))`, `Ok(None)` (more bytes needed), `Err` (never
//! will be right).
//!
//! PostgreSQL: src/backend/libpq/pqcomm.c, documentation chapter "Frontend/Backend Protocol".

pub mod backend;
pub mod copy;
pub mod error_response;
pub mod frontend;
pub mod reader;
pub mod startup;
