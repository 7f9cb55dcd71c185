//! What connections are accepted with: certificate, key, authorities, protocol versions, ciphers.
//!
//! It is read at the start, where a fault ends the server, and at each reload, where the old goes on. A connection keeps
//! what it began with.
//!
//! PostgreSQL: `be_tls_init` (src/backend/libpq/be-secure-openssl.c).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use super::certificate::Certificate;
use super::ciphers::{self, Unknown};
use super::key_file::{self, Passphrase};
use super::pem_file;
use crate::settings::{Settings, SslMaxProtocolVersion, SslMinProtocolVersion};
use crate::strerror::strerror;

/// The protocol of direct connections. PostgreSQL: `PG_ALPN_PROTOCOL`.
pub(super) const ALPN: &[u8] = b"postgresql";

/// Whether the server starts, or runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    /// A fault ends it.
    Start,
    /// With a fault it goes on with what it has.
    Reload,
}

/// What a connection is accepted with.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(super) config: Arc<ServerConfig>,
    /// `tls-server-end-point` of the certificate; empty when it has none.
    pub(super) end_point: Vec<u8>,
}

fn wrong(message: impl Into<String>) -> Report {
    Report::fatal(SqlState::CONFIG_FILE_ERROR, message)
}

impl Acceptor {
    /// As the settings say, with files in `directory` where their names are relative; `None` without `ssl`.
    ///
    /// # Errors
    /// What PostgreSQL would say.
    pub(crate) fn load(
        settings: &Settings,
        directory: &Path,
        when: When,
    ) -> Result<Option<Self>, Report> {
        if !settings.ssl {
            return Ok(None);
        }
        let provider = Arc::new(chosen(settings)?);
        let versions = versions(settings)?;
        let key = certified_key(settings, directory, when, &provider)?;
        let end_point = key.cert.first().and_then(|der| Certificate::parse(der)?.end_point(der));
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(|error| wrong(format!("could not create SSL context: {error}")))?;
        let verifier = client_verifier(settings, directory, &provider)?;
        let verifies = verifier.is_some();
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.ignore_client_order = settings.ssl_prefer_server_ciphers;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        // A session that is resumed is not verified again: a certificate would outlive its revocation.
        if !verifies {
            config.ticketer = super::ticketer()
                .map_err(|error| wrong(format!("could not create SSL context: {error}")))?;
        }
        refuse_dh(settings)?;
        Ok(Some(Self { config: Arc::new(config), end_point: end_point.unwrap_or_default() }))
    }
}

/// The provider with the ciphers and groups that the settings choose.
fn chosen(settings: &Settings) -> Result<CryptoProvider, Report> {
    let mut provider = super::provider();
    let unknown = |message: String, unknown: Unknown| {
        wrong(message)
            .detail(format!("walhub has no \"{}\".", unknown.word))
            .hint(format!("It has {}.", unknown.known.join(", ")))
    };
    let list = ciphers::cipher_list(&settings.ssl_ciphers)
        .map_err(|it| unknown("could not set the cipher list".to_owned(), it))?;
    if list.is_empty() {
        return Err(wrong("could not set the cipher list (no valid ciphers available)"));
    }
    let tls13 = ciphers::tls13_suites(&settings.ssl_tls13_ciphers)
        .map_err(|it| unknown("could not set the TLSv1.3 cipher suites".to_owned(), it))?;
    let all = std::mem::take(&mut provider.cipher_suites);
    let wanted = tls13.iter().chain(&list);
    provider.cipher_suites =
        wanted.filter_map(|suite| all.iter().find(|it| it.suite() == *suite).copied()).collect();
    let groups = ciphers::groups(&settings.ssl_groups, &provider).map_err(|it| {
        let message = format!("could not set group names specified in ssl_groups: {}", it.word);
        unknown(message, it)
    })?;
    if groups.is_empty() {
        return Err(wrong("could not set group names specified in ssl_groups: none is named"));
    }
    let all = std::mem::take(&mut provider.kx_groups);
    let wanted = groups.iter();
    provider.kx_groups =
        wanted.filter_map(|group| all.iter().find(|it| it.name() == *group).copied()).collect();
    Ok(provider)
}

/// PostgreSQL: `ssl_protocol_version_to_openssl`.
fn versions(settings: &Settings) -> Result<Vec<&'static SupportedProtocolVersion>, Report> {
    let not_here = |name: &str, value: &str| {
        wrong(format!("\"{name}\" setting \"{value}\" not supported by this build"))
            .hint("walhub speaks TLSv1.2 and TLSv1.3.")
    };
    let has_tls12 = match settings.ssl_min_protocol_version {
        SslMinProtocolVersion::Tls10 => return Err(not_here("ssl_min_protocol_version", "TLSv1")),
        SslMinProtocolVersion::Tls11 => {
            return Err(not_here("ssl_min_protocol_version", "TLSv1.1"));
        }
        SslMinProtocolVersion::Tls12 => true,
        SslMinProtocolVersion::Tls13 => false,
    };
    let has_tls13 = match settings.ssl_max_protocol_version {
        SslMaxProtocolVersion::Tls10 => return Err(not_here("ssl_max_protocol_version", "TLSv1")),
        SslMaxProtocolVersion::Tls11 => {
            return Err(not_here("ssl_max_protocol_version", "TLSv1.1"));
        }
        SslMaxProtocolVersion::Tls12 => false,
        SslMaxProtocolVersion::Any | SslMaxProtocolVersion::Tls13 => true,
    };
    let mut versions = Vec::new();
    if has_tls12 {
        versions.push(&rustls::version::TLS12);
    }
    if has_tls13 {
        versions.push(&rustls::version::TLS13);
    }
    if versions.is_empty() {
        return Err(wrong("could not set SSL protocol version range").detail(
            "\"ssl_min_protocol_version\" cannot be higher than \"ssl_max_protocol_version\"",
        ));
    }
    Ok(versions)
}

