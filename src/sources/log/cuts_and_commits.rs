//! Cuts and commits: the messages that a source log takes, and the records that they leave.
//!
//! A cut appends an EpochEnd where the log ends at that moment. The cut is *passed* when all lines
//! before it are with the workers. What the EpochEnd states about resuming is exact only then, so a
//! Committed record is appended only for an epoch that was passed.

use std::collections::BTreeSet;
use std::fmt;

use super::{RecordedEnds, SourceLog};
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Append, EpochEnd, Journal, Position, Resume, Syncer};

/// A message to the task that owns a source log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogMessage {
    /// End `epoch` and open `next`.
    Cut {
        /// The epoch that is open.
        epoch: Epoch,
        /// The epoch that follows it.
        next: Epoch,
    },
    /// This epoch and all before it are committed.
    Committed(Epoch),
    /// The journal was synced: state in it how far.
    Synced,
    /// Nothing comes any more.
    End,
}

/// Receives what happens in a source log.
pub trait LogEvents: Send + Sync {
    /// Called when the end of `epoch` is in the log, and in its journal if it has one.
    fn recorded(&self, epoch: Epoch);

    /// Called when all lines before the end of `epoch` are with the workers.
    fn passed(&self, epoch: Epoch);

    /// Called when it is in the journal that epochs are committed.
    fn noted(&self);

    /// Called when the journal states that more of it is on disk, in a record that is not.
    fn stated(&self);

    /// Called when lines were appended.
    fn appended(&self);

    /// Called when so much was appended that the disk should have it.
    fn write_due(&self);

    /// Called when the journal is full: what is done should go, and a full disk be looked at again.
    fn room_wanted(&self);
}

/// The epochs of a source log.
pub struct LogEpochs {
    /// The epoch that what is read now belongs to.
    open: Epoch,
    /// Ends of epochs that are not passed, and the positions of a source that can be read again.
    ahead: RecordedEnds,
    /// Epochs of a former run that are committed already.
    committed: BTreeSet<Epoch>,
    /// True for a kept journal, to which nothing is appended.
    is_replay: bool,
    /// The last end that was passed, and where a replay from there begins.
    passed: Option<(Epoch, Resume)>,
    /// The newest epoch known to be committed that is not noted in the journal.
    to_note: Option<Epoch>,
    /// True after the last message.
    has_closed: bool,
}

impl LogEpochs {
    /// Begins with `open`, after the epochs that a former run has ended.
    pub fn new(
        open: Epoch,
        ahead: RecordedEnds,
        committed: BTreeSet<Epoch>,
        is_replay: bool,
    ) -> LogEpochs {
        let (passed, to_note, has_closed) = (None, None, false);
        LogEpochs { open, ahead, committed, is_replay, passed, to_note, has_closed }
    }

    /// Returns the epoch that what is read now belongs to.
    pub fn open(&self) -> Epoch {
        self.open
    }

    /// Returns the epoch of the next line that is handed over.
    pub fn of_next_line(&self) -> Epoch {
        self.ahead.front().map_or(self.open, |(epoch, _)| *epoch)
    }

    /// Returns the next end of an epoch that is not passed.
    pub fn next_end(&self) -> Option<(Epoch, &[u8])> {
        self.ahead.front().map(|(epoch, positions)| (*epoch, positions.as_slice()))
    }

    /// Returns true if `epoch` is committed, so that its lines are not counted.
    pub fn is_committed(&self, epoch: Epoch) -> bool {
        self.committed.contains(&epoch)
    }

    /// Returns true if a kept journal is run again.
    pub fn is_replay(&self) -> bool {
        self.is_replay
    }

    /// Returns true if no message can come any more.
    pub fn has_closed(&self) -> bool {
        self.has_closed
    }
}

