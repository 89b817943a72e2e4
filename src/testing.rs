//! Tests of definitions: lines in, rows out, on real workers, without a store or a clock.
//!
//! ```
//! use wordtide::dataflows::running_totals;
//! use wordtide::testing::run_on;
//!
//! let rows = run_on(2, running_totals::dataflow(None), &[&["a b a"], &[], &["b"]]);
//! assert_eq!(rows[0], [("a".to_owned(), 2), ("b".to_owned(), 1)]);
//! assert_eq!(rows[1], rows[0], "totals are published without lines, too");
//! assert_eq!(rows[2], [("a".to_owned(), 2), ("b".to_owned(), 2)]);
//! ```
//!
//! [`run_on`] and [`rows_on`] panic if the job would fail; [`publish`] returns the error. All of
//! them run the operators of a job, fed by the same queue that the sources of a job fill.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::feed::Feed;
use crate::lines::{BlockPool, LineLimits, LineSplitter};
use crate::meters::Meters;
use crate::operators::{
    self, Captured, ChangeBuffer, Context, Counts, DataflowSettings, Lines, ProcessRanges, Rows,
    Tallies,
};
use crate::words::WordOptions;
use crate::worker;

pub use crate::operators::CapturedRow;

/// The settings of a test run. A number of threads converts into one: `2.into()`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Worker threads.
    pub threads: usize,
    /// Parts of a result.
    pub parts: u32,
    /// Length of an epoch. The epochs of [`run_on`] and [`rows_on`] are its multiples, from one.
    pub interval: Duration,
    /// The rules by which lines become words.
    pub words: WordOptions,
    /// Table size in bytes above which a table is drained before its epoch ends.
    pub table_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            threads: 1,
            parts: 1,
            interval: Duration::from_secs(1),
            words: WordOptions::default(),
            table_bytes_max: 1 << 30,
        }
    }
}

impl From<usize> for Config {
    /// Makes settings with `threads` threads and as many parts, and epochs of one second.
    fn from(threads: usize) -> Config {
        Config { threads, parts: threads as u32, ..Config::default() }
    }
}

/// Runs a definition of counts over `epochs`, each a list of lines. Returns the rows of each epoch
/// that publishes a result, ascending by word.
///
/// # Panics
///
/// Panics with the error of the job if the job fails.
pub fn run_on<F>(
    config: impl Into<Config>,
    definition: F,
    epochs: &[&[&str]],
) -> Vec<Vec<(String, i64)>>
where
    F: for<'s> Fn(Lines<'s>) -> Counts<'s> + Send + Sync + 'static,
{
    let config = config.into();
    let published = literal(config, move |lines| Rows::from(definition(lines)), epochs);
    let counted = |row: CapturedRow| (text(&row), row.count.unwrap_or_default());
    let sorted = |rows: Vec<CapturedRow>| {
        let mut rows: Vec<_> = rows.into_iter().map(counted).collect();
        rows.sort();
        rows
    };
    published.into_values().map(sorted).collect()
}

/// Runs a definition of rows over `epochs`, each a list of lines. Returns the rows of each epoch as
/// text, `word TAB count` or a line, part by part in the order of publication.
///
/// # Panics
///
/// Panics with the error of the job if the job fails.
pub fn rows_on<F>(config: impl Into<Config>, definition: F, epochs: &[&[&str]]) -> Vec<Vec<String>>
where
    F: for<'s> Fn(Lines<'s>) -> Rows<'s> + Send + Sync + 'static,
{
    let published = literal(config.into(), definition, epochs);
    let shown = |row: &CapturedRow| match row.count {
        Some(count) => format!("{}\t{count}", text(row)),
        None => text(row),
    };
    published.into_values().map(|rows| rows.iter().map(shown).collect()).collect()
}

/// Returns the text of a row.
fn text(row: &CapturedRow) -> String {
    String::from_utf8_lossy(&row.text).into_owned()
}

/// Runs a definition on literal epochs.
fn literal<F>(
    config: Config,
    definition: F,
    epochs: &[&[&str]],
) -> BTreeMap<Epoch, Vec<CapturedRow>>
where
    F: for<'s> Fn(Lines<'s>) -> Rows<'s> + Send + Sync + 'static,
{
    let interval_ms = config.interval.as_millis() as u64;
    let bytes = |lines: &&[&str]| lines.iter().map(|line| line.as_bytes().to_vec()).collect();
    let named = epochs.iter().zip(1..).map(|(lines, k)| (k * interval_ms, bytes(lines)));
    match publish(config, definition, &named.collect::<Vec<_>>()) {
        Ok(published) => published,
        Err(error) => panic!("the definition failed: {error}"),
    }
}

