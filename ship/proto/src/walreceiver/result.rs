//! The result of one command, collected until ReadyForQuery.

use alloc::string::String;
use alloc::vec::Vec;

use crate::wire::reader::{Malformed, Reader};

use super::error::{Activity, UpstreamViolation};

/// Rows kept of one result; none of our commands has more than one.
const ROWS_MAX: usize = 16;

/// Columns and rows of one result.
#[derive(Debug, Default)]
pub(super) struct ResultSet {
    fields: usize,
    rows: Vec<Vec<Option<Vec<u8>>>>,
    rows_seen: usize,
}

impl ResultSet {
    /// Takes a RowDescription; only the number of columns counts.
    pub(super) fn handle_description(&mut self, body: &[u8]) -> Result<(), Malformed> {
        self.fields = usize::from(Reader::new(body).u16()?);
        Ok(())
    }

    /// Takes a DataRow.
    pub(super) fn handle_row(&mut self, body: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(body);
        let mut row = Vec::new();
        for _ in 0..reader.u16()? {
            // A negative length is NULL.
            row.push(match usize::try_from(reader.i32()?) {
                Ok(len) => Some(reader.take(len)?.to_vec()),
                Err(_) => None,
            });
        }
        reader.end()?;
        self.rows_seen += 1;
        if self.rows.len() < ROWS_MAX {
            self.rows.push(row);
        }
        Ok(())
    }

    /// How many rows came.
    pub(super) const fn rows_seen(&self) -> usize {
        self.rows_seen
    }

    /// The only row, which has at least `fields_min` columns.
    pub(super) fn only_row(
        &self,
        during: Activity,
        fields_min: usize,
    ) -> Result<Row<'_>, UpstreamViolation> {
        match self.rows.as_slice() {
            [row] if self.rows_seen == 1 && row.len() >= fields_min => Ok(Row { during, row }),
            _ => Err(UpstreamViolation::ResultShape {
                during,
                rows: self.rows_seen,
                fields: self.fields,
            }),
        }
    }
}

/// A row of a result, whose columns are text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    during: Activity,
    row: &'a [Option<Vec<u8>>],
}

impl<'a> Row<'a> {
    /// The bytes of a column; `None` for NULL.
    pub(super) fn bytes(self, column: usize) -> Option<&'a [u8]> {
        self.row.get(column)?.as_deref()
    }

    /// What `parse` makes of a column's text; `None` for NULL.
    pub(super) fn parse<T>(
        self,
        column: usize,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, UpstreamViolation> {
        let Some(bytes) = self.bytes(column) else { return Ok(None) };
        match core::str::from_utf8(bytes).ok().and_then(parse) {
            Some(value) => Ok(Some(value)),
            None => Err(self.unreadable(column)),
        }
    }

    /// As [`Row::parse`], and NULL is an error.
    pub(super) fn require<T>(
        self,
        column: usize,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, UpstreamViolation> {
        self.parse(column, parse)?.ok_or_else(|| self.unreadable(column))
    }

    fn unreadable(self, column: usize) -> UpstreamViolation {
        let value = String::from_utf8_lossy(self.bytes(column).unwrap_or_default()).into_owned();
        UpstreamViolation::ResultValue { during: self.during, value }
    }
}
