//! An open-loop run: lines are due by the clock and do not wait for the program.
//!
//! It measures two latencies. `epoch` is the time from the end of an epoch, by its name, to the
//! time at which the marker got its name (the change time of its inode, which a link or a rename
//! sets; the modification time is earlier by the sync of the file). `line` is the time from the
//! moment at which a line was due to the marker of the epoch that counted it. A lagging reader
//! cannot hide its delay, because a line that waits in the sender is due all the same.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::Result;
use super::flags::Flags;
use super::measure;
use super::rows::Report;
use super::sender::Sender;
use super::truth::Truth;

/// The distance, in lines, between two lines that are measured.
const LINES_A_SAMPLE: u64 = 100;

/// A committed epoch, read from its directory.
struct Commit {
    epoch_ms: u64,
    lines: u64,
    seen_ms: u64,
}

pub(crate) fn run(
    flags: &Flags,
    corpus: &str,
    text: &Arc<Vec<u8>>,
    words_per_second: f64,
    report: &mut Report,
) -> Result<()> {
    let words = Truth::of(text).words as f64;
    let lines = memchr::memchr_iter(b'\n', text).count() as f64;
    let bytes_per_second = words_per_second * text.len() as f64 / words;
    let lines_per_ms = words_per_second * lines / words / 1e3;
    for program in flags.wordtides() {
        let dir = tempfile::tempdir()?;
        let out = dir.path().join("out");
        let sender = Sender::by_the_clock(Arc::clone(text), bytes_per_second, flags.seconds)?;
        let run = measure::watched(measure::command(program, sender.port, &out, flags)?)?;
        let began_ms = wall_ms(sender.finish()?)?;
        let commits = commits(&out)?;
        let (epochs, by_line) = latencies(&commits, began_ms, lines_per_ms)?;
        let cpu_share = run.cpu_seconds / run.seconds;
        let row = json!({
            "corpus": corpus,
            "program": program.to_string(),
            "interval": flags.interval,
            "words_per_s_due": words_per_second,
            "seconds": flags.seconds,
            "cores_used": cpu_share,
            "epoch_ms": percentiles(&epochs),
            "line_ms": percentiles(&by_line),
        });
        println!(
            "{corpus:12} {program:16} {words_per_second:.0} words/s, {cpu_share:.2} cores: epoch \
             end to marker {}; line due to marker {} ms",
            row["epoch_ms"],
            row["line_ms"],
            program = program.to_string(),
        );
        report.row(row)?;
    }
    Ok(())
}

/// The latencies of epochs and of lines.
fn latencies(
    commits: &[Commit],
    began_ms: f64,
    lines_per_ms: f64,
) -> Result<(Histogram<u64>, Histogram<u64>)> {
    let (mut epochs, mut by_line) = (Histogram::new(3)?, Histogram::new(3)?);
    let mut line = 0;
    for (index, commit) in commits.iter().enumerate() {
        // The last epoch ends with the lines and not by the clock.
        if index + 1 < commits.len() && commit.lines > 0 {
            epochs.record(commit.seen_ms.saturating_sub(commit.epoch_ms))?;
        }
        for sample in (line..line + commit.lines).step_by(LINES_A_SAMPLE as usize) {
            let due_ms = began_ms + sample as f64 / lines_per_ms;
            by_line.record((commit.seen_ms as f64 - due_ms).max(0.0) as u64)?;
        }
        line += commit.lines;
    }
    Ok((epochs, by_line))
}

fn percentiles(histogram: &Histogram<u64>) -> Value {
    json!({
        "p50": histogram.value_at_quantile(0.5),
        "p90": histogram.value_at_quantile(0.9),
        "p99": histogram.value_at_quantile(0.99),
        "p99.9": histogram.value_at_quantile(0.999),
        "max": histogram.max(),
        "samples": histogram.len(),
    })
}

/// Returns the committed epochs below `out`, in order.
fn commits(out: &Path) -> Result<Vec<Commit>> {
    let mut commits = Vec::new();
    for entry in std::fs::read_dir(out)? {
        let marker = entry?.path().join("_SUCCESS");
        if !marker.exists() {
            continue;
        }
        let told: Value = serde_json::from_slice(&std::fs::read(&marker)?)?;
        let number = |name: &str| told[name].as_u64().ok_or("a marker lacks a number");
        let named = std::fs::metadata(&marker)?;
        let seen_ms = named.ctime() as u64 * 1_000 + named.ctime_nsec() as u64 / 1_000_000;
        let (epoch_ms, lines) = (number("epoch")?, number("lines")?);
        commits.push(Commit { epoch_ms, lines, seen_ms });
    }
    commits.sort_by_key(|commit| commit.epoch_ms);
    Ok(commits)
}

/// Returns the time of the wall clock at `then`.
fn wall_ms(then: Instant) -> Result<f64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok((now - then.elapsed()).as_secs_f64() * 1e3)
}
