//! Epochs and clocks: the name of an epoch and the time of its end.
//!
//! An [`Epoch`] is one batch interval. Its name is the Unix time in milliseconds of the interval's
//! *end*, a multiple of the interval, as Spark writes it into `prefix-<ms>.suffix`. Names come from
//! the wall clock, but the pace comes from the monotonic clock. So a wall clock that jumps can
//! neither repeat an epoch nor open a series of empty ones. [`Schedule`] is that rule, as a pure
//! function of both times. Only process 0 advances it. [`SystemClock`] is the only place of the
//! crate that reads the wall clock.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;

/// Unix milliseconds of the end of a batch interval; the timestamp of the dataflow.
pub type Epoch = u64;

/// The last millisecond of the year 9999: the greatest time that is accepted from a clock.
pub const TIME_MAX_MS: u64 = 253_402_300_799_999;

/// Limit of the time by which the name of an epoch below the prefix may be ahead of the clock.
pub const AHEAD_MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// Returns true if `epoch` can be an epoch of a job while the clock shows `wall_ms`: it is at most
/// a day ahead, and at most [`TIME_MAX_MS`].
pub fn is_plausible(epoch: Epoch, wall_ms: u64) -> bool {
    epoch <= TIME_MAX_MS && epoch <= wall_ms.saturating_add(AHEAD_MAX_MS)
}

/// The two clocks of a job. Tests pass their own.
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// Returns the Unix time in milliseconds. It may jump in either direction.
    fn wall_ms(&self) -> u64;

    /// Returns the time since a fixed moment. It never goes back and does not follow the wall
    /// clock.
    fn monotonic(&self) -> Duration;

    /// Waits until [`Clock::monotonic`] has reached `deadline`.
    fn wait_until(&self, deadline: Duration) -> BoxFuture<'static, ()>;
}

/// The clock of the machine.
#[derive(Clone, Debug)]
pub struct SystemClock {
    /// The origin of the monotonic clock.
    start: Instant,
}

impl SystemClock {
    /// Returns a clock whose monotonic time starts now, or up to a millisecond ago. Milliseconds of
    /// both clocks begin together, so that their difference is a whole number of them.
    pub fn new() -> Self {
        let now = Instant::now();
        let since_1970 = Self::wall_now().duration_since(UNIX_EPOCH);
        let past_ns = since_1970.map_or(0, |since| since.subsec_nanos() % 1_000_000);
        SystemClock { start: now.checked_sub(Duration::from_nanos(past_ns.into())).unwrap_or(now) }
    }

    #[allow(clippy::disallowed_methods)] // the only place that reads the wall clock
    fn wall_now() -> SystemTime {
        SystemTime::now()
    }

    /// Returns a new clock that can be shared.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::new())
    }
}

impl SystemClock {
    /// Returns the wall clock's time in the type of the standard library.
    pub fn wall(&self) -> SystemTime {
        Self::wall_now()
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        let since_1970 = self.wall().duration_since(UNIX_EPOCH);
        since_1970.map_or(0, |since| since.as_millis() as u64)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wait_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        let deadline = self.start + deadline;
        Box::pin(async move { tokio::time::sleep_until(deadline.into()).await })
    }
}

/// A jump of the wall clock against the monotonic clock while an epoch was open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The size of the jump in milliseconds; negative if the clock was set back.
    pub by_ms: i64,
}

/// The open epoch and its end.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Length of an epoch in milliseconds.
    interval_ms: u64,
    /// Time between two names that are never skipped, in milliseconds; `None` if all may be.
    slide_ms: Option<u64>,
    /// Wall minus monotonic time in milliseconds at the last call.
    offset_ms: i64,
    /// The open epoch.
    open: Epoch,
    /// The monotonic time of the open epoch's end.
    deadline: Duration,
}

impl Schedule {
    /// Opens the first epoch: the interval that contains `wall_ms`, or the one after `after` (the
    /// newest committed epoch) if that is later.
    ///
    /// Windows end at multiples of `slide`, if given. The first of them after an epoch is never
    /// skipped, so that each word is in a result: also when it has passed, between two runs or
    /// while an epoch could not be cut. Its epoch is due at once then.
    ///
    /// Times above [`TIME_MAX_MS`] count as that time, so no arithmetic on epochs can wrap.
    pub fn new(
        interval: Duration,
        slide: Option<Duration>,
        wall_ms: u64,
        monotonic: Duration,
        after: Option<Epoch>,
    ) -> Self {
        let interval_ms = (interval.as_millis() as u64).clamp(1, TIME_MAX_MS);
        let slide_ms = slide.map(|slide| (slide.as_millis() as u64).clamp(1, TIME_MAX_MS));
        let offset_ms = offset(wall_ms, monotonic);
        let mut schedule =
            Schedule { interval_ms, slide_ms, offset_ms, open: 0, deadline: monotonic };
        schedule.open = match after {
            Some(after) => schedule.name_after(after, next_multiple(after, interval_ms), wall_ms),
            None => next_multiple(wall_ms, interval_ms),
        };
        schedule.deadline = schedule.deadline_from(monotonic);
        schedule
    }

