//! The whole program over a loopback socket, beside what it has to beat, with its counts checked.
//!
//! ```console
//! $ cargo bench --bench throughput                                   # small: does it work?
//! $ cargo bench --bench throughput -- --mib 256 --rounds 5           # figures
//! $ cargo bench --bench throughput -- --file my.log --threads 1,2,4 --processes 1,2
//! $ cargo bench --bench throughput -- --journal no,yes --threads 2   # what the journal costs
//! $ cargo bench --bench throughput -- --rate 5000000 --seconds 20 --threads 2   # latency
//! ```
//!
//! Each text is made from a seed (see `corpus`) or read from `--file`, served on a socket, and
//! counted by three programs in turn, so that all of them meet the machine in the same mood:
//!
//! * `wordtide`, the real binary, at each `--threads` and `--processes`;
//! * `reference`, one thread that does nothing but read, count in the same table, and write the
//!   table as often as epochs end: what a program without a dataflow can reach. `reference-sync`
//!   also makes each result durable, as `wordtide` does;
//! * `naive`, the obvious differential program, a `String` a word and `count()`, on the first
//!   `--naive-mib` of the text.
//!
//! Every run's output is read back and compared with counts made by the simplest code there is; a
//! wrong count ends the bench. COST (after McSherry, Isard and Murray) is the smallest number of
//! threads at which `wordtide` is faster than `reference-sync`.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks and keeps to them")]

#[path = "../corpus.rs"]
#[allow(dead_code, reason = "benches share it, and none uses all of it")]
mod corpus;
mod flags;
mod latency;
mod measure;
mod programs;
mod rows;
mod sender;
mod truth;

use std::error::Error;
use std::sync::Arc;

use corpus::Corpus;
use flags::Flags;
use measure::{Program, Run};
use rows::Report;
use truth::Truth;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, port, out, interval] = args.as_slice()
        && let Some(role) = role.strip_prefix("--role=")
    {
        return programs::play(role, port.parse()?, out, interval);
    }
    let flags = Flags::parse(args)?;
    let mut report = Report::create(&flags.out)?;
    for (name, text) in texts(&flags)? {
        let text = Arc::new(text);
        match flags.rate {
            Some(rate) => latency::run(&flags, &name, &text, rate, &mut report)?,
            None => throughput(&flags, &name, &text, &mut report)?,
        }
    }
    println!("rows are in {}", report.place());
    Ok(())
}

/// The texts to count, by name.
fn texts(flags: &Flags) -> Result<Vec<(String, Vec<u8>)>> {
    if let Some(file) = &flags.file {
        let mut text = std::fs::read(file)?;
        if text.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
        return Ok(vec![(file.display().to_string(), text)]);
    }
    let wanted = |corpus: &Corpus| flags.corpora.iter().any(|name| name == corpus.name());
    let make =
        |corpus: Corpus| (corpus.name().to_owned(), corpus.text(flags.mib << 20, flags.seed));
    Ok(Corpus::ALL.into_iter().filter(wanted).map(make).collect())
}

/// All programs on one text, `rounds` times in turn.
fn throughput(flags: &Flags, name: &str, text: &Arc<Vec<u8>>, report: &mut Report) -> Result<()> {
    let truth = Truth::of(text);
    println!(
        "{name}: {} MB, {} words, {} distinct",
        text.len() / 1_000_000,
        truth.words,
        truth.rows
    );
    let references = [false, true].map(|syncs| Program::Reference { syncs });
    let programs = references.into_iter().chain(flags.wordtides());
    let mut runs: Vec<(Program, Vec<Run>)> =
        programs.map(|program| (program, Vec::new())).collect();
    for _ in 0..flags.rounds {
        for (program, runs) in &mut runs {
            runs.push(measure::run(*program, text, &truth, flags)?);
        }
    }
    for (program, runs) in &runs {
        report.throughput(name, *program, flags, &truth, runs)?;
    }
    if flags.naive_mib > 0 {
        let beginning = Arc::new(first(text, flags.naive_mib << 20).to_vec());
        let truth = Truth::of(&beginning);
        let run = measure::run(Program::Naive, &beginning, &truth, flags)?;
        report.throughput(name, Program::Naive, flags, &truth, &[run])?;
    }
    cost(name, &runs);
    journal(name, &runs);
    Ok(())
}

/// Whole lines of at most so many bytes, from the beginning.
fn first(text: &[u8], bytes_max: usize) -> &[u8] {
    let end = text.len().min(bytes_max);
    let end = memchr::memrchr(b'\n', &text[..end]).map_or(text.len(), |last| last + 1);
    &text[..end]
}

/// Prints the smallest number of threads that beat the reference.
fn cost(name: &str, runs: &[(Program, Vec<Run>)]) {
    let rate = |runs: &[Run]| rows::median(runs.iter().map(Run::words_per_second));
    let durable = Program::Reference { syncs: true };
    let Some((_, reference)) = runs.iter().find(|(program, _)| *program == durable) else {
        return;
    };
    let to_beat = rate(reference);
    let beats = runs.iter().filter_map(|(program, runs)| match program {
        Program::Wordtide { threads, processes: 1, journal: false } if rate(runs) >= to_beat => {
            Some(*threads)
        }
        _ => None,
    });
    match beats.min() {
        Some(threads) => println!("COST of {name}: {threads}"),
        None => println!("COST of {name}: more than was tried"),
    }
}

/// Prints what is left of the speed with a journal: the middle of the rounds, and their range.
fn journal(name: &str, runs: &[(Program, Vec<Run>)]) {
    for (program, with) in runs {
        let Program::Wordtide { threads, processes, journal: true } = *program else { continue };
        let bare = Program::Wordtide { threads, processes, journal: false };
        let Some((_, without)) = runs.iter().find(|(program, _)| *program == bare) else {
            continue;
        };
        let mut ratios: Vec<f64> = (with.iter().zip(without))
            .map(|(with, without)| with.words_per_second() / without.words_per_second())
            .collect();
        ratios.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (ratios.first(), ratios.last()) else { continue };
        println!(
            "journal of {name}: {program} is {:.2} of {bare} ({least:.2} to {most:.2})",
            rows::median(ratios.iter().copied()),
        );
    }
}
