//! Archiving: publishes the lines of each epoch as they came.
//!
//! The lines of a source keep their order. A part holds the lines of the sources whose index is the
//! part's, modulo the number of parts, so one worker sees all pieces of a source and can sort them.

use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::Operator;

use super::epoch_ticks::{AtTicks, Stash, at_ticks};
use super::lines::Lines;
use super::rows::{EpochRows, Row, RowKind, RowSet, Rows};
use super::text::each_line;
use super::window::Grid;
use crate::epoch::Epoch;

/// Consecutive lines of one source, sent to the worker that owns their part.
///
/// Pieces sort by source, then by offset: the order in which the lines are published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct ArchivePiece {
    /// The index of the source, by which pieces are ordered first.
    source: u32,
    /// The place of the piece in its source.
    offset: u64,
    /// The text: whole lines.
    text: Vec<u8>,
}

impl<'s> Lines<'s> {
    /// Returns the lines as rows of raw bytes, each ended by one LF.
    ///
    /// The rows are ordered by source, then by offset in the source's stream. Part `p` holds the
    /// sources whose index modulo the number of parts is `p`. Memory: the bytes of open epochs.
    pub fn archive(self) -> Rows<'s> {
        let Lines { blocks, ticks, context } = self;
        // The text is copied: a block holds a permit of the bounded block pool, and an epoch may be
        // larger than the pool.
        let pieces = blocks.unary::<CapacityContainerBuilder<Vec<_>>, _, _, _>(
            Pipeline,
            "Copy lines",
            |_capability, _info| {
                |input, output| {
                    input.for_each(|capability, blocks| {
                        let Some(capability) = capability.retain_least(0) else { return };
                        let mut session = output.session(&capability);
                        session.give_iterator(blocks.drain(..).map(|block| {
                            let text = block.text().to_vec();
                            let piece = ArchivePiece {
                                source: block.source(),
                                offset: block.offset(),
                                text,
                            };
                            (*capability.time(), piece)
                        }));
                    });
                }
            },
        );
        let (parts, by_part) = (context.settings.parts, Rc::clone(&context));
        let to_owner = Exchange::new(move |(_, piece): &(Epoch, ArchivePiece)| {
            by_part.owner(piece.source % parts) as u64
        });
        let archive = Archive { parts, pieces: Stash::new() };
        let stream = at_ticks(pieces, to_owner, ticks.clone(), "Archive lines", archive);
        Rows { stream, ticks, context, grid: Grid::ALL, kind: RowKind::Lines }
    }
}

/// The operator state: pieces of open epochs.
struct Archive {
    /// Number of parts.
    parts: u32,
    /// The pieces of open epochs.
    pieces: Stash<ArchivePiece>,
}

impl AtTicks<Vec<(Epoch, ArchivePiece)>> for Archive {
    type Out = EpochRows;

    fn absorb(&mut self, pieces: &mut Vec<(Epoch, ArchivePiece)>) {
        pieces.drain(..).for_each(|(epoch, piece)| self.pieces.push(epoch, piece));
    }

    fn publish(&mut self, epoch: Epoch, send: &mut dyn FnMut(EpochRows)) {
        let mut pieces = self.pieces.take(epoch);
        if pieces.is_empty() {
            return;
        }
        pieces.sort_unstable();
        send(EpochRows { epoch, rows: Arc::new(Archived { parts: self.parts, pieces }) });
    }
}

/// The lines of one complete epoch at one worker, in order.
struct Archived {
    /// Number of parts.
    parts: u32,
    /// The pieces in order.
    pieces: Vec<ArchivePiece>,
}

impl RowSet for Archived {
    fn for_each(&self, visit: &mut dyn FnMut(Row<'_>)) {
        for ArchivePiece { source, text, .. } in &self.pieces {
            let part = source % self.parts;
            each_line(text, |line| visit(Row::Line { part, line }));
        }
    }
}