    /// Returns the schedule with another name for the open epoch, which is due when it was.
    pub fn with_open(self, open: Epoch) -> Schedule {
        Schedule { open, ..self }
    }

    /// Returns the open epoch.
    pub fn open(&self) -> Epoch {
        self.open
    }

    /// Returns the monotonic time at which the open epoch must be cut.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Cuts the open epoch and opens the next one, which [`Schedule::open`] then returns.
    ///
    /// A late call skips the intervals that have passed; their lines are in the epoch that was cut.
    /// A wall clock that is set forward makes the next name later, once. A wall clock that is set
    /// back changes no name: names go on at the pace of the monotonic clock.
    pub fn advance(&mut self, wall_ms: u64, monotonic: Duration) -> Option<Jump> {
        let offset_ms = offset(wall_ms, monotonic);
        let by_ms = offset_ms.saturating_sub(self.offset_ms);
        self.offset_ms = offset_ms;
        // Names must also grow after the last year of the clock.
        let following = self.open.saturating_add(self.interval_ms);
        self.open = self.name_after(self.open, following, wall_ms);
        self.deadline = self.deadline_from(monotonic);
        // A difference below a second is a correction by NTP and no jump.
        (by_ms.unsigned_abs() >= 1_000.max(self.interval_ms / 2)).then_some(Jump { by_ms })
    }

    /// Returns the name of the epoch after `epoch`: that of the present, and at least `following`.
    fn name_after(&self, epoch: Epoch, following: Epoch, wall_ms: u64) -> Epoch {
        let present = following.max(next_multiple(wall_ms, self.interval_ms));
        let end = self.window_end(epoch).map_or(present, |end| end.max(following));
        present.min(end)
    }

    /// Returns the end of the window that `epoch` is in; `None` if it ends with `epoch`, or if
    /// there are no windows.
    fn window_end(&self, epoch: Epoch) -> Option<Epoch> {
        let slide_ms = self.slide_ms?;
        (!epoch.is_multiple_of(slide_ms)).then(|| next_multiple(epoch, slide_ms))
    }

    /// Opens the epoch with which the window of the open one ends, and returns its name. `None` if
    /// that is the open one, and if it is not [plausible](is_plausible) yet.
    pub fn open_window_end(&mut self, wall_ms: u64) -> Option<Epoch> {
        let end = self.window_end(self.open).filter(|end| is_plausible(*end, wall_ms))?;
        self.open = end;
        Some(end)
    }

    /// Returns the time of the open epoch's end, seen from `monotonic`.
    fn deadline_from(&self, monotonic: Duration) -> Duration {
        let open = i64::try_from(self.open).unwrap_or(i64::MAX);
        let due_ms = open.saturating_sub(self.offset_ms);
        let due = Duration::from_millis(u64::try_from(due_ms).unwrap_or(0));
        // A name further ahead than two intervals means that the wall clock was set back, or that
        // the epoch before was cut early by hours. The epoch lasts one interval all the same.
        let interval = Duration::from_millis(self.interval_ms);
        if due > monotonic + 2 * interval { monotonic + interval } else { due }
    }
}

/// Returns the wall clock's time minus the monotonic time, in milliseconds.
fn offset(wall_ms: u64, monotonic: Duration) -> i64 {
    let monotonic_ms = i64::try_from(monotonic.as_millis()).unwrap_or(i64::MAX);
    signed(wall_ms).saturating_sub(monotonic_ms)
}

/// Returns `ms` as a signed number; times that no clock shows count as [`TIME_MAX_MS`].
fn signed(ms: u64) -> i64 {
    ms.min(TIME_MAX_MS) as i64
}

