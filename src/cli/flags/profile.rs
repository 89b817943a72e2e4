//! Flags of the measurement of operators.

use std::path::PathBuf;

use clap::Args;

use super::super::parse_values::bytes;

/// Where the time of the workers goes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Watch")]
pub struct ProfileFlags {
    /// Write every event of the workers to FILE, for `wordtide profile`: which operator ran when,
    /// on how many records
    #[arg(long, value_name = "FILE", env = "WORDTIDE_EVENTS")]
    pub events: Option<PathBuf>,

    /// Largest size of that file; later events are dropped and counted
    #[arg(long, value_name = "BYTES", default_value = "4GiB", value_parser = bytes,
        env = "WORDTIDE_EVENTS_MAX")]
    pub events_max: usize,
}