fn refuse_dh(settings: &Settings) -> Result<(), Report> {
    if settings.ssl_dh_params_file.is_empty() {
        return Ok(());
    }
    Err(wrong("ssl_dh_params_file is not supported")
        .detail("walhub agrees on keys over the groups of ssl_groups only.")
        .hint("Remove ssl_dh_params_file from walhub's configuration."))
}

fn certified_key(
    settings: &Settings,
    directory: &Path,
    when: When,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Report> {
    let file = directory.join(&settings.ssl_cert_file);
    let unreadable = |reason: String| {
        wrong(format!("could not load server certificate file \"{}\": {reason}", file.display()))
    };
    let chain: Vec<CertificateDer<'static>> = pem_file(&file).map_err(unreadable)?;
    let Some(first) = chain.first() else {
        return Err(unreadable("no certificate found".to_owned()));
    };
    let certificate =
        Certificate::parse(first).ok_or_else(|| unreadable("bad encoding".to_owned()))?;
    let command = settings.ssl_passphrase_command.as_str();
    let passphrase = if command.is_empty() {
        Passphrase::Nowhere
    } else if when == When::Reload && !settings.ssl_passphrase_command_supports_reload {
        Passphrase::NotNow
    } else {
        Passphrase::Command(command)
    };
    let key_file = directory.join(&settings.ssl_key_file);
    let key = key_file::load(&key_file, passphrase)?;
    let key = provider.key_provider.load_private_key(key).map_err(|error| {
        let shown = key_file.display();
        wrong(format!("could not load private key file \"{shown}\": {error}"))
    })?;
    // rustls checks this too, but not for a certificate of version 1.
    if key.public_key().is_some_and(|key| key.as_ref() != certificate.public_key_info) {
        return Err(wrong("check of private key failed: key values mismatch"));
    }
    Ok(CertifiedKey::new(chain, key))
}

/// Who checks clients' certificates, where there are authorities. A client need not have one: whether it must is the
/// access rule's to say.
fn client_verifier(
    settings: &Settings,
    directory: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, Report> {
    if settings.ssl_ca_file.is_empty() {
        return Ok(None);
    }
    let file = directory.join(&settings.ssl_ca_file);
    let unreadable = |reason: String| {
        wrong(format!("could not load root certificate file \"{}\": {reason}", file.display()))
    };
    let roots: Vec<CertificateDer<'static>> = pem_file(&file).map_err(unreadable)?;
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(roots);
    if added == 0 {
        return Err(unreadable("no certificate found".to_owned()));
    }
    let lists = revocation_lists(settings, directory)?;
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
            .allow_unauthenticated();
    if !lists.is_empty() {
        builder = builder.with_crls(lists).enforce_revocation_expiration();
    }
    let verifier = builder.build().map_err(|error| unreadable(error.to_string()))?;
    Ok(Some(verifier))
}

fn revocation_lists(
    settings: &Settings,
    directory: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, Report> {
    let mut lists = Vec::new();
    if !settings.ssl_crl_file.is_empty() {
        lists.extend(revocation_list(&directory.join(&settings.ssl_crl_file))?);
    }
    if !settings.ssl_crl_dir.is_empty() {
        let crl_dir = directory.join(&settings.ssl_crl_dir);
        let entries = fs::read_dir(&crl_dir).map_err(|error| {
            wrong(format!(
                "could not load SSL certificate revocation list directory \"{}\": {}",
                crl_dir.display(),
                strerror(&error)
            ))
        })?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files.into_iter().filter(|file| file.is_file()) {
            lists.extend(revocation_list(&file)?);
        }
    }
    Ok(lists)
}

/// The lists of a file. OpenSSL takes those of version 1, too.
fn revocation_list(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, Report> {
    let unreadable = |reason: String| {
        wrong(format!(
            "could not load SSL certificate revocation list file \"{}\": {reason}",
            file.display()
        ))
    };
    let lists: Vec<CertificateRevocationListDer<'static>> = pem_file(file).map_err(unreadable)?;
    if lists.is_empty() {
        return Err(unreadable("no list found".to_owned()));
    }
    for list in &lists {
        webpki::OwnedCertRevocationList::from_der(list).map_err(|error| {
            unreadable(format!("{error:?}")).hint(
                "It must be of version 2, with a number: openssl's crl_extensions and crlnumber.",
            )
        })?;
    }
    Ok(lists)
}

#[cfg(test)]
pub(in crate::net) mod tests;
