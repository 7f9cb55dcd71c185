//! TLS to the upstream: files, handshake, what the channel is bound to.
//!
//! PostgreSQL: `initialize_SSL` (src/interfaces/libpq/fe-secure-openssl.c).

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::{ResolvesClientCert, UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, OtherError, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use walhub_proto::conninfo::{SslCertMode, SslMode, SslNegotiation, SslOptions, TlsVersion};

use super::error::Cause;
use super::stream::{ClientRecords, TlsStream};
use super::verify::{Chain, NameMismatch, Verifier};
use crate::net::tls::certificate::Certificate;
use crate::net::tls::pem_file;
use crate::strerror::strerror;

/// How the messages of a connection travel.
pub(super) enum Channel {
    /// In the clear.
    Plain,
    /// Encrypted by TLS.
    Tls {
        /// `tls-server-end-point` of the server's certificate, when it has one.
        end_point: Option<Vec<u8>>,
        /// Whether the server asked for a certificate.
        certificate_requested: bool,
        /// Whether it got one.
        certificate_sent: bool,
    },
}

/// The client's certificate, and whether the server asked for it.
#[derive(Debug)]
struct ClientCertificate {
    key: Option<Arc<CertifiedKey>>,
    requested: AtomicBool,
}

impl ResolvesClientCert for ClientCertificate {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.requested.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}

fn refuse(text: String) -> Cause {
    Cause::Tls(text)
}

/// Runs the handshake. `address` stands for the host where that has no name.
pub(super) async fn handshake(
    stream: TcpStream,
    ssl: &SslOptions,
    host: &str,
    address: std::net::IpAddr,
) -> Result<(TlsStream, Channel), Cause> {
    if ssl.mode == SslMode::VerifyFull && host.is_empty() {
        return Err(refuse("host name must be specified for a verified SSL connection".into()));
    }
    let provider = Arc::new(crate::net::tls::provider());
    let certificate = Arc::new(ClientCertificate {
        key: client_certificate(ssl, &provider)?,
        requested: AtomicBool::new(false),
    });
    let verifier = verifier(ssl, host, &provider)?;
    let mut versions = Vec::new();
    for (version, supported) in
        [(TlsVersion::V12, &rustls::version::TLS12), (TlsVersion::V13, &rustls::version::TLS13)]
    {
        if ssl.min_version.is_none_or(|min| min <= version)
            && ssl.max_version.is_none_or(|max| max >= version)
        {
            versions.push(supported);
        }
    }
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| refuse(format!("could not create SSL context: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::<ClientCertificate>::clone(&certificate));
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    config.enable_sni = ssl.sni;
    let name = ServerName::try_from(host.to_string()).unwrap_or_else(|_| address.into());
    let connection = UnbufferedClientConnection::new(Arc::new(config), name)
        .map_err(|error| refuse(format!("could not create SSL context: {error}")))?;
    let (mut has_alpn, mut end_point) = (false, None);
    let agreed = |records: &ClientRecords| {
        let state = records.state();
        has_alpn = state.alpn_protocol().is_some();
        let der = state.peer_certificates().and_then(<[_]>::first);
        end_point = der.and_then(|der| Certificate::parse(der)?.end_point(der));
    };
    let stream = TlsStream::connect(stream, connection, agreed).await.map_err(handshake_error)?;
    if ssl.negotiation == SslNegotiation::Direct && !has_alpn {
        return Err(refuse(
            "direct SSL connection was established without ALPN protocol negotiation extension"
                .into(),
        ));
    }
    let requested = certificate.requested.load(Ordering::Relaxed);
    let channel = Channel::Tls {
        end_point,
        certificate_requested: requested,
        certificate_sent: requested && certificate.key.is_some(),
    };
    Ok((stream, channel))
}

/// What an I/O error of a TLS stream means.
pub(super) fn handshake_error(error: io::Error) -> Cause {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(reason)))) => {
            match reason.downcast_ref::<NameMismatch>() {
                Some(mismatch) => refuse(mismatch.to_string()),
                None => refuse(format!("SSL error: certificate verify failed: {reason}")),
            }
        }
        Some(rustls::Error::InvalidCertificate(reason)) => {
            refuse(format!("SSL error: certificate verify failed: {reason}"))
        }
        Some(error) => refuse(format!("SSL error: {error}")),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            refuse("SSL connection has been closed unexpectedly".into())
        }
        None => refuse(format!("SSL SYSCALL error: {}", strerror(&error))),
    }
}

/// A file given, or its default in `~/.postgresql`.
fn file_or_default(ssl: &SslOptions, given: Option<&String>, default: &str) -> Option<PathBuf> {
    let default = || ssl.default_directory.as_ref().map(|home| Path::new(home).join(default));
    given.map(PathBuf::from).or_else(default)
}

fn verifier(
    ssl: &SslOptions,
    host: &str,
    provider: &Arc<CryptoProvider>,
) -> Result<Verifier, Cause> {
    let host = (ssl.mode == SslMode::VerifyFull).then(|| host.to_string());
    let chain = chain(ssl, provider)?;
    Ok(Verifier { chain, host, algorithms: provider.signature_verification_algorithms })
}

