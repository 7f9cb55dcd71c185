//! Notices of servers that we connect to: each is logged once, however often it comes.
//!
//! A server may send any number of them before it says anything else, and at each attempt anew.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use walhub_proto::wire::error_response::clip;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_notices_are_kept_of_many() {
        let notices = Notices::default();
        (0..1000).for_each(|number| notices.log(&format!("{number}")));
        assert_eq!(notices.logged.borrow().len(), NOTICES_MAX);
        notices.forget();
        assert!(notices.logged.borrow().is_empty());
    }
}
