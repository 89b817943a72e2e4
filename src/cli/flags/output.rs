//! Flags of the output: where results go, and as what bytes.

use clap::Args;

use super::super::parse_values::named;
use crate::error::Result;
use crate::outputs::WriteMode;
use crate::outputs::format::{Compression, Format};
use crate::settings::{EmptyEpochs, FolderLayout, RowOrder};
use crate::store::Target;

/// Where results go by default.
const DEFAULT_TO: &str = "wordtide-out/counts";

/// Where results go, and as what bytes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputFlags {
    /// oss://BUCKET/PREFIX, s3://BUCKET/PREFIX, sqlite:PATH, postgres://USER@HOST/DATABASE,
    /// mysql://USER@HOST/DATABASE, opensearch(s)://HOST:PORT/INDEX,
    /// elasticsearch(s)://HOST:PORT/INDEX, a path prefix, or - for standard output [default:
    /// wordtide-out/counts]
    #[arg(long, value_name = "PREFIX", env = "WORDTIDE_TO")]
    pub to: Option<String>,

    /// End of the names of the epochs' folders, after a dot
    #[arg(long, value_name = "SUFFIX", env = "WORDTIDE_SUFFIX")]
    pub suffix: Option<String>,

    /// Format of a row
    #[arg(long, value_name = "FORMAT", default_value = "python", value_parser = named::<Format>(),
        env = "WORDTIDE_FORMAT")]
    pub format: Format,

    /// Compression of parts: none, gzip or zstd [default: none; with --format parquet zstd]
    #[arg(long, value_name = "METHOD", value_parser = named::<Compression>(), hide_possible_values = true,
        env = "WORDTIDE_COMPRESS")]
    pub compress: Option<Compression>,

    /// Names of the epochs' folders: PREFIX-MS, or PREFIX/date=…/hour=…/epoch=MS, which
    /// readers of partitioned data know
    #[arg(long, value_name = "NAMES", default_value = "spark", value_parser = named::<FolderLayout>(),
        env = "WORDTIDE_LAYOUT")]
    pub layout: FolderLayout,

    /// Time zone of date and hour with --layout hive, as in Asia/Shanghai [default: UTC]
    #[arg(long, value_name = "ZONE", env = "WORDTIDE_TIME_ZONE")]
    pub time_zone: Option<String>,

    /// Rows of a database or an index: added by each epoch, or one a word with the newest result
    #[arg(long, value_name = "MODE", default_value = "append", value_parser = named::<WriteMode>(),
        env = "WORDTIDE_WRITE")]
    pub write: WriteMode,

    /// Number of parts of a result [default: the number of workers at the first start]
    #[arg(long, value_name = "P", env = "WORDTIDE_PARTS")]
    pub parts: Option<u32>,

    /// Files of an epoch without rows: _SUCCESS alone, none, or empty parts and _SUCCESS
    #[arg(long, value_name = "WHAT", default_value = "marker", value_parser = named::<EmptyEpochs>(),
        env = "WORDTIDE_EMPTY_EPOCHS")]
    pub empty_epochs: EmptyEpochs,

    /// Order of the rows in a part: by hash, which costs nothing, or by word
    #[arg(long, value_name = "ORDER", default_value = "hash", value_parser = named::<RowOrder>(),
        env = "WORDTIDE_SORT")]
    pub sort: RowOrder,
}

impl OutputFlags {
    /// Returns the output that the flags name.
    ///
    /// Fails with `Usage` if it cannot be parsed, and with `Configuration` if it holds credentials.
    pub fn target(&self) -> Result<Target> {
        self.to.as_deref().unwrap_or(DEFAULT_TO).parse()
    }
}
