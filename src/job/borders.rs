//! The borders between epochs, in the streams of this process's sources.
//!
//! Whoever owns the clock says *when* an epoch ends; this puts the end into what the sources of
//! this process have read. A border is passed in two steps: first, lines that end from now on
//! belong to the next epoch; then, when what lies before the border can no longer be lost, the
//! workers may see the epoch close.

use crate::epoch::Epoch;
use crate::feed::Feed;

/// Cuts the streams of one process.
#[derive(Clone, Debug)]
pub(super) struct Borders {
    feed: Feed,
}

impl Borders {
    /// Borders in what goes through `feed`.
    pub(super) fn new(feed: Feed) -> Self {
        Borders { feed }
    }

    /// Closes the open epoch of this process, which is returned, and opens `next`.
    pub(super) fn cut(&self, next: Epoch) -> Epoch {
        let epoch = self.feed.open_next(next);
        self.feed.complete(epoch);
        epoch
    }

    /// Says that nothing comes behind the last border: all sources have ended.
    pub(super) fn end(&self) {
        self.feed.end();
    }
}
