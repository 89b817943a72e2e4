//! Words a second of each part between the socket and the store, on three generated texts: lines
//! out of bytes, words out of lines, the table with its drain, words counted by ranges, two runs
//! added up, rows out of a run.
//!
//! `cargo bench --bench words`; `MIB=64` sets the size of each text (the default is 32 MiB).

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use wordtide::internals::bench::Corpus;
use wordtide::internals::lines::{BlockPool, LineLimits, LineSplitter};
use wordtide::internals::outputs::format::{Format, append_rows};
use wordtide::internals::words::{
    Counted, PAD_BYTES, RangeLists, Ranges, Ranging, WordOptions, WordTable, each_word,
};
use wordtide::operators::{Run, WordColumn, keep_run};

/// The text of a block, at most.
const BLOCK_BYTES: usize = 256 << 10;

/// `text` as blocks of whole lines with their padding, and the length of each one's text.
fn blocks(mut text: &[u8]) -> Vec<(Vec<u8>, usize)> {
    let mut blocks = Vec::new();
    while !text.is_empty() {
        let limit = text.len().min(BLOCK_BYTES);
        let end = memchr::memrchr(b'\n', &text[..limit]).map_or(limit, |end| end + 1);
        let (block, rest) = text.split_at(end);
        blocks.push(([block, &[0; PAD_BYTES]].concat(), end));
        text = rest;
    }
    blocks
}

fn words(criterion: &mut Criterion) {
    let mib = std::env::var("MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(32_usize);
    let options = WordOptions::default();
    let mut group = criterion.benchmark_group("words");
    group.sample_size(10);
    for corpus in Corpus::ALL {
        let blocks = blocks(&corpus.text(mib << 20, 1));
        let split = || {
            let mut counted = Counted::default();
            for (padded, text_len) in &blocks {
                counted += each_word(padded, *text_len, &options, |hash, _| {
                    black_box(hash);
                });
            }
            counted
        };
        group.throughput(Throughput::Elements(split().words));
        group.bench_function(BenchmarkId::new("split", corpus.name()), |b| b.iter(split));
        group.bench_function(BenchmarkId::new("count", corpus.name()), |b| {
            b.iter(|| {
                let mut table = WordTable::default();
                for (padded, text_len) in &blocks {
                    table.add_block(padded, *text_len, &options);
                }
                let mut words = 0;
                table.drain(|_, _, count| words += count);
                words
            });
        });
    }
    group.finish();
}

/// The counts of `blocks` as a run.
fn run(blocks: &[(Vec<u8>, usize)]) -> Run {
    let mut table = WordTable::default();
    for (padded, text_len) in blocks {
        table.add_block(padded, *text_len, &WordOptions::default());
    }
    let mut run = Run::new(1, 0, WordColumn::with_room(table.len(), 8 * table.len()));
    table.drain(|hash, word, count| run.push(hash, word, count as i64));
    run
}

fn parts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parts");
    group.sample_size(10);
    for corpus in Corpus::ALL {
        let text = corpus.text(8 << 20, 1);
        let (blocks, options) = (blocks(&text), WordOptions::default());
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(BenchmarkId::new("lines", corpus.name()), |b| b.iter(|| lines(&text)));
        group.bench_function(BenchmarkId::new("ranges", corpus.name()), |b| {
            b.iter(|| {
                let ranging = Ranging::new(1);
                let (ranges, mut lists) = (Ranges::new(ranging, 0), RangeLists::new(ranging, 1));
                for (padded, text_len) in &blocks {
                    lists.add_block(padded, *text_len, &options, &mut &ranges);
                }
                lists.flush(&mut &ranges);
                ranges.heap_bytes()
            });
        });
        let (front, back) = blocks.split_at(blocks.len() / 2);
        let (front, back) = (run(front), run(back));
        group.throughput(Throughput::Elements((front.len() + back.len()) as u64));
        group.bench_function(BenchmarkId::new("merge", corpus.name()), |b| {
            // As the program does, which keeps memory of up to 4 MiB.
            b.iter(|| keep_run(front.merge(&back)));
        });
        group.throughput(Throughput::Elements(front.len() as u64));
        group.bench_function(BenchmarkId::new("encode", corpus.name()), |b| {
            let form = Format::Python.plain_form().expect("a text");
            let mut rows = Vec::new();
            b.iter(|| {
                rows.clear();
                let all = (0, front.len());
                append_rows((Format::Python, &form), &front, all, usize::MAX, &mut rows);
                rows.len()
            });
        });
    }
    group.finish();
}

/// Bytes of blocks that a splitter makes of `text`.
fn lines(mut text: &[u8]) -> usize {
    let mut splitter = LineSplitter::new(0, LineLimits::default(), BlockPool::new(8 << 20));
    let mut bytes = 0;
    while !text.is_empty() {
        splitter.ready_blocking();
        let room = splitter.spare();
        let some = room.len().min(text.len());
        room[..some].copy_from_slice(&text[..some]);
        splitter.filled(some);
        text = &text[some..];
        bytes += splitter.take().into_iter().map(|block| block.text().len()).sum::<usize>();
    }
    bytes
}

criterion_group!(benches, words, parts);
criterion_main!(benches);
