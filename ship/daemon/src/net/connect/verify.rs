//! Whether the server's certificate is good enough for `sslmode`.
//!
//! PostgreSQL: `initialize_SSL`, `open_client_SSL` (fe-secure-openssl.c),
//! `pq_verify_peer_name_matches_certificate` (fe-secure-common.c).

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, PeerMisbehaved, SignatureScheme,
};

use crate::net::tls::certificate::Certificate;

/// Verifies as much as libpq would.
#[derive(Debug)]
pub(super) struct Verifier {
    /// The chain is checked when there are authorities to check it against.
    pub(super) chain: Option<Chain>,
    /// The host that the certificate must be for, with `verify-full`.
    pub(super) host: Option<String>,
    /// What signatures can be verified.
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// Checks a certificate against the authorities that are trusted.
#[derive(Debug)]
pub(super) struct Chain {
    /// Checks paths through intermediate authorities, and revocation.
    pub(super) webpki: Arc<WebPkiServerVerifier>,
    /// The same authorities, for certificates that webpki refuses to look at; empty where
    /// revocation has to be checked, which only webpki does.
    pub(super) roots: Vec<CertificateDer<'static>>,
}

/// A certificate for another host, in libpq's words.
#[derive(Debug)]
pub(super) struct NameMismatch {
    names: Vec<String>,
    host: String,
}

impl fmt::Display for NameMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        match self.names.as_slice() {
            [] => f.write_str("could not get server's host name from server certificate"),
            [name] => {
                write!(f, "server certificate for \"{name}\" does not match host name \"{host}\"")
            }
            [name, more @ ..] => {
                let names = if more.len() == 1 { "name" } else { "names" };
                write!(
                    f,
                    "server certificate for \"{name}\" (and {} other {names}) does not match host name \"{host}\"",
                    more.len()
                )
            }
        }
    }
}

impl std::error::Error for NameMismatch {}

fn bad_encoding() -> Error {
    Error::InvalidCertificate(CertificateError::BadEncoding)
}

impl Verifier {
    /// Whether `certificate` is one of the authorities, or signed by one of them.
    ///
    /// OpenSSL makes no difference between an authority's own certificate and another; webpki does
    /// not accept the first as a server's, and no certificate of version 1 at all.
    fn is_direct(&self, roots: &[CertificateDer<'_>], der: &[u8], now: UnixTime) -> bool {
        let Some(certificate) = Certificate::parse(der) else { return false };
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let valid = |(first, last): (i64, i64)| (first..=last).contains(&now);
        valid(certificate.validity)
            && roots.iter().any(|root| {
                if root.as_ref() == der {
                    return true;
                }
                Certificate::parse(root).is_some_and(|root| {
                    root.subject == certificate.issuer
                        && valid(root.validity)
                        && self.signed_by(&certificate, &root)
                })
            })
    }

    fn signed_by(&self, certificate: &Certificate<'_>, issuer: &Certificate<'_>) -> bool {
        self.algorithms.all.iter().any(|algorithm| {
            algorithm.signature_alg_id().as_ref() == certificate.signature_algorithm
                && algorithm.public_key_alg_id().as_ref() == issuer.key_algorithm
                && algorithm
                    .verify_signature(issuer.key, certificate.to_be_signed, certificate.signature)
                    .is_ok()
        })
    }

    fn verify_chain(
        &self,
        chain: &Chain,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let result =
            chain.webpki.verify_server_cert(end_entity, intermediates, server_name, &[], now);
        let Err(error) = result else { return Ok(()) };
        match &error {
            // The chain is checked before the name, and the name by libpq's rules below.
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => Ok(()),
            Error::InvalidCertificate(CertificateError::Other(OtherError(reason))) => {
                let direct = matches!(
                    reason.downcast_ref(),
                    Some(webpki::Error::UnsupportedCertVersion | webpki::Error::CaUsedAsEndEntity)
                );
                if direct && self.is_direct(&chain.roots, end_entity, now) {
                    Ok(())
                } else {
                    Err(error)
                }
            }
            _ => Err(error),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(chain) = &self.chain {
            self.verify_chain(chain, end_entity, intermediates, server_name, now)?;
        }
        if let Some(host) = &self.host {
            let certificate = Certificate::parse(end_entity).ok_or_else(bad_encoding)?;
            certificate.check_host(host).map_err(|names| {
                let mismatch = NameMismatch { names, host: host.clone() };
                Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(mismatch))))
            })?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = Certificate::parse(cert).ok_or_else(bad_encoding)?;
        let schemes = self.algorithms.mapping.iter().filter(|(scheme, _)| *scheme == dss.scheme);
        let mut algorithms = schemes.flat_map(|(_, algorithms)| algorithms.iter()).peekable();
        if algorithms.peek().is_none() {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        let valid = algorithms.any(|algorithm| {
            algorithm.public_key_alg_id().as_ref() == certificate.key_algorithm
                && algorithm.verify_signature(certificate.key, message, dss.signature()).is_ok()
        });
        if valid {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::BadSignature))
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = Certificate::parse(cert).ok_or_else(bad_encoding)?;
        let key = SubjectPublicKeyInfoDer::from(certificate.public_key_info);
        verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
