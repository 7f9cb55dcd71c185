//! The daemon's settings, in the console's words.

use walhub_proto::syncrep::SynchronousCommit;

use super::{SettingRow, SettingsView};
use crate::settings::Settings;

impl SettingsView for Settings {
    fn show(&self, name: &str) -> Option<String> {
        Self::show(self, name)
    }

    fn all(&self) -> Vec<SettingRow> {
        Self::all(self).into_iter().map(row).collect()
    }

    fn sql_memory_limit(&self) -> usize {
        usize::try_from(self.sql_memory_limit).unwrap_or(usize::MAX)
    }

    fn synchronous_commit(&self) -> SynchronousCommit {
        self.synchronous_commit
    }
}

fn row(row: crate::settings::SettingRow) -> SettingRow {
    SettingRow {
        name: row.name.to_owned(),
        setting: Some(row.setting),
        unit: row.unit.map(str::to_owned),
        category: row.category.to_owned(),
        short_desc: row.short_desc.to_owned(),
        context: row.context.to_owned(),
        vartype: row.vartype.to_owned(),
        source: row.source.to_owned(),
        min_val: row.min_val,
        max_val: row.max_val,
        enumvals: row.enumvals.map(|values| values.into_iter().map(str::to_owned).collect()),
        boot_val: Some(row.boot_val),
        reset_val: Some(row.reset_val),
        pending_restart: row.pending_restart,
    }
}
