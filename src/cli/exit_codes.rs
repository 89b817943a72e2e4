//! How the process ends: exit codes ([`CODES`]), the error's line, panics.

use std::io::{self, IsTerminal};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::process::ExitCode;

use tracing::Level;

use super::given_flags;
use super::precedence::Refusal;
use super::{log_lines, stderr};
use crate::error::{Error, ErrorKind, Result};

/// The exit codes and what they mean.
pub const CODES: &[(&str, &str)] = &[
    ("0", "Done, stopped with everything committed, or stopped before anything was read."),
    ("1", "Failed: the message has the reason."),
    ("2", "A flag, a variable or a setting is wrong: nothing was started."),
    ("69", "A process of the cluster was lost or did not come: start all again."),
    ("70", "A task panicked: a defect."),
    ("74", "The local disk failed or holds damaged state."),
    ("75", "Something outside was out of reach for too long: a restart helps."),
    ("78", "A configuration or credential was refused: a restart does not help."),
    (
        "130, 143",
        "Ended at once by a second SIGINT, or by a second SIGTERM or SIGHUP; a bench by the first.",
    ),
];

/// Ended by a second SIGINT.
pub const INTERRUPTED: u8 = 130;
/// Ended by a second SIGTERM or SIGHUP.
pub const TERMINATED: u8 = 143;

/// Returns the exit code for an error of this kind.
pub fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Usage => 2,
        ErrorKind::PeerLost => 69,
        ErrorKind::Panicked => 70,
        ErrorKind::Disk => 74,
        ErrorKind::Temporary => 75,
        ErrorKind::Configuration => 78,
        ErrorKind::Failed => 1,
        ErrorKind::Stopped => 0,
    }
}

/// Runs the program and returns its exit code, with an error or a panic reported on one line.
pub fn run_to_exit(run: impl FnOnce() -> Result<u8>) -> ExitCode {
    ExitCode::from(code_of(run))
}

/// Returns the exit code of a command, also of one that panics.
fn code_of(run: impl FnOnce() -> Result<u8>) -> u8 {
    set_hook(Box::new(|panic| {
        log_lines::say(Level::ERROR, "panicked", &format!("wordtide: {panic}"));
    }));
    // The hook has reported a panic; what it left half done is not looked at again.
    let code = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            report(&error);
            exit_code(error.kind())
        }
        Err(_) => exit_code(ErrorKind::Panicked),
    };
    stderr::flush();
    code
}

/// Reports why the arguments cannot be used, or prints the help that was asked for, and returns the
/// exit code.
pub fn refused(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::Setting(error) => code_of(|| Err(error)),
        Refusal::Clap(help) if !help.use_stderr() => {
            // A reader that has closed the pipe is not an error.
            drop(help.print());
            0
        }
        Refusal::Clap(error) => {
            let text = error.render();
            let is_plain = !io::stderr().is_terminal() || std::env::var_os("NO_COLOR").is_some();
            let text = if is_plain { text.to_string() } else { text.ansi().to_string() };
            stderr::line(text.trim_end());
            stderr::flush();
            exit_code(ErrorKind::Usage)
        }
    }
}

/// Ends the process without returning to the caller: its job may hang.
#[allow(clippy::disallowed_methods)] // a hung job cannot be returned from
pub fn at_once(code: u8) -> ! {
    stderr::flush();
    std::process::exit(code.into())
}

/// Writes the error's line, with those causes that the message does not contain already.
fn report(error: &Error) {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        // Some causes explain themselves on several lines.
        let because = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if !text.contains(&because) {
            text = format!("{text} ({because})");
        }
        cause = error.source();
    }
    if let Some(places) = given_flags::note(&text) {
        text = format!("{text} ({places})");
    }
    log_lines::say(Level::ERROR, "failed", &format!("wordtide: error: {text}"));
}
