//! The commands, and how arguments become one of them.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use super::config_command;
use super::config_file::{self, SettingsFile};
use super::definitions::{self, Dataflow};
use super::environment;
use super::flags::{BenchFlags, FeedFlags, JobFlags, StateArgs};
use super::given_flags::SettingOrigin;
use super::parse_values::choice;
use super::precedence::{self, FoundSetting, Parsed, Refusal};
use crate::error::Error;
use crate::trace::ProfileFormat;

/// Shown after help, and in the man page.
pub const EXAMPLES: &str = "\
Examples:
  wordtide                                    a demo that needs nothing
  nc -lk 9999                                 then, in a second terminal:
  wordtide localhost 9999                     counts of every 10 s in ./wordtide-out/
  wordtide localhost 9999 --interval 1s -w 2 --to out/counts --suffix txt
  wordtide run --file big.txt --to - --format tsv | sort -k2nr | head
";

/// The formats of `wordtide profile`.
const PROFILE_FORMATS: [(&str, ProfileFormat); 2] =
    [("table", ProfileFormat::Table), ("folded", ProfileFormat::Folded)];

/// Flags that do not make a run of the demo.
const FLAGS_OF_THE_DEMO: [&str; 5] = ["verbose", "quiet", "stop_timeout", "http", "token_file"];

/// Counts the words of a line stream per batch interval and publishes each epoch exactly once.
///
/// Lines come from a socket (as `nc -lk` serves it), from files or from standard input. Every batch
/// interval, their words are counted on timely and differential dataflow and written as text files,
/// byte for byte those of Spark Streaming's network_wordcount. Without arguments it runs a demo.
///
/// Each flag can also be given by the environment variable that its help names. A flag on the
/// command line wins; an empty variable is unset; a switch is true, 1, yes, or false, 0, no.
#[derive(Debug, Parser)]
#[command(
    name = "wordtide",
    version,
    after_help = EXAMPLES,
    disable_help_flag = true,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    max_term_width = 100
)]
pub struct Cli {
    /// The command; a run of network_wordcount if none is given.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Host to read lines from, as in Spark's program
    #[arg(value_name = "HOST")]
    pub host: Option<String>,

    /// Port of the host
    #[arg(value_name = "PORT")]
    pub port: Option<String>,

    /// The flags of a run.
    #[command(flatten)]
    pub flags: Box<JobFlags>,

    /// Nothing was typed that asks for a run of the user's own.
    #[arg(skip)]
    pub(crate) is_bare: bool,

    /// The settings in force, for `wordtide config`.
    #[arg(skip)]
    pub(crate) settings: String,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a dataflow: network_wordcount if none is named
    #[command(disable_help_flag = true, disable_help_subcommand = true)]
    Run {
        /// The flags of a run.
        #[command(flatten)]
        flags: Box<JobFlags>,

        /// The definition.
        #[command(subcommand)]
        dataflow: Option<Dataflow>,
    },
    /// Run the lines of a journal again that --keep-journal kept: the same epochs, the same bytes
    #[command(disable_help_flag = true, disable_help_subcommand = true)]
    Replay {
        /// Folder of the journal, or the state folder that holds it
        dir: PathBuf,

        /// The flags of the run that wrote it, except for sources, state and output.
        #[command(flatten)]
        flags: Box<JobFlags>,

        /// The definition.
        #[command(subcommand)]
        dataflow: Option<Dataflow>,
    },
    /// Print every setting in force, and where it comes from, as a file for --config
    #[command(disable_help_flag = true, disable_help_subcommand = true)]
    Config {
        /// The flags of a run.
        #[command(flatten)]
        flags: Box<JobFlags>,

        /// The definition.
        #[command(subcommand)]
        dataflow: Option<Dataflow>,
    },
    /// Check the output: put, list, read back and delete one object under the prefix
    #[command(disable_help_flag = true)]
    Check {
        /// The flags of a run.
        #[command(flatten)]
        flags: Box<JobFlags>,
    },
    /// List the states of jobs: what runs, what is not committed; or remove states
    #[command(disable_help_flag = true)]
    State {
        /// The folders, and what to do.
        #[command(flatten)]
        states: StateArgs,
    },
    /// Inspect a journal: the folder of one source in a state folder
    #[command(disable_help_flag = true)]
    Journal {
        /// How to inspect it.
        #[command(subcommand)]
        look: JournalCommand,
    },
    /// Send lines to a run with --listen-http, each exactly once
    #[command(disable_help_flag = true)]
    Feed {
        /// The lines to send, and the server.
        #[command(flatten)]
        flags: Box<FeedFlags>,
    },
    /// Measure how fast the program is here, beside others, with every count checked
    #[command(disable_help_flag = true)]
    Bench {
        /// The runs.
        #[command(flatten)]
        flags: Box<BenchFlags>,
    },
    /// Print where the time of a run went, from the files that --events wrote
    #[command(disable_help_flag = true)]
    Profile {
        /// The form: a table, or folded stacks for flame graph programs
        #[arg(long, value_name = "FORM", default_value = "table",
            value_parser = choice(&PROFILE_FORMATS))]
        format: ProfileFormat,

        /// The files of events, one a process
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// List the dataflows
    List,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the man page
    Man,
}

