//! Settings and files that are good, and each that is not.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use super::*;
use crate::net::tls::provider;

/// An authority, and a certificate for `walhub.example` that it has signed, as files of a data directory.
pub(in crate::net) struct Files(TempDir);

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .output()
        .expect("openssl");
    assert!(output.status.success(), "openssl {arguments}: {output:?}");
}

fn private(file: &Path) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

const EC: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256";

impl Files {
    pub(in crate::net) fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let at = files.directory();
        fs::write(at.join("ext"), "subjectAltName = DNS:walhub.example\n").unwrap();
        openssl(
            at,
            &format!(
                "req -x509 -new {EC} -days 2 -subj /CN=authority -addext keyUsage=critical,keyCertSign,cRLSign -keyout root.key -out root.crt"
            ),
        );
        openssl(
            at,
            &format!("req -new {EC} -subj /CN=walhub.example -keyout server.key -out server.csr"),
        );
        openssl(
            at,
            "x509 -req -sha256 -days 2 -CAcreateserial -in server.csr -CA root.crt -CAkey root.key -extfile ext -out server.crt",
        );
        private(&at.join("server.key"));
        files
    }

    pub(in crate::net) fn directory(&self) -> &Path {
        self.0.path()
    }

    /// A client that believes the authority, and offers these protocols.
    pub(in crate::net) fn client_config(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(pem_file(&self.directory().join("root.crt")).unwrap().remove(0)).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

pub(in crate::net) fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.ssl = true;
    settings
}

fn load(files: &Files, change: impl FnOnce(&mut Settings)) -> Result<Acceptor, Report> {
    load_when(files, When::Start, change)
}

fn load_when(
    files: &Files,
    when: When,
    change: impl FnOnce(&mut Settings),
) -> Result<Acceptor, Report> {
    let mut settings = settings();
    change(&mut settings);
    Acceptor::load(&settings, files.directory(), when).map(|acceptor| acceptor.expect("ssl is on"))
}

#[track_caller]
fn refusal(files: &Files, change: impl FnOnce(&mut Settings)) -> Report {
    let report = load(files, change).unwrap_err();
    assert_eq!(report.sqlstate, SqlState::CONFIG_FILE_ERROR);
    report
}

#[test]
fn the_defaults_are_a_certificate_and_a_key_in_the_data_directory() {
    let files = Files::new();
    assert!(
        Acceptor::load(&Settings::default(), Path::new("/nowhere"), When::Start).unwrap().is_none()
    );
    let acceptor = load(&files, |_| ()).unwrap();
    // That of SHA-256.
    assert_eq!(acceptor.end_point.len(), 32);
    assert!(acceptor.config.ticketer.enabled());
    assert!(acceptor.config.ignore_client_order);
    load(&files, |settings| settings.ssl_prefer_server_ciphers = false).unwrap();
    let missing = refusal(&files, |settings| settings.ssl_cert_file = "no.crt".into());
    let file = files.directory().join("no.crt");
    assert_eq!(
        missing.message,
        format!(
            "could not load server certificate file \"{}\": No such file or directory",
            file.display()
        )
    );
    let missing = refusal(&files, |settings| settings.ssl_key_file = "no.key".into());
    assert!(missing.message.starts_with("could not access private key file"), "{missing:?}");
}

