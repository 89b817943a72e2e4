//! Data of another process that cannot be read.
//!
//! Timely decodes messages where no error can be returned. A decoder that meets bytes which no
//! process of this version writes returns an empty value and notes it here; the worker looks after
//! each step and ends the job, as it does when a peer is lost.

use std::cell::Cell;

thread_local! {
    /// The kind of data that could not be read, until the worker looks.
    static MALFORMED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Notes that `what` cannot be read; returns an empty value in its place.
pub fn malformed<T: Default>(what: &'static str) -> T {
    MALFORMED.set(Some(what));
    T::default()
}

/// Returns what this thread has received and could not read since it was last asked.
pub(crate) fn take_malformed() -> Option<&'static str> {
    MALFORMED.take()
}
