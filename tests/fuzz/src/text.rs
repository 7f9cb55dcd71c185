//! What an operator writes.

use std::cell::RefCell;

use walhub::settings::Sources;
use walhub_proto::conninfo::{ConnInfo, Environment, find_password};
use walhub_proto::password::Secret;
use walhub_proto::syncrep::SyncRepConfig;

/// A connection string or URI, with a service file around it.
pub(crate) fn conninfo(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (text, services) = text.split_once('\u{1}').unwrap_or((text, ""));
    let environment = Environment {
        variable: &|name| (name == "PGSERVICEFILE").then(|| "services".to_owned()),
        read_file: &|name| (name == "services").then(|| services.to_owned()),
        os_user: Some("postgres"),
        home: None,
    };
    match ConnInfo::parse(text, &environment) {
        Ok(parsed) => {
            for host in &parsed.hosts {
                drop((host.passfile_host(), host.socket_path()));
            }
            if let Some(password) = parsed.password.as_deref().filter(|text| text.len() > 8) {
                let redacted = parsed.redacted();
                assert!(redacted.contains("password=********"), "{redacted}");
                // A host, or an option, may be called like it. What is written once and as it is, is the password: with
                // another one the same is shown.
                let is_written =
                    text.matches(password).count() == 1 && !services.contains(password);
                if is_written && !text.contains(['%', '\\']) {
                    let other = text.replace(password, &"p".repeat(password.len()));
                    let shown = ConnInfo::parse(&other, &environment);
                    assert_eq!(shown.as_ref().map(ConnInfo::redacted), Ok(redacted));
                }
            }
        }
        Err(error) => drop(error.to_string()),
    }
}

/// A password file.
pub(crate) fn passfile(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(password) = find_password(&text, "localhost", "5432", "replication", "walhub") {
        assert!(!password.contains('\n'));
    }
}

/// `synchronous_standby_names`.
pub(crate) fn standby_names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match SyncRepConfig::parse(text) {
        Ok(Some(config)) => {
            assert!(config.num_sync > 0);
            for name in ["a", "*", "standby 1", ""] {
                let _ = config.priority(name);
            }
        }
        Ok(None) => {}
        Err(error) => drop(error.to_string()),
    }
}

thread_local! {
    static FILE: RefCell<Option<tempfile::NamedTempFile>> = const { RefCell::new(None) };
}

/// walhub.toml.
pub(crate) fn settings(bytes: &[u8]) {
    FILE.with(|file| {
        let mut file = file.borrow_mut();
        let file = file.get_or_insert_with(|| tempfile::NamedTempFile::new().expect("a file"));
        std::fs::write(file.path(), bytes).expect("a file is written");
        let sources = Sources { file: Some(file.path().to_path_buf()), ..Sources::default() };
        match sources.load() {
            Ok(settings) => drop(settings.all()),
            Err(errors) => {
                assert!(!errors.is_empty(), "refused without a reason");
                errors.iter().for_each(|error| drop(format!("{:?}", error.report())));
            }
        }
    });
}

/// What is kept of a password: what is a secret can be written as the same one.
pub(crate) fn secret(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let written = match Secret::parse(text) {
        Secret::Md5(secret) => secret.text(),
        Secret::ScramSha256(secret) => secret.text(),
        Secret::Plain(_) => return,
    };
    let again = match Secret::parse(&written) {
        Secret::Md5(secret) => secret.text(),
        Secret::ScramSha256(secret) => secret.text(),
        Secret::Plain(_) => panic!("a secret was written as a password"),
    };
    assert_eq!(*again, *written);
}
