//! The server's private key: who may read its file, and what is in it.
//!
//! PostgreSQL: `check_ssl_key_file_permissions`, `run_ssl_passphrase_command` (src/backend/libpq/be-secure-common.c),
//! `be_tls_init` (src/backend/libpq/be-secure-openssl.c).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use pkcs8::EncryptedPrivateKeyInfoRef;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;
use zeroize::Zeroizing;

use crate::settings::files;
use crate::strerror::strerror;

/// What the command that gives the pass phrase is told to ask.
const PROMPT: &str = "Enter PEM pass phrase:";
/// PEM label of a key that a pass phrase encrypts.
const ENCRYPTED_LABEL: &str = "ENCRYPTED PRIVATE KEY";

/// Where the pass phrase of a key comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Passphrase<'a> {
    /// From the output of this command.
    Command(&'a str),
    /// No command is set.
    Nowhere,
    /// There is a command, and it is not to be run at a reload.
    NotNow,
}

fn wrong(message: String) -> Report {
    Report::fatal(SqlState::CONFIG_FILE_ERROR, message)
}

/// PostgreSQL: `check_ssl_key_file_permissions`.
pub(super) fn check_permissions(file: &Path) -> Result<(), Report> {
    let shown = file.display();
    let metadata = fs::metadata(file).map_err(|error| {
        wrong(format!("could not access private key file \"{shown}\": {}", strerror(&error)))
    })?;
    if !metadata.is_file() {
        return Err(wrong(format!("private key file \"{shown}\" is not a regular file")));
    }
    let us = rustix::process::geteuid().as_raw();
    if metadata.uid() != us && metadata.uid() != 0 {
        return Err(wrong(format!(
            "private key file \"{shown}\" must be owned by the database user or root"
        )));
    }
    // One of root's may be shared with a group that the server is in.
    let forbidden = if metadata.uid() == us { 0o077 } else { 0o027 };
    if metadata.permissions().mode() & forbidden != 0 {
        let report = wrong(format!("private key file \"{shown}\" has group or world access"));
        return Err(report.detail(
            "File must have permissions u=rw (0600) or less if owned by the database user, or \
             permissions u=rw,g=r (0640) or less if owned by root.",
        ));
    }
    Ok(())
}

/// Reads the key.
///
/// # Errors
/// In PostgreSQL's words.
pub(super) fn load(
    file: &Path,
    passphrase: Passphrase<'_>,
) -> Result<PrivateKeyDer<'static>, Report> {
    check_permissions(file)?;
    let shown = file.display();
    let unusable =
        |reason: &str| wrong(format!("could not load private key file \"{shown}\": {reason}"));
    let pem = files::read(file).map_err(|error| unusable(&strerror(&error)))?;
    let pem = Zeroizing::new(pem);
    if !pem.windows(ENCRYPTED_LABEL.len()).any(|text| text == ENCRYPTED_LABEL.as_bytes()) {
        return PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
            if pem.windows(9).any(|text| text == b"ENCRYPTED") {
                unusable("it is encrypted in OpenSSL's old format")
                    .hint("Convert it: openssl pkcs8 -topk8 -in old.key -out server.key".to_owned())
            } else {
                unusable(&error.to_string())
            }
        });
    }
    let command = match passphrase {
        Passphrase::Command(command) => command,
        Passphrase::Nowhere => {
            return Err(unusable("it is encrypted")
                .hint("Set ssl_passphrase_command to a command that prints its passphrase."));
        }
        Passphrase::NotNow => {
            return Err(wrong(format!(
                "private key file \"{shown}\" cannot be reloaded because it requires a passphrase"
            )));
        }
    };
    let passphrase = run_command(command)?;
    let text = std::str::from_utf8(&pem).map_err(|_| unusable("no PEM"))?;
    decrypt(text, &passphrase).map_err(|reason| unusable(&reason))
}

fn decrypt(pem: &str, passphrase: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let begin = format!("-----BEGIN {ENCRYPTED_LABEL}-----");
    let pem = pem.find(&begin).map_or(pem, |at| &pem[at..]);
    let (label, document) =
        pkcs8::SecretDocument::from_pem(pem).map_err(|error| error.to_string())?;
    if label != ENCRYPTED_LABEL {
        return Err(format!("no {ENCRYPTED_LABEL}"));
    }
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
        .map_err(|error| error.to_string())?;
    // Whatever is wrong with it shows as a wrong passphrase, and tells nothing more.
    let key = encrypted.decrypt(passphrase).map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(reason) => reason.to_string(),
        other => other.to_string(),
    })?;
    Ok(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec())))
}

/// The first line of what the command says. PostgreSQL: `run_ssl_passphrase_command`.
fn run_command(setting: &str) -> Result<Zeroizing<Vec<u8>>, Report> {
    let command = replace_percent(setting)?;
    let failed = |reason: &str| {
        Report::fatal(
            SqlState::CONFIG_FILE_ERROR,
            format!("could not execute command \"{command}\": {reason}"),
        )
    };
    let output = Command::new("/bin/sh")
        .arg("-c")
        .arg(&command)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(&strerror(&error)))?;
    let said = Zeroizing::new(output.stdout);
    if !output.status.success() {
        let report = wrong(format!("command \"{command}\" failed"));
        return Err(report.detail(output.status.to_string()));
    }
    let line = said.split(|&byte| byte == b'\n').next().unwrap_or_default();
    Ok(Zeroizing::new(line.strip_suffix(b"\r").unwrap_or(line).to_vec()))
}

/// `%p` is what is asked, `%%` a percent sign. PostgreSQL: `replace_percent_placeholders`.
fn replace_percent(command: &str) -> Result<String, Report> {
    let mut replaced = String::new();
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            replaced.push(c);
            continue;
        }
        match chars.next() {
            Some('p') => replaced.push_str(PROMPT),
            Some('%') => replaced.push('%'),
            other => {
                let report = Report::fatal(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!(
                        "invalid value for parameter \"ssl_passphrase_command\": \"{command}\""
                    ),
                );
                return Err(report.detail(match other {
                    Some(c) => format!("String contains unexpected placeholder \"%{c}\"."),
                    None => "String ends unexpectedly after escape character \"%\".".to_owned(),
                }));
            }
        }
    }
    Ok(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of_mode(mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn only_we_may_read_our_key() {
        for (mode, is_good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            let checked = check_permissions(file_of_mode(mode).path());
            assert_eq!(checked.is_ok(), is_good, "{mode:o}");
        }
        let report = check_permissions(Path::new("/nowhere/server.key")).unwrap_err();
        assert_eq!(
            report.message,
            "could not access private key file \"/nowhere/server.key\": No such file or directory"
        );
        let report = check_permissions(Path::new("/tmp")).unwrap_err();
        assert_eq!(report.message, "private key file \"/tmp\" is not a regular file");
    }

    #[test]
    fn a_command_is_asked_for_the_passphrase() {
        assert_eq!(&**run_command("echo 'a  b'; echo c").unwrap(), b"a  b");
        assert_eq!(&**run_command("echo '%p %%'").unwrap(), b"Enter PEM pass phrase: %");
        assert_eq!(run_command("exit 3").unwrap_err().message, "command \"exit 3\" failed");
        let report = run_command("echo %x").unwrap_err();
        assert_eq!(
            report.detail.as_deref(),
            Some("String contains unexpected placeholder \"%x\".")
        );
    }
}
