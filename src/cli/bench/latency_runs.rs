//! The runs that measure latency: lines are due by the clock and do not wait for the program.
//!
//! There are two latencies. That of an epoch is the time from its end, by its name, to the time at
//! which its marker got its name. That of a line is the time from the moment at which the line was
//! due to the marker of the epoch that counted it. A lagging reader cannot hide its delay, because
//! a line that waits in the sender is due all the same. Beside them stands the time that one write
//! and one sync of as many bytes take in the same minute: no durable output can be faster.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::{Value, json};

use super::super::{failed, parse_values};
use super::check_counts::Truth;
use super::child_log::ChildNews;
use super::committed_epochs::{self, CountedEpoch};
use super::line_sender::{LineSender, SentLines};
use super::measured_child::{self, ProgramRun};
use super::programs::{BenchProgram, RunSite};
use super::quantiles::{Quantiles, median};
use super::row_files::{Fields, figure};
use super::run_limits::RunLimits;
use super::run_progress::Following;
use super::scratch_folder::Scratch;
use super::suites::Suite;
use super::texts::BenchText;
use super::throughput_runs::shown;
use crate::epoch::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};

/// The distance, in lines, between two lines that are measured.
const LINES_A_SAMPLE: u64 = 100;

/// The least share of the rate asked for that counts as kept.
const KEPT_LEAST: f64 = 0.95;

/// Number of writes with a sync that are timed.
const SYNCS: usize = 50;

/// The latencies of one program on one text.
#[derive(Clone, Debug)]
pub struct PacedRun {
    /// The name of the text.
    pub corpus: String,
    /// The program.
    pub program: BenchProgram,
    /// `--interval` as it is typed.
    pub interval: String,
    /// Further flags of the program.
    pub extra: String,
    /// Words a second that were due.
    pub rate: u64,
    /// Words a second that were sent, from the first line to the last.
    pub kept: f64,
    /// For so many seconds.
    pub seconds: u64,
    /// The resources of the run.
    pub run: ProgramRun,
    /// From the end of an epoch to the name of its marker.
    pub markers: Quantiles,
    /// From the time at which a line was due to the marker of its epoch.
    pub lines: Quantiles,
    /// One write and sync of the bytes of an epoch.
    pub syncs: Quantiles,
}

impl PacedRun {
    /// Returns the processor time a second, in cores: user and system time by elapsed time.
    pub fn cores_used(&self) -> f64 {
        (self.run.user_seconds + self.run.system_seconds) / self.run.seconds
    }

    /// Returns the row of the run.
    pub fn row(&self) -> Fields {
        let stages = || self.run.stages.iter();
        let row = json!({
            "kind": "latency",
            "corpus": self.corpus,
            "program": self.program.to_string(),
            "interval": self.interval,
            "extra": self.extra,
            "words": self.run.words,
            "words_per_s_due": self.rate,
            "words_per_s_kept": figure(self.kept),
            "seconds": self.seconds,
            "cores_used": figure(self.cores_used()),
            "user_ns_per_word": figure(self.run.ns_per_word(self.run.user_seconds)),
            "system_ns_per_word": figure(self.run.ns_per_word(self.run.system_seconds)),
            "stolen_ns_per_word": figure(self.run.ns_per_word(self.run.stolen_seconds)),
            "minor_faults": self.run.minor_faults,
            "disk_mb": figure(self.run.disk_bytes as f64 / 1e6),
            "peak_rss_mib": figure(self.run.peak_rss_kib as f64 / 1024.0),
            "epochs": self.markers.len(),
            "count_ms_p50": figure(median(stages().map(|stages| stages.count))),
            "write_ms_p50": figure(median(stages().map(|stages| stages.write))),
            "commit_ms_p50": figure(median(stages().map(|stages| stages.commit))),
            "marker_ms_p50": figure(self.markers.at(0.5)),
            "marker_ms_p90": figure(self.markers.at(0.9)),
            "marker_ms_p99": figure(self.markers.at(0.99)),
            "marker_ms_max": figure(self.markers.most()),
            "line_ms_p50": figure(self.lines.at(0.5)),
            "line_ms_p90": figure(self.lines.at(0.9)),
            "line_ms_p99": figure(self.lines.at(0.99)),
            "line_ms_max": figure(self.lines.most()),
            "sync_ms_p50": figure(self.syncs.at(0.5)),
            "sync_ms_p99": figure(self.syncs.at(0.99)),
        });
        let Value::Object(row) = row else { return Fields::new() };
        row
    }

