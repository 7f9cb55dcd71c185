//! The tokens of a statement whose grammar is a list of words.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::failure::{Failure, Result};
use crate::parse::location::{syntax_error, text_of};

pub(crate) struct Words<'a> {
    pub(crate) sql: &'a str,
    pub(crate) tokens: &'a [TokenWithSpan],
    pub(crate) next: usize,
}

impl<'a> Words<'a> {
    pub(crate) fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.next).map(|token| &token.token)
    }

    /// Takes the next token if it is that word, in any case and without quotes.
    pub(crate) fn accept(&mut self, wanted: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(word))
            if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(wanted));
        self.next += usize::from(found);
        found
    }

    /// Takes all the words, or none.
    pub(crate) fn accept_all(&mut self, wanted: &[&str]) -> bool {
        let start = self.next;
        let all = wanted.iter().all(|word| self.accept(word));
        if !all {
            self.next = start;
        }
        all
    }

    pub(crate) fn expect(&mut self, wanted: &str) -> Result<()> {
        if self.accept(wanted) { Ok(()) } else { Err(self.error()) }
    }

    /// Takes the next token, which must be that one.
    pub(crate) fn expect_token(&mut self, wanted: &Token) -> Result<()> {
        if self.peek() != Some(wanted) {
            return Err(self.error());
        }
        self.next += 1;
        Ok(())
    }

    /// Takes the next token if it is a string.
    pub(crate) fn string(&mut self) -> Option<String> {
        let text = match self.peek()? {
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => text,
            Token::DollarQuotedString(text) => &text.value,
            _ => return None,
        };
        self.next += 1;
        Some(text.clone())
    }

    /// The value of an option in parentheses, if it has one. PostgreSQL: `utility_option_arg`.
    pub(crate) fn option_value(&mut self) -> Result<Option<String>> {
        match self.peek() {
            None | Some(Token::Comma | Token::RParen) => Ok(None),
            Some(_) => self.value().map(Some),
        }
    }

    pub(crate) fn error(&self) -> Failure {
        syntax_error(self.sql, self.tokens.get(self.next))
    }

    pub(crate) fn end<T>(&self, value: T) -> Result<Option<T>> {
        if self.next == self.tokens.len() { Ok(Some(value)) } else { Err(self.error()) }
    }

    /// A name, folded to lower case unless quoted.
    pub(crate) fn name(&mut self) -> Result<String> {
        let Some(Token::Word(word)) = self.peek() else { return Err(self.error()) };
        self.next += 1;
        Ok(match word.quote_style {
            Some(_) => word.value.clone(),
            None => word.value.to_ascii_lowercase(),
        })
    }

    /// The name of a parameter, with its dots.
    pub(crate) fn parameter(&mut self) -> Result<String> {
        let mut name = self.name()?;
        while self.peek() == Some(&Token::Period) {
            self.next += 1;
            name = format!("{name}.{}", self.name()?);
        }
        Ok(name)
    }

    /// One value of SET. PostgreSQL: `var_value`.
    pub(crate) fn value(&mut self) -> Result<String> {
        let negative = self.peek() == Some(&Token::Minus);
        if negative || self.peek() == Some(&Token::Plus) {
            self.next += 1;
        }
        let Some(token) = self.tokens.get(self.next) else { return Err(self.error()) };
        let text = match &token.token {
            Token::Number(number, _) => number.clone(),
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => text.clone(),
            Token::Word(word) if word.quote_style.is_some() => word.value.clone(),
            Token::Word(_) => text_of(self.sql, token).to_ascii_lowercase(),
            _ => return Err(self.error()),
        };
        self.next += 1;
        Ok(if negative { format!("-{text}") } else { text })
    }
}
