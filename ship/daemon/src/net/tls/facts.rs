//! What is known of a connection once its handshake is done: for authentication, for `pg_stat_ssl`, for the log.
//!
//! PostgreSQL: `be_tls_open_server`, `PgBackendSSLStatus`.

use rustls::CommonState;

use super::certificate::Certificate;
use super::{ciphers, names};

/// What TLS tells about a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TlsFacts {
    /// As `TLSv1.3`.
    pub(crate) version: &'static str,
    /// OpenSSL's name of the cipher.
    pub(crate) cipher: &'static str,
    /// Bits of its key.
    pub(crate) bits: i32,
    /// Subject of the client's certificate, as RFC 2253 writes it: what `clientname=DN` compares. The certificate has
    /// been verified against `ssl_ca_file`; without that, none is asked for.
    pub(crate) client_dn: Option<String>,
    /// Its common name.
    pub(crate) client_cn: Option<String>,
    /// Its subject, as `pg_stat_ssl` shows it.
    pub(crate) client_subject: Option<String>,
    /// Its serial number, in decimal digits.
    pub(crate) client_serial: Option<String>,
    /// Its issuer, as `pg_stat_ssl` shows it.
    pub(crate) issuer_dn: Option<String>,
    /// `tls-server-end-point` (RFC 5929) of our certificate; empty where that has none, and then there is no channel
    /// binding.
    pub(crate) server_end_point: Vec<u8>,
}

impl TlsFacts {
    /// After the handshake.
    ///
    /// # Errors
    /// What is wrong with the client's certificate, although it was verified.
    pub(super) fn of(state: &CommonState, server_end_point: Vec<u8>) -> Result<Self, &'static str> {
        let (cipher, bits) = state.negotiated_cipher_suite().map_or(("unknown", 0), ciphers::shown);
        let mut facts = Self {
            version: state.protocol_version().map_or("unknown", ciphers::version),
            cipher,
            bits,
            client_dn: None,
            client_cn: None,
            client_subject: None,
            client_serial: None,
            issuer_dn: None,
            server_end_point,
        };
        let Some(der) = state.peer_certificates().and_then(<[_]>::first) else { return Ok(facts) };
        let certificate = Certificate::parse(der).ok_or("could not read client certificate")?;
        facts.client_cn = names::common_name(certificate.subject);
        facts.client_dn = names::rfc2253(certificate.subject);
        if facts.client_cn.as_ref().is_some_and(|name| name.contains('\0')) {
            return Err("SSL certificate's common name contains embedded null");
        }
        if names::has_null(certificate.subject) {
            return Err("SSL certificate's distinguished name contains embedded null");
        }
        facts.client_subject = names::slashed(certificate.subject);
        facts.client_serial = Some(names::decimal(certificate.serial));
        facts.issuer_dn = names::slashed(certificate.issuer);
        Ok(facts)
    }

    /// What PostgreSQL's line of an authorized connection says of it.
    #[must_use]
    pub(crate) fn log_text(&self) -> String {
        let Self { version, cipher, bits, .. } = self;
        format!(" SSL enabled (protocol={version}, cipher={cipher}, bits={bits})")
    }
}
