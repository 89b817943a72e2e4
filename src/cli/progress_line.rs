//! One line on a terminal that follows a run: how fast it reads, how much is left, what waits.
//!
//! ```text
//! [=======>            ] 38 % of 12.4 GiB, 1.1 GiB/s, 182 M words/s, 7 s left
//! ```
//!
//! The line is drawn again a few times a second and removed at the end. Other lines of standard
//! error appear above it. It is not drawn where standard error is no terminal, with
//! `--log-format json`, `--to -`, `-q` and `-v`. The share is known where all sources end: regular
//! files, also compressed ones and those that a former run has begun, and journals that are
//! replayed.

use std::io::{IsTerminal, stderr};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::flags::JobFlags;
use super::log_format::LogFormat;
use super::stderr as lines;
use crate::error::Error;
use crate::meters::Meters;
use crate::supervise;

/// Time between two drawings.
const EVERY: Duration = Duration::from_millis(250);

/// Time over which rates are taken.
const RATE_OVER: Duration = Duration::from_secs(2);

/// Columns of a terminal that does not say how many it has.
const COLUMNS_DEFAULT: usize = 80;

/// Columns of the bar in a terminal that has room for it.
const BAR_COLUMNS: usize = 20;

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
        let (end, ended) = sync_channel(0);
        let (gone, is_gone) = sync_channel(0);
        let draw = move || {
            let _gone: SyncSender<()> = gone;
            let (mut rates, mut wait) = (Rates::default(), Duration::ZERO);
            loop {
                let is_end = ended.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
                // Drawn at the end, too: a source may be known only then.
                let (now, figures) = (Instant::now(), ProgressFigures::of(&meters));
                lines::status(&fitted(&text(now, &figures, &mut rates), columns()));
                if is_end {
                    break;
                }
                wait = EVERY;
            }
            lines::end_status();
            Ok(())
        };
        // A run does not depend on its display. The message of a panic is here, too.
        let fail = |error: Error| tracing::error!("the progress of the run is not drawn: {error}");
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
    // Rows on the same terminal would stand in the line.
    flags.output.to.as_deref() != Some("-")
        && watch.log_format == LogFormat::Text
        && (watch.verbose, watch.quiet) == (0, 0)
        && is_terminal()
}

/// Returns true if standard error is a terminal on which a line can be drawn again.
pub fn is_terminal() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
    !is_dumb && stderr().is_terminal()
}

/// Returns the columns of the terminal, which may change while a run goes on.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(stderr());
    size.map(|size| usize::from(size.ws_col))
        .ok()
        .filter(|columns| *columns > 0)
        .unwrap_or(COLUMNS_DEFAULT)
}

/// Figures of a run at a moment.
#[derive(Debug, Default)]
struct ProgressFigures {
    /// Bytes of text that were read.
    bytes: u64,
    /// Words that the workers have counted.
    words: u64,
    /// Bytes that were read of sources that all end, and the bytes that they have.
    extent: Option<(u64, u64)>,
    /// Epochs that are cut and not committed.
    in_flight: usize,
    /// The first condition that needs attention.
    condition: Option<String>,
}

impl ProgressFigures {
    /// Reads the figures of a run.
    fn of(meters: &Meters) -> ProgressFigures {
        let process = meters.facts().process;
        let sources = meters.sources();
        let here = sources.iter().filter(|(_, meter)| meter.facts().process == process);
        let extents: Option<Vec<_>> = here.map(|(_, meter)| meter.extent()).collect();
        let sum = |extents: Vec<(u64, u64)>| {
            extents.iter().fold((0, 0), |sum, extent| (sum.0 + extent.0, sum.1 + extent.1))
        };
        let figures = meters.figures();
        ProgressFigures {
            bytes: figures.bytes,
            words: figures.words,
            extent: extents.filter(|extents| !extents.is_empty()).map(sum),
            in_flight: meters.epochs().in_flight(),
            condition: figures.conditions.into_iter().next().map(|condition| condition.detail),
        }
    }
}

/// Returns the text of the line, its most important parts first.
fn text(now: Instant, figures: &ProgressFigures, rates: &mut Rates) -> String {
    let reached = figures.extent.map_or(0, |(reached, _)| reached);
    let [byte_rate, word_rate, share_rate] = rates.of(now, [figures.bytes, figures.words, reached]);
    let (mut bar, mut parts) = (String::new(), Vec::new());
    match figures.extent {
        Some((reached, total)) => {
            let share = if total > 0 { reached as f64 / total as f64 } else { 1.0 };
            bar = format!("{} ", bar_of(share));
            parts.push(format!("{:.0} % of {}", (100.0 * share).floor(), in_bytes(total as f64)));
        }
        None => parts.push(format!("read {}", in_bytes(figures.bytes as f64))),
    }
    parts.push(format!("{}/s", in_bytes(byte_rate)));
    parts.push(format!("{} words/s", in_thousands(word_rate)));
    let left = figures.extent.map(|(reached, total)| (total - reached) as f64 / share_rate);
    if let Some(seconds) = left.filter(|seconds| seconds.is_finite() && *seconds >= 1.0) {
        parts.push(format!("{} left", in_time(seconds)));
    }
    match figures.in_flight {
        0 | 1 => {}
        epochs => parts.push(format!("{epochs} epochs wait")),
    }
    parts.extend(figures.condition.clone());
    bar + &parts.join(", ")
}

