//! Random lines, cuts, workers, parts and epochs: what is published is what the oracle counts.
//!
//! The real operators and workers run here in process, on literal epochs: the test owns the feed
//! and decides itself where an epoch ends, so no clock and no luck is involved.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use proptest::prelude::*;
use wordtide::dataflows::network_wordcount;
use wordtide::internals::cluster::{self, ClusterSettings};
use wordtide::internals::failure::Failure;
use wordtide::internals::feed::Feed;
use wordtide::internals::lines::{BlockPool, LineLimits, LineSplitter, StreamEnd};
use wordtide::internals::outputs::format::Format;
use wordtide::internals::outputs::{
    Committed, DurableEpochs, Encoding, Layout, ObjectForm, OutputHandle, Publication, Publisher,
    SyncRounds,
};
use wordtide::internals::store::PendingResults;
use wordtide::internals::words::{Split, WordOptions};
use wordtide::internals::worker::{self, Plan};
use wordtide::operators::{DataflowSettings, Lines, Rows};
use wordtide::settings::{EmptyEpochs, RowOrder};

use crate::oracle::{self, Counts};
use crate::store::memory::MemoryStore;

/// Names of epochs in these tests: 10, 20, 30, …
const STEP: u64 = 10;

/// One run: what is sent in which epoch, and how it is worked on.
#[derive(Clone, Debug)]
struct Run {
    /// The pieces of the stream that arrive in each epoch.
    epochs: Vec<Vec<Vec<u8>>>,
    threads: usize,
    parts: u32,
    split: Split,
    order: RowOrder,
    /// So small that a table is drained before its epoch ends, or so large that it is not.
    table_bytes_max: usize,
}

/// The result of a run.
struct Published {
    objects: BTreeMap<String, Vec<u8>>,
    committed: Vec<Committed>,
}

