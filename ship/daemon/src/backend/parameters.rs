//! Session parameters, and SHOW over them, the server's facts and the server's settings.
//!
//! A session may set what PostgreSQL clients set when they connect. Setting them changes what the
//! console does where it can (TimeZone, application_name), and is remembered where it has nothing
//! to act on. statement_timeout ends what is evaluated on another thread (`offload`).
//!
//! PostgreSQL: src/backend/utils/misc/guc.c, guc_tables.c.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::syncrep::SynchronousCommit;
use walhub_proto::wire::backend::{Report, Severity};

use super::context::{Context, unrecognized};
use super::user_ids::{UserIds, UserSetting};
use super::{SettingRow, SettingsView};
use walhub_sql::failure::{Failure, Result, fail, hinted, unsupported};
use walhub_sql::value::parse_bool;

/// Parameters of the kind `extension.name` that one session may define.
const CUSTOM_PARAMETERS_MAX: usize = 64;
/// Bytes of one value.
const VALUE_LEN_MAX: usize = 8192;
/// The server_version before the first contact with an upstream: the release whose views these are.
const SERVER_VERSION_DEFAULT: (&str, u32) = ("15.0", 150_000);

/// What values a parameter takes.
enum Kind {
    Bool,
    /// A switch that has only one position here.
    Only(&'static str),
    Int(i64, i64),
    Milliseconds,
    Enum(&'static [&'static str]),
    Text,
    SynchronousCommit,
    Encoding,
    DateStyle,
    TimeZone,
}

struct Definition {
    name: &'static str,
    default: &'static str,
    kind: Kind,
    /// Whether a change is told with ParameterStatus. PostgreSQL: `GUC_REPORT`.
    report: bool,
    /// Whether the server's setting counts, without a value of the session's.
    of_server: bool,
}

const fn def(name: &'static str, default: &'static str, kind: Kind) -> Definition {
    Definition { name, default, kind, report: false, of_server: false }
}

const fn reported(name: &'static str, default: &'static str, kind: Kind) -> Definition {
    Definition { report: true, ..def(name, default, kind) }
}

const fn of_server(name: &'static str, default: &'static str, kind: Kind) -> Definition {
    Definition { of_server: true, ..def(name, default, kind) }
}

const ISOLATION: &[&str] =
    &["serializable", "repeatable read", "read committed", "read uncommitted"];
const LEVELS: &[&str] =
    &["debug5", "debug4", "debug3", "debug2", "debug1", "log", "notice", "warning", "error"];

static DEFINITIONS: &[Definition] = &[
    reported("application_name", "", Kind::Text),
    def("array_nulls", "on", Kind::Bool),
    def("backslash_quote", "safe_encoding", Kind::Enum(&["safe_encoding", "on", "off"])),
    def("bytea_output", "hex", Kind::Only("hex")),
    reported("client_encoding", "UTF8", Kind::Encoding),
    def("client_min_messages", "notice", Kind::Enum(LEVELS)),
    reported("DateStyle", "ISO, MDY", Kind::DateStyle),
    def("default_transaction_deferrable", "off", Kind::Bool),
    def("default_transaction_isolation", "read committed", Kind::Enum(ISOLATION)),
    reported("default_transaction_read_only", "off", Kind::Bool),
    def("escape_string_warning", "on", Kind::Bool),
    def("extra_float_digits", "1", Kind::Int(-15, 3)),
    def("idle_in_transaction_session_timeout", "0", Kind::Milliseconds),
    def("idle_session_timeout", "0", Kind::Milliseconds),
    reported("IntervalStyle", "postgres", Kind::Only("postgres")),
    def("jit", "on", Kind::Bool),
    def("lc_messages", "C", Kind::Text),
    def("lc_monetary", "C", Kind::Text),
    def("lc_numeric", "C", Kind::Text),
    def("lc_time", "C", Kind::Text),
    def("lock_timeout", "0", Kind::Milliseconds),
    def("max_parallel_workers_per_gather", "2", Kind::Int(0, 1024)),
    of_server("password_encryption", "scram-sha-256", Kind::Enum(&["md5", "scram-sha-256"])),
    def("row_security", "on", Kind::Bool),
    of_server("scram_iterations", "4096", Kind::Int(1, 1_000_000)),
    def("search_path", "\"$user\", public", Kind::Text),
    reported("standard_conforming_strings", "on", Kind::Only("on")),
    def("statement_timeout", "0", Kind::Milliseconds),
    def("synchronize_seqscans", "on", Kind::Bool),
    of_server("synchronous_commit", "on", Kind::SynchronousCommit),
    reported("TimeZone", "UTC", Kind::TimeZone),
    def("transaction_deferrable", "off", Kind::Bool),
    def("transaction_isolation", "read committed", Kind::Enum(ISOLATION)),
    def("transaction_read_only", "off", Kind::Bool),
    def("xmloption", "content", Kind::Enum(&["content", "document"])),
];

