//! Waiting for room, without polling.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Full, FullCause, Ticket};

/// The waiting place of readers whose journal is full, for threads and tasks.
#[derive(Debug, Default)]
pub struct Gate {
    /// Counts openings, and holds if the gate stands open for good.
    state: Mutex<GateState>,
    /// Wakes threads.
    pub woken: Condvar,
    /// Wakes tasks.
    pub notify: Notify,
}

#[derive(Debug, Default)]
pub struct GateState {
    /// Counts the times that room came.
    pub generation: u64,
    /// True when no writer is to wait any more.
    pub released: bool,
}

impl Gate {
    /// Locks the state.
    pub fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be taken *before* looking for room, so that room that comes in between is not missed.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.state().generation)
    }

    /// Returns the answer to an append for which there was no room.
    pub(crate) fn full(&self, ticket: Ticket, cause: FullCause) -> Full {
        Full { cause, ticket }
    }

    /// Wakes all that wait: there may be room.
    pub fn wake_all(&self) {
        self.state().generation += 1;
        self.woken.notify_all();
        self.notify.notify_waiters();
    }

    /// Opens the gate for good, at the end of the job.
    #[cfg(any(test, feature = "internals"))]
    pub fn release(&self) {
        self.state().released = true;
        self.wake_all();
    }

    /// `None` while there is nothing new; else whether to go on.
    pub(crate) fn answer(&self, ticket: Ticket) -> Option<bool> {
        let state = self.state();
        (state.released || state.generation > ticket.0).then_some(!state.released)
    }
}