/// Returns a bar of [`BAR_COLUMNS`] columns, of which a share is filled.
fn bar_of(share: f64) -> String {
    let filled = (share * BAR_COLUMNS as f64) as usize;
    let head = if filled < BAR_COLUMNS { ">" } else { "" };
    format!("[{:BAR_COLUMNS$}]", "=".repeat(filled) + head)
}

/// Returns what of `text` fits into one line: a line that the terminal would break could not be
/// drawn over. The bar is left out first.
fn fitted(text: &str, columns: usize) -> String {
    // A terminal breaks a line when its last column is taken. A character outside ASCII may take
    // two columns.
    let room = columns.saturating_sub(1);
    let width = |c: char| if c.is_ascii() { 1 } else { 2 };
    let mut text = text;
    if text.chars().map(width).sum::<usize>() > room
        && let Some((_, without)) = text.strip_prefix('[').and_then(|text| text.split_once("] "))
    {
        text = without;
    }
    let mut used = 0;
    text.chars()
        .filter(|c| !c.is_control())
        .take_while(|c| {
            used += width(*c);
            used <= room
        })
        .collect()
}

/// The figures of the last seconds.
#[derive(Default)]
struct Rates(Vec<(Instant, [u64; 3])>);

impl Rates {
    /// Takes the figures of now, and returns their growth in a second.
    fn of(&mut self, now: Instant, figures: [u64; 3]) -> [f64; 3] {
        self.0.push((now, figures));
        while self.0.len() > 2 && now - self.0[1].0 >= RATE_OVER {
            self.0.remove(0);
        }
        let (then, old) = self.0[0];
        let seconds = (now - then).as_secs_f64();
        std::array::from_fn(|at| match seconds {
            0.0 => 0.0,
            seconds => figures[at].saturating_sub(old[at]) as f64 / seconds,
        })
    }
}

/// Returns a number of bytes with a unit.
pub fn in_bytes(bytes: f64) -> String {
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
pub fn in_time(seconds: f64) -> String {
    match seconds as u64 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataflows::network_wordcount;
    use crate::job::StatePlace;
    use crate::{Job, Source, Target};

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let (mut rates, began) = (Rates::default(), Instant::now());
        assert_eq!(rates.of(began, [100, 10, 0]), [0.0; 3]);
        assert_eq!(rates.of(began + Duration::from_secs(1), [300, 20, 5]), [200.0, 10.0, 5.0]);
        // The first second does not count any more.
        rates.of(began + Duration::from_secs(2), [300, 20, 5]);
        assert_eq!(rates.of(began + Duration::from_secs(3), [300, 20, 5]), [0.0; 3]);
    }

    #[test]
    fn share_counts_what_former_runs_read() {
        let (mut rates, began) = (Rates::default(), Instant::now());
        let mib = 1 << 20;
        let figures = |bytes, reached| ProgressFigures {
            bytes,
            extent: Some((reached, 100 * mib)),
            ..ProgressFigures::default()
        };
        // A run that begins in the middle of a file that is compressed to a third.
        text(began, &figures(0, 50 * mib), &mut rates);
        let text = text(began + Duration::from_secs(1), &figures(30 * mib, 60 * mib), &mut rates);
        let expected = "[============>       ] 60 % of 100 MiB, 30.0 MiB/s, 0 words/s, 4 s left";
        assert_eq!(text, expected);
    }

    #[test]
    fn share_of_compressed_files_is_of_stored_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        // The name does not say that it is compressed.
        let path = dir.path().join("lines");
        let file = std::fs::File::create(&path).expect("a file");
        let mut file = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        std::io::Write::write_all(&mut file, "tide sea\n".repeat(10_000).as_bytes())
            .expect("space");
        let bytes = file.finish().and_then(|file| file.metadata()).expect("space").len();
        let meters = Meters::default();
        let target = Target::Local { root: dir.path().to_owned(), prefix: "counts".to_owned() };
        let job = Job::builder()
            .source(Source::File(path))
            .to(target)
            .state(StatePlace::None)
            .meters(meters.clone())
            .dataflow("counts", network_wordcount::dataflow);
        job.start().expect("a job").wait().expect("all counted");
        let figures = ProgressFigures::of(&meters);
        assert_eq!((figures.bytes, figures.extent), (90_000, Some((bytes, bytes))));
    }

    #[test]
    fn line_fits_into_narrow_terminals() {
        let text = format!("{} 60 % of 100 MiB, 30.0 MiB/s, Größe", bar_of(0.6));
        assert_eq!(fitted(&text, 80), text);
        // Two characters are counted twice.
        assert_eq!(fitted(&text, text.chars().count() + 3), text);
        assert_eq!(fitted(&text, text.chars().count() + 2), "60 % of 100 MiB, 30.0 MiB/s, Größe");
        assert_eq!(fitted(&text, 20), "60 % of 100 MiB, 30");
        assert_eq!(fitted("a\x1b[Kb\n", 80), "a[Kb");
        assert_eq!(fitted(&text, 0), "");
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
}