/// Values of the session parameters that differ from their reset values.
#[derive(Clone)]
pub(super) struct Parameters {
    /// From the startup packet: what RESET goes back to.
    reset: BTreeMap<String, String>,
    values: BTreeMap<String, String>,
    zone: TimeZone,
    /// `role` and `session_authorization`.
    users: UserIds,
    /// Who has logged in and how, unless that was not asked.
    system_user: Option<Arc<str>>,
}

/// A parameter that changed and is reported: its name and its value now.
pub(crate) type Reported = Vec<(&'static str, String)>;

fn definition(name: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|definition| definition.name.eq_ignore_ascii_case(name))
}

fn is_custom(name: &str) -> bool {
    name.contains('.') && !name.starts_with('.') && !name.ends_with('.')
}

impl Parameters {
    /// The parameters of a new session. What the startup packet asks for and cannot have is left
    /// at its default: by now the client has been told that it is connected.
    pub(super) fn new(startup_options: &BTreeMap<String, String>, users: UserIds) -> Self {
        let (reset, values, zone) = (BTreeMap::new(), BTreeMap::new(), TimeZone::UTC);
        let mut parameters = Self { reset, values, zone, users, system_user: None };
        for (name, value) in startup_options {
            // An unknown or refused one does not concern the session.
            let _ = parameters.assign(name, value);
        }
        parameters.reset = parameters.values.clone();
        parameters
    }

    /// Who the session acts as.
    pub(super) const fn users(&self) -> UserIds {
        self.users
    }

    /// Who has logged in and how, as `method:name`.
    pub(super) fn system_user(&self) -> Option<&str> {
        self.system_user.as_deref()
    }

    /// Says who has logged in and how.
    pub(super) fn set_system_user(&mut self, system_user: Option<&str>) {
        self.system_user = system_user.map(Arc::from);
    }

    /// Has it act as somebody else.
    pub(super) const fn set_users(&mut self, users: UserIds) {
        self.users = users;
    }

