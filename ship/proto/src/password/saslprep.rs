//! The password as SCRAM takes it.
//!
//! Normalized, so that it does not matter how a keyboard makes a letter. `stringprep::saslprep` looks for characters that
//! may not be in it after that; PostgreSQL, and libpq with it, looks before, and with a password of such characters who
//! does otherwise could not log in. So only the tables are that crate's.
//!
//! PostgreSQL: `pg_saslprep` (src/common/saslprep.c); RFC 4013.

use alloc::string::String;
use alloc::vec::Vec;

use stringprep::tables;
use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

/// One that cannot be normalized, because it is not UTF-8 or has characters that may not be in it, is taken as it is.
pub(super) fn prepare(password: &[u8]) -> Zeroizing<Vec<u8>> {
    if password.is_ascii() {
        return Zeroizing::new(password.into());
    }
    let text = core::str::from_utf8(password).ok();
    let prepared = text.and_then(normalized).map(String::into_bytes);
    Zeroizing::new(prepared.unwrap_or_else(|| password.into()))
}

fn normalized(text: &str) -> Option<String> {
    let mapped = || {
        // U+200B is in both tables. PostgreSQL takes it for a space.
        let spaced =
            text.chars().map(|c| if tables::non_ascii_space_character(c) { ' ' } else { c });
        spaced.filter(|&c| !tables::commonly_mapped_to_nothing(c))
    };
    let is_allowed = |c| !is_prohibited(c) && !tables::unassigned_code_point(c);
    let is_something = mapped().next().is_some();
    (is_something && mapped().all(is_allowed) && has_one_direction(mapped()))
        .then(|| mapped().nfkc().collect())
}

/// Tables C.1.2 to C.9 of RFC 3454.
fn is_prohibited(c: char) -> bool {
    tables::non_ascii_space_character(c)
        || tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::surrogate_code(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
}

/// Letters that are written from right to left are at both ends, and there is none of the others. RFC 3454, section 6.
fn has_one_direction(text: impl Iterator<Item = char> + Clone) -> bool {
    let from_right = tables::bidi_r_or_al;
    let mut ends = [text.clone().next(), text.clone().last()].into_iter().flatten();
    let has_left = text.clone().any(tables::bidi_l);
    let has_right = { text }.any(from_right);
    !has_right || (!has_left && ends.all(from_right))
}
