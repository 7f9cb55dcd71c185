//! Regular expressions, as PostgreSQL writes them.
//!
//! PostgreSQL's advanced regular expressions are translated into those of the `regex` crate, which looks at each
//! character once: whoever comes cannot make a match take long. Letters are ASCII's, as in the C collation that
//! PostgreSQL uses here. What the crate has not is refused: back references and constraints that look ahead or behind.
//! Of several ways to match at one place PostgreSQL takes the longest, here it is the first alternative; only what a
//! group captures can show that.
//!
//! PostgreSQL: src/backend/regex (`regcomp.c`, `regc_lex.c`), src/include/regex/regerrs.h.

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use core::fmt::Write as _;
use core::iter::Peekable;
use core::str::Chars;

use regex::{Regex, RegexBuilder};

/// What one compiled expression may take.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// PostgreSQL: `DUPMAX`.
const REPETITIONS_MAX: u32 = 255;

const BAD_ESCAPE: &str = "invalid escape \\ sequence";
const BAD_BRACKETS: &str = "brackets [] not balanced";
const BAD_PARENTHESES: &str = "parentheses () not balanced";
const BAD_BRACES: &str = "braces {} not balanced";
const BAD_COUNT: &str = "invalid repetition count(s)";
const BAD_RANGE: &str = "invalid character range";
const BAD_CLASS: &str = "invalid character class";
const BAD_COLLATION: &str = "invalid collating element";
const BAD_OPERAND: &str = "quantifier operand invalid";
const BAD_OPTION: &str = "invalid embedded option";
const TOO_COMPLEX: &str = "regular expression is too complex";
const NO_BACK_REFERENCES: &str = "back references are not supported";
const NO_LOOKING: &str = "lookahead and lookbehind constraints are not supported";

/// A regular expression.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    text: String,
    regex: Regex,
}

/// What a regular expression has matched.
pub(super) struct Captured<'t> {
    /// What `\1` stands for.
    pub(super) first_group: Option<&'t str>,
}

impl Pattern {
    /// # Errors
    /// What is wrong with it, in PostgreSQL's words.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let regex = RegexBuilder::new(&translate(text)?)
            .dot_matches_new_line(true)
            .size_limit(COMPILED_BYTES_MAX)
            .build()
            .map_err(|_| TOO_COMPLEX)?;
        Ok(Self { text: text.to_owned(), regex })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    pub(super) fn captures<'t>(&self, text: &'t str) -> Option<Captured<'t>> {
        let captures = self.regex.captures(text)?;
        Some(Captured { first_group: captures.get(1).map(|group| group.as_str()) })
    }
}

/// The same expression for the `regex` crate.
fn translate(text: &str) -> Result<String, &'static str> {
    if let Some(rest) = text.strip_prefix("***=") {
        return Ok(regex::escape(rest));
    }
    let mut text = text.strip_prefix("***:").unwrap_or(text);
    let (mut literal, mut ignore_case) = (false, false);
    if let Some((options, rest)) = embedded_options(text) {
        for option in options.chars() {
            match option {
                'i' => ignore_case = true,
                'c' => ignore_case = false,
                'q' => literal = true,
                // As it is anyway: newlines are like other characters, and blanks count.
                's' | 't' => {}
                _ => return Err(BAD_OPTION),
            }
        }
        text = rest;
    }
    let rest = text.chars().peekable();
    let mut translator =
        Translator { rest, ignore_case, out: String::new(), depth: 0, last: Last::Start };
    if literal {
        text.chars().for_each(|c| translator.literal(c));
    } else {
        translator.run()?;
    }
    Ok(translator.out)
}

/// `(?letters)` at the beginning.
fn embedded_options(text: &str) -> Option<(&str, &str)> {
    let (options, rest) = text.strip_prefix("(?")?.split_once(')')?;
    let letters = !options.is_empty() && options.bytes().all(|b| b.is_ascii_alphabetic());
    letters.then_some((options, rest))
}

/// What a quantifier would be about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// The beginning, of the whole or of an alternative.
    Start,
    Atom,
    /// Something that has no width.
    Constraint,
    Quantifier,
}

struct Translator<'t> {
    rest: Peekable<Chars<'t>>,
    ignore_case: bool,
    out: String,
    /// Parentheses that are open.
    depth: u32,
    last: Last,
}

