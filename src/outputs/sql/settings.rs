//! The settings of a database as an output.

use super::tables::WriteMode;
use crate::operators::RowKind;
use crate::settings::Settings;

/// The settings of a database as an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlSettings {
    /// The kind of rows that the definition publishes.
    pub rows: RowKind,
    /// How rows come into the table.
    pub write: WriteMode,
    /// True if the definition publishes only the rows that have changed.
    pub changes: bool,
    /// The longest word.
    pub word_bytes_max: usize,
    /// The longest line.
    pub line_bytes_max: usize,
}

impl Default for SqlSettings {
    fn default() -> Self {
        let settings = Settings::default();
        SqlSettings {
            rows: RowKind::Counts,
            write: WriteMode::default(),
            changes: false,
            word_bytes_max: settings.words.word_bytes_max,
            line_bytes_max: settings.line_bytes_max,
        }
    }
}
