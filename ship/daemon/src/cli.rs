//! The command line: `walhub serve | status | stop | reload | demo`.

use std::process::ExitCode;

/// Runs the command that the process arguments name.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
