//! Routed words: words that are sent to a table before they are counted.
//!
//! If several workers each count what they read, each holds a word once. Where words repeat that is
//! cheap: each worker sends its counts on, once. Where words hardly repeat, every table holds
//! nearly all words: as much memory and as many cache misses as there are workers, and then the
//! runs have to be added up. So [`count_words`](super::count_words) compares the number of words
//! with the number of distinct words. If they are close, it sorts the words of the rest of the
//! epoch by ranges of their hash, one range per worker, and this operator counts the words of its
//! worker's range. With one part per worker, as is usual, that is the worker that owns them.
//!
//! Words never leave the host uncounted: the network costs more than memory.
//!
//! Blocks bound the words in flight: each block has a permit of the
//! [`BlockPool`](crate::lines::BlockPool) until its last word is counted. Within a process the list
//! of words carries its block. For a list that is sent to another process, the sending worker keeps
//! the block ([`SentBlocks`]), and the worker that counts the words sends an answer. The lists
//! between two workers keep their order, so an answer need not name its list.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::rc::Rc;

use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::communication::Push;
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{DistributorPact, Exchange};
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{Operator, OutputBuilder};
use timely::progress::Stamp;

use super::context::Context;
use super::epoch_table::{OpenTable, SpareTable};
use super::malformed_data::malformed;
use super::run::Run;
use crate::epoch::Epoch;
use crate::lines::Block;
use crate::words::ShortWords;

/// A list of words of one block, for the table of one worker.
#[derive(Clone, Debug, Default)]
pub struct Routed {
    /// Index of the worker that counts the words.
    worker: u64,
    /// Index of the worker that waits for an answer when these words are counted.
    answer: Option<u64>,
    words: ShortWords,
    /// The block of the words. It keeps its permit of the block pool until the words are counted.
    block: Option<Block>,
}

impl Routed {
    /// Words in a message to another process: they fill a quarter of timely's initial send buffer.
    const REMOTE_WORDS_MAX: usize = (240 << 10) / ShortWords::WORD_BYTES;
    /// Encodes an absent `answer`.
    const NO_ANSWER: u64 = u64::MAX;

    /// Reads what [`ContainerBytes::into_bytes`] wrote. Returns `None` for other bytes.
    fn read(bytes: &[u8]) -> Option<Routed> {
        let (numbers, words) = bytes.split_at_checked(16)?;
        let (numbers, _) = numbers.as_chunks::<8>();
        let (words, rest) = words.as_chunks();
        let words = ShortWords::from_bytes(words.iter().copied());
        let answer = Some(u64::from_le_bytes(numbers[1])).filter(|&to| to != Routed::NO_ANSWER);
        let is_whole = rest.is_empty() && words.is_sound();
        let worker = u64::from_le_bytes(numbers[0]);
        is_whole.then_some(Routed { worker, answer, words, block: None })
    }

    /// Makes a list for a worker of this process.
    pub fn within(worker: usize, words: ShortWords, block: Option<&Block>) -> Routed {
        Routed { worker: worker as u64, answer: None, words, block: block.cloned() }
    }

    /// Makes the messages for a worker of another process. The last one asks for an answer to
    /// `answer`.
    pub fn across(
        worker: usize,
        words: &ShortWords,
        answer: Option<usize>,
    ) -> impl Iterator<Item = Routed> {
        let pieces = words.len().div_ceil(Routed::REMOTE_WORDS_MAX);
        words.pieces(Routed::REMOTE_WORDS_MAX).enumerate().map(move |(at, words)| {
            let answer = answer.filter(|_| at + 1 == pieces).map(|index| index as u64);
            Routed { worker: worker as u64, answer, words, block: None }
        })
    }
}

/// Blocks whose words were sent to other processes, by the worker that counts them. Clones share
/// them.
#[derive(Clone, Debug)]
pub struct SentBlocks(Rc<RefCell<Vec<VecDeque<Block>>>>);

impl SentBlocks {
    /// Makes an empty list for each of `peers` workers.
    pub fn new(peers: usize) -> SentBlocks {
        SentBlocks(Rc::new(RefCell::new(vec![VecDeque::new(); peers])))
    }

    /// Keeps a block until `worker` answers.
    pub fn keep(&self, worker: usize, block: &Block) {
        self.0.borrow_mut()[worker].push_back(block.clone());
    }

    /// Drops the oldest block whose words `worker` counts.
    fn release(&self, worker: u64) {
        let mut sent = self.0.borrow_mut();
        match usize::try_from(worker).ok().and_then(|worker| sent.get_mut(worker)) {
            Some(blocks) => drop(blocks.pop_front()),
            None => malformed("an answer of a worker"),
        }
    }
}

/// The answer that a list is counted: the index of the waiting worker, and of the counting one.
type RoutedAnswer = (u64, u64);

/// Emptied lists of one worker, to be filled again. Clones share them.
///
/// A fresh list costs a page fault for every 4 KiB. A worker sends about as many lists as it
/// receives, so the pool does not run out.
#[derive(Clone, Debug, Default)]
pub struct ListPool(Rc<RefCell<Vec<ShortWords>>>);

impl ListPool {
    /// Number of lists that the pool keeps.
    const KEPT: usize = 16;

    /// Returns an empty list.
    pub fn take(&self) -> ShortWords {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Empties a list and keeps it, if there is room.
    pub fn give(&self, mut words: ShortWords) {
        let mut lists = self.0.borrow_mut();
        if lists.len() < ListPool::KEPT {
            words.clear();
            lists.push(words);
        }
    }
}

impl Accountable for Routed {
    fn record_count(&self) -> i64 {
        self.words.len() as i64
    }
}

impl ContainerBytes for Routed {
    fn from_bytes(bytes: Bytes) -> Self {
        Routed::read(&bytes).unwrap_or_else(|| malformed("a list of words"))
    }

