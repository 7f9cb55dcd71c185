//! What `ps` shows, as PostgreSQL's processes show it.
//!
//! PostgreSQL: `set_ps_display`, `ProcessWalRcvInterrupts` and its kin.

use std::os::fd::OwnedFd;

use walhub_engine::process_title::ProcessTitle;

use walhub_hub::api::hub::Hub as _;
use walhub_hub::publish::handle::Handle;

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
    pub(super) fn show(&mut self, front: &Handle<OwnedFd>) {
        let role = match front.shared().receiver.state_name() {
            _ if !front.in_recovery() => "primary",
            "streaming" => "standby streaming",
            "stopped" => "standby waiting for the upstream",
            "starting" => "standby starting",
            "waiting" => "standby waiting",
            "restarting" => "standby restarting",
            _ => "standby stopping",
        };
        let position = front
            .positions()
            .map(|positions| format!(" {}", positions.received_lsn))
            .unwrap_or_default();
        let standbys = match front.standbys() {
            1 => "1 standby".to_owned(),
            count => format!("{count} standbys"),
        };
        let title = format!("{}: {role}{position}, {standbys}", self.prefix);
        if title != self.shown {
            self.process.set(&title);
            self.shown = title;
        }
    }
}
