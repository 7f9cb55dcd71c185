//! `pg_service.conf`: connection options under a name.
//!
//! PostgreSQL: `parseServiceInfo`, `parseServiceFile` (src/interfaces/libpq/fe-connect.c). Not
//! here: `ldap://` lines, which are skipped as a libpq without LDAP does.

use alloc::format;
use alloc::string::String;

use super::environment::Environment;
use super::error::ConnInfoError;
use super::keywords;
use super::options::{Options, is_space};

/// Fills in what the service named by the options or the environment says.
pub(super) fn apply(
    options: &mut Options,
    environment: &Environment<'_>,
) -> Result<(), ConnInfoError> {
    let named = options.value("service").map(String::from);
    let Some(service) = named.or_else(|| (environment.variable)("PGSERVICE")) else {
        return Ok(());
    };
    let given = options.filled("servicefile").map(String::from);
    let given = given.or_else(|| (environment.variable)("PGSERVICEFILE"));
    let user_file = match (&given, environment.home) {
        (Some(file), _) => Some(file.clone()),
        (None, Some(home)) => Some(format!("{home}/.pg_service.conf")),
        (None, None) => None,
    };
    if let Some(file) = user_file {
        match (environment.read_file)(&file) {
            Some(text) if apply_file(options, &service, &file, &text)? => return Ok(()),
            None if given.is_some() => return Err(ConnInfoError::ServiceFileMissing { file }),
            Some(_) | None => {}
        }
    }
    let directory = (environment.variable)("PGSYSCONFDIR");
    let directory = directory.unwrap_or_else(|| String::from("/etc/postgresql-common"));
    let file = format!("{directory}/pg_service.conf");
    match (environment.read_file)(&file) {
        Some(text) if apply_file(options, &service, &file, &text)? => Ok(()),
        Some(_) | None => Err(ConnInfoError::ServiceUnknown { service }),
    }
}

/// Fills in the options of `[service]`; whether the file has it.
fn apply_file(
    options: &mut Options,
    service: &str,
    file: &str,
    text: &str,
) -> Result<bool, ConnInfoError> {
    let mut found = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_matches(is_space);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(group) = line.strip_prefix('[') {
            if found {
                return Ok(true);
            }
            found = group.strip_prefix(service).is_some_and(|rest| rest.starts_with(']'));
            continue;
        }
        if !found || line.starts_with("ldap") {
            continue;
        }
        let syntax = || ConnInfoError::ServiceSyntax { file: file.into(), line: index + 1 };
        let (name, value) = line.split_once('=').ok_or_else(syntax)?;
        if matches!(name, "service" | "servicefile") {
            return Err(ConnInfoError::ServiceNested { file: file.into(), line: index + 1 });
        }
        let keyword = keywords::find(name).ok_or_else(syntax)?;
        options.fill(keyword.name, value.into());
    }
    Ok(found)
}
