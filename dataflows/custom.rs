//! A program of your own: counts words by their length, with all the flags of `wordtide run`.
//!
//! ```text
//! cargo run --example custom -- --file README.md --to - --format tsv --min 3 -w 2
//! ```

use std::process::ExitCode;

use wordtide::cli::clap::{self, Parser};
use wordtide::cli::{JobFlags, parse, run_job};
use wordtide::operators::{Counts, Lines};

/// Counts words by their length, per batch interval.
#[derive(Parser)]
#[command(disable_help_flag = true)]
struct Flags {
    /// Shortest word that is counted
    #[arg(long, value_name = "BYTES", default_value_t = 1)]
    min: usize,
    #[command(flatten)]
    job: JobFlags,
}

fn word_lengths(min: usize) -> impl for<'s> Fn(Lines<'s>) -> Counts<'s> + Send + Sync + 'static {
    move |lines| {
        let lengths = move |line: &[u8], emit: &mut dyn FnMut(&[u8])| {
            let words = line.split(|byte| *byte == b' ').filter(|word| word.len() >= min);
            words.for_each(|word| emit(word.len().to_string().as_bytes()));
        };
        lines.keys(lengths).per_epoch().count()
    }
}

fn main() -> ExitCode {
    let Flags { min, job }: Flags = parse();
    run_job(job, |job| job.dataflow(format!("word_lengths min={min}"), word_lengths(min)))
}
