//! Who may come in: the rules and maps in force.
//!
//! They are read at start, where a fault ends the server, and at each reload, where a fault leaves the old ones. A
//! connection asks for its [`Verdict`]; names of hosts are looked up meanwhile (`resolve`).
//!
//! Not here: the grammar and the search (`walhub_proto::hba`), what a method asks of a client, the first files of a data
//! directory (`server::first_files`).
//!
//! PostgreSQL: `load_hba`, `load_ident`, `check_hba` (src/backend/libpq/hba.c), `ClientAuthentication`
//! (src/backend/libpq/auth.c).

mod interfaces;
mod refusal;
mod resolve;

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use walhub_proto::hba::{
    Connection, HostName, Maps, Membership, Remark, Rule, Rules, Search, Step,
};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

pub(crate) use self::refusal::{Denied, refusal};
use crate::settings::{AuthFiles, Settings};

/// The rules and maps in force.
#[derive(Debug)]
pub struct Access {
    rules: ArcSwap<Rules>,
    maps: ArcSwap<Maps>,
    reloading: Mutex<()>,
}

/// What the rules say of a connection.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// The first rule that is for it; without one it may not come in.
    pub(crate) rule: Option<Arc<Rule>>,
    /// What was found out about the name of its host.
    pub(crate) host: HostName,
}

/// A file that cannot be used; why is in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NotLoaded {
    file: String,
}

impl NotLoaded {
    /// What ends a server that starts.
    pub(crate) fn report(&self) -> Report {
        Report::fatal(SqlState::CONFIG_FILE_ERROR, format!("could not load {}", self.file))
    }
}

impl std::fmt::Display for NotLoaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "could not load {}", self.file)
    }
}

impl std::error::Error for NotLoaded {}

impl Access {
    /// Reads both files. That there is no pg_ident.conf is no error: then no map has an entry.
    ///
    /// # Errors
    /// When one of them has a fault; each fault is in the log.
    pub(crate) fn load(settings: &Settings) -> Result<Arc<Self>, NotLoaded> {
        let rules = load_rules(settings)?;
        let is_there = std::path::Path::new(&settings.ident_file).exists();
        let maps = match load_maps(settings) {
            Err(error) if is_there => return Err(error),
            loaded => loaded.unwrap_or_default(),
        };
        Ok(Arc::new(Self {
            rules: ArcSwap::from_pointee(rules),
            maps: ArcSwap::from_pointee(maps),
            reloading: Mutex::default(),
        }))
    }

    /// Reads both files again; of one with a fault the old content stays in force. It is for a thread that may block.
    pub(crate) fn reload(&self, settings: &watch::Receiver<Arc<Settings>>) {
        // Whoever is last has read last.
        let _alone = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = &Arc::clone(&settings.borrow());
        match load_rules(settings) {
            Ok(rules) => self.rules.store(Arc::new(rules)),
            Err(NotLoaded { file }) => tracing::info!("{file} was not reloaded"),
        }
        match load_maps(settings) {
            Ok(maps) => self.maps.store(Arc::new(maps)),
            Err(NotLoaded { file }) => tracing::info!("{file} was not reloaded"),
        }
    }

    /// The rule that is for the connection. It may take as long as looking up the name of its host does.
    pub(crate) async fn verdict(
        &self,
        connection: Connection<'_>,
        members: &dyn Membership,
    ) -> Verdict {
        let rules = self.rules.load_full();
        let interfaces =
            if rules.need_interfaces() { interfaces::of_this_machine() } else { Vec::new() };
        let mut search = Search::new(&rules, connection, members, &interfaces);
        let rule = loop {
            match search.poll() {
                Step::Decided(rule) => break rule.cloned(),
                Step::Reverse(address) => search.handle_names(resolve::name_of(address).await),
                Step::Forward(name) => {
                    let addresses = resolve::addresses_of(name).await;
                    search.handle_addresses(addresses.as_deref().map_err(Clone::clone));
                }
            }
        };
        let host = search.host_name().clone();
        Verdict { rule, host }
    }

    /// Whether a rule asks who is a member of what.
    pub(super) fn needs_members(&self) -> bool {
        self.rules.load().need_members()
    }

    /// The maps in force.
    pub(super) fn maps(&self) -> Arc<Maps> {
        self.maps.load_full()
    }
}

/// Whether there are connections over TLS.
fn has_tls(settings: &Settings) -> bool {
    settings.show("ssl").is_some_and(|value| value == "on")
}

fn load_rules(settings: &Settings) -> Result<Rules, NotLoaded> {
    let file = &settings.hba_file;
    let (rules, remarks) = Rules::load(&AuthFiles, file, has_tls(settings));
    remarks.iter().for_each(log);
    rules.ok_or_else(|| NotLoaded { file: file.clone() })
}

fn load_maps(settings: &Settings) -> Result<Maps, NotLoaded> {
    let file = &settings.ident_file;
    let (maps, remarks) = Maps::load(&AuthFiles, file);
    remarks.iter().for_each(log);
    maps.ok_or_else(|| NotLoaded { file: file.clone() })
}

/// PostgreSQL: `ereport(LOG, ...)` of `parse_hba_line`.
fn log(remark: &Remark) {
    let Remark { sqlstate, message, hint, context } = remark;
    let context = context.as_deref();
    tracing::info!(sqlstate = sqlstate.0, hint, context, "{message}");
}

#[cfg(test)]
pub(super) mod tests;
