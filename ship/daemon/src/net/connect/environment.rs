//! What a connection string may take from this process: environment, home, password file.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use walhub_proto::conninfo::{ConnInfo, ConnInfoError, Environment, HostSpec, find_password};

/// Parses a connection string, completed from the environment and the service file.
///
/// # Errors
/// As [`ConnInfo::parse`].
pub fn parse_conninfo(text: &str) -> Result<ConnInfo, ConnInfoError> {
    let user = os_user();
    let home = std::env::var("HOME").ok().filter(|home| !home.is_empty());
    let home = home.or_else(|| user.as_ref().map(|user| user.home.clone()));
    let environment = Environment {
        variable: &|name| std::env::var(name).ok(),
        read_file: &|path| fs::read_to_string(path).ok(),
        os_user: user.as_ref().map(|user| user.name.as_str()),
        home: home.as_deref(),
    };
    ConnInfo::parse(text, &environment)
}

struct OsUser {
    name: String,
    home: String,
}

fn os_user() -> Option<OsUser> {
    // The owner of /proc/self is the effective user.
    let uid = fs::metadata("/proc/self").ok()?.uid();
    let (name, home) = passwd_entry(|_, entry_uid| entry_uid == uid)?;
    Some(OsUser { name, home })
}

/// The user id of a user.
pub(super) fn uid_of(user: &str) -> Option<u32> {
    let mut found = None;
    passwd_entry(|name, uid| {
        let matches = name == user;
        if matches {
            found = Some(uid);
        }
        matches
    })?;
    found
}

/// Name and home of the first entry of /etc/passwd that `wanted` accepts.
fn passwd_entry(mut wanted: impl FnMut(&str, u32) -> bool) -> Option<(String, String)> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let &[name, _, uid, _, _, home, ..] = fields.as_slice() else { return None };
        wanted(name, uid.parse().ok()?).then(|| (name.to_string(), home.to_string()))
    })
}

/// A password, and the file that it came from.
#[derive(Clone)]
pub(super) struct Password {
    pub(super) text: String,
    pub(super) file: Option<PathBuf>,
}

/// The password for a host: the one given, else the password file's.
///
/// PostgreSQL: `passwordFromFile`.
pub(super) fn password(conninfo: &ConnInfo, host: &HostSpec, database: &str) -> Option<Password> {
    if let Some(text) = &conninfo.password {
        return Some(Password { text: text.clone(), file: None });
    }
    let file = PathBuf::from(conninfo.passfile.as_ref()?);
    let metadata = fs::metadata(&file).ok()?;
    if !metadata.is_file() {
        tracing::warn!("password file \"{}\" is not a plain file", file.display());
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(
            "password file \"{}\" has group or world access; permissions should be u=rw (0600) or less",
            file.display()
        );
        return None;
    }
    let text = fs::read(&file).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (host, port) = (host.passfile_host(), host.port.to_string());
    let text = find_password(&text, host, &port, database, &conninfo.user)?;
    Some(Password { text, file: Some(file) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operating_system_user_is_the_effective_one() {
        let id = std::process::Command::new("id").arg("-un").output().unwrap();
        let name = String::from_utf8(id.stdout).unwrap();
        let user = os_user().unwrap();
        assert_eq!(user.name, name.trim());
        assert!(user.home.starts_with('/'));
        assert_eq!(uid_of("root"), Some(0));
        assert_eq!(uid_of("no such user"), None);
    }
}
