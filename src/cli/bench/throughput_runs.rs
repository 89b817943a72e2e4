//! The runs that measure throughput: all programs of a suite on one text, in turn, so that all of
//! them meet the machine in the same state.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::{Value, json};

use super::super::{failed, parse_values};
use super::child_log::ChildNews;
use super::committed_epochs;
use super::line_sender::LineSender;
use super::measured_child::{self, ProgramRun};
use super::programs::{BenchProgram, RunShape, RunSite};
use super::quantiles::{Quantiles, median};
use super::row_files::{Fields, figure};
use super::run_limits::RunLimits;
use super::run_progress::Following;
use super::scratch_folder::Scratch;
use super::suites::Suite;
use super::svg_plot;
use super::texts::BenchText;
use crate::error::Result;

/// The runs of one program on one text.
#[derive(Clone, Debug)]
pub struct ProgramRuns {
    /// The program.
    pub program: BenchProgram,
    /// Distinct words of its text.
    pub distinct: u64,
    /// Its runs, in order.
    pub runs: Vec<ProgramRun>,
}

impl ProgramRuns {
    /// Returns the median of a figure.
    pub fn median(&self, of: impl Fn(&ProgramRun) -> f64) -> f64 {
        median(self.runs.iter().map(of))
    }

    /// Returns the median of words a second, in millions.
    pub fn mwords_per_s(&self) -> f64 {
        self.median(|run| run.words_per_second() / 1e6)
    }

    /// Returns the ratios of words a second to those of `other`, run by run. The runs of a round
    /// stand side by side in time, so a machine that is slow for a while slows both.
    pub fn times(&self, other: &ProgramRuns) -> Quantiles {
        let pairs = self.runs.iter().zip(&other.runs);
        Quantiles::of(pairs.map(|(run, other)| run.words_per_second() / other.words_per_second()))
    }
}

/// The runs of all programs on one text.
#[derive(Clone, Debug)]
pub struct TextRuns {
    /// The name of the text.
    pub corpus: String,
    /// Its size in MiB.
    pub mib: u64,
    /// `--interval` as it is typed.
    pub interval: String,
    /// Further flags of the program.
    pub extra: String,
    /// The programs, in the order of their runs.
    pub programs: Vec<ProgramRuns>,
}

impl TextRuns {
    /// Returns the runs of a program.
    pub fn of(&self, program: BenchProgram) -> Option<&ProgramRuns> {
        self.programs.iter().find(|runs| runs.program == program)
    }

    /// Returns the program that sets the COST: one thread whose results are durable.
    pub fn to_beat(&self) -> Option<&ProgramRuns> {
        self.of(BenchProgram::Reference { syncs: true })
    }

    /// Returns the smallest number of threads that are as fast as [`TextRuns::to_beat`]; `None` if
    /// no number is that was tried.
    pub fn cost(&self) -> Option<usize> {
        let to_beat = self.to_beat()?.mwords_per_s();
        let beats = self.programs.iter().filter_map(|runs| match runs.program {
            BenchProgram::Wordtide(shape) if shape == RunShape::plain(shape.threads) => {
                (runs.mwords_per_s() >= to_beat).then_some(shape.threads)
            }
            _ => None,
        });
        beats.min()
    }

    /// Returns a sentence on the COST, if there is something to beat.
    pub fn cost_line(&self) -> Option<String> {
        self.to_beat()?;
        Some(match self.cost() {
            Some(threads) => format!("COST of {}: {threads}", self.corpus),
            None => format!("COST of {}: more threads than were tried", self.corpus),
        })
    }

