//! What `SHOW` and `pg_settings` tell.
//!
//! PostgreSQL: `ShowGUCOption`, `convert_int_from_base_unit`, `GetConfigOptionValues`
//! (src/backend/utils/misc/guc.c).

use super::definition::{Definition, Kind, Unit};
use super::value::{Value, find};
use super::{Assigned, DEFINITIONS, Settings, ValueSource};

/// Row of `pg_settings`, with PostgreSQL's columns.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the column of that name")]
pub struct SettingRow {
    pub name: &'static str,
    pub setting: String,
    pub unit: Option<&'static str>,
    pub category: &'static str,
    pub short_desc: &'static str,
    pub extra_desc: Option<&'static str>,
    pub context: &'static str,
    pub vartype: &'static str,
    pub source: &'static str,
    pub min_val: Option<String>,
    pub max_val: Option<String>,
    pub enumvals: Option<Vec<&'static str>>,
    pub boot_val: String,
    pub reset_val: String,
    pub sourcefile: Option<String>,
    pub sourceline: Option<u32>,
    pub pending_restart: bool,
}

impl Definition {
    /// A value as `SHOW` shows it: in the largest unit that divides it.
    #[must_use]
    pub fn show(&self, value: &Value) -> String {
        if let (Value::Int(number), Kind::Int { unit, words, .. }) = (value, &self.kind) {
            if let Some((word, _)) = words.iter().find(|(_, means)| means == number) {
                return (*word).to_owned();
            }
            if let Some(unit) = unit.filter(|_| *number > 0) {
                return in_largest_unit(*number, unit);
            }
        }
        plain(value)
    }

    /// Least and greatest value and the default, for people.
    #[must_use]
    pub fn range(&self) -> String {
        match &self.kind {
            Kind::Bool => "on, off".to_owned(),
            Kind::Int { min, max, .. } => {
                format!("{} .. {}", self.show(&Value::Int(*min)), self.show(&Value::Int(*max)))
            }
            Kind::String { .. } => String::new(),
            Kind::Enum { .. } => self.enum_values().unwrap_or_default().join(", "),
        }
    }

    fn enum_values(&self) -> Option<Vec<&'static str>> {
        match self.kind {
            Kind::Enum { options } => {
                Some(options.iter().filter(|o| !o.hidden).map(|o| o.name).collect())
            }
            Kind::Bool | Kind::Int { .. } | Kind::String { .. } => None,
        }
    }

    fn row(&self, assigned: &Assigned) -> SettingRow {
        let (unit, min_val, max_val) = match &self.kind {
            Kind::Int { unit, min, max, .. } => {
                (unit.map(Unit::as_str), Some(min.to_string()), Some(max.to_string()))
            }
            Kind::Bool | Kind::String { .. } | Kind::Enum { .. } => (None, None, None),
        };
        let (source, place) = match &assigned.source {
            ValueSource::Default => ("default", None),
            ValueSource::File(place) => ("configuration file", Some(place)),
            ValueSource::CommandLine => ("command line", None),
        };
        SettingRow {
            name: self.name,
            setting: plain(&assigned.value),
            unit,
            category: self.category,
            short_desc: self.description,
            extra_desc: None,
            context: self.context.as_str(),
            vartype: self.kind.vartype(),
            source,
            min_val,
            max_val,
            enumvals: self.enum_values(),
            boot_val: plain(&self.boot_value()),
            reset_val: plain(&assigned.value),
            sourcefile: place.map(|place| place.file.display().to_string()),
            sourceline: place.map(|place| place.line),
            pending_restart: assigned.pending_restart,
        }
    }
}

pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Bool(true) => "on".to_owned(),
        Value::Bool(false) => "off".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::Word(word) => (*word).to_owned(),
    }
}

fn in_largest_unit(number: i64, unit: Unit) -> String {
    let (units, base) = unit.scale();
    let smallest = number * base as i64;
    let fits = units.iter().find(|(_, size)| smallest % (*size as i64) == 0);
    // Every unit table ends with 1, which divides everything.
    fits.map_or_else(String::new, |(name, size)| format!("{}{name}", smallest / (*size as i64)))
}

impl Settings {
    /// What `SHOW name` shows; `None` when there is no such setting.
    #[must_use]
    pub fn show(&self, name: &str) -> Option<String> {
        let definition = find(name)?;
        self.values.get(definition.name).map(|assigned| definition.show(&assigned.value))
    }

    /// Every row of `pg_settings`, by name.
    #[must_use]
    pub fn all(&self) -> Vec<SettingRow> {
        let mut rows: Vec<SettingRow> = DEFINITIONS
            .iter()
            .filter_map(|definition| Some(definition.row(self.values.get(definition.name)?)))
            .collect();
        rows.sort_unstable_by_key(|row| row.name);
        rows
    }
}

/// A Markdown table of every setting.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "| setting | default | range | changes at | description |\n|---|---|---|---|---|\n",
    );
    for definition in DEFINITIONS {
        let default = match definition.show(&definition.boot_value()) {
            empty if empty.is_empty() => "(empty)".to_owned(),
            default => format!("`{default}`"),
        };
        let when = match definition.context {
            super::definition::Context::Postmaster => "restart",
            super::definition::Context::Sighup => "reload",
            super::definition::Context::User => "reload, session",
        };
        let line = format!(
            "| `{}` | {default} | {} | {when} | {} |\n",
            definition.name,
            definition.range(),
            definition.description
        );
        text.push_str(&line);
    }
    text
}
