//! Flags of the state: what survives a restart.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::TypedValueParser;

use super::super::parse_values::{bytes, choice, duration, trimmed};
use crate::journal::SyncPolicy;

/// Where states are kept by default.
pub const DEFAULT_STATE: &str = "wordtide-state";

/// Flags of the state that survives a restart.
#[derive(Debug, Args)]
#[command(next_help_heading = "State")]
pub struct StateFlags {
    /// State folder of this job [default: one of its own below ./wordtide-state/]
    #[arg(long, value_name = "DIR", env = "WORDTIDE_STATE", conflicts_with = "no_state")]
    pub state: Option<PathBuf>,

    /// Keep no state: a crash loses what was read and not committed
    #[arg(long, env = "WORDTIDE_NO_STATE")]
    pub no_state: bool,

    /// When the journal is forced to disk: before an epoch is published and every --sync-every, at
    /// each write, or only when a segment is full
    #[arg(long, value_name = "WHEN", default_value = "epoch", value_parser = sync(),
        env = "WORDTIDE_SYNC")]
    pub sync: SyncPolicy,

    /// Longest time that a byte which was read is not on disk: what a power loss may lose
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration,
        env = "WORDTIDE_SYNC_EVERY")]
    pub sync_every: Duration,

    /// Most bytes of the journal; reading stops when it is full of lines that are not committed. A
    /// line that takes half of its source's share is cut at a space
    #[arg(long, value_name = "BYTES", default_value = "4GiB", value_parser = bytes,
        env = "WORDTIDE_JOURNAL_MAX")]
    pub journal_max: usize,

    /// Most memory for results that wait for a store that is away or slow. What is above goes to
    /// files in the state folder, as much as --journal-max; without state, reading stops instead
    #[arg(long, value_name = "BYTES", default_value = "32MiB", value_parser = bytes,
        env = "WORDTIDE_RESULTS_MEMORY")]
    pub results_memory: usize,

    /// Keep the committed lines in the journal, for `wordtide replay`
    #[arg(long, env = "WORDTIDE_KEEP_JOURNAL")]
    pub keep_journal: bool,

    /// Start without a journal that is missing, damaged or refused, and without the lines in it.
    /// Its folder is kept aside in the state. Can be repeated
    #[arg(long, value_name = "ID", env = "WORDTIDE_ABANDON_JOURNAL", value_delimiter = ',',
        value_parser = trimmed)]
    pub abandon_journal: Vec<String>,
}

fn sync() -> impl TypedValueParser<Value = SyncPolicy> {
    choice(&[
        ("epoch", SyncPolicy::Epoch),
        ("always", SyncPolicy::Always),
        ("never", SyncPolicy::Never),
    ])
}
