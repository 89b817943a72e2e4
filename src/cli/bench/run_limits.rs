//! The limits of a run: of the time without progress, and of the time in which a rate is kept.
//!
//! A program whose disk is full waits for room, as a job should. A bench would then wait for ever.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::child_log::{ChildNews, is_disk_full};
use super::programs::BenchProgram;
use super::scratch_folder::Scratch;
use crate::error::{Error, ErrorKind, Result};

/// Longest time in which a run accepts no byte and commits no line. Where no disk is full, the
/// length of an epoch comes on top: a full journal gets room at its end.
const STALLED: Duration = Duration::from_secs(30);

/// Longest time from the last byte accepted to the end of a run whose disk has room: the last epoch
/// may be all of a large text.
const LAST_EPOCH: Duration = Duration::from_secs(600);

/// Longest time that counts between two looks. A bench that is suspended is not stalled.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// A run by the clock may take this many times `--seconds` …
const TIMES_SECONDS: u32 = 3;
/// … and this much more, for its start and its end.
const SECONDS_MORE: Duration = Duration::from_secs(10);

/// The limits of one run, and how near they are.
#[derive(Debug)]
pub struct RunLimits {
    program: BenchProgram,
    /// Length of an epoch.
    interval: Duration,
    /// `--scratch`, for messages.
    scratch: PathBuf,
    /// Words a second that were asked for, and the longest time in which they are sent and counted.
    rate: Option<(u64, Duration)>,
    /// The last look.
    looked: Option<Instant>,
    /// Bytes accepted and epochs committed then.
    progress: (u64, u64),
    /// Time since they last grew.
    idle: Duration,
    /// Time since the first look.
    taken: Duration,
}

impl RunLimits {
    /// Returns the limits of a run that has not begun.
    pub fn new(program: BenchProgram, interval: Duration, scratch: &Scratch) -> RunLimits {
        RunLimits {
            program,
            interval,
            scratch: scratch.parent().to_owned(),
            rate: None,
            looked: None,
            progress: (0, 0),
            idle: Duration::ZERO,
            taken: Duration::ZERO,
        }
    }

    /// Returns the limits of a run in which so many words a second are due for so many seconds.
    pub fn with_rate(self, rate: u64, seconds: u64) -> RunLimits {
        let most = Duration::from_secs(seconds) * TIMES_SECONDS + SECONDS_MORE;
        RunLimits { rate: Some((rate, most)), ..self }
    }

    /// Looks at a run: bytes accepted, bytes in all, and its log.
    ///
    /// # Errors
    ///
    /// `Disk` or `Failed` if it has waited for too long, `Failed` if its rate cannot be kept.
    pub fn look(&mut self, now: Instant, (sent, all): (u64, u64), news: &ChildNews) -> Result<()> {
        let step = now.saturating_duration_since(self.looked.unwrap_or(now)).min(LOOK_MAX);
        self.looked = Some(now);
        self.taken += step;
        let progress = (sent, news.epochs);
        self.idle = if progress == self.progress { self.idle + step } else { Duration::ZERO };
        self.progress = progress;
        let patience = match (news.is_disk_full, sent < all) {
            (true, _) => STALLED,
            (false, true) => STALLED + self.interval,
            (false, false) => LAST_EPOCH + self.interval,
        };
        // The others do not wait for room, and one of them counts long after it has read all.
        if matches!(self.program, BenchProgram::Wordtide(_)) && self.idle >= patience {
            return Err(self.stalled(news));
        }
        match self.rate {
            Some((rate, most)) if self.taken > most => Err(self.too_slow(rate, most)),
            _ => Ok(()),
        }
    }

    fn stalled(&self, news: &ChildNews) -> Error {
        let (program, scratch) = (self.program, self.scratch.display());
        let warning = news.warning.as_deref().unwrap_or("none");
        // A disk can be full by turns: room comes, and is gone again.
        let is_full = news.is_disk_full || is_disk_full(warning);
        let time = self.idle.as_secs();
        let mut message = format!("{program} has accepted no line and committed none for {time} s");
        if is_full {
            message.push_str(&format!(", because the disk of {scratch} is full"));
        }
        let kind = if is_full { ErrorKind::Disk } else { ErrorKind::Failed };
        Error::new(kind, format!("{message}; its last warning: {warning}")).hint(format!(
            "free space on the disk of {scratch}, or give --scratch another disk or less --mib"
        ))
    }

    fn too_slow(&self, rate: u64, most: Duration) -> Error {
        let (program, most) = (self.program, most.as_secs());
        let message = format!("{program} cannot keep {rate} words/s: it was not done in {most} s");
        Error::new(ErrorKind::Failed, message).hint("give a lower --rate")
    }
}

#[cfg(test)]
mod tests {
    use super::super::programs::RunShape;
    use super::*;

    /// Looks once a second for so long, without progress. Returns the time of the refusal.
    fn refused(limits: &mut RunLimits, sent: (u64, u64), news: &ChildNews) -> Option<(u64, Error)> {
        let began = Instant::now();
        (0..2_000).find_map(|second| {
            let error = limits.look(began + Duration::from_secs(second), sent, news).err()?;
            Some((second, error))
        })
    }

    fn limits(interval_s: u64) -> RunLimits {
        let dir = tempfile::tempdir().expect("a directory");
        let scratch = Scratch::create(Some(dir.path()), false).expect("a folder");
        let program = BenchProgram::Wordtide(RunShape::plain(1));
        RunLimits::new(program, Duration::from_secs(interval_s), &scratch)
    }

    #[test]
    fn full_disk_ends_a_run_with_its_warning() {
        let warning = Some("the disk is full".to_owned());
        let news = ChildNews { epochs: 0, warning, is_disk_full: true };
        for sent in [(0, 9), (9, 9)] {
            let (second, error) = refused(&mut limits(100), sent, &news).expect("an end");
            let text = error.to_string();
            assert_eq!((error.kind(), second <= 32), (ErrorKind::Disk, true), "{text}");
            assert!(text.contains("--scratch") && text.contains(": the disk is full"), "{text}");
        }
    }

    #[test]
    fn run_without_progress_ends_after_an_epoch() {
        let news = ChildNews::default();
        let (second, error) = refused(&mut limits(100), (0, 9), &news).expect("an end");
        assert_eq!((error.kind(), second), (ErrorKind::Failed, 130));
        let (second, _) = refused(&mut limits(100), (9, 9), &news).expect("an end");
        assert!((700..710).contains(&second), "the last epoch has more time: {second}");
    }

    #[test]
    fn progress_or_suspension_is_no_stall() {
        let (mut limits, began) = (limits(1), Instant::now());
        for second in 0..1_000 {
            let now = began + Duration::from_secs(second);
            limits.look(now, (second, 1_000), &ChildNews::default()).expect("progress");
        }
        let later = began + Duration::from_secs(9_000);
        limits.look(later, (999, 1_000), &ChildNews::default()).expect("it was suspended");
    }

    #[test]
    fn rate_out_of_reach_ends_the_run() {
        let mut limits = limits(1).with_rate(1_000, 5);
        let (second, error) = refused(&mut limits, (1, 9), &ChildNews::default()).expect("an end");
        let text = error.to_string();
        assert_eq!((error.kind(), second), (ErrorKind::Failed, 26), "{text}");
        assert!(text.contains("--rate") && text.contains("1000 words/s"), "{text}");
    }
}
