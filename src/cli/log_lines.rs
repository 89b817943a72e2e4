//! Writes log events as lines on standard error: as text, or as JSON objects.
//!
//! A JSON line has `ts`, `level`, `event`, `message` and `process`, and the fields of its event.
//! Events without a name of their own are called `message`.

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use super::flags::WatchFlags;
use super::log_format::LogFormat;
use super::{commands, environment, stderr};
use crate::epoch::SystemClock;

/// The form of the lines of this process, with its index in the cluster. The launcher has none.
static JSON: OnceLock<Option<usize>> = OnceLock::new();

/// Writes a line that no log event stands for. `text` is the line in text form, which begins with
/// the name of the program where it is no mere progress.
pub fn say(level: Level, event: &str, text: &str) {
    let Some(process) = JSON.get() else { return stderr::line(text) };
    let message = text.strip_prefix("wordtide: ").unwrap_or(text);
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let message = message.strip_prefix("warning: ").unwrap_or(message);
    stderr::line(json(*process, level, event, message, Map::new()));
}

/// Writes a line only where lines are JSON objects: people see the same from the end itself.
pub fn say_in_json(event: &str, message: &str) {
    if JSON.get().is_some() {
        say(Level::INFO, event, message);
    }
}

/// Passes on a line of the process with this index, as its launcher. In text form the line gets the
/// index in front; a JSON object has it already.
pub fn relay(process: usize, line: &[u8]) {
    match JSON.get() {
        None => stderr::line([format!("[{process}] ").as_bytes(), line].concat()),
        Some(_) if line.starts_with(b"{") => stderr::line(line),
        Some(_) => {
            // Written by something else than the log, before it or beside it.
            let text = String::from_utf8_lossy(line);
            stderr::line(json(Some(process), Level::ERROR, "message", &text, Map::new()));
        }
    }
}

/// Returns the object of a line. The time is UTC, in milliseconds.
fn json(
    process: Option<usize>,
    level: Level,
    event: &str,
    message: &str,
    fields: Map<String, Value>,
) -> String {
    let now = i64::try_from(SystemClock::shared().wall_ms()).unwrap_or(i64::MAX);
    let now = jiff::Timestamp::from_millisecond(now).unwrap_or_default();
    let mut line = Map::new();
    line.insert("ts".into(), now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string().into());
    line.insert("level".into(), level.as_str().to_ascii_lowercase().into());
    line.insert("event".into(), event.into());
    line.insert("message".into(), message.into());
    line.insert("process".into(), process.into());
    line.extend(fields);
    Value::Object(line).to_string()
}

/// The fields of a log event.
#[derive(Default)]
struct LogFields {
    /// The text of the event.
    message: String,
    /// The kind of the event, where it has one.
    event: Option<String>,
    /// All other fields.
    others: Map<String, Value>,
}

impl LogFields {
    /// Adds a field.
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("event", Value::String(text)) => self.event = Some(text),
            (name, value) => drop(self.others.insert(name.to_owned(), value)),
        }
    }
}

impl Visit for LogFields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }
}

/// Formats log events as lines. In text form the fields of an event are shown with `-v` only: the
/// message has what people need.
struct LogLines;

impl<S, N> FormatEvent<S, N> for LogLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = LogFields::default();
        event.record(&mut fields);
        let level = *event.metadata().level();
        if let Some(process) = JSON.get() {
            let name = fields.event.as_deref().unwrap_or("message");
            return writeln!(
                writer,
                "{}",
                json(*process, level, name, &fields.message, fields.others)
            );
        }
        let prefix = match level {
            Level::ERROR => "wordtide: error: ",
            Level::WARN => "wordtide: warning: ",
            Level::INFO => "",
            _ => "wordtide: debug: ",
        };
        write!(writer, "{prefix}{}", fields.message)?;
        if level > Level::INFO {
            for (name, value) in &fields.others {
                write!(writer, " {name}={value}")?;
            }
        }
        writeln!(writer)
    }
}

/// The queue of standard error as a writer. Nothing fails on it: a message that cannot be read is
/// no reason to end, as when the launcher at the other end of the pipe has died.
struct StandardError;

impl Write for StandardError {
    /// Takes the whole text of an event at once, its line end included.
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        stderr::line(message.strip_suffix(b"\n").unwrap_or(message));
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends the library's messages to standard error: progress and warnings, more with each `-v`, less
/// with each `-q`. Only its own: those of an HTTP client name proxies and credential sources, with
/// the passwords in their addresses. Then warns of environment variables that are not known.
pub fn install(flags: &WatchFlags, process: Option<usize>) {
    if flags.log_format == LogFormat::Json {
        // It is set already where the program logs for a second time, in the same form.
        let _ = JSON.set(process);
    }
    let level = match i16::from(flags.verbose) - i16::from(flags.quiet) {
        ..=-2 => Level::ERROR,
        -1 => Level::WARN,
        0 => Level::INFO,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| StandardError)
        .with_ansi(false)
        .event_format(LogLines)
        .finish()
        .with(Targets::new().with_target(env!("CARGO_PKG_NAME"), level));
    // It fails only if one is installed already, and then messages have their place.
    drop(tracing::subscriber::set_global_default(subscriber));
    environment::warn_of_unknown(&commands::command(), std::env::vars_os());
}
