//! Writes the library's log events as lines on standard error.

use std::fmt;
use std::io::{self, Write};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use super::flags::WatchFlags;
use super::{commands, environment, stderr};

/// A line is its message; what is not mere progress says so in front.
struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "wordtide: error: ",
            Level::WARN => "wordtide: warning: ",
            Level::INFO => "",
            _ => "wordtide: debug: ",
        };
        writer.write_str(level)?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// The queue of standard error as a writer. Nothing fails on it: a message that nobody can read is
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
pub(super) fn install(flags: &WatchFlags) {
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
        .event_format(Lines)
        .finish()
        .with(Targets::new().with_target(env!("CARGO_PKG_NAME"), level));
    // It fails only if one is installed already, and then messages have their place.
    drop(tracing::subscriber::set_global_default(subscriber));
    environment::warn_of_unknown(&commands::command(), std::env::vars_os());
}
