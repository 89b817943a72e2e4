//! Counting by ranges: words that are listed before they are counted.
//!
//! If the words of an epoch are many and hardly repeat, each worker's table would hold nearly all
//! of them: as much memory and as many cache misses as there are workers, and then the runs have to
//! be added up. So [`count_words`](super::count_words) compares the number of words with the number
//! of distinct words. If they are close, it lists the words of the rest of the epoch by ranges of
//! their hash. A full list is counted at once, in the [`Ranges`](crate::words::Ranges) that the
//! workers of the process share. At the end of the epoch this operator drains an equal share of
//! them in each worker. With one part per worker, as is usual, the words of a share are owned by
//! the worker that drains it.
//!
//! Processes of one host share the words in the same way: each has the ranges of a part of the
//! hashes, and whole lists are sent to the process that has their range. Words never leave the host
//! uncounted: the network costs more than memory.
//!
//! The memory of lists is bounded, and a list to another process is answered when it is counted. If
//! too many are not answered, the blocks that are read meanwhile keep their permits of the
//! [`BlockPool`](crate::lines::BlockPool) ([`Unanswered`]), and so hold the source back.

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
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{Operator, OutputBuilder};
use timely::progress::Stamp;

use super::context::Context;
use super::epoch_table::{RangeShare, send_if_large, send_runs};
use super::malformed_data::malformed;
use super::open_ranges::OpenRanges;
use super::run::Run;
use crate::epoch::Epoch;
use crate::lines::Block;
use crate::words::is_sound;

/// A list of words for another process, or the notice that words of an epoch are listed.
#[derive(Clone, Debug, Default)]
pub struct ListedRange {
    /// Index of the worker that receives this.
    worker: u64,
    /// Index of the worker that waits for an answer when the words are counted.
    answer: u64,
    /// Index of the range of the words.
    range: u64,
    /// The words; none in a notice.
    words: Vec<u64>,
}

impl ListedRange {
    /// Bytes before the words.
    const HEAD_BYTES: usize = 24;

    /// Makes the notice that lets `worker` drain its share of the ranges at the end of the epoch.
    pub fn notice(worker: usize) -> ListedRange {
        ListedRange { worker: worker as u64, ..ListedRange::default() }
    }

    /// Makes a list for a worker of another process. `answer` is the worker that sends it.
    pub fn list(worker: usize, answer: usize, range: usize, words: &[u64]) -> ListedRange {
        let [worker, answer, range] = [worker as u64, answer as u64, range as u64];
        ListedRange { worker, answer, range, words: words.to_vec() }
    }

    /// Reads what [`ContainerBytes::into_bytes`] wrote. Returns `None` for other bytes.
    fn read(bytes: &[u8]) -> Option<ListedRange> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let mut numbers = numbers.iter().map(|number| u64::from_le_bytes(*number));
        let (worker, answer, range) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let words: Vec<u64> = numbers.collect();
        rest.is_empty().then_some(ListedRange { worker, answer, range, words })
    }
}

impl Accountable for ListedRange {
    fn record_count(&self) -> i64 {
        // A notice counts, too: what counts as empty is not sent.
        1 + self.words.len() as i64
    }
}

impl ContainerBytes for ListedRange {
    fn from_bytes(bytes: Bytes) -> Self {
        ListedRange::read(&bytes).unwrap_or_else(|| malformed("a list of words"))
    }

    fn length_in_bytes(&self) -> usize {
        ListedRange::HEAD_BYTES + size_of_val(&*self.words)
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        let mut put = |number: u64| {
            // Timely provides a buffer of `length_in_bytes`; it is too short only by a defect here.
            writer.write_all(&number.to_le_bytes()).expect("words fit into their length");
        };
        [self.worker, self.answer, self.range].into_iter().for_each(&mut put);
        self.words.iter().copied().for_each(put);
    }
}

/// Lists that were sent to other processes, and the blocks that wait for answers. Clones share
/// them.
#[derive(Clone, Debug, Default)]
pub struct Unanswered(Rc<RefCell<Sent>>);

/// Numbers of lists, and blocks with the number that was sent before each.
#[derive(Debug, Default)]
struct Sent {
    sent: u64,
    answered: u64,
    held: VecDeque<(u64, Block)>,
}

impl Unanswered {
    /// Number of lists without an answer from which blocks keep their permits: 15 MiB a worker.
    const LISTS_MAX: u64 = 64;

    /// Notes that a list was sent.
    pub fn sent(&self) {
        self.0.borrow_mut().sent += 1;
    }

    /// Keeps a block whose words were listed, if too many lists are not answered.
    pub fn hold(&self, block: &Block) {
        let mut lists = self.0.borrow_mut();
        let sent = lists.sent;
        if sent > lists.answered + Unanswered::LISTS_MAX {
            lists.held.push_back((sent, block.clone()));
        }
    }

    /// Notes an answer, and drops blocks that need not wait any longer.
    fn answered(&self) {
        let mut lists = self.0.borrow_mut();
        lists.answered += 1;
        let limit = lists.answered + Unanswered::LISTS_MAX;
        while lists.held.front().is_some_and(|(sent, _)| *sent <= limit) {
            lists.held.pop_front();
        }
    }
}

/// Sends each list, whole, to the worker that it names.
struct ToWorker;

impl Distributor<ListedRange> for ToWorker {
    fn partition<T: Clone, P: Push<Message<T, ListedRange>>>(
        &mut self,
        list: &mut ListedRange,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        let worker = list.worker as usize;
        Message::push_at(list, stamp.clone(), &mut pushers[worker]);
    }

    fn flush<T: Clone, P: Push<Message<T, ListedRange>>>(&mut self, _: &Stamp<T>, _: &mut [P]) {}
}

