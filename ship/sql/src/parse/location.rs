//! Where in the text of a query something is, and errors that say so.

use sqlparser::tokenizer::{Location, Token, TokenWithSpan};
use walhub_proto::sqlstate::SqlState;

use crate::failure::{Failure, fail};

/// Reads `Line: 1, Column: 8` at the end of a parser's message.
pub(crate) fn error_location(message: &str) -> Option<Location> {
    let (line, column) = message.rsplit_once("Line: ")?.1.split_once(", Column: ")?;
    Some(Location { line: line.parse().ok()?, column: column.trim().parse().ok()? })
}

/// PostgreSQL: `scanner_yyerror`.
pub(crate) fn syntax_error(sql: &str, found: Option<&TokenWithSpan>) -> Failure {
    match found {
        Some(token) if token.token != Token::EOF => {
            let text = text_of(sql, token);
            let message = format!("syntax error at or near \"{text}\"");
            at(fail(SqlState::SYNTAX_ERROR, message), sql, token.span.start)
        }
        _ => {
            let mut failure = fail(SqlState::SYNTAX_ERROR, "syntax error at end of input");
            failure.position = u32::try_from(sql.chars().count() + 1).ok();
            failure
        }
    }
}

/// The text of a token as it was written.
pub(crate) fn text_of<'a>(sql: &'a str, token: &TokenWithSpan) -> &'a str {
    let (start, end) = (byte_offset(sql, token.span.start), byte_offset(sql, token.span.end));
    start.zip(end).and_then(|(start, end)| sql.get(start..end)).unwrap_or_default()
}

/// Says where in the query text the failure is.
pub(crate) fn at(mut failure: Failure, sql: &str, location: Location) -> Failure {
    let characters = byte_offset(sql, location).and_then(|at| sql.get(..at));
    failure.position = characters.and_then(|before| u32::try_from(before.chars().count() + 1).ok());
    failure
}

/// Lines and columns count from one, columns in characters; line zero is nowhere.
pub(crate) fn byte_offset(sql: &str, location: Location) -> Option<usize> {
    let line = usize::try_from(location.line.checked_sub(1)?).ok()?;
    let column = usize::try_from(location.column.checked_sub(1)?).ok()?;
    let start = match line.checked_sub(1) {
        None => 0,
        Some(newlines) => sql.match_indices('\n').nth(newlines)?.0 + 1,
    };
    let rest = sql.get(start..)?;
    let offset = rest.char_indices().map(|(at, _)| at).chain([rest.len()]).nth(column)?;
    Some(start + offset)
}
