//! The flags of a bench, and the runs that they ask for.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::TypedValueParser;

use super::super::parse_values::{choice, duration};
use super::corpus::Corpus;
use super::programs::{BenchProgram, BenchResult, RunShape};
use super::texts::TextChoice;
use crate::error::{Error, ErrorKind, Result};

/// Largest size of a text, in MiB.
const MIB_MAX: u64 = 1 << 20;

/// The lengths of an epoch that a run accepts.
const INTERVALS: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(24 * 3600);

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
        default_value = "reference,reference-sync,totals,wc,duckdb", value_parser = beside())]
    pub beside: Vec<Beside>,

    /// Words a second of the runs that measure latency, by the clock; 5k and 5M are understood. 0:
    /// none
    #[arg(long, value_name = "N", default_value = "1M", value_parser = rate)]
    pub rate: u64,

    /// Length of a run that measures latency
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub seconds: u64,

    /// All runs of docs/PERFORMANCE.md: about half an hour, and 4 GiB of disk
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

    /// Further flags for the program, after --
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

fn beside() -> impl TypedValueParser<Value = Beside> {
    choice(&[
        ("reference", Beside::Reference),
        ("reference-sync", Beside::ReferenceSync),
        ("totals", Beside::Totals),
        ("changes", Beside::Changes),
        ("naive", Beside::Naive),
        ("wc", Beside::Wc),
        ("duckdb", Beside::DuckDb),
    ])
}

/// Parses `5000000`, `5000k` or `5M`.
fn rate(text: &str) -> std::result::Result<u64, String> {
    let (digits, factor) = match text.strip_suffix(['k', 'K', 'm', 'M']) {
        Some(digits) if text.ends_with(['k', 'K']) => (digits, 1_000),
        Some(digits) => (digits, 1_000_000),
        None => (text, 1),
    };
    let rate = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    rate.ok_or_else(|| "give a whole number of words a second, as in 500k or 5M".to_owned())
}

/// Runs that belong together: their figures are compared.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Texts, one after the other.
    pub texts: Vec<TextChoice>,
    /// Size of each text.
    pub mib: u64,
    /// Number from which texts are made.
    pub seed: u64,
    /// `--interval`.
    pub interval: Duration,
    /// Runs of each program.
    pub rounds: usize,
    /// Programs that run in turn.
    pub programs: Vec<BenchProgram>,
    /// Words a second of runs by the clock; 0 for none.
    pub rate: u64,
    /// Length of a run by the clock.
    pub seconds: u64,
    /// Further flags of this program.
    pub extra: Vec<OsString>,
}

impl Suite {
    /// Returns the programs that are measured by the clock.
    pub fn paced(&self) -> impl Iterator<Item = BenchProgram> + '_ {
        let counts = |program: &BenchProgram| {
            matches!(program, BenchProgram::Wordtide(RunShape { result: BenchResult::Counts, .. }))
        };
        self.programs.iter().copied().filter(move |program| self.rate > 0 && counts(program))
    }

    /// Returns the number of runs on each text.
    pub fn runs(&self) -> usize {
        let once = self.programs.iter().filter(|program| **program == BenchProgram::Naive).count();
        let in_turn = self.programs.len() - once;
        self.paced().count() + if self.rounds == 0 { 0 } else { once + self.rounds * in_turn }
    }
}

impl BenchFlags {
    /// Returns the runs that were asked for.
    ///
    /// # Errors
    ///
    /// `Usage` for numbers out of range.
    pub fn suites(&self) -> Result<Vec<Suite>> {
        if self.figures {
            return Ok(figures(self.seed, &self.extra));
        }
        let threads = if self.threads.is_empty() { up_to_cores() } else { self.threads.clone() };
        let ranges = [
            ("--mib", (1..=MIB_MAX).contains(&self.mib), "from 1 to 1048576"),
            ("-w", threads.iter().all(|threads| (1..=1024).contains(threads)), "from 1 to 1024"),
            ("-n", self.processes.iter().all(|it| (1..=256).contains(it)), "from 1 to 256"),
            ("--seconds", (1..=86_400).contains(&self.seconds), "from 1 to 86400"),
            ("--rate", self.rate == 0 || self.rate >= 1_000, "0, or 1000 and more"),
            ("--interval", INTERVALS.contains(&self.interval), "from 10ms to 24h"),
            ("--rounds", self.rounds > 0 || self.rate > 0, "1 and more where --rate is 0"),
        ];
        if let Some((flag, _, range)) = ranges.iter().find(|(_, is_good, _)| !is_good) {
            return Err(Error::new(ErrorKind::Usage, format!("{flag} is out of range"))
                .hint(format!("give {flag} {range}")));
        }
        Ok(vec![Suite {
            texts: self.corpus.clone(),
            mib: self.mib,
            seed: self.seed,
            interval: self.interval,
            rounds: self.rounds,
            programs: programs(&self.beside, &threads, &self.processes, &self.journal),
            rate: self.rate,
            seconds: self.seconds,
            extra: self.extra.clone(),
        }])
    }
}