    /// The session's time zone.
    pub(super) const fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The value of a session parameter.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let key = name.to_ascii_lowercase();
        let set = self.values.get(&key).map(String::as_str);
        // Each transaction begins with the session's defaults. PostgreSQL: `StartTransaction`.
        set.or_else(|| match &*key {
            "transaction_isolation" => self.value("default_transaction_isolation"),
            "transaction_read_only" => self.value("default_transaction_read_only"),
            "transaction_deferrable" => self.value("default_transaction_deferrable"),
            _ => definition(name).map(|definition| definition.default),
        })
    }

    /// The value that the session has set itself, or was started with.
    pub(super) fn session_value(&self, lower_name: &str) -> Option<&str> {
        self.values.get(lower_name).map(String::as_str)
    }

    /// A parameter that is a time, in milliseconds.
    pub(super) fn milliseconds(&self, lower_name: &str) -> Option<u64> {
        let value = self.session_value(lower_name)?;
        total_milliseconds(value).and_then(|total| u64::try_from(total).ok())
    }

    /// Sets a parameter of the session. `Ok(false)` when it is not one.
    pub(super) fn assign(&mut self, name: &str, value: &str) -> Result<bool> {
        let key = name.to_ascii_lowercase();
        let value = match definition(name) {
            Some(definition) => definition.check(value)?,
            None if is_custom(name) => value.to_owned(),
            None => return Ok(false),
        };
        if value.len() > VALUE_LEN_MAX {
            let message = format!("invalid value for parameter \"{name}\": too long");
            return Err(fail(SqlState::INVALID_PARAMETER_VALUE, message));
        }
        let customs = self.values.keys().filter(|key| is_custom(key)).count();
        if is_custom(name) && !self.values.contains_key(&key) && customs >= CUSTOM_PARAMETERS_MAX {
            let message = format!("a session may define {CUSTOM_PARAMETERS_MAX} parameters");
            return Err(fail(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message));
        }
        if key == "timezone" {
            self.zone = time_zone(&value).unwrap_or(TimeZone::UTC);
        }
        self.values.insert(key, value);
        Ok(true)
    }

    /// RESET of one parameter, or of all. `false` when there is none of that name.
    pub(super) fn reset(&mut self, name: Option<&str>) -> bool {
        match name {
            Some(name) => {
                if definition(name).is_none() && !self.values.contains_key(&name.to_lowercase()) {
                    return false;
                }
                let key = name.to_ascii_lowercase();
                match self.reset.get(&key) {
                    Some(value) => self.values.insert(key, value.clone()),
                    None => self.values.remove(&key),
                };
            }
            None => {
                // The modes of the transaction are not the session's. PostgreSQL: GUC_NO_RESET_ALL.
                self.values.retain(|name, _| name.starts_with("transaction_"));
                self.values.extend(self.reset.clone());
            }
        }
        let zone = self.value("TimeZone").and_then(time_zone);
        self.zone = zone.unwrap_or(TimeZone::UTC);
        true
    }

    /// Forgets the modes of a transaction that has ended.
    pub(super) fn end_transaction(&mut self) {
        self.values.retain(|name, _| !name.starts_with("transaction_"));
    }

    /// What a client must be told after `before` became `self`.
    pub(super) fn reported_since(&self, before: &Self) -> Reported {
        DEFINITIONS
            .iter()
            .filter(|definition| definition.report)
            .filter_map(|definition| {
                let now = self.value(definition.name)?;
                (before.value(definition.name) != Some(now))
                    .then(|| (definition.name, now.to_owned()))
            })
            .collect()
    }
}

/// Why a session with these parameters in its startup packet cannot begin, if it cannot.
///
/// A value that makes no sense is refused, as in PostgreSQL: who asks for a level of
/// synchronous_commit must not get another one. What this server merely does not have is left at
/// its default, which the client is told.
pub(crate) fn check_startup(
    startup_options: &BTreeMap<String, String>,
) -> std::result::Result<(), Report> {
    for (name, value) in startup_options {
        if UserSetting::of_name(name).is_some() {
            // It would have to be refused, or to be in effect from the first statement on.
            let message =
                format!("parameter \"{name}\" in a startup packet is not supported by walhub");
            let report = Report::fatal(SqlState::FEATURE_NOT_SUPPORTED, message);
            return Err(report.hint("Use SET ROLE or SET SESSION AUTHORIZATION."));
        }
        // Time zones have more names in PostgreSQL than here.
        let Some(definition) = definition(name).filter(|it| !matches!(it.kind, Kind::TimeZone))
        else {
            continue;
        };
        if let Err(failure) = definition.check(value)
            && failure.sqlstate == SqlState::INVALID_PARAMETER_VALUE
        {
            return Err(Report { severity: Severity::Fatal, ..*failure });
        }
    }
    Ok(())
}

/// Those of the parameters that a client is told which are not at their defaults when a session
/// with this startup packet begins.
pub(crate) fn reported_at_startup(startup_options: &BTreeMap<String, String>) -> Reported {
    let nobody = UserIds::nobody();
    let begun = Parameters::new(startup_options, nobody);
    begun.reported_since(&Parameters::new(&BTreeMap::new(), nobody))
}

