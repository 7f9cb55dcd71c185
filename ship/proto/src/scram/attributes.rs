//! Attributes of a SCRAM message: a letter, `=`, a value, and a comma before the next.
//!
//! PostgreSQL: `read_attr_value`, `read_any_attr`.

use super::violation::ScramViolation;

/// What has not been read. A message has no zero bytes, so 0 is its end here, as in PostgreSQL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(super) const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The byte that comes next; 0 at the end.
    pub(super) fn next(&self) -> u8 {
        self.rest.first().copied().unwrap_or(0)
    }

    pub(super) fn skip(&mut self) {
        self.rest = self.rest.get(1..).unwrap_or_default();
    }

    pub(super) fn expect(
        &mut self,
        byte: u8,
        violation: impl FnOnce(u8) -> ScramViolation,
    ) -> Result<(), ScramViolation> {
        match self.next() {
            got if got == byte => {
                self.skip();
                Ok(())
            }
            got => Err(violation(got)),
        }
    }

    /// The value of the attribute that must come now.
    pub(super) fn value(&mut self, name: u8) -> Result<&'a [u8], ScramViolation> {
        self.expect(name, |got| ScramViolation::Attribute { name, got })?;
        self.value_of(name)
    }

    /// Whatever attribute comes now.
    pub(super) fn any(&mut self) -> Result<(u8, &'a [u8]), ScramViolation> {
        let name = self.next();
        if self.rest.is_empty() {
            return Err(ScramViolation::AttributeAtEnd);
        }
        if !name.is_ascii_alphabetic() {
            return Err(ScramViolation::AttributeName { got: name });
        }
        self.skip();
        Ok((name, self.value_of(name)?))
    }

    fn value_of(&mut self, name: u8) -> Result<&'a [u8], ScramViolation> {
        self.expect(b'=', |_| ScramViolation::Equals { name })?;
        let end = self.rest.iter().position(|&byte| byte == b',').unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, &[]));
        self.rest = rest.get(1..).unwrap_or_default();
        Ok(value)
    }
}
