//! The flags of the commands: each with its default and, where a run has it, its environment
//! variable. Those of a run are in groups.

mod bench;
mod feed;
mod output;
mod profile;
mod sources;
mod state;
mod state_list;
mod stores;
mod words;
mod workers;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::log_format::LogFormat;
use super::parse_values::{duration, named, trimmed};

pub use bench::{BenchFlags, Beside, TextChoice};
pub use feed::FeedFlags;
pub use output::OutputFlags;
pub use profile::ProfileFlags;
pub use sources::SourceFlags;
pub use state::{DEFAULT_STATE, StateFlags};
pub use state_list::{ListForm, StateArgs};
pub use stores::StoreFlags;
pub use words::WordFlags;
pub use workers::WorkerFlags;

/// The flags of a run, in groups. Other programs flatten them into their own, switch clap's help
/// flag off (it would take `-h` from the hostfile), parse with [`parse`](super::parse) and run with
/// [`run_job`](super::run_job).
#[derive(Debug, Args)]
#[command(about = None, long_about = None)] // this text is not for their users
#[allow(missing_docs)] // each group is documented at its type
pub struct JobFlags {
    #[command(flatten)]
    pub source: SourceFlags,
    #[command(flatten)]
    pub epochs: EpochFlags,
    #[command(flatten)]
    pub words: WordFlags,
    #[command(flatten)]
    pub output: OutputFlags,
    #[command(flatten)]
    pub store: StoreFlags,
    #[command(flatten)]
    pub workers: WorkerFlags,
    #[command(flatten)]
    pub state: StateFlags,
    #[command(flatten)]
    pub stop: StopFlags,
    #[command(flatten)]
    pub watch: WatchFlags,
    #[command(flatten)]
    pub profile: ProfileFlags,
    #[command(flatten)]
    pub file: FileFlags,
    /// Print help (also -?)
    #[arg(long, short = '?', action = ArgAction::Help)]
    pub help: Option<bool>,
}

impl JobFlags {
    /// Returns true if a later start can finish the epochs that this one leaves.
    pub fn keeps_state(&self) -> bool {
        // What goes to a pipe is gone: no later start could go on from there.
        let to_a_pipe = self.output.to.as_deref() == Some("-");
        self.state.state.is_some() || !(self.state.no_state || to_a_pipe)
    }
}

/// When an epoch ends.
#[derive(Debug, Args)]
#[command(next_help_heading = "Epochs")]
pub struct EpochFlags {
    /// Batch interval, from 10ms to 24h
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration,
        env = "WORDTIDE_INTERVAL")]
    pub interval: Duration,

    /// Stop after this many committed epochs
    #[arg(long, value_name = "N", env = "WORDTIDE_EPOCHS")]
    pub epochs: Option<u64>,
}

/// How a run ends.
#[derive(Debug, Args)]
#[command(next_help_heading = "Stop")]
pub struct StopFlags {
    /// Longest time that a stop (SIGINT, SIGTERM, SIGHUP) may take to commit what was read
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration,
        env = "WORDTIDE_STOP_TIMEOUT")]
    pub stop_timeout: Duration,
}

/// Flags that show a run: a page, metrics, and the log on standard error.
#[derive(Debug, Args)]
#[command(next_help_heading = "Watch")]
pub struct WatchFlags {
    /// Show the run at http://ADDR:PORT/ : a live page, /metrics, /health, /ready and /api/v1. Port
    /// 0 is a free one. With -n alone process I has PORT + I. `systemd` takes the socket named http
    /// that the service manager has opened
    #[arg(long, value_name = "ADDR:PORT", env = "WORDTIDE_HTTP", value_parser = trimmed)]
    pub http: Option<String>,

    /// Form of the lines on standard error: text, or one JSON object a line
    #[arg(long, value_name = "FORM", default_value = "text", value_parser = named::<LogFormat>(),
        env = "WORDTIDE_LOG_FORMAT")]
    pub log_format: LogFormat,

    /// Log more; twice for everything
    #[arg(short = 'v', long, action = ArgAction::Count, env = "WORDTIDE_VERBOSE")]
    pub verbose: u8,

    /// Log warnings only; twice for errors only
    #[arg(short = 'q', long, action = ArgAction::Count, env = "WORDTIDE_QUIET")]
    pub quiet: u8,
}

/// Where other flags can stand.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub struct FileFlags {
    /// Settings file: TOML whose keys are the long names of flags. The command line and the
    /// environment win over it; `wordtide config` prints one
    #[arg(long, value_name = "FILE", env = "WORDTIDE_CONFIG")]
    pub config: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    #[test]
    fn program_with_the_flags_describes_itself() {
        use clap::CommandFactory;

        #[derive(clap::Parser)]
        #[command(disable_help_flag = true)]
        struct Silent {
            #[command(flatten)]
            _job: super::JobFlags,
        }
        assert!(Silent::command().get_about().is_none());

        /// Counts sheep.
        #[derive(clap::Parser)]
        #[command(disable_help_flag = true)]
        struct Described {
            #[command(flatten)]
            _job: super::JobFlags,
        }
        let about = Described::command().get_about().map(ToString::to_string);
        assert_eq!(about.as_deref(), Some("Counts sheep"));
    }
}
