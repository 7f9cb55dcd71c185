//! Real PostgreSQL servers for the tests of this binary.
//!
//! One data directory is initialised and copied for each kind of server. Every server is the child
//! of a shell that waits for the end of its standard input, which this process holds: however the
//! process ends, the shell stops the server and removes its directory.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use walhub_peers::endpoint::Endpoint;
use walhub_peers::program;

/// Users of every server, with the role's password and the lines of pg_hba.conf.
const ROLES: &str = "\
create role trustuser replication login;\
create role nologin replication;\
create role noreplication login;\
create role plainonly replication login;\
create role tlsonly replication login;\
create role certuser replication login;\
set password_encryption = 'scram-sha-256';\
create role pwuser replication login password 'pw secret';\
create role scramuser replication login password 'scram secret';\
set password_encryption = md5;\
create role md5user replication login password 'md5 secret';";

const HBA: &str = "\
local replication trustuser trust\n\
local replication scramuser scram-sha-256\n\
host replication trustuser 127.0.0.1/32 trust\n\
host replication noreplication 127.0.0.1/32 trust\n\
host replication nologin 127.0.0.1/32 trust\n\
hostnossl replication plainonly 127.0.0.1/32 trust\n\
hostssl replication tlsonly 127.0.0.1/32 trust\n\
hostssl replication certuser 127.0.0.1/32 cert\n\
host replication pwuser 127.0.0.1/32 password\n\
host replication md5user 127.0.0.1/32 md5\n\
host replication scramuser 127.0.0.1/32 scram-sha-256\n\
host postgres scramuser 127.0.0.1/32 scram-sha-256\n\
host postgres trustuser 127.0.0.1/32 trust\n";

/// Certificates: an authority, a server's with alternative names, one made by the recipe in
/// PostgreSQL's manual (version 1, common name), one that is its own authority, and a client's.
const CERTIFICATES: &str = r#"
set -e
new="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
issue() { openssl x509 -req -sha384 -in $1.csr -days 30 -CA root.crt -CAkey root.key -CAcreateserial -out $1.crt $2 $3; }
openssl req -x509 $new -days 30 -subj /CN=authority -keyout root.key -out root.crt
openssl req -x509 $new -days 30 -subj /CN=stranger -keyout other.key -out other.crt
openssl req $new -subj /CN=db.example -keyout names.key -out names.csr
printf 'subjectAltName=DNS:db.example,DNS:*.wild.example,IP:127.0.0.1\n' > names.ext
issue names -extfile names.ext
openssl req $new -subj /CN=db.example -keyout manual.key -out manual.csr
issue manual
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=db.example -keyout itself.key -out itself.crt
openssl req $new -subj /CN=certuser -keyout client.key -out client.csr
issue client
touch index.txt
echo 01 > crlnumber
printf '[ca]\ndefault_ca=c\n[c]\ndatabase=index.txt\ncrlnumber=crlnumber\ndefault_md=sha256\ndefault_crl_days=30\n' > ca.cnf
openssl ca -config ca.cnf -gencrl -keyfile root.key -cert root.crt -out empty.crl
openssl ca -config ca.cnf -revoke names.crt -keyfile root.key -cert root.crt
openssl ca -config ca.cnf -gencrl -keyfile root.key -cert root.crt -out revoked.crl
"#;

pub(crate) struct Cluster {
    pub(crate) port: u16,
    pub(crate) directory: PathBuf,
    _stop_when_closed: ChildStdin,
}

pub(crate) fn bindir() -> &'static Path {
    program::bindir(&["initdb", "postgres"])
        .expect("PostgreSQL is needed: apt-get install postgresql")
}

/// A shell script run as user postgres, because a server does not run as root.
fn shell(script: &str) -> Command {
    let root = fs::metadata("/proc/self").expect("/proc").uid() == 0;
    let mut command = if root {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--", "sh"]);
        command
    } else {
        Command::new("sh")
    };
    command.current_dir("/tmp").args(["-c", script]);
    command
}

fn run(script: &str) -> String {
    let output = shell(script).output().expect("a shell");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{text}");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_string()
}

