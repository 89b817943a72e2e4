//! The rule of process 0: when the open epoch is cut, and when the last one ends.
//!
//! ```text
//! reading ──due──► cut, cut, cut …
//!    │ stop asked, or the last epoch is due ──► stop reading ─┐
//!    └ all sources have ended ────────────────────────────────┴─► all have ended ──► last cut
//! ```
//!
//! A stop comes in two steps. First no process reads any more; when each has handed over what it
//! had read, the open epoch is cut for good. So everything that was read is in the last epoch.

use std::time::Duration;

use crate::epoch::{Epoch, Jump, Schedule};

/// The two clocks, as they stand when an event happens.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Unix milliseconds of the wall clock.
    pub wall_ms: u64,
    /// The monotonic clock.
    pub monotonic: Duration,
}

/// Something that has happened to the epochs of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochEvent {
    /// The open epoch is due, and there is room for it in the dataflow.
    Due,
    /// The job was asked to stop.
    StopAsked,
    /// All sources of the process with this index have ended, and what they read is handed over.
    ReadingEnded(usize),
}

/// Something that the driver has to do, in the given order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochAction {
    /// Report that the wall clock was moved.
    ReportJump(Jump),
    /// Cut `epoch` in every process and open `next`.
    Cut {
        /// The epoch that ends.
        epoch: Epoch,
        /// The epoch that is open from now on.
        next: Epoch,
    },
    /// Stop reading in every process; each answers with [`EpochEvent::ReadingEnded`].
    StopReading,
    /// Cut `epoch` in every process: it is the last one.
    End {
        /// The epoch that ends.
        epoch: Epoch,
        /// The name after it, which is never used.
        next: Epoch,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeaderPhase {
    /// Sources are read and epochs are cut as they are due.
    Reading,
    /// No process reads any more; some have not handed over what they had read.
    Stopping,
    /// The last epoch is cut.
    Ended,
}

/// The rule by which process 0 cuts the epochs of a job.
#[derive(Debug)]
pub struct EpochLeader {
    /// The names and the deadlines of epochs.
    schedule: Schedule,
    /// True if another run goes on with the open window when all sources have ended.
    goes_on: bool,
    /// The phase of the job.
    phase: LeaderPhase,
    /// For each process, true while its sources may bring more.
    reading: Vec<bool>,
    /// Epochs that may still be due; `None` without a limit.
    left: Option<u64>,
}

impl EpochLeader {
    /// Begins with the epoch `open`, in a job of so many processes that stops after `epochs`
    /// epochs.
    pub fn new(
        schedule: Schedule,
        open: Epoch,
        processes: usize,
        epochs: Option<u64>,
    ) -> EpochLeader {
        // The clock may have passed the end of `open`, if the start took long.
        let schedule = schedule.with_open(open);
        let reading = vec![true; processes];
        let phase = LeaderPhase::Reading;
        EpochLeader { schedule, goes_on: false, phase, reading, left: epochs }
    }

    /// Leaves the window open when all sources have ended: another run goes on with it.
    pub fn goes_on(self, goes_on: bool) -> EpochLeader {
        EpochLeader { goes_on, ..self }
    }

    /// Returns the monotonic time at which the open epoch is due.
    pub fn deadline(&self) -> Duration {
        self.schedule.deadline()
    }

    /// Returns true while epochs are cut as they are due, and a stop would be news.
    pub fn is_reading(&self) -> bool {
        self.phase == LeaderPhase::Reading
    }

    /// Returns true while the sources of this process may bring more.
    pub fn reads(&self, process: usize) -> bool {
        self.reading.get(process).copied().unwrap_or(false)
    }

    /// Takes an event in and returns what is to be done. An event that changes nothing, such as
    /// a second stop, asks for nothing.
    pub fn take(&mut self, event: EpochEvent, now: Moment) -> Vec<EpochAction> {
        match (self.phase, event) {
            (LeaderPhase::Reading, EpochEvent::Due) => self.due(now),
            (LeaderPhase::Reading, EpochEvent::StopAsked) => self.stop(),
            (LeaderPhase::Reading | LeaderPhase::Stopping, EpochEvent::ReadingEnded(process)) => {
                if let Some(reading) = self.reading.get_mut(process) {
                    *reading = false;
                }
                if self.reading.contains(&true) { Vec::new() } else { self.end(now) }
            }
            (LeaderPhase::Stopping, EpochEvent::Due | EpochEvent::StopAsked)
            | (LeaderPhase::Ended, _) => Vec::new(),
        }
    }

    /// Cuts the open epoch, or, if it is the last one of `--epochs`, stops reading first.
    fn due(&mut self, now: Moment) -> Vec<EpochAction> {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                // It is cut when all that was read so far has arrived.
                return self.stop();
            }
        }
        self.advance(now, |epoch, next| EpochAction::Cut { epoch, next })
    }

    /// Stops reading. The last cut follows when all processes have handed over what they had read.
    fn stop(&mut self) -> Vec<EpochAction> {
        self.phase = LeaderPhase::Stopping;
        vec![EpochAction::StopReading]
    }

    /// Cuts the last epoch. If the sources have ended by themselves, that is the end of the window,
    /// unless another run goes on with it, as after a stop.
    fn end(&mut self, now: Moment) -> Vec<EpochAction> {
        let has_all = self.phase == LeaderPhase::Reading && !self.goes_on;
        self.phase = LeaderPhase::Ended;
        let epoch = self.schedule.open();
        let end = has_all.then(|| self.schedule.open_window_end(now.wall_ms)).flatten();
        let mut actions: Vec<_> =
            end.into_iter().map(|next| EpochAction::Cut { epoch, next }).collect();
        actions.extend(self.advance(now, |epoch, next| EpochAction::End { epoch, next }));
        actions
    }

    /// Moves on to the next epoch, and returns its cut after the report of a clock that was moved.
    fn advance(
        &mut self,
        now: Moment,
        cut: impl FnOnce(Epoch, Epoch) -> EpochAction,
    ) -> Vec<EpochAction> {
        let epoch = self.schedule.open();
        let jump = self.schedule.advance(now.wall_ms, now.monotonic);
        let cut = cut(epoch, self.schedule.open());
        jump.map(EpochAction::ReportJump).into_iter().chain([cut]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use EpochAction::{Cut, End, ReportJump, StopReading};
    use EpochEvent::{Due, ReadingEnded, StopAsked};
    use proptest::prelude::*;

    const START_MS: u64 = 1_000_000;

    fn at(ms: u64) -> Moment {
        Moment { wall_ms: START_MS + ms, monotonic: Duration::from_millis(ms) }
    }

    fn leader(processes: usize, epochs: Option<u64>) -> EpochLeader {
        let now = at(0);
        let interval = Duration::from_millis(100);
        let schedule = Schedule::new(interval, None, now.wall_ms, now.monotonic, None);
        let open = schedule.open();
        EpochLeader::new(schedule, open, processes, epochs)
    }

    /// Returns the leader of a job whose windows end every second.
    fn with_windows() -> EpochLeader {
        let now = at(0);
        let (interval, slide) = (Duration::from_millis(100), Some(Duration::from_secs(1)));
        let schedule = Schedule::new(interval, slide, now.wall_ms, now.monotonic, None);
        EpochLeader::new(schedule, START_MS + 100, 1, None)
    }

    #[test]
    fn sources_that_end_end_the_window() {
        let mut leader = with_windows();
        let (epoch, last) = (START_MS + 100, START_MS + 1_000);
        let cut = Cut { epoch, next: last };
        let end = End { epoch: last, next: START_MS + 1_100 };
        assert_eq!(leader.take(ReadingEnded(0), at(10)), [cut, end]);
        let mut leader = with_windows().goes_on(true);
        assert!(matches!(leader.take(ReadingEnded(0), at(10))[..], [End { .. }]));
    }

    #[test]
    fn stop_leaves_the_window_open() {
        let mut leader = with_windows();
        assert_eq!(leader.take(StopAsked, at(10)), [StopReading]);
        let end = End { epoch: START_MS + 100, next: START_MS + 200 };
        assert_eq!(leader.take(ReadingEnded(0), at(20)), [end]);
    }

    #[test]
    fn due_epochs_are_cut_one_by_one() {
        let mut leader = leader(1, None);
        assert_eq!(leader.deadline(), Duration::from_millis(100));
        let first = Cut { epoch: START_MS + 100, next: START_MS + 200 };
        assert_eq!(leader.take(Due, at(100)), [first]);
        let second = Cut { epoch: START_MS + 200, next: START_MS + 300 };
        assert_eq!(leader.take(Due, at(200)), [second]);
    }

    #[test]
    fn last_cut_waits_for_every_process() {
        let mut leader = leader(2, None);
        assert_eq!(leader.take(StopAsked, at(10)), [StopReading]);
        assert_eq!(leader.take(StopAsked, at(11)), [], "a second stop is the same stop");
        assert_eq!(leader.take(ReadingEnded(1), at(12)), []);
        assert_eq!(leader.take(Due, at(100)), [], "nothing is cut in between");
        let end = End { epoch: START_MS + 100, next: START_MS + 200 };
        assert_eq!(leader.take(ReadingEnded(0), at(101)), [end]);
        assert_eq!(leader.take(ReadingEnded(0), at(102)), []);
    }

    #[test]
    fn sources_that_end_end_the_job() {
        let mut leader = leader(2, None);
        assert_eq!(leader.take(ReadingEnded(0), at(1)), []);
        assert!(!leader.reads(0) && leader.reads(1) && leader.is_reading());
        let ended = leader.take(ReadingEnded(1), at(2));
        assert_eq!(ended, [End { epoch: START_MS + 100, next: START_MS + 200 }]);
    }

    #[test]
    fn limit_stops_reading_at_last_epoch() {
        let mut leader = leader(1, Some(2));
        assert!(matches!(leader.take(Due, at(100))[..], [Cut { .. }]));
        assert_eq!(leader.take(Due, at(200)), [StopReading]);
        assert!(matches!(leader.take(ReadingEnded(0), at(201))[..], [End { .. }]));
    }

    #[test]
    fn moved_clock_is_reported_before_the_cut() {
        let mut leader = leader(1, None);
        let moved = Moment { wall_ms: START_MS + 86_400_100, ..at(100) };
        assert!(matches!(leader.take(Due, moved)[..], [ReportJump(_), Cut { .. }]));
    }

    fn any_event() -> impl Strategy<Value = EpochEvent> {
        prop_oneof![
            6 => Just(Due),
            1 => Just(StopAsked),
            2 => (0usize..4).prop_map(ReadingEnded),
        ]
    }

    proptest! {
        #[test]
        fn epochs_only_grow_and_end_once(
            events in proptest::collection::vec((any_event(), 0u64..500), 0..60),
            limit in proptest::option::of(1u64..8),
        ) {
            let (mut leader, mut ms, mut open, mut ends) = (leader(3, limit), 0, START_MS + 100, 0);
            for (event, later_ms) in events {
                ms += later_ms;
                for action in leader.take(event, at(ms)) {
                    prop_assert_eq!(ends, 0, "nothing comes after the end");
                    if let Cut { epoch, next } | End { epoch, next } = action {
                        prop_assert_eq!(epoch, open);
                        prop_assert!(next > epoch);
                        open = next;
                    }
                    ends += usize::from(matches!(action, End { .. }));
                }
            }
            let all_ended = (0..3).all(|process| !leader.reads(process));
            prop_assert_eq!(ends, usize::from(all_ended));
        }
    }
}
