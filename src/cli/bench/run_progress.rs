//! One line on a terminal that follows a bench: what runs, how far it is, how much is left.

use std::time::{Duration, Instant};

use super::super::progress_line::{in_bytes, in_time, is_terminal};
use super::super::stderr;

/// Time between two drawings.
const EVERY: Duration = Duration::from_millis(250);

/// Longest text: a line that the terminal would break could not be drawn over.
const CHARS_MAX: usize = 79;

/// The state of the line. It is drawn on a terminal only.
#[derive(Debug)]
pub struct Following {
    /// True if standard error is a terminal.
    is_drawn: bool,
    /// The beginning of the bench.
    began: Instant,
    /// The beginning of the run.
    run_began: Instant,
    /// The time of the last drawing of this run.
    drawn: Option<Instant>,
    /// The text, the program and the round of the run.
    what: String,
    /// Runs that have begun, and runs in all.
    runs: (usize, usize),
}

impl Following {
    /// Begins a bench of so many runs.
    pub fn new(runs: usize) -> Following {
        let now = Instant::now();
        Following {
            is_drawn: is_terminal(),
            began: now,
            run_began: now,
            drawn: None,
            what: String::new(),
            runs: (0, runs),
        }
    }

    /// Takes runs off the number of all: their program does not suit a text.
    pub fn leave_out(&mut self, runs: usize) {
        self.runs.1 = self.runs.1.saturating_sub(runs);
    }

    /// Draws a step that is no run.
    pub fn step(&self, what: &str) {
        if self.is_drawn {
            stderr::status(what);
        }
    }

    /// Begins a run.
    pub fn begin(&mut self, what: String) {
        self.runs.0 += 1;
        (self.what, self.run_began, self.drawn) = (what, Instant::now(), None);
        self.look(None);
    }

    /// Draws the line, unless it was drawn just now: bytes that were sent, and bytes in all.
    pub fn look(&mut self, sent: Option<(u64, u64)>) {
        let now = Instant::now();
        if !self.is_drawn || self.drawn.is_some_and(|drawn| now - drawn < EVERY) {
            return;
        }
        self.drawn = Some(now);
        let text = self.text(sent, now - self.run_began, now - self.began);
        stderr::status(&text.chars().take(CHARS_MAX).collect::<String>());
    }

    /// Returns the line: the run, its share and speed, and the time that the other runs take if
    /// they take as long as those that have ended.
    fn text(&self, sent: Option<(u64, u64)>, of_run: Duration, of_all: Duration) -> String {
        let (run, runs) = self.runs;
        let mut text = format!("run {run} of {runs}, {}", self.what);
        if let Some((sent, all)) = sent.filter(|(sent, all)| *sent > 0 && *all > 0) {
            let speed = in_bytes(sent as f64 / of_run.as_secs_f64().max(1e-3));
            text = format!("{text}: {} %, {speed}/s", 100 * sent / all);
        }
        let done = run.saturating_sub(1) as f64;
        let left = of_all.as_secs_f64() / done * (runs as f64 - done);
        if left.is_finite() && left >= 1.0 {
            text = format!("{text}, {} left", in_time(left));
        }
        text
    }

    /// Removes the line, before something is printed.
    pub fn clear(&self) {
        if self.is_drawn {
            stderr::end_status();
            stderr::flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_says_what_runs_and_what_is_left() {
        let mut following = Following::new(5);
        following.begin("english: reference, round 1".to_owned());
        let second = Duration::from_secs(1);
        let text = following.text(Some((25 << 20, 100 << 20)), second, second);
        assert_eq!(text, "run 1 of 5, english: reference, round 1: 25 %, 25.0 MiB/s");
        following.begin("english: wordtide -w 1, round 1".to_owned());
        let text = following.text(None, second, 2 * second);
        assert_eq!(text, "run 2 of 5, english: wordtide -w 1, round 1, 8 s left");
        following.leave_out(3);
        let text = following.text(None, second, 2 * second);
        assert_eq!(text, "run 2 of 2, english: wordtide -w 1, round 1, 2 s left");
    }
}