/// Runs real workers on literal epochs.
fn publish(run: &Run) -> Published {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build();
    let runtime = runtime.expect("a runtime");
    let (store, failure) = (MemoryStore::new(), Failure::new());
    let feed = Feed::new(run.threads, STEP);
    let committed: Arc<Mutex<Vec<Committed>>> = Arc::default();
    let seen = Arc::clone(&committed);
    let form =
        ObjectForm { layout: Layout::new("c", None), encoding: Encoding::new(Format::Tsv, None) };
    let publication = Publication {
        order: run.order,
        empty_epochs: EmptyEpochs::Write,
        job: "test".to_owned(),
        state: "test".to_owned(),
        started: 0,
    };
    let plan = Plan {
        definition: Arc::new(|lines: Lines<'_>| Rows::from(network_wordcount::dataflow(lines))),
        feed: feed.clone(),
        shares_host: true,
        ranges: Default::default(),
        settings: DataflowSettings {
            threads: run.threads,
            parts: run.parts,
            owners: run.threads,
            interval_ms: STEP,
            words: WordOptions { split: run.split, ..WordOptions::default() },
            table_bytes_max: run.table_bytes_max,
        },
        output: OutputHandle {
            writer: Arc::new(Publisher::new(
                form,
                publication,
                Arc::new(store.clone()),
                runtime.handle().clone(),
            )),
            results: PendingResults::unlimited(),
            meters: wordtide::internals::meters::Meters::default(),
            durable: DurableEpochs::all(),
            rounds: SyncRounds::none(),
            runtime: runtime.handle().clone(),
        },
        on_commit: Arc::new(move |one| {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(one);
        }),
        failure: failure.clone(),
        explain_panic: Arc::new(|_| None),
        tracer: None,
        memory: None,
        meters: wordtide::internals::meters::Meters::default(),
    };
    let alone = ClusterSettings { threads: run.threads, ..ClusterSettings::default() };
    let mut mesh = cluster::connect(&alone).expect("a process alone");
    let channels = mesh.allocators().expect("channels");
    let workers = worker::spawn(plan, channels).expect("workers");
    send(run, &feed);
    for joined in workers.join() {
        joined.expect("a worker that ends");
    }
    assert!(failure.take_cause().is_none(), "the job failed");
    let committed = std::mem::take(&mut *committed.lock().unwrap_or_else(PoisonError::into_inner));
    Published { objects: store.objects(), committed }
}

/// Puts the stream into the feed, epoch by epoch.
fn send(run: &Run, feed: &Feed) {
    let pool = BlockPool::new(1 << 20);
    let mut splitter = LineSplitter::new(0, LineLimits::default(), pool);
    let last = run.epochs.len() - 1;
    for (index, pieces) in run.epochs.iter().enumerate() {
        let open = (index as u64 + 1) * STEP;
        for piece in pieces {
            let mut rest = &piece[..];
            while !rest.is_empty() {
                splitter.ready_blocking();
                let room = splitter.spare();
                let bytes = room.len().min(rest.len());
                room[..bytes].copy_from_slice(&rest[..bytes]);
                splitter.filled(bytes);
                rest = &rest[bytes..];
                splitter.take().into_iter().for_each(|block| feed.push(open, block));
            }
        }
        if index == last {
            splitter.end(StreamEnd::Fin).into_iter().for_each(|block| feed.push(open, block));
        }
        let epoch = feed.cut((index as u64 + 2) * STEP);
        // A cut may become final late, when blocks of the next epoch are on their way already.
        if index % 2 == 1 || index == last {
            feed.complete(epoch);
        }
    }
    feed.end();
}

/// The lines that each epoch should hold: those that end in it, the unfinished last one in the
/// last.
fn expected(run: &Run) -> Vec<Counts> {
    let split = match run.split {
        Split::SpaceScala => oracle::words_scala,
        _ => oracle::words_python,
    };
    let (mut sent, mut before) = (Vec::new(), Counts::new());
    let mut epochs = Vec::new();
    for (index, pieces) in run.epochs.iter().enumerate() {
        sent.extend(pieces.concat());
        let whole = match index + 1 == run.epochs.len() {
            true => &sent[..],
            false => {
                &sent
                    [..sent.iter().rposition(|b| matches!(b, b'\n' | b'\r')).map_or(0, |at| at + 1)]
            }
        };
        let now = oracle::count(whole, split);
        let new = |(word, count): (&Vec<u8>, &u64)| {
            let more = count - before.get(word).copied().unwrap_or(0);
            (more > 0).then(|| (word.clone(), more))
        };
        epochs.push(now.iter().filter_map(new).collect());
        before = now;
    }
    epochs
}

/// The counts of one epoch, read from its parts; checks that each word is in its part, in order.
fn read(published: &Published, run: &Run, epoch: u64) -> Counts {
    let mut counts = Counts::new();
    for part in 0..run.parts {
        let object = &published.objects[&format!("c-{epoch}/part-{part:05}")];
        let mut last: Option<(u64, Vec<u8>)> = None;
        for row in object.split(|&byte| byte == b'\n').filter(|row| !row.is_empty()) {
            let at = row.iter().rposition(|&byte| byte == b'\t').expect("a TAB");
            let (word, count) = (row[..at].to_vec(), &row[at + 1..]);
            let hash = wordtide::internals::words::hash(&word);
            assert_eq!(
                wordtide::internals::words::part(hash, run.parts),
                part,
                "the part of a word"
            );
            let key = match run.order {
                RowOrder::Hash => (hash, word.clone()),
                RowOrder::Word => (0, word.clone()),
            };
            assert!(last.is_none_or(|last| last < key), "rows in order, each word once");
            last = Some(key);
            let count = std::str::from_utf8(count).ok().and_then(|text| text.parse().ok());
            counts.insert(word, count.expect("a count"));
        }
    }
    counts
}

fn check(run: &Run) {
    let published = publish(run);
    let names: Vec<u64> = (1..=run.epochs.len() as u64).map(|n| n * STEP).collect();
    let committed: Vec<u64> = published.committed.iter().map(|one| one.epoch).collect();
    assert_eq!(committed, names, "every epoch once, in order");
    for (epoch, counts) in names.iter().zip(expected(run)) {
        assert!(published.objects.contains_key(&format!("c-{epoch}/_SUCCESS")));
        assert_eq!(read(&published, run, *epoch), counts, "epoch {epoch}");
    }
    let files = run.epochs.len() * (run.parts as usize + 1);
    assert_eq!(published.objects.len(), files, "parts and markers, and nothing else");
    let lines: u64 = published.committed.iter().map(|one| one.tally.lines).sum();
    let sent: Vec<u8> = run.epochs.concat().concat();
    assert_eq!(lines, oracle::lines(&sent).len() as u64);
}

/// Text with many line ends, spaces and equal words, and now and then bytes that are no text.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        4 => "[a-d]{1,2}".prop_map(String::into_bytes),
        3 => Just(b" ".to_vec()),
        2 => prop_oneof![Just("\n"), Just("\r\n"), Just("\r")].prop_map(Vec::from),
        1 => "\\PC{0,3}".prop_map(String::into_bytes),
        1 => prop::collection::vec(0x80..=0xff_u8, 1..4),
    ];
    prop::collection::vec(token, 0..30).prop_map(|tokens| tokens.concat())
}

fn any_run() -> impl Strategy<Value = Run> {
    let epochs = prop::collection::vec(prop::collection::vec(piece(), 0..5), 1..6);
    let split = prop_oneof![Just(Split::Space), Just(Split::SpaceScala)];
    let order = prop_oneof![Just(RowOrder::Hash), Just(RowOrder::Word)];
    let table = prop_oneof![Just(1), Just(usize::MAX)];
    (epochs, 1..=4_usize, 1..=5_u32, split, order, table).prop_map(
        |(epochs, threads, parts, split, order, table_bytes_max)| Run {
            epochs,
            threads,
            parts,
            split,
            order,
            table_bytes_max,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_epoch_holds_what_the_oracle_counts(run in any_run()) {
        check(&run);
    }

    #[test]
    fn workers_and_read_sizes_change_no_byte(run in any_run()) {
        let whole = |run: &Run| {
            let mut objects = publish(run).objects;
            objects.retain(|key, _| !key.ends_with("_SUCCESS"));
            objects
        };
        let mut cut = run.clone();
        cut.threads = run.threads % 4 + 1;
        for pieces in &mut cut.epochs {
            *pieces = pieces.concat().chunks(3).map(<[u8]>::to_vec).collect();
        }
        prop_assert_eq!(whole(&run), whole(&cut));
    }
}
