//! Time: what an epoch is called, and when it ends.
//!
//! An [`Epoch`] is one batch interval, named by the Unix milliseconds of the interval's *end*: what
//! Spark writes into `prefix-<ms>.suffix`, always a multiple of the interval. Names come from the
//! wall clock, but the pace comes from the monotonic clock, so a wall clock that jumps can neither
//! repeat an epoch, nor overwrite one, nor open a flood of empty ones: [`Schedule`] is that rule,
//! pure and testable. It is advanced by whoever owns the clock (process 0), and nothing else in the
//! crate reads the wall clock.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;

/// Unix milliseconds of the end of a batch interval; the timestamp of the dataflow.
pub type Epoch = u64;

/// The last millisecond of the year 9999: the greatest time that a clock is believed to show.
pub const TIME_MAX_MS: u64 = 253_402_300_799_999;

/// The furthest ahead of the clock that a name below the prefix may lie, to be taken for an epoch.
pub const AHEAD_MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// Returns `true` if a name that bears `epoch`, met when the clock shows `wall_ms`, can be an epoch
/// of a job: it is at most a day ahead and a time that a clock can show.
pub fn is_plausible(epoch: Epoch, wall_ms: u64) -> bool {
    epoch <= TIME_MAX_MS && epoch <= wall_ms.saturating_add(AHEAD_MAX_MS)
}

/// The two notions of time that the program needs, passed in so that tests own them.
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// Unix time in milliseconds; may jump either way.
    fn wall_ms(&self) -> u64;

    /// Time since some fixed moment; never goes back and does not follow the wall clock.
    fn monotonic(&self) -> Duration;

    /// Waits until [`Clock::monotonic`] has reached `deadline`.
    fn wait_until(&self, deadline: Duration) -> BoxFuture<'static, ()>;
}

/// The clock of the machine.
#[derive(Clone, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> Self {
        SystemClock { start: Instant::now() }
    }

    /// The same, shared.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::new())
    }
}

impl SystemClock {
    /// The wall clock as the standard library has it, to compare with other clocks.
    #[allow(clippy::disallowed_methods)] // the one place that reads the wall clock
    pub fn wall(&self) -> SystemTime {
        SystemTime::now()
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

/// The wall clock moved against the monotonic one while an epoch was open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// By how many milliseconds; negative when the clock was set back.
    pub by_ms: i64,
}

/// Which epoch is open, and when it ends.
#[derive(Clone, Debug)]
pub struct Schedule {
    interval_ms: u64,
    /// Wall minus monotonic time in ms, as last seen.
    offset_ms: i64,
    open: Epoch,
    deadline: Duration,
}

impl Schedule {
    /// Opens the first epoch: the interval that holds `wall_ms`, or the one after `after` (the
    /// newest epoch known to be committed) where that is later.
    ///
    /// Times above [`TIME_MAX_MS`] count as that time: no arithmetic on epochs can wrap.
    pub fn new(
        interval: Duration,
        wall_ms: u64,
        monotonic: Duration,
        after: Option<Epoch>,
    ) -> Self {
        let interval_ms = (interval.as_millis() as u64).clamp(1, TIME_MAX_MS);
        let mut open = next_multiple(wall_ms, interval_ms);
        if let Some(after) = after {
            open = open.max(next_multiple(after, interval_ms));
        }
        let offset_ms = offset(wall_ms, monotonic);
        let mut schedule = Schedule { interval_ms, offset_ms, open, deadline: monotonic };
        schedule.deadline = schedule.deadline_from(monotonic);
        schedule
    }

    /// The open epoch.
    pub fn open(&self) -> Epoch {
        self.open
    }

    /// The monotonic time at which the open epoch is due to be cut.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Closes the open epoch and opens the next, which [`Schedule::open`] then names.
    ///
    /// Being late skips the intervals that went by (their lines are in the epoch just closed). A
    /// wall clock set forward makes the next name later, once; one set back changes no name: the
    /// epochs go on counting up at the pace of the monotonic clock.
    pub fn advance(&mut self, wall_ms: u64, monotonic: Duration) -> Option<Jump> {
        let offset_ms = offset(wall_ms, monotonic);
        let by_ms = offset_ms.saturating_sub(self.offset_ms);
        self.offset_ms = offset_ms;
        // The names go on counting up even after the last year of the clock.
        let following = self.open.saturating_add(self.interval_ms);
        self.open = following.max(next_multiple(wall_ms, self.interval_ms));
        self.deadline = self.deadline_from(monotonic);
        // Below a second the clock is being disciplined (NTP), not set.
        (by_ms.unsigned_abs() >= 1_000.max(self.interval_ms / 2)).then_some(Jump { by_ms })
    }

    fn deadline_from(&self, monotonic: Duration) -> Duration {
        let open = i64::try_from(self.open).unwrap_or(i64::MAX);
        let due_ms = open.saturating_sub(self.offset_ms);
        let due = Duration::from_millis(u64::try_from(due_ms).unwrap_or(0));
        // An epoch whose name lies further ahead than that is ahead because the wall clock went
        // back (or its predecessor was cut early by hours): it lasts one interval all the same.
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
    fn an_epoch_is_named_by_the_end_of_its_wall_aligned_interval() {
        let schedule = Schedule::new(10 * SECOND, 1_565_869_223_456, at(5), None);
        assert_eq!(schedule.open(), 1_565_869_230_000);
        assert_eq!(schedule.deadline(), at(5 + 6_544));
    }

    #[test]
    fn a_restart_within_an_interval_cut_early_opens_the_next_name() {
        let schedule = Schedule::new(10 * SECOND, 15_000, at(0), Some(20_000));
        assert_eq!(schedule.open(), 30_000);
        assert_eq!(schedule.deadline(), at(15_000));
    }

    #[test]
    fn on_time_the_names_follow_the_wall_clock_one_interval_apart() {
        let mut schedule = Schedule::new(SECOND, 10_500, at(0), None);
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
        let mut schedule = Schedule::new(at(10), 1_000, at(0), None);
        assert_eq!(schedule.advance(1_507, at(507)), None);
        assert_eq!(schedule.open(), 1_510);
    }

    #[test]
    fn a_clock_set_back_counts_on_at_the_same_pace() {
        let mut schedule = Schedule::new(10 * SECOND, 3_600_000, at(0), None);
        let jump = schedule.advance(10_000, at(10_000));
        assert_eq!(jump, Some(Jump { by_ms: -3_600_000 }));
        assert_eq!((schedule.open(), schedule.deadline()), (3_620_000, at(20_000)));
        assert_eq!(schedule.advance(20_000, at(20_000)), None);
        assert_eq!((schedule.open(), schedule.deadline()), (3_630_000, at(30_000)));
    }

    #[test]
    fn a_clock_set_forward_moves_the_next_name_once_and_floods_nothing() {
        let mut schedule = Schedule::new(10 * SECOND, 5_000, at(0), None);
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
                let mut schedule = Schedule::new(SECOND, wall_ms, at(7), Some(after));
                for k in 1..4 {
                    let before = schedule.open();
                    schedule.advance(wall_ms, at(7 + 1_000 * k));
                    assert!(schedule.open() > before, "{after} {wall_ms}");
                    assert!(schedule.deadline() > at(7 + 1_000 * k), "{after} {wall_ms}");
                }
            }
        }
        Schedule::new(Duration::MAX, u64::MAX, Duration::MAX / 4, None).advance(0, at(0));
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
