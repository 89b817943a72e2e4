//! The rule by which the epochs of one process complete.
//!
//! The owner of the clock decides *when* an epoch ends; the logs put the end into what the sources
//! of this process have read. The workers may see an epoch close when every log has appended its
//! end and has passed the cut, so that no line of the epoch can still come. Nothing of the epoch is
//! stored before the record of its end is on disk in every journal, so that what is published is a
//! function of bytes that cannot be lost. Lines of the next epoch need not wait for either.
//!
//! ```text
//! cut ─► message to each log ─► EpochEnd appended (recorded) ─► sync ─► durable ─► stored
//!                             └► all lines with the workers (passed) ─► complete ──┘
//! ```
//!
//! A cluster of several processes has no such overlap: a worker sees an epoch close when its end is
//! durable. Otherwise one process could store parts of an epoch that another does not know of after
//! a loss of power.

use std::collections::VecDeque;

use crate::epoch::Epoch;

/// Something that has happened to an epoch of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionEvent {
    /// This epoch is cut, after all that were cut before.
    Cut(Epoch),
    /// One log has appended the end of this epoch.
    Recorded(Epoch),
    /// One log has passed the end of this epoch: its lines are with the workers.
    Passed(Epoch),
    /// The ends of this epoch and of all before it are on disk in every journal.
    Durable(Epoch),
    /// A process that ships blocks to this one ships none of this epoch, or of one before it, any
    /// more. The cut may be unknown here yet: it comes on another connection.
    Arrived {
        /// The index that [`EpochCompletion::add_link`] returned for the process.
        link: usize,
        /// The epoch of which no more blocks come.
        epoch: Epoch,
    },
}

/// Something that the driver has to do, in the given order.
///
/// Each action speaks for an epoch and all before it, so it may also be taken after one of a later
/// epoch, and has no effect then. Threads that take events in need not wait for each other's
/// actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionAction {
    /// Make what the logs have appended durable, then pass [`CompletionEvent::Durable`] in.
    Sync(Epoch),
    /// Let other processes know, after the blocks that go there, that no more come from here.
    Pass(Epoch),
    /// Let the workers see the epoch close.
    Complete(Epoch),
}

/// An epoch that has ended and is not complete.
#[derive(Debug)]
struct EndedEpoch {
    /// The name of the epoch.
    epoch: Epoch,
    /// Logs that have not appended its end.
    unrecorded: usize,
    /// Logs that have not passed its end.
    lagging: usize,
    /// True when its end is on disk in every journal.
    is_durable: bool,
}

/// The epochs of a process that have ended and are not complete.
#[derive(Debug)]
pub struct EpochCompletion {
    /// The number of source logs of this process.
    logs: usize,
    /// Oldest first. The first one is completed first.
    ended: VecDeque<EndedEpoch>,
    /// The newest epoch that all logs have passed.
    passed: Epoch,
    /// For each process that ships blocks to this one, the last epoch for which no more come.
    arrived: Vec<Epoch>,
    /// True if an epoch completes before its end is durable.
    completes_recorded: bool,
}

impl EpochCompletion {
    /// Begins in a process of so many logs. The `recorded` epochs, each with the number of logs
    /// that will pass its end, have ended in a former run.
    pub fn new(logs: usize, recorded: &[(Epoch, usize)]) -> EpochCompletion {
        let ended = recorded.iter().map(|(epoch, lagging)| EndedEpoch {
            epoch: *epoch,
            unrecorded: 0,
            lagging: *lagging,
            is_durable: false,
        });
        let (ended, arrived) = (ended.collect(), Vec::new());
        EpochCompletion { logs, ended, passed: 0, arrived, completes_recorded: false }
    }

    /// Completes epochs from now on when their ends are recorded, durable or not. Called in a
    /// process that is alone, before anything is read.
    pub fn complete_when_recorded(&mut self) {
        self.completes_recorded = true;
    }

