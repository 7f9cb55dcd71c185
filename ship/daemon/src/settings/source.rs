//! Where settings come from, and what a reload changes.
//!
//! PostgreSQL: `ProcessConfigFileInternal` (src/backend/utils/misc/guc-file.l), `set_config_option`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use walhub_proto::sqlstate::SqlState;

use super::definition::{Context, Written};
use super::error::{FileLine, SettingError};
use super::value::find;
use super::{DEFINITIONS, Settings, ValueSource, foreign};

/// The file that says who may come in, unless a setting names another.
pub const HBA_FILE: &str = "pg_hba.conf";
/// The file that maps names of the system to roles, unless a setting names another.
pub const IDENT_FILE: &str = "pg_ident.conf";
/// A name at most this many edits away is offered as a hint.
const TYPING_ERRORS_MAX: usize = 3;

/// Where settings come from, besides their defaults.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sources {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// Whether the file was named by the user, so that its absence is an error.
    pub file_required: bool,
    /// Names and values of the command line; a later one wins.
    pub command_line: Vec<(String, String)>,
    /// The data directory, in which files are that no setting puts elsewhere.
    pub data_dir: Option<PathBuf>,
}

/// What a reload did to one setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// It has a new value.
    Changed {
        /// The setting.
        name: &'static str,
        /// The value as it is written.
        value: String,
    },
    /// It is no longer in the file.
    Reset {
        /// The setting.
        name: &'static str,
    },
    /// It would need a restart, and keeps its value until then.
    NeedsRestart {
        /// The setting.
        name: &'static str,
    },
}

impl Change {
    /// PostgreSQL's log line for it.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Changed { name, value } => format!("parameter \"{name}\" changed to \"{value}\""),
            Self::Reset { name } => {
                format!("parameter \"{name}\" removed from configuration file, reset to default")
            }
            Self::NeedsRestart { name } => {
                format!("parameter \"{name}\" cannot be changed without restarting the server")
            }
        }
    }
}

/// `unrecognized configuration parameter`, with what may help.
#[must_use]
pub fn unrecognized(name: &str) -> SettingError {
    let mut error = SettingError::new(
        SqlState::UNDEFINED_OBJECT,
        format!("unrecognized configuration parameter \"{name}\""),
    );
    if foreign::is_postgresql_only(name) {
        error.detail =
            Some("PostgreSQL has this parameter, but walhub does not use it.".to_owned());
        error.hint = Some("Remove it from walhub's configuration.".to_owned());
        return error;
    }
    let wanted = name.to_ascii_lowercase();
    let nearest = DEFINITIONS
        .iter()
        .map(|definition| (strsim::damerau_levenshtein(&wanted, definition.name), definition.name))
        .min()
        .filter(|(distance, _)| *distance <= TYPING_ERRORS_MAX.min(wanted.len() / 2));
    error.hint = Some(match nearest {
        Some((_, nearest)) => format!("Perhaps you meant \"{nearest}\"."),
        None => "\"walhub settings\" lists every parameter.".to_owned(),
    });
    error
}

/// Splits `name=value`; a dash in the name stands for an underscore, as in PostgreSQL.
///
/// PostgreSQL: `ParseLongOption`.
///
/// # Errors
/// When there is no equals sign.
pub fn parse_assignment(text: &str) -> Result<(String, String), SettingError> {
    let (name, value) = text.split_once('=').ok_or_else(|| {
        SettingError::new(SqlState::SYNTAX_ERROR, format!("-c {text} requires a value"))
    })?;
    Ok((name.trim().replace('-', "_"), value.to_owned()))
}

impl Sources {
    /// Reads every setting.
    ///
    /// # Errors
    /// Every error of the file, or the first of the command line.
    pub fn load(&self) -> Result<Settings, Vec<SettingError>> {
        let mut settings = Settings::default();
        let mut errors = Vec::new();
        if let Some(file) = &self.file {
            match self.read(file) {
                Ok(text) => assign_file(&mut settings, file, &text, &mut errors),
                Err(error) => errors.push(error),
            }
        }
        for (name, value) in &self.command_line {
            if let Err(error) = settings.assign(name, value, ValueSource::CommandLine) {
                errors.push(error);
            }
        }
        if let Some(data_dir) = &self.data_dir
            && let Err(error) = settings.place_files(data_dir)
        {
            errors.push(error);
        }
        if errors.is_empty() { Ok(settings) } else { Err(errors) }
    }

