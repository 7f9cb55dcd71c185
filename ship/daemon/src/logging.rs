//! Log lines that a PostgreSQL DBA can read.

use std::io;

/// What `%m` of a C format would show: the system's words without Rust's number.
#[must_use]
pub fn os_error(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
