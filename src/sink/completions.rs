//! How a finished request gets back into an operator.
//!
//! An operator starts requests on the runtime and returns at once; what comes of them is put here
//! from outside, and the operator's worker is woken to take it out. The number of results waiting
//! is bounded by the number of epochs in the dataflow.

use std::sync::{Arc, Mutex, PoisonError};

use timely::scheduling::SyncActivator;

/// Results of requests, on their way to the operator that asked. Clones share them.
#[derive(Debug)]
pub(super) struct Completions<T> {
    results: Arc<Mutex<Vec<T>>>,
    activator: SyncActivator,
}

impl<T> Completions<T> {
    /// Results for the operator that `activator` wakes.
    pub(super) fn new(activator: SyncActivator) -> Self {
        Completions { results: Arc::default(), activator }
    }

    /// Hands over a result, then wakes the operator: in this order, or it would look too early.
    pub(super) fn complete(&self, result: T) {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
        // It fails only when the worker is gone, and with it everyone who could want the result.
        self.activator.activate().ok();
    }

    /// Takes out what has come.
    pub(super) fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.results.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Clone for Completions<T> {
    fn clone(&self) -> Self {
        let results = Arc::clone(&self.results);
        Completions { results, activator: self.activator.clone() }
    }
}
