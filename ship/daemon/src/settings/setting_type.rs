//! Types of settings: what a value may be, what its field holds, and how it is shown.
//!
//! A row of the table has one of them, with its default and its range. What a number counts is part of
//! the type, so that the field is in bytes or a duration, and nothing has to be looked up by name.
//!
//! Not here: the grammar of numbers and Booleans (`value`), the checks of texts (`check`), the words of
//! enums (`words`).
//!
//! PostgreSQL: `config_bool`, `config_int`, `config_string`, `config_enum` (src/include/utils/guc_tables.h).

use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::time::Duration;

use walhub_proto::sqlstate::SqlState;

use super::definition::{IntRange, Kind, Unit, Written};
use super::error::{Objection, SettingError};
use super::value::parse_bool;
use super::words::Words;
use super::{ValueSource, ValueText};

/// The type of a setting.
pub(super) trait SettingType {
    /// What the field holds.
    type Field;

    /// As `pg_settings` tells it.
    fn kind(&self) -> Kind;

    /// The value of a setting that nobody has set.
    fn boot(&self) -> Reading<Self::Field>;

    /// Reads a value.
    ///
    /// # Errors
    /// In PostgreSQL's words.
    fn parse(&self, written: &Written<'_>) -> Result<Reading<Self::Field>, SettingError>;
}

/// A value that has been read.
pub(super) struct Reading<T> {
    /// For the field of [`Settings`](super::Settings).
    pub(super) field: T,
    /// For people, as SHOW and `pg_settings` tell it.
    pub(super) text: ValueText,
}

impl<T> Reading<T> {
    fn new(field: T, text: &str) -> Self {
        Self { field, text: ValueText { plain: text.to_owned(), shown: text.to_owned() } }
    }

    fn of_number(field: T, range: &IntRange, number: i64) -> Self {
        Self { field, text: ValueText { plain: number.to_string(), shown: range.show(number) } }
    }
}

/// `on` or `off`.
pub(super) struct Bool {
    default: bool,
}

/// `on` or `off`.
pub(super) const fn boolean(default: bool) -> Bool {
    Bool { default }
}

impl SettingType for Bool {
    type Field = bool;

    fn kind(&self) -> Kind {
        Kind::Bool
    }

    fn boot(&self) -> Reading<bool> {
        Reading::new(self.default, if self.default { "on" } else { "off" })
    }

    fn parse(&self, written: &Written<'_>) -> Result<Reading<bool>, SettingError> {
        let Some(value) = parse_bool(written.value) else {
            let message = format!("parameter \"{}\" requires a Boolean value", written.name);
            return Err(SettingError::new(SqlState::INVALID_PARAMETER_VALUE, message));
        };
        Ok(boolean(value).boot())
    }
}

/// What a number counts.
pub(super) trait Measure {
    /// What holds a count.
    type Field;
    /// Unit in which it is counted.
    const UNIT: Option<Unit> = None;
    /// The largest count that [`Self::Field`] holds.
    const COUNT_MAX: u32 = u32::MAX;

    /// The count as a field holds it.
    fn of(count: u32) -> Self::Field;
}

impl Measure for u32 {
    type Field = Self;

    fn of(count: u32) -> Self {
        count
    }
}

impl Measure for u16 {
    type Field = Self;
    // Not `MAX.into()`: a conversion by trait is not for constants.
    const COUNT_MAX: u32 = Self::MAX as u32;

    fn of(count: u32) -> Self {
        Self::try_from(count).expect("a range ends at COUNT_MAX")
    }
}

/// Implements [`Measure`] for a unit.
macro_rules! measure {
    ($doc:literal, $name:ident, $unit:expr, $field:ty, $of:expr) => {
        #[doc = $doc]
        pub(super) struct $name;

        impl Measure for $name {
            type Field = $field;
            const UNIT: Option<Unit> = $unit;

            fn of(count: u32) -> $field {
                let of: fn(u64) -> $field = $of;
                of(u64::from(count))
            }
        }
    };
}

measure!("Kilobytes; the field has bytes.", Kilobytes, Some(Unit::Kilobytes), u64, |n| n << 10);
measure!("Megabytes; the field has bytes.", Megabytes, Some(Unit::Megabytes), u64, |n| n << 20);
measure!("Seconds.", Seconds, Some(Unit::Seconds), Duration, Duration::from_secs);
measure!("Milliseconds.", Milliseconds, Some(Unit::Milliseconds), Duration, Duration::from_millis);
// PostgreSQL has no unit for them: its names end in "_us" instead.
measure!("Microseconds.", Microseconds, None, Duration, Duration::from_micros);

/// A whole number of `M`.
pub(super) struct Int<M> {
    default: u32,
    range: IntRange,
    measure: PhantomData<M>,
}

/// A whole number of `M` in `range`.
pub(super) const fn int<M: Measure>(default: u32, range: RangeInclusive<i64>) -> Int<M> {
    let (min, max) = (*range.start(), *range.end());
    assert!(0 <= min && max <= M::COUNT_MAX as i64, "the range is wider than the field");
    assert!(min <= default as i64 && default as i64 <= max, "the default is outside its range");
    Int {
        default,
        range: IntRange { unit: M::UNIT, min, max, min_word: None },
        measure: PhantomData,
    }
}

impl<M: Measure> Int<M> {
    fn reading(&self, count: u32) -> Reading<M::Field> {
        Reading::of_number(M::of(count), &self.range, count.into())
    }
}

impl<M: Measure> SettingType for Int<M> {
    type Field = M::Field;