#[test]
fn a_key_that_others_may_read_or_that_is_anothers_is_refused() {
    let files = Files::new();
    let mismatch = refusal(&files, |settings| {
        private(&files.directory().join("root.key"));
        settings.ssl_key_file = "root.key".into();
    });
    assert_eq!(mismatch.message, "check of private key failed: key values mismatch");
    let key = files.directory().join("server.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let report = refusal(&files, |_| ());
    assert_eq!(
        report.message,
        format!("private key file \"{}\" has group or world access", key.display())
    );
}

#[test]
fn a_passphrase_is_asked_for_and_only_when_it_may_be() {
    let files = Files::new();
    openssl(
        files.directory(),
        "pkcs8 -topk8 -in server.key -out locked.key -passout pass:open -v2 aes-256-cbc",
    );
    private(&files.directory().join("locked.key"));
    let locked = |settings: &mut Settings| settings.ssl_key_file = "locked.key".into();
    let report = refusal(&files, locked);
    assert!(report.message.ends_with("locked.key\": it is encrypted"), "{report:?}");
    let with = |command: &'static str| {
        move |settings: &mut Settings| {
            locked(settings);
            settings.ssl_passphrase_command = command.into();
        }
    };
    load(&files, with("echo open")).unwrap();
    assert!(load(&files, with("echo wrong")).is_err());
    let report = load_when(&files, When::Reload, with("echo open")).unwrap_err();
    assert!(report.message.ends_with("cannot be reloaded because it requires a passphrase"));
    load_when(&files, When::Reload, |settings| {
        with("echo open")(settings);
        settings.ssl_passphrase_command_supports_reload = true;
    })
    .unwrap();
    // A key without a passphrase needs none.
    load_when(&files, When::Reload, |settings| settings.ssl_passphrase_command = "exit 1".into())
        .unwrap();
}

#[test]
fn versions_ciphers_and_groups_are_chosen_and_what_is_not_here_is_named() {
    let files = Files::new();
    let report = refusal(&files, |settings| {
        settings.ssl_min_protocol_version = SslMinProtocolVersion::Tls11;
    });
    assert_eq!(
        report.message,
        "\"ssl_min_protocol_version\" setting \"TLSv1.1\" not supported by this build"
    );
    let report = refusal(&files, |settings| {
        settings.ssl_min_protocol_version = SslMinProtocolVersion::Tls13;
        settings.ssl_max_protocol_version = SslMaxProtocolVersion::Tls12;
    });
    assert_eq!(report.message, "could not set SSL protocol version range");
    let report = refusal(&files, |settings| settings.ssl_ciphers = "AES256-SHA".into());
    assert_eq!(report.message, "could not set the cipher list");
    assert_eq!(report.detail.as_deref(), Some("walhub has no \"AES256-SHA\"."));
    let report = refusal(&files, |settings| settings.ssl_ciphers = "MEDIUM".into());
    assert_eq!(report.message, "could not set the cipher list (no valid ciphers available)");
    let report = refusal(&files, |settings| settings.ssl_groups = "brainpoolP256r1".into());
    assert!(report.message.ends_with("ssl_groups: brainpoolP256r1"), "{report:?}");
    let report = refusal(&files, |settings| settings.ssl_dh_params_file = "dh.pem".into());
    assert_eq!(report.message, "ssl_dh_params_file is not supported");
    load(&files, |settings| {
        settings.ssl_max_protocol_version = SslMaxProtocolVersion::Tls12;
        settings.ssl_ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256".into();
        settings.ssl_groups = "P-384".into();
    })
    .unwrap();
}

#[test]
fn authorities_and_revocation_lists_are_read() {
    let files = Files::new();
    let authority = |settings: &mut Settings| settings.ssl_ca_file = "root.crt".into();
    let acceptor = load(&files, authority).unwrap();
    assert!(!acceptor.config.ticketer.enabled(), "a certificate is verified each time");
    let report = refusal(&files, |settings| settings.ssl_ca_file = "server.key".into());
    assert!(report.message.starts_with("could not load root certificate file"), "{report:?}");
    let report = refusal(&files, |settings| {
        authority(settings);
        settings.ssl_crl_file = "no.crl".into();
    });
    assert!(
        report.message.starts_with("could not load SSL certificate revocation list file"),
        "{report:?}"
    );
    let report = refusal(&files, |settings| {
        authority(settings);
        settings.ssl_crl_dir = "crls".into();
    });
    assert!(report.message.contains("revocation list directory"), "{report:?}");
    fs::create_dir(files.directory().join("crls")).unwrap();
    load(&files, |settings| {
        authority(settings);
        settings.ssl_crl_dir = "crls".into();
    })
    .unwrap();
}
