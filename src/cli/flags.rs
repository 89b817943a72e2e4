//! What may be typed: every flag in one place, with its default and its environment name.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;

use super::definitions::Dataflow;
use super::values::{bytes, duration};
use crate::journal::SyncPolicy;
use crate::settings::{EmptyEpochs, RowOrder};
use crate::sink::format::Format;
use crate::store::Addressing;
use crate::words::Split;

const EXAMPLES: &str = "\
Examples:
  wordtide                                    a demo that needs nothing
  nc -lk 9999                                 then, in a second terminal:
  wordtide localhost 9999                     counts of every 10 s in ./wordtide-out/
  wordtide localhost 9999 --interval 1s -w 2 --to out/counts --suffix txt
  wordtide run --file big.txt --to - --format tsv | sort -k2nr | head
";

/// Counts the words of a line stream per batch interval and publishes each epoch exactly once.
///
/// Lines come from a socket (as `nc -lk` serves it), files or standard input; every batch interval
/// their words are counted on timely/differential dataflow and written as text files, byte for byte
/// those of Spark Streaming's network_wordcount. Without arguments it runs a demo.
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
    /// What to do; counting words where not given.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Host to read lines from, as Spark's program takes it.
    #[arg(value_name = "HOST")]
    pub host: Option<String>,

    /// Its port.
    #[arg(value_name = "PORT")]
    pub port: Option<String>,

    /// The flags of a run.
    #[command(flatten)]
    pub flags: Box<JobFlags>,

    /// Nothing was typed that asks for a run of the user's own.
    #[arg(skip)]
    pub(super) is_bare: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a dataflow: network_wordcount where none is named
    #[command(disable_help_flag = true, disable_help_subcommand = true)]
    Run {
        /// The flags of a run.
        #[command(flatten)]
        flags: Box<JobFlags>,

        /// What is computed.
        #[command(subcommand)]
        dataflow: Option<Dataflow>,
    },
    /// Run a journal again that --keep-journal kept: the same epochs, the same bytes
    #[command(disable_help_flag = true, disable_help_subcommand = true)]
    Replay {
        /// Folder of the journal, or the state that holds it
        dir: PathBuf,

        /// The flags of the run that made it, but for sources, state and output.
        #[command(flatten)]
        flags: Box<JobFlags>,

        /// What is computed.
        #[command(subcommand)]
        dataflow: Option<Dataflow>,
    },
    /// Check the output: put, read back and delete one object under the prefix, and tell how
    #[command(disable_help_flag = true)]
    Check {
        /// The flags of a run.
        #[command(flatten)]
        flags: Box<JobFlags>,
    },
    /// Look at a journal: the folder of one source in a state
    #[command(disable_help_flag = true)]
    Journal {
        /// What to do
        #[command(subcommand)]
        look: JournalCommand,
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

/// How to look at a journal.
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

/// The flags of a run, in groups. Other programs flatten them into their own, switch clap's help
/// flag off (it would take `-h` from the hostfile), and run with [`run_job`](super::run_job).
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
    /// Print help (also -?)
    #[arg(long, short = '?', action = ArgAction::Help)]
    pub help: Option<bool>,
}

/// Where lines come from.
#[derive(Debug, Args)]
#[command(next_help_heading = "Source")]
pub struct SourceFlags {
    /// Connect to HOST:PORT and read lines; may be repeated, and goes round over the processes
    /// unless I= gives it to process I
    #[arg(long, value_name = "[I=]HOST:PORT", env = "WORDTIDE_CONNECT", value_delimiter = ',')]
    pub connect: Vec<String>,

    /// Read a file once; may be repeated
    #[arg(long, value_name = "PATH", env = "WORDTIDE_FILE")]
    pub file: Vec<PathBuf>,

    /// Read standard input
    #[arg(long, env = "WORDTIDE_STDIN")]
    pub stdin: bool,

    /// Finish when the source closes, instead of connecting again
    #[arg(long, env = "WORDTIDE_ONCE")]
    pub once: bool,

    /// Longest line: a longer one is cut at a space
    #[arg(long, value_name = "BYTES", default_value = "16MiB", value_parser = bytes,
        env = "WORDTIDE_MAX_LINE_BYTES")]
    pub max_line_bytes: usize,

    /// Longest word: a longer one is not counted, and that is said
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = bytes,
        env = "WORDTIDE_MAX_WORD_BYTES")]
    pub max_word_bytes: usize,
}

impl SourceFlags {
    /// Whether no source was named.
    pub(super) fn is_none(&self) -> bool {
        self.connect.is_empty() && self.file.is_empty() && !self.stdin
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

    /// Stop when so many epochs are committed
    #[arg(long, value_name = "N", env = "WORDTIDE_EPOCHS")]
    pub epochs: Option<u64>,
}

/// What a word is.
#[derive(Debug, Args)]
#[command(next_help_heading = "Words")]
pub struct WordFlags {
    /// Where lines are split: space (as Spark's program), whitespace, unicode-words
    #[arg(long, value_name = "RULE", default_value = "space", value_parser = split,
        env = "WORDTIDE_SPLIT")]
    pub split: Split,

    /// Count words in lower case
    #[arg(long, env = "WORDTIDE_LOWERCASE")]
    pub lowercase: bool,
}

