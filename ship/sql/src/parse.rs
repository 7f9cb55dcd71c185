//! From query text to statements: tokens first, then the grammar.
//!
//! The text is cut at semicolons and its size is bounded in tokens before any tree is built, so
//! that no text, however crooked, can make a deep or a large one.

pub mod copy_options;
mod escapes;
pub(crate) mod location;
pub mod roles;
pub mod utility;
pub mod wait_for;
mod words;

use sqlparser::ast;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Report, Severity};

use crate::failure::{
    Failure, PROGRAM_LIMIT_EXCEEDED, Result, STATEMENT_TOO_COMPLEX, fail, hinted, unsupported,
};
use crate::parse::escapes::{check_literal, escaped_nul};
use crate::parse::location::{at, byte_offset, error_location, syntax_error};
use crate::parse::utility::Utility;
use crate::value::{NAME_LEN_MAX, truncated};

/// Bytes of one query text outside its string literals.
pub const QUERY_LEN_MAX: usize = 256 << 10;
/// Bytes of one query text. It is in memory several times until the statement has run.
pub const TEXT_LEN_MAX: usize = 64 << 20;
/// Tokens of one statement: bounds the depth of its tree, whose drop is recursive.
const TOKENS_MAX: usize = 4000;
/// Nesting of parentheses and the like.
const NESTING_MAX: usize = 64;
/// What parsing may cost, in tokens looked at. Function arguments and FROM items in parentheses
/// are tried two ways, so each level can double the work for everything inside it.
const PARSE_STEPS_MAX: u64 = 500_000;

/// A statement as it was written.
#[derive(Debug)]
pub enum Parsed {
    /// SELECT, VALUES or WITH.
    Query(Box<ast::Query>),
    /// What is no query.
    Utility(Utility),
    /// A command that PostgreSQL has and the console has not.
    Unsupported(String),
}

/// The statements of a query text; what the client should know of it goes to `notices`.
///
/// PostgreSQL: `pg_parse_query`.
pub fn parse(sql: &str, notices: &mut Vec<Report>) -> Result<Vec<Parsed>> {
    if sql.len() > TEXT_LEN_MAX {
        return Err(too_long(sql.len()));
    }
    let len = if sql.len() > QUERY_LEN_MAX { len_outside_literals(sql) } else { 0 };
    if len > QUERY_LEN_MAX {
        let message = format!("query text of {len} bytes is longer than {QUERY_LEN_MAX}");
        return Err(fail(PROGRAM_LIMIT_EXCEEDED, message));
    }
    let mut tokens = Vec::new();
    let ended =
        Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location_into_buf(&mut tokens);
    if let Err(error) = ended {
        // What does not end begins behind the last whole token, be it space.
        let start = tokens.last().map_or(Location { line: 1, column: 1 }, |last| last.span.end);
        let rest = byte_offset(sql, start).and_then(|at| sql.get(at..)).unwrap_or_default();
        let nul = escaped_nul(sql, rest, start);
        return Err(nul.unwrap_or_else(|| unterminated(sql, &error.message, start)));
    }
    let mut significant: Vec<TokenWithSpan> = tokens
        .into_iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF))
        .collect();
    for token in &mut significant {
        check_identifier(sql, token, notices)?;
        check_literal(sql, token)?;
    }
    significant
        .split(|token| token.token == Token::SemiColon)
        .filter(|statement| !statement.is_empty())
        .map(|statement| parse_statement(sql, statement))
        .collect()
}

/// The error for a text that is too long to be taken apart.
pub fn too_long(len: usize) -> Failure {
    let message = format!("query text of {len} bytes is longer than {TEXT_LEN_MAX}");
    let failure = fail(PROGRAM_LIMIT_EXCEEDED, message);
    hinted(failure, "Send the content of a message as a parameter.")
}

/// Cuts an identifier to the length that PostgreSQL keeps.
///
/// PostgreSQL: `downcase_truncate_identifier`, `truncate_identifier`.
fn check_identifier(sql: &str, token: &mut TokenWithSpan, notices: &mut Vec<Report>) -> Result<()> {
    let Token::Word(word) = &mut token.token else { return Ok(()) };
    if word.value.is_empty() {
        let message = "zero-length delimited identifier at or near \"\"\"\"";
        return Err(at(fail(SqlState::SYNTAX_ERROR, message), sql, token.span.start));
    }
    if word.value.len() <= NAME_LEN_MAX {
        return Ok(());
    }
    if word.quote_style.is_none() {
        word.value.make_ascii_lowercase();
    }
    let kept = truncated(&word.value, NAME_LEN_MAX).to_owned();
    let message = format!("identifier \"{}\" will be truncated to \"{kept}\"", word.value);
    notices.push(Report::new(Severity::Notice, SqlState::NAME_TOO_LONG, message));
    word.value = kept;
    Ok(())
}

