//! Words of a line.
//!
//! PostgreSQL: `next_token`, `make_auth_token` (src/backend/libpq/hba.c).

use alloc::string::String;

/// A word. PostgreSQL: `AuthToken`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Token {
    pub(super) text: String,
    /// Whether it began with a quote: then it is no keyword.
    pub(super) quoted: bool,
}

/// The words of a line, from the front.
pub(super) struct Words<'a> {
    rest: &'a str,
}

/// A word, and whether the list that it is in goes on.
pub(super) struct Word {
    pub(super) token: Token,
    pub(super) comma: bool,
}

/// PostgreSQL: `pg_isblank`.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

impl<'a> Words<'a> {
    pub(super) const fn new(line: &'a str) -> Self {
        Self { rest: line }
    }

    pub(super) const fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next word; `None` at the end and before a comment.
    pub(super) fn next(&mut self) -> Option<Word> {
        self.rest = self.rest.trim_start_matches(|c| is_blank(c) || c == ',');
        let mut text = String::new();
        let (mut in_quote, mut was_quote, mut saw_quote) = (false, false, false);
        let (mut quoted, mut comma) = (false, false);
        let mut end = self.rest.len();
        for (at, c) in self.rest.char_indices() {
            if !in_quote {
                // A comment goes up to the end, whether or not a word is before it.
                if c == '#' {
                    break;
                }
                comma = c == ',';
                if comma || is_blank(c) {
                    end = at;
                    break;
                }
            }
            if c != '"' || was_quote {
                text.push(c);
            }
            // Two quotes in a quoted word stand for one.
            was_quote = in_quote && c == '"' && !was_quote;
            if c == '"' {
                in_quote = !in_quote;
                saw_quote = true;
                quoted |= text.is_empty();
            }
        }
        self.rest = &self.rest[end..];
        (saw_quote || !text.is_empty()).then_some(Word { token: Token { text, quoted }, comma })
    }
}

impl Token {
    /// PostgreSQL: `token_is_keyword`.
    pub(super) fn is_keyword(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }
}