/// Returns the least multiple of `interval_ms` that is greater than `ms`, or than [`TIME_MAX_MS`]
/// where `ms` is later.
fn next_multiple(ms: u64, interval_ms: u64) -> u64 {
    // At most two times TIME_MAX_MS, since neither is greater than that.
    (ms.min(TIME_MAX_MS) / interval_ms + 1) * interval_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn epoch_name_is_its_aligned_end() {
        let schedule = Schedule::new(10 * SECOND, None, 1_565_869_223_456, at(5), None);
        assert_eq!(schedule.open(), 1_565_869_230_000);
        assert_eq!(schedule.deadline(), at(5 + 6_544));
    }

    #[test]
    fn milliseconds_of_both_clocks_begin_together() {
        let fractions = || {
            let clock = SystemClock::new();
            let wall = clock.wall().duration_since(UNIX_EPOCH).expect("a time after 1970");
            let ahead = clock.monotonic().subsec_nanos().abs_diff(wall.subsec_nanos()) % 1_000_000;
            ahead.min(1_000_000 - ahead)
        };
        // A thread may be suspended between two readings, also those of a new clock, but hardly
        // each time.
        let least = (0..1_000).map(|_| fractions()).min();
        assert!(least < Some(100_000), "{least:?} ns apart");
    }

    #[test]
    fn restart_after_early_cut_opens_next_epoch() {
        let schedule = Schedule::new(10 * SECOND, None, 15_000, at(0), Some(20_000));
        assert_eq!(schedule.open(), 30_000);
        assert_eq!(schedule.deadline(), at(15_000));
    }

    #[test]
    fn punctual_epochs_are_one_interval_apart() {
        let mut schedule = Schedule::new(SECOND, None, 10_500, at(0), None);
        for k in 1..5 {
            let late_ms = 3;
            let jump =
                schedule.advance(10_000 + 1_000 * k + late_ms, at(1_000 * k - 500 + late_ms));
            assert_eq!((jump, schedule.open()), (None, 11_000 + 1_000 * k));
            assert_eq!(schedule.deadline(), at(1_000 * k + 500));
        }
    }

    #[test]
    fn lateness_skips_intervals_and_is_no_jump() {
        let mut schedule = Schedule::new(at(10), None, 1_000, at(0), None);
        assert_eq!(schedule.advance(1_507, at(507)), None);
        assert_eq!(schedule.open(), 1_510);
    }

    #[test]
    fn lateness_does_not_skip_a_window() {
        let slide = Some(at(1_000));
        let mut schedule = Schedule::new(at(100), slide, 10_050, at(0), None);
        assert_eq!(schedule.open(), 10_100);
        schedule.advance(13_230, at(3_180));
        assert_eq!((schedule.open(), schedule.deadline()), (11_000, at(950)), "due at once");
        schedule.advance(13_231, at(3_181));
        assert_eq!(schedule.open(), 13_300, "all that was read is in a result");
        schedule.advance(14_001, at(3_951));
        assert_eq!(schedule.open(), 14_000);
    }

    #[test]
    fn pause_between_runs_does_not_skip_a_window() {
        let open =
            |after| Schedule::new(at(100), Some(at(1_000)), 20_050, at(0), Some(after)).open();
        assert_eq!(open(15_300), 16_000);
        assert_eq!(open(16_000), 20_100, "nothing was read since");
        assert_eq!(open(20_300), 20_400);
        assert_eq!(open(19_900), 20_000);
    }

    #[test]
    fn far_window_end_is_not_opened_early() {
        let day = Duration::from_millis(AHEAD_MAX_MS);
        for (slide, end) in [(10 * SECOND, Some(20_000)), (SECOND, None), (2 * day, None)] {
            let mut schedule = Schedule::new(SECOND, Some(slide), 10_500, at(0), None);
            assert_eq!(schedule.open(), 11_000);
            assert_eq!(schedule.open_window_end(10_600), end, "{slide:?}");
            assert_eq!(schedule.open(), end.unwrap_or(11_000));
        }
    }

    #[test]
    fn clock_set_back_keeps_the_pace() {
        let mut schedule = Schedule::new(10 * SECOND, None, 3_600_000, at(0), None);
        let jump = schedule.advance(10_000, at(10_000));
        assert_eq!(jump, Some(Jump { by_ms: -3_600_000 }));
        assert_eq!((schedule.open(), schedule.deadline()), (3_620_000, at(20_000)));
        assert_eq!(schedule.advance(20_000, at(20_000)), None);
        assert_eq!((schedule.open(), schedule.deadline()), (3_630_000, at(30_000)));
    }

    #[test]
    fn clock_set_forward_moves_names_once() {
        let mut schedule = Schedule::new(10 * SECOND, None, 5_000, at(0), None);
        let jump = schedule.advance(86_410_000, at(5_000));
        assert_eq!(jump, Some(Jump { by_ms: 86_400_000 }));
        assert_eq!((schedule.open(), schedule.deadline()), (86_420_000, at(15_000)));
        assert_eq!(schedule.advance(86_420_000, at(15_000)), None);
        assert_eq!(schedule.open(), 86_430_000);
    }

    #[test]
    fn times_at_the_range_end_never_wrap() {
        for after in [TIME_MAX_MS, i64::MAX as u64, 9_300_000_000_000_000_000, u64::MAX] {
            for wall_ms in [0, 1_565_869_223_456, u64::MAX] {
                let mut schedule = Schedule::new(SECOND, None, wall_ms, at(7), Some(after));
                for k in 1..4 {
                    let before = schedule.open();
                    schedule.advance(wall_ms, at(7 + 1_000 * k));
                    assert!(schedule.open() > before, "{after} {wall_ms}");
                    assert!(schedule.deadline() > at(7 + 1_000 * k), "{after} {wall_ms}");
                }
            }
        }
        Schedule::new(Duration::MAX, None, u64::MAX, Duration::MAX / 4, None).advance(0, at(0));
    }

    #[test]
    fn plausible_epochs_are_a_day_ahead_at_most() {
        let now = 1_565_869_223_456;
        assert!(is_plausible(0, now) && is_plausible(now + AHEAD_MAX_MS, now));
        for epoch in [now + AHEAD_MAX_MS + 1, 4_102_444_800_000, u64::MAX] {
            assert!(!is_plausible(epoch, now), "{epoch}");
        }
        assert!(!is_plausible(u64::MAX, u64::MAX), "no clock shows it");
    }
}