/// Bytes of the text that become tokens of their own: all but what string literals hold.
///
/// Only the plainest literal is skipped, as drivers write content. Comments, other quotes and a
/// backslash end the skipping: what is in doubt counts.
fn len_outside_literals(sql: &str) -> usize {
    let mut outside = 0;
    let mut rest = sql.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        outside += 1;
        let is_plain = match byte {
            b'\'' => true,
            b'"' | b'$' | b'-' | b'/' | b'e' | b'E' | b'u' | b'U' => {
                let next = rest.first().copied().unwrap_or_default();
                let doubtful = match byte {
                    b'"' | b'$' => !next.is_ascii_digit(),
                    b'-' | b'/' => matches!(next, b'-' | b'*'),
                    _ => matches!(next, b'\'' | b'&'),
                };
                if doubtful {
                    return outside + rest.len();
                }
                false
            }
            _ => false,
        };
        if is_plain {
            match rest.iter().position(|byte| *byte == b'\'') {
                Some(end) => rest = rest.get(end + 1..).unwrap_or_default(),
                None => return outside,
            }
        }
    }
    outside
}

fn parse_statement(sql: &str, tokens: &[TokenWithSpan]) -> Result<Parsed> {
    if tokens.len() > TOKENS_MAX {
        return Err(fail(
            STATEMENT_TOO_COMPLEX,
            format!("statement of {} tokens is longer than {TOKENS_MAX}", tokens.len()),
        ));
    }
    if parse_steps(tokens) > PARSE_STEPS_MAX {
        return Err(fail(STATEMENT_TOO_COMPLEX, "parentheses are nested too deeply"));
    }
    if let Some(utility) = utility::parse(sql, tokens)? {
        return Ok(Parsed::Utility(utility));
    }
    let dialect = PostgreSqlDialect {};
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(NESTING_MAX)
        .with_tokens_with_locations(tokens.to_vec());
    let first = tokens.first().map(|token| token.token.to_string().to_ascii_uppercase());
    match parser.parse_statement() {
        Ok(statement) => {
            let rest = parser.peek_token();
            if rest.token != Token::EOF {
                return Err(syntax_error(sql, Some(&rest)));
            }
            Ok(match statement {
                ast::Statement::Query(query) => Parsed::Query(query),
                _ => Parsed::Unsupported(first.unwrap_or_default()),
            })
        }
        Err(sqlparser::parser::ParserError::RecursionLimitExceeded) => {
            Err(fail(STATEMENT_TOO_COMPLEX, "stack depth limit exceeded"))
        }
        Err(error) => match (is_command(tokens), first) {
            (true, Some(first)) => Ok(Parsed::Unsupported(first)),
            _ => {
                // The parser tells where it stopped only inside its message.
                let at = error_location(&error.to_string());
                let found = at.and_then(|at| tokens.iter().find(|token| token.span.start == at));
                Err(syntax_error(sql, found))
            }
        },
    }
}

/// The most that parsing can cost: a token counts twice for each level of parentheses around it.
fn parse_steps(tokens: &[TokenWithSpan]) -> u64 {
    let (mut steps, mut depth) = (0_u64, 0_u32);
    for token in tokens {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        steps = steps.saturating_add(1_u64.checked_shl(depth).unwrap_or(u64::MAX));
    }
    steps
}

/// Whether the statement begins like a command that PostgreSQL has.
fn is_command(tokens: &[TokenWithSpan]) -> bool {
    let Some(Token::Word(word)) = tokens.first().map(|token| &token.token) else { return false };
    let name = word.value.to_ascii_lowercase();
    word.quote_style.is_none()
        && [
            "alter",
            "analyze",
            "call",
            "checkpoint",
            "cluster",
            "comment",
            "copy",
            "create",
            "declare",
            "delete",
            "do",
            "drop",
            "execute",
            "explain",
            "fetch",
            "grant",
            "import",
            "insert",
            "load",
            "lock",
            "merge",
            "move",
            "notify",
            "prepare",
            "reassign",
            "refresh",
            "reindex",
            "revoke",
            "security",
            "truncate",
            "update",
            "vacuum",
            "values",
            "table",
        ]
        .contains(&name.as_str())
}

fn unterminated(sql: &str, message: &str, location: Location) -> Failure {
    let what = match message {
        _ if message.contains("comment") => "unterminated /* comment",
        _ if message.contains("dollar") => "unterminated dollar-quoted string",
        _ if message.contains("close delimiter") => "unterminated quoted identifier",
        _ if message.contains("string literal") => "unterminated quoted string",
        _ => "syntax error",
    };
    let rest = byte_offset(sql, location).and_then(|at| sql.get(at..)).unwrap_or_default();
    let rest = if roles::without_passwords(sql).is_some() { "********" } else { rest };
    at(fail(SqlState::SYNTAX_ERROR, format!("{what} at or near \"{rest}\"")), sql, location)
}

