//! Settings: what a user tweaks, as plain data with defaults and limits.
//!
//! Settings hold no handle and do no I/O; live parts (a clock, a store, a source) are passed beside
//! them. [`Settings::validate`] refuses what cannot run, naming the flag of the command line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::words::WordOptions;

/// What is written for an epoch whose result is empty.
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
    /// By the word's hash: costs nothing, and is the same for any number of workers.
    #[default]
    Hash,
    /// By the word's bytes.
    Word,
}

/// Implements the names of an enum's values, for flags and messages.
macro_rules! named {
    ($type:ty, $flag:literal, $($value:path => $name:literal),+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($value => $name),+ })
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self> {
                match name {
                    $($name => Ok($value),)+
                    _ => Err(Error::new(ErrorKind::Usage, format!("{name:?} is not a value of {}", $flag))
                        .hint(concat!("give one of:" $(, " ", $name)+))),
                }
            }
        }
    };
}

named!(EmptyEpochs, "--empty-epochs",
    EmptyEpochs::Marker => "marker", EmptyEpochs::Skip => "skip", EmptyEpochs::Write => "write");
named!(RowOrder, "--sort", RowOrder::Hash => "hash", RowOrder::Word => "word");

/// What shapes a run, but for where lines come from and where results go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Length of an epoch: `--interval`, 10 ms to 24 h, whole milliseconds.
    pub interval: Duration,
    /// Stop after so many epochs: `--epochs`.
    pub epochs: Option<u64>,
    /// Finish when the sources close: `--once`. Files and standard input always finish.
    pub once: bool,
    /// Worker threads in this process: `--threads`.
    pub threads: usize,
    /// Parts of a result: `--parts`; the number of workers where not given.
    pub parts: Option<u32>,
    /// How lines become words: `--split`, `--lowercase`, `--max-word-bytes`.
    pub words: WordOptions,
    /// Longest line: `--max-line-bytes`.
    pub line_bytes_max: usize,
    /// What is written for epochs without rows: `--empty-epochs`.
    pub empty_epochs: EmptyEpochs,
    /// The order of rows in a part: `--sort`.
    pub order: RowOrder,
    /// How long a stop may take: `--stop-timeout`.
    pub stop_timeout: Duration,
    /// Bytes of text that are read but not yet counted.
    pub blocks_bytes_max: usize,
    /// Bytes of results that wait in memory to be stored, above which they go to disk, or, without
    /// state, reading stops: `--results-memory`.
    pub results_bytes_max: usize,
    /// A word table larger than this is drained before its epoch ends.
    pub table_bytes_max: usize,
}

/// Shortest and longest interval.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(24 * 3600));
/// More workers in a process than anyone has cores.
const THREADS_MAX: usize = 1024;
/// Parts are numbered with five digits.
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
        }
    }
}

impl Settings {
    /// Refuses what cannot run.
    ///
    /// # Errors
    ///
    /// `Usage`, naming the flag.
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

    /// Epochs that may be in the dataflow at once: two seconds' worth, from 4 to 256.
    pub fn epochs_in_flight_max(&self) -> usize {
        let per_two_seconds = 2_000 / self.interval.as_millis().max(1);
        (per_two_seconds as usize).clamp(4, 256)
    }
}

fn usage(message: String, hint: &str) -> Result<()> {
    Err(Error::new(ErrorKind::Usage, message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_each_bad_value_names_its_flag() {
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
