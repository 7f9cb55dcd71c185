//! Lines of a file, and of the files that it includes.
//!
//! PostgreSQL: `tokenize_auth_file`, `next_field_expand`, `tokenize_include_file`, `tokenize_expand_file`,
//! `open_auth_file` (src/backend/libpq/hba.c), `AbsoluteConfigLocation`, `GetConfFilesInDir`
//! (src/backend/utils/misc/conffiles.c).

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::fault::{Remark, line_of_file};
use super::token::{Token, Words};
use super::{Files, Unreadable};
use crate::sqlstate::SqlState;

/// Files that include each other go so deep. PostgreSQL: `CONF_FILE_MAX_DEPTH`.
const DEPTH_MAX: u32 = 10;
/// Files that one may include in all: those that include each other twice are two to the power of the depth.
const FILES_MAX: usize = 10_000;

/// A line that is neither empty nor an inclusion. PostgreSQL: `TokenizedAuthLine`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    pub(super) file: String,
    /// Where it begins, counted from one.
    pub(super) number: u32,
    /// Its text, with the lines that continue it.
    pub(super) raw: String,
    /// Lists of words.
    pub(super) fields: Vec<Vec<Token>>,
    /// Why it cannot be read: then there are no fields.
    pub(super) fault: Option<String>,
}

/// Reads the file at `path` and what it includes.
///
/// # Errors
/// When the file itself cannot be opened. What is wrong with others is a fault of the line that includes them.
pub(super) fn read(
    files: &dyn Files,
    path: &str,
    remarks: &mut Vec<Remark>,
) -> Result<Vec<Line>, String> {
    let mut reader = Reader { files, remarks, places: Vec::new(), opened: 0 };
    let text = reader.open_required(path, 0)?;
    let mut lines = Vec::new();
    reader.tokenize(path, &text, 0, &mut lines);
    Ok(lines)
}

struct Reader<'a> {
    files: &'a dyn Files,
    remarks: &'a mut Vec<Remark>,
    /// The lines that are being read, from the outermost file on.
    places: Vec<(String, u32)>,
    opened: usize,
}

struct Refusal {
    message: String,
    is_missing: bool,
}

