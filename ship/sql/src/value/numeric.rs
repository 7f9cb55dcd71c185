//! The `numeric` type: decimal numbers of up to 38 digits, exact.
//!
//! PostgreSQL's have up to 131,072 digits; a console over WAL positions has no use for them, and a
//! fixed size bounds what one expression can cost. A result that does not fit is an error, never
//! a rounded value.
//!
//! PostgreSQL: src/backend/utils/adt/numeric.c.

use std::cmp::Ordering;
use std::fmt;

use num_rational::{BigRational, Ratio};
use num_traits::ToPrimitive;
use walhub_proto::sqlstate::SqlState;

use crate::failure::{DIVISION_BY_ZERO, Failure, Result, fail, invalid_input, out_of_range};
use crate::value::float;

/// Digits that any result of division has at least. PostgreSQL: `NUMERIC_MIN_SIG_DIGITS`.
const SIGNIFICANT_DIGITS_MIN: i32 = 16;
/// Digits after the point. Ten to this power still fits the integer that holds the digits.
const SCALE_MAX: u32 = 38;
/// Significant digits that a float has when it becomes a number. PostgreSQL: `DBL_DIG`.
const FLOAT_DIGITS: i32 = 15;

/// A number, which is `unscaled / 10^scale`.
#[derive(Clone, Copy, Debug)]
pub struct Numeric {
    unscaled: i128,
    scale: u32,
}

