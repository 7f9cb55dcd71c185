//! The rows of COPY, from bytes that come in any pieces.
//!
//! PostgreSQL: `CopyReadLineText`, `CopyReadAttributesText`, `CopyReadAttributesCSV`,
//! `CopyReadBinaryTupleField` (src/backend/commands/copyfromparse.c).

use walhub_proto::sqlstate::SqlState;

use crate::failure::{
    BAD_COPY_FILE_FORMAT, Failure, NOT_NULL_VIOLATION, Result, fail, hinted, transaction_too_large,
};
use crate::parse::copy_options::{CopyFrom, Csv, Format, Header, LineFormat};
use crate::value::binary::text_parameter;

/// First bytes of the binary format.
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Characters of a line that an error shows. PostgreSQL: `MAX_COPY_DATA_DISPLAY`.
const SHOWN_LEN_MAX: usize = 100;

/// A message of a row.
pub struct Row {
    /// Prefix of the message.
    pub prefix: String,
    /// The content of the message.
    pub content: Vec<u8>,
}

/// How lines end; the first one tells. PostgreSQL: `EolType`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Eol {
    Unknown,
    Newline,
    Return,
    Both,
}

/// Takes bytes, gives rows.
pub struct RowReader<'a> {
    copy: &'a CopyFrom,
    /// Bytes that may wait to become a row.
    row_len_max: usize,
    raw: Vec<u8>,
    /// Where the next row starts in `raw`.
    start: usize,
    /// How much of the next line was looked at.
    scanned: usize,
    in_quotes: bool,
    after_escape: bool,
    eol: Eol,
    /// Number of the line that is read.
    line: u64,
    /// Whether the header, of whatever format, is behind.
    begun: bool,
    /// Whether the marker of the end was met.
    ended: bool,
}

fn bad(message: impl Into<String>) -> Failure {
    fail(BAD_COPY_FILE_FORMAT, message)
}

impl<'a> RowReader<'a> {
    /// Of a COPY whose rows may be that long.
    pub const fn new(copy: &'a CopyFrom, row_len_max: usize) -> Self {
        Self {
            copy,
            row_len_max,
            raw: Vec::new(),
            start: 0,
            scanned: 0,
            in_quotes: false,
            after_escape: false,
            eol: Eol::Unknown,
            line: 1,
            begun: false,
            ended: false,
        }
    }

    /// Where it is, for errors.
    pub fn context(&self) -> String {
        format!("COPY messages, line {}", self.line)
    }

    /// Bytes that wait to become a row.
    pub const fn waiting_len(&self) -> usize {
        self.raw.len() - self.start
    }