pub(crate) fn free_port() -> u16 {
    Endpoint::free(Ipv4Addr::LOCALHOST).expect("a free port").port
}

/// The initialised directory, with roles and certificates; removed when the process ends.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<(PathBuf, ChildStdin)> = OnceLock::new();
    let (path, _) = TEMPLATE.get_or_init(|| {
        let bin = bindir();
        let bin = bin.display();
        let path = PathBuf::from(run("mktemp -d /tmp/walhub-connect.XXXXXX"));
        let dir = path.display();
        let guard = hold(&format!("cat > /dev/null; rm -rf {dir}"));
        run(&format!(
            "set -e; cd {dir}; mkdir tls; \
             {bin}/initdb -D data -U postgres --auth=trust -N >&2; \
             {bin}/postgres --single -D data postgres >&2 <<'SQL'\n{}\nSQL\n\
             cat > data/pg_hba.conf <<'HBA'\nlocal all postgres trust\n{HBA}HBA\n\
             cd tls; {{ {CERTIFICATES} }} >&2",
            ROLES.replace(';', ";\n")
        ));
        (path, guard)
    });
    path
}

fn hold(script: &str) -> ChildStdin {
    let child = shell(script).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    child.expect("a shell").stdin.take().expect("piped")
}

/// Directory of the certificates.
pub(crate) fn tls() -> PathBuf {
    template().join("tls")
}

impl Cluster {
    /// Starts a server with the certificate `certificate`, or without TLS; ready when it returns.
    fn start(certificate: Option<&str>, standby: bool) -> Self {
        let source = template().join("data");
        let directory = PathBuf::from(run("mktemp -d /tmp/walhub-connect.XXXXXX"));
        let (dir, port, tls) = (directory.display(), free_port(), tls());
        let tls = tls.display();
        let mut settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{dir}'\n\
             fsync = off\nmax_wal_senders = 50\nlogging_collector = off\n"
        );
        if let Some(name) = certificate {
            settings.push_str(&format!(
                "ssl = on\nssl_cert_file = '{tls}/{name}.crt'\nssl_key_file = '{tls}/{name}.key'\n\
                 ssl_ca_file = '{tls}/root.crt'\n"
            ));
        }
        let signal = if standby { "touch data/standby.signal;" } else { "" };
        run(&format!(
            "set -e; cd {dir}; cp -a {} data; {signal} cat >> data/postgresql.conf <<'CONF'\n{settings}CONF",
            source.display()
        ));
        // The server's messages tell when it is ready; the shell passes them on.
        let bin = bindir();
        let script = format!(
            "cd {dir}; {}/postgres -D data < /dev/null & server=$!; cat > /dev/null; \
             kill -INT $server; wait $server; cd /tmp; rm -rf {dir}",
            bin.display()
        );
        let mut child = shell(&script)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        let stdin = child.stdin.take().expect("piped");
        let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
        let ready = log.find(|line| {
            let line = line.as_ref().expect("a line of the log");
            assert!(!line.contains("FATAL"), "{line}");
            line.contains("database system is ready to accept")
        });
        assert!(ready.is_some(), "the server ended before it was ready");
        // Somebody must go on reading, or the server would stop at a full pipe.
        std::thread::spawn(move || {
            log.for_each(drop);
            child.wait()
        });
        Self { port, directory, _stop_when_closed: stdin }
    }
}

macro_rules! servers {
    ($($(#[$doc:meta])* $name:ident = ($certificate:expr, $standby:expr);)*) => {$(
        $(#[$doc])*
        pub(crate) fn $name() -> &'static Cluster {
            static CLUSTER: OnceLock<Cluster> = OnceLock::new();
            CLUSTER.get_or_init(|| Cluster::start($certificate, $standby))
        }
    )*};
}

servers! {
    /// A primary whose certificate has alternative names.
    primary = (Some("names"), false);
    /// A primary whose certificate follows the manual.
    manual = (Some("manual"), false);
    /// A primary whose certificate is its own authority.
    itself = (Some("itself"), false);
    /// A primary without TLS.
    plain = (None, false);
    /// A hot standby.
    standby = (None, true);
}
