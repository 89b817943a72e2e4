//! The lines themselves, per epoch, in the order in which each source sent them.

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::Operator;

use super::Lines;
use super::rows::{EpochRows, Row, RowSet, Rows};
use super::ticks::{AtTicks, Stash, at_ticks};
use super::window::Grid;
use crate::epoch::Epoch;

/// Shows the lines of `text` without their ends: LF, CR or CR LF. What follows the last end is a
/// line unless it is empty.
pub(super) fn each_line<'a>(text: &'a [u8], mut line: impl FnMut(&'a [u8])) {
    let mut start = 0;
    for end in memchr::memchr2_iter(b'\n', b'\r', text) {
        let is_lf_of_crlf = text[end] == b'\n' && end > 0 && text[end - 1] == b'\r';
        if !is_lf_of_crlf {
            line(&text[start..end]);
        }
        start = end + 1;
    }
    if start < text.len() {
        line(&text[start..]);
    }
}

/// A run of lines on its way to the owner of its part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Piece {
    source: u32,
    offset: u64,
    text: Vec<u8>,
}

impl<'s> Lines<'s> {
    /// The lines themselves, as raw bytes, each ended by one LF: by source (part = source modulo
    /// the number of parts), then by their place in the source's stream.
    ///
    /// Keeps the bytes of open epochs.
    pub fn archive(self) -> Rows<'s> {
        let Lines { blocks, ticks, context } = self;
        // A copy, because the bytes of blocks are bounded and an epoch's are not.
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
                            let piece =
                                Piece { source: block.source(), offset: block.offset(), text };
                            (*capability.time(), piece)
                        }));
                    });
                }
            },
        );
        let (parts, by_part) = (context.parts, Rc::clone(&context));
        let to_owner = Exchange::new(move |(_, piece): &(Epoch, Piece)| {
            by_part.owner(piece.source % parts) as u64
        });
        let archive = Archive { parts, pieces: Stash::new() };
        let stream = at_ticks(pieces, to_owner, ticks.clone(), "Archive lines", archive);
        Rows { stream, ticks, context, grid: Grid::ALL }
    }
}

struct Archive {
    parts: u32,
    pieces: Stash<Piece>,
}

impl AtTicks<Vec<(Epoch, Piece)>> for Archive {
    type Out = EpochRows;

    fn absorb(&mut self, pieces: &mut Vec<(Epoch, Piece)>) {
        pieces.drain(..).for_each(|(epoch, piece)| self.pieces.push(epoch, piece));
    }

    fn publish(&mut self, epoch: Epoch, send: &mut dyn FnMut(EpochRows)) {
        let mut pieces = self.pieces.take(epoch);
        if pieces.is_empty() {
            return;
        }
        pieces.sort_unstable();
        send(EpochRows { epoch, rows: Rc::new(Archived { parts: self.parts, pieces }) });
    }
}

struct Archived {
    parts: u32,
    pieces: Vec<Piece>,
}

impl RowSet for Archived {
    fn for_each(&self, visit: &mut dyn FnMut(Row<'_>)) {
        for Piece { source, text, .. } in &self.pieces {
            let part = source % self.parts;
            each_line(text, |line| visit(Row::Line { part, line }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_lf_cr_or_crlf_and_keeps_every_other_byte() {
        let mut lines: Vec<&[u8]> = Vec::new();
        each_line(b"a\r\n\r\rb \xff\x00\n\nc", |line| lines.push(line));
        assert_eq!(lines, [&b"a"[..], b"", b"", b"b \xff\x00", b"", b"c"]);
    }
}
