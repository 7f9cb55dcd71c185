//! Reports in the log.

use walhub_proto::wire::backend::{Report, Severity};

/// Logs a report at its own severity.
pub fn report(report: &Report) {
    let Report { severity, sqlstate, message, detail, hint, position: _, context: _ } = report;
    let (severity, sqlstate) = (severity.as_str(), sqlstate.0);
    let (detail, hint) = (detail.as_deref(), hint.as_deref());
    match report.severity {
        Severity::Error | Severity::Fatal | Severity::Panic => {
            tracing::error!(severity, sqlstate, detail, hint, "{message}");
        }
        Severity::Warning => tracing::warn!(severity, sqlstate, detail, hint, "{message}"),
        Severity::Notice => tracing::info!(severity, sqlstate, detail, hint, "{message}"),
    }
}

/// Logs a report as `LOG`: it concerns the operator, not the session that met it.
///
/// PostgreSQL: `ereport(LOG, ...)`.
pub fn report_as_log(report: &Report) {
    let Report { severity: _, sqlstate, message, detail, hint, position: _, context: _ } = report;
    let (detail, hint) = (detail.as_deref(), hint.as_deref());
    tracing::info!(sqlstate = sqlstate.0, detail, hint, "{message}");
}
