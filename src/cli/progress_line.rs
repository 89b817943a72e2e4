//! One line on a terminal that follows a run: how fast it reads, how much is left, what waits.
//!
//! The line is drawn again a few times a second and removed at the end. Other lines of standard
//! error appear above it. It is not drawn where standard error is no terminal, with
//! `--log-format json`, `--to -`, `-q` and `-v`.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::flags::JobFlags;
use super::log_lines::LogFormat;
use super::stderr as lines;
use crate::error::Error;
use crate::meters::Meters;
use crate::supervise;

/// Time between two drawings.
const EVERY: Duration = Duration::from_millis(250);

/// Time over which rates are taken.
const RATE_OVER: Duration = Duration::from_secs(2);

/// Longest text: a line that the terminal would break could not be drawn over.
const CHARS_MAX: usize = 79;

/// A line that is drawn until this is dropped.
pub struct Progress {
    /// Ends the drawing when it is dropped.
    drawing: Option<(SyncSender<()>, Receiver<()>)>,
}

impl Progress {
    /// Begins to draw the figures in `meters`, where that is wanted and a thread can be had.
    pub fn start(flags: &JobFlags, meters: Meters) -> Progress {
        if !is_wanted(flags) {
            return Progress { drawing: None };
        }
        let total = total_bytes(&flags.source.file).filter(|_| has_files_only(flags));
        let (end, ended) = sync_channel(0);
        let (gone, is_gone) = sync_channel(0);
        let draw = move || {
            let _gone: SyncSender<()> = gone;
            let mut rates = Rates::default();
            loop {
                lines::status(&text(&meters, total, &mut rates));
                match ended.recv_timeout(EVERY) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            lines::end_status();
            Ok(())
        };
        // A run does not depend on its display.
        let fail = |error: Error| tracing::debug!("{error}");
        let drawn = supervise::thread("progress", fail, draw);
        Progress { drawing: drawn.ok().map(|_| (end, is_gone)) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((end, is_gone)) = self.drawing.take() {
            drop(end);
            // It ends with the thread, whose last act is to remove the line.
            let _ = is_gone.recv();
        }
    }
}

/// Returns true if the line can be of use.
fn is_wanted(flags: &JobFlags) -> bool {
    let watch = &flags.watch;
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
    // Rows on the same terminal would stand in the line.
    flags.output.to.as_deref() != Some("-")
        && watch.log_format == LogFormat::Text
        && (watch.verbose, watch.quiet) == (0, 0)
        && !is_dumb
        && stderr().is_terminal()
}

/// Returns true if all sources are files, so that the amount to read is known.
fn has_files_only(flags: &JobFlags) -> bool {
    let source = &flags.source;
    let lists =
        [&source.connect, &source.listen, &source.listen_http, &source.watch, &source.kafka];
    lists.iter().all(|list| list.is_empty()) && !source.stdin
}

/// Returns the bytes of regular files; `None` where there are none, or where one is compressed,
/// because what is read is its text.
fn total_bytes(files: &[PathBuf]) -> Option<u64> {
    let mut total = None;
    for file in files {
        let is_compressed = file.extension().is_some_and(|end| end == "gz" || end == "zst");
        let metadata = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file)?;
        if is_compressed {
            return None;
        }
        total = Some(total.unwrap_or(0) + metadata.len());
    }
    total
}

/// Returns the text of the line.
fn text(meters: &Meters, total: Option<u64>, rates: &mut Rates) -> String {
    let figures = meters.figures();
    let (bytes, words) = (figures.bytes, figures.words);
    let (byte_rate, word_rate) = rates.of(Instant::now(), bytes, words);
    let mut parts = Vec::new();
    match total.filter(|total| *total > 0) {
        Some(total) => {
            let share = 100.0 * bytes as f64 / total as f64;
            parts.push(format!("{share:.0} % of {}", in_bytes(total as f64)));
        }
        None => parts.push(format!("read {}", in_bytes(bytes as f64))),
    }
    parts.push(format!("{}/s", in_bytes(byte_rate)));
    parts.push(format!("{} words/s", in_thousands(word_rate)));
    let left = total.map(|total| total.saturating_sub(bytes) as f64 / byte_rate);
    if let Some(seconds) = left.filter(|seconds| seconds.is_finite() && *seconds >= 1.0) {
        parts.push(format!("{} left", in_time(seconds)));
    }
    match meters.epochs().in_flight() {
        0 | 1 => {}
        epochs => parts.push(format!("{epochs} epochs wait")),
    }
    if let Some(condition) = figures.conditions.first() {
        parts.push(condition.detail.clone());
    }
    let text = parts.join(", ");
    text.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect()
}

/// The figures of the last seconds.
#[derive(Default)]
struct Rates(Vec<(Instant, u64, u64)>);

impl Rates {
    /// Takes the figures of now, and returns their growth in a second.
    fn of(&mut self, now: Instant, bytes: u64, words: u64) -> (f64, f64) {
        self.0.push((now, bytes, words));
        while self.0.len() > 2 && now - self.0[1].0 >= RATE_OVER {
            self.0.remove(0);
        }
        let (then, old_bytes, old_words) = self.0[0];
        let seconds = (now - then).as_secs_f64();
        let rate = |new: u64, old: u64| match seconds {
            0.0 => 0.0,
            seconds => new.saturating_sub(old) as f64 / seconds,
        };
        (rate(bytes, old_bytes), rate(words, old_words))
    }
}

/// Returns a number of bytes with a unit.
fn in_bytes(bytes: f64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// Returns a number with a unit of thousands.
fn in_thousands(number: f64) -> String {
    scaled(number, 1000.0, &["", "k", "M", "G"]).trim_end().to_owned()
}

/// Returns a number with three digits or more, in the largest unit that fits.
fn scaled(mut number: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while number >= step && unit + 1 < units.len() {
        number /= step;
        unit += 1;
    }
    let digits = if unit > 0 && number < 100.0 { 1 } else { 0 };
    format!("{number:.digits$} {}", units[unit])
}

/// Returns a time, in the unit that suits it.
fn in_time(seconds: f64) -> String {
    match seconds as u64 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let (mut rates, began) = (Rates::default(), Instant::now());
        assert_eq!(rates.of(began, 100, 10), (0.0, 0.0));
        assert_eq!(rates.of(began + Duration::from_secs(1), 300, 20), (200.0, 10.0));
        // The first second does not count any more.
        rates.of(began + Duration::from_secs(2), 300, 20);
        assert_eq!(rates.of(began + Duration::from_secs(3), 300, 20), (0.0, 0.0));
    }

    #[test]
    fn numbers_have_units_that_fit() {
        assert_eq!(
            [0.0, 1023.0, 1536.0, 2e9].map(in_bytes),
            ["0 B", "1023 B", "1.5 KiB", "1.9 GiB"]
        );
        assert_eq!([7.0, 1500.0, 2.5e6].map(in_thousands), ["7", "1.5 k", "2.5 M"]);
        assert_eq!([3.9, 130.0, 7300.0].map(in_time), ["3 s", "2 min", "2 h"]);
    }

    #[test]
    fn total_is_known_for_plain_files_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let (plain, packed) = (dir.path().join("a"), dir.path().join("b.gz"));
        std::fs::write(&plain, "12345").expect("a file");
        std::fs::write(&packed, "1").expect("a file");
        assert_eq!(total_bytes(&[plain.clone(), plain.clone()]), Some(10));
        assert_eq!(total_bytes(&[plain.clone(), packed]), None);
        assert_eq!(total_bytes(&[plain, dir.path().to_owned()]), None);
        assert_eq!(total_bytes(&[]), None);
    }
}
