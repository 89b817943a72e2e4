//! The input of a definition.

use std::rc::Rc;

use timely::dataflow::Stream;

use super::context::Context;
use crate::epoch::Epoch;
use crate::lines::Block;

/// The lines of all sources, as blocks of whole lines, and the ticks of their epochs.
///
/// A definition receives this and builds on it: [`Lines::words`], [`Lines::keys`],
/// [`Lines::archive`], [`Lines::as_collection`].
#[derive(Clone)]
pub struct Lines<'s> {
    /// The blocks of lines, at their epoch.
    pub(crate) blocks: Stream<'s, Epoch, Vec<Block>>,
    /// The complete epochs.
    pub(crate) ticks: Stream<'s, Epoch, Vec<Epoch>>,
    /// Facts and failure of the worker.
    pub(crate) context: Rc<Context>,
}

impl std::fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("context", &self.context).finish_non_exhaustive()
    }
}
