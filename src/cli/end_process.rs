//! How the process ends: the error's line, panics, and the exit code.

use std::io::{self, IsTerminal};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use tracing::Level;

use super::precedence::Refusal;
use super::{exit_codes, given_flags, log_lines, stderr};
use crate::error::{Error, ErrorKind, Result};
use crate::job::Finish;

/// Runs the program and returns its exit code, with an error or a panic reported on one line.
pub fn run_to_exit(run: impl FnOnce() -> Result<u8>) -> ExitCode {
    ExitCode::from(code_of(run))
}

/// Returns true if the runtime of tasks could not make a thread. It panics then, in a thread of its
/// own. No task of the program sees that, and those that wait would wait for ever.
fn lacks_threads(panic: &PanicHookInfo<'_>) -> bool {
    let is_of_runtime = |file: &str| file.contains("tokio") && file.contains("/runtime/");
    panic.location().is_some_and(|location| is_of_runtime(location.file()))
        && panic.payload_as_str().is_some_and(|text| text.contains("can't spawn"))
}

/// Returns the exit code of a command, also of one that panics.
fn code_of(run: impl FnOnce() -> Result<u8>) -> u8 {
    set_hook(Box::new(|panic| {
        log_lines::say(Level::ERROR, "panicked", &format!("wordtide: {panic}"));
        if lacks_threads(panic) {
            at_once(exit_codes::exit_code(ErrorKind::Panicked));
        }
    }));
    // The hook has reported a panic; what it left half done is not looked at again.
    let code = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => report(&error),
        Err(_) => exit_codes::exit_code(ErrorKind::Panicked),
    };
    stderr::flush();
    note_finish(code)
}

/// The finish of the job, to be noted as the last act of the process, and the exit code then.
static LAST: Mutex<Option<(Finish, u8)>> = Mutex::new(None);

/// Sets the last act of the process: if it ends with success, it notes the `finish` of its job and
/// ends with `code`.
pub fn set_last(finish: Finish, code: u8) {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some((finish, code));
}

/// Takes the last act back: no process takes the exit code.
pub fn drop_last() {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Notes the finish of the job, unless the exit `code` is that of a failure. Returns the exit code.
fn note_finish(code: u8) -> u8 {
    match LAST.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some((Finish { note }, finished)) if code == 0 => {
            // A message of it needs a flush of its own.
            if note.is_some_and(|note| !note.set()) {
                stderr::flush();
            }
            finished
        }
        _ => code,
    }
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
            exit_codes::exit_code(ErrorKind::Usage)
        }
    }
}

/// Ends the process without returning to the caller: its job may hang.
pub fn at_once(code: u8) -> ! {
    stderr::flush();
    exit_codes::exit(code)
}

/// Writes the error's line, with those causes that the message does not contain already. Returns
/// the exit code.
pub fn report(error: &Error) -> u8 {
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
    exit_codes::exit_code(error.kind())
}
