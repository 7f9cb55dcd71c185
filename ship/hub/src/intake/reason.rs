//! When two reasons are the same one, though a position in them has moved on.
//!
//! An upstream that is away for a day gives its reason at every attempt, and a position, a segment's name, a
//! size or a process id in it may be another each time. It is logged when its kind is another.
//!
//! Not here: when a reason is forgotten (`upstream`).

/// The reason with `#` for every number and position in it: a run of digits, capital hexadecimal digits and
/// slashes that has a digit in it.
pub(crate) fn kind_of(reason: &str) -> String {
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, 'A'..='F' | '/');
    let mut kind = String::with_capacity(reason.len());
    let mut rest = reason;
    while let Some(first) = rest.chars().next() {
        let in_number = is_part(first);
        let end = rest.find(|c| is_part(c) != in_number).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        let is_number = run.contains(|c: char| c.is_ascii_digit());
        kind.push_str(if is_number { "#" } else { run });
        rest = after;
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_whose_number_has_moved_is_the_same() {
        for (one, other, same) in [
            (
                "WAL stream begins at 0/3000148, expected 0/3",
                "WAL stream begins at 1/A0, expected 1/F",
                true,
            ),
            (
                "requested WAL segment 00000001000000000000000A has already been removed",
                "requested WAL segment 0000000200000000000000FF has already been removed",
                true,
            ),
            ("slot \"a\" is active for PID 4711", "slot \"a\" is active for PID 12", true),
            ("slot \"a\" is active for PID 4711", "slot \"b\" is active for PID 4711", false),
            ("connection refused", "server closed the connection unexpectedly", false),
            ("timeline 3 begins at 0/3", "highest timeline 3 of the primary is behind", false),
            ("", "0", false),
        ] {
            assert_eq!(kind_of(one) == kind_of(other), same, "{one} / {other}");
        }
    }

    #[test]
    fn words_stay_words() {
        assert_eq!(kind_of("FATAL: TCP/IP and/or \u{e9}"), "FATAL: TCP/IP and/or \u{e9}");
        assert_eq!(kind_of("port 5432, /tmp/.s.PGSQL.1"), "port #, /tmp/.s.PGSQL.#");
    }
}
