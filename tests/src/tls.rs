//! Certificates for a server that speaks TLS.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use crate::process::run_ok;
use crate::scratch::{Scratch, give_to_postgres};

/// A certificate authority, and a server certificate that it signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificates {
    /// The authority's certificate, for `sslrootcert`.
    pub root: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// Its key, which only PostgreSQL's user may read.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes both with openssl; the server's is for the address `host`.
    ///
    /// # Panics
    /// When openssl fails.
    #[must_use]
    pub fn new(scratch: &Scratch, name: &str, host: Ipv4Addr) -> Self {
        let path = |kind: &str| scratch.path(&format!("{name}.{kind}"));
        let (root, root_key) = (path("root.crt"), path("root.key"));
        let (certificate, key, request) = (path("crt"), path("key"), path("csr"));
        let extensions = path("ext");
        fs::write(
            &extensions,
            format!("basicConstraints = CA:FALSE\nsubjectAltName = IP:{host}\n"),
        )
        .expect("a file");
        let new_key = ["req", "-new", "-newkey", "rsa:2048", "-nodes", "-sha256"];
        run_ok(
            Command::new("openssl")
                .args(new_key)
                .args(["-x509", "-days", "2", "-subj", "/CN=walhub test authority"])
                .args(["-addext", "keyUsage = critical, keyCertSign, cRLSign", "-keyout"])
                .arg(&root_key)
                .arg("-out")
                .arg(&root),
        );
        run_ok(
            Command::new("openssl")
                .args(new_key)
                .args(["-subj", "/CN=primary", "-keyout"])
                .arg(&key)
                .arg("-out")
                .arg(&request),
        );
        run_ok(
            Command::new("openssl")
                .args(["x509", "-req", "-sha256", "-days", "2", "-CAcreateserial", "-in"])
                .arg(&request)
                .arg("-CA")
                .arg(&root)
                .arg("-CAkey")
                .arg(&root_key)
                .arg("-extfile")
                .arg(&extensions)
                .arg("-out")
                .arg(&certificate),
        );
        give_to_postgres(&key);
        give_to_postgres(&certificate);
        Self { root, certificate, key }
    }

    /// Lines of postgresql.conf that use them.
    #[must_use]
    pub fn config(&self) -> String {
        format!(
            "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'",
            self.certificate.display(),
            self.key.display()
        )
    }
}