impl Reader<'_> {
    fn remark(&mut self, sqlstate: SqlState, message: &str) {
        let places = self.places.iter().rev().map(|(file, line)| line_of_file(file, *line));
        let context = places.reduce(|all, place| all + "\n" + &place);
        self.remarks.push(Remark { sqlstate, message: message.to_owned(), hint: None, context });
    }

    /// The text of a file, whose absence is not yet an error.
    fn open(&mut self, path: &str, depth: u32) -> Result<String, Refusal> {
        self.opened += 1;
        let read = if depth > DEPTH_MAX {
            Err(Unreadable { is_missing: false, reason: "maximum nesting depth exceeded".into() })
        } else if self.opened > FILES_MAX {
            Err(Unreadable { is_missing: false, reason: "too many files are included".into() })
        } else {
            self.files.read(path)
        };
        read.map_err(|Unreadable { is_missing, reason }| {
            let message = format!("could not open file \"{path}\": {reason}");
            Refusal { message, is_missing }
        })
    }

    /// The text of a file that must be there.
    fn open_required(&mut self, path: &str, depth: u32) -> Result<String, String> {
        self.open(path, depth).map_err(|refusal| self.refused(refusal))
    }

    fn refused(&mut self, refusal: Refusal) -> String {
        let Refusal { message, is_missing } = refusal;
        let sqlstate =
            if is_missing { SqlState::UNDEFINED_FILE } else { SqlState::CONFIG_FILE_ERROR };
        self.remark(sqlstate, &message);
        message
    }

    fn tokenize(&mut self, file: &str, text: &str, depth: u32, lines: &mut Vec<Line>) {
        let (mut rest, mut number) = (text, 1);
        while !rest.is_empty() {
            let (raw, count) = next_line(&mut rest);
            self.places.push((file.to_owned(), number));
            match self.fields(file, &raw, depth) {
                Ok(fields) if fields.is_empty() => {}
                Ok(fields) => match self.include(file, &fields, depth, lines) {
                    Some(Ok(())) => {}
                    included @ (None | Some(Err(_))) => {
                        let fault = included.and_then(Result::err);
                        let file = file.to_owned();
                        lines.push(Line { file, number, raw, fields, fault });
                    }
                },
                Err(fault) => {
                    let (file, fields) = (file.to_owned(), Vec::new());
                    lines.push(Line { file, number, raw, fields, fault: Some(fault) });
                }
            }
            self.places.pop();
            number += count;
        }
    }

    fn fields(&mut self, file: &str, line: &str, depth: u32) -> Result<Vec<Vec<Token>>, String> {
        let mut words = Words::new(line);
        let mut fields = Vec::new();
        while !words.is_at_end() {
            let field = self.field(file, &mut words, depth)?;
            if !field.is_empty() {
                fields.push(field);
            }
        }
        Ok(fields)
    }

    /// A list of words, with those of the files that it names.
    fn field(
        &mut self,
        file: &str,
        words: &mut Words<'_>,
        depth: u32,
    ) -> Result<Vec<Token>, String> {
        let mut tokens = Vec::new();
        while let Some(word) = words.next() {
            match word.token.text.strip_prefix('@') {
                Some(name) if !word.token.quoted && !name.is_empty() => {
                    self.expand(file, name, depth + 1, &mut tokens)?;
                }
                _ => tokens.push(word.token),
            }
            if !word.comma {
                break;
            }
        }
        Ok(tokens)
    }

    fn expand(
        &mut self,
        outer: &str,
        name: &str,
        depth: u32,
        tokens: &mut Vec<Token>,
    ) -> Result<(), String> {
        let path = absolute(name, outer);
        let text = self.open_required(&path, depth)?;
        let mut lines = Vec::new();
        self.tokenize(&path, &text, depth, &mut lines);
        for line in lines {
            if let Some(fault) = line.fault {
                return Err(fault);
            }
            tokens.extend(line.fields.into_iter().flatten());
        }
        Ok(())
    }

    /// Puts the lines of the files that a line includes into `lines`; `None` when it includes nothing.
    fn include(
        &mut self,
        file: &str,
        fields: &[Vec<Token>],
        depth: u32,
        lines: &mut Vec<Line>,
    ) -> Option<Result<(), String>> {
        let [keyword, argument] = fields else { return None };
        let (keyword, argument) = (&keyword.first()?.text, &argument.first()?.text);
        match keyword.as_str() {
            "include" => Some(self.include_file(file, argument, depth, lines)),
            "include_if_exists" => Some(self.include_if_exists(file, argument, depth, lines)),
            "include_dir" => Some(self.include_dir(file, argument, depth, lines)),
            _ => None,
        }
    }

    fn include_file(
        &mut self,
        outer: &str,
        name: &str,
        depth: u32,
        lines: &mut Vec<Line>,
    ) -> Result<(), String> {
        let path = absolute(name, outer);
        let text = self.open_required(&path, depth + 1)?;
        self.tokenize(&path, &text, depth + 1, lines);
        Ok(())
    }

    fn include_if_exists(
        &mut self,
        outer: &str,
        name: &str,
        depth: u32,
        lines: &mut Vec<Line>,
    ) -> Result<(), String> {
        let path = absolute(name, outer);
        match self.open(&path, depth + 1) {
            Ok(text) => self.tokenize(&path, &text, depth + 1, lines),
            Err(refusal) if refusal.is_missing => {
                let message = format!("skipping missing authentication file \"{path}\"");
                self.remark(SqlState::SUCCESSFUL_COMPLETION, &message);
            }
            Err(refusal) => return Err(self.refused(refusal)),
        }
        Ok(())
    }

    fn include_dir(
        &mut self,
        outer: &str,
        name: &str,
        depth: u32,
        lines: &mut Vec<Line>,
    ) -> Result<(), String> {
        if name.trim_matches([' ', '\t', '\r', '\n']).is_empty() {
            let message = format!("empty configuration directory name: \"{name}\"");
            self.remark(SqlState::INVALID_PARAMETER_VALUE, &message);
            return Err("empty configuration directory name".into());
        }
        let directory = absolute(name, outer);
        let mut names = match self.files.list(&directory) {
            Ok(names) => names,
            Err(Unreadable { reason, .. }) => {
                let message =
                    format!("could not open configuration directory \"{directory}\": {reason}");
                self.remark(SqlState::UNDEFINED_FILE, &message);
                return Err(format!("could not open directory \"{directory}\""));
            }
        };
        names.retain(|name| name.len() > ".conf".len() && name.ends_with(".conf"));
        names.retain(|name| !name.starts_with('.'));
        names.sort_unstable();
        let paths = names.iter().map(|name| absolute(name, &format!("{directory}/")));
        let faults = paths.filter_map(|path| self.include_file(outer, &path, depth, lines).err());
        match faults.reduce(|all, fault| all + "\n" + &fault) {
            Some(faults) => Err(faults),
            None => Ok(()),
        }
    }
}

/// Takes a line with those that continue it off the front, and tells how many lines they are.
fn next_line(rest: &mut &str) -> (String, u32) {
    let (mut line, mut count) = (String::new(), 0);
    // Where a backslash was taken off: what stands before it there continues nothing.
    let mut continued_at = 0;
    while !rest.is_empty() {
        let (next, after) = rest.split_once('\n').unwrap_or((rest, ""));
        *rest = after;
        count += 1;
        // For C a NUL ends the line.
        line.push_str(next.split('\0').next().unwrap_or_default());
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        if line.len() <= continued_at || !line.ends_with('\\') {
            break;
        }
        line.pop();
        continued_at = line.len();
    }
    (line, count)
}

/// The path of a file that `outer` names.
fn absolute(name: &str, outer: &str) -> String {
    let directory = outer.rsplit_once('/').map_or("", |(directory, _)| directory);
    let joined =
        if name.starts_with('/') { name.to_owned() } else { format!("{directory}/{name}") };
    // PostgreSQL: canonicalize_path.
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.iter().fold(String::new(), |path, part| path + "/" + part)
}
