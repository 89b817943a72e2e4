//! The definitions as subcommands of `run`, each with flags of its own.
//!
//! A parameter that shapes the result is part of the job's name, and so of its identity: a job with
//! another window is another job.

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{Args, Command, Subcommand, ValueEnum, value_parser};

use super::values::{duration, show};
use crate::dataflows::{
    self, field_count, line_archive, network_wordcount, running_totals, sliding_windows, top_k,
};
use crate::error::{Error, ErrorKind, Result};
use crate::job::JobBuilder;
use crate::operators::Window;
use crate::regex::bytes::Regex;

/// What is computed.
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
    /// Which totals each epoch publishes
    #[arg(long, value_name = "WHAT", default_value = "complete", env = "WORDTIDE_EMIT")]
    pub emit: Emit,

    /// End with an error when there are more distinct words than this
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

impl ValueEnum for Emit {
    fn value_variants<'a>() -> &'a [Self] {
        &[Emit::Complete, Emit::Changes]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Emit::Complete => PossibleValue::new("complete").help("every word since the start"),
            Emit::Changes => PossibleValue::new("changes").help("the words of the epoch alone"),
        })
    }
}

/// The flags of `sliding_windows`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
pub struct WindowFlags {
    /// How far a window reaches back: a multiple of the interval
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration,
        env = "WORDTIDE_WINDOW")]
    pub window: Duration,

    /// How often a window ends: a multiple of the interval; epochs in between publish nothing
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration,
        env = "WORDTIDE_SLIDE")]
    pub slide: Duration,
}

/// The flags of `top_k`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
pub struct TopFlags {
    /// How many words
    #[arg(long, value_name = "N", default_value_t = 20, env = "WORDTIDE_K")]
    pub k: usize,
}

/// The flags of `field_count`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
pub struct FieldFlags {
    /// Count the values of this field, from 1
    #[arg(long, value_name = "N", env = "WORDTIDE_FIELD", required_unless_present = "regex")]
    pub field: Option<usize>,

    /// What parts fields: one or more characters, \t for a tabulator
    #[arg(long, value_name = "C", env = "WORDTIDE_DELIMITER", default_value = " ")]
    pub delimiter: String,

    /// Count what this finds first in a line: group 1, or else the whole match
    #[arg(long, value_name = "RE", env = "WORDTIDE_REGEX", conflicts_with = "field")]
    pub regex: Option<String>,
}

/// Gives the definitions the descriptions they are listed with.
pub(super) fn describe(run: Command) -> Command {
    dataflows::ALL.iter().fold(run, |run, listed| {
        run.mut_subcommand(listed.name, |command| {
            command.about(listed.gives).disable_help_flag(true)
        })
    })
}

impl Dataflow {
    /// Gives the definition to the job, whose epochs are `interval` long.
    pub(super) fn define(self, job: JobBuilder, interval: Duration) -> Result<JobBuilder> {
        Ok(match self {
            Dataflow::NetworkWordcount => {
                job.dataflow("network_wordcount", network_wordcount::dataflow)
            }
            Dataflow::RunningTotals(TotalsFlags { emit, max_keys }) => match emit {
                Emit::Complete => {
                    job.dataflow("running_totals emit=complete", running_totals::dataflow(max_keys))
                }
                Emit::Changes => job.dataflow_rows(
                    "running_totals emit=changes",
                    running_totals::changes(max_keys),
                ),
            },
            Dataflow::SlidingWindows(WindowFlags { window, slide }) => {
                Window::new(window, slide).check(interval)?;
                let name = format!("sliding_windows window={} slide={}", show(window), show(slide));
                job.dataflow(name, sliding_windows::dataflow(window, slide))
            }
            Dataflow::TopK(TopFlags { k: 0 }) => {
                let message = "a ranking of no words";
                return Err(Error::new(ErrorKind::Usage, message).hint("give --k at least 1"));
            }
            Dataflow::TopK(TopFlags { k }) => {
                job.dataflow_rows(format!("top_k k={k}"), top_k::dataflow(k))
            }
            Dataflow::LineArchive => {
                job.dataflow_rows("line_archive", line_archive::dataflow).whole_lines()
            }
            Dataflow::FieldCount(flags) => {
                let (name, field) = flags.field()?;
                job.dataflow(name, field_count::dataflow(field)).whole_lines()
            }
            Dataflow::Other(arguments) => {
                let name = arguments.first().map(|name| name.to_string_lossy()).unwrap_or_default();
                let known: Vec<&str> = dataflows::ALL.iter().map(|listed| listed.name).collect();
                let message = format!("there is no dataflow {name:?}");
                return Err(Error::new(ErrorKind::Usage, message)
                    .hint(format!("give one of: {}; see `wordtide list`", known.join(" "))));
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
        let number = self.field.unwrap_or_default();
        if number == 0 {
            return Err(usage("fields are numbered from 1".to_owned(), "give --field at least 1"));
        }
        let delimiter = self.delimiter.replace("\\t", "\t");
        if delimiter.is_empty() {
            return Err(usage(
                "nothing parts the fields".to_owned(),
                "give --delimiter a character",
            ));
        }
        let name = format!("field_count field={number} delimiter={delimiter:?}");
        Ok((name, field_count::Field::Number { number, delimiter: delimiter.into_bytes() }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::flags::{Cli, Command as Chosen};
    use super::*;
    use crate::job::Job;
    use clap::FromArgMatches;

    fn parse(arguments: &str) -> (Dataflow, Duration) {
        let arguments = format!("wordtide run {arguments}");
        let matches = super::super::command()
            .try_get_matches_from(arguments.split(' '))
            .expect("a valid command line");
        match Cli::from_arg_matches(&matches).expect("a command").command {
            Some(Chosen::Run { dataflow: Some(dataflow), flags }) => {
                (dataflow, flags.epochs.interval)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_listed_definition_is_a_command_and_the_other_way_round() {
        let run = super::super::command().find_subcommand("run").cloned().expect("a command");
        let commands: Vec<_> = run.get_subcommands().map(|command| command.get_name()).collect();
        let listed: Vec<_> = dataflows::ALL.iter().map(|listed| listed.name).collect();
        assert_eq!(commands, listed);
    }

    #[test]
    fn the_flags_of_a_run_may_stand_before_and_behind_the_name() {
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
    fn what_cannot_run_is_wrong_usage_that_names_the_flag_or_the_definitions() {
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