/// Runs a definition over epochs with given times. Each epoch is a time, in ascending order, and
/// its lines without line ends. Returns the rows of each epoch that publishes a result, part by
/// part in their order.
///
/// All lines come from source 0, each in a block of its own, so that all workers get some.
///
/// # Errors
///
/// Returns the error with which the job would end.
pub fn publish<F>(
    config: Config,
    definition: F,
    epochs: &[(Epoch, Vec<Vec<u8>>)],
) -> Result<BTreeMap<Epoch, Vec<CapturedRow>>>
where
    F: for<'s> Fn(Lines<'s>) -> Rows<'s> + Send + Sync + 'static,
{
    let failure = Failure::new();
    let open = epochs.first().map_or(1, |(epoch, _)| *epoch);
    let feed = Feed::new(config.threads, open);
    let captured = Captured::default();
    let workers = start(&config, definition, feed.clone(), failure.clone(), Arc::clone(&captured))?;

    let limits = LineLimits::default();
    let mut splitter = LineSplitter::new(0, limits, BlockPool::default());
    for (index, (epoch, lines)) in epochs.iter().enumerate() {
        lines.iter().for_each(|line| give(&mut splitter, &feed, *epoch, line));
        let next = epochs.get(index + 1).map_or(epoch + 1, |(next, _)| *next);
        feed.cut(next);
        feed.complete(*epoch);
    }
    feed.end();
    for joined in workers.join() {
        if let Err(panic) = joined {
            failure.fail(Error::new(ErrorKind::Panicked, format!("a worker ended: {panic}")));
        }
    }
    match failure.take_cause() {
        Some(cause) => Err(cause),
        None => Ok(std::mem::take(&mut captured.lock().unwrap_or_else(|held| held.into_inner()))),
    }
}

/// Pushes one line into the feed, as a block of its own.
fn give(splitter: &mut LineSplitter, feed: &Feed, epoch: Epoch, line: &[u8]) {
    let mut rest = &[line, b"\n"].concat()[..];
    while !rest.is_empty() {
        splitter.ready_blocking();
        let spare = splitter.spare();
        let taken = rest.len().min(spare.len());
        spare[..taken].copy_from_slice(&rest[..taken]);
        splitter.filled(taken);
        rest = &rest[taken..];
    }
    if let Some(block) = splitter.take() {
        feed.push(epoch, block);
    }
}

/// Starts workers that run the definition and capture its rows.
fn start<F>(
    config: &Config,
    definition: F,
    feed: Feed,
    failure: Failure,
    captured: Captured,
) -> Result<timely::communication::WorkerGuards<()>>
where
    F: for<'s> Fn(Lines<'s>) -> Rows<'s> + Send + Sync + 'static,
{
    let (config, ranges) = (config.clone(), ProcessRanges::default());
    let build = timely::Config::process(config.threads);
    let run = move |worker: &mut timely::worker::Worker| {
        let context = std::rc::Rc::new(Context {
            index: worker.index(),
            peers: worker.peers(),
            dividing: 1,
            ranges: ranges.clone(),
            counting: Cell::default(),
            settings: DataflowSettings {
                threads: worker.peers(),
                owners: worker.peers(),
                parts: config.parts,
                interval_ms: config.interval.as_millis() as u64,
                words: config.words.clone(),
                table_bytes_max: config.table_bytes_max,
            },
            tallies: Tallies::default(),
            changes: ChangeBuffer::default(),
            failure: failure.clone(),
            meters: Meters::default(),
        });
        worker::live(worker, &failure, &|_| None, |worker| {
            let local = worker.index();
            worker.dataflow_named("test", |scope| {
                let lines = operators::read(scope, feed.clone(), local, context);
                operators::capture(definition(lines), Arc::clone(&captured));
            });
        });
    };
    timely::execute(build, run)
        .map_err(|why| Error::new(ErrorKind::Failed, format!("cannot start the workers: {why}")))
}
