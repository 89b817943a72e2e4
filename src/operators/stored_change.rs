//! The changes of totals and windows that are stored for recovery.
//!
//! Totals and windows are sums over epochs that the journal drops after their commit. Each epoch's
//! input to them is therefore stored outside the dataflow: a [`PartChange`] for each part, with the
//! words that the owner of the part received in the epoch, as one sorted run. It is the input of
//! the arrangement and not its output, so that a window can retract it after a restart.
//!
//! [`record_changes`](super::record_changes) adds the changes of a complete epoch to the worker's
//! [`ChangeBuffer`]. The sink takes them from there and stores them beside the parts of the epoch.
//! [`Restored`] has the changes of former runs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use super::run::Run;
use super::window::Grid;
use crate::epoch::Epoch;

/// The input of one part of some counts in one epoch, or in all epochs up to one.
#[derive(Clone, Debug)]
pub struct PartChange {
    /// The number of the counts among the definition's totals and windows, in the order of their
    /// construction.
    pub counts: u32,
    /// The part.
    pub part: u32,
    /// The time for which results contain it. `None` for ever.
    pub lasts_ms: Option<u64>,
    /// The words, and their epoch.
    pub run: Run,
}

impl PartChange {
    /// Returns true if no result after `epoch` contains it, and no difference of such a result to
    /// that of `epoch` does.
    pub fn is_past(&self, epoch: Epoch) -> bool {
        self.lasts_ms.is_some_and(|lasts_ms| self.run.epoch.saturating_add(lasts_ms) <= epoch)
    }
}

/// The changes of former runs, for the workers of this process.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The changes of the parts that workers of this process own.
    changes: Arc<Mutex<Vec<PartChange>>>,
    through: Epoch,
    result: Option<Epoch>,
}

impl Restored {
    /// Returns the changes of epochs up to and including `through`. `result` is the newest of them
    /// with a result, if that is known, and 0 if none had one.
    pub fn new(changes: Vec<PartChange>, through: Epoch, result: Option<Epoch>) -> Restored {
        Restored { changes: Arc::new(Mutex::new(changes)), through, result }
    }

    /// Removes the changes of the parts that a worker `owns` and returns a buffer with them.
    pub fn take(&self, owns: impl Fn(u32) -> bool) -> ChangeBuffer {
        let mut all = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let restored = all.extract_if(.., |change| owns(change.part)).collect();
        let state = BufferState { restored, counts: 0, changes: BTreeMap::new() };
        let (through, result) = (self.through, self.result);
        ChangeBuffer { state: Some(Rc::new(RefCell::new(state))), through, result }
    }
}

/// The changes of one worker. Clones share them; a worker is one thread.
#[derive(Clone, Debug, Default)]
pub struct ChangeBuffer {
    /// `None` for a job without state, whose changes are not stored.
    state: Option<Rc<RefCell<BufferState>>>,
    /// The newest epoch that former runs committed.
    through: Epoch,
    /// The newest of their epochs with a result.
    result: Option<Epoch>,
}

/// The state that clones of a buffer share.
#[derive(Debug)]
pub struct BufferState {
    /// Changes of former runs that no counts have taken yet.
    pub restored: Vec<PartChange>,
    /// Number of totals and windows that the definition has made so far.
    pub counts: u32,
    /// Changes that are not stored yet, by epoch.
    pub changes: BTreeMap<Epoch, Vec<PartChange>>,
}

impl ChangeBuffer {
    /// Removes and returns the changes of `epoch` and of earlier epochs.
    pub fn take(&self, epoch: Epoch) -> Vec<PartChange> {
        let Some(state) = &self.state else { return Vec::new() };
        let mut state = state.borrow_mut();
        let later = state.changes.split_off(&(epoch + 1));
        std::mem::replace(&mut state.changes, later).into_values().flatten().collect()
    }

    /// Returns the shared state, or `None` for a job without state.
    pub(crate) fn state(&self) -> Option<Rc<RefCell<BufferState>>> {
        self.state.clone()
    }

    /// Returns the newest epoch that former runs committed, or 0.
    pub(crate) fn through(&self) -> Epoch {
        self.through
    }

    /// Returns the epoch of the newest result that former runs committed, of results at the epochs
    /// of `grid`; 0 if there was none.
    pub(crate) fn result(&self, grid: Grid) -> Epoch {
        // Each epoch has a result of totals, and their restored changes are all at the last one.
        // An earlier release noted no result without rows.
        let noted = self.result.filter(|_| grid != Grid::ALL);
        noted.unwrap_or_else(|| grid.last(self.through))
    }
}
