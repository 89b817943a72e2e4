//! The command line: flags to settings, errors to exit codes.
//!
//! `flags` and `commands` declare what can be typed, `precedence` adds what the environment holds,
//! and `run` turns the result into the plain values that the library works on. `end_process` turns
//! an error into its line and its exit code (`exit_codes`). Only this module prints and ends the
//! process.

mod bench;
mod check_command;
mod cluster_flags;
mod commands;
mod completions;
mod config_command;
mod config_file;
pub(crate) mod corpus;
mod definitions;
mod demo;
mod end_process;
mod environment;
mod exit_codes;
mod feed;
mod flags;
mod form_of_flags;
mod given_flags;
mod hide_passwords;
mod log_format;
mod log_lines;
mod man_page;
mod monitor_server;
mod parse_values;
mod precedence;
mod progress_line;
mod run;
mod service_manager;
mod signals;
mod state_command;
mod stderr;
mod unused_flags;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::dataflows::{self, Listed};
use crate::error::{Error, ErrorKind, Result};
use crate::job::JobBuilder;
use crate::sources::HostPort;
use crate::trace::{Profile, ProfileFormat};

pub use clap;
pub use commands::{Cli, Command, JournalCommand};
pub use exit_codes::exit_code;
pub use flags::{JobFlags, ListForm, StateArgs};

/// The whole program: parses the arguments, carries them out, and returns the exit code.
pub fn main() -> ExitCode {
    match commands::parse(arguments(), |name| std::env::var_os(name)) {
        Ok(cli) => end_process::run_to_exit(|| dispatch(cli)),
        Err(refusal) => ExitCode::from(end_process::refused(refusal)),
    }
}

/// Parses the arguments of another program that takes [`JobFlags`], as `wordtide` parses its own:
/// the environment counts where the command line is silent, an empty variable is unset, and an
/// error names the variable. Ends the process after `--help` and after a mistake.
pub fn parse<P: Parser>() -> P {
    let command = commands::refine(P::command(), false);
    let (arguments, lookup) = (arguments(), |name: &OsStr| std::env::var_os(name));
    let parsed = commands::settings_file(&command, &arguments, lookup).and_then(|file| {
        let find = |flag: &clap::Arg| commands::find(flag, file.as_ref(), lookup);
        let parsed = precedence::parse(&command, &arguments, find)?;
        Ok(P::from_arg_matches(&parsed.matches)?)
    });
    parsed.unwrap_or_else(|refusal| end_process::at_once(end_process::refused(refusal)))
}

/// Runs a job of another program as `wordtide run` would: under signals, as one process of a
/// cluster or the launcher of a whole one, with errors on stderr. Returns the exit code.
///
/// `define` gives the job what the flags do not: what it computes.
pub fn run_job(flags: JobFlags, define: impl FnOnce(JobBuilder) -> JobBuilder) -> ExitCode {
    end_process::run_to_exit(|| run::run_job(flags, |job| Ok(define(job))))
}

/// Returns the arguments as given, but for a bare `-h` at the end: there it can only mean help,
/// though elsewhere it is the hostfile, as timely has it.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<_> = std::env::args_os().collect();
    if let Some(last) = arguments.last_mut().filter(|last| *last == "-h") {
        *last = "--help".into();
    }
    arguments
}

/// Carries out the arguments; returns the exit code. Without a command, `HOST PORT` is Spark's form
/// of a run, other flags are a run, and nothing is the demo.
///
/// Fails with the error of the command, whose kind decides the exit code.
fn dispatch(cli: Cli) -> Result<u8> {
    match cli.command {
        Some(Command::Run { dataflow, flags }) => run::run(dataflow, *flags),
        Some(Command::Replay { dir, dataflow, flags }) => run::replay(dir, dataflow, *flags),
        Some(Command::Check { flags }) => check_command::run(&flags).map(|()| 0),
        Some(Command::Journal { look }) => journal(&look).map(|()| 0),
        Some(Command::State { states }) => state_command::run(&states),
        Some(Command::Config { .. }) => print(cli.settings.as_bytes()).map(|()| 0),
        Some(Command::Feed { flags }) => feed::run(&flags),
        Some(Command::Bench { flags }) => bench::run(&flags),
        Some(Command::Profile { format, files }) => profile(&files, format).map(|()| 0),
        Some(Command::List) => print(&list()).map(|()| 0),
        Some(Command::Completions { shell }) => print(&completions::script(shell)).map(|()| 0),
        Some(Command::Man) => {
            let mut page = Vec::new();
            man_page::render(&mut page)
                .map_err(|error| failed("cannot render the man page", error))?;
            print(&page).map(|()| 0)
        }
        None => match (cli.host, cli.port) {
            (Some(host), Some(port)) => run::spark(&host, &port, *cli.flags),
            (Some(host), None) => Err(without_port(&host)),
            (None, _) if cli.is_bare && cli.flags.source.is_none() => {
                demo::run(&cli.flags).map(|()| 0)
            }
            (None, _) => run::run(None, *cli.flags),
        },
    }
}

