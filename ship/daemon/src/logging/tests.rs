//! Golden lines.

use std::sync::{Arc, Mutex, RwLock};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing_subscriber::layer::SubscriberExt as _;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use super::*;

const PID: u32 = 4321;

fn clock() -> Timestamp {
    "2026-11-21T23:59:01.1239Z".parse().unwrap()
}

fn config(line_prefix: &str, min_messages: MessageLevel) -> LogConfig {
    LogConfig {
        destination: LogDestination::Stderr,
        min_messages,
        line_prefix: line_prefix.to_owned(),
        time_zone: TimeZone::UTC,
    }
}

/// What `work` logs under `config`.
fn logged(config: LogConfig, work: impl FnOnce(&Arc<RwLock<LogConfig>>)) -> String {
    let text = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&text);
    let config = Arc::new(RwLock::new(config));
    let layer = LogLayer::new(Arc::clone(&config), clock, move |line: &[u8]| {
        sink.lock().unwrap().extend_from_slice(line);
    })
    .with_pid(PID);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || work(&config));
    String::from_utf8(text.lock().unwrap().clone()).unwrap()
}

#[test]
fn lines_read_as_postgresqls() {
    let text = logged(config("%m [%p] ", MessageLevel::Warning), |_| {
        log("started streaming WAL from primary at 0/3000000 on timeline 1");
        report(
            &Report::fatal(SqlState::OBJECT_IN_USE, "lock file \"walhub.pid\" already exists")
                .detail("two\nlines")
                .hint("Is another one running?"),
        );
        tracing::debug!("not this");
        tracing::warn!(bytes = 3, "short {}", "write");
    });
    assert_eq!(
        text,
        "2026-11-21 23:59:01.123 UTC [4321] LOG:  started streaming WAL from primary at 0/3000000 on timeline 1\n\
         2026-11-21 23:59:01.123 UTC [4321] FATAL:  lock file \"walhub.pid\" already exists\n\
         2026-11-21 23:59:01.123 UTC [4321] DETAIL:  two\n\tlines\n\
         2026-11-21 23:59:01.123 UTC [4321] HINT:  Is another one running?\n\
         2026-11-21 23:59:01.123 UTC [4321] WARNING:  short write: bytes=3\n"
    );
}

#[test]
fn every_escape_of_the_prefix() {
    let session = |work: &dyn Fn()| {
        let span = tracing::info_span!(
            "session",
            pid = 99,
            user = "repl",
            application_name = tracing::field::Empty,
            remote_host = "127.0.0.1",
            remote_port = 5001,
            session_start = 1_700_000_000_000_000_i64,
            backend_type = "walsender"
        );
        span.record("application_name", "standby1");
        span.in_scope(work);
    };
    for (prefix, in_session, outside) in [
        ("%m|", "2026-11-21 23:59:01.123 UTC|", "2026-11-21 23:59:01.123 UTC|"),
        (
            "%t|%n|",
            "2026-11-21 23:59:01 UTC|1795305541.123|",
            "2026-11-21 23:59:01 UTC|1795305541.123|",
        ),
        ("%p %u@%d %a ", "99 repl@[unknown] standby1 ", "4321 @  "),
        ("%h %r %b ", "127.0.0.1 127.0.0.1(5001) walsender ", "  postmaster "),
        (
            "%c %s ",
            "6553f100.63 2023-11-14 22:13:20 UTC ",
            "6a022a85.10e1 2026-11-21 23:59:01 UTC ",
        ),
        ("[%p] %q%u ", "[99] repl ", "[4321] "),
        ("%5p|%-6u|%e|", "   99|repl  |00000|", " 4321|      |00000|"),
        ("100%% %z%l ", "100% 1 ", "100% 1 "),
        ("open %", "open ", "open "),
        ("open %-9", "open ", "open "),
    ] {
        let got = logged(config(prefix, MessageLevel::Warning), |_| session(&|| log("x")));
        assert_eq!(got, format!("{in_session}LOG:  x\n"), "{prefix}");
        let got = logged(config(prefix, MessageLevel::Warning), |_| log("x"));
        let outside = outside.replace("6a022a85", &format!("{:x}", clock().as_second()));
        assert_eq!(got, format!("{outside}LOG:  x\n"), "{prefix}");
    }
}

#[test]
fn log_ranks_as_in_postgresql() {
    use MessageLevel::*;
    let all =
        [Debug5, Debug4, Debug3, Debug2, Debug1, Info, Notice, Warning, Error, Log, Fatal, Panic];
    for (index, min) in all.into_iter().enumerate() {
        for (level_index, level) in all.into_iter().enumerate() {
            let want = match (level, min) {
                (Log, Fatal | Panic) => false,
                (Log, _) => true,
                _ => level_index >= index,
            };
            assert_eq!(is_logged(level, min), want, "{level:?} at {min:?}");
        }
    }
}

#[test]
fn a_severity_above_the_level_passes_the_filter() {
    let text = logged(config("", MessageLevel::Fatal), |_| {
        log("hidden");
        tracing::error!("hidden too");
        tracing::info!(severity = "FATAL", "shown");
    });
    assert_eq!(text, "FATAL:  shown\n");
}

#[test]
fn information_of_a_library_is_not_a_log_message() {
    let text = logged(config("", MessageLevel::Warning), |_| {
        tracing::info!(target: "some_library", "chatter");
        tracing::warn!(target: "some_library", "trouble");
    });
    assert_eq!(text, "WARNING:  trouble\n");
}

#[test]
fn a_changed_configuration_holds_from_the_next_message() {
    let text = logged(config("", MessageLevel::Warning), |shared| {
        for level in [MessageLevel::Warning, MessageLevel::Debug1, MessageLevel::Warning] {
            shared.write().unwrap().min_messages = level;
            tracing::callsite::rebuild_interest_cache();
            tracing::debug!("at {level:?}");
        }
    });
    assert_eq!(text, "DEBUG:  at Debug1\n");
}

#[test]
fn json_has_the_fields_of_jsonlog() {
    let config =
        LogConfig { destination: LogDestination::Json, ..config("ignored", MessageLevel::Warning) };
    let text = logged(config, |_| {
        let span = tracing::info_span!(
            "session",
            pid = 7,
            user = "u",
            remote_host = "::1",
            remote_port = 5
        );
        let _guard = span.enter();
        report(&Report::error(SqlState::SYNTAX_ERROR, "say \"no\"\n").detail("d").hint("h"));
    });
    let session = format!("{:x}", clock().as_second());
    assert_eq!(
        text,
        format!(
            "{{\"timestamp\":\"2026-11-21 23:59:01.123 UTC\",\"user\":\"u\",\"pid\":7,\"remote_host\":\"::1\",\
             \"remote_port\":5,\"session_id\":\"{session}.7\",\"line_num\":1,\
             \"session_start\":\"2026-11-21 23:59:01 UTC\",\"error_severity\":\"ERROR\",\
             \"state_code\":\"42601\",\"message\":\"say \\\"no\\\"\\n\",\"detail\":\"d\",\"hint\":\"h\",\
             \"backend_type\":\"client backend\"}}\n"
        )
    );
}
