//! A primary, a hub, and a standby behind it: what most tests begin with.

use crate::client::SqlServer;
use crate::hub::{Hub, HubBuilder};
use crate::postgres::{Postgres, PrimaryBuilder};
use crate::scratch::Scratch;

/// A primary and a hub that streams from it.
#[derive(Debug)]
pub struct Relay {
    /// The hub; application_name `hub`.
    pub hub: Hub,
    /// The primary.
    pub primary: Postgres,
    /// Where they live. Last, since fields are dropped in this order.
    pub scratch: Scratch,
}

impl Relay {
    /// With default settings.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        Self::with(|primary| primary, |hub| hub)
    }

    /// With other settings.
    #[must_use]
    #[track_caller]
    pub fn with(
        primary: impl FnOnce(PrimaryBuilder) -> PrimaryBuilder,
        hub: impl FnOnce(HubBuilder) -> HubBuilder,
    ) -> Self {
        let scratch = Scratch::new();
        let primary = primary(Postgres::primary("primary")).start(&scratch);
        let conninfo = primary.endpoint().conninfo("hub");
        let hub = hub(Hub::named("hub").upstream(conninfo)).start(&scratch);
        primary.wait_streaming("hub");
        // The hub serves standbys a moment later, when it has seen the first WAL itself.
        hub.wait_sql("select status from pg_stat_wal_receiver", "streaming");
        Self { hub, primary, scratch }
    }

    /// A standby behind the hub, from a base backup of the primary, not started.
    #[must_use]
    #[track_caller]
    pub fn standby(&self, name: &str) -> Postgres {
        self.primary.standby(name, &self.hub.endpoint().conninfo(name), &self.scratch)
    }

    /// A standby behind the hub, streaming.
    #[must_use]
    #[track_caller]
    pub fn streaming_standby(&self, name: &str) -> Postgres {
        let mut standby = self.standby(name);
        standby.start();
        self.hub.wait_streaming(name);
        standby
    }
}
