//! What is said to whom the rules do not let in, and what only the log says.
//!
//! PostgreSQL: `ClientAuthentication`, cases `uaReject` and `uaImplicitReject` (src/backend/libpq/auth.c).

use walhub_proto::hba::{Connection, HostName, Method, Transport};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use super::Verdict;

/// A client that is not let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Denied {
    /// What it hears.
    pub(crate) report: Box<Report>,
    /// What the log says besides. PostgreSQL: `errdetail_log`.
    pub(crate) log_detail: Option<String>,
}

/// The error for a connection that no rule is for, or that a rule rejects.
pub(crate) fn refusal(connection: &Connection<'_>, verdict: &Verdict) -> Option<Denied> {
    let is_rejected = match &verdict.rule {
        Some(rule) if rule.method == Method::Reject => true,
        Some(_) => return None,
        None => false,
    };
    let host = connection
        .address
        .map_or_else(|| "[local]".to_owned(), |address| address.to_canonical().to_string());
    let encryption = match connection.transport {
        Transport::Tls { .. } => "SSL encryption",
        Transport::Local | Transport::Plain => "no encryption",
    };
    let Connection { user, database, replication, .. } = connection;
    let who = if *replication {
        format!("host \"{host}\", user \"{user}\", {encryption}")
    } else {
        format!("host \"{host}\", user \"{user}\", database \"{database}\", {encryption}")
    };
    let message = match (is_rejected, replication) {
        (true, true) => format!("pg_hba.conf rejects replication connection for {who}"),
        (true, false) => format!("pg_hba.conf rejects connection for {who}"),
        (false, true) => format!("no pg_hba.conf entry for replication connection from {who}"),
        (false, false) => format!("no pg_hba.conf entry for {who}"),
    };
    let report = Report::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message).into();
    let is_known = !is_rejected && verdict.host != HostName::NotAsked;
    let log_detail = is_known.then(|| verdict.host.to_string());
    Some(Denied { report, log_detail })
}
