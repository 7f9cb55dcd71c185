//! How who comes shows who it is.
//!
//! The first rule of pg_hba.conf that is for the connection says how. Whether the role exists, and may log in at all, is
//! looked at only after that, and a role that does not exist takes the same course as a wrong password, to the same
//! words. The reason, and which rule it was, is in the log alone.
//!
//! Secrets and passwords are overwritten after their use. What a client may send, and what of it is kept meanwhile, is
//! bounded by [`BYTES_MAX`].
//!
//! | file | what it is for |
//! |---|---|
//! | `directory` | who there is |
//! | `refused` | what is said to whom |
//! | `response` | a client's answer, read |
//! | `password`, `sasl`, `peer`, `certificate` | the methods |
//!
//! Not here: which rule it is (`access`), what is allowed after it (`session::admit`), the exchange of SCRAM and what a
//! secret is (`walhub_proto`).
//!
//! PostgreSQL: `ClientAuthentication` (src/backend/libpq/auth.c).

mod certificate;
mod directory;
mod password;
mod peer;
mod refused;
mod response;
mod sasl;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use tokio::sync::watch;
use walhub_proto::hba::{self, Method, Rule, Transport};
use walhub_proto::password::{MOCK_NONCE_LEN, SCRAM_ITERATIONS_DEFAULT, ScramSecret};
use walhub_proto::roles::Role;
use walhub_proto::wire::startup::ReplicationMode;

pub(crate) use self::directory::Directory;
#[cfg(test)]
pub(crate) use self::directory::Everybody;
pub(super) use self::refused::Refusal;
use super::access::{Access, refusal};
use super::session::{Services, host_and_port};
use super::stream::Connection;
use super::tls::Acceptor;
use super::unadmitted::Silent;

/// What one connection may hold of what its client has sent before it is let in: its startup packet, and its answer.
pub(super) const BYTES_MAX: usize = 16 << 10;

/// What is asked when somebody wants to come in.
pub(crate) struct Guard {
    /// The rules.
    pub(crate) access: Arc<Access>,
    /// The roles.
    pub(crate) directory: Arc<dyn Directory>,
    /// What salts of roles are made of that have no secret.
    pub(crate) mock_nonce: [u8; MOCK_NONCE_LEN],
    /// What connections over TLS are accepted with; `None` while `ssl` is off.
    pub(crate) tls: watch::Receiver<Option<Arc<Acceptor>>>,
}

impl Guard {
    /// What a role answers with that has no secret of that kind.
    fn mock(&self, user: &str, iterations: u32) -> ScramSecret {
        // As many iterations as secrets have that are made here now. PostgreSQL has the default.
        let iterations = NonZeroU32::new(iterations).unwrap_or(SCRAM_ITERATIONS_DEFAULT);
        ScramSecret::mock(&self.mock_nonce, user, iterations)
    }
}

/// Who wants to come in, as the startup packet says.
pub(super) struct Applicant {
    pub(super) user: String,
    /// Empty for a physical walsender.
    pub(super) database: String,
    pub(super) mode: ReplicationMode,
    /// None over a Unix socket.
    pub(super) peer: Option<SocketAddr>,
    /// Bytes of its startup packet, which is kept.
    pub(super) packet_bytes: usize,
}

/// Who was let in, and how.
#[derive(Clone, Debug)]
pub(crate) struct Authenticated {
    method: Method,
    /// Who it really is, unless that was not asked. PostgreSQL: `authn_id`.
    identity: Option<String>,
}

impl Authenticated {
    /// As PostgreSQL's SYSTEM_USER shows it. PostgreSQL: `InitializeSystemUser`.
    pub(crate) fn system_user(&self) -> Option<String> {
        let identity = self.identity.as_ref()?;
        Some(format!("{}:{identity}", self.method.as_str()))
    }
}

/// Why somebody is not let in.
#[derive(Debug)]
pub(super) enum NotAuthenticated {
    /// It has left, or there is nobody worth an answer.
    Left,
    /// The socket failed.
    Io(io::Error),
    /// It is told so.
    Refused(Box<Refusal>),
}

