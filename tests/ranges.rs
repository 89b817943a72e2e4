//! Words that are listed by range: several workers, processes and epochs at a time, against a map.
//!
//! The real operators run here, as the workers of one or more processes; between processes all
//! messages pass through bytes. Listing begins with few words, so that little text is needed.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use timely::CommunicationConfig;
use timely::worker::Worker;
use wordtide::internals::failure::Failure;
use wordtide::internals::feed::Feed;
use wordtide::internals::lines::{BlockPool, LineLimits, LineSplitter};
use wordtide::internals::meters::{Meters, WorkerMeter};
use wordtide::internals::words::hash;
use wordtide::internals::worker;
use wordtide::operators::{
    self, Captured, ChangeBuffer, Context, DataflowSettings, Lines, ProcessRanges, Rows, Tallies,
};
use wordtide::{WordOptions, timely};

/// Number of distinct words in a table from which words are listed.
const LIST_WORDS_MIN: usize = 300;

/// Words in a block: more than begin a list, and more than fit into the least lists in an epoch.
const BLOCK_WORDS: usize = 6_000;

/// Blocks of one epoch that are counted at the same time.
const TURN_BLOCKS: usize = 3;

/// Epochs by name, in pairs that overlap.
const EPOCHS: [u64; 6] = [10, 20, 30, 40, 50, 60];

/// A run: its workers, and how they count.
#[derive(Clone, Copy, Debug)]
struct Shape {
    processes: usize,
    threads: usize,
    parts: u32,
    /// 0 drains after each block and each list; a large limit keeps ranges for the next epoch.
    table_bytes_max: usize,
    /// True if a definition computes the words.
    has_keys: bool,
    /// True if only the first process reads text.
    reads_in_one: bool,
}

/// The counts of each epoch, in the order of hashes.
type Published = BTreeMap<u64, Vec<(u32, u64, Vec<u8>, i64)>>;

/// Returns the text of a block: words of up to 7, of up to 15 and of more bytes, some often.
fn text(block: u64) -> Vec<u8> {
    let word = |number: u64| match number % 8 {
        0 => "often".to_owned(),
        1 => format!("eight888{}", number % 5_000),
        2 => format!("sixteen161616161{}", number % 900),
        _ => number.to_string(),
    };
    let numbers = (0..BLOCK_WORDS as u64).map(|n| (block * 1_000 + n) * 7_919 % 100_000);
    numbers
        .map(|number| word(number) + if number % 16 == 9 { "\n" } else { " " })
        .collect::<String>()
        .trim_end()
        .as_bytes()
        .to_vec()
}

/// Adds the words of a text to the counts of an epoch.
fn count(text: &[u8], counts: &mut BTreeMap<Vec<u8>, i64>) {
    for line in text.split(|byte| *byte == b'\n') {
        for word in line.strip_suffix(b" ").unwrap_or(line).split(|byte| *byte == b' ') {
            *counts.entry(word.to_vec()).or_default() += 1;
        }
    }
}

/// The processes of a run, all in this one.
struct Processes {
    shape: Shape,
    feeds: Vec<Feed>,
    ranges: Vec<ProcessRanges>,
    meters: Vec<Arc<WorkerMeter>>,
    captured: Captured,
    failure: Failure,
}

impl Processes {
    fn new(shape: Shape) -> Processes {
        let Shape { processes, threads, .. } = shape;
        let ranges = |_| ProcessRanges::listing_from(LIST_WORDS_MIN);
        Processes {
            shape,
            feeds: (0..processes).map(|_| Feed::new(threads, EPOCHS[0])).collect(),
            ranges: (0..processes).map(ranges).collect(),
            meters: (0..processes * threads).map(|_| Arc::default()).collect(),
            captured: Captured::default(),
            failure: Failure::new(),
        }
    }

    /// Starts all workers.
    fn start(&self) -> timely::communication::WorkerGuards<()> {
        let Shape { processes, threads, parts, table_bytes_max, has_keys, .. } = self.shape;
        let communication = match processes {
            1 => CommunicationConfig::Process(threads),
            _ => CommunicationConfig::ProcessBinary(processes * threads),
        };
        let config = timely::Config { communication, worker: Default::default() };
        let (feeds, ranges, meters) =
            (self.feeds.clone(), self.ranges.clone(), self.meters.clone());
        let (captured, failure) = (Arc::clone(&self.captured), self.failure.clone());
        let run = move |worker: &mut Worker| {
            let (index, peers) = (worker.index(), worker.peers());
            let context = Rc::new(Context {
                index,
                peers,
                dividing: processes,
                ranges: ranges[index / threads].clone(),
                counting: Cell::default(),
                settings: DataflowSettings {
                    threads,
                    owners: peers,
                    parts,
                    interval_ms: EPOCHS[0],
                    words: WordOptions::default(),
                    table_bytes_max,
                },
                tallies: Tallies::metered(Arc::clone(&meters[index])),
                changes: ChangeBuffer::default(),
                failure: failure.clone(),
                meters: Meters::default(),
            });
            let feed = feeds[index / threads].clone();
            worker::live(worker, &failure, &|_| None, |worker| {
                worker.dataflow_named("test", |scope| {
                    let lines = operators::read(scope, feed, index % threads, context);
                    operators::capture(rows(lines, has_keys), Arc::clone(&captured));
                });
            });
        };
        timely::execute(config, run).expect("workers")
    }

