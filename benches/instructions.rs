//! Instructions that the tokenizer and the table execute: a figure that does not depend on how busy
//! the machine is, so that two builds can be compared to a fraction of a percent.
//!
//! ```console
//! $ cargo bench --bench instructions        # prints the counts and keeps them
//! $ cargo bench --bench instructions        # after a change: prints the difference as well
//! ```
//!
//! Needs `valgrind`, whose callgrind counts; without it the bench prints that and ends with 0.
//! Counts are of the code alone: they know nothing of cache misses, which `cargo bench --bench
//! words` times.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;

use wordtide::internals::bench::Corpus;
use wordtide::internals::words::{
    PAD_BYTES, RangeLists, Ranges, Ranging, WordOptions, WordTable, each_word,
};

/// Bytes of each text.
const TEXT_BYTES: usize = 1 << 20;

/// Works on a padded text of this length.
type Work = fn(&[u8], usize);

/// The things that are counted, by name.
const WORKS: [(&str, Work); 4] = [
    ("split", measured_split),
    ("count_and_drain", measured_count),
    ("count_frequent", measured_frequent),
    ("ranges", measured_ranges),
];

#[inline(never)]
fn measured_split(padded: &[u8], text_len: usize) {
    each_word(padded, text_len, &WordOptions::default(), |hash, _| {
        black_box(hash);
    });
}

#[inline(never)]
fn measured_count(padded: &[u8], text_len: usize) {
    let mut table = WordTable::default();
    table.add_block(padded, text_len, &WordOptions::default());
    table.drain(|hash, _, count| {
        black_box((hash, count));
    });
}

/// Counts a text with the frequent words of the same text.
#[inline(never)]
fn measured_frequent(padded: &[u8], text_len: usize) {
    let mut table = WordTable::default();
    table.add_block(padded, text_len, &WordOptions::default());
    table.choose_frequent();
    table.add_block(padded, text_len, &WordOptions::default());
    black_box(table.len());
}

#[inline(never)]
fn measured_ranges(padded: &[u8], text_len: usize) {
    let ranging = Ranging::new(1);
    let (ranges, mut lists) = (Ranges::new(ranging, 0), RangeLists::new(ranging, 1));
    let mut to = &ranges;
    lists.add_block(padded, text_len, &WordOptions::default(), &mut to);
    lists.flush(&mut to);
    black_box(ranges.heap_bytes());
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, work, corpus] = args.as_slice()
        && flag == "--work"
    {
        return play(work, corpus);
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("valgrind is not installed: nothing was counted");
        return Ok(());
    }
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions.json");
    let before: BTreeMap<String, u64> = match std::fs::read(&kept) {
        Ok(json) => serde_json::from_slice(&json)?,
        Err(_) => BTreeMap::new(),
    };
    let mut counts = BTreeMap::new();
    for (work, _) in WORKS {
        for corpus in Corpus::ALL {
            let name = format!("{work}/{}", corpus.name());
            let count = counted(work, corpus.name())?;
            let change = before.get(&name).map_or(String::new(), |before| {
                format!(" {:+.2} %", (count as f64 / *before as f64 - 1.0) * 100.0)
            });
            println!("{name:32} {count:12} instructions{change}");
            counts.insert(name, count);
        }
    }
    std::fs::write(kept, serde_json::to_vec(&counts)?)?;
    Ok(())
}

/// Does the work once, under valgrind.
fn play(work: &str, corpus: &str) -> Result<(), Box<dyn Error>> {
    let (_, work) = WORKS.into_iter().find(|(name, _)| *name == work).ok_or("no such work")?;
    let corpus = Corpus::ALL.into_iter().find(|known| known.name() == corpus);
    let mut padded = corpus.ok_or("no such text")?.text(TEXT_BYTES, 1);
    let text_len = padded.len();
    padded.resize(text_len + PAD_BYTES, 0);
    work(&padded, text_len);
    Ok(())
}

/// Instructions of one piece of work.
fn counted(work: &str, corpus: &str) -> Result<u64, Box<dyn Error>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*measured_*")
        .arg(std::env::current_exe()?)
        .args(["--work", work, corpus])
        .output()?;
    let log = String::from_utf8_lossy(&output.stderr);
    let collected = log.lines().find_map(|line| line.split_once("Collected : "));
    let (_, count) = collected.ok_or_else(|| format!("callgrind counted nothing: {log}"))?;
    Ok(count.trim().parse()?)
}