fn chain(ssl: &SslOptions, provider: &Arc<CryptoProvider>) -> Result<Option<Chain>, Cause> {
    let (roots, crls) = if ssl.rootcert.as_deref() == Some("system") {
        let system = rustls_native_certs::load_native_certs();
        if system.certs.is_empty() {
            return Err(refuse("could not load system root certificate paths".into()));
        }
        (system.certs, Vec::new())
    } else {
        let file = file_or_default(ssl, ssl.rootcert.as_ref(), "root.crt");
        let Some(file) = file.filter(|file| file.exists()) else {
            return missing_root(ssl).map(|()| None);
        };
        let unreadable = |reason: String| {
            refuse(format!("could not read root certificate file \"{}\": {reason}", file.display()))
        };
        let roots: Vec<_> = pem_file(&file).map_err(unreadable)?;
        if roots.is_empty() {
            return Err(unreadable("no certificate found".into()));
        }
        (roots, revocation_lists(ssl)?)
    };
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    let direct = if crls.is_empty() { roots } else { Vec::new() };
    let mut builder =
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
    if !crls.is_empty() {
        builder = builder.with_crls(crls).enforce_revocation_expiration();
    }
    let webpki = builder
        .build()
        .map_err(|error| refuse(format!("could not use root certificates: {error}")))?;
    Ok(Some(Chain { webpki, roots: direct }))
}

/// Without authorities nothing can be verified, which is an error only where it was asked for.
fn missing_root(ssl: &SslOptions) -> Result<(), Cause> {
    if ssl.mode < SslMode::VerifyCa {
        return Ok(());
    }
    let advice = "Either provide the file, use the system's trusted roots with \
                  sslrootcert=system, or change sslmode to disable server certificate verification.";
    Err(refuse(match file_or_default(ssl, ssl.rootcert.as_ref(), "root.crt") {
        Some(file) => {
            format!("root certificate file \"{}\" does not exist\n{advice}", file.display())
        }
        None => format!("could not get home directory to locate root certificate file\n{advice}"),
    }))
}

fn revocation_lists(ssl: &SslOptions) -> Result<Vec<CertificateRevocationListDer<'static>>, Cause> {
    let mut files = Vec::new();
    // The default is looked for only when nothing is given.
    match (&ssl.crl, &ssl.crldir) {
        (None, None) => files.extend(file_or_default(ssl, None, "root.crl")),
        (crl, _) => files.extend(crl.as_ref().map(PathBuf::from)),
    }
    if let Some(directory) = &ssl.crldir {
        let entries = fs::read_dir(directory).map_err(|error| {
            let reason = strerror(&error);
            refuse(format!("could not read revocation list directory \"{directory}\": {reason}"))
        })?;
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    let mut lists = Vec::new();
    // libpq, too, passes over a list that does not exist.
    for file in files.into_iter().filter(|file| file.is_file()) {
        lists.extend(pem_file(&file).map_err(|reason| {
            refuse(format!("could not read revocation list \"{}\": {reason}", file.display()))
        })?);
    }
    Ok(lists)
}

fn client_certificate(
    ssl: &SslOptions,
    provider: &CryptoProvider,
) -> Result<Option<Arc<CertifiedKey>>, Cause> {
    if ssl.certmode == SslCertMode::Disable {
        return Ok(None);
    }
    let file = file_or_default(ssl, ssl.cert.as_ref(), "postgresql.crt");
    // A certificate that does not exist is not sent; whether it was needed is the server's to say.
    let Some(file) = file.filter(|file| file.exists()) else { return Ok(None) };
    let unreadable = |reason: String| {
        refuse(format!("could not read certificate file \"{}\": {reason}", file.display()))
    };
    let chain: Vec<CertificateDer<'static>> = pem_file(&file).map_err(unreadable)?;
    let Some(certificate) = chain.first() else {
        return Err(unreadable("no certificate found".into()));
    };
    let key_file = file_or_default(ssl, ssl.key.as_ref(), "postgresql.key");
    let key_file =
        key_file.ok_or_else(|| refuse("certificate present, but not private key file".into()))?;
    check_key_file(&key_file)?;
    let shown = key_file.display();
    let unusable =
        |reason: String| refuse(format!("could not load private key file \"{shown}\": {reason}"));
    let pem = fs::read(&key_file).map_err(|error| unusable(strerror(&error)))?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let encrypted = pem.windows(9).any(|window| window == b"ENCRYPTED");
        unusable(if encrypted {
            "it is encrypted, which is not supported".into()
        } else {
            error.to_string()
        })
    })?;
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|error| unusable(error.to_string()))?;
    // rustls checks this too, but not for a certificate of version 1.
    let wanted =
        Certificate::parse(certificate).ok_or_else(|| unreadable("bad encoding".into()))?;
    if key.public_key().is_some_and(|key| key.as_ref() != wanted.public_key_info) {
        return Err(refuse(format!(
            "certificate does not match private key file \"{shown}\": key values mismatch"
        )));
    }
    Ok(Some(Arc::new(CertifiedKey::new(chain, key))))
}

fn check_key_file(file: &Path) -> Result<(), Cause> {
    let shown = file.display();
    let metadata = fs::metadata(file).map_err(|error| {
        refuse(if error.kind() == io::ErrorKind::NotFound {
            format!("certificate present, but not private key file \"{shown}\"")
        } else {
            format!("could not stat private key file \"{shown}\": {}", strerror(&error))
        })
    })?;
    if !metadata.is_file() {
        return Err(refuse(format!("private key file \"{shown}\" is not a regular file")));
    }
    // The system's administrator may share a key with a group; anybody else may not.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.permissions().mode() & forbidden != 0 {
        return Err(refuse(format!(
            "private key file \"{shown}\" has group or world access; file must have permissions \
             u=rw (0600) or less if owned by the current user, or permissions u=rw,g=r (0640) or \
             less if owned by root"
        )));
    }
    Ok(())
}
