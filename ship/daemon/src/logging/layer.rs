//! Takes events and spans from `tracing`.

use std::fmt::{Debug, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::fields::Moment;
use super::line;
use super::{Entry, LogConfig, SessionFields, is_logged};
use crate::settings::{LogDestination, MessageLevel, Words as _};

/// Takes a whole line.
type Sink = Box<dyn Fn(&[u8]) + Send + Sync>;

/// Writes every event that `log_min_messages` admits as one line.
pub struct LogLayer {
    config: Arc<RwLock<LogConfig>>,
    clock: fn() -> Timestamp,
    sink: Sink,
    started: Timestamp,
    pid: u32,
    lines: AtomicU64,
}

impl LogLayer {
    /// A layer that reads the time from `clock` and hands each line to `sink`.
    pub fn new(
        config: Arc<RwLock<LogConfig>>,
        clock: fn() -> Timestamp,
        sink: impl Fn(&[u8]) + Send + Sync + 'static,
    ) -> Self {
        let pid = std::process::id();
        Self {
            config,
            clock,
            sink: Box::new(sink),
            started: clock(),
            pid,
            lines: AtomicU64::new(0),
        }
    }

    /// The same layer under another process id.
    #[cfg(test)]
    pub(super) fn with_pid(mut self, pid: u32) -> Self {
        self.pid = pid;
        self
    }

    fn write(&self, entry: &Entry) {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        if !is_logged(entry.level, config.min_messages) {
            return;
        }
        let moment = Moment {
            now: (self.clock)(),
            started: self.started,
            pid: self.pid,
            line: self.lines.fetch_add(1, Ordering::Relaxed) + 1,
        };
        let line = match config.destination {
            LogDestination::Stderr => line::text(&config, &moment, entry),
            LogDestination::Json => line::json(&config, &moment, entry),
        };
        drop(config);
        (self.sink)(line.as_bytes());
    }
}

/// What a library calls information is of no interest to a DBA; only walhub's own is a `LOG`.
fn level_of(metadata: &Metadata<'_>) -> MessageLevel {
    let is_walhubs = metadata.target().starts_with("walhub");
    match *metadata.level() {
        Level::ERROR => MessageLevel::Error,
        Level::WARN => MessageLevel::Warning,
        Level::INFO if is_walhubs => MessageLevel::Log,
        Level::INFO => MessageLevel::Debug1,
        Level::DEBUG if is_walhubs => MessageLevel::Debug1,
        Level::DEBUG => MessageLevel::Debug3,
        Level::TRACE => MessageLevel::Debug5,
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        if metadata.is_span() {
            return true;
        }
        // An event may carry a severity above that of its level, so only what is below every
        // severity is refused here; `write` decides the rest.
        let min = self.config.read().unwrap_or_else(PoisonError::into_inner).min_messages;
        *metadata.level() <= Level::INFO && level_of(metadata) >= MessageLevel::Info
            || is_logged(level_of(metadata), min)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut all = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<Fields>() {
                all.inherit(&fields.session);
            }
        }
        event.record(&mut all);
        let level = level_of(event.metadata());
        self.write(&Entry {
            level: all.severity.as_deref().and_then(MessageLevel::from_word).unwrap_or(level),
            message: all.message + &all.others,
            detail: all.detail,
            hint: all.hint,
            context: all.context,
            sqlstate: all.sqlstate,
            session: all.session,
        });
    }
}

/// The fields of an event or a span.
#[derive(Default)]
struct Fields {
    message: String,
    others: String,
    severity: Option<String>,
    sqlstate: Option<String>,
    detail: Option<String>,
    hint: Option<String>,
    context: Option<String>,
    session: SessionFields,
}

impl Fields {
    /// Takes over what an inner span says about its session.
    fn inherit(&mut self, inner: &SessionFields) {
        let session = &mut self.session;
        if inner.pid != 0 {
            session.pid = inner.pid;
        }
        session.session_start = inner.session_start.or(session.session_start);
        for (mine, theirs) in [
            (&mut session.backend_type, &inner.backend_type),
            (&mut session.user, &inner.user),
            (&mut session.database, &inner.database),
            (&mut session.application_name, &inner.application_name),
            (&mut session.remote_host, &inner.remote_host),
            (&mut session.remote_port, &inner.remote_port),
        ] {
            if !theirs.is_empty() {
                mine.clone_from(theirs);
            }
        }
    }

    fn put(&mut self, field: &str, value: String) {
        match field {
            "message" => self.message = value,
            "severity" => self.severity = Some(value),
            "sqlstate" => self.sqlstate = Some(value),
            "detail" => self.detail = Some(value),
            "hint" => self.hint = Some(value),
            "context" => self.context = Some(value),
            "backend_type" => self.session.backend_type = value,
            "user" => self.session.user = value,
            "database" => self.session.database = value,
            "application_name" => self.session.application_name = value,
            "remote_host" => self.session.remote_host = value,
            "remote_port" => self.session.remote_port = value,
            "pid" => self.session.pid = value.parse().unwrap_or(0),
            "session_start" => self.session.session_start = value.parse().ok(),
            other => {
                let separator = if self.others.is_empty() { ": " } else { ", " };
                let _ = write!(self.others, "{separator}{other}={value}");
            }
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field.name(), format!("{value:?}"));
    }
}
