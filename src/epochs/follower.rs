//! The rule of every process but 0: it applies what process 0 decides, and nothing else.
//!
//! ```text
//! reading ──stop reading, or own sources have ended──► report once ──► waiting ──End──► ended
//! ```
//!
//! Cuts come in both of the first phases. A message that does not fit the open epoch shows that the
//! processes have lost step, which ends the job: the epochs of a cluster are the same everywhere.

use crate::epoch::Epoch;

/// Something that has happened in a process other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowerEvent {
    /// Process 0 has cut `epoch` and opened `next`.
    Cut {
        /// The epoch that ends.
        epoch: Epoch,
        /// The epoch that is open from now on.
        next: Epoch,
    },
    /// Process 0 has cut `epoch`, which is the last one.
    End {
        /// The epoch that ends.
        epoch: Epoch,
    },
    /// Process 0 has committed this epoch and all before it.
    Committed(Epoch),
    /// Process 0 asks to stop reading.
    StopReading,
    /// All sources of this process have ended, and what they read is handed over.
    ReadingEnded,
}

/// Something that the driver of a process other than 0 has to do, in the given order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowerAction {
    /// Cut the open epoch here and open this one.
    Cut(Epoch),
    /// Note that this epoch and all before it are committed.
    Commit(Epoch),
    /// Stop reading, then pass [`FollowerEvent::ReadingEnded`] in.
    StopReading,
    /// Report to process 0 that the sources of this process have ended.
    ReportReadingEnded,
    /// Cut the open epoch, which is the last one, and open this name, which is never used.
    End(Epoch),
}

/// A message of process 0 that does not fit the epoch that is open here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfStep {
    /// It ended an epoch that is not the open one, or opened one that does not follow it.
    Ended {
        /// The epoch that it ended.
        epoch: Epoch,
        /// The epoch that is open here.
        open: Epoch,
    },
    /// It committed an epoch that is not cut here.
    Committed {
        /// The epoch that it committed.
        epoch: Epoch,
        /// The epoch that is open here.
        open: Epoch,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FollowerPhase {
    /// The sources of this process may bring more.
    Reading,
    /// The driver stops the sources, as process 0 has asked.
    Stopping,
    /// The sources have ended and process 0 knows it; epochs are still cut.
    Waiting,
    /// The last epoch is cut.
    Ended,
}

/// The rule by which a process other than 0 follows the epochs of process 0.
#[derive(Debug)]
pub struct EpochFollower {
    /// The epoch that lines belong to now.
    open: Epoch,
    /// How far this process has come.
    phase: FollowerPhase,
}

impl EpochFollower {
    /// Begins with the epoch `open`.
    pub fn new(open: Epoch) -> EpochFollower {
        EpochFollower { open, phase: FollowerPhase::Reading }
    }

    /// Returns true while the end of the sources of this process would be news.
    pub fn is_reading(&self) -> bool {
        self.phase == FollowerPhase::Reading
    }

    /// Returns true if the last epoch is cut.
    pub fn has_ended(&self) -> bool {
        self.phase == FollowerPhase::Ended
    }

    /// Takes an event in and returns what is to be done, if anything. A request to stop reading
    /// asks for nothing where reading has ended.
    ///
    /// # Errors
    ///
    /// [`OutOfStep`] if process 0 ends an epoch that is not open here, or commits one that is.
    pub fn take(&mut self, event: FollowerEvent) -> Result<Option<FollowerAction>, OutOfStep> {
        use FollowerPhase::{Ended, Reading, Stopping, Waiting};
        Ok(match (event, self.phase) {
            (FollowerEvent::Committed(epoch), _) if epoch >= self.open => {
                return Err(OutOfStep::Committed { epoch, open: self.open });
            }
            (FollowerEvent::Committed(epoch), _) => Some(FollowerAction::Commit(epoch)),
            (_, Ended) => None,
            (FollowerEvent::Cut { epoch, next }, _) => {
                self.advance(epoch, next)?;
                Some(FollowerAction::Cut(next))
            }
            (FollowerEvent::End { epoch }, _) => {
                // The name is never used: it only has to follow.
                let next = epoch.saturating_add(1);
                self.advance(epoch, next)?;
                self.phase = Ended;
                Some(FollowerAction::End(next))
            }
            (FollowerEvent::StopReading, Reading) => {
                self.phase = Stopping;
                Some(FollowerAction::StopReading)
            }
            (FollowerEvent::ReadingEnded, Reading | Stopping) => {
                self.phase = Waiting;
                Some(FollowerAction::ReportReadingEnded)
            }
            (FollowerEvent::StopReading | FollowerEvent::ReadingEnded, _) => None,
        })
    }

    /// Ends `epoch` and opens `next`.
    fn advance(&mut self, epoch: Epoch, next: Epoch) -> Result<(), OutOfStep> {
        if epoch != self.open || next <= epoch {
            return Err(OutOfStep::Ended { epoch, open: self.open });
        }
        self.open = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FollowerEvent::{Committed, Cut, End, ReadingEnded, StopReading};

    #[test]
    fn cuts_of_process_0_are_applied() {
        let mut follower = EpochFollower::new(10);
        assert_eq!(follower.take(Cut { epoch: 10, next: 20 }), Ok(Some(FollowerAction::Cut(20))));
        assert_eq!(follower.take(Committed(10)), Ok(Some(FollowerAction::Commit(10))));
        assert_eq!(follower.take(End { epoch: 20 }), Ok(Some(FollowerAction::End(21))));
        assert!(follower.has_ended());
        assert_eq!(follower.take(Committed(20)), Ok(Some(FollowerAction::Commit(20))));
    }

    #[test]
    fn end_of_reading_is_reported_once() {
        let mut follower = EpochFollower::new(10);
        assert_eq!(follower.take(StopReading), Ok(Some(FollowerAction::StopReading)));
        assert!(!follower.is_reading());
        assert_eq!(follower.take(StopReading), Ok(None));
        assert_eq!(follower.take(ReadingEnded), Ok(Some(FollowerAction::ReportReadingEnded)));
        assert_eq!(follower.take(ReadingEnded), Ok(None));
        // Epochs are cut until process 0 knows that no process reads any more.
        assert!(follower.take(Cut { epoch: 10, next: 20 }).is_ok_and(|action| action.is_some()));
    }

    #[test]
    fn sources_that_end_are_not_stopped() {
        let mut follower = EpochFollower::new(10);
        assert_eq!(follower.take(ReadingEnded), Ok(Some(FollowerAction::ReportReadingEnded)));
        assert_eq!(follower.take(StopReading), Ok(None));
    }

    #[test]
    fn lost_step_is_an_error() {
        let mut follower = EpochFollower::new(10);
        let ended = Err(OutOfStep::Ended { epoch: 20, open: 10 });
        assert_eq!(follower.take(Cut { epoch: 20, next: 30 }), ended);
        assert_eq!(follower.take(End { epoch: 20 }), ended);
        let backwards = Err(OutOfStep::Ended { epoch: 10, open: 10 });
        assert_eq!(follower.take(Cut { epoch: 10, next: 10 }), backwards);
        let committed = Err(OutOfStep::Committed { epoch: 10, open: 10 });
        assert_eq!(follower.take(Committed(10)), committed);
    }
}
