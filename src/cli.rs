//! The command line: flags to settings, errors to exit codes.
//!
//! Parsing has two steps. `flags` says what may be typed, with defaults and environment names,
//! and nothing more; `run` turns it into the plain values that the library works on. `main`
//! prints and exits; nothing below it does.

mod check;
mod cluster;
mod definitions;
mod demo;
mod exit;
mod flags;
mod log;
mod run;
mod signals;
mod stderr;
mod values;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::builder::BoolishValueParser;
use clap::parser::ValueSource;
use clap::{ArgAction, CommandFactory, FromArgMatches};

use crate::dataflows::{self, Listed};
use crate::error::{Error, ErrorKind, Result};
use crate::job::JobBuilder;

pub use clap;
pub use exit::exit_code;
pub use flags::{Cli, Command, JobFlags, JournalCommand};

/// The flags that a demo takes, too.
const HOW_MUCH_IS_SAID: [&str; 3] = ["verbose", "quiet", "stop_timeout"];

/// The whole program: parses the arguments, does what they say, and returns the exit code.
pub fn main() -> ExitCode {
    let cli = match parse(arguments()) {
        Ok(cli) => cli,
        Err(help_or_error) => {
            // Clap prints help to stdout and mistakes to stderr; a closed pipe is no failure.
            help_or_error.print().ok();
            return ExitCode::from(if help_or_error.use_stderr() { 2 } else { 0 });
        }
    };
    exit::run_to_exit(|| dispatch(cli))
}

/// Runs a job of another program as `wordtide run` would: under signals, as one process of a
/// cluster or the launcher of a whole one, with errors on stderr. Returns the exit code.
///
/// `define` gives the job what the flags do not: what it computes.
pub fn run_job(flags: JobFlags, define: impl FnOnce(JobBuilder) -> JobBuilder) -> ExitCode {
    exit::run_to_exit(|| run::run_job(flags, |job| Ok(define(job))))
}

/// The commands, with what cannot be said where the flags are: the definitions' descriptions, that
/// the flags of a run may stand before and behind the definition's name, and what holds for all.
fn command() -> clap::Command {
    let describe = |run: clap::Command| {
        let global = |flag: clap::Arg| {
            let is_flag = !flag.is_positional();
            flag.global(is_flag)
        };
        definitions::describe(run.mut_args(global))
    };
    refine(Cli::command().mut_subcommand("run", describe).mut_subcommand("replay", describe), false)
}

/// Gives a command and those below it a help flag, unless they have one or inherit it.
fn refine(command: clap::Command, inherits_help: bool) -> clap::Command {
    let help = command.get_arguments().find(|argument| argument.get_id() == "help");
    let has_help = inherits_help || help.is_some();
    let hands_down = inherits_help || help.is_some_and(clap::Arg::is_global_set);
    let below = |command| refine(command, hands_down);
    let command = command.mut_args(lenient).mut_subcommands(below);
    if has_help {
        return command;
    }
    let help = clap::Arg::new("help").long("help").short('?').action(ArgAction::Help);
    command.disable_help_flag(true).arg(help.help("Print help (also -?)"))
}

/// Has a number with a minus refused as a value of its flag, not as a flag that nobody knows; and
/// lets a switch in the environment be 1 or yes, too.
fn lenient(argument: clap::Arg) -> clap::Arg {
    let is_number =
        |name: &clap::builder::Str| ["N", "P", "I|auto", "TIME", "BYTES"].contains(&name.as_str());
    match argument.get_action() {
        ArgAction::SetTrue => argument.value_parser(BoolishValueParser::new()),
        _ if argument.is_positional() => argument.allow_negative_numbers(true),
        _ if argument.get_value_names().is_some_and(|names| names.iter().any(is_number)) => {
            argument.allow_hyphen_values(true)
        }
        _ => argument,
    }
}

/// Parses the arguments; `WORDTIDE_DATAFLOW` names the definition of a run that does not name one.
fn parse(mut arguments: Vec<OsString>) -> clap::error::Result<Cli> {
    let parse = |arguments: &[OsString]| {
        let command = command();
        let matches = command.clone().try_get_matches_from(arguments)?;
        let is_said = |flag: &clap::Arg| {
            let id = flag.get_id().as_str();
            let is_typed = matches.value_source(id) == Some(ValueSource::CommandLine);
            is_typed && !HOW_MUCH_IS_SAID.contains(&id)
        };
        let is_bare = !command.get_arguments().any(is_said);
        Ok(Cli { is_bare, ..Cli::from_arg_matches(&matches)? })
    };
    let cli = parse(&arguments);
    let is_named =
        matches!(&cli, Ok(Cli { command: Some(Command::Run { dataflow: Some(_), .. }), .. }));
    let is_run = arguments.get(1).is_some_and(|command| command == "run");
    match std::env::var_os("WORDTIDE_DATAFLOW") {
        Some(name) if is_run && !is_named && !name.is_empty() => {
            // Not only where that parsed: the flags may be the definition's own.
            arguments.insert(2, name);
            parse(&arguments)
        }
        _ => cli,
    }
}

/// The arguments as given, but for a bare `-h` at the end: there it can only mean help, though
/// elsewhere it is the hostfile, as timely has it.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<_> = std::env::args_os().collect();
    if let Some(last) = arguments.last_mut().filter(|last| *last == "-h") {
        *last = "--help".into();
    }
    arguments
}

/// Does what the arguments say; returns the exit code.
fn dispatch(cli: Cli) -> Result<u8> {
    match cli.command {
        Some(Command::Run { dataflow, flags }) => run::run(dataflow, *flags),
        Some(Command::Replay { dir, dataflow, flags }) => run::replay(dir, dataflow, *flags),
        Some(Command::Check { flags }) => check::run(&flags).map(|()| 0),
        Some(Command::Journal { look }) => journal(&look).map(|()| 0),
        Some(Command::List) => print(&list()).map(|()| 0),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "wordtide", &mut script);
            print(&script).map(|()| 0)
        }
        Some(Command::Man) => {
            let mut page = Vec::new();
            let rendered = clap_mangen::Man::new(command()).render(&mut page);
            rendered.map_err(|error| failed("cannot render the man page", error))?;
            print(&page).map(|()| 0)
        }
        None => match (cli.host, cli.port) {
            (Some(host), Some(port)) => run::spark(&host, &port, *cli.flags),
            (Some(host), None) => {
                Err(Error::new(ErrorKind::Usage, format!("{host:?} has no port")).hint(
                    "give HOST PORT, as in `wordtide localhost 9999`, or a command: see --help",
                ))
            }
            (None, _) if cli.is_bare && cli.flags.source.is_none() => {
                demo::run(&cli.flags).map(|()| 0)
            }
            (None, _) => run::run(None, *cli.flags),
        },
    }
}

/// `wordtide journal check|dump`.
fn journal(look: &JournalCommand) -> Result<()> {
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

fn list() -> Vec<u8> {
    let width = dataflows::ALL.iter().map(|listed| listed.name.len()).max().unwrap_or(0);
    let lines =
        dataflows::ALL.iter().map(|Listed { name, gives }| format!("{name:width$}  {gives}\n"));
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