    /// Adds a process that ships blocks to this one, before any cut is passed; returns its index.
    pub fn add_link(&mut self) -> usize {
        self.arrived.push(0);
        self.arrived.len() - 1
    }

    /// Takes an event in and returns what is to be done. An event of an epoch that is not one of
    /// those that have ended, such as one that is committed already, changes nothing.
    pub fn take(&mut self, event: CompletionEvent) -> Vec<CompletionAction> {
        let mut actions = Vec::new();
        match event {
            CompletionEvent::Cut(epoch) => {
                let logs = self.logs;
                let ended =
                    EndedEpoch { epoch, unrecorded: logs, lagging: logs, is_durable: false };
                self.ended.push_back(ended);
                // No log will report that it has appended the end.
                if logs == 0 {
                    actions.push(CompletionAction::Sync(epoch));
                }
            }
            CompletionEvent::Recorded(epoch) => {
                let ended = self.ended(epoch).filter(|ended| ended.unrecorded > 0);
                if let Some(ended) = ended {
                    ended.unrecorded -= 1;
                    if ended.unrecorded == 0 {
                        actions.push(CompletionAction::Sync(epoch));
                    }
                }
            }
            CompletionEvent::Passed(epoch) => {
                if let Some(ended) = self.ended(epoch) {
                    ended.lagging = ended.lagging.saturating_sub(1);
                }
            }
            CompletionEvent::Durable(epoch) => {
                let durable = self.ended.iter_mut().take_while(|ended| ended.epoch <= epoch);
                durable.for_each(|ended| ended.is_durable = true);
            }
            CompletionEvent::Arrived { link, epoch } => self.arrived[link] = epoch,
        }
        actions.extend(self.pass());
        actions.extend(self.complete());
        actions
    }

    /// Returns the epoch of this name, if it has ended and is not complete.
    fn ended(&mut self, epoch: Epoch) -> Option<&mut EndedEpoch> {
        self.ended.iter_mut().find(|ended| ended.epoch == epoch)
    }

    /// Notes the newest epoch that all logs have passed, and returns the action if it is news.
    ///
    /// The other processes need not wait for the disk: the epoch cannot close anywhere before it
    /// has here. They must not wait for it to be complete here, either: two processes that ship
    /// blocks to each other would wait for each other for ever.
    fn pass(&mut self) -> Option<CompletionAction> {
        let passed = self.ended.iter().take_while(|ended| ended.lagging == 0).last()?.epoch;
        let is_news = passed > self.passed;
        self.passed = self.passed.max(passed);
        is_news.then_some(CompletionAction::Pass(passed))
    }

