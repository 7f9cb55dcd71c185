//! `log_line_prefix`.
//!
//! PostgreSQL: `log_line_prefix`, `process_log_prefix_padding` (src/backend/utils/error/elog.c).

use std::iter::Peekable;
use std::str::Chars;

use super::fields::{Moment, backend_type, sqlstate, with_milliseconds, without_milliseconds};
use super::{Entry, LogConfig};

/// Expands the prefix. An escape that PostgreSQL has and walhub has nothing for stays empty; one that
/// nobody has is left out.
pub(super) fn expand(config: &LogConfig, moment: &Moment, entry: &Entry) -> String {
    let mut text = String::new();
    let mut format = config.line_prefix.chars().peekable();
    // Only a session has a client; %q ends the prefix of everyone else's lines.
    let is_session = entry.session.pid != 0;
    while let Some(c) = format.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let Some(padding) = read_padding(&mut format) else { break };
        let Some(escape) = format.next() else { break };
        match escape {
            '%' => text.push('%'),
            'q' if is_session => {}
            'q' => break,
            _ => pad(&mut text, &expand_one(escape, config, moment, entry), padding),
        }
    }
    text
}

fn expand_one(escape: char, config: &LogConfig, moment: &Moment, entry: &Entry) -> String {
    let session = &entry.session;
    let is_session = session.pid != 0;
    let or_unknown = |text: &str| {
        if text.is_empty() && is_session { "[unknown]".to_owned() } else { text.to_owned() }
    };
    match escape {
        'a' => or_unknown(&session.application_name),
        'u' => or_unknown(&session.user),
        'd' => or_unknown(&session.database),
        'b' => backend_type(entry).to_owned(),
        'h' => session.remote_host.clone(),
        'r' if session.remote_port.is_empty() => session.remote_host.clone(),
        'r' => format!("{}({})", session.remote_host, session.remote_port),
        'p' => moment.pid_of(entry).to_string(),
        'l' => moment.line.to_string(),
        'c' => moment.session_id(entry),
        't' => without_milliseconds(moment.now, &config.time_zone),
        'm' => with_milliseconds(moment.now, &config.time_zone),
        's' => without_milliseconds(moment.started_at(entry), &config.time_zone),
        'n' => {
            let micros = moment.now.as_microsecond();
            format!("{}.{:03}", micros / 1_000_000, micros / 1000 % 1000)
        }
        'e' => sqlstate(entry).to_owned(),
        'x' | 'Q' => "0".to_owned(),
        _ => String::new(),
    }
}

/// Reads a width such as the `-10` of `%-10u`; `None` when the format ends there.
fn read_padding(format: &mut Peekable<Chars<'_>>) -> Option<i64> {
    let left = format.next_if_eq(&'-').is_some();
    let mut width = 0;
    while let Some(digit) = format.peek().and_then(|c| c.to_digit(10)) {
        // A width that no terminal has is cut, so that a typing error cannot fill the disk.
        width = (width * 10 + i64::from(digit)).min(1000);
        format.next();
    }
    format.peek()?;
    Some(if left { -width } else { width })
}

fn pad(text: &mut String, value: &str, padding: i64) {
    let width = usize::try_from(padding.unsigned_abs()).unwrap_or(0);
    let blanks = " ".repeat(width.saturating_sub(value.chars().count()));
    if padding < 0 {
        text.push_str(value);
        text.push_str(&blanks);
    } else {
        text.push_str(&blanks);
        text.push_str(value);
    }
}
