//! `auth_file`: users and their secrets as PgBouncer's userlist.txt has them.
//!
//! `"name" "secret"` a line; `""` in either is a quote; what follows the secret, and lines that begin with `;`, are
//! comments.
//!
//! PgBouncer: `load_auth_file`, "Authentication file format" (its manual).

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

/// A line that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadLine {
    /// From 1.
    pub number: usize,
    /// What is wrong with it; it does not contain a secret.
    pub reason: String,
}

/// The secret of each user; of two lines for one user the first counts.
///
/// # Errors
/// The first line that is neither empty, nor a comment, nor a user.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, BadLine> {
    let mut users = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        let bad = |reason: &str| BadLine { number: index + 1, reason: reason.to_owned() };
        let (name, rest) = quoted(line).map_err(|reason| bad(&format!("user name {reason}")))?;
        if name.is_empty() {
            return Err(bad("user name is empty"));
        }
        let (secret, _) =
            quoted(rest.trim_start()).map_err(|reason| bad(&format!("password {reason}")))?;
        users.entry(name).or_insert(secret);
    }
    Ok(users)
}

/// What stands in quotes at the beginning, and what follows.
fn quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut rest = text.strip_prefix('"').ok_or("does not begin with a double quote")?;
    let mut value = String::new();
    loop {
        let (before, after) = rest.split_once('"').ok_or("has no double quote at its end")?;
        value.push_str(before);
        match after.strip_prefix('"') {
            Some(after) => {
                value.push('"');
                rest = after;
            }
            None => return Ok((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_pgbouncers_manual() {
        let text = "\"username1\" \"password\" ...\n\
                    \"username2\" \"md5abcdef012342345\" ...\r\n\
                    ; a comment\n\
                    \n  \"user \"\"name\" \"SCRAM-SHA-256$<iterations>\"\n\
                    \"username1\" \"second\"\n\
                    \"empty\" \"\"";
        let users = parse(text).unwrap();
        assert_eq!(users.len(), 4);
        assert_eq!(users["username1"], "password");
        assert_eq!(users["username2"], "md5abcdef012342345");
        assert_eq!(users["user \"name"], "SCRAM-SHA-256$<iterations>");
        assert_eq!(users["empty"], "");
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named_without_its_secret() {
        for (text, number, reason) in [
            ("\"a\" \"b\"\nname \"secret\"", 2, "user name does not begin with a double quote"),
            ("\"name", 1, "user name has no double quote at its end"),
            ("\"\" \"secret\"", 1, "user name is empty"),
            ("\"a\" secret", 1, "password does not begin with a double quote"),
            ("\"a\" \"secret", 1, "password has no double quote at its end"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!((error.number, error.reason.as_str()), (number, reason), "{text}");
        }
    }
}
