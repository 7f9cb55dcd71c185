//! What `SHOW` and `pg_settings` tell.
//!
//! PostgreSQL: `ShowGUCOption`, `convert_int_from_base_unit`, `GetConfigOptionValues`
//! (src/backend/utils/misc/guc.c).

use super::definition::{Context, Definition, IntRange, Kind, Unit};
use super::value::find;
use super::{Assigned, DEFINITIONS, Settings, ValueSource};

/// Row of `pg_settings`, with PostgreSQL's columns: of a setting here, or of a parameter of a session.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[allow(missing_docs, reason = "each is the column of that name")]
pub struct SettingRow {
    pub name: String,
    pub setting: Option<String>,
    pub unit: Option<String>,
    pub category: String,
    pub short_desc: String,
    pub context: String,
    pub vartype: String,
    pub source: String,
    pub min_val: Option<String>,
    pub max_val: Option<String>,
    pub enumvals: Option<Vec<String>>,
    pub boot_val: Option<String>,
    pub reset_val: Option<String>,
    pub sourcefile: Option<String>,
    pub sourceline: Option<u32>,
    pub pending_restart: bool,
}

impl IntRange {
    /// A number as `SHOW` shows it: in the largest unit that divides it.
    pub(super) fn show(&self, number: i64) -> String {
        match (self.min_word, self.unit) {
            (Some(word), _) if number == self.min => word.to_owned(),
            (_, Some(unit)) if number > 0 => in_largest_unit(number, unit),
            (Some(_) | None, Some(_) | None) => number.to_string(),
        }
    }
}

impl Kind {
    /// The values it takes, for people.
    fn range(&self) -> String {
        match self {
            Self::Bool => "on, off".to_owned(),
            Self::Int(range) => format!("{} .. {}", range.show(range.min), range.show(range.max)),
            Self::String => String::new(),
            Self::Enum(words) => words.join(", "),
        }
    }
}

impl Definition {
    fn row(&self, assigned: &Assigned, default: &Assigned) -> SettingRow {
        let kind = (self.kind)();
        let vartype = kind.vartype();
        let (range, words) = match kind {
            Kind::Int(range) => (Some(range), None),
            Kind::Enum(words) => (None, Some(words)),
            Kind::Bool | Kind::String => (None, None),
        };
        let (source, place) = match &assigned.source {
            ValueSource::Default => ("default", None),
            ValueSource::File(place) => ("configuration file", Some(place)),
            ValueSource::CommandLine => ("command line", None),
        };
        SettingRow {
            name: self.name.to_owned(),
            setting: Some(assigned.text.plain.clone()),
            unit: range.and_then(|range| range.unit).map(|unit| unit.as_str().to_owned()),
            category: self.category.to_owned(),
            short_desc: self.description.to_owned(),
            context: self.context.as_str().to_owned(),
            vartype: vartype.to_owned(),
            source: source.to_owned(),
            min_val: range.map(|range| range.min.to_string()),
            max_val: range.map(|range| range.max.to_string()),
            enumvals: words.map(|words| words.into_iter().map(str::to_owned).collect()),
            boot_val: Some(default.text.plain.clone()),
            reset_val: Some(assigned.text.plain.clone()),
            sourcefile: place.map(|place| place.file.display().to_string()),
            sourceline: place.map(|place| place.line),
            pending_restart: assigned.pending_restart,
        }
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
        Some((definition.assigned)(self).text.shown.clone())
    }

    /// Every row of `pg_settings`, by name.
    #[must_use]
    pub fn all(&self) -> Vec<SettingRow> {
        let defaults = Self::default();
        let mut rows: Vec<SettingRow> = DEFINITIONS
            .iter()
            .map(|definition| {
                definition.row((definition.assigned)(self), (definition.assigned)(&defaults))
            })
            .collect();
        rows.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        rows
    }
}

/// A Markdown table of every setting.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "| setting | default | range | changes at | description |\n|---|---|---|---|---|\n",
    );
    let defaults = Settings::default();
    for definition in DEFINITIONS {
        let default = match (definition.assigned)(&defaults).text.shown.as_str() {
            "" => "(empty)".to_owned(),
            default => format!("`{default}`"),
        };
        let when = match definition.context {
            Context::Postmaster => "restart",
            Context::Sighup => "reload",
            Context::User => "reload, session",
        };
        let line = format!(
            "| `{}` | {default} | {} | {when} | {} |\n",
            definition.name,
            (definition.kind)().range(),
            definition.description
        );
        text.push_str(&line);
    }
    text
}