    fn kind(&self) -> Kind {
        Kind::Int(self.range)
    }

    fn boot(&self) -> Reading<M::Field> {
        self.reading(self.default)
    }

    fn parse(&self, written: &Written<'_>) -> Result<Reading<M::Field>, SettingError> {
        let number = self.range.parse(written)?;
        Ok(self.reading(self.range.count(written, number)?))
    }
}

/// A whole number of `M`, or the number before the first of these, which stands for none.
pub(super) struct OptionalInt<M> {
    default: Option<u32>,
    range: IntRange,
    measure: PhantomData<M>,
}

/// A whole number of `M` in `range`, whose first number stands for `None`.
pub(super) const fn optional<M: Measure>(
    default: Option<u32>,
    range: RangeInclusive<i64>,
) -> OptionalInt<M> {
    let (min, max) = (*range.start(), *range.end());
    assert!(-1 <= min && max <= M::COUNT_MAX as i64, "the range is wider than the field");
    if let Some(default) = default {
        assert!(min < default as i64 && default as i64 <= max, "the default is outside its range");
    }
    let range = IntRange { unit: M::UNIT, min, max, min_word: None };
    OptionalInt { default, range, measure: PhantomData }
}

/// As [`optional`], but for none users write `auto`, which is the default.
pub(super) const fn auto_or<M: Measure>(range: RangeInclusive<i64>) -> OptionalInt<M> {
    let mut auto = optional(None, range);
    auto.range.min_word = Some("auto");
    auto
}

impl<M: Measure> OptionalInt<M> {
    fn reading(&self, count: Option<u32>) -> Reading<Option<M::Field>> {
        let number = count.map_or(self.range.min, i64::from);
        Reading::of_number(count.map(M::of), &self.range, number)
    }
}

impl<M: Measure> SettingType for OptionalInt<M> {
    type Field = Option<M::Field>;

    fn kind(&self) -> Kind {
        Kind::Int(self.range)
    }

    fn boot(&self) -> Reading<Option<M::Field>> {
        self.reading(self.default)
    }

    fn parse(&self, written: &Written<'_>) -> Result<Reading<Option<M::Field>>, SettingError> {
        let number = self.range.parse(written)?;
        if number == self.range.min {
            return Ok(self.reading(None));
        }
        Ok(self.reading(Some(self.range.count(written, number)?)))
    }
}

/// A TCP port.
///
/// On the command line it may be 0, which lets the kernel choose. A fixed port is what a server is for;
/// only a test or a script that reads the port back from the pid file can use one that the kernel chose.
pub(super) struct Port(Int<u16>);

/// A TCP port.
pub(super) const fn tcp_port(default: u32) -> Port {
    Port(int(default, 1..=65535))
}

impl SettingType for Port {
    type Field = u16;

    fn kind(&self) -> Kind {
        self.0.kind()
    }

    fn boot(&self) -> Reading<u16> {
        self.0.boot()
    }

    fn parse(&self, written: &Written<'_>) -> Result<Reading<u16>, SettingError> {
        if written.source == ValueSource::CommandLine && self.0.range.parse(written)? == 0 {
            return Ok(self.0.reading(0));
        }
        self.0.parse(written)
    }
}

/// A word of the enum `E`.
pub(super) struct Word<E> {
    default: E,
}

/// A word of the enum `E`.
pub(super) const fn word<E: Words>(default: E) -> Word<E> {
    Word { default }
}

impl<E: Words> SettingType for Word<E> {
    type Field = E;

    fn kind(&self) -> Kind {
        Kind::Enum(E::ALL.iter().map(|value| value.word()).collect())
    }

    fn boot(&self) -> Reading<E> {
        Reading::new(self.default, self.default.word())
    }

    fn parse(&self, written: &Written<'_>) -> Result<Reading<E>, SettingError> {
        let Some(value) = E::from_word(written.value) else {
            let offered: Vec<&str> = E::ALL.iter().map(|value| value.word()).collect();
            let hint = format!("Available values: {}.", offered.join(", "));
            return Err(written.refusal(Objection::hint(hint)));
        };
        Ok(word(value).boot())
    }
}

/// A text that means a `T`.
pub(super) struct Text<T> {
    default: &'static str,
    parse: fn(&str) -> Result<T, Objection>,
}

/// A text that `parse` accepts.
pub(super) const fn text<T>(
    default: &'static str,
    parse: fn(&str) -> Result<T, Objection>,
) -> Text<T> {
    Text { default, parse }
}

impl<T> SettingType for Text<T> {
    type Field = T;

    fn kind(&self) -> Kind {
        Kind::String
    }

    /// # Panics
    /// If the type refuses its own default, which every start and every test would meet.
    fn boot(&self) -> Reading<T> {
        match (self.parse)(self.default) {
            Ok(field) => Reading::new(field, self.default),
            Err(objection) => panic!("the default \"{}\" is refused: {objection:?}", self.default),
        }
    }

    fn parse(&self, written: &Written<'_>) -> Result<Reading<T>, SettingError> {
        match (self.parse)(written.value) {
            Ok(field) => Ok(Reading::new(field, written.value)),
            Err(objection) => Err(written.refusal(objection)),
        }
    }
}