    /// Returns the words a second that were sent, beside those asked for if they are fewer.
    fn speed(&self) -> String {
        let (rate, kept) = (self.rate, self.kept);
        match kept < KEPT_LEAST * rate as f64 {
            true => format!("asked for {rate} words/s, kept {kept:.0}"),
            false => format!("{kept:.0} words/s"),
        }
    }

    /// Returns a line for standard output.
    pub fn line(&self) -> String {
        let ms = |quantiles: &Quantiles, share: f64| {
            quantiles.at(share).map_or("-".to_owned(), |ms| format!("{ms:.1}"))
        };
        format!(
            "{:30} {}, {:.2} cores: epoch end to marker p50 {} p99 {} max {} ms; line due \
             to marker p50 {} p99 {} ms; one write and sync p50 {} p99 {} ms",
            self.program.to_string(),
            self.speed(),
            self.cores_used(),
            ms(&self.markers, 0.5),
            ms(&self.markers, 0.99),
            ms(&self.markers, 1.0),
            ms(&self.lines, 0.5),
            ms(&self.lines, 0.99),
            ms(&self.syncs, 0.5),
            ms(&self.syncs, 0.99),
        )
    }
}

/// Runs one program by the clock: serves lines at the rate of the suite, then reads the output back
/// and compares its counts with those of what was sent.
///
/// # Errors
///
/// `Failed` if the program fails or a count is wrong.
pub fn run(
    program: BenchProgram,
    suite: &Suite,
    text: &BenchText,
    scratch: &Scratch,
    following: &mut Following,
) -> Result<PacedRun> {
    let text = text.once();
    let (words, lines) = (text.truth().words as f64, text.lines() as f64);
    let rate = suite.rate as f64;
    let bytes_per_second = rate * text.bytes() as f64 / words;
    following.begin(format!("{}: {program}, latency", text.name));
    let all = whole_lines(&text, bytes_per_second * suite.seconds as f64);
    let sender = LineSender::by_the_clock(&text, bytes_per_second, all)?;
    let site = RunSite {
        port: sender.port,
        dir: &scratch.empty("run")?,
        text_file: scratch.dir().join("text"),
        interval: suite.interval,
        extra: &suite.extra,
    };
    let limits = RunLimits::new(program, suite.interval, scratch);
    let mut limits = limits.with_rate(suite.rate, suite.seconds);
    let look = |news: &ChildNews| {
        let sent = (sender.sent.load(Ordering::Relaxed), all as u64);
        following.look(Some(sent));
        limits.look(Instant::now(), sent, news)
    };
    let mut run = measured_child::measured(program, program.command(&site)?, scratch, look)?;
    let SentLines { began, ended } = sender.finish()?;
    let began_ms = SystemClock::new().wall_ms() as f64 - began.elapsed().as_secs_f64() * 1e3;
    let epochs = committed_epochs::epochs(&site.dir.join("out"))?;
    run.words = check(program, &text, all, &epochs)?;
    let (by_epoch, by_line) = latencies(&epochs, began_ms, rate * lines / words / 1e3);
    let bytes = bytes_of_parts(&epochs)? / epochs.len().max(1);
    let syncs = timed_syncs(scratch.dir(), bytes);
    Ok(PacedRun {
        corpus: text.name.clone(),
        program,
        interval: parse_values::show(suite.interval),
        extra: shown(suite),
        rate: suite.rate,
        kept: run.words as f64 / (ended - began).as_secs_f64(),
        seconds: suite.seconds,
        run,
        markers: by_epoch,
        lines: by_line,
        syncs: syncs.map_err(|error| failed("cannot time a sync", error))?,
    })
}