fn overflow() -> Failure {
    fail(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value overflows numeric format")
}

fn power_of_ten(exponent: u32) -> Result<i128> {
    10_i128.checked_pow(exponent).ok_or_else(overflow)
}

/// Divides, half away from zero.
fn divide_rounded(dividend: i128, divisor: i128) -> i128 {
    let (quotient, rest) = (dividend / divisor, dividend % divisor);
    // Compared without doubling, which could overflow.
    let half_or_more = rest.unsigned_abs() >= divisor.unsigned_abs() - rest.unsigned_abs();
    if half_or_more { quotient + dividend.signum() * divisor.signum() } else { quotient }
}

/// A word of the binary format: four digits, or how many groups of four of the at most 39 digits.
fn word(number: impl TryInto<i16>) -> i16 {
    number.try_into().ok().expect("neither is above 9,999")
}

/// Rounds as `printf` does.
fn rounded_half_to_even(number: BigRational) -> i128 {
    let away = number.round().to_integer().to_i128().expect("at most sixteen digits");
    // In lowest terms, only what is halfway between two integers has this denominator.
    let halfway = *number.denom() == 2.into();
    if halfway && away % 2 != 0 { away - away.signum() } else { away }
}

impl Numeric {
    /// `unscaled / 10^scale`.
    pub const fn new(unscaled: i128, scale: u32) -> Self {
        Self { unscaled, scale }
    }

    /// The same number with `scale` digits after the point, rounded half away from zero.
    pub fn with_scale(self, scale: u32) -> Result<Self> {
        let unscaled = match scale.cmp(&self.scale) {
            Ordering::Equal => self.unscaled,
            Ordering::Greater => {
                self.unscaled.checked_mul(power_of_ten(scale - self.scale)?).ok_or_else(overflow)?
            }
            Ordering::Less => divide_rounded(self.unscaled, power_of_ten(self.scale - scale)?),
        };
        Ok(Self { unscaled, scale })
    }

    /// PostgreSQL: `round(numeric, integer)`; a negative `digits` rounds before the point.
    pub fn round(self, digits: i32) -> Result<Self> {
        match u32::try_from(digits) {
            Ok(digits) => self.with_scale(digits.min(SCALE_MAX)),
            Err(_) => {
                let places = digits.unsigned_abs();
                if places >= SCALE_MAX {
                    return Ok(Self::new(0, 0));
                }
                let unit = power_of_ten(places)?;
                let whole = divide_rounded(
                    self.unscaled,
                    power_of_ten(self.scale)?.checked_mul(unit).ok_or_else(overflow)?,
                );
                Ok(Self::new(whole.checked_mul(unit).ok_or_else(overflow)?, 0))
            }
        }
    }

    /// PostgreSQL: `trunc(numeric)`, `floor(numeric)` and `ceil(numeric)`, by the sign of `toward`.
    pub fn to_whole(self, toward: Ordering) -> Result<Self> {
        let unit = power_of_ten(self.scale)?;
        let truncated = self.unscaled / unit;
        let whole = match toward {
            Ordering::Equal => truncated,
            Ordering::Less => self.unscaled.div_euclid(unit),
            Ordering::Greater => truncated + i128::from(self.unscaled % unit > 0),
        };
        Ok(Self::new(whole, 0))
    }

    fn aligned(self, other: Self) -> Result<(Self, Self)> {
        let scale = self.scale.max(other.scale);
        Ok((self.with_scale(scale)?, other.with_scale(scale)?))
    }

    /// PostgreSQL: `numeric_add`.
    pub fn try_add(self, other: Self) -> Result<Self> {
        let (left, right) = self.aligned(other)?;
        let sum = left.unscaled.checked_add(right.unscaled).ok_or_else(overflow)?;
        Ok(Self::new(sum, left.scale))
    }

    /// PostgreSQL: `numeric_uminus`.
    pub const fn negate(self) -> Self {
        // Every constructor keeps away from the one value without a negative.
        Self::new(self.unscaled.saturating_neg(), self.scale)
    }

    /// PostgreSQL: `numeric_abs`.
    pub const fn abs(self) -> Self {
        if self.unscaled < 0 { self.negate() } else { self }
    }

    /// PostgreSQL: `numeric_mul`.
    pub fn multiply(self, other: Self) -> Result<Self> {
        let scale = self.scale + other.scale;
        let product = self.unscaled.checked_mul(other.unscaled).ok_or_else(overflow)?;
        if scale > SCALE_MAX {
            return Self::new(product, scale).with_scale(SCALE_MAX);
        }
        Ok(Self::new(product, scale))
    }

    /// PostgreSQL: `numeric_mod`.
    pub fn remainder(self, other: Self) -> Result<Self> {
        let (left, right) = self.aligned(other)?;
        if right.unscaled == 0 {
            return Err(fail(DIVISION_BY_ZERO, "division by zero"));
        }
        let rest = left.unscaled.checked_rem(right.unscaled).ok_or_else(overflow)?;
        Ok(Self::new(rest, left.scale))
    }

    /// PostgreSQL: `numeric_div` with the scale that `select_div_scale` gives.
    pub fn divide(self, other: Self) -> Result<Self> {
        if other.unscaled == 0 {
            return Err(fail(DIVISION_BY_ZERO, "division by zero"));
        }
        let ((weight, first), (other_weight, other_first)) =
            (self.leading_digit(), other.leading_digit());
        let quotient_weight = weight - other_weight - i32::from(first <= other_first);
        let wanted = SIGNIFICANT_DIGITS_MIN - quotient_weight * 4;
        let scale = wanted.max(0).unsigned_abs().max(self.scale).max(other.scale).min(SCALE_MAX);
        // Long division, digit by digit: only the rest grows, by a factor of ten.
        let (mut quotient, mut rest) =
            (self.unscaled / other.unscaled, self.unscaled % other.unscaled);
        let digits = (scale + other.scale).saturating_sub(self.scale);
        for _ in 0..digits {
            rest = rest.checked_mul(10).ok_or_else(overflow)?;
            let digit = rest / other.unscaled;
            quotient = quotient
                .checked_mul(10)
                .and_then(|quotient| quotient.checked_add(digit))
                .ok_or_else(overflow)?;
            rest %= other.unscaled;
        }
        let rest_at_least_half =
            rest.unsigned_abs() >= other.unscaled.unsigned_abs() - rest.unsigned_abs();
        if rest_at_least_half {
            quotient += self.unscaled.signum() * other.unscaled.signum();
        }
        Self::new(quotient, digits + self.scale - other.scale).with_scale(scale)
    }

    /// Weight and value of the first digit in base 10,000, PostgreSQL's own base.
    fn leading_digit(self) -> (i32, u128) {
        let magnitude = self.unscaled.unsigned_abs();
        let Some(log) = magnitude.checked_ilog10() else { return (0, 0) };
        // Both are below the 39 digits that an i128 has.
        let exponent = log.cast_signed() - self.scale.cast_signed();
        let weight = exponent.div_euclid(4);
        // The first digit has one to four decimal digits.
        let keep = exponent.rem_euclid(4).unsigned_abs();
        let first = if log >= keep {
            magnitude / 10_u128.pow(log - keep)
        } else {
            magnitude * 10_u128.pow(keep - log)
        };
        (weight, first)
    }

    /// Rounded to an integer; `None` when it does not fit.
    pub fn to_i64(self) -> Option<i64> {
        i64::try_from(self.to_i128()).ok()
    }

    /// Rounded to a whole number.
    pub fn to_i128(self) -> i128 {
        divide_rounded(self.unscaled, 10_i128.pow(self.scale))
    }

    /// The nearest float, half to even. PostgreSQL: `numeric_float8`.
    pub fn to_f64(self) -> f64 {
        let float = Ratio::new_raw(self.unscaled, 10_i128.pow(self.scale)).to_f64();
        float.expect("a ratio whose denominator is not zero is a number")
    }

    /// Its first fifteen significant digits, half to even. PostgreSQL: `float8_numeric`.
    pub fn from_f64(value: f64) -> Result<Self> {
        let exact = BigRational::from_float(value).ok_or_else(|| out_of_range("numeric"))?;
        if value == 0.0 {
            return Ok(Self::new(0, 0));
        }
        let ten = BigRational::from_integer(10.into());
        let digits = |scale: i32| rounded_half_to_even(&exact * ten.pow(scale));
        // Next to a power of ten the logarithm may be off by one, and rounding may reach that power.
        let exponent = float::to_i64(value.abs().log10().floor());
        let exponent = exponent.and_then(|exponent| i32::try_from(exponent).ok());
        let guess = FLOAT_DIGITS - 1 - exponent.expect("floats have small exponents");
        let (mut unscaled, mut scale) = [guess + 1, guess, guess - 1]
            .map(|scale| (digits(scale), scale))
            .into_iter()
            .find(|(digits, _)| digits.unsigned_abs() < 10_u128.pow(FLOAT_DIGITS.unsigned_abs()))
            .expect("one of the three has fifteen digits");
        while unscaled % 10 == 0 {
            (unscaled, scale) = (unscaled / 10, scale - 1);
        }
        Self::from_parts(unscaled, scale).ok_or_else(overflow)
    }

    /// `unscaled / 10^scale`; `None` when it does not fit.
    fn from_parts(unscaled: i128, scale: i32) -> Option<Self> {
        match u32::try_from(scale) {
            Ok(scale) => (scale <= SCALE_MAX).then_some(Self { unscaled, scale }),
            Err(_) => {
                let factor = 10_i128.checked_pow(scale.unsigned_abs())?;
                Some(Self::new(unscaled.checked_mul(factor)?, 0))
            }
        }
    }

    /// Parses decimal text with an optional exponent, without surrounding space.
    pub fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (negative, digits) = match mantissa.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let mut unscaled: i128 = 0;
        for byte in whole.bytes().chain(fraction.bytes()) {
            let digit = char::from(byte).to_digit(10)?;
            unscaled = unscaled.checked_mul(10)?.checked_add(i128::from(digit))?;
        }
        let scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
        Self::from_parts(if negative { -unscaled } else { unscaled }, scale)
    }

    /// As [`Numeric::parse`], with PostgreSQL's error.
    pub fn from_text(text: &str) -> Result<Self> {
        let trimmed = text.trim_ascii();
        Self::parse(trimmed).ok_or_else(|| {
            let number = trimmed.bytes().any(|byte| byte.is_ascii_digit())
                && trimmed.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
            if number && trimmed.parse::<f64>().is_ok() {
                overflow()
            } else {
                invalid_input("numeric", text)
            }
        })
    }

    /// The binary format: base-10,000 digits. PostgreSQL: `numeric_send`.
    pub fn encode(self, buf: &mut Vec<u8>) {
        let mut magnitude = self.unscaled.unsigned_abs();
        let mut groups: Vec<i16> = Vec::new();
        // The last group may need padding on the right to become a full one.
        let padding = (4 - self.scale % 4) % 4;
        if padding > 0 {
            let unit = 10_u128.pow(4 - padding);
            groups.push(word(magnitude % unit * 10_u128.pow(padding)));
            magnitude /= unit;
        }
        while magnitude > 0 {
            groups.push(word(magnitude % 10_000));
            magnitude /= 10_000;
        }
        while groups.last() == Some(&0) {
            groups.pop();
        }
        // The weight is that of the first group: how many stand before the point, less one.
        let weight = match groups.len() {
            0 => 0,
            count => word(count) - word(self.scale.div_ceil(4)) - 1,
        };
        groups.reverse();
        while groups.last() == Some(&0) {
            groups.pop();
        }
        let sign = if self.unscaled < 0 { 0x4000 } else { 0 };
        let head = [word(groups.len()), weight, sign, word(self.scale)];
        buf.extend(head.iter().chain(&groups).flat_map(|word| word.to_be_bytes()));
    }

    /// Decodes the binary format; `None` when it is malformed, not finite or too large.
    /// PostgreSQL: `numeric_recv`.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.chunks(2).map(|pair| pair.try_into().ok().map(u16::from_be_bytes));
        let mut word = || words.next().flatten();
        let count = word()?;
        let weight = i32::from(word()?.cast_signed());
        let sign = word()?;
        let scale = u32::from(word()?);
        if (sign != 0 && sign != 0x4000) || scale > SCALE_MAX {
            return None;
        }
        let mut unscaled: i128 = 0;
        for _ in 0..count {
            let digit = word().filter(|&digit| digit < 10_000)?;
            unscaled = unscaled.checked_mul(10_000)?.checked_add(i128::from(digit))?;
        }
        if words.next().is_some() {
            return None;
        }
        if unscaled == 0 {
            return Some(Self::new(0, scale));
        }
        // The last digit stands for 10,000^(weight - count + 1).
        let exponent = (weight - i32::from(count) + 1).checked_mul(4)?;
        let value = if exponent >= 0 {
            Self::new(unscaled.checked_mul(10_i128.checked_pow(exponent.unsigned_abs())?)?, 0)
        } else {
            Self::new(unscaled, exponent.unsigned_abs())
        };
        let value = value.with_scale(scale).ok()?;
        Some(if sign == 0 { value } else { value.negate() })
    }
}

