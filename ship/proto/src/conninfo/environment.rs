//! What a program knows from elsewhere than from the connection string.

use alloc::string::String;

/// What completes a connection string.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// An environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The text of a file, when it exists.
    pub read_file: &'a dyn Fn(&str) -> Option<String>,
    /// Name of the operating system user.
    pub os_user: Option<&'a str>,
    /// That user's home directory.
    pub home: Option<&'a str>,
}
