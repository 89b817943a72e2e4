//! The figures that a process sends to process 0, which shows them.
//!
//! They go over the control link as one piece after the other, each of which the receiver
//! acknowledges. So a process that does not read for a while has at most one piece waiting, and its
//! window stays open. They do not go through the inbox: the newest replaces those before, and a
//! job that is busy with its stop must not find its inbox full of them.

use std::fmt;
use std::sync::OnceLock;

/// A function that takes the figures of a process. It is called on the thread of the link, so it
/// must be quick.
pub type TakeFigures = Box<dyn Fn(usize, &[u8]) + Send + Sync>;

/// The taker of figures; without one they are discarded.
#[derive(Default)]
pub struct FiguresTaker(OnceLock<TakeFigures>);

impl fmt::Debug for FiguresTaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FiguresTaker").finish_non_exhaustive()
    }
}

impl FiguresTaker {
    /// Sets the taker. Only the first call counts.
    pub fn set(&self, take: TakeFigures) {
        // A second taker would be a mistake of the caller that does no harm.
        let _ = self.0.set(take);
    }

    /// Called with the figures that `from` has sent.
    pub fn take(&self, from: usize, bytes: &[u8]) {
        if let Some(take) = self.0.get() {
            take(from, bytes);
        }
    }
}
