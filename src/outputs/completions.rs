//! Returns the results of requests to an operator.
//!
//! An operator starts requests on the runtime and returns at once. A finished request adds its
//! result here and wakes the worker of the operator, which takes the result. The number of epochs
//! in the dataflow bounds the number of results.

use std::sync::{Arc, Mutex, PoisonError};

use timely::scheduling::SyncActivator;

/// Results of requests of one operator. Clones share them.
#[derive(Debug)]
pub struct Completions<T> {
    /// The results that the operator has not taken.
    results: Arc<Mutex<Vec<T>>>,
    /// Wakes the operator from any thread.
    activator: SyncActivator,
}

impl<T> Completions<T> {
    /// Returns an empty list for the operator that `activator` wakes.
    pub fn new(activator: SyncActivator) -> Self {
        Completions { results: Arc::default(), activator }
    }

    /// Adds a result, then wakes the operator. In the other order the operator could run before the
    /// result is there.
    pub fn complete(&self, result: T) {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
        // It fails only if the worker has ended, and then nothing needs the result.
        let _ = self.activator.activate();
    }

    /// Removes and returns the results.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.results.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Clone for Completions<T> {
    fn clone(&self) -> Self {
        let results = Arc::clone(&self.results);
        Completions { results, activator: self.activator.clone() }
    }
}