impl From<io::Error> for NotAuthenticated {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Refusal> for NotAuthenticated {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// One attempt, under the rule that is for it.
struct Attempt<'a> {
    connection: &'a mut Connection,
    services: &'a Services,
    applicant: &'a Applicant,
    silent: &'a Silent,
    rule: &'a Rule,
    /// Once it was asked for.
    role: Option<Option<Arc<Role>>>,
}

/// Has the client show who it is, and tells its role, if there is one.
///
/// Its answer to the last message is in the connection's buffer still.
pub(super) async fn authenticate(
    connection: &mut Connection,
    services: &Services,
    applicant: &Applicant,
    silent: &Silent,
) -> Result<(Authenticated, Option<Arc<Role>>), NotAuthenticated> {
    let guard = &services.guard;
    if guard.access.needs_members() {
        // What it is a member of may have to be learnt first.
        guard.directory.role(&applicant.user).await;
    }
    let members = guard.directory.membership();
    let tls = connection.tls.clone();
    let transport = match (&tls, applicant.peer) {
        (Some(tls), _) => Transport::Tls { client_certificate: tls.client_serial.is_some() },
        (None, Some(_)) => Transport::Plain,
        (None, None) => Transport::Local,
    };
    let asked = hba::Connection {
        transport,
        address: applicant.peer.map(|peer| peer.ip().to_canonical()),
        user: &applicant.user,
        database: &applicant.database,
        replication: applicant.mode == ReplicationMode::Physical,
    };
    let verdict = guard.access.verdict(asked, &*members).await;
    if let Some(denied) = refusal(&asked, &verdict) {
        return Err(Refusal::from(denied).into());
    }
    let rule = verdict.rule.as_deref().expect("it would be a refusal");
    certificate::check_presence(rule, tls.as_deref())?;
    let mut attempt = Attempt { connection, services, applicant, silent, rule, role: None };
    let mut identity = match rule.method {
        // The certificate is looked at below.
        Method::Trust | Method::Cert => None,
        Method::Password => Some(password::in_clear(&mut attempt).await?),
        Method::Md5 | Method::ScramSha256 => Some(password::by_challenge(&mut attempt).await?),
        Method::Peer => Some(peer::identify(&attempt).await?),
        Method::Reject => unreachable!("it is a refusal"),
    };
    if let Some(name) = &identity {
        attempt.log_identity(name);
    }
    if rule.method == Method::Peer {
        attempt.check_map(identity.as_deref().unwrap_or_default(), &*members)?;
    }
    if let Some(subject) = certificate::check(&attempt, tls.as_deref(), &*members)? {
        identity = Some(subject);
    }
    if identity.is_none() && services.settings().log_connections {
        let (user, method) = (&applicant.user, rule.method.as_str());
        let (file, line) = (&rule.file, rule.line);
        tracing::info!("connection authenticated: user=\"{user}\" method={method} ({file}:{line})");
    }
    let role = attempt.role().await;
    Ok((Authenticated { method: rule.method, identity }, role))
}

impl Attempt<'_> {
    /// The role that is asked for; one that there is not takes as long.
    async fn role(&mut self) -> Option<Arc<Role>> {
        if self.role.is_none() {
            self.role = Some(self.services.guard.directory.role(&self.applicant.user).await);
        }
        self.role.clone().flatten()
    }

    /// PostgreSQL: `set_authn_id`.
    fn log_identity(&self, identity: &str) {
        if self.services.settings().log_connections {
            let (method, file, line) = (self.rule.method.as_str(), &self.rule.file, self.rule.line);
            tracing::info!(
                "connection authenticated: identity=\"{identity}\" method={method} ({file}:{line})"
            );
        }
    }

    /// Whether who it really is may be that role. PostgreSQL: `check_usermap`.
    fn check_map(&self, name: &str, members: &dyn hba::Membership) -> Result<(), Refusal> {
        let maps = self.services.guard.access.maps();
        let map = self.rule.map.as_deref();
        maps.check(map, name, &self.applicant.user, members).map_err(|refusal| {
            tracing::info!("{refusal}");
            self.failed(None)
        })
    }

    /// What the role answers with when it has no secret of that kind.
    fn mock(&self) -> ScramSecret {
        let iterations = self.services.settings().scram_iterations;
        self.services.guard.mock(&self.applicant.user, iterations)
    }

    fn failed(&self, detail: Option<String>) -> Refusal {
        Refusal::failed(self.rule, &self.applicant.user, detail)
    }
}

/// The connection that was let in, with who it is; for the log.
pub(super) fn log_timeout(applicant: &Applicant) {
    tracing::error!(
        severity = "FATAL",
        sqlstate = "57014",
        detail = format!("It is of {}.", host_and_port(applicant.peer)),
        "canceling authentication due to timeout"
    );
}