    /// Takes more bytes. A row cannot be larger than the transaction that it goes into.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.ended && self.copy.format != Format::Binary {
            // What follows the marker of the end is not looked at.
            return Ok(());
        }
        self.raw.drain(..self.start);
        self.start = 0;
        if self.raw.len() + bytes.len() > self.row_len_max {
            return Err(transaction_too_large());
        }
        self.raw.extend_from_slice(bytes);
        Ok(())
    }

    /// The next row; `None` when there is no whole one. `at_end`: no more bytes will come.
    pub fn next(&mut self, at_end: bool) -> Result<Option<Row>> {
        let copy = self.copy;
        match &copy.format {
            Format::Binary => {
                self.next_binary(at_end).map_err(|failure| self.located(failure, None))
            }
            Format::Lines(format) => self.next_line_row(format, at_end),
        }
    }

    fn located(&self, mut failure: Failure, line: Option<&[u8]>) -> Failure {
        let mut context = self.context();
        if let Some(line) = line {
            let text = String::from_utf8_lossy(line);
            let shown: String = text.chars().take(SHOWN_LEN_MAX).collect();
            let dots = if shown.len() < text.len() { "..." } else { "" };
            context = format!("{context}: \"{shown}{dots}\"");
        }
        failure.context = Some(context.into());
        failure
    }

    fn next_line_row(&mut self, format: &LineFormat, at_end: bool) -> Result<Option<Row>> {
        loop {
            if self.ended {
                return Ok(None);
            }
            let found = self.next_line(format, at_end);
            let Some((len, end_len)) = found.map_err(|failure| self.located(failure, None))? else {
                return Ok(None);
            };
            let line = self.raw.get(self.start..self.start + len).unwrap_or_default();
            let is_header = !self.begun && format.header != Header::No;
            let row = if is_header {
                match format.header {
                    Header::Match => self.check_header(format, line).map(|()| None),
                    Header::Skip | Header::No => Ok(None),
                }
            } else {
                self.row(format, line).map(Some)
            };
            let row = row.map_err(|failure| self.located(failure, Some(line)))?;
            self.begun = true;
            self.line += 1;
            self.start += len + end_len;
            self.scanned = 0;
            self.in_quotes = false;
            self.after_escape = false;
            if row.is_some() {
                return Ok(row);
            }
        }
    }

    /// Length of the next line and of its end.
    fn next_line(&mut self, format: &LineFormat, at_end: bool) -> Result<Option<(usize, usize)>> {
        let rest = self.raw.get(self.start..).unwrap_or_default();
        while let Some(&byte) = rest.get(self.scanned) {
            let after = rest.get(self.scanned + 1).copied();
            match byte {
                b'\r' | b'\n' if self.in_quotes => {}
                b'\r' if matches!(self.eol, Eol::Unknown | Eol::Both) => {
                    if after.is_none() && !at_end {
                        return Ok(None);
                    }
                    if after == Some(b'\n') {
                        self.eol = Eol::Both;
                        return Ok(Some((self.scanned, 2)));
                    }
                    if self.eol == Eol::Both {
                        return Err(stray(format, "carriage return", "\\r"));
                    }
                    self.eol = Eol::Return;
                    return Ok(Some((self.scanned, 1)));
                }
                b'\r' if self.eol == Eol::Return => return Ok(Some((self.scanned, 1))),
                b'\r' => return Err(stray(format, "carriage return", "\\r")),
                b'\n' if matches!(self.eol, Eol::Unknown | Eol::Newline) => {
                    self.eol = Eol::Newline;
                    return Ok(Some((self.scanned, 1)));
                }
                b'\n' => return Err(stray(format, "newline", "\\n")),
                b'\\' if format.csv.is_none() || self.scanned == 0 => {
                    match (after, rest.get(2)) {
                        (None, _) if !at_end => return Ok(None),
                        (Some(b'.'), None) if self.scanned == 0 && !at_end => return Ok(None),
                        (Some(b'.'), None | Some(b'\r' | b'\n')) if self.scanned == 0 => {
                            self.ended = true;
                            return Ok(None);
                        }
                        (Some(b'.'), _) if format.csv.is_none() => {
                            return Err(bad("end-of-copy marker corrupt"));
                        }
                        // The byte after a backslash is never special in a line.
                        (Some(_), _) if format.csv.is_none() => self.scanned += 1,
                        _ => {}
                    }
                }
                _ => {}
            }
            if let Some(csv) = format.csv {
                track_quotes(csv, byte, &mut self.in_quotes, &mut self.after_escape);
            }
            self.scanned += 1;
        }
        // The last line may lack its end.
        self.scanned = self.scanned.min(rest.len());
        Ok((at_end && !rest.is_empty()).then_some((rest.len(), 0)))
    }

    fn row(&self, format: &LineFormat, line: &[u8]) -> Result<Row> {
        let mut fields = fields(format, line)?.into_iter();
        let names = self.names();
        let first = fields.next();
        let Some(second) = fields.next() else {
            return Err(bad(format!("missing data for column \"{}\"", names[1])));
        };
        if fields.next().is_some() {
            return Err(bad("extra data after last expected column"));
        }
        self.row_of(first.flatten(), second)
    }

    fn names(&self) -> [&'static str; 2] {
        if self.copy.content_first { ["content", "prefix"] } else { ["prefix", "content"] }
    }

    fn row_of(&self, first: Option<Vec<u8>>, second: Option<Vec<u8>>) -> Result<Row> {
        let present = |value: Option<Vec<u8>>, name: &str| {
            value.ok_or_else(|| {
                let message = format!(
                    "null value in column \"{name}\" of relation \"messages\" violates not-null \
                     constraint"
                );
                fail(NOT_NULL_VIOLATION, message)
            })
        };
        let [first_name, second_name] = self.names();
        let (first, second) = (present(first, first_name)?, present(second, second_name)?);
        let (prefix, content) =
            if self.copy.content_first { (second, first) } else { (first, second) };
        // Both are text, as PostgreSQL's table with two text columns would have it.
        text_parameter(&content)?;
        Ok(Row { prefix: text_parameter(&prefix)?.to_owned(), content })
    }

    fn check_header(&self, format: &LineFormat, line: &[u8]) -> Result<()> {
        let names = self.names();
        let fields = fields(format, line)?;
        if fields.len() != names.len() {
            return Err(bad(format!(
                "wrong number of fields in header line: field count is {}, expected {}",
                fields.len(),
                names.len()
            )));
        }
        for (index, (field, name)) in fields.iter().zip(names).enumerate() {
            let number = index + 1;
            match field {
                Some(field) if field == name.as_bytes() => {}
                Some(field) => {
                    let got = String::from_utf8_lossy(field);
                    return Err(bad(format!(
                        "column name mismatch in header line field {number}: got \"{got}\", \
                         expected \"{name}\""
                    )));
                }
                None => {
                    let null = String::from_utf8_lossy(&format.null);
                    return Err(bad(format!(
                        "column name mismatch in header line field {number}: got null value \
                         (\"{null}\"), expected \"{name}\""
                    )));
                }
            }
        }
        Ok(())
    }

    fn next_binary(&mut self, at_end: bool) -> Result<Option<Row>> {
        let unexpected = || bad("unexpected EOF in COPY data");
        let more = |at_end: bool| if at_end { Err(unexpected()) } else { Ok(None) };
        if self.ended {
            return match self.raw.len() > self.start {
                true => Err(bad("received copy data after EOF marker")),
                false => Ok(None),
            };
        }
        if !self.begun {
            let rest = self.raw.get(self.start..).unwrap_or_default();
            let known = rest.len().min(SIGNATURE.len());
            if rest.get(..known) != SIGNATURE.get(..known) || (at_end && known < SIGNATURE.len()) {
                return Err(bad("COPY file signature not recognized"));
            }
            let Some(len) = binary_header(rest)? else { return more(at_end) };
            self.start += len;
            self.begun = true;
        }
        let rest = self.raw.get(self.start..).unwrap_or_default();
        let Some((count, mut fields)) = rest.split_first_chunk::<2>() else {
            // PostgreSQL takes the end of the data for the trailer.
            return if at_end && !rest.is_empty() { Err(unexpected()) } else { Ok(None) };
        };
        match i16::from_be_bytes(*count) {
            -1 => {
                self.start += 2;
                self.ended = true;
                return self.next_binary(at_end);
            }
            2 => {}
            count => return Err(bad(format!("row field count is {count}, expected 2"))),
        }
        let (Some(first), Some(second)) = (binary_field(&mut fields)?, binary_field(&mut fields)?)
        else {
            return more(at_end);
        };
        let row = self.row_of(first.map(<[u8]>::to_vec), second.map(<[u8]>::to_vec))?;
        self.start = self.raw.len() - fields.len();
        self.line += 1;
        Ok(Some(row))
    }
}