    /// Waits until so many words were counted or listed.
    fn wait_for(&self, words: u64) {
        while self.meters.iter().map(|meter| meter.words.get()).sum::<u64>() < words {
            assert!(!self.failure.is_failed(), "{:?}", self.failure.take_cause());
            std::thread::yield_now();
        }
    }

    /// Sends two epochs in turns, so that each worker meets both again and again, and completes
    /// them. Returns their counts.
    fn send(&self, epochs: &[u64; 2], sent: &mut u64) -> BTreeMap<u64, BTreeMap<Vec<u8>, i64>> {
        let pool = BlockPool::default();
        let mut splitter = LineSplitter::new(0, LineLimits::default(), pool);
        let mut expected: BTreeMap<u64, BTreeMap<Vec<u8>, i64>> = BTreeMap::new();
        for turn in 0..4 {
            let epoch = epochs[turn % 2];
            for block in 0..TURN_BLOCKS {
                let text = text(epoch * 100 + (turn * TURN_BLOCKS + block) as u64);
                let to = if self.shape.reads_in_one { 0 } else { block % self.feeds.len() };
                let mut rest = &[&text[..], b"\n"].concat()[..];
                while !rest.is_empty() {
                    splitter.ready_blocking();
                    let room = splitter.spare();
                    let bytes = room.len().min(rest.len());
                    room[..bytes].copy_from_slice(&rest[..bytes]);
                    splitter.filled(bytes);
                    rest = &rest[bytes..];
                    let blocks = splitter.take().into_iter();
                    blocks.for_each(|block| self.feeds[to].push(epoch, block));
                }
                count(&text, expected.entry(epoch).or_default());
            }
            *sent += (TURN_BLOCKS * BLOCK_WORDS) as u64;
            self.wait_for(*sent);
        }
        for feed in &self.feeds {
            epochs.iter().for_each(|epoch| _ = feed.cut(epoch + 10));
            feed.complete(epochs[1]);
        }
        expected
    }
}

/// The counts of each epoch.
fn rows(lines: Lines<'_>, has_keys: bool) -> Rows<'_> {
    let words = match has_keys {
        false => lines.words(),
        true => lines.keys(|line, emit| {
            let line = line.strip_suffix(b" ").unwrap_or(line);
            line.split(|byte| *byte == b' ').for_each(emit);
        }),
    };
    Rows::from(words.per_epoch().count())
}

fn check(shape: Shape) {
    let processes = Processes::new(shape);
    let workers = processes.start();
    let (mut expected, mut sent) = (BTreeMap::new(), 0);
    for epochs in EPOCHS.as_chunks::<2>().0 {
        expected.extend(processes.send(epochs, &mut sent));
    }
    processes.feeds.iter().for_each(Feed::end);
    workers.join().into_iter().for_each(|joined| joined.expect("a worker that ends"));
    assert!(processes.failure.take_cause().is_none(), "{shape:?}");

    let captured = std::mem::take(&mut *processes.captured.lock().expect("no panic"));
    let row = |row: operators::CapturedRow| {
        (row.part, hash(&row.text), row.text, row.count.expect("a count"))
    };
    let published: Published = captured
        .into_iter()
        .map(|(epoch, rows)| (epoch, rows.into_iter().map(row).collect()))
        .collect();
    assert!(published.keys().eq(&EPOCHS));
    for (epoch, rows) in published {
        assert!(rows.is_sorted_by(|one, other| one < other), "order of {epoch} with {shape:?}");
        let counts: BTreeMap<_, _> =
            rows.into_iter().map(|(_, _, word, count)| (word, count)).collect();
        assert!(counts == expected[&epoch], "counts of {epoch} with {shape:?}");
    }
    for ranges in &processes.ranges {
        assert_eq!(ranges.opened(), EPOCHS.len() as u64, "epochs by ranges with {shape:?}");
    }
}

const SHAPE: Shape = Shape {
    processes: 1,
    threads: 3,
    parts: 3,
    table_bytes_max: 1 << 30,
    has_keys: false,
    reads_in_one: false,
};

#[test]
fn workers_share_ranges_of_overlapping_epochs() {
    for (threads, parts, has_keys) in [(1, 1, false), (3, 3, false), (3, 5, true)] {
        check(Shape { threads, parts, has_keys, ..SHAPE });
    }
}

#[test]
fn large_ranges_leave_before_their_epoch_ends() {
    check(Shape { table_bytes_max: 0, ..SHAPE });
    check(Shape { table_bytes_max: 0, processes: 2, reads_in_one: true, ..SHAPE });
}

#[test]
fn processes_divide_words_of_overlapping_epochs() {
    for (processes, reads_in_one) in [(2, false), (2, true), (3, true)] {
        check(Shape { processes, threads: 2, parts: 7, reads_in_one, ..SHAPE });
    }
}