impl Definition {
    /// The value as it is kept and shown.
    fn check(&self, value: &str) -> Result<String> {
        let invalid = || {
            let message = format!("invalid value for parameter \"{}\": \"{value}\"", self.name);
            fail(SqlState::INVALID_PARAMETER_VALUE, message)
        };
        match &self.kind {
            Kind::Text => Ok(value.to_owned()),
            Kind::Bool => match parse_bool(value) {
                Some(on) => Ok(if on { "on" } else { "off" }.to_owned()),
                None => {
                    let message = format!("parameter \"{}\" requires a Boolean value", self.name);
                    Err(fail(SqlState::INVALID_PARAMETER_VALUE, message))
                }
            },
            Kind::Only(only) => {
                let same = value.eq_ignore_ascii_case(only)
                    || (*only == "on" && parse_bool(value) == Some(true));
                if same {
                    return Ok((*only).to_owned());
                }
                Err(unsupported(format_args!("parameter \"{}\" other than {only}", self.name)))
            }
            Kind::Int(min, max) => {
                let number: i64 = value.trim_ascii().parse().map_err(|_| invalid())?;
                if !(min..=max).contains(&&number) {
                    let message = format!(
                        "{number} is outside the valid range for parameter \"{}\" ({min} .. {max})",
                        self.name
                    );
                    return Err(fail(SqlState::INVALID_PARAMETER_VALUE, message));
                }
                Ok(number.to_string())
            }
            Kind::Milliseconds => milliseconds(value).ok_or_else(|| {
                hinted(
                    invalid(),
                    "Valid units for this parameter are \"us\", \"ms\", \"s\", \"min\", \"h\", \
                     and \"d\".",
                )
            }),
            Kind::Enum(words) => {
                let word = words.iter().find(|word| word.eq_ignore_ascii_case(value));
                word.map(|word| (*word).to_owned()).ok_or_else(|| {
                    let hint = format!("Available values: {}.", words.join(", "));
                    hinted(invalid(), &hint)
                })
            }
            Kind::SynchronousCommit => match SynchronousCommit::parse(value) {
                Some(level) => Ok(level.as_str().to_owned()),
                None => {
                    let words = SynchronousCommit::ALL.map(SynchronousCommit::as_str);
                    let hint = format!("Available values: {}.", words.join(", "));
                    Err(hinted(invalid(), &hint))
                }
            },
            Kind::Encoding => {
                let plain: String =
                    value.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
                match plain.to_ascii_lowercase().as_str() {
                    "utf8" | "unicode" => Ok("UTF8".to_owned()),
                    "sqlascii" => Ok("SQL_ASCII".to_owned()),
                    _ => Err(unsupported(format_args!("client_encoding \"{value}\""))),
                }
            }
            Kind::DateStyle => date_style(value).ok_or_else(invalid)?,
            Kind::TimeZone => time_zone(value).map(|_| value.to_owned()).ok_or_else(invalid),
        }
    }
}

fn date_style(value: &str) -> Option<Result<String>> {
    let mut order = "MDY";
    for word in value.split(',').map(|word| word.trim_ascii().to_ascii_lowercase()) {
        match word.as_str() {
            "iso" | "default" => {}
            "mdy" | "us" | "noneuro" | "noneuropean" => order = "MDY",
            "dmy" | "euro" | "european" => order = "DMY",
            "ymd" => order = "YMD",
            "sql" | "postgres" | "german" => {
                return Some(Err(unsupported(format_args!("DateStyle {word}"))));
            }
            _ => return None,
        }
    }
    Some(Ok(format!("ISO, {order}")))
}

fn time_zone(name: &str) -> Option<TimeZone> {
    if name.len() > 64 {
        return None;
    }
    match name.to_ascii_uppercase().as_str() {
        "UTC" | "GMT" | "Z" | "UCT" | "ETC/UTC" | "DEFAULT" => Some(TimeZone::UTC),
        _ => match name.parse::<i8>() {
            // A number is hours east of Greenwich.
            Ok(hours) => {
                (-24..=24).contains(&hours).then(|| TimeZone::fixed(jiff::tz::offset(hours)))
            }
            Err(_) => TimeZone::get(name).ok(),
        },
    }
}

