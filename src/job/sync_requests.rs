//! The requests to the thread that syncs the journals.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::epoch::Epoch;

/// A request to the thread that syncs.
#[derive(Clone, Copy)]
pub enum SyncRequest {
    /// Every log has appended the end of this epoch: make it durable.
    Recorded(Epoch),
    /// A log has noted that epochs are committed.
    Noted,
    /// Something was appended that no sync is due for.
    Appended,
    /// Sync what was appended.
    Write,
    /// A journal is full.
    Room,
    /// Nothing comes any more.
    End,
}

/// Takes requests for the thread that syncs.
pub struct SyncQueue {
    /// The end of the queue that takes requests.
    requests: Sender<SyncRequest>,
    /// The thread knows that lines were appended since its last sync.
    is_due: AtomicBool,
}

impl SyncQueue {
    /// Returns both ends of an empty queue.
    pub fn new() -> (SyncQueue, Receiver<SyncRequest>) {
        let (requests, asked) = channel();
        (SyncQueue { requests, is_due: AtomicBool::new(false) }, asked)
    }

    /// Puts a request into the queue. The thread joins what waits into one sync.
    pub fn ask(&self, request: SyncRequest) {
        // It fails only when the job is ending, and then no answer is awaited.
        let _ = self.requests.send(request);
    }

    /// Asks for a sync in time of lines that were appended. The first append after a sync starts
    /// the timer; the others find it running.
    pub fn appended(&self) {
        if !self.is_due.swap(true, Ordering::AcqRel) {
            self.ask(SyncRequest::Appended);
        }
    }

    /// Returns true if lines were appended for which the timer may run.
    pub fn has_lines(&self) -> bool {
        self.is_due.load(Ordering::Acquire)
    }

    /// Called before a sync that is due: what is appended from now on starts the timer again.
    pub fn begins(&self) {
        self.is_due.store(false, Ordering::SeqCst);
    }
}