/// Whether the next byte is inside quotes.
const fn track_quotes(csv: Csv, byte: u8, in_quotes: &mut bool, after_escape: &mut bool) {
    // An escape that is the quote itself only ends the quotes and begins them again.
    let has_escape = csv.escape != csv.quote;
    if has_escape && *in_quotes && byte == csv.escape {
        *after_escape = !*after_escape;
    }
    if byte == csv.quote && !*after_escape {
        *in_quotes = !*in_quotes;
    }
    if !has_escape || byte != csv.escape {
        *after_escape = false;
    }
}

fn stray(format: &LineFormat, what: &str, escape: &str) -> Failure {
    if format.csv.is_some() {
        let hint = format!("Use quoted CSV field to represent {what}.");
        hinted(bad(format!("unquoted {what} found in data")), &hint)
    } else {
        let hint = format!("Use \"{escape}\" to represent {what}.");
        hinted(bad(format!("literal {what} found in data")), &hint)
    }
}

/// The fields of a line; `None` is NULL.
fn fields(format: &LineFormat, line: &[u8]) -> Result<Vec<Option<Vec<u8>>>> {
    match format.csv {
        Some(csv) => csv_fields(format, csv, line),
        None => Ok(text_fields(format, line)),
    }
}

fn text_fields(format: &LineFormat, line: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut fields = Vec::with_capacity(2);
    let (mut field, mut begin, mut at) = (Vec::new(), 0, 0);
    loop {
        match line.get(at) {
            Some(b'\\') => {
                let (byte, len) = unescaped(line.get(at + 1..).unwrap_or_default());
                field.extend(byte);
                at += 1 + len;
                continue;
            }
            Some(byte) if *byte != format.delimiter => field.push(*byte),
            end => {
                let raw = line.get(begin..at).unwrap_or_default();
                let value = std::mem::take(&mut field);
                fields.push((raw != format.null).then_some(value));
                begin = at + 1;
                if end.is_none() {
                    return fields;
                }
            }
        }
        at += 1;
    }
}