    /// Drops the epochs that are complete, and returns an action for each.
    fn complete(&mut self) -> Vec<CompletionAction> {
        let arrived = self.arrived.iter().min().copied().unwrap_or(Epoch::MAX);
        let is_early = self.completes_recorded;
        let is_complete = |ended: &&EndedEpoch| {
            let is_recorded = ended.unrecorded == 0 && (ended.is_durable || is_early);
            ended.lagging == 0 && is_recorded && ended.epoch <= arrived
        };
        let count = self.ended.iter().take_while(is_complete).count();
        let complete = self.ended.drain(..count);
        complete.map(|ended| CompletionAction::Complete(ended.epoch)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CompletionAction::{Complete, Pass, Sync};
    use CompletionEvent::{Arrived, Cut, Durable, Passed, Recorded};
    use proptest::prelude::*;

    #[test]
    fn epoch_completes_when_durable_and_passed() {
        let mut epochs = EpochCompletion::new(2, &[]);
        assert_eq!(epochs.take(Cut(10)), []);
        assert_eq!(epochs.take(Recorded(10)), []);
        assert_eq!(epochs.take(Passed(10)), []);
        assert_eq!(epochs.take(Recorded(10)), [Sync(10)], "the last log has appended the end");
        assert_eq!(epochs.take(Durable(10)), [], "one log lags");
        assert_eq!(epochs.take(Passed(10)), [Pass(10), Complete(10)]);
        assert_eq!(epochs.take(Passed(10)), [], "it is none of these any more");
    }

    #[test]
    fn lone_process_completes_before_durable() {
        let mut epochs = EpochCompletion::new(1, &[]);
        epochs.complete_when_recorded();
        assert_eq!(epochs.take(Cut(10)), []);
        assert_eq!(epochs.take(Passed(10)), [Pass(10)], "its end is not in the log");
        assert_eq!(epochs.take(Recorded(10)), [Sync(10), Complete(10)]);
        assert_eq!(epochs.take(Durable(10)), []);
    }

    #[test]
    fn epoch_completes_when_others_ship_nothing_more() {
        let mut epochs = EpochCompletion::new(0, &[]);
        let links = [epochs.add_link(), epochs.add_link()];
        // One of them is ahead: its end of the epoch comes before the cut is known here.
        assert_eq!(epochs.take(Arrived { link: links[1], epoch: 10 }), []);
        assert_eq!(epochs.take(Cut(10)), [Sync(10), Pass(10)]);
        assert_eq!(epochs.take(Durable(10)), []);
        assert_eq!(epochs.take(Arrived { link: links[0], epoch: 10 }), [Complete(10)]);
    }

    #[test]
    fn later_epoch_waits_for_the_first() {
        let mut epochs = EpochCompletion::new(1, &[(10, 1), (20, 0)]);
        assert_eq!(epochs.take(Durable(20)), [], "the log has not come to the first end");
        assert_eq!(epochs.take(Passed(10)), [Pass(20), Complete(10), Complete(20)]);
    }

    /// Returns the events of one log, of the disk and of one link for each epoch.
    fn events_of(epoch: Epoch) -> Vec<CompletionEvent> {
        vec![Recorded(epoch), Recorded(epoch), Passed(epoch), Passed(epoch)]
    }

    proptest! {
        #[test]
        fn epochs_complete_once_and_in_order(
            order in Just((1..6).flat_map(events_of).collect::<Vec<_>>()).prop_shuffle(),
            shipped_at in 0usize..20,
            is_alone in any::<bool>(),
        ) {
            let mut epochs = EpochCompletion::new(2, &[]);
            if is_alone {
                epochs.complete_when_recorded();
            } else {
                epochs.add_link();
            }
            let (mut complete, mut recorded, mut passed) = (0, [0; 6], [0; 6]);
            let (mut durable, mut arrived) = (0, if is_alone { Epoch::MAX } else { 0 });
            (1..6).for_each(|epoch| drop(epochs.take(Cut(epoch))));
            let mut pending: VecDeque<CompletionEvent> = order.into();
            for step in 0.. {
                if step == shipped_at && !is_alone {
                    pending.push_front(Arrived { link: 0, epoch: 5 });
                }
                let Some(event) = pending.pop_front() else { break };
                match event {
                    Recorded(epoch) => recorded[epoch as usize] += 1,
                    Passed(epoch) => passed[epoch as usize] += 1,
                    Durable(epoch) => durable = durable.max(epoch),
                    Arrived { epoch, .. } => arrived = epoch,
                    Cut(_) => {}
                }
                for action in epochs.take(event) {
                    match action {
                        // The disk takes its time: a sync ends after what happens meanwhile.
                        Sync(epoch) => pending.insert(pending.len() / 2, Durable(epoch)),
                        Pass(epoch) => prop_assert_eq!(passed[epoch as usize], 2),
                        Complete(epoch) => {
                            prop_assert_eq!(epoch, complete + 1);
                            complete = epoch;
                            let index = epoch as usize;
                            prop_assert_eq!((recorded[index], passed[index]), (2, 2));
                            prop_assert!(is_alone || durable >= epoch && arrived >= epoch);
                        }
                    }
                }
            }
            prop_assert_eq!(complete, 5);
        }
    }
}
