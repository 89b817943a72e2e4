//! The definitions as subcommands of `run`, each with flags of its own.
//!
//! A parameter that shapes the result is part of the job's name, and so of its identity: a job with
//! another window is another job.

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, TypedValueParser};
use clap::{Args, Command, Subcommand, value_parser};

use super::parse_values::{choice, duration, nearest, show};
use crate::dataflows::{
    self, field_count, line_archive, network_wordcount, running_totals, sliding_windows, top_k,
};
use crate::error::{Error, ErrorKind, Result};
use crate::job::JobBuilder;
use crate::operators::Window;
use crate::regex::bytes::Regex;

/// The dataflows and their flags.
#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
#[allow(missing_docs)] // they are documented in `dataflows`
pub enum Dataflow {
    NetworkWordcount,
    RunningTotals(TotalsFlags),
    SlidingWindows(WindowFlags),
    TopK(TopFlags),
    LineArchive,
    FieldCount(FieldFlags),
    /// A name that is none of these.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// The flags of `running_totals`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
pub struct TotalsFlags {
    /// Which totals an epoch publishes: those of all words, or of the words in it
    #[arg(long, value_name = "WHAT", default_value = "complete", value_parser = emit(),
        env = "WORDTIDE_EMIT")]
    pub emit: Emit,

    /// Fail when there are more distinct words than this
    #[arg(long, value_name = "N", env = "WORDTIDE_MAX_KEYS",
        value_parser = value_parser!(u64).range(1..))]
    pub max_keys: Option<u64>,
}

/// Which totals are published.
#[derive(Clone, Copy, Debug)]
pub enum Emit {
    /// All of them.
    Complete,
    /// Those of the words that changed.
    Changes,
}

fn emit() -> impl TypedValueParser<Value = Emit> {
    choice(&[("complete", Emit::Complete), ("changes", Emit::Changes)])
}

/// The flags of `sliding_windows`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
pub struct WindowFlags {
    /// Length of a window: a multiple of the interval
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration,
        env = "WORDTIDE_WINDOW")]
    pub window: Duration,

    /// Time from the end of a window to the next: a multiple of the interval; epochs in between
    /// publish nothing
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration,
        env = "WORDTIDE_SLIDE")]
    pub slide: Duration,
}

/// The flags of `top_k`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
pub struct TopFlags {
    /// Number of words in the ranking
    #[arg(long, value_name = "N", default_value_t = 20, env = "WORDTIDE_K")]
    pub k: usize,
}

/// The flags of `field_count`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
pub struct FieldFlags {
    /// Count the values of this field, from 1
    #[arg(long, value_name = "N", env = "WORDTIDE_FIELD")]
    pub field: Option<usize>,

    /// Separator of fields: one or more characters; \t is a tab
    #[arg(
        long,
        value_name = "C",
        env = "WORDTIDE_DELIMITER",
        default_value = " ",
        conflicts_with = "regex"
    )]
    pub delimiter: String,

    /// Count the first match of this regular expression in each line: group 1 if there is one, else
    /// the whole match
    #[arg(long, value_name = "RE", env = "WORDTIDE_REGEX", conflicts_with = "field",
        value_parser = NonEmptyStringValueParser::new())]
    pub regex: Option<String>,
}

/// Refuses a name that is no definition's; `place` is where it stands, if that is not the command
/// line.
///
/// # Errors
///
/// `Usage`, with the names that there are and the one that was meant.
pub fn check(name: &str, place: &str) -> Result<()> {
    let known = || dataflows::ALL.iter().map(|listed| listed.name);
    if known().any(|known| known == name) {
        return Ok(());
    }
    let meant = nearest(name, known());
    let meant = meant.map(|meant| format!("did you mean {meant}? ")).unwrap_or_default();
    let names = known().collect::<Vec<_>>().join(" ");
    Err(Error::new(ErrorKind::Usage, format!("{place}there is no dataflow {name:?}"))
        .hint(format!("{meant}give one of: {names}; see `wordtide list`")))
}

/// Gives the definitions the descriptions they are listed with.
pub fn describe(run: Command) -> Command {
    dataflows::ALL.iter().fold(run, |run, listed| {
        run.mut_subcommand(listed.name, |command| {
            command.about(listed.gives).disable_help_flag(true)
        })
    })
}

