//! The arguments of `wordtide bench`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::super::corpus::Corpus;
use super::super::parse_values::{choice, duration, named};
use crate::named_values::named_values;

/// The arguments of `wordtide bench`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Bench")]
pub struct BenchFlags {
    /// Texts to count, repeatable or with commas: english (60 thousand words), zipf (a million),
    /// uniform (8 million), made from --seed; or a file
    #[arg(long, value_name = "TEXT", value_delimiter = ',', default_value = "english,zipf,uniform",
        value_parser = TextChoice::parse)]
    pub corpus: Vec<TextChoice>,

    /// Size of each text. One of more than 256 is its first 256 MiB, sent again and again; a file
    /// that is smaller is repeated
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub mib: u64,

    /// Number from which texts are made: the same number, the same bytes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Worker threads of the program, a list; by default 1, 2, 4 … up to the number of cores
    #[arg(short = 'w', long, visible_alias = "workers", value_name = "N", value_delimiter = ',')]
    pub threads: Vec<usize>,

    /// Processes of the program, a list; each with each of -w
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', default_value = "1")]
    pub processes: Vec<usize>,

    /// Runs without a journal (--no-state), with one (--state), or both in turn
    #[arg(long, value_name = "ANSWER", value_delimiter = ',', default_value = "no",
        value_parser = choice(&[("no", false), ("yes", true)]))]
    pub journal: Vec<bool>,

    /// Length of an epoch
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub interval: Duration,

    /// Runs of each program on each text, in turn; figures are medians. 0: latency only
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub rounds: usize,

    /// Programs beside this one, a list: a thread that only reads, counts and writes as often
    /// (reference), durably (reference-sync); running_totals, all of them or their changes (totals,
    /// changes); one update a word (naive); wc -w; DuckDB. Those not installed are left out
    #[arg(long, value_name = "NAME", value_delimiter = ',',
        default_value = "reference,reference-sync,totals,wc,duckdb", value_parser = named::<Beside>())]
    pub beside: Vec<Beside>,

    /// Words a second of the runs that measure latency, by the clock; 5k and 5M are understood. 0:
    /// none
    #[arg(long, value_name = "N", default_value = "1M", value_parser = rate)]
    pub rate: u64,

    /// Length of a run that measures latency
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub seconds: u64,

    /// All runs of docs/PERFORMANCE.md: about a quarter of an hour, and 5 GiB of disk
    #[arg(long, conflicts_with_all = ["corpus", "mib", "threads", "processes", "journal",
        "interval", "rounds", "beside", "rate", "seconds"])]
    pub figures: bool,

    /// Folder for report.html, rows.csv and rows.jsonl; those there are replaced
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,

    /// Folder to work in, in a folder of its own that is removed at the end; by default that for
    /// temporary files
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,

    /// Further flags for the program, after --: those that change no row, such as --journal-max
    #[arg(last = true, value_name = "FLAG", allow_hyphen_values = true)]
    pub extra: Vec<OsString>,
}

/// A program that is measured beside this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// The reference.
    Reference,
    /// The reference with syncs.
    ReferenceSync,
    /// All totals.
    Totals,
    /// Totals that changed.
    Changes,
    /// The obvious differential program.
    Naive,
    /// `wc -w`.
    Wc,
    /// DuckDB.
    DuckDb,
}

named_values!(Beside, "--beside",
    Reference => "reference", ReferenceSync => "reference-sync", Totals => "totals",
    Changes => "changes", Naive => "naive", Wc => "wc", DuckDb => "duckdb");

/// Parses `5000000`, `5000k` or `5M`.
fn rate(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.strip_suffix(['k', 'K', 'm', 'M']) {
        Some(digits) if text.ends_with(['k', 'K']) => (digits, 1_000),
        Some(digits) => (digits, 1_000_000),
        None => (text, 1),
    };
    let rate = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    rate.ok_or_else(|| "give a whole number of words a second, as in 500k or 5M".to_owned())
}

/// A text that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextChoice {
    /// Made from a seed.
    Generated(Corpus),
    /// Read from a file.
    File(PathBuf),
}

impl TextChoice {
    /// Parses the name of a kind of text, or the path of a file that exists.
    ///
    /// # Errors
    ///
    /// A sentence that names the kinds.
    pub fn parse(text: &str) -> Result<TextChoice, String> {
        let text = text.trim();
        if let Some(corpus) = Corpus::ALL.into_iter().find(|corpus| corpus.name() == text) {
            return Ok(TextChoice::Generated(corpus));
        }
        let path = PathBuf::from(text);
        if !path.is_file() {
            return Err("it is no file; english, zipf and uniform are made".to_owned());
        }
        Ok(TextChoice::File(path))
    }

    /// Returns the name in reports.
    pub fn name(&self) -> String {
        match self {
            TextChoice::Generated(corpus) => corpus.name().to_owned(),
            TextChoice::File(path) => path.display().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_thousands_and_millions() {
        assert_eq!(
            [rate("0"), rate("500"), rate("20k"), rate("5M")].map(Result::unwrap),
            [0, 500, 20_000, 5_000_000]
        );
        for text in ["", "M", "5G", "-1", "1.5M", "99999999999999999999", "99999999999999M"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn text_is_a_kind_or_a_file() {
        assert!(TextChoice::parse("englsh").is_err());
        assert_eq!(TextChoice::parse("zipf"), Ok(TextChoice::Generated(Corpus::Zipf)));
    }
}
