//! The runs that the flags of a bench ask for.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::corpus::Corpus;
use super::super::flags::{BenchFlags, Beside, TextChoice};
use super::further_flags;
use super::programs::{BenchProgram, BenchResult, RunShape};
use super::texts::BenchText;
use crate::error::{Error, ErrorKind, Result};

/// Largest size of a text, in MiB.
const MIB_MAX: u64 = 1 << 20;

/// The rates of a run by the clock, in words a second. One thread cannot send more.
const RATES: RangeInclusive<u64> = 1_000..=1_000_000_000;

/// The lengths of an epoch that a run accepts.
const INTERVALS: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(24 * 3600);

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

    /// Returns the number of runs on each text, of programs that suit it or not.
    pub fn runs(&self) -> usize {
        let in_turn = self.programs.iter().map(|program| self.rounds_of(*program));
        self.paced().count() + in_turn.sum::<usize>()
    }

    /// Returns the number of those that are left out, because their program does not suit `text`.
    pub fn unsuited_runs(&self, text: &BenchText) -> usize {
        let unsuited = self.programs.iter().filter(|program| !program.suits(text));
        unsuited.map(|program| self.rounds_of(*program)).sum()
    }

    /// Returns the number of rounds in which a program runs: the naive one is slow, and runs once.
    fn rounds_of(&self, program: BenchProgram) -> usize {
        if program == BenchProgram::Naive { self.rounds.min(1) } else { self.rounds }
    }
}

/// Returns the runs that were asked for.
///
/// # Errors
///
/// `Usage` for numbers out of range, and for further flags that a bench does not take.
pub fn asked(flags: &BenchFlags) -> Result<Vec<Suite>> {
    further_flags::check(&flags.extra)?;
    if flags.figures {
        return Ok(figures(flags.seed, &flags.extra));
    }
    let threads = if flags.threads.is_empty() { up_to_cores() } else { flags.threads.clone() };
    let ranges = [
        ("--mib", (1..=MIB_MAX).contains(&flags.mib), "from 1 to 1048576"),
        ("-w", threads.iter().all(|threads| (1..=1024).contains(threads)), "from 1 to 1024"),
        ("-n", flags.processes.iter().all(|it| (1..=256).contains(it)), "from 1 to 256"),
        ("--seconds", (1..=86_400).contains(&flags.seconds), "from 1 to 86400"),
        ("--rate", flags.rate == 0 || RATES.contains(&flags.rate), "0, or from 1000 to 1000M"),
        ("--interval", INTERVALS.contains(&flags.interval), "from 10ms to 24h"),
        ("--rounds", flags.rounds > 0 || flags.rate > 0, "1 and more where --rate is 0"),
    ];
    if let Some((flag, _, range)) = ranges.iter().find(|(_, is_good, _)| !is_good) {
        return Err(Error::new(ErrorKind::Usage, format!("{flag} is out of range"))
            .hint(format!("give {flag} {range}")));
    }
    Ok(vec![Suite {
        texts: flags.corpus.clone(),
        mib: flags.mib,
        seed: flags.seed,
        interval: flags.interval,
        rounds: flags.rounds,
        programs: programs(&flags.beside, &threads, &flags.processes, &flags.journal),
        rate: flags.rate,
        seconds: flags.seconds,
        extra: flags.extra.clone(),
    }])
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
    fn unsuited_runs_are_counted() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lines");
        std::fs::write(&path, b"a\n\nb\n").expect("a file");
        let text = BenchText::load(&TextChoice::File(path), 1, 1).expect("a text");
        let mut suite = figures(1, &[]).remove(0);
        suite.programs = programs(&[Beside::Naive, Beside::DuckDb], &[1, 2], &[1], &[false]);
        assert_eq!((suite.runs(), suite.unsuited_runs(&text)), (1 + 4 * 5, 2 * 5));
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