impl Translator<'_> {
    fn run(&mut self) -> Result<(), &'static str> {
        while let Some(c) = self.rest.next() {
            match c {
                '(' => self.open()?,
                ')' if self.depth == 0 => return Err(BAD_PARENTHESES),
                ')' => {
                    self.depth -= 1;
                    self.put(")", Last::Atom);
                }
                '|' => self.put("|", Last::Start),
                '^' => self.put("^", Last::Constraint),
                '$' => self.put("$", Last::Constraint),
                '.' => self.put(".", Last::Atom),
                '*' | '+' | '?' => self.quantifier(&String::from(c))?,
                '{' if self.rest.peek().is_some_and(char::is_ascii_digit) => {
                    let bounds = self.bounds()?;
                    self.quantifier(&bounds)?;
                }
                '[' => self.brackets()?,
                '\\' => self.escape()?,
                c => self.literal(c),
            }
        }
        if self.depth > 0 { Err(BAD_PARENTHESES) } else { Ok(()) }
    }

    fn put(&mut self, text: &str, last: Last) {
        self.out.push_str(text);
        self.last = last;
    }

    fn literal(&mut self, c: char) {
        if self.ignore_case && c.is_ascii_alphabetic() {
            self.out.push('[');
            self.push_range(c, c);
            self.out.push(']');
        } else {
            push_literal(&mut self.out, c);
        }
        self.last = Last::Atom;
    }

    fn open(&mut self) -> Result<(), &'static str> {
        self.depth += 1;
        if self.rest.next_if_eq(&'?').is_none() {
            self.put("(", Last::Start);
            return Ok(());
        }
        match self.rest.next() {
            Some(':') => self.put("(?:", Last::Start),
            Some('=' | '!' | '<') => return Err(NO_LOOKING),
            _ => return Err(BAD_OPERAND),
        }
        Ok(())
    }

    fn quantifier(&mut self, text: &str) -> Result<(), &'static str> {
        if self.last != Last::Atom {
            return Err(BAD_OPERAND);
        }
        self.put(text, Last::Quantifier);
        if self.rest.next_if_eq(&'?').is_some() {
            self.out.push('?');
        }
        Ok(())
    }

    /// `{m}`, `{m,}` or `{m,n}`, after the brace.
    fn bounds(&mut self) -> Result<String, &'static str> {
        let low = self.number()?.ok_or(BAD_COUNT)?;
        let mut bounds = alloc::format!("{{{low}");
        if self.rest.next_if_eq(&',').is_some() {
            bounds.push(',');
            if let Some(high) = self.number()? {
                if high < low {
                    return Err(BAD_COUNT);
                }
                // Writing to a string cannot fail.
                let _ = write!(bounds, "{high}");
            }
        }
        match self.rest.next() {
            Some('}') => bounds.push('}'),
            Some(_) => return Err(BAD_COUNT),
            None => return Err(BAD_BRACES),
        }
        Ok(bounds)
    }

    fn number(&mut self) -> Result<Option<u32>, &'static str> {
        let mut number = None;
        while let Some(digit) = self.rest.peek().and_then(|c| c.to_digit(10)) {
            self.rest.next();
            let next = number.unwrap_or(0) * 10 + digit;
            if next > REPETITIONS_MAX {
                return Err(BAD_COUNT);
            }
            number = Some(next);
        }
        Ok(number)
    }

    fn escape(&mut self) -> Result<(), &'static str> {
        let Some(&c) = self.rest.peek() else { return Err(BAD_ESCAPE) };
        if let Some(class) = class_escape(c) {
            self.rest.next();
            self.put(class, Last::Atom);
            return Ok(());
        }
        let constraint = match c {
            'A' => "\\A",
            'Z' => "\\z",
            'm' => "(?-u:\\b{start})",
            'M' => "(?-u:\\b{end})",
            'y' => "(?-u:\\b)",
            'Y' => "(?-u:\\B)",
            '1'..='9' => return Err(NO_BACK_REFERENCES),
            _ => {
                let c = self.character_escape()?;
                self.literal(c);
                return Ok(());
            }
        };
        self.rest.next();
        self.put(constraint, Last::Constraint);
        Ok(())
    }

    /// The character that an escape stands for, after its backslash. PostgreSQL: `lexescape`.
    fn character_escape(&mut self) -> Result<char, &'static str> {
        let c = self.rest.next().ok_or(BAD_ESCAPE)?;
        Ok(match c {
            'a' => '\x07',
            'b' => '\x08',
            'B' => '\\',
            'c' => {
                let of = self.rest.next().filter(char::is_ascii).ok_or(BAD_ESCAPE)?;
                char::from(u8::try_from(of).map_err(|_| BAD_ESCAPE)? & 0x1F)
            }
            'e' => '\x1B',
            'f' => '\x0C',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0B',
            'u' => self.code_point(16, 4, 4)?,
            'U' => self.code_point(16, 8, 8)?,
            'x' => self.code_point(16, 1, 255)?,
            '0' => self.code_point(8, 0, 2)?,
            c if c.is_alphanumeric() => return Err(BAD_ESCAPE),
            c => c,
        })
    }

    fn code_point(&mut self, radix: u32, min: u32, max: u32) -> Result<char, &'static str> {
        let (mut code, mut count) = (0_u32, 0);
        while count < max
            && let Some(digit) = self.rest.peek().and_then(|c| c.to_digit(radix))
        {
            self.rest.next();
            code = code.saturating_mul(radix).saturating_add(digit);
            count += 1;
        }
        char::from_u32(code).filter(|_| count >= min).ok_or(BAD_ESCAPE)
    }

    /// After the opening bracket. PostgreSQL: `brackpart`.
    fn brackets(&mut self) -> Result<(), &'static str> {
        for (word, constraint) in [("[:<:]]", "(?-u:\\b{start})"), ("[:>:]]", "(?-u:\\b{end})")] {
            if self.starts_with(word) {
                self.rest.by_ref().take(word.len()).for_each(drop);
                self.put(constraint, Last::Constraint);
                return Ok(());
            }
        }
        self.out.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let mut is_first = true;
        loop {
            match self.rest.next().ok_or(BAD_BRACKETS)? {
                ']' if !is_first => break,
                '[' if self.rest.peek() == Some(&':') => self.named_class()?,
                '\\' if self.rest.peek().copied().and_then(class_escape).is_some() => {
                    let class = self.rest.next().and_then(class_escape).unwrap_or_default();
                    self.out.push_str(class);
                }
                // A dash is one at the ends only; elsewhere it would be a range without a beginning.
                '-' if !is_first && self.rest.peek() != Some(&']') => return Err(BAD_RANGE),
                c => self.range_from(c)?,
            }
            is_first = false;
        }
        self.put("]", Last::Atom);
        Ok(())
    }

    fn starts_with(&self, word: &str) -> bool {
        let mut rest = self.rest.clone();
        word.chars().all(|c| rest.next() == Some(c))
    }

    /// `[:alpha:]`, after its bracket.
    fn named_class(&mut self) -> Result<(), &'static str> {
        let name = self.until(':').map_err(|_| BAD_CLASS)?;
        let known = [
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print",
            "punct", "space", "upper", "word", "xdigit",
        ];
        if !known.contains(&name.as_str()) {
            return Err(BAD_CLASS);
        }
        let any_case = self.ignore_case && matches!(name.as_str(), "lower" | "upper");
        self.out.push_str("[:");
        self.out.push_str(if any_case { "alpha" } else { &name });
        self.out.push_str(":]");
        Ok(())
    }

    /// What is between `kind` and `kind]`, from before the first.
    fn until(&mut self, kind: char) -> Result<String, &'static str> {
        self.rest.next();
        let mut name = String::new();
        loop {
            match self.rest.next().ok_or(BAD_BRACKETS)? {
                c if c == kind && self.rest.next_if_eq(&']').is_some() => return Ok(name),
                c => name.push(c),
            }
        }
    }

    /// A character of a bracket expression, or a range that begins with it.
    fn range_from(&mut self, first: char) -> Result<(), &'static str> {
        let low = self.element(first)?;
        let mut ahead = self.rest.clone();
        let is_range = ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']');
        let mut high = low;
        if is_range {
            self.rest.next();
            let next = self.rest.next().ok_or(BAD_BRACKETS)?;
            high = self.element(next)?;
            if high < low {
                return Err(BAD_RANGE);
            }
        }
        self.push_range(low, high);
        Ok(())
    }

    /// Inside of brackets: a range, and the letters that are in it but for their case.
    fn push_range(&mut self, low: char, high: char) {
        let mut push = |low: char, high: char| {
            push_literal(&mut self.out, low);
            if high > low {
                self.out.push('-');
                push_literal(&mut self.out, high);
            }
        };
        push(low, high);
        for (first, last) in [('a', 'z'), ('A', 'Z')] {
            let (low, high) = (low.max(first), high.min(last));
            if self.ignore_case && low <= high {
                let other = |c: char| char::from_u32(u32::from(c) ^ 0x20).unwrap_or(c);
                push(other(low), other(high));
            }
        }
    }

    fn element(&mut self, first: char) -> Result<char, &'static str> {
        match (first, self.rest.peek()) {
            ('[', Some(&kind @ ('.' | '='))) => {
                let name = self.until(kind)?;
                let mut chars = name.chars();
                match (chars.next(), chars.next()) {
                    (Some(c), None) => Ok(c),
                    _ => Err(BAD_COLLATION),
                }
            }
            ('[', Some(':')) => Err(BAD_RANGE),
            ('\\', Some(c)) if class_escape(*c).is_some() => Err(BAD_RANGE),
            ('\\', _) => self.character_escape(),
            (c, _) => Ok(c),
        }
    }
}

/// What `\d` and its kin stand for, inside of brackets and outside.
const fn class_escape(c: char) -> Option<&'static str> {
    Some(match c {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        's' => "[[:space:]]",
        'S' => "[^[:space:]]",
        'w' => "[[:alnum:]_]",
        'W' => "[^[:alnum:]_]",
        _ => return None,
    })
}

fn push_literal(out: &mut String, c: char) {
    if c.is_ascii_alphanumeric() {
        out.push(c);
    } else {
        // Writing to a string cannot fail.
        let _ = write!(out, "\\x{{{:X}}}", u32::from(c));
    }
}