impl SourceLog {
    /// Takes the messages that are there.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub fn take_messages(&mut self) -> Result<()> {
        while let Ok(message) = self.inbox.try_recv() {
            self.take_message(message)?;
        }
        Ok(())
    }

    /// Takes one message.
    ///
    /// Fails with `Disk` if the journal cannot take the record.
    pub fn take_message(&mut self, message: LogMessage) -> Result<()> {
        let waits_for_disk = self.syncs_always() && !matches!(message, LogMessage::End);
        let mut take = || match message {
            LogMessage::Cut { epoch, next } => self.cut(epoch, next),
            LogMessage::Committed(epoch) => self.committed(epoch),
            LogMessage::Synced => self.state_synced(),
            LogMessage::End => {
                self.epochs.has_closed = true;
                Ok(())
            }
        };
        if waits_for_disk { tokio::task::block_in_place(take) } else { take() }
    }

    /// Ends `epoch` here and opens `next`.
    fn cut(&mut self, epoch: Epoch, next: Epoch) -> Result<()> {
        let is_live = self.is_live();
        let positions = match &mut self.replayable {
            Some(replayable) => replayable.at_cut(&self.epochs.ahead)?,
            None => Vec::new(),
        };
        if let Some(cut) = self.journal.as_ref().map(Journal::tail) {
            let mut resume = match &self.epochs.passed {
                _ if is_live => self.resume(positions.clone()),
                // A lower bound: passing the end makes it exact.
                Some((_, resume)) => Resume { positions: positions.clone(), ..resume.clone() },
                None => Resume { positions: positions.clone(), ..Resume::at(Position(0)) },
            };
            resume.position = resume.position.min(cut);
            self.append_epoch_end(&EpochEnd { epoch, next_epoch: next, cut, resume })?;
        }
        self.epochs.open = next;
        self.epochs.ahead.push_back((epoch, positions));
        self.events.recorded(epoch);
        if is_live {
            self.pass()?;
            if let Some(journal) = &self.journal {
                self.split = journal.tail();
            }
        }
        Ok(())
    }

    /// Appends an EpochEnd record, if there is a journal.
    ///
    /// Fails with `Disk` if the journal has no room for it.
    fn append_epoch_end(&mut self, end: &EpochEnd) -> Result<()> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        match journal.append_epoch_end(end)? {
            Append::Stored { .. } => Ok(()),
            Append::Full(_) => {
                let message = "the journal has no room for the end of an epoch";
                Err(Error::new(ErrorKind::Disk, message)
                    .hint("free disk space or raise --journal-max"))
            }
        }
    }

    /// Passes the next end of an epoch: all lines before it are with the workers.
    pub fn pass(&mut self) -> Result<()> {
        let Some((epoch, positions)) = self.epochs.ahead.pop_front() else { return Ok(()) };
        for connection in self.connections.values_mut() {
            connection.splitter.settle();
        }
        if let Some(replayable) = &mut self.replayable {
            replayable.passed(epoch, &positions);
        }
        self.meter.passed(epoch, &positions);
        let resume = self.resume(positions);
        if let Some(journal) = &self.journal {
            journal.refine_epoch_end(epoch, &resume);
        }
        self.epochs.passed = Some((epoch, resume));
        self.events.passed(epoch);
        if self.epochs.is_committed(epoch) {
            // The output has it already; now the journal can state it.
            return self.committed(epoch);
        }
        Ok(())
    }

    /// Returns where a replay from here begins.
    fn resume(&self, positions: Vec<u8>) -> Resume {
        let split = self.split;
        let at_cut = self.connections.iter().map(|(id, connection)| connection.at_cut(*id, split));
        let connections: Vec<_> = at_cut.filter(|state| !state.is_fresh()).collect();
        let mut position = connections.iter().map(|state| state.position).min();
        if self.replayable.is_some() {
            // The records before the cut hold nothing of it.
            position = Some(Position(u64::MAX));
        }
        Resume {
            position: position.unwrap_or(split).min(self.tail()),
            split,
            order: self.order,
            connections,
            positions,
            producers: self.producers.at_cut(&self.connections),
        }
    }

    /// Returns the end of the journal.
    fn tail(&self) -> Position {
        self.journal.as_ref().map_or(Position(u64::MAX), Journal::tail)
    }

    /// Notes that `epoch` and all before it are committed.
    fn committed(&mut self, epoch: Epoch) -> Result<()> {
        if self.epochs.is_replay {
            return Ok(());
        }
        if let Some(replayable) = &mut self.replayable {
            replayable.committed(epoch);
        }
        self.epochs.to_note = self.epochs.to_note.max(Some(epoch));
        let (Some(journal), Some(wanted), Some((passed, _))) =
            (&mut self.journal, self.epochs.to_note, &self.epochs.passed)
        else {
            return Ok(());
        };
        if let Some(Append::Stored { .. }) = journal.append_committed(wanted.min(*passed))? {
            self.events.noted();
        }
        Ok(())
    }

    /// States in the journal how far it is on disk, if that is farther than any record states.
    fn state_synced(&mut self) -> Result<()> {
        if let Some(journal) = &mut self.journal
            && journal.state_synced()?
        {
            self.events.stated();
        }
        Ok(())
    }

    /// Returns the handle that makes the journal durable, where there is one.
    pub fn syncer(&self) -> Option<Syncer> {
        self.journal.as_ref().map(Journal::syncer)
    }
}

impl fmt::Debug for LogEpochs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogEpochs")
            .field("open", &self.open)
            .field("ahead", &self.ahead.len())
            .finish_non_exhaustive()
    }
}
