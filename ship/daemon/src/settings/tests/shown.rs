//! What users see of settings, against a file that is read by people when it changes.
//!
//! `golden/shown.txt` has the list of `walhub settings`, every row of `pg_settings`, and what each
//! setting makes of each of some texts. A new setting adds lines to it; other lines change only on purpose.

use std::fmt::Write as _;

use super::{toml_file, *};

/// Texts that mean something to some settings and nothing to others.
const TEXTS: [&str; 14] = [
    "",
    "on",
    "AUTO",
    "0",
    "1",
    "-1",
    "-2",
    "64",
    "2147483648",
    "1.5GB",
    "90s",
    "a, \"b c\"",
    "a,,b",
    "Flushed",
];

fn row(row: &SettingRow) -> String {
    format!(
        "{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}",
        row.name,
        row.setting.as_deref().unwrap(),
        row.unit.as_deref().unwrap_or("-"),
        row.category,
        row.short_desc,
        row.context,
        row.vartype,
        row.source,
        row.min_val.as_deref().unwrap_or("-"),
        row.max_val.as_deref().unwrap_or("-"),
        row.enumvals.as_ref().map_or_else(|| "-".to_owned(), |words| words.join(",")),
        row.boot_val.as_deref().unwrap(),
        row.reset_val.as_deref().unwrap(),
        row.pending_restart,
    )
}

/// What the sources make of one setting: its value in `pg_settings` and `SHOW`, or the error.
fn reading(sources: &Sources, name: &str) -> String {
    match sources.load() {
        Ok(settings) => {
            let rows = settings.all();
            let row = rows.iter().find(|row| row.name == name).unwrap();
            let setting = row.setting.as_deref().unwrap();
            format!("{setting}|{}|{}", settings.show(name).unwrap(), row.source)
        }
        Err(errors) => {
            let [error] = &errors[..] else { panic!("{errors:?}") };
            let report = error.report();
            let message = error.message.as_str();
            format!("{}: {message}|{:?}|{:?}", error.sqlstate.0, report.detail, report.hint)
        }
    }
}

#[test]
fn nothing_that_a_user_sees_changes_unnoticed() {
    let mut got = show::markdown();
    let rows = Settings::default().all();
    for line in rows.iter().map(row) {
        writeln!(got, "{line}").unwrap();
    }
    for SettingRow { name, .. } in &rows {
        for text in TEXTS {
            let command_line = vec![(name.clone(), text.to_owned())];
            let said = reading(&Sources { command_line, ..Sources::default() }, name);
            writeln!(got, "-c {name}={text}\t{said}").unwrap();
        }
        let (_dir, sources) = toml_file(&format!("{name} = '0'"));
        writeln!(got, "{name} = '0'\t{}", reading(&sources, name)).unwrap();
    }
    // With WALHUB_GOLDEN set it is written, for whoever reads the difference.
    if std::env::var_os("WALHUB_GOLDEN").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/settings/golden/shown.txt");
        return fs::write(file, got).unwrap();
    }
    let want = include_str!("../golden/shown.txt");
    for (got, want) in got.lines().zip(want.lines()) {
        assert_eq!(got, want);
    }
    assert_eq!(got.lines().count(), want.lines().count());
}
