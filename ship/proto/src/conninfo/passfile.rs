//! `.pgpass`: `host:port:database:user:password` a line, `*` for any, `\` before `:` and `\`.
//!
//! PostgreSQL: `passwordFromFile`, `pwdfMatchesString` (src/interfaces/libpq/fe-connect.c).

use alloc::string::String;

use super::DEFAULT_SOCKET_DIRECTORY;

/// The password that the text of a password file has for a connection; one for replication is to the database `replication`.
///
/// `host` is the host name, or the address when there is no name.
#[must_use]
pub fn find_password(
    text: &str,
    host: &str,
    port: &str,
    database: &str,
    user: &str,
) -> Option<String> {
    let host = if matches!(host, "" | DEFAULT_SOCKET_DIRECTORY) { "localhost" } else { host };
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let line = line.trim_end_matches(['\r', '\n']);
        let rest = match_field(line, host)?;
        let rest = match_field(rest, port)?;
        let rest = match_field(rest, database)?;
        match_field(rest, user).map(unescape)
    })
}

/// What follows the first field, when that field is `*` or `token`.
fn match_field<'a>(line: &'a str, token: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut line = line.chars();
    for want in token.chars() {
        let got = match line.next()? {
            '\\' => line.next()?,
            got => got,
        };
        if got != want {
            return None;
        }
    }
    line.as_str().strip_prefix(':')
}

fn unescape(field: &str) -> String {
    let mut value = String::new();
    let mut chars = field.chars();
    while let Some(c) = chars.next().filter(|&c| c != ':') {
        let escaped = if c == '\\' { chars.next() } else { None };
        value.push(escaped.unwrap_or(c));
    }
    value
}