/// Where counts go, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputFlags {
    /// oss://BUCKET/PREFIX, s3://BUCKET/PREFIX, a path prefix, or - for standard output
    /// [default: wordtide-out/counts]
    #[arg(long, value_name = "PREFIX", env = "WORDTIDE_TO")]
    pub to: Option<String>,

    /// What the directories' names end in, behind a dot
    #[arg(long, value_name = "SUFFIX", env = "WORDTIDE_SUFFIX")]
    pub suffix: Option<String>,

    /// Bytes of a row: python, scala, tsv, csv, jsonl
    #[arg(long, value_name = "FORMAT", default_value = "python", env = "WORDTIDE_FORMAT")]
    pub format: Format,

    /// Parts of a result [default: the number of workers at the first start]
    #[arg(long, value_name = "P", env = "WORDTIDE_PARTS")]
    pub parts: Option<u32>,

    /// For an epoch without rows: marker (_SUCCESS alone), skip (nothing), write (empty parts too)
    #[arg(long, value_name = "WHAT", default_value = "marker", env = "WORDTIDE_EMPTY_EPOCHS")]
    pub empty_epochs: EmptyEpochs,

    /// Order of rows in a part: hash (costs nothing) or word
    #[arg(long, value_name = "ORDER", default_value = "hash", env = "WORDTIDE_SORT")]
    pub sort: RowOrder,
}

/// How an object store is reached. Credentials come from the environment and standard files only.
#[derive(Debug, Args)]
#[command(next_help_heading = "Object stores")]
pub struct StoreFlags {
    /// OSS endpoint, as oss-cn-hangzhou-internal.aliyuncs.com [also: in --to, OSS_ENDPOINT]
    #[arg(long, value_name = "HOST", env = "WORDTIDE_OSS_ENDPOINT")]
    pub oss_endpoint: Option<String>,

    /// OSS region, as cn-hangzhou, where the endpoint's name does not tell it
    #[arg(long, value_name = "REGION", env = "WORDTIDE_OSS_REGION")]
    pub oss_region: Option<String>,

    /// S3 endpoint; AWS's own where not given
    #[arg(long, value_name = "URL", env = "WORDTIDE_S3_ENDPOINT")]
    pub s3_endpoint: Option<String>,

    /// S3 region [also: AWS_REGION]
    #[arg(long, value_name = "REGION", env = "WORDTIDE_S3_REGION")]
    pub s3_region: Option<String>,

    /// How S3 requests name the bucket: auto, virtual-hosted, path
    #[arg(long, value_name = "STYLE", default_value = "auto", value_parser = addressing,
        env = "WORDTIDE_S3_ADDRESSING")]
    pub s3_addressing: Addressing,

    /// PEM file with certificates to trust beside the system's
    #[arg(long, value_name = "FILE", env = "WORDTIDE_CA_FILE")]
    pub ca_file: Option<PathBuf>,

    /// Allow plain http to other hosts
    #[arg(long, env = "WORDTIDE_ALLOW_HTTP")]
    pub allow_http: bool,

    /// Start although another job has committed under this prefix a short while ago
    #[arg(long, env = "WORDTIDE_TAKE_OVER")]
    pub take_over: bool,
}

/// Who counts.
#[derive(Debug, Args)]
#[command(next_help_heading = "Workers")]
pub struct WorkerFlags {
    /// Worker threads in each process
    #[arg(
        short = 'w',
        long,
        visible_alias = "workers",
        value_name = "N",
        default_value_t = 1,
        env = "WORDTIDE_THREADS"
    )]
    pub threads: usize,

    /// Processes of the cluster; without -p and addresses they are all started here
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, env = "WORDTIDE_PROCESSES")]
    pub processes: usize,

    /// Index of this process, from 0; auto takes the number at the end of the host's name
    #[arg(short = 'p', long, value_name = "I|auto", env = "WORDTIDE_PROCESS")]
    pub process: Option<String>,

    /// File with the address HOST:PORT of each process, one a line (help is --help or -?)
    #[arg(
        short = 'h',
        long,
        value_name = "FILE",
        env = "WORDTIDE_HOSTFILE",
        conflicts_with = "addresses"
    )]
    pub hostfile: Option<PathBuf>,

    /// The same addresses as a list
    #[arg(long, value_name = "HOST:PORT,…", env = "WORDTIDE_ADDRESSES")]
    pub addresses: Option<String>,

    /// File with the secret that the processes of a cluster share; needed beyond loopback
    #[arg(long, value_name = "FILE", env = "WORDTIDE_MESH_KEY_FILE")]
    pub mesh_key_file: Option<PathBuf>,

    /// How long to wait for the other processes at start
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration,
        env = "WORDTIDE_START_TIMEOUT")]
    pub start_timeout: Duration,

    /// How long a process may be silent while its host is there
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration,
        env = "WORDTIDE_STALL_TIMEOUT")]
    pub stall_timeout: Duration,

    /// How often processes started here are all started again when one fails
    #[arg(long, value_name = "N", default_value_t = 0, env = "WORDTIDE_RESTART")]
    pub restart: u32,
}

