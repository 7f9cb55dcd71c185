//! The rules in force: a stand-in until files are read.
//!
//! PostgreSQL: `load_hba` (src/backend/libpq/hba.c).

use std::sync::{Arc, PoisonError, RwLock};

use walhub_proto::hba::{
    Connection, Files, Maps, Membership, Rule, Rules, Search, Step, Unreadable,
};

/// The rules in force.
pub(crate) struct Access {
    rules: RwLock<Arc<Rules>>,
    maps: Arc<Maps>,
}

struct Text<'a>(&'a str);

impl Files for Text<'_> {
    fn read(&self, _: &str) -> Result<String, Unreadable> {
        Ok(self.0.to_owned())
    }

    fn list(&self, _: &str) -> Result<Vec<String>, Unreadable> {
        Ok(Vec::new())
    }
}

impl Access {
    /// The rules of these texts.
    pub(crate) fn of_texts(hba: &str, ident: &str) -> Self {
        let rules = Rules::load(&Text(hba), "/pg_hba.conf", true).0.expect("rules");
        let maps = Maps::load(&Text(ident), "/pg_ident.conf").0.expect("maps");
        Self { rules: RwLock::new(Arc::new(rules)), maps: Arc::new(maps) }
    }

    /// Whoever is on this machine.
    pub(crate) fn this_machine() -> Self {
        let hba = "local all,replication all trust\nhost all,replication all 127.0.0.0/8 trust\nhost all,replication all ::1/128 trust\n";
        Self::of_texts(hba, "")
    }

    /// The rule that is for a connection, or what the log is to know when there is none.
    pub(crate) async fn verdict(
        &self,
        connection: &Connection<'_>,
        members: &dyn Membership,
    ) -> Result<Arc<Rule>, Option<String>> {
        let rules = Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner));
        let mut search = Search::new(&rules, *connection, members, &[]);
        match search.poll() {
            Step::Decided(Some(rule)) => Ok(Arc::new(rule.clone())),
            _ => Err(None),
        }
    }

    pub(crate) fn maps(&self) -> Arc<Maps> {
        Arc::clone(&self.maps)
    }
}