impl Dataflow {
    /// Gives the definition to the job, whose epochs are `interval` long.
    ///
    /// Fails with `Usage` for parameters that are out of range or do not fit the interval, and for
    /// a name that is no definition.
    pub fn define(self, job: JobBuilder, interval: Duration) -> Result<JobBuilder> {
        Ok(match self {
            Dataflow::NetworkWordcount => {
                job.dataflow("network_wordcount", network_wordcount::dataflow)
            }
            Dataflow::RunningTotals(TotalsFlags { emit, max_keys }) => match emit {
                Emit::Complete => {
                    job.dataflow("running_totals emit=complete", running_totals::dataflow(max_keys))
                }
                Emit::Changes => job
                    .dataflow_rows("running_totals emit=changes", running_totals::changes(max_keys))
                    .publishes_changes(),
            },
            Dataflow::SlidingWindows(WindowFlags { window, slide }) => {
                Window::new(window, slide).check(interval)?;
                let name = format!("sliding_windows window={} slide={}", show(window), show(slide));
                job.dataflow(name, sliding_windows::dataflow(window, slide))
                    .windows_end_every(slide)
            }
            Dataflow::TopK(TopFlags { k: 0 }) => {
                let message = "a ranking of no words";
                return Err(Error::new(ErrorKind::Usage, message).hint("give --k at least 1"));
            }
            Dataflow::TopK(TopFlags { k }) => {
                job.dataflow_rows(format!("top_k k={k}"), top_k::dataflow(k))
            }
            Dataflow::LineArchive => job
                .dataflow_rows("line_archive", line_archive::dataflow)
                .whole_lines()
                .publishes_lines(),
            Dataflow::FieldCount(flags) => {
                let (name, field) = flags.field()?;
                job.dataflow(name, field_count::dataflow(field)).whole_lines()
            }
            Dataflow::Other(arguments) => {
                let name = arguments.first().map(|name| name.to_string_lossy()).unwrap_or_default();
                check(&name, "")?;
                job
            }
        })
    }
}

impl FieldFlags {
    /// The field, and the job's name with it.
    fn field(self) -> Result<(String, field_count::Field)> {
        let usage = |message: String, hint: &str| Error::new(ErrorKind::Usage, message).hint(hint);
        if let Some(text) = self.regex {
            let regex = Regex::new(&text).map_err(|error| {
                usage(format!("{text:?} is not a regular expression"), "see --regex").cause(error)
            })?;
            return Ok((format!("field_count regex={text:?}"), field_count::Field::Regex(regex)));
        }
        let Some(number) = self.field else {
            return Err(usage(
                "field_count was not given a field".to_owned(),
                "give --field N or --regex RE",
            ));
        };
        if number == 0 {
            return Err(usage("fields are numbered from 1".to_owned(), "give --field at least 1"));
        }
        let delimiter = self.delimiter.replace("\\t", "\t");
        if delimiter.is_empty() {
            return Err(usage(
                "nothing separates the fields".to_owned(),
                "give --delimiter a character",
            ));
        }
        let name = format!("field_count field={number} delimiter={delimiter:?}");
        Ok((name, field_count::Field::Number { number, delimiter: delimiter.into_bytes() }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::commands::{Cli, Command as Chosen, command};
    use super::*;
    use crate::job::Job;
    use clap::FromArgMatches;

    fn parse(arguments: &str) -> (Dataflow, Duration) {
        let arguments = format!("wordtide run {arguments}");
        let matches =
            command().try_get_matches_from(arguments.split(' ')).expect("a valid command line");
        match Cli::from_arg_matches(&matches).expect("a command").command {
            Some(Chosen::Run { dataflow: Some(dataflow), flags }) => {
                (dataflow, flags.epochs.interval)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn definitions_and_commands_are_the_same() {
        let run = command().find_subcommand("run").cloned().expect("a command");
        let commands: Vec<_> = run.get_subcommands().map(|command| command.get_name()).collect();
        let listed: Vec<_> = dataflows::ALL.iter().map(|listed| listed.name).collect();
        assert_eq!(commands, listed);
    }

    #[test]
    fn flags_may_stand_around_the_name() {
        for arguments in [
            "--interval 2s sliding_windows --window 8s --slide 4s",
            "sliding_windows --window 8s --slide 4s --interval 2s",
        ] {
            let (dataflow, interval) = parse(arguments);
            assert_eq!(interval, Duration::from_secs(2), "{arguments}");
            assert!(dataflow.define(Job::builder(), interval).is_ok(), "{arguments}");
        }
    }

    #[test]
    fn definition_that_cannot_run_is_wrong_usage() {
        for (arguments, names) in [
            ("sliding_windows --window 15s", "--window"),
            ("sliding_windows --slide 15s", "--slide"),
            ("sliding_windows --window 5000000000000h", "--window"),
            ("top_k --k 0", "--k"),
            ("field_count --field 0", "--field"),
            ("field_count --regex (", "--regex"),
            ("wordcount --k 3", "network_wordcount running_totals"),
        ] {
            let (dataflow, interval) = parse(arguments);
            let error = dataflow.define(Job::builder(), interval).expect_err(arguments);
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains(names), "{error}");
        }
    }
}
