//! A certificate authority, made with openssl: chains, certificates that have expired, and revoked ones.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::process::run_ok;
use crate::scratch::Scratch;

/// Days in openssl's words.
const LONG_PAST: &str = "20200101000000Z";
const PAST: &str = "20200102000000Z";
const FUTURE: &str = "20480101000000Z";

/// A certificate and its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issued {
    /// The certificate, and behind it those that lead to the authority.
    pub certificate: PathBuf,
    /// The certificate alone.
    pub leaf: PathBuf,
    /// Its key, which only its owner may read.
    pub key: PathBuf,
}

/// A certificate authority with a directory of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authority {
    directory: PathBuf,
    /// Its certificate, for `sslrootcert` and `ssl_ca_file`.
    pub root: PathBuf,
    /// What goes behind the certificates that it signs.
    chain: String,
}

/// For how long a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Validity {
    /// Now.
    Valid,
    /// No longer.
    Expired,
}

impl Authority {
    /// Makes an authority that may be trusted.
    ///
    /// # Panics
    /// When openssl fails.
    #[must_use]
    pub fn new(scratch: &Scratch, name: &str) -> Self {
        let authority = Self::empty(scratch, name);
        let extensions = "keyUsage = critical, keyCertSign, cRLSign";
        let mut request = authority.request("authority", &format!("/CN={name}"));
        request.args(["-x509", "-days", "2", "-addext", extensions, "-out", "authority.crt"]);
        run_ok(&mut request);
        authority
    }

    fn empty(scratch: &Scratch, name: &str) -> Self {
        let directory = scratch.path(name);
        fs::create_dir_all(&directory).expect("a directory");
        let config = "[ca]\ndefault_ca = here\n[here]\ndatabase = index\nnew_certs_dir = .\n\
                      certificate = authority.crt\nprivate_key = authority.key\ndefault_md = sha256\n\
                      default_crl_days = 2\ncrlnumber = number\n\
                      crl_extensions = list\npolicy = any\nunique_subject = no\nrand_serial = yes\n\
                      preserve = yes\n[list]\nauthorityKeyIdentifier = keyid\n[any]\norganizationName = optional\ncommonName = supplied\n";
        for (file, text) in [("config", config), ("index", ""), ("number", "01\n")] {
            fs::write(directory.join(file), text).expect("a file");
        }
        let root = directory.join("authority.crt");
        Self { directory, root, chain: String::new() }
    }

    fn openssl(&self, command: &str) -> Command {
        let mut openssl = Command::new("openssl");
        openssl.arg(command).current_dir(&self.directory);
        openssl
    }

    fn request(&self, name: &str, subject: &str) -> Command {
        let mut request = self.openssl("req");
        request.args(["-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        request.args(["-nodes", "-sha256", "-subj", subject, "-keyout", &format!("{name}.key")]);
        request
    }

    /// Signs a certificate. `extensions` are openssl's, such as `subjectAltName = IP:127.0.0.1`.
    ///
    /// # Panics
    /// When openssl fails.
    #[must_use]
    pub fn issue(&self, name: &str, subject: &str, extensions: &str, validity: Validity) -> Issued {
        let file = |kind: &str| self.directory.join(format!("{name}.{kind}"));
        run_ok(self.request(name, subject).arg("-out").arg(file("csr")));
        fs::write(file("ext"), extensions).expect("a file");
        let end = if validity == Validity::Expired { PAST } else { FUTURE };
        let mut sign = self.openssl("ca");
        sign.args(["-batch", "-notext", "-config", "config", "-startdate", LONG_PAST]);
        sign.args(["-enddate", end, "-extfile"]).arg(file("ext"));
        run_ok(sign.arg("-in").arg(file("csr")).arg("-out").arg(file("crt")));
        let leaf = fs::read_to_string(file("crt")).expect("a certificate");
        fs::write(file("chain.crt"), leaf + &self.chain).expect("a file");
        Issued { certificate: file("chain.crt"), leaf: file("crt"), key: file("key") }
    }

    /// An authority that this one vouches for.
    ///
    /// # Panics
    /// When openssl fails.
    #[must_use]
    pub fn intermediate(&self, scratch: &Scratch, name: &str) -> Self {
        let below = Self::empty(scratch, name);
        let extensions =
            "basicConstraints = critical, CA:true\nkeyUsage = critical, keyCertSign, cRLSign\n";
        let issued = self.issue(name, &format!("/CN={name}"), extensions, Validity::Valid);
        let chain = fs::read_to_string(&issued.certificate).expect("a certificate");
        fs::write(&below.root, &chain).expect("a file");
        fs::copy(&issued.key, below.directory.join("authority.key")).expect("a file");
        Self { chain, ..below }
    }

    /// Takes a certificate back; the list that says so, for `ssl_crl_file`.
    ///
    /// # Panics
    /// When openssl fails.
    #[must_use]
    pub fn revoke(&self, issued: &Issued) -> PathBuf {
        let mut revoke = self.openssl("ca");
        run_ok(revoke.args(["-config", "config", "-revoke"]).arg(&issued.leaf));
        let list = self.directory.join("revoked.crl");
        let mut generate = self.openssl("ca");
        run_ok(generate.args(["-config", "config", "-gencrl", "-out"]).arg(&list));
        list
    }
}