    /// Returns the row of one program. A figure that it does not have is `null`: a ratio to itself,
    /// latencies of a program without markers.
    pub fn row(&self, runs: &ProgramRuns) -> Fields {
        let program = runs.program;
        let speeds = Quantiles::of(runs.runs.iter().map(|run| run.words_per_second() / 1e6));
        let reference = self.to_beat().filter(|beat| beat.program != program && !is_single(runs));
        let reference = reference.map(|reference| runs.times(reference)).unwrap_or_default();
        let bare = match program {
            BenchProgram::Wordtide(shape) if shape.journal => {
                self.of(BenchProgram::Wordtide(RunShape { journal: false, ..shape }))
            }
            _ => None,
        };
        let bare = bare.map(|bare| runs.times(bare)).unwrap_or_default();
        let markers = Quantiles::of(runs.runs.iter().flat_map(|run| run.marker_ms.clone()));
        let stages = || runs.runs.iter().flat_map(|run| &run.stages);
        let row = json!({
            "kind": "throughput",
            "corpus": self.corpus,
            "program": program.to_string(),
            "interval": self.interval,
            "extra": self.extra,
            "mib": figure(runs.median(|run| run.bytes as f64 / 1_048_576.0)),
            "rounds": runs.runs.len(),
            "words": runs.runs.first().map(|run| run.words),
            "distinct": runs.distinct,
            "mwords_per_s": figure(speeds.at(0.5)),
            "mwords_per_s_least": figure(speeds.least()),
            "mwords_per_s_most": figure(speeds.most()),
            "mb_per_s": figure(runs.median(|run| run.bytes as f64 / run.seconds / 1e6)),
            "times_reference_sync": figure(reference.at(0.5)),
            "times_reference_sync_least": figure(reference.least()),
            "times_reference_sync_most": figure(reference.most()),
            "times_no_state": figure(bare.at(0.5)),
            "times_no_state_least": figure(bare.least()),
            "times_no_state_most": figure(bare.most()),
            "user_ns_per_word": figure(runs.median(|run| run.ns_per_word(run.user_seconds))),
            "system_ns_per_word": figure(runs.median(|run| run.ns_per_word(run.system_seconds))),
            "stolen_ns_per_word": figure(runs.median(|run| run.ns_per_word(run.stolen_seconds))),
            "minor_faults": figure(runs.median(|run| run.minor_faults as f64)),
            "disk_mb": figure(runs.median(|run| run.disk_bytes as f64 / 1e6)),
            "peak_rss_mib": figure(runs.median(|run| run.peak_rss_kib as f64 / 1024.0)),
            "epochs": stages().count(),
            "count_ms_p50": figure(median(stages().map(|stages| stages.count))),
            "write_ms_p50": figure(median(stages().map(|stages| stages.write))),
            "commit_ms_p50": figure(median(stages().map(|stages| stages.commit))),
            "marker_ms_p50": figure(markers.at(0.5)),
            "marker_ms_p90": figure(markers.at(0.9)),
            "marker_ms_p99": figure(markers.at(0.99)),
            "marker_ms_max": figure(markers.most()),
        });
        let Value::Object(row) = row else { return Fields::new() };
        row
    }

    /// Returns a line of the table on standard output.
    pub fn line(&self, runs: &ProgramRuns) -> String {
        let speeds = Quantiles::of(runs.runs.iter().map(|run| run.words_per_second() / 1e6));
        let ns = |of: &dyn Fn(&ProgramRun) -> f64| runs.median(|run| run.ns_per_word(of(run)));
        let reference =
            self.to_beat().filter(|beat| beat.program != runs.program && !is_single(runs));
        let times = reference.and_then(|reference| runs.times(reference).at(0.5));
        let short = |speed: Option<f64>| svg_plot::short(speed.unwrap_or_default());
        format!(
            "{:30} {:9.2} {:>15} {:>8} {:7.1} {:7.1} {:7.1} {:8.1} {:8.0}",
            runs.program.to_string(),
            runs.mwords_per_s(),
            format!("{} to {}", short(speeds.least()), short(speeds.most())),
            times.map(|times| format!("{times:.2}")).unwrap_or_default(),
            ns(&|run| run.user_seconds),
            ns(&|run| run.system_seconds),
            ns(&|run| run.stolen_seconds),
            runs.median(|run| run.disk_bytes as f64 / 1e6),
            runs.median(|run| run.peak_rss_kib as f64 / 1024.0),
        )
    }
}

