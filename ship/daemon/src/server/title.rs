//! What `ps` shows, as PostgreSQL's processes show it.
//!
//! PostgreSQL: `set_ps_display`, `ProcessWalRcvInterrupts` and its kin.

use walhub_engine::process_title::ProcessTitle;

use crate::hub::front::Front;
use crate::hub::handle::Hub as _;

/// The title of this process.
pub(super) struct Title {
    process: ProcessTitle,
    prefix: String,
    shown: String,
}

impl Title {
    /// Call before the first thread is started.
    pub(super) fn init(cluster_name: &str) -> Self {
        let prefix = if cluster_name.is_empty() {
            "walhub".to_owned()
        } else {
            format!("walhub: {cluster_name}")
        };
        Self { process: ProcessTitle::init(), prefix, shown: String::new() }
    }

    /// Role, position and number of standbys.
    pub(super) fn show(&mut self, front: &Front) {
        let state = match front.shared().receiver.state_name() {
            "streaming" => "streaming",
            "stopped" => "waiting for the upstream",
            other => other,
        };
        let position = front
            .positions()
            .map(|positions| format!(" {}", positions.received_lsn))
            .unwrap_or_default();
        let standbys = match front.standbys() {
            1 => "1 standby".to_owned(),
            count => format!("{count} standbys"),
        };
        let title = format!("{}: standby {state}{position}, {standbys}", self.prefix);
        if title != self.shown {
            self.process.set(&title);
            self.shown = title;
        }
    }
}