/// Returns 1, 2, 4 … up to the number of cores.
fn up_to_cores() -> Vec<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let powers = std::iter::successors(Some(1), |threads| Some(threads * 2));
    powers.take_while(|threads| *threads <= cores).collect()
}

/// Returns the programs in the order in which they run.
fn programs(
    beside: &[Beside],
    threads: &[usize],
    processes: &[usize],
    journals: &[bool],
) -> Vec<BenchProgram> {
    let least = threads.iter().copied().min().unwrap_or(1);
    let mut all = Vec::new();
    let others = |wanted: &[Beside]| {
        let mut found = Vec::new();
        for beside in beside.iter().filter(|beside| wanted.contains(beside)) {
            let shape =
                |result| BenchProgram::Wordtide(RunShape { result, ..RunShape::plain(least) });
            match beside {
                Beside::Reference => found.push(BenchProgram::Reference { syncs: false }),
                Beside::ReferenceSync => found.push(BenchProgram::Reference { syncs: true }),
                Beside::Totals => found.push(shape(BenchResult::Totals)),
                Beside::Changes => found.push(shape(BenchResult::Changes)),
                Beside::Naive => found.push(BenchProgram::Naive),
                Beside::Wc => found.push(BenchProgram::Wc),
                Beside::DuckDb => {
                    found.extend(
                        threads.iter().map(|threads| BenchProgram::DuckDb { threads: *threads }),
                    );
                }
            }
        }
        found
    };
    all.extend(others(&[Beside::Reference, Beside::ReferenceSync]));
    for &processes in processes {
        for &threads in threads {
            for &journal in journals {
                let shape = RunShape { processes, journal, ..RunShape::plain(threads) };
                all.push(BenchProgram::Wordtide(shape));
            }
        }
    }
    all.extend(others(&[
        Beside::Totals,
        Beside::Changes,
        Beside::Naive,
        Beside::Wc,
        Beside::DuckDb,
    ]));
    let mut unique: Vec<BenchProgram> = Vec::new();
    all.into_iter().for_each(|program| {
        if !unique.contains(&program) {
            unique.push(program);
        }
    });
    unique
}

/// Returns the runs of docs/PERFORMANCE.md.
fn figures(seed: u64, extra: &[OsString]) -> Vec<Suite> {
    use Beside::{Changes, DuckDb, Naive, Reference, ReferenceSync, Totals, Wc};
    let all = Corpus::ALL.map(TextChoice::Generated).to_vec();
    let english = vec![TextChoice::Generated(Corpus::English)];
    let every = [Reference, ReferenceSync, Totals, Changes, Naive, Wc, DuckDb];
    let suite = |texts: &[TextChoice], mib, interval_s, programs| Suite {
        texts: texts.to_vec(),
        mib,
        seed,
        interval: Duration::from_secs(interval_s),
        rounds: 5,
        programs,
        rate: 0,
        seconds: 20,
        extra: extra.to_vec(),
    };
    let paced = suite(&english, 64, 1, programs(&[], &[1, 2], &[1], &[false, true]));
    vec![
        suite(&all, 256, 1, programs(&every, &[1, 2], &[1], &[false])),
        suite(&all, 256, 1, programs(&[], &[1], &[1, 2], &[false])),
        suite(&english, 4096, 1, programs(&[], &[2], &[1], &[false, true])),
        suite(&english, 4096, 10, programs(&[], &[2], &[1], &[false, true])),
        Suite { rate: 5_000_000, rounds: 0, ..paced },
    ]
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
    fn programs_are_every_shape_once() {
        let beside = [Beside::Reference, Beside::Totals, Beside::DuckDb, Beside::Reference];
        let names: Vec<String> = programs(&beside, &[1, 2, 1], &[1], &[false, true])
            .iter()
            .map(ToString::to_string)
            .collect();
        let expected = [
            "reference",
            "wordtide -w 1",
            "wordtide -w 1 --state",
            "wordtide -w 2",
            "wordtide -w 2 --state",
            "running_totals -w 1",
            "DuckDB, 1 thread",
            "DuckDB, 2 threads",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn threads_double_up_to_the_cores() {
        let threads = up_to_cores();
        assert_eq!(threads.first(), Some(&1));
        assert!(threads.windows(2).all(|pair| pair[1] == 2 * pair[0]), "{threads:?}");
    }
}