/// How to inspect a journal.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Verify every record; exit code 74 if any is damaged
    #[command(disable_help_flag = true)]
    Check {
        /// Folder of the journal: STATE/journal-…
        dir: PathBuf,
    },
    /// Print every record, one a line
    #[command(disable_help_flag = true)]
    Dump {
        /// Folder of the journal: STATE/journal-…
        dir: PathBuf,
    },
}

/// Returns the commands with all that cannot be declared where the flags are: the descriptions of
/// the definitions, flags that may stand before and after a definition's name, help everywhere.
pub fn command() -> clap::Command {
    add_undeclared(Cli::command())
}

/// Adds to commands, as they are derived, all that cannot be declared where the flags are.
pub fn add_undeclared(command: clap::Command) -> clap::Command {
    let describe = |run: clap::Command| {
        let global = |flag: clap::Arg| {
            let is_flag = !flag.is_positional();
            flag.global(is_flag)
        };
        definitions::describe(run.mut_args(global))
    };
    let runs = ["run", "replay", "config"];
    refine(runs.into_iter().fold(command, |all, run| all.mut_subcommand(run, describe)), false)
}

/// Gives a command and those below it a help flag, unless they have one or inherit it.
pub fn refine(command: clap::Command, inherits_help: bool) -> clap::Command {
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

/// Refuses a number with a minus as a value of its flag, not as an unknown flag; and keeps the
/// values of variables, which may be secrets, out of help.
fn lenient(argument: clap::Arg) -> clap::Arg {
    let is_number =
        |name: &clap::builder::Str| ["N", "P", "I|auto", "TIME", "BYTES"].contains(&name.as_str());
    let argument = argument.hide_env_values(true);
    match argument.get_action() {
        ArgAction::SetTrue | ArgAction::Count | ArgAction::Help | ArgAction::Version => argument,
        _ if argument.is_positional() => argument.allow_negative_numbers(true),
        _ if argument.get_value_names().is_some_and(|names| names.iter().any(is_number)) => {
            argument.allow_hyphen_values(true)
        }
        _ => argument,
    }
}

/// Parses the arguments of the program, with the environment where the command line is silent.
///
/// Fails with the parser's refusal, or with that of a setting from another place, which it names.
pub fn parse(
    mut arguments: Vec<OsString>,
    lookup: impl Fn(&OsStr) -> Option<OsString> + Copy,
) -> Result<Cli, Refusal> {
    let command = command();
    let file = settings_file(&command, &arguments, lookup)?;
    let dataflow = name_dataflow(&command, &mut arguments, file.as_ref(), lookup)?;
    let parsed = precedence::parse(&command, &arguments, |flag| find(flag, file.as_ref(), lookup))?;
    let Parsed { matches, typed, .. } = &parsed;
    let is_bare = matches.subcommand().is_none() && is_demo(typed);
    let settings = match matches.subcommand() {
        Some(("config", run)) => {
            if let Some((name, _)) = run.subcommand() {
                definitions::check(name, "")?;
            }
            config_command::of(&command, &parsed, dataflow.as_ref())?
        }
        _ => String::new(),
    };
    Ok(Cli { is_bare, settings, ..Cli::from_arg_matches(matches)? })
}

/// Reads the settings file, if one is named and the command takes settings: help and the list of
/// states are there also when the file is not.
///
/// # Errors
///
/// `Configuration` if it cannot be read, `Usage` if it is no file of settings; clap's call for
/// help.
pub fn settings_file(
    command: &clap::Command,
    arguments: &[OsString],
    lookup: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<Option<SettingsFile>, Refusal> {
    let takes_settings = |matches: &clap::ArgMatches| {
        let flags = precedence::Flags::of(command, matches).0;
        flags.iter().any(|(_, flag)| flag.get_id() == "config")
    };
    let Some(path) = config_file::named(arguments, lookup) else { return Ok(None) };
    match precedence::parse_typed(command, arguments) {
        Err(help) if !help.use_stderr() => Err(help.into()),
        Ok(matches) if !takes_settings(&matches) => Ok(None),
        _ => Ok(Some(SettingsFile::read(command, path)?)),
    }
}

/// Looks a flag up where it can stand beside the command line, the strongest place first.
///
/// Fails with `Usage` for a value that the flag does not take.
pub fn find(
    flag: &clap::Arg,
    file: Option<&SettingsFile>,
    lookup: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<Option<FoundSetting>, Error> {
    match (environment::find(flag, lookup)?, file) {
        (None, Some(file)) => file.find(flag),
        (found, _) => Ok(found),
    }
}

/// Adds the definition that the environment or the file names, if a run does not name one; returns
/// where it stands.
fn name_dataflow(
    command: &clap::Command,
    arguments: &mut Vec<OsString>,
    file: Option<&SettingsFile>,
    lookup: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<Option<SettingOrigin>, Error> {
    let variable = lookup(OsStr::new(environment::DATAFLOW)).and_then(environment::meant);
    let in_file = || file.and_then(|file| Some((file.dataflow()?.into(), file.place())));
    let variable =
        variable.map(|name| (name, SettingOrigin::Variable(environment::DATAFLOW.to_owned())));
    let Some((name, place)) = variable.or_else(in_file) else { return Ok(None) };
    let Some(at) = place_of_dataflow(command, arguments, &place) else { return Ok(None) };
    definitions::check(&name.to_string_lossy(), &format!("{place}: "))?;
    if at == 1 {
        arguments.insert(1, OsString::from("run"));
    }
    // Also where the line without it does not parse: its flags may be the definition's own.
    arguments.insert(at.max(2), name);
    Ok(Some(place))
}

/// Returns where the arguments of a run lack the name of its definition: 1 if they also lack the
/// command, `None` if they lack nothing.
fn place_of_dataflow(
    command: &clap::Command,
    arguments: &[OsString],
    place: &SettingOrigin,
) -> Option<usize> {
    let typed = precedence::parse_typed(command, arguments);
    let is_named = |matches: &clap::ArgMatches| {
        matches.subcommand().is_some_and(|(_, run)| run.subcommand().is_some())
    };
    let is_flag = |at: usize| arguments.get(at).is_none_or(|it| it.as_bytes().starts_with(b"-"));
    let at = match arguments.get(1).and_then(|first| first.to_str()) {
        Some("run" | "config") => Some(2),
        // The folder comes first.
        Some("replay") if !is_flag(2) => Some(3),
        Some("replay") => Some(arguments.len()),
        _ => None,
    };
    if at.is_some() {
        return at.filter(|_| !typed.is_ok_and(|matches| is_named(&matches)));
    }
    let matches = typed.ok().filter(|matches| matches.subcommand().is_none())?;
    // A file that names a definition can stand for the whole command; a variable cannot, since
    // without any flag the program is a demo.
    let typed = precedence::Flags::of(command, &matches).typed(&matches);
    let stands_alone = matches!(place, SettingOrigin::File(_)) || !is_demo(&typed);
    (stands_alone && !matches.contains_id("host")).then_some(1)
}

/// Returns true if nothing was typed that asks for a run of the user's own; `typed` has the ids of
/// what was.
fn is_demo(typed: &BTreeSet<String>) -> bool {
    typed.iter().all(|id| FLAGS_OF_THE_DEMO.contains(&id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_do_not_contradict_each_other() {
        command().debug_assert();
    }

    #[test]
    fn run_flags_have_a_variable_and_a_heading() {
        let cli = command();
        let run = cli.find_subcommand("run").expect("a run command");
        for flag in run.get_arguments().filter(|flag| flag.get_id() != "help") {
            let name = flag.get_id().as_str().to_uppercase();
            let env = flag.get_env().map(|env| env.to_string_lossy().into_owned());
            assert_eq!(env, Some(format!("WORDTIDE_{name}")));
            assert!(flag.is_positional() || flag.get_help_heading().is_some(), "{name}");
        }
    }
}
