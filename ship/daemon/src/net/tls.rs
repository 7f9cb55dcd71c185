//! TLS with clients: a stand-in until it is there.

/// What TLS tells about a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TlsFacts {
    pub(crate) client_dn: Option<String>,
    pub(crate) client_cn: Option<String>,
    pub(crate) client_serial: Option<String>,
    /// `tls-server-end-point` (RFC 5929) of our certificate; empty where that has none.
    pub(crate) server_end_point: Vec<u8>,
}

impl TlsFacts {
    pub(crate) const fn has_client_certificate(&self) -> bool {
        self.client_serial.is_some()
    }

    pub(crate) fn log_text(&self) -> String {
        String::new()
    }
}
