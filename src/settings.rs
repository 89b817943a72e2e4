//! The settings of a job: plain data with defaults and limits.
//!
//! Settings hold no handle and do no I/O. A clock, a store and sources are passed separately.
//! [`Settings::validate`] refuses values that cannot run and names the flag of the command line.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::named_values::named_values;
use crate::words::WordOptions;

/// The objects that are stored for an epoch whose result is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmptyEpochs {
    /// The marker alone.
    #[default]
    Marker,
    /// Nothing.
    Skip,
    /// The empty parts and the marker, as Spark does.
    Write,
}

/// The order of rows within a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowOrder {
    /// By the word's hash. This costs nothing and is the same for any number of workers.
    #[default]
    Hash,
    /// By the word's bytes.
    Word,
}

/// The way in which the folders of epochs are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FolderLayout {
    /// `<PREFIX>-<ms>[.<suffix>]`, as Spark Streaming does.
    #[default]
    Spark,
    /// `<PREFIX>/date=…/hour=…/epoch=<ms>`, as Hive names its partitions.
    Hive,
}

named_values!(EmptyEpochs, "--empty-epochs", Marker => "marker", Skip => "skip", Write => "write");
named_values!(FolderLayout, "--layout", Spark => "spark", Hive => "hive");
named_values!(RowOrder, "--sort", Hash => "hash", Word => "word");

/// The settings of a run, without its sources and its outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Length of an epoch: `--interval`, 10 ms to 24 h, whole milliseconds.
    pub interval: Duration,
    /// Number of epochs after which the job stops: `--epochs`.
    pub epochs: Option<u64>,
    /// If true, the job finishes when its sources close: `--once`. With files and standard input it
    /// always does.
    pub once: bool,
    /// Worker threads in this process: `--threads`.
    pub threads: usize,
    /// Parts of a result: `--parts`. The default is the number of workers.
    pub parts: Option<u32>,
    /// The rule that splits lines into words: `--split`, `--lowercase`, `--max-word-bytes`.
    pub words: WordOptions,
    /// Longest line: `--max-line-bytes`.
    pub line_bytes_max: usize,
    /// The objects that are stored for an epoch without rows: `--empty-epochs`.
    pub empty_epochs: EmptyEpochs,
    /// The order of rows in a part: `--sort`.
    pub order: RowOrder,
    /// Limit of the time that a stop may take: `--stop-timeout`.
    pub stop_timeout: Duration,
    /// Limit of the bytes of text that are read but not yet counted.
    pub blocks_bytes_max: usize,
    /// Limit of the bytes of results that wait in memory to be stored: `--results-memory`. Above it
    /// results go to disk, or, without state, reading pauses.
    pub results_bytes_max: usize,
    /// Size above which a word table is drained before its epoch ends.
    pub table_bytes_max: usize,
    /// True to measure the operators of the dataflow, for `JobHandle::operators`.
    pub measure_operators: bool,
    /// The file that every event of the workers is written to: `--events`. Process I of a cluster
    /// writes to this name with `.I` at its end, but for process 0.
    pub events: Option<PathBuf>,
    /// Limit of the bytes of that file: `--events-max`.
    pub events_bytes_max: u64,
}

/// Shortest and longest interval.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(24 * 3600));
/// Most workers of a process.
const THREADS_MAX: usize = 1024;
/// Most parts of a result: their numbers have five digits.
const PARTS_MAX: u32 = 100_000;

impl Default for Settings {
    fn default() -> Self {
        Settings {
            interval: Duration::from_secs(10),
            epochs: None,
            once: false,
            threads: 1,
            parts: None,
            words: WordOptions::default(),
            line_bytes_max: 16 << 20,
            empty_epochs: EmptyEpochs::default(),
            order: RowOrder::default(),
            stop_timeout: Duration::from_secs(60),
            blocks_bytes_max: 8 << 20,
            results_bytes_max: 32 << 20,
            table_bytes_max: 1 << 30,
            measure_operators: false,
            events: None,
            events_bytes_max: 4 << 30,
        }
    }
}

impl Settings {
    /// Checks that all values are in range.
    ///
    /// # Errors
    ///
    /// `Usage` for the first value that is not; the message names the flag.
    pub fn validate(&self) -> Result<()> {
        let (least, most) = INTERVALS;
        if self.interval < least
            || self.interval > most
            || !self.interval.subsec_nanos().is_multiple_of(1_000_000)
        {
            return usage(
                format!("interval {:?} is out of range", self.interval),
                "give --interval as whole milliseconds from 10ms to 24h",
            );
        }
        if self.epochs == Some(0) {
            return usage("no epochs to run".into(), "give --epochs at least 1");
        }
        if self.threads == 0 || self.threads > THREADS_MAX {
            return usage(
                format!("{} worker threads are out of range", self.threads),
                "give --threads from 1 to 1024",
            );
        }
        if self.parts.is_some_and(|parts| parts == 0 || parts > PARTS_MAX) {
            return usage(
                "the number of parts is out of range".into(),
                "give --parts from 1 to 100000",
            );
        }
        if self.words.word_bytes_max == 0 || self.line_bytes_max < self.words.word_bytes_max {
            return usage(
                "a line must have room for the longest word".into(),
                "give --max-word-bytes at least 1 and --max-line-bytes at least as much",
            );
        }
        Ok(())
    }

    /// Returns the limit of epochs in the dataflow: those of two seconds, at least 4 and at most
    /// 256.
    pub fn epochs_in_flight_max(&self) -> usize {
        let per_two_seconds = 2_000 / self.interval.as_millis().max(1);
        (per_two_seconds as usize).clamp(4, 256)
    }
}

/// Returns an error of kind `Usage`.
fn usage(message: String, hint: &str) -> Result<()> {
    Err(Error::new(ErrorKind::Usage, message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_name_their_flags() {
        let good = Settings::default();
        assert!(good.validate().is_ok());
        let bad: [(&str, Settings); 6] = [
            ("--interval", Settings { interval: Duration::ZERO, ..good.clone() }),
            ("--interval", Settings { interval: Duration::from_micros(10_500), ..good.clone() }),
            ("--epochs", Settings { epochs: Some(0), ..good.clone() }),
            ("--threads", Settings { threads: 0, ..good.clone() }),
            ("--parts", Settings { parts: Some(0), ..good.clone() }),
            ("--max-line-bytes", Settings { line_bytes_max: 1, ..good.clone() }),
        ];
        for (flag, settings) in bad {
            let error = settings.validate().expect_err(flag);
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains(flag), "{error}");
        }
    }

    #[test]
    fn names_of_values_read_back() {
        for value in [EmptyEpochs::Marker, EmptyEpochs::Skip, EmptyEpochs::Write] {
            assert_eq!(value.to_string().parse::<EmptyEpochs>().ok(), Some(value));
        }
        let error = "never".parse::<RowOrder>().expect_err("no such order");
        assert!(error.to_string().contains("--sort"), "{error}");
    }

    #[test]
    fn two_seconds_of_epochs_may_be_in_flight() {
        let with = |ms| Settings { interval: Duration::from_millis(ms), ..Settings::default() };
        assert_eq!([10_000, 100, 10].map(|ms| with(ms).epochs_in_flight_max()), [4, 20, 200]);
    }
}
