//! The command line: flags to settings, errors to exit codes.
//!
//! Parsing has two steps. [`flags`] says what may be typed, with defaults and environment names, and
//! nothing more; [`run`] turns it into the plain values that the library works on. `main` prints and
//! exits; nothing below it does.

mod demo;
mod cluster;
mod flags;
mod log;
mod run;
mod signals;
mod values;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::dataflows;
use crate::error::{Error, ErrorKind, Result};

pub use flags::{Cli, Command};

/// What the process ends with for an error of this kind.
pub fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Usage => 2,
        ErrorKind::PeerLost => 69,
        ErrorKind::Panicked => 70,
        ErrorKind::Disk => 74,
        ErrorKind::Temporary => 75,
        ErrorKind::Configuration => 78,
        ErrorKind::Failed => 1,
    }
}

/// The whole program: parses the arguments, does what they say, and returns the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(arguments()) {
        Ok(cli) => cli,
        Err(help_or_error) => {
            // Clap prints help to stdout and mistakes to stderr; a closed pipe is no failure.
            help_or_error.print().ok();
            return ExitCode::from(if help_or_error.use_stderr() { 2 } else { 0 });
        }
    };
    std::panic::set_hook(Box::new(|panic| {
        writeln!(io::stderr(), "wordtide: {panic}").ok();
    }));
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&error);
            ExitCode::from(exit_code(error.kind()))
        }
    }
}

/// The arguments as given, but for a bare `-h` at the end: there it can only mean help, though
/// elsewhere it is the hostfile, as timely has it.
fn arguments() -> Vec<std::ffi::OsString> {
    let mut arguments: Vec<_> = std::env::args_os().collect();
    if let Some(last) = arguments.last_mut().filter(|last| *last == "-h") {
        *last = "--help".into();
    }
    arguments
}

/// Does what the arguments say; returns the exit code.
fn dispatch(cli: Cli) -> Result<u8> {
    match cli.command {
        Some(Command::Run { dataflow, flags }) => run::run(&dataflow, *flags),
        Some(Command::List) => print(&list()).map(|()| 0),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "wordtide", &mut script);
            print(&script).map(|()| 0)
        }
        Some(Command::Man) => {
            let mut page = Vec::new();
            let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
            rendered.map_err(|error| failed("cannot render the man page", error))?;
            print(&page).map(|()| 0)
        }
        None => match (cli.host, cli.port) {
            (Some(host), Some(port)) => run::spark(&host, &port, *cli.flags),
            (Some(host), None) => Err(Error::new(ErrorKind::Usage, format!("{host:?} has no port"))
                .hint("give HOST PORT, as in `wordtide localhost 9999`, or a command: see --help")),
            (None, _) if cli.flags.is_default() => demo::run(&cli.flags).map(|()| 0),
            (None, _) => run::run("network_wordcount", *cli.flags),
        },
    }
}

fn list() -> Vec<u8> {
    let width = dataflows::ALL.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    let lines = dataflows::ALL.iter().map(|(name, about, _)| format!("{name:width$}  {about}\n"));
    lines.collect::<String>().into_bytes()
}

/// Writes data to stdout. A reader who has seen enough and closed the pipe is not an error.
fn print(data: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(data).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(failed("cannot write to standard output", error))
        }
        _ => Ok(()),
    }
}

fn failed(what: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Failed, format!("{what}: {error}")).cause(error)
}

/// One line for the error, with causes that it does not already contain.
fn report(error: &Error) {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let because = error.to_string();
        if !text.contains(&because) {
            text = format!("{text} ({because})");
        }
        cause = error.source();
    }
    writeln!(io::stderr(), "wordtide: error: {text}").ok();
}