/// The error for a statement that is parsed and not run.
pub fn unsupported_command(name: &str) -> Failure {
    unsupported(format_args!("command {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(sql: &str) -> Result<Vec<Parsed>> {
        super::parse(sql, &mut Vec::new())
    }

    #[test]
    fn long_identifiers_are_cut_with_a_notice() {
        let mut notices = Vec::new();
        let sql =
            format!("savepoint {0}\u{e9}{0}; savepoint \"B{0}\"; select '{0}{0}'", "A".repeat(62));
        let parsed = super::parse(&sql, &mut notices).unwrap();
        // Not in the middle of a character.
        let kept = "a".repeat(62);
        assert!(matches!(&parsed[0], Parsed::Utility(Utility::Savepoint(name)) if *name == kept));
        assert_eq!(notices.len(), 1);
        assert_eq!((notices[0].severity, notices[0].sqlstate.0), (Severity::Notice, "42622"));
        let want = format!("identifier \"{kept}\u{e9}{kept}\" will be truncated to \"{kept}\"");
        assert_eq!(notices[0].message, want);
    }

    fn error(sql: &str) -> (String, Option<u32>) {
        let failure = parse(sql).unwrap_err();
        assert_eq!(failure.sqlstate.0, "42601");
        (failure.message.clone(), failure.position)
    }

    /// Each was answered so by PostgreSQL 15.
    #[test]
    fn syntax_errors_point_where_postgres_points() {
        let near = |text: &str| format!("syntax error at or near \"{text}\"");
        assert_eq!(error("SELEC 1"), (near("SELEC"), Some(1)));
        assert_eq!(error("select 1 from"), ("syntax error at end of input".to_owned(), Some(14)));
        assert_eq!(error("select '\u{e9}',\n  1 where )"), (near(")"), Some(23)));
        assert_eq!(error("select 1 1"), (near("1"), Some(10)));
        assert_eq!(
            error("select 'abc"),
            ("unterminated quoted string at or near \"'abc\"".to_owned(), Some(8))
        );
        for (sql, message, position) in [
            ("select 1 /* a", "unterminated /* comment at or near \"/* a\"", 10),
            ("/*", "unterminated /* comment at or near \"/*\"", 1),
            ("select\n $b$a", "unterminated dollar-quoted string at or near \"$b$a\"", 9),
            ("select \"a", "unterminated quoted identifier at or near \"\"a\"", 8),
            ("select \"\"", "zero-length delimited identifier at or near \"\"\"\"", 8),
        ] {
            assert_eq!(error(sql), (message.to_owned(), Some(position)));
        }
    }

    #[test]
    fn statements_are_split_at_semicolons() {
        assert_eq!(parse("").unwrap().len(), 0);
        assert_eq!(parse(" ; -- nothing\n;").unwrap().len(), 0);
        assert_eq!(parse("select ';'; begin; select 2;").unwrap().len(), 3);
    }

    #[test]
    fn trees_are_bounded() {
        for sql in [
            format!("select 1{}", "+1".repeat(100_000)),
            format!("select {}1{}", "(".repeat(5000), ")".repeat(5000)),
            format!("select 1{}", " is null".repeat(1999)),
            format!("select {}1", "- ".repeat(3000)),
            format!("select 1{}", "::text".repeat(1300)),
            format!("select {}1{}", "abs(".repeat(900), ")".repeat(900)),
            format!("select {}1{}", "(select ".repeat(900), ")".repeat(900)),
            format!("select 1{}", " notnull".repeat(3900)),
            format!("select {}1", "not ".repeat(3900)),
            format!("select {}1", "case when ".repeat(1900)),
        ] {
            // Whatever the answer is, it is one.
            let _ = parse(&sql);
        }
        for sql in [
            format!("select {}1{}", "coalesce(".repeat(40), ")".repeat(40)),
            format!("select {}1{}", "(select * from (".repeat(30), ") x)".repeat(30)),
        ] {
            assert_eq!(parse(&sql).unwrap_err().sqlstate.0, "54001");
        }
        assert_eq!(
            parse(&format!("select {}1{}", "abs(".repeat(12), ")".repeat(12))).unwrap().len(),
            1
        );
        let content = "x".repeat(300_000);
        assert!(parse(&format!("select 'a''{content}', $1")).is_ok());
        for sql in [
            format!("select 1 -- '\n{}", ";".repeat(300_000)),
            format!("select e'\\'' {} '", ";".repeat(300_000)),
            format!("select \"'\" {}", ";".repeat(300_000)),
            format!("select $a$'$a$ {}", ";".repeat(300_000)),
            format!("select /*'*/ {}", ";".repeat(300_000)),
        ] {
            assert_eq!(parse(&sql).unwrap_err().sqlstate.0, "54000");
        }
        let failure = parse(&format!("select 1{}", "+1".repeat(2000))).unwrap_err();
        assert_eq!(failure.sqlstate.0, "54001");
        assert_eq!(parse(&" ".repeat(300_000)).unwrap_err().sqlstate.0, "54000");
    }
}
