//! The system's words for an error.
//!
//! PostgreSQL: `%m` of ereport, `strerror`.

use std::io;

/// What is wrong, without the number that Rust adds.
pub(crate) fn strerror(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_is_told_without_its_number() {
        assert_eq!(strerror(&io::Error::from_raw_os_error(28)), "No space left on device");
        assert_eq!(strerror(&io::Error::other("plain")), "plain");
    }
}
