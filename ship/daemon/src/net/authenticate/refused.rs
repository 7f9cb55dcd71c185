//! What is said to whom who has not shown who it is.
//!
//! Not here: that no rule is for somebody, or one rejects it (`access`).
//!
//! PostgreSQL: `auth_failed` (src/backend/libpq/auth.c).

use walhub_proto::hba::{Method, Rule};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use crate::net::access::Denied;

/// What the client is told, and what the log is told besides.
#[derive(Debug)]
pub(in crate::net) struct Refusal {
    pub(in crate::net) report: Box<Report>,
    /// For the log alone.
    pub(in crate::net) log_detail: Option<String>,
    /// Whether it has tried to show who it is, and failed: then `auth_delay` holds it up.
    pub(in crate::net) has_failed: bool,
}

/// A client that breaks a rule is told which.
impl From<Report> for Refusal {
    fn from(report: Report) -> Self {
        Self { report: Box::new(report), log_detail: None, has_failed: false }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        let Denied { report, log_detail } = denied;
        Self { report, log_detail, has_failed: false }
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
        let report = Box::new(Report::fatal(sqlstate, message));
        Self { report, log_detail: Some(log_detail), has_failed: true }
    }

    /// As it is logged.
    pub(in crate::net) fn for_log(&self) -> Report {
        let report = (*self.report).clone();
        match &self.log_detail {
            Some(detail) => report.detail(detail.clone()),
            None => report,
        }
    }
}