/// Returns the heading of the lines of [`TextRuns::line`]. `user`, `system` and `stolen` are
/// nanoseconds a word.
pub fn heading() -> String {
    format!(
        "{:30} {:>9} {:>15} {:>8} {:>7} {:>7} {:>7} {:>8} {:>8}",
        "", "M words/s", "range", "ref-sync", "user", "system", "stolen", "disk MB", "peak MiB"
    )
}

/// Returns true for a program whose runs are no pairs with those of others: it counts a part only.
fn is_single(runs: &ProgramRuns) -> bool {
    runs.program == BenchProgram::Naive
}

/// Runs all programs of a suite on one text.
///
/// # Errors
///
/// `Failed` if a program fails or a count is wrong.
pub fn run(
    suite: &Suite,
    text: &BenchText,
    scratch: &Scratch,
    following: &mut Following,
) -> Result<TextRuns> {
    let mut all: Vec<ProgramRuns> = Vec::new();
    let distinct = |program: BenchProgram| program.text(text).truth().rows;
    let suits = |program: &&BenchProgram| program.suits(text);
    all.extend(suite.programs.iter().filter(suits).map(|&program| ProgramRuns {
        program,
        distinct: distinct(program),
        runs: Vec::new(),
    }));
    for round in 0..suite.rounds {
        for runs in &mut all {
            if round > 0 && is_single(runs) {
                continue;
            }
            let what = format!("{}: {}, round {}", text.name, runs.program, round + 1);
            following.begin(what);
            runs.runs.push(once(runs.program, suite, text, scratch, following)?);
        }
    }
    Ok(TextRuns {
        corpus: text.name.clone(),
        mib: text.mib(),
        interval: parse_values::show(suite.interval),
        extra: shown(suite),
        programs: all,
    })
}

/// Returns the further flags of a suite as one text.
pub fn shown(suite: &Suite) -> String {
    let words: Vec<_> = suite.extra.iter().map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// Runs one program once and checks its counts.
fn once(
    program: BenchProgram,
    suite: &Suite,
    text: &BenchText,
    scratch: &Scratch,
    following: &mut Following,
) -> Result<ProgramRun> {
    let text = program.text(text);
    let mut site = RunSite {
        port: 0,
        dir: &scratch.empty("run")?,
        text_file: scratch.dir().join("text"),
        interval: suite.interval,
        extra: &suite.extra,
    };
    let bytes = text.bytes();
    let mut run = if program.reads_file() {
        let written = fs::write(&site.text_file, text.piece.as_slice());
        written.map_err(|error| failed("cannot write the text as a file", error))?;
        let look = |_: &ChildNews| {
            following.look(None);
            Ok(())
        };
        let run = measured_child::measured(program, program.command(&site)?, scratch, look);
        let removed = fs::remove_file(&site.text_file);
        removed.map_err(|error| failed("cannot remove the text", error))?;
        run?
    } else {
        let sender = LineSender::at_once(&text)?;
        site.port = sender.port;
        let mut limits = RunLimits::new(program, suite.interval, scratch);
        let look = |news: &ChildNews| {
            let sent = (sender.sent.load(Ordering::Relaxed), bytes);
            following.look(Some(sent));
            limits.look(Instant::now(), sent, news)
        };
        let run = measured_child::measured(program, program.command(&site)?, scratch, look)?;
        sender.finish()?;
        run
    };
    (run.words, run.bytes) = (text.truth().words, bytes);
    program.check(&site, &text)?;
    if let BenchProgram::Wordtide(_) = program {
        let epochs = committed_epochs::epochs(&site.dir.join("out"))?;
        let ended_by_clock = epochs.len().saturating_sub(1);
        let lag = |epoch: &committed_epochs::CountedEpoch| epoch.named_ms - epoch.epoch_ms as f64;
        run.marker_ms = epochs.iter().take(ended_by_clock).map(lag).collect();
    }
    Ok(run)
}
