//! `server_version` as a number.

/// As libpq computes it: `15.18 (Debian ...)` is 150018, `17beta1` is 170000, `9.6.24` is 90624.
///
/// PostgreSQL: `pqSaveParameterStatus` (src/interfaces/libpq/fe-exec.c).
#[must_use]
pub fn parse_server_version(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let mut parts = text.get(..end)?.split('.').map_while(|part| part.parse::<u32>().ok());
    let major = parts.next().filter(|&major| major < 1000)?;
    let (minor, patch) = (parts.next(), parts.next());
    if [minor, patch].into_iter().flatten().any(|part| part >= 10_000) {
        return None;
    }
    Some(match (minor, patch) {
        (None, _) => major * 10_000,
        (Some(minor), _) if major >= 10 => major * 10_000 + minor,
        (Some(minor), patch) => (major * 100 + minor) * 100 + patch.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_version_has_its_number() {
        for (text, want) in [
            ("15.18 (Debian 15.18-0+deb12u1)", Some(150_018)),
            ("13.4", Some(130_004)),
            ("17beta1", Some(170_000)),
            ("18devel", Some(180_000)),
            ("18rc1 (Ubuntu)", Some(180_000)),
            ("9.6.24", Some(90_624)),
            ("9.6", Some(90_600)),
            ("", None),
            ("x", None),
            ("99999999999", None),
        ] {
            assert_eq!(parse_server_version(text), want, "{text}");
        }
    }
}
