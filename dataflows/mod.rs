//! The dataflow definitions: plain functions from lines to counts or rows.
//!
//! Each file is one definition and uses only the public names of the library, so it can be copied
//! into another program unchanged. A definition without parameters is a function; a definition with
//! parameters is a function that returns one.
//!
//! * [`network_wordcount`] counts each epoch on its own.
//! * [`running_totals`] counts since the start.
//! * [`sliding_windows`] counts over the last epochs.
//! * [`top_k`] ranks the words of each epoch.
//! * [`line_archive`] publishes the lines themselves.
//! * [`field_count`] counts a field of each line, or the match of a regular expression.

pub mod field_count;
pub mod line_archive;
pub mod network_wordcount;
pub mod running_totals;
pub mod sliding_windows;
pub mod top_k;

/// A definition as `wordtide list` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its result for each epoch, in one line.
    pub gives: &'static str,
}

const fn listed(name: &'static str, gives: &'static str) -> Listed {
    Listed { name, gives }
}

/// Every definition.
pub const ALL: &[Listed] = &[
    listed("network_wordcount", "words of each epoch on its own: Spark's network_wordcount.py"),
    listed("running_totals", "words since the start: Spark's updateStateByKey"),
    listed("sliding_windows", "words of the last epochs: Spark's reduceByKeyAndWindow"),
    listed("top_k", "the most frequent words of each epoch"),
    listed("line_archive", "the lines themselves"),
    listed("field_count", "values of a field, or of a regular expression, in each epoch"),
];
