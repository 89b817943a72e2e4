//! Words that go to a table before they are counted.
//!
//! Several workers that each count what they read hold a word once each. Where words repeat that is
//! cheap, since each worker sends on what it has counted, once. Where they hardly repeat, all
//! tables hold nearly all words: as much memory and as many cache misses as workers, and then the
//! runs are added up. So [`combine`](super::combine) watches how many words a distinct word stands
//! for, and if they are few, sorts the words of the rest of the epoch by ranges of their hash, one
//! range for each worker of the process, and this operator counts those of its worker's range.
//! (With one part a worker, as is usual, that is the worker which owns them.)
//!
//! Words never leave the process uncounted: the wire is dearer than memory, and nothing bounds what
//! waits for it. Within the process the blocks do: each container of words holds the block that
//! they stood in, whose permit in the [`BlockPool`](crate::lines::BlockPool) is free again when all
//! of its words are counted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;

use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::communication::Push;
use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};
use timely::dataflow::operators::generic::Operator;
use timely::progress::Stamp;

use super::Context;
use super::combine::OpenTable;
use super::run::Run;
use crate::epoch::Epoch;
use crate::lines::Block;
use crate::words::{ShortWords, WordTable};

/// Words of one block for the table of one worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Routed {
    /// Index of that worker among all.
    pub(super) worker: u64,
    pub(super) words: ShortWords,
    /// Holds the place of the words in the bound on what is read and not yet counted.
    pub(super) block: Option<Block>,
}

/// Emptied lists of one worker, to be filled again: a fresh one of that size costs a page fault
/// every 4 KiB. What a worker sends and what it receives is about the same, so they do not run out.
#[derive(Clone, Debug, Default)]
pub(super) struct Spares(Rc<RefCell<Vec<ShortWords>>>);

impl Spares {
    /// Lists that are kept.
    const KEPT: usize = 16;

    /// An empty list.
    pub(super) fn take(&self) -> ShortWords {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Keeps an emptied list.
    pub(super) fn give(&self, mut words: ShortWords) {
        let mut spares = self.0.borrow_mut();
        if spares.len() < Spares::KEPT {
            words.clear();
            spares.push(words);
        }
    }
}

impl Accountable for Routed {
    fn record_count(&self) -> i64 {
        self.words.len() as i64
    }
}

/// Timely asks for this of whatever could cross between processes; these words do not.
impl ContainerBytes for Routed {
    fn from_bytes(bytes: Bytes) -> Self {
        let (numbers, _) = bytes.as_chunks::<8>();
        let (words, _) = bytes[8..].as_chunks();
        let words = ShortWords::from_bytes(words.iter().copied());
        Routed { worker: u64::from_le_bytes(numbers[0]), words, block: None }
    }

    fn length_in_bytes(&self) -> usize {
        8 + self.words.len() * ShortWords::WORD_BYTES
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        let mut put = |bytes: &[u8]| {
            // Timely hands out a buffer of `length_in_bytes`: a short one is a defect of ours.
            writer.write_all(bytes).expect("words fit into the length they announced");
        };
        put(&self.worker.to_le_bytes());
        self.words.to_bytes().for_each(|word| put(&word));
    }
}

/// Sends words, whole, to the worker that they name.
struct ToTable;

impl Distributor<Routed> for ToTable {
    fn partition<T: Clone, P: Push<Message<T, Routed>>>(
        &mut self,
        routed: &mut Routed,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        let worker = routed.worker as usize;
        Message::push_at(routed, stamp.clone(), &mut pushers[worker]);
    }

    fn flush<T: Clone, P: Push<Message<T, Routed>>>(&mut self, _: &Stamp<T>, _: &mut [P]) {}
}

/// Counts words that were sorted by ranges of the hash, those of this worker's range.
pub(super) fn count<'s>(
    routed: Stream<'s, Epoch, Routed>,
    spares: Spares,
    context: Rc<Context>,
) -> Stream<'s, Epoch, Run> {
    routed.unary_frontier::<NoopBuilder<Run>, _, _, _>(
        DistributorPact(|_peers| ToTable),
        "Count routed words",
        move |_capability, _info| {
            let mut open: BTreeMap<Epoch, OpenTable> = BTreeMap::new();
            let mut spare = None;
            let ranges = context.threads as u32;
            move |(input, frontier), output| {
                input.for_each(|capability, routed| {
                    let Some(capability) = capability.retain_least(0) else { return };
                    let at = open.entry(*capability.time()).or_insert_with(|| OpenTable {
                        capability,
                        table: spare.take().unwrap_or_else(|| WordTable::new(ranges)),
                    });
                    let Routed { words, block, .. } = std::mem::take(routed);
                    at.table.add_short(&words);
                    if block.is_some() {
                        spares.give(words);
                    }
                    drop(block);
                    at.drain_if_large(&context, output);
                });
                while let Some(first) = open.first_entry() {
                    if frontier.less_equal(first.key()) {
                        break;
                    }
                    let mut done = first.remove();
                    done.drain(&context, output);
                    spare = Some(done.table);
                }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routed_words_survive_the_way_through_bytes() {
        let words = [b"a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01", b"bcd\0\0\0\0\0\0\0\0\0\0\0\0\x03"];
        for len in 0..=2 {
            let words = ShortWords::from_bytes(words[..len].iter().map(|word| **word));
            let routed = Routed { worker: 3, words, block: None };
            let mut bytes = Vec::new();
            routed.into_bytes(&mut bytes);
            assert_eq!(bytes.len(), routed.length_in_bytes());
            let mut shared = timely::bytes::arc::BytesMut::from(bytes).freeze();
            let all = shared.len();
            let back = Routed::from_bytes(shared.extract_to(all));
            assert_eq!(back.worker, 3);
            assert!(back.words.to_bytes().eq(routed.words.to_bytes()));
        }
    }
}
