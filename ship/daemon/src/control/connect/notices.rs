//! Notices of servers that we connect to: each is logged once, however often it comes.
//!
//! A server may send any number of them before it says anything else, and at each attempt anew.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Notices that are logged until they are forgotten.
const NOTICES_MAX: usize = 16;
/// How much of each.
const NOTICE_BYTES_MAX: usize = 1000;

/// The notices that were logged. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    logged: Rc<RefCell<BTreeSet<String>>>,
}

impl Notices {
    /// Logs a notice, if it is new.
    pub(super) fn log(&self, text: &str) {
        let text = clip(text, NOTICE_BYTES_MAX);
        let mut logged = self.logged.borrow_mut();
        if logged.len() >= NOTICES_MAX || !logged.insert(text.clone()) {
            return;
        }
        tracing::info!("{text}");
        if logged.len() == NOTICES_MAX {
            tracing::info!("further notices of the primary server are not logged");
        }
    }

    /// From now on they are logged again.
    pub fn forget(&self) {
        self.logged.borrow_mut().clear();
    }
}

/// The beginning of a text, and a sign that there was more.
pub(super) fn clip(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = (0..=bytes_max).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}...", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_two_characters() {
        assert_eq!(clip("as it is", 8), "as it is");
        assert_eq!(clip("zw\u{f6}lf", 3), "zw...");
        assert_eq!(clip("zw\u{f6}lf", 4), "zw\u{f6}...");
    }

    #[test]
    fn few_notices_are_kept_of_many() {
        let notices = Notices::default();
        (0..1000).for_each(|number| notices.log(&format!("{number}")));
        assert_eq!(notices.logged.borrow().len(), NOTICES_MAX);
        notices.forget();
        assert!(notices.logged.borrow().is_empty());
    }
}
