//! Writes a message as text or as JSON.
//!
//! PostgreSQL: `send_message_to_server_log` (src/backend/utils/error/elog.c), `write_jsonlog`
//! (src/backend/utils/error/jsonlog.c).

use serde::Serialize;

use super::fields::{Moment, backend_type, with_milliseconds, without_milliseconds};
use super::prefix;
use super::{Entry, LogConfig};

/// Lines of text, each with the prefix.
pub(super) fn text(config: &LogConfig, moment: &Moment, entry: &Entry) -> String {
    let mut text = String::new();
    let parts = [
        (entry.level.as_str(), Some(&entry.message)),
        ("DETAIL", entry.detail.as_ref()),
        ("HINT", entry.hint.as_ref()),
        ("CONTEXT", entry.context.as_ref()),
    ];
    for (label, part) in parts {
        let Some(part) = part else { continue };
        text.push_str(&prefix::expand(config, moment, entry));
        text.push_str(label);
        text.push_str(":  ");
        push_indented(&mut text, part);
        text.push('\n');
    }
    text
}

/// A new line inside a message is indented, so that it cannot be taken for a message of its own.
///
/// PostgreSQL: `append_with_tabs`.
fn push_indented(text: &mut String, part: &str) {
    for c in part.chars() {
        text.push(c);
        if c == '\n' {
            text.push('\t');
        }
    }
}

/// The fields of PostgreSQL's jsonlog that walhub has something for, in its order.
#[derive(Serialize)]
struct JsonLine<'a> {
    timestamp: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    dbname: &'a str,
    pid: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    remote_host: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_port: Option<u16>,
    session_id: String,
    line_num: u64,
    session_start: String,
    error_severity: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_code: Option<&'a str>,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    application_name: &'a str,
    backend_type: &'a str,
}

/// One JSON object and a new line.
pub(super) fn json(config: &LogConfig, moment: &Moment, entry: &Entry) -> String {
    let session = &entry.session;
    let line = JsonLine {
        timestamp: with_milliseconds(moment.now, &config.time_zone),
        user: &session.user,
        dbname: &session.database,
        pid: moment.pid_of(entry),
        remote_host: &session.remote_host,
        remote_port: session.remote_port.parse().ok(),
        session_id: moment.session_id(entry),
        line_num: moment.line,
        session_start: without_milliseconds(moment.started_at(entry), &config.time_zone),
        error_severity: entry.level.as_str(),
        state_code: entry.sqlstate.as_deref(),
        message: &entry.message,
        detail: entry.detail.as_deref(),
        hint: entry.hint.as_deref(),
        context: entry.context.as_deref(),
        application_name: &session.application_name,
        backend_type: backend_type(entry),
    };
    // Strings and numbers always have a JSON form.
    serde_json::to_string(&line).unwrap_or_default() + "\n"
}
