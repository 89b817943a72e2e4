//! Windows over epochs, and the grid on which they end.

use std::time::Duration;

use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};

/// A length of time, in epochs or as a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Epochs(u64),
    Time(Duration),
}

/// A sliding window: its length, and how often one ends.
///
/// The window that ends at epoch e holds the lines of (e - length, e]. Windows end at multiples of
/// the slide by the wall clock, whenever the job began. Both lengths must be multiples of the
/// interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The time that a window covers.
    length: Extent,
    /// The time from the end of one window to the end of the next.
    slide: Extent,
}

impl Window {
    /// Makes a window of `length` that ends every `slide`: Spark's `reduceByKeyAndWindow(..,
    /// length, slide)`.
    ///
    /// Give the slide to the job, too, by [`JobBuilder::windows_end_every`]: each end of a window
    /// is an epoch then.
    ///
    /// [`JobBuilder::windows_end_every`]: crate::JobBuilder::windows_end_every
    pub fn new(length: Duration, slide: Duration) -> Window {
        Window { length: Extent::Time(length), slide: Extent::Time(slide) }
    }

    /// Makes a window over the last `count` intervals that ends with every epoch.
    pub fn epochs(count: u64) -> Window {
        Window { length: Extent::Epochs(count), slide: Extent::Epochs(1) }
    }

    /// Refuses a window that does not fit epochs of `interval`.
    ///
    /// # Errors
    ///
    /// `Usage`, naming `--window` or `--slide`, unless both are multiples of the interval, at least
    /// one interval long, and the window is at least as long as the slide.
    pub fn check(&self, interval: Duration) -> Result<()> {
        self.resolve(interval.as_millis() as u64).map(drop)
    }

    /// Returns length and slide in milliseconds.
    pub(crate) fn resolve(&self, interval_ms: u64) -> Result<(u64, u64)> {
        let length_ms = multiple(self.length, interval_ms, "--window")?;
        let slide_ms = multiple(self.slide, interval_ms, "--slide")?;
        if length_ms < slide_ms {
            let message = format!("a window of {length_ms} ms would leave out part of each slide");
            return Err(Error::new(ErrorKind::Usage, message)
                .hint(format!("give --window at least as long as --slide ({slide_ms} ms)")));
        }
        Ok((length_ms, slide_ms))
    }
}

impl From<u64> for Window {
    fn from(count: u64) -> Window {
        Window::epochs(count)
    }
}

/// The longest window: a century. Retractions that far ahead still fit a timestamp.
const MS_MAX: u64 = 876_600 * 3_600_000;

/// Returns `extent` in milliseconds.
///
/// Fails with `Usage` unless it is a multiple of the interval of at most [`MS_MAX`].
fn multiple(extent: Extent, interval_ms: u64, flag: &str) -> Result<u64> {
    let ms = match extent {
        Extent::Epochs(count) => count.saturating_mul(interval_ms),
        Extent::Time(time) if time.subsec_nanos() % 1_000_000 == 0 => {
            u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
        }
        Extent::Time(_) => 0,
    };
    if ms > MS_MAX {
        let message = format!("{flag} is longer than a century");
        return Err(Error::new(ErrorKind::Usage, message)
            .hint(format!("give {flag} as at most 876600h, or count with running_totals")));
    }
    if ms == 0 || !ms.is_multiple_of(interval_ms) {
        let message = format!("{flag} is not a multiple of the interval, {interval_ms} ms");
        return Err(Error::new(ErrorKind::Usage, message)
            .hint(format!("give {flag} as one or more whole intervals, or another --interval")));
    }
    Ok(ms)
}

/// The epochs that publish a result: the multiples of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    /// The period in milliseconds.
    every_ms: u64,
}

impl Grid {
    /// Every epoch.
    pub const ALL: Grid = Grid { every_ms: 1 };

    /// The multiples of `every_ms`.
    pub fn every(every_ms: u64) -> Grid {
        Grid { every_ms }
    }

    /// Returns the last time not after `epoch` that may publish a result.
    pub fn last(self, epoch: Epoch) -> Epoch {
        epoch / self.every_ms * self.every_ms
    }

    /// Returns true if `epoch` publishes a result.
    pub(crate) fn contains(self, epoch: Epoch) -> bool {
        epoch.is_multiple_of(self.every_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_window_and_its_slide_are_whole_intervals() {
        assert_eq!(Window::new(s(60), s(10)).resolve(5_000).ok(), Some((60_000, 10_000)));
        assert_eq!(Window::epochs(3).resolve(500).ok(), Some((1_500, 500)));
        let bad = [
            ("--window", Window::new(s(15), s(10))),
            ("--slide", Window::new(s(60), s(15))),
            ("--slide", Window::new(s(60), s(0))),
            ("--window", Window::epochs(0)),
            ("--window", Window::epochs(u64::MAX)),
            ("--slide", Window::new(s(60), s(u64::MAX))),
            ("--slide", Window::new(s(10), s(20))),
            ("--window", Window::new(Duration::from_micros(10_000_500), s(10))),
        ];
        for (flag, window) in bad {
            let error = window.check(s(10)).expect_err(flag);
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains(flag), "{error}");
        }
    }

    #[test]
    fn grid_is_aligned_to_the_wall_clock() {
        let grid = Grid::every(10_000);
        assert_eq!([10_000, 15_000, 20_000].map(|epoch| grid.contains(epoch)), [true, false, true]);
    }
}
