//! Sources that can be read again: the log keeps their positions in place of their bytes.
//!
//! A source gives its positions at each cut, in an encoding of its own
//! ([`SourceLog::set_positions`]), and begins where the last committed epoch ended
//! ([`SourceLog::began_at`]). Ends of epochs that a former run recorded and did not commit are
//! passed exactly at their positions ([`SourceLog::recorded_end`],
//! [`SourceLog::pass_recorded_end`]): their lines were promised to these epochs.

use std::collections::VecDeque;
use std::fmt;

use super::{RecordedEnds, SourceLog};
use crate::epoch::Epoch;
use crate::error::Result;
use crate::journal::{NEXT_CONNECTION, Resume};
use crate::lines::SplitterState;

/// Returns the positions of a source, called at a cut.
type ReplayablePositions = Box<dyn FnMut() -> Result<Vec<u8>> + Send>;

/// The positions of a source that can be read again.
pub struct Replayable {
    /// Where the last committed epoch ended.
    began_at: Vec<u8>,
    /// The last positions that are known while the source gives none.
    known: Vec<u8>,
    /// Returns the positions at a cut; `None` before the source has begun.
    positions: Option<ReplayablePositions>,
    /// The positions at the ends of epochs that were passed and are not known to be committed.
    passed: VecDeque<(Epoch, Vec<u8>)>,
    /// The positions of the newest end that is known to be committed.
    committed: Vec<u8>,
}

impl Replayable {
    /// Begins where the newest record has left the source.
    pub fn begin(resume: &Resume, ends: &[(Epoch, Vec<u8>)]) -> Replayable {
        let last = ends.iter().rev().map(|(_, positions)| positions);
        let known = last.chain([&resume.positions]).find(|positions| !positions.is_empty());
        Replayable {
            began_at: resume.positions.clone(),
            known: known.cloned().unwrap_or_default(),
            positions: None,
            passed: VecDeque::new(),
            committed: resume.positions.clone(),
        }
    }

    /// Notes that the end of `epoch` was passed at these positions.
    pub fn passed(&mut self, epoch: Epoch, positions: &[u8]) {
        self.passed.push_back((epoch, positions.to_vec()));
    }

    /// Notes that `epoch` and all before it are committed.
    pub fn committed(&mut self, epoch: Epoch) {
        while self.passed.front().is_some_and(|(passed, _)| *passed <= epoch) {
            self.committed = self.passed.pop_front().map_or_else(Vec::new, |(_, at)| at);
        }
    }

    /// Returns the positions at a cut. While recorded ends are ahead, nothing after the last of
    /// them was taken yet, so they are those of the last.
    pub fn at_cut(&mut self, ahead: &RecordedEnds) -> Result<Vec<u8>> {
        match (ahead.back(), &mut self.positions) {
            (Some((_, recorded)), _) if !recorded.is_empty() => Ok(recorded.clone()),
            (_, Some(positions)) => positions(),
            (_, None) => Ok(self.known.clone()),
        }
    }
}

impl SourceLog {
    /// Calls `positions` at each cut from now on, by the task that owns the log, between two
    /// of its steps. It returns at most 128 KiB.
    pub fn set_positions(&mut self, positions: impl FnMut() -> Result<Vec<u8>> + Send + 'static) {
        if let Some(replayable) = &mut self.replayable {
            replayable.positions = Some(Box::new(positions));
        }
    }

    /// Stops asking for positions: those that the source has now are those of all later cuts.
    ///
    /// # Errors
    /// Those of the source.
    pub fn fix_positions(&mut self) -> Result<()> {
        if let Some(replayable) = &mut self.replayable
            && let Some(mut positions) = replayable.positions.take()
        {
            replayable.known = positions()?;
        }
        Ok(())
    }

    /// Returns the positions where the last committed epoch ended; empty at the beginning.
    pub fn began_at(&self) -> &[u8] {
        self.replayable.as_ref().map_or(&[], |replayable| &replayable.began_at)
    }

    /// Returns the positions of the newest end of an epoch that is known to be committed.
    pub fn committed_at(&self) -> &[u8] {
        self.replayable.as_ref().map_or(&[], |replayable| &replayable.committed)
    }

    /// Returns the positions of the last end of an epoch that is recorded, committed or not.
    pub fn last_recorded(&self) -> &[u8] {
        self.replayable.as_ref().map_or(&[], |replayable| &replayable.known)
    }

    /// Returns the connections that were open there, with the states of their splitters. The last
    /// `unfinished_bytes` bytes before the positions must be fed again.
    pub fn connections_at_begin(&self) -> Vec<(u64, SplitterState)> {
        let open = self.connections.iter().filter(|(_, connection)| connection.begin.is_some());
        open.map(|(id, connection)| (*id, connection.splitter_state())).collect()
    }

    /// Makes `id` the connection of a source that has only one; an earlier version recorded none.
    pub fn open_connection_as(&mut self, id: u64) -> u64 {
        if let Some(resumed) = self.connections.remove(&NEXT_CONNECTION) {
            self.connections.insert(id, resumed);
        }
        self.next_connection = self.next_connection.max(id.saturating_add(1));
        id
    }

    /// Returns the next recorded end of an epoch that was not passed, and the positions there.
    pub fn recorded_end(&self) -> Option<(Epoch, &[u8])> {
        self.epochs.next_end().filter(|_| self.replayable.is_some())
    }

    /// Passes the next recorded end of an epoch: all before it was handed over, nothing after it.
    pub fn pass_recorded_end(&mut self) -> Result<()> {
        if self.replayable.is_some() {
            self.pass()?;
        }
        Ok(())
    }

    /// Returns true if no end of an epoch is left to be passed.
    pub fn is_live(&self) -> bool {
        self.lagging.is_none() && self.epochs.next_end().is_none()
    }
}

impl fmt::Debug for Replayable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replayable").field("known", &self.known.len()).finish_non_exhaustive()
    }
}