/// What survives a restart.
#[derive(Debug, Args)]
#[command(next_help_heading = "State")]
pub struct StateFlags {
    /// Directory of this job's state [default: one of its own below ./wordtide-state/]
    #[arg(long, value_name = "DIR", env = "WORDTIDE_STATE", conflicts_with = "no_state")]
    pub state: Option<PathBuf>,

    /// Keep no state: a crash loses what was read and not committed
    #[arg(long, env = "WORDTIDE_NO_STATE")]
    pub no_state: bool,

    /// When the journal is forced to disk: epoch (before an epoch is published, and every
    /// --sync-every), always, never
    #[arg(long, value_name = "WHEN", default_value = "epoch", value_parser = sync,
        env = "WORDTIDE_SYNC")]
    pub sync: SyncPolicy,

    /// Longest time that a byte which was read is not on disk: what a power loss may lose
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration,
        env = "WORDTIDE_SYNC_EVERY")]
    pub sync_every: Duration,

    /// Most bytes of the journal; reading stops when it is full of lines not committed. A line
    /// that takes half of its source's share is cut at a space
    #[arg(long, value_name = "BYTES", default_value = "4GiB", value_parser = bytes,
        env = "WORDTIDE_JOURNAL_MAX")]
    pub journal_max: usize,

    /// Most memory for results that wait for a store that is away or slow: what is above goes to
    /// files in the state, as much as --journal-max; without state, reading stops instead
    #[arg(long, value_name = "BYTES", default_value = "32MiB", value_parser = bytes,
        env = "WORDTIDE_RESULTS_MEMORY")]
    pub results_memory: usize,

    /// Keep what is done with in the journal, for `wordtide replay`
    #[arg(long, env = "WORDTIDE_KEEP_JOURNAL")]
    pub keep_journal: bool,

    /// Start without a journal that is gone, and without the lines in it; may be repeated
    #[arg(long, value_name = "ID", env = "WORDTIDE_ABANDON_JOURNAL", value_delimiter = ',')]
    pub abandon_journal: Vec<String>,
}

/// How it ends.
#[derive(Debug, Args)]
#[command(next_help_heading = "Stop")]
pub struct StopFlags {
    /// How long a stop (SIGINT, SIGTERM) may take to commit what was read
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration,
        env = "WORDTIDE_STOP_TIMEOUT")]
    pub stop_timeout: Duration,
}

/// What is said meanwhile, on standard error.
#[derive(Debug, Args)]
#[command(next_help_heading = "Watch")]
pub struct WatchFlags {
    /// Say more; twice for all
    #[arg(short = 'v', long, action = ArgAction::Count, env = "WORDTIDE_VERBOSE")]
    pub verbose: u8,

    /// Say less: warnings only; twice for errors only
    #[arg(short = 'q', long, action = ArgAction::Count, env = "WORDTIDE_QUIET")]
    pub quiet: u8,
}

fn sync(name: &str) -> Result<SyncPolicy, String> {
    match name {
        "epoch" => Ok(SyncPolicy::Epoch),
        "always" => Ok(SyncPolicy::Always),
        "never" => Ok(SyncPolicy::Never),
        _ => Err("give one of: epoch always never".to_owned()),
    }
}

fn addressing(name: &str) -> Result<Addressing, String> {
    match name {
        "auto" => Ok(Addressing::Auto),
        "virtual-hosted" => Ok(Addressing::VirtualHosted),
        "path" => Ok(Addressing::Path),
        _ => Err("give one of: auto virtual-hosted path".to_owned()),
    }
}

fn split(name: &str) -> Result<Split, String> {
    match name {
        "space" => Ok(Split::Space),
        "whitespace" => Ok(Split::Whitespace),
        "unicode-words" => Ok(Split::UnicodeWords),
        _ => Err("give one of: space whitespace unicode-words".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_flags_do_not_contradict_each_other() {
        super::super::command().debug_assert();
    }

    #[test]
    fn a_program_that_takes_the_flags_in_describes_itself() {
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

    #[test]
    fn every_flag_of_a_run_has_an_environment_name_and_a_heading() {
        let cli = super::super::command();
        let run = cli.find_subcommand("run").expect("a run command");
        for flag in run.get_arguments().filter(|flag| flag.get_id() != "help") {
            let name = flag.get_id().as_str().to_uppercase();
            let env = flag.get_env().map(|env| env.to_string_lossy().into_owned());
            assert_eq!(env, Some(format!("WORDTIDE_{name}")));
            assert!(flag.is_positional() || flag.get_help_heading().is_some(), "{name}");
        }
    }
}