/// Returns the length of whole lines of the repeated text, of at most so many bytes or one line.
fn whole_lines(text: &BenchText, bytes: f64) -> usize {
    let piece = text.piece.as_slice();
    let whole = bytes as usize / piece.len() * piece.len();
    let rest = &piece[..bytes as usize - whole];
    let lines = memchr::memrchr(b'\n', rest).map_or(0, |last| last + 1);
    let one = || memchr::memchr(b'\n', piece).map_or(piece.len(), |end| end + 1);
    if whole + lines > 0 { whole + lines } else { one() }
}

/// Checks the counts of a run to which `all` bytes of the repeated text were sent. Returns the
/// number of words.
fn check(
    program: BenchProgram,
    text: &BenchText,
    all: usize,
    epochs: &[CountedEpoch],
) -> Result<u64> {
    let piece = text.piece.as_slice();
    let mut truth = text.truth().times((all / piece.len()) as u64);
    let rest = &piece[..all % piece.len()];
    if !rest.is_empty() {
        truth = truth.and(Truth::of(rest));
    }
    let written = Truth::of_epochs(epochs)?;
    if written.sums_to(&truth) {
        return Ok(truth.words);
    }
    let message = format!("{program} has counted wrongly: {written:?}, and correct is {truth:?}");
    Err(Error::new(ErrorKind::Failed, message)
        .hint("please report it, with the command and the text"))
}

/// The latencies of epochs and of lines.
fn latencies(epochs: &[CountedEpoch], began_ms: f64, lines_per_ms: f64) -> (Quantiles, Quantiles) {
    let (mut by_epoch, mut by_line) = (Vec::new(), Vec::new());
    let mut line = 0;
    for (index, epoch) in epochs.iter().enumerate() {
        // The last epoch ends with the lines and not by the clock.
        if index + 1 < epochs.len() && epoch.lines > 0 {
            by_epoch.push((epoch.named_ms - epoch.epoch_ms as f64).max(0.0));
        }
        for sample in (line..line + epoch.lines).step_by(LINES_A_SAMPLE as usize) {
            let due_ms = began_ms + sample as f64 / lines_per_ms;
            by_line.push((epoch.named_ms - due_ms).max(0.0));
        }
        line += epoch.lines;
    }
    (Quantiles::of(by_epoch), Quantiles::of(by_line))
}

/// Returns the bytes of all parts.
fn bytes_of_parts(epochs: &[CountedEpoch]) -> Result<usize> {
    let mut bytes = 0;
    for epoch in epochs {
        for part in committed_epochs::parts(&epoch.dir)? {
            let metadata = fs::metadata(&part);
            bytes += metadata.map_err(|error| failed("cannot read a part", error))?.len();
        }
    }
    Ok(bytes as usize)
}

/// Times writes of so many bytes to new files, each with a sync, in milliseconds.
fn timed_syncs(dir: &Path, bytes: usize) -> io::Result<Quantiles> {
    let rows = vec![b'x'; bytes.max(1)];
    let path = dir.join("sync");
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let began = Instant::now();
        let mut file = File::create(&path)?;
        file.write_all(&rows)?;
        file.sync_all()?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
        fs::remove_file(&path)?;
    }
    Ok(Quantiles::of(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_epoch_has_lines_but_no_end() {
        let epoch = |epoch_ms, lines, named_ms| CountedEpoch {
            epoch_ms,
            lines,
            named_ms,
            dir: Path::new("").to_owned(),
        };
        let epochs = [epoch(1000, 200, 1012.5), epoch(2000, 100, 2001.0)];
        let (by_epoch, by_line) = latencies(&epochs, 500.0, 0.2);
        assert_eq!((by_epoch.len(), by_epoch.most()), (1, Some(12.5)));
        // Lines 0, 100 and 200 were due at 500, 1000 and 1500.
        assert_eq!(by_line.len(), 3);
        assert_eq!((by_line.least(), by_line.most()), (Some(12.5), Some(512.5)));
    }
}
