//! Words a second of the tokenizer, and of the table with its drain, on three generated texts.
//!
//! `cargo bench --bench words`; `MIB=64` sets the size of each text (the default is 32 MiB).

#[allow(dead_code, reason = "benches share it, and none uses all of it")]
mod corpus;

use corpus::Corpus;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use wordtide::words::{Counted, PAD_BYTES, WordOptions, WordTable, each_word};

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
                let mut table = WordTable::new(1);
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

criterion_group!(benches, words);
criterion_main!(benches);