    fn length_in_bytes(&self) -> usize {
        16 + self.words.len() * ShortWords::WORD_BYTES
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        let mut put = |bytes: &[u8]| {
            // Timely provides a buffer of `length_in_bytes`; it is too short only by a defect here.
            writer.write_all(bytes).expect("words fit into the length they announced");
        };
        put(&self.worker.to_le_bytes());
        put(&self.answer.unwrap_or(Routed::NO_ANSWER).to_le_bytes());
        self.words.to_bytes().for_each(|word| put(&word));
    }
}

/// Sends each list, whole, to the worker that it names.
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

/// Counts the routed words of this worker's range, and answers the workers that sent them.
pub fn count<'s>(
    routed: Stream<'s, Epoch, Routed>,
    lists: ListPool,
    sent: SentBlocks,
    context: Rc<Context>,
) -> Stream<'s, Epoch, Run> {
    let mut builder = OperatorBuilder::new("Count routed words".to_owned(), routed.scope());
    let mut input = builder.new_input(routed, DistributorPact(|_peers| ToTable));
    let (run_output, runs) = builder.new_output();
    let (answer_output, answers) = builder.new_output();
    let mut run_output = OutputBuilder::<_, NoopBuilder<Run>>::from(run_output);
    let mut answer_output = OutputBuilder::<_, AnswerBuilder>::from(answer_output);
    take_answers(answers, sent);

    builder.build(move |capabilities| {
        drop(capabilities);
        let mut open: BTreeMap<Epoch, OpenTable> = BTreeMap::new();
        let mut spare = SpareTable::default();
        let (ranges, own) = (context.routing as u32, context.index as u64);
        move |frontiers| {
            let (mut runs, mut answers) = (run_output.activate(), answer_output.activate());
            input.for_each(|capability, routed| {
                let Some(to_runs) = capability.retain_least(0) else { return };
                let Routed { words, block, answer, .. } = std::mem::take(routed);
                let at = open.entry(*to_runs.time()).or_insert_with(|| OpenTable {
                    capability: to_runs,
                    table: spare.take(ranges),
                });
                at.table.add_short(&words);
                if block.is_some() {
                    lists.give(words);
                }
                drop(block);
                if let (Some(to), Some(right)) = (answer, capability.retain_least(1)) {
                    answers.session_with_builder(&right).give((to, own));
                }
                at.drain_if_large(&context, &mut runs);
            });
            while let Some(first) = open.first_entry() {
                if frontiers[0].less_equal(first.key()) {
                    break;
                }
                let mut done = first.remove();
                done.drain(&context, &mut runs);
                spare.keep(done.table);
            }
            spare.pass(frontiers[0].frontier().first());
        }
    });
    runs
}

type AnswerBuilder = CapacityContainerBuilder<Vec<RoutedAnswer>>;

/// Releases the blocks whose words were counted in another process.
fn take_answers(answers: Stream<'_, Epoch, Vec<RoutedAnswer>>, sent: SentBlocks) {
    let to_sender = Exchange::new(|(to, _): &RoutedAnswer| *to);
    answers.sink(to_sender, "Take answers", move |(input, _)| {
        input.for_each(|_, answers| {
            answers.drain(..).for_each(|(_, from)| sent.release(from));
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routed_list_round_trips_through_bytes() {
        let words = [b"a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01", b"bcd\0\0\0\0\0\0\0\0\0\0\0\0\x03"];
        for len in 0..=2 {
            let words = ShortWords::from_bytes(words[..len].iter().map(|word| **word));
            let answer = [None, Some(7)][len % 2];
            let routed = Routed { worker: 3, answer, words, block: None };
            let mut bytes = Vec::new();
            routed.into_bytes(&mut bytes);
            assert_eq!(bytes.len(), routed.length_in_bytes());
            let mut shared = timely::bytes::arc::BytesMut::from(bytes).freeze();
            let all = shared.len();
            let back = Routed::from_bytes(shared.extract_to(all));
            assert_eq!((back.worker, back.answer), (3, answer));
            assert!(back.words.to_bytes().eq(routed.words.to_bytes()));
        }
    }

    #[test]
    fn long_list_asks_for_one_answer() {
        let words = ShortWords::from_bytes((0..40_000_u128).map(u128::to_le_bytes));
        let pieces: Vec<_> = Routed::across(5, &words, Some(2)).collect();
        assert!(pieces.iter().all(|piece| piece.length_in_bytes() <= 256 << 10));
        let answers: Vec<_> = pieces.iter().map(|piece| piece.answer).collect();
        assert_eq!(answers, [None, None, Some(2)]);
        let crossed = pieces.iter().flat_map(|piece| piece.words.to_bytes());
        assert!(crossed.eq(words.to_bytes()), "a word was lost between two pieces");
        assert!(Routed::across(5, &words, None).all(|piece| piece.answer.is_none()));
    }

    #[test]
    fn lists_that_nobody_wrote_are_refused() {
        let word = |length: u8| [&[b'a'; 15][..], &[length]].concat();
        let list = |words: &[u8]| [&[0; 16][..], words].concat();
        assert!(Routed::read(&list(&word(15))).is_some());
        for bytes in [list(&word(16)), list(&word(255)), list(&[1; 15]), vec![0; 15]] {
            assert!(Routed::read(&bytes).is_none(), "{bytes:?}");
        }
        SentBlocks::new(2).release(2);
        assert!(super::super::take_malformed().is_some());
    }
}
