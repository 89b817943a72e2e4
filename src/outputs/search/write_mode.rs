//! How the rows of an epoch come into an index.

use crate::outputs::sql::{SqlSettings, WriteMode};

/// How the rows of an epoch come into an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowMode {
    /// Each epoch adds its documents.
    Append,
    /// The index holds the newest result, one document a word.
    Replace,
    /// As [`RowMode::Replace`], by results that hold only the words that have changed.
    Change,
}

impl RowMode {
    /// Returns the mode of a job with these settings.
    pub fn of(settings: &SqlSettings) -> RowMode {
        match (settings.write, settings.changes) {
            (WriteMode::Append, _) => RowMode::Append,
            (WriteMode::Upsert, false) => RowMode::Replace,
            (WriteMode::Upsert, true) => RowMode::Change,
        }
    }

    /// Returns true if documents of an earlier epoch are written over.
    pub fn is_upsert(self) -> bool {
        self != RowMode::Append
    }

    /// Returns the value of `--write` that asks for the mode.
    pub fn flag(self) -> WriteMode {
        if self.is_upsert() { WriteMode::Upsert } else { WriteMode::Append }
    }
}