impl From<i64> for Numeric {
    fn from(value: i64) -> Self {
        Self::new(i128::from(value), 0)
    }
}

impl PartialEq for Numeric {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Numeric {}

impl PartialOrd for Numeric {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Numeric {
    fn cmp(&self, other: &Self) -> Ordering {
        // Whole parts first: bringing both to one scale could overflow.
        let split = |number: &Self| {
            let unit = 10_i128.pow(number.scale.min(SCALE_MAX));
            (number.unscaled.div_euclid(unit), number.unscaled.rem_euclid(unit), number.scale)
        };
        let (left, right) = (split(self), split(other));
        let scaled = |fraction: i128, scale: u32| fraction * 10_i128.pow(SCALE_MAX - scale);
        left.0.cmp(&right.0).then_with(|| scaled(left.1, left.2).cmp(&scaled(right.1, right.2)))
    }
}

impl fmt::Display for Numeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.unscaled < 0 { "-" } else { "" };
        let scale = usize::try_from(self.scale).expect("at most 38");
        let digits = format!("{:0>width$}", self.unscaled.unsigned_abs(), width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        if scale == 0 { write!(f, "{sign}{whole}") } else { write!(f, "{sign}{whole}.{fraction}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(text: &str) -> Numeric {
        Numeric::from_text(text).unwrap()
    }

    /// Each line was answered by PostgreSQL 15.
    #[test]
    fn division_has_the_scale_of_postgres() {
        for (left, right, quotient) in [
            ("1", "3", "0.33333333333333333333"),
            ("7", "2", "3.5000000000000000"),
            ("10", "4", "2.5000000000000000"),
            ("123456789", "1024", "120563.270507812500"),
            ("16777216", "1048576", "16.0000000000000000"),
            ("-1", "3", "-0.33333333333333333333"),
            ("2", "3", "0.66666666666666666667"),
            ("0", "5", "0.00000000000000000000"),
            ("0.5", "0.25", "2.0000000000000000"),
            ("18446744073709551615", "3", "6148914691236517205"),
        ] {
            assert_eq!(n(left).divide(n(right)).unwrap().to_string(), quotient, "{left}/{right}");
        }
    }

    #[test]
    fn rounding_is_half_away_from_zero() {
        for (value, digits, rounded) in [
            ("2.5", 0, "3"),
            ("-2.5", 0, "-3"),
            ("2.4", 0, "2"),
            ("1.005", 2, "1.01"),
            ("1", 2, "1.00"),
            ("155", -1, "160"),
            ("-155", -2, "-200"),
        ] {
            assert_eq!(n(value).round(digits).unwrap().to_string(), rounded);
        }
        assert_eq!(n("-1.5").to_whole(Ordering::Less).unwrap().to_string(), "-2");
        assert_eq!(n("-1.5").to_whole(Ordering::Greater).unwrap().to_string(), "-1");
        assert_eq!(n("1.5").to_whole(Ordering::Greater).unwrap().to_string(), "2");
    }

    #[test]
    fn comparison_ignores_the_scale_and_never_overflows() {
        assert_eq!(n("1.0"), n("1"));
        assert!(n("-0.5") < n("0"));
        assert!(n("99999999999999999999999999999999999999") > n("0.00000000000000000000000000001"));
    }

    #[test]
    fn binary_is_what_postgres_sends() {
        // SELECT encode(numeric_send('12345.678'), 'hex') and so on.
        for (text, hex) in [
            ("0", "0000000000000000"),
            ("1", "0001000000000000_0001"),
            ("12345.678", "0003000100000003_000109291a7c"),
            ("-0.001", "0001ffff40000003_000a"),
            ("10000", "0001000100000000_0001"),
            ("0.00010000", "0001ffff00000008_0001"),
            ("100.50", "0002000000000002_00641388"),
            (
                "-99999999999999999999999999999999999999",
                "000a000940000000_0063270f270f270f270f270f270f270f270f270f",
            ),
            ("0.00000000000000000000000000000000000001", "0001fff600000026_0064"),
        ] {
            let hex = hex.replace('_', "");
            let mut encoded = Vec::new();
            n(text).encode(&mut encoded);
            let shown: String = encoded.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(shown, hex, "{text}");
            assert_eq!(Numeric::decode(&encoded).unwrap().to_string(), text);
            for cut in 0..encoded.len() {
                assert!(Numeric::decode(&encoded[..cut]).is_none());
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let large = n("99999999999999999999999999999999999999");
        for result in
            [large.multiply(large), large.try_add(large).and_then(|sum| sum.multiply(n("9")))]
        {
            assert_eq!(result.unwrap_err().sqlstate.0, "22003");
        }
        assert_eq!(Numeric::from_text("1e99").unwrap_err().sqlstate.0, "22003");
        assert_eq!(Numeric::from_text("abc").unwrap_err().sqlstate.0, "22P02");
        assert_eq!(n("1").divide(n("0")).unwrap_err().sqlstate.0, "22012");
        for text in ["", ".", "1e", "1.2.3", "--1", "1 2"] {
            assert!(Numeric::parse(text).is_none(), "{text}");
        }
        assert_eq!(n("1.5e3").to_string(), "1500");
    }

    /// Each line was answered by PostgreSQL 15.
    #[test]
    fn floats_become_fifteen_digits() {
        for (float, number) in [
            (0.1, "0.1"),
            (-0.0, "0"),
            (1e-30, "0.000000000000000000000000000001"),
            (-2.5e-7, "-0.00000025"),
            (1e23, "100000000000000000000000"),
            (9.999_999_999_999_996, "10"),
            (99_999_999_999_999.96, "100000000000000"),
            (0.999_999_999_999_999_6, "1"),
            (1_000_000_000_000_005.0, "1000000000000000"),
            (1_000_000_000_000_015.0, "1000000000000020"),
            (123_456_789_012_345.67, "123456789012346"),
            (9_007_199_254_740_993.0, "9007199254740990"),
            (1e38, "100000000000000000000000000000000000000"),
        ] {
            assert_eq!(Numeric::from_f64(float).unwrap().to_string(), number, "{float}");
        }
        for float in [1e300, 1.5e-38, f64::MIN_POSITIVE, f64::NAN, f64::INFINITY] {
            assert_eq!(Numeric::from_f64(float).unwrap_err().sqlstate.0, "22003", "{float}");
        }
    }

    /// The texts are the other way to the same answers.
    #[test]
    fn random_numbers_convert_as_their_texts_do() {
        let mut random = 1_u64;
        for _ in 0..20_000 {
            let mut next = || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                random.rotate_left(29)
            };
            let unscaled =
                (i128::from(next().cast_signed()) * i128::from(next() >> 1)) >> (next() % 127);
            let number = Numeric::new(unscaled, u32::try_from(next() % 39).unwrap());
            assert_eq!(number.to_f64(), number.to_string().parse::<f64>().unwrap(), "{number}");
            // From 2^-70 to 2^110.
            let float = f64::from_bits((1023 - 70 + next() % 180) << 52 | next() >> 12);
            let text = n(&format!("{float:.14e}"));
            assert_eq!(Numeric::from_f64(float).unwrap(), text, "{float}");
        }
    }
}
