//! Flags of the sources: where lines come from, and how long one may be.

use std::path::PathBuf;

use clap::Args;

use super::super::values::{bytes, trimmed};

/// Where lines come from.
#[derive(Debug, Args)]
#[command(next_help_heading = "Source")]
pub struct SourceFlags {
    /// Connect to HOST:PORT and read lines; can be repeated. Source k belongs to process k modulo
    /// the number of processes, unless I= gives it to process I
    #[arg(long, value_name = "[I=]HOST:PORT", env = "WORDTIDE_CONNECT", value_delimiter = ',',
        value_parser = trimmed)]
    pub connect: Vec<String>,

    /// Read a file once, from its beginning; can be repeated
    #[arg(long, value_name = "PATH", env = "WORDTIDE_FILE")]
    pub file: Vec<PathBuf>,

    /// Read standard input
    #[arg(long, env = "WORDTIDE_STDIN")]
    pub stdin: bool,

    /// Finish when the source closes, instead of connecting again
    #[arg(long, env = "WORDTIDE_ONCE")]
    pub once: bool,

    /// Longest line; a longer one is cut at a space
    #[arg(long, value_name = "BYTES", default_value = "16MiB", value_parser = bytes,
        env = "WORDTIDE_MAX_LINE_BYTES")]
    pub max_line_bytes: usize,

    /// Longest word; a longer one is not counted, and a warning says so
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = bytes,
        env = "WORDTIDE_MAX_WORD_BYTES")]
    pub max_word_bytes: usize,
}

impl SourceFlags {
    /// Returns true if no source was named.
    pub(in crate::cli) fn is_none(&self) -> bool {
        self.connect.is_empty() && self.file.is_empty() && !self.stdin
    }
}
