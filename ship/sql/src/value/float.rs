//! Numbers with a floating point, to and from whole ones.

/// Rounds half to even, as `rint` does; `None` when it does not fit.
pub fn to_i64(value: f64) -> Option<i64> {
    // Both bounds are powers of two, which a float has exactly.
    const BOUND: f64 = 9_223_372_036_854_775_808.0;
    let rounded = value.round_ties_even();
    // The range leaves out what is not a number as well.
    #[allow(clippy::cast_possible_truncation, reason = "it is whole, and within the range")]
    (-BOUND..BOUND).contains(&rounded).then_some(rounded as i64)
}

/// Exact where a float can be, and the nearest one where not.
pub const fn from_i64(value: i64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "that is what is asked for")]
    let float = value as f64;
    float
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_those_that_their_text_would_be() {
        let text = |value: f64| format!("{:.0}", value.round_ties_even()).parse::<i64>().ok();
        for value in [
            0.0,
            -0.0,
            0.5,
            1.5,
            -2.5,
            1e15 + 0.5,
            4_503_599_627_370_497.5,
            9.223_372_036_854_775e18,
            9_223_372_036_854_775_808.0,
            -9_223_372_036_854_775_808.0,
            -9_223_372_036_854_777_856.0,
            1e300,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
        ] {
            assert_eq!(to_i64(value), text(value), "{value}");
        }
        for value in [0, 1, -1, i64::MAX, i64::MIN, (1 << 53) + 1, (1 << 60) + 64, (1 << 60) + 192]
        {
            assert_eq!(Some(from_i64(value)), value.to_string().parse().ok(), "{value}");
        }
    }
}