    fn read(&self, file: &Path) -> Result<String, SettingError> {
        match fs::read_to_string(file) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.file_required => {
                Ok(String::new())
            }
            Err(error) => Err(SettingError::new(
                SqlState::UNDEFINED_FILE,
                format!(
                    "could not open configuration file \"{}\": {}",
                    file.display(),
                    crate::strerror::strerror(&error)
                ),
            )),
        }
    }
}

fn assign_file(settings: &mut Settings, file: &Path, text: &str, errors: &mut Vec<SettingError>) {
    let line_of = |offset: usize| {
        let before = text.as_bytes().iter().take(offset).filter(|&&byte| byte == b'\n').count();
        u32::try_from(before + 1).unwrap_or(u32::MAX)
    };
    let (table, syntax_errors) = DeTable::parse_recoverable(text);
    for error in syntax_errors {
        let line = line_of(error.span().map_or(0, |span| span.start));
        let message = format!("syntax error: {}", error.message());
        errors.push(SettingError::new(SqlState::SYNTAX_ERROR, message).at(file, line));
    }
    if !errors.is_empty() {
        // What follows a syntax error may be anything.
        return;
    }
    for (key, value) in table.get_ref() {
        let name = key.get_ref().as_ref();
        let line = line_of(key.span().start);
        let source = ValueSource::File(FileLine { file: file.to_owned(), line });
        let value = plain_value(name, value.get_ref());
        let assigned = value.and_then(|value| settings.assign(name, &value, source));
        if let Err(error) = assigned {
            errors.push(error.at(file, line));
        }
    }
}

/// The text that PostgreSQL's grammar reads; TOML's own types are written without quotes.
fn plain_value(name: &str, value: &DeValue<'_>) -> Result<String, SettingError> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => {
            let digits = number.as_str();
            Ok(match number.radix() {
                16 => format!("0x{digits}"),
                radix => i64::from_str_radix(digits, radix)
                    .map_or_else(|_| digits.to_owned(), |number| number.to_string()),
            })
        }
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(true) => Ok("on".to_owned()),
        DeValue::Boolean(false) => Ok("off".to_owned()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            let mut error = SettingError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("parameter \"{name}\" requires a string, a number, or a Boolean value"),
            );
            if matches!(value, DeValue::Array(_)) {
                error.hint = Some("Write a list as one string, separated by commas.".to_owned());
            }
            Err(error)
        }
    }
}

impl Settings {
    fn assign(&mut self, name: &str, value: &str, source: ValueSource) -> Result<(), SettingError> {
        let definition = find(name).ok_or_else(|| unrecognized(name))?;
        (definition.assign)(self, &Written { name: definition.name, value, source })
    }

    /// Makes the paths of files absolute. A relative one is relative to where the server was started.
    ///
    /// PostgreSQL: `SelectConfigFiles`.
    fn place_files(&mut self, data_dir: &Path) -> Result<(), SettingError> {
        let own = [
            ("hba_file", HBA_FILE, self.hba_file.clone()),
            ("ident_file", IDENT_FILE, self.ident_file.clone()),
        ];
        for (name, file, set) in own {
            let path = if set.is_empty() { data_dir.join(file) } else { PathBuf::from(set) };
            let path = std::path::absolute(&path).unwrap_or(path);
            let definition = find(name).ok_or_else(|| unrecognized(name))?;
            let source = (definition.assigned)(self).source.clone();
            self.assign(name, &path.to_string_lossy(), source)?;
        }
        Ok(())
    }

    /// Reads the sources again. What may change at a reload has changed in the answer; what needs a
    /// restart has kept its value.
    ///
    /// # Errors
    /// When the file cannot be used: nothing is to be changed then.
    pub fn reload(&self, sources: &Sources) -> Result<(Self, Vec<Change>), Vec<SettingError>> {
        let mut settings = sources.load()?;
        let mut changes = Vec::new();
        for definition in DEFINITIONS {
            let name = definition.name;
            let (new, old) = ((definition.assigned)(&settings), (definition.assigned)(self));
            if new.text == old.text {
                continue;
            }
            match definition.context {
                Context::Postmaster => {
                    (definition.keep_running)(&mut settings, self);
                    changes.push(Change::NeedsRestart { name });
                }
                Context::Sighup | Context::User if new.source == ValueSource::Default => {
                    changes.push(Change::Reset { name });
                }
                Context::Sighup | Context::User => {
                    changes.push(Change::Changed { name, value: new.text.shown.clone() });
                }
            }
        }
        Ok((settings, changes))
    }
}
