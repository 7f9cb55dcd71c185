//! What is said to whom when somebody is not let in.
//!
//! PostgreSQL: `auth_failed`, `ClientAuthentication` (src/backend/libpq/auth.c).

use walhub_proto::hba::{Method, Rule, Transport};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;
use walhub_proto::wire::startup::ReplicationMode;

use super::{Applicant, host};

/// What the client is told, and what the log is told besides.
#[derive(Debug)]
pub(in crate::net) struct Refusal {
    pub(in crate::net) report: Report,
    /// For the log alone.
    pub(in crate::net) log_detail: Option<String>,
    /// Whether it has tried to show who it is, and failed: then `auth_delay` holds it up.
    pub(in crate::net) has_failed: bool,
}

/// A client that breaks a rule is told which.
impl From<Report> for Refusal {
    fn from(report: Report) -> Self {
        Self { report, log_detail: None, has_failed: false }
    }
}

impl Refusal {
    /// It has not shown that it is who it says. What is wrong, the client is not told. PostgreSQL: `auth_failed`.
    pub(super) fn failed(rule: &Rule, user: &str, detail: Option<String>) -> Self {
        let message = match rule.method {
            Method::Trust => format!("\"trust\" authentication failed for user \"{user}\""),
            Method::Reject => format!("authentication failed for user \"{user}\": host rejected"),
            Method::Password | Method::Md5 | Method::ScramSha256 => {
                format!("password authentication failed for user \"{user}\"")
            }
            Method::Cert => format!("certificate authentication failed for user \"{user}\""),
            Method::Peer => format!("Peer authentication failed for user \"{user}\""),
        };
        let sqlstate = match rule.method {
            // libpq says of it when the password was that of its file.
            Method::Password | Method::Md5 | Method::ScramSha256 => SqlState::INVALID_PASSWORD,
            Method::Trust | Method::Reject | Method::Cert | Method::Peer => {
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION
            }
        };
        let Rule { file, line, raw, .. } = rule;
        let matched = format!("Connection matched file \"{file}\" line {line}: \"{raw}\"");
        let log_detail = match detail {
            Some(detail) => format!("{detail}\n{matched}"),
            None => matched,
        };
        let report = Report::fatal(sqlstate, message);
        Self { report, log_detail: Some(log_detail), has_failed: true }
    }

    /// A rule says that it may not. PostgreSQL: case `uaReject`.
    pub(super) fn rejected(applicant: &Applicant, transport: Transport) -> Self {
        let (host, user) = (host(applicant.peer), &applicant.user);
        let encryption = encryption(transport);
        let message = match applicant.mode {
            ReplicationMode::Physical => format!(
                "pg_hba.conf rejects replication connection for host \"{host}\", \
                 user \"{user}\", {encryption}"
            ),
            ReplicationMode::Off | ReplicationMode::Database => format!(
                "pg_hba.conf rejects connection for host \"{host}\", user \"{user}\", \
                 database \"{}\", {encryption}",
                applicant.database
            ),
        };
        Report::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message).into()
    }

    /// No rule is for it; what is known of its host's name goes to the log. PostgreSQL: case `uaImplicitReject`.
    pub(super) fn no_entry(
        applicant: &Applicant,
        transport: Transport,
        log_detail: Option<String>,
    ) -> Self {
        let (host, user) = (host(applicant.peer), &applicant.user);
        let encryption = encryption(transport);
        let message = match applicant.mode {
            ReplicationMode::Physical => format!(
                "no pg_hba.conf entry for replication connection from host \"{host}\", \
                 user \"{user}\", {encryption}"
            ),
            ReplicationMode::Off | ReplicationMode::Database => format!(
                "no pg_hba.conf entry for host \"{host}\", user \"{user}\", \
                 database \"{}\", {encryption}",
                applicant.database
            ),
        };
        let report = Report::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message);
        Self { log_detail, ..report.into() }
    }

    /// As it is logged.
    pub(in crate::net) fn for_log(&self) -> Report {
        let report = self.report.clone();
        match &self.log_detail {
            Some(detail) => report.detail(detail.clone()),
            None => report,
        }
    }
}

const fn encryption(transport: Transport) -> &'static str {
    match transport {
        Transport::Tls { .. } => "SSL encryption",
        Transport::Local | Transport::Plain => "no encryption",
    }
}