/// A time in milliseconds.
fn total_milliseconds(value: &str) -> Option<i64> {
    let value = value.trim_ascii();
    let split = value.find(|character: char| !character.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(split);
    let number: i64 = number.parse().ok()?;
    let factor = match unit.trim_ascii() {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(factor).filter(|total| *total <= i64::from(i32::MAX))
}

/// A time in the largest unit that divides it. PostgreSQL: `convert_int_from_base_unit`.
fn milliseconds(value: &str) -> Option<String> {
    let total = total_milliseconds(value)?;
    if total == 0 {
        return Some("0".to_owned());
    }
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms")];
    let (size, unit) = units.into_iter().find(|(size, _)| total % size == 0)?;
    Some(format!("{}{unit}", total / size))
}

/// What the server is, which nobody sets. The unit is pg_settings's, the value SHOW's.
fn facts(ctx: &Context<'_>) -> Vec<(&'static str, String)> {
    let identity = ctx.snapshot().identity.as_ref();
    let (version, version_num) = identity.map_or(SERVER_VERSION_DEFAULT, |identity| {
        (&*identity.server_version, identity.server_version_num)
    });
    let in_recovery = if ctx.snapshot().in_recovery { "on" } else { "off" };
    let mut facts = vec![
        ("block_size", "8192".to_owned()),
        ("in_hot_standby", in_recovery.to_owned()),
        ("integer_datetimes", "on".to_owned()),
        ("is_superuser", on_off(ctx.rights().is_superuser())),
        ("lc_collate", "C".to_owned()),
        ("lc_ctype", "C".to_owned()),
        ("max_identifier_length", "63".to_owned()),
        ("server_encoding", "UTF8".to_owned()),
        ("server_version", version.to_owned()),
        ("server_version_num", version_num.to_string()),
        ("role", role(ctx)),
        ("session_authorization", session_authorization(ctx)),
        ("wal_block_size", "8192".to_owned()),
    ];
    if let Some(identity) = identity {
        facts.push(("wal_segment_size", identity.segment_size.to_string()));
    }
    facts
}

fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

/// PostgreSQL: `show_role`.
fn role(ctx: &Context<'_>) -> String {
    let name = ctx.parameters.users.role().and_then(|oid| ctx.user_name(oid).ok());
    name.unwrap_or_else(|| "none".to_owned())
}

/// PostgreSQL: `show_session_authorization`.
fn session_authorization(ctx: &Context<'_>) -> String {
    ctx.user_name(ctx.parameters.users.session()).unwrap_or_default()
}

/// PostgreSQL: `GetConfigOptionByName`.
pub(super) fn show(ctx: &Context<'_>, name: &str) -> Option<String> {
    // A standby's transactions only read, whatever the session asks for.
    if name.eq_ignore_ascii_case("transaction_read_only") && ctx.snapshot().in_recovery {
        return Some("on".to_owned());
    }
    let fact = || {
        let found = facts(ctx).into_iter().find(|(fact, _)| fact.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    };
    if let Some(definition) = definition(name).filter(|definition| definition.of_server) {
        let set = ctx.parameters.session_value(definition.name).map(str::to_owned);
        let value = set.or_else(|| ctx.settings.show(definition.name));
        if value.is_some() {
            return value;
        }
    }
    let value = ctx.parameters.value(name).map(str::to_owned);
    value.or_else(fact).or_else(|| ctx.settings.show(&name.to_ascii_lowercase()))
}

/// The name as it is shown: `DateStyle` for `datestyle`.
pub(super) fn canonical_name(name: &str) -> String {
    definition(name).map_or(name, |definition| definition.name).to_owned()
}

/// The error of SET for a name that is no session parameter.
pub(super) fn cannot_set(settings: &dyn SettingsView, name: &str) -> Failure {
    let context = settings
        .all()
        .into_iter()
        .find(|row| row.name.eq_ignore_ascii_case(name))
        .map(|row| row.context);
    let internal = [
        "block_size",
        "in_hot_standby",
        "integer_datetimes",
        "is_superuser",
        "lc_collate",
        "lc_ctype",
        "max_identifier_length",
        "server_encoding",
        "server_version",
        "server_version_num",
        "session_authorization",
        "wal_block_size",
        "wal_segment_size",
    ];
    let message = match context.as_deref() {
        None if internal.iter().any(|fact| fact.eq_ignore_ascii_case(name)) => {
            format!("parameter \"{name}\" cannot be changed")
        }
        None if settings.show(&name.to_ascii_lowercase()).is_none() => return unrecognized(name),
        Some("internal") => format!("parameter \"{name}\" cannot be changed"),
        Some("postmaster") => {
            format!("parameter \"{name}\" cannot be changed without restarting the server")
        }
        None | Some(_) => format!("parameter \"{name}\" cannot be changed now"),
    };
    fail(SqlState::CANT_CHANGE_RUNTIME_PARAM, message)
}

/// Every parameter, as pg_settings and SHOW ALL list them: by name, without regard to case.
pub(super) fn all(ctx: &Context<'_>) -> Vec<SettingRow> {
    let mut rows: BTreeMap<String, SettingRow> = BTreeMap::new();
    let settings = ctx.settings.all();
    rows.extend(settings.into_iter().map(|row| (row.name.to_ascii_lowercase(), row)));
    for (name, value) in facts(ctx) {
        let (setting, unit) = match (name, &ctx.snapshot().identity) {
            ("wal_segment_size", Some(identity)) => {
                (identity.segment_size.bytes().to_string(), Some("B".to_owned()))
            }
            _ => (value, None),
        };
        let row = SettingRow {
            name: name.to_owned(),
            setting: Some(setting.clone()),
            unit,
            category: "Preset Options".to_owned(),
            short_desc: "Shows what the server is.".to_owned(),
            context: "internal".to_owned(),
            vartype: "string".to_owned(),
            source: "default".to_owned(),
            boot_val: Some(setting.clone()),
            reset_val: Some(setting),
            ..SettingRow::default()
        };
        rows.insert(name.to_owned(), row);
    }
    for definition in DEFINITIONS {
        let value = show(ctx, definition.name);
        let key = definition.name.to_ascii_lowercase();
        let of_server = definition.of_server.then(|| ctx.settings.show(definition.name));
        let server = of_server.flatten();
        let default = server.as_deref().unwrap_or(definition.default);
        let reset = ctx.parameters.reset.get(&key).map_or(default, String::as_str);
        let source = if ctx.parameters.values.contains_key(&key) { "session" } else { "default" };
        let (vartype, range, enumvals) = match &definition.kind {
            Kind::Bool => ("bool", None, None),
            Kind::Int(min, max) => ("integer", Some((*min, *max)), None),
            Kind::Milliseconds => ("integer", Some((0, i64::from(i32::MAX))), None),
            Kind::Enum(words) => {
                ("enum", None, Some(words.iter().map(|word| (*word).to_owned()).collect()))
            }
            Kind::SynchronousCommit => {
                let words = SynchronousCommit::ALL.map(|level| level.as_str().to_owned());
                ("enum", None, Some(words.to_vec()))
            }
            Kind::Only(_) | Kind::Text | Kind::Encoding | Kind::DateStyle | Kind::TimeZone => {
                ("string", None, None)
            }
        };
        let is_time = matches!(definition.kind, Kind::Milliseconds);
        let base = |shown: String| if is_time { in_milliseconds(&shown) } else { shown };
        let row = SettingRow {
            name: definition.name.to_owned(),
            setting: value.map(base),
            unit: is_time.then(|| "ms".to_owned()),
            category: "Client Connection Defaults".to_owned(),
            short_desc: "Belongs to the console session.".to_owned(),
            context: "user".to_owned(),
            vartype: vartype.to_owned(),
            source: source.to_owned(),
            min_val: range.map(|(min, _)| min.to_string()),
            max_val: range.map(|(_, max)| max.to_string()),
            enumvals,
            boot_val: Some(base(definition.default.to_owned())),
            reset_val: Some(base(reset.to_owned())),
            ..SettingRow::default()
        };
        rows.insert(key, row);
    }
    let rights = ctx.rights();
    rows.into_values().filter(|row| rights.sees_setting(&row.name)).collect()
}

/// The number that pg_settings shows for a time that SHOW prints with its unit.
fn in_milliseconds(shown: &str) -> String {
    let split = shown.find(|character: char| !character.is_ascii_digit()).unwrap_or(shown.len());
    let (number, unit) = shown.split_at(split);
    let factor = match unit {
        "d" => 86_400_000,
        "h" => 3_600_000,
        "min" => 60_000,
        "s" => 1000,
        _ => 1,
    };
    number.parse::<i64>().map_or_else(|_| shown.to_owned(), |number| (number * factor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_and_shown_as_postgres_shows_them() {
        let mut parameters = Parameters::new(&BTreeMap::new(), UserIds::nobody());
        for (name, value, shown) in [
            ("statement_timeout", "90000", "90s"),
            ("STATEMENT_TIMEOUT", "2h", "2h"),
            ("client_encoding", "utf-8", "UTF8"),
            ("datestyle", "iso, dmy", "ISO, DMY"),
            ("TimeZone", "+2", "+2"),
            ("default_transaction_isolation", "SERIALIZABLE", "serializable"),
            ("jit", "0", "off"),
            ("my.setting", "x", "x"),
        ] {
            assert!(parameters.assign(name, value).unwrap());
            assert_eq!(parameters.value(name), Some(shown));
        }
        for (name, value, code) in [
            ("statement_timeout", "5 parsecs", "22023"),
            ("extra_float_digits", "9", "22023"),
            ("client_encoding", "LATIN1", "0A000"),
            ("DateStyle", "German", "0A000"),
            ("TimeZone", "Nowhere/Land", "22023"),
            ("standard_conforming_strings", "off", "0A000"),
        ] {
            assert_eq!(parameters.assign(name, value).unwrap_err().sqlstate.0, code, "{name}");
        }
        assert!(!parameters.assign("wal_keep_size", "1GB").unwrap());
    }

    #[test]
    fn a_startup_packet_is_refused_for_a_senseless_value_only() {
        let check = |name: &str, value: &str| {
            check_startup(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
        };
        let refusal = check("synchronous_commit", "perhaps").unwrap_err();
        assert_eq!(
            (refusal.severity, refusal.sqlstate, &*refusal.message),
            (
                Severity::Fatal,
                SqlState::INVALID_PARAMETER_VALUE,
                "invalid value for parameter \"synchronous_commit\": \"perhaps\""
            )
        );
        for (name, value) in [
            ("synchronous_commit", "remote_apply"),
            ("client_encoding", "LATIN1"),
            ("TimeZone", "<+03>-3"),
            ("no_such_parameter", "1"),
        ] {
            assert!(check(name, value).is_ok(), "{name}");
        }
        let startup = BTreeMap::from([("datestyle".to_owned(), "iso, dmy".to_owned())]);
        assert_eq!(reported_at_startup(&startup), [("DateStyle", "ISO, DMY".to_owned())]);
    }

    #[test]
    fn a_transaction_has_the_modes_of_its_session() {
        let mut parameters = Parameters::new(&BTreeMap::new(), UserIds::nobody());
        assert_eq!(parameters.value("transaction_isolation"), Some("read committed"));
        parameters.assign("default_transaction_isolation", "serializable").unwrap();
        assert_eq!(parameters.value("Transaction_Isolation"), Some("serializable"));
        parameters.assign("transaction_isolation", "repeatable read").unwrap();
        assert_eq!(parameters.value("transaction_isolation"), Some("repeatable read"));
        parameters.end_transaction();
        assert_eq!(parameters.value("transaction_isolation"), Some("serializable"));
    }

    #[test]
    fn reset_goes_back_to_the_startup_packet() {
        let startup = BTreeMap::from([("application_name".to_owned(), "psql".to_owned())]);
        let mut parameters = Parameters::new(&startup, UserIds::nobody());
        let before = parameters.clone();
        parameters.assign("application_name", "other").unwrap();
        let told = [("application_name", "other".to_owned())];
        assert_eq!(parameters.reported_since(&before), told);
        assert!(parameters.reset(Some("Application_Name")));
        assert_eq!(parameters.value("application_name"), Some("psql"));
        assert!(!parameters.reset(Some("nope")));
    }
}
