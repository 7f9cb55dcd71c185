//! SIGHUP: reads the sources again and logs what came of it.
//!
//! PostgreSQL: `process_pm_reload_request`, `ProcessConfigFileInternal`.

use crate::logging::{self, LogConfig};
use crate::settings::{Change, SettingError, Settings, Sources};

/// The sources of a running server, and what they said last.
#[derive(Clone, Debug)]
pub struct Reloader {
    sources: Sources,
    current: Settings,
}

impl Reloader {
    /// A server that runs with `current`, read from `sources`.
    #[must_use]
    pub fn new(sources: Sources, current: Settings) -> Self {
        Self { sources, current }
    }

    /// What holds now.
    #[must_use]
    pub fn current(&self) -> &Settings {
        &self.current
    }

    /// Reads the sources again, logs every change and every error, and changes the log itself.
    ///
    /// Returns the settings when they are to be used: nothing changes when a source is broken.
    pub fn reload(&mut self) -> Option<&Settings> {
        logging::log("received SIGHUP, reloading configuration files");
        match self.current.reload(&self.sources) {
            Ok((settings, changes)) => {
                for change in &changes {
                    logging::log(change.message());
                }
                if changes.iter().any(|change| matches!(change, Change::NeedsRestart { .. })) {
                    self.log_errors(&[], "contains errors; unaffected changes were applied");
                }
                logging::reconfigure(LogConfig::from(&settings));
                self.current = settings;
                Some(&self.current)
            }
            Err(errors) => {
                self.log_errors(&errors, "contains errors; no changes were applied");
                None
            }
        }
    }

    fn log_errors(&self, errors: &[SettingError], outcome: &str) {
        for error in errors {
            logging::report_as_log(&error.report());
        }
        if let Some(file) = &self.sources.file {
            logging::log(format!("configuration file \"{}\" {outcome}", file.display()));
        }
    }
}