/// Counts the lists of other processes and answers them, and drains this worker's share of the
/// ranges at the end of each epoch.
pub fn drain<'s>(
    lists: Stream<'s, Epoch, ListedRange>,
    open: OpenRanges,
    unanswered: Unanswered,
    context: Rc<Context>,
) -> Stream<'s, Epoch, Run> {
    let mut builder = OperatorBuilder::new("Count ranges".to_owned(), lists.scope());
    let mut input = builder.new_input(lists, DistributorPact(|_peers| ToWorker));
    let (run_output, runs) = builder.new_output();
    let (answer_output, answers) = builder.new_output();
    let mut run_output = OutputBuilder::<_, NoopBuilder<Run>>::from(run_output);
    let mut answer_output = OutputBuilder::<_, AnswerBuilder>::from(answer_output);
    take_answers(answers, unanswered);

    builder.build(move |capabilities| {
        drop(capabilities);
        let mut noticed: BTreeMap<Epoch, Capability<Epoch>> = BTreeMap::new();
        move |frontiers| {
            let (mut runs, mut answers) = (run_output.activate(), answer_output.activate());
            input.for_each(|capability, list| {
                let Some(to_runs) = capability.retain_least(0) else { return };
                let epoch = *to_runs.time();
                let to_runs = noticed.entry(epoch).or_insert(to_runs);
                let ListedRange { answer, range, words, .. } = std::mem::take(list);
                if words.is_empty() {
                    return;
                }
                let (ranges, _) = open.open(epoch);
                let range = range as usize;
                if !ranges.has(range) || !is_sound(&words, |hash| ranges.range(hash) == range) {
                    return malformed("a list of words");
                }
                ranges.count(range, &words);
                // Perhaps only other processes fill them, and no block is counted here.
                send_if_large(&ranges, to_runs, &context, &mut runs);
                if let Some(right) = capability.retain_least(1) {
                    answers.session_with_builder(&right).give(answer);
                }
            });
            while let Some(first) = noticed.first_entry() {
                if frontiers[0].less_equal(first.key()) {
                    break;
                }
                let (epoch, to_runs) = first.remove_entry();
                let Some(ranges) = open.get(epoch) else { continue };
                let share = RangeShare::of_worker(&ranges, &context);
                send_runs(share, &to_runs, &context, &mut runs);
                drop(ranges);
                open.drained(epoch);
            }
            open.pass(frontiers[0].frontier().first());
        }
    });
    runs
}

type AnswerBuilder = CapacityContainerBuilder<Vec<u64>>;

/// Takes the answers to the lists of this worker. An answer is the index of the worker that sent
/// the list.
fn take_answers(answers: Stream<'_, Epoch, Vec<u64>>, unanswered: Unanswered) {
    let to_sender = Exchange::new(|to: &u64| *to);
    answers.sink(to_sender, "Take answers", move |(input, _)| {
        input.for_each(|_, answers| {
            answers.drain(..).for_each(|_| unanswered.answered());
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::{Ranging, WordOptions, hash};

    #[test]
    fn list_round_trips_through_bytes() {
        let words = [(0x81 << 56) | u64::from(b'a'), 8 << 56, 77];
        for list in [ListedRange::notice(3), ListedRange::list(3, 7, 200, &words)] {
            let mut bytes = Vec::new();
            list.into_bytes(&mut bytes);
            assert_eq!(bytes.len(), list.length_in_bytes());
            let mut shared = timely::bytes::arc::BytesMut::from(bytes).freeze();
            let all = shared.len();
            let back = ListedRange::from_bytes(shared.extract_to(all));
            assert_eq!((back.worker, back.answer, back.range), (3, list.answer, list.range));
            assert_eq!(back.words, list.words);
            assert_eq!(back.record_count(), list.record_count());
        }
    }

    #[test]
    fn lists_that_nobody_wrote_are_refused() {
        let head = [0; ListedRange::HEAD_BYTES];
        assert!(ListedRange::read(&head).is_some());
        assert!(ListedRange::read(&[&head[..], &[1]].concat()).is_none());
        assert!(ListedRange::read(&head[1..]).is_none());
    }

    #[test]
    fn blocks_wait_while_answers_are_missing() {
        let block = Block::from_text(b"tide\n");
        let unanswered = Unanswered::default();
        let held = || unanswered.0.borrow().held.len();
        (0..Unanswered::LISTS_MAX).for_each(|_| unanswered.sent());
        unanswered.hold(&block);
        assert_eq!(held(), 0);
        for expected in 1..=3 {
            unanswered.sent();
            unanswered.hold(&block);
            assert_eq!(held(), expected);
        }
        for expected in [2, 1, 0] {
            unanswered.answered();
            assert_eq!(held(), expected);
        }
    }

    #[test]
    fn whole_list_fits_quarter_of_send_buffer() {
        struct Lengths(usize);
        impl crate::words::ListedWords for Lengths {
            fn count(&mut self, range: usize, list: &[u64]) -> usize {
                let message = ListedRange::list(1, 0, range, list);
                self.0 = self.0.max(message.length_in_bytes());
                1 << 20
            }
            fn add_word(&mut self, _: u64, word: &[u8], _: u64) {
                panic!("{word:?}");
            }
        }
        let mut lists = crate::words::RangeLists::new(Ranging::new(2), 1);
        let mut lengths = Lengths(0);
        let text = [b"tide fifteen15151515 ".repeat(70_000), vec![0; 64]].concat();
        let options = WordOptions::default();
        lists.add_block(&text, text.len() - 64, &options, &mut lengths);
        assert!(hash(b"tide") >> 56 != hash(b"fifteen15151515") >> 56);
        assert!(lengths.0 > 200 << 10 && lengths.0 <= 250 << 10, "{} bytes", lengths.0);
    }
}
