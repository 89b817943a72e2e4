//! The flags of the bench.

use std::path::PathBuf;

use super::Result;
use super::corpus::Corpus;
use super::measure::Program;

pub(crate) struct Flags {
    /// Size of each generated text.
    pub(crate) mib: usize,
    pub(crate) seed: u64,
    /// Names of the texts to generate.
    pub(crate) corpora: Vec<String>,
    /// A file to use instead of generated texts.
    pub(crate) file: Option<PathBuf>,
    pub(crate) threads: Vec<usize>,
    pub(crate) processes: Vec<usize>,
    /// Runs without a journal, with one, or both in turn.
    pub(crate) journal: Vec<bool>,
    /// Number of runs of each program; figures are medians.
    pub(crate) rounds: usize,
    /// `--interval` of the program.
    pub(crate) interval: String,
    /// Size of the part of a text that the naive program counts.
    pub(crate) naive_mib: usize,
    /// Words a second of an open-loop run, which replaces all other runs.
    pub(crate) rate: Option<f64>,
    pub(crate) seconds: f64,
    /// The folder for the rows.
    pub(crate) out: PathBuf,
    /// Further flags for the program.
    pub(crate) extra: Vec<String>,
}

impl Flags {
    pub(crate) fn parse(args: Vec<String>) -> Result<Flags> {
        let mut flags = Flags {
            mib: 4,
            seed: 1,
            corpora: Corpus::ALL.iter().map(|corpus| corpus.name().to_owned()).collect(),
            file: None,
            threads: vec![1, 2],
            processes: vec![1],
            journal: vec![false],
            rounds: 1,
            interval: "1s".to_owned(),
            naive_mib: 1,
            rate: None,
            seconds: 10.0,
            out: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("throughput"),
            extra: Vec::new(),
        };
        let mut args = args.into_iter();
        while let Some(flag) = args.next() {
            // Cargo adds this flag.
            if flag == "--bench" || flag == "--test" {
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{flag} wants a value"))?;
            match flag.as_str() {
                "--mib" => flags.mib = value.parse()?,
                "--seed" => flags.seed = value.parse()?,
                "--corpora" => flags.corpora = value.split(',').map(str::to_owned).collect(),
                "--file" => flags.file = Some(value.into()),
                "--threads" => flags.threads = numbers(&value)?,
                "--processes" => flags.processes = numbers(&value)?,
                "--journal" => flags.journal = answers(&value)?,
                "--rounds" => flags.rounds = value.parse()?,
                "--interval" => flags.interval = value,
                "--naive-mib" => flags.naive_mib = value.parse()?,
                "--rate" => flags.rate = Some(value.parse()?),
                "--seconds" => flags.seconds = value.parse()?,
                "--out" => flags.out = value.into(),
                "--extra" => flags.extra = value.split_whitespace().map(str::to_owned).collect(),
                _ => return Err(format!("unknown flag {flag}; see the top of the bench").into()),
            }
        }
        Ok(flags)
    }

    /// Returns the program in all requested shapes.
    pub(crate) fn wordtides(&self) -> Vec<Program> {
        let mut all = Vec::new();
        for &processes in &self.processes {
            for &threads in &self.threads {
                for &journal in &self.journal {
                    all.push(Program::Wordtide { threads, processes, journal });
                }
            }
        }
        all
    }
}

/// Parses `no`, `yes`, or both with a comma between them.
fn answers(list: &str) -> Result<Vec<bool>> {
    let answer = |word| match word {
        "no" => Ok(false),
        "yes" => Ok(true),
        _ => Err(format!("{word} is neither no nor yes")),
    };
    Ok(list.split(',').map(answer).collect::<std::result::Result<_, _>>()?)
}

fn numbers(list: &str) -> Result<Vec<usize>> {
    Ok(list.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?)
}