/// The error for one word that is neither a command nor followed by a port.
fn without_port(host: &str) -> Error {
    if let Ok(HostPort { host: name, port }) = host.parse() {
        let message = format!("{host:?} holds host and port in one word");
        return Error::new(ErrorKind::Usage, message).hint(format!(
            "give HOST PORT, as in `wordtide {name} {port}`, or `wordtide run --connect {host}`"
        ));
    }
    let command = commands::command();
    let names = command.get_subcommands().map(clap::Command::get_name);
    let meant = parse_values::nearest(host, names);
    let meant = meant.map(|meant| format!("did you mean `wordtide {meant}`? ")).unwrap_or_default();
    Error::new(ErrorKind::Usage, format!("{host:?} has no port and is no command")).hint(format!(
        "{meant}give HOST PORT, as in `wordtide localhost 9999`, or a command: see --help"
    ))
}

/// `wordtide journal check|dump`. A reader of the listing that closes the pipe ends it.
///
/// Fails with `Configuration` if the argument is no folder of a journal, and with `Disk` for a
/// journal that is damaged or cannot be read.
fn journal(look: &JournalCommand) -> Result<()> {
    let (JournalCommand::Check { dir } | JournalCommand::Dump { dir }) = look;
    let refused = |why: String| {
        let message = format!("{}: {why}", dir.display());
        Error::new(ErrorKind::Configuration, message).hint(crate::journal::FOLDER_HINT)
    };
    std::fs::read_dir(dir).map_err(|error| refused(error.to_string()))?;
    let mut listing = Vec::new();
    let verdict = match look {
        JournalCommand::Check { dir } => crate::journal::check(dir, &mut listing),
        JournalCommand::Dump { dir } => {
            let mut stdout = io::BufWriter::new(io::stdout().lock());
            let verdict = crate::journal::dump(dir, &mut stdout);
            match stdout.flush() {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                _ => verdict,
            }
        }
    };
    print(&listing)?;
    if verdict?.is_sound() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Disk, "the journal is damaged").hint("see the places named above"))
}

/// `wordtide profile`. Warns if events are missing in the files, which `--events-max` limits.
fn profile(files: &[PathBuf], format: ProfileFormat) -> Result<()> {
    let profile = Profile::read(files)?;
    if profile.dropped() > 0 {
        stderr::line(format!(
            "wordtide: warning: {} events are missing in these files: see --events-max",
            profile.dropped()
        ));
    }
    print(profile.to_text(format).as_bytes())
}

/// Returns the names of the definitions, with one line on each.
fn list() -> Vec<u8> {
    let width = dataflows::ALL.iter().map(|listed| listed.name.len()).max().unwrap_or(0);
    let lines =
        dataflows::ALL.iter().map(|Listed { name, gives }| format!("{name:width$}  {gives}\n"));
    lines.collect::<String>().into_bytes()
}

/// Writes data to stdout, and nothing else does: a program may read it. A reader that has closed
/// the pipe is not an error.
///
/// Fails with `Failed` if it cannot be written otherwise, as to a full disk.
fn print(data: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(data).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(failed("cannot write to standard output", error))
        }
        _ => Ok(()),
    }
}

/// Returns the error of an operation of the program itself.
fn failed(what: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Failed, format!("{what}: {error}")).cause(error)
}