/// The byte that a backslash and these bytes are, and how many they are.
fn unescaped(after: &[u8]) -> (Option<u8>, usize) {
    let digits = |bytes: &[u8], radix: u32, max: usize| {
        let is_digit = |byte: &&u8| char::from(**byte).is_digit(radix);
        bytes.iter().take(max).take_while(is_digit).fold((0_u32, 0), |(value, len), byte| {
            (value * radix + char::from(*byte).to_digit(radix).unwrap_or(0), len + 1)
        })
    };
    let low = |value: u32| value.to_le_bytes()[0];
    match after.first() {
        None => (None, 0),
        Some(b'0'..=b'7') => {
            let (value, len) = digits(after, 8, 3);
            (Some(low(value)), len)
        }
        Some(b'x') => match digits(after.get(1..).unwrap_or_default(), 16, 2) {
            (_, 0) => (Some(b'x'), 1),
            (value, len) => (Some(low(value)), 1 + len),
        },
        Some(byte) => {
            let byte = match byte {
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 11,
                byte => *byte,
            };
            (Some(byte), 1)
        }
    }
}

fn csv_fields(format: &LineFormat, csv: Csv, line: &[u8]) -> Result<Vec<Option<Vec<u8>>>> {
    let mut fields = Vec::with_capacity(2);
    let (mut field, mut begin, mut at) = (Vec::new(), 0, 0);
    let (mut in_quotes, mut was_quoted) = (false, false);
    loop {
        match line.get(at) {
            Some(byte)
                if in_quotes
                    && *byte == csv.escape
                    && line
                        .get(at + 1)
                        .is_some_and(|next| *next == csv.escape || *next == csv.quote) =>
            {
                field.extend(line.get(at + 1));
                at += 1;
            }
            Some(byte) if *byte == csv.quote => {
                in_quotes = !in_quotes;
                was_quoted = true;
            }
            Some(byte) if in_quotes || *byte != format.delimiter => field.push(*byte),
            None if in_quotes => return Err(bad("unterminated CSV quoted field")),
            end => {
                let raw = line.get(begin..at).unwrap_or_default();
                let value = std::mem::take(&mut field);
                let is_null = !was_quoted && raw == format.null;
                fields.push((!is_null).then_some(value));
                was_quoted = false;
                begin = at + 1;
                if end.is_none() {
                    return Ok(fields);
                }
            }
        }
        at += 1;
    }
}

/// Length of the binary header. PostgreSQL: `ReceiveCopyBinaryHeader`.
fn binary_header(bytes: &[u8]) -> Result<Option<usize>> {
    let Some((flags, rest)) = bytes.get(SIGNATURE.len()..).and_then(<[u8]>::split_first_chunk::<4>)
    else {
        return Ok(None);
    };
    let flags = u32::from_be_bytes(*flags);
    if flags & (1 << 16) != 0 {
        return Err(bad("invalid COPY file header (WITH OIDS)"));
    }
    if flags >> 16 != 0 {
        return Err(bad("unrecognized critical flags in COPY file header"));
    }
    let Some((len, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let len = usize::try_from(i32::from_be_bytes(*len))
        .map_err(|_| bad("invalid COPY file header (missing length)"))?;
    Ok((rest.len() >= len).then_some(SIGNATURE.len() + 8 + len))
}

/// A field and its bytes; the outer `None` is: not all of it is there.
fn binary_field<'a>(bytes: &mut &'a [u8]) -> Result<Option<Option<&'a [u8]>>> {
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let len = match i32::from_be_bytes(*len) {
        -1 => {
            *bytes = rest;
            return Ok(Some(None));
        }
        len => usize::try_from(len).map_err(|_| bad("invalid field size"))?,
    };
    let Some((field, rest)) = rest.split_at_checked(len) else { return Ok(None) };
    *bytes = rest;
    Ok(Some(Some(field)))
}

/// PostgreSQL: `CopyGetData`.
pub fn client_failed(message: &str) -> Failure {
    fail(SqlState::QUERY_CANCELED, format!("COPY from stdin failed: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_an_end_is_bounded_and_what_follows_the_end_is_not_kept() {
        let csv = None;
        let lines = LineFormat { delimiter: b'\t', null: Vec::new(), header: Header::No, csv };
        let copy = CopyFrom { format: Format::Lines(lines), content_first: false };
        let mut reader = RowReader::new(&copy, 8);
        for _ in 0..100 {
            reader.push(b"p\ta\n").unwrap();
            assert!(reader.next(false).unwrap().is_some());
        }
        reader.push(b"p\taaaaaa").unwrap();
        assert!(reader.next(false).unwrap().is_none());
        assert_eq!(reader.push(b"a").unwrap_err().sqlstate.0, "54000");
        let mut reader = RowReader::new(&copy, 8);
        reader.push(b"\\.\n").unwrap();
        assert!(reader.next(false).unwrap().is_none());
        for _ in 0..100 {
            reader.push(b"more").unwrap();
        }
        assert!(reader.next(true).unwrap().is_none());
    }
}
