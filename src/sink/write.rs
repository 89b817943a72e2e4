//! The operator that encodes and stores the parts of its worker.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

use super::completions::Completions;
use super::memory::Keeper;
use super::publish::{Publication, Publisher};
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::operators::{Context, EpochRows, Grid, Row, Rows, Tally};
use crate::settings::RowOrder;
use crate::store::{Body, BodyWriter};
use crate::supervise::supervise;
use crate::words;

/// Encoded rows are kept in chunks of this size, so that no part is ever one allocation.
const CHUNK_BYTES: usize = 256 << 10;

/// What one worker has stored of one epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The epoch.
    pub epoch: Epoch,
    /// What the worker read and counted in it.
    pub tally: Tally,
    /// The parts it stored: those it owns that have rows.
    pub parts: Vec<PartReport>,
    /// Whether the epoch publishes a result: not if no window ends with it.
    pub publishes: bool,
    /// From the completion of the epoch here until all parts were durable.
    pub write_ms: u64,
}

/// One stored part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartReport {
    /// Its number.
    pub part: u32,
    /// Rows in it.
    pub rows: u64,
    /// Its length.
    pub bytes: u64,
    /// MD5 of its bytes in hexadecimal digits.
    pub md5: String,
}

/// A part on its way into the store.
struct Encoded {
    part: u32,
    rows: u64,
    body: Body,
}

/// Stores the rows of every ticked epoch, and beside them what counts with memory received in it;
/// reports what it stored once that is durable.
///
/// Only ticked epochs are written. Rows at other times (the retraction of a window that ends where
/// no epoch ever began) are dropped with the time.
pub fn write_parts<'s>(
    rows: Rows<'s>,
    publisher: Publisher,
    keeper: Option<Keeper>,
    failure: Failure,
) -> Stream<'s, Epoch, Vec<Report>> {
    let Rows { stream, ticks, context, grid } = rows;
    let scope = stream.scope();
    stream.binary_frontier::<_, CapacityContainerBuilder<Vec<Report>>, _, _, _, _>(
        ticks,
        Pipeline,
        Pipeline,
        "Write parts",
        move |_capability, info| {
            let activator = scope.worker().sync_activator_for(info.address.to_vec());
            let mut writer = Writer {
                open: BTreeMap::new(),
                ticked: BTreeMap::new(),
                writing: BTreeMap::new(),
                completions: Completions::new(activator),
                publisher,
                keeper,
                failure,
                context,
                grid,
            };
            move |(rows, rows_frontier), (ticks, ticks_frontier), output| {
                rows.for_each(|_, rows| {
                    for rows in rows.drain(..) {
                        writer.open.entry(rows.epoch).or_default().push(rows);
                    }
                });
                ticks.for_each(|capability, ticks| {
                    let Some(capability) = capability.retain_least(0) else { return };
                    for epoch in ticks.drain(..) {
                        writer.ticked.insert(epoch, capability.clone());
                    }
                });
                while let Some(first) = writer.ticked.first_entry() {
                    let epoch = *first.key();
                    if rows_frontier.less_equal(&epoch) || ticks_frontier.less_equal(&epoch) {
                        break;
                    }
                    let capability = first.remove();
                    writer.start(epoch, capability);
                }
                for report in writer.completions.take() {
                    if let Some(capability) = writer.writing.remove(&report.epoch) {
                        output.session(&capability).give(report);
                    }
                }
            }
        },
    )
}

struct Writer {
    /// Rows of epochs that are not complete yet.
    open: BTreeMap<Epoch, Vec<EpochRows>>,
    /// Epochs that will be written, with the right to report them.
    ticked: BTreeMap<Epoch, Capability<Epoch>>,
    /// Epochs whose parts are being stored. Their capability is given up for durable parts only.
    writing: BTreeMap<Epoch, Capability<Epoch>>,
    completions: Completions<Report>,
    publisher: Publisher,
    /// Keeps what counts with memory received; none where nothing survives the run.
    keeper: Option<Keeper>,
    failure: Failure,
    context: Rc<Context>,
    grid: Grid,
}

impl Writer {
    /// Encodes the parts of a complete epoch and starts storing them.
    fn start(&mut self, epoch: Epoch, capability: Capability<Epoch>) {
        self.writing.insert(epoch, capability);
        let started = Instant::now();
        let later = self.open.split_off(&(epoch + 1));
        let rows = std::mem::replace(&mut self.open, later).remove(&epoch).unwrap_or_default();
        let parts = match encode(&rows, &self.publisher, self.context.parts) {
            Ok(parts) => parts,
            Err(error) => return self.failure.fail(error),
        };
        self.publisher.results().encoded(epoch, self.context.threads);
        let tally = self.context.tallies.take(epoch);
        let (publisher, completions) = (self.publisher.clone(), self.completions.clone());
        let publishes = self.grid.contains(epoch);
        let (keeper, changes) = (self.keeper.clone(), self.context.memory.take(epoch));
        let keep = async move {
            match keeper {
                Some(keeper) => keeper.keep(changes).await,
                None => Ok(()),
            }
        };
        let write = async move {
            let (parts, ()) = futures::try_join!(store(&publisher, epoch, parts), keep)?;
            let write_ms = started.elapsed().as_millis() as u64;
            completions.complete(Report { epoch, tally, parts, publishes, write_ms });
            Ok(())
        };
        supervise(&self.failure, self.publisher.runtime(), "write", write);
    }
}

/// Stores parts side by side.
async fn store(
    publisher: &Publisher,
    epoch: Epoch,
    parts: Vec<Encoded>,
) -> Result<Vec<PartReport>> {
    let layout = &publisher.publication.layout;
    let puts = parts.into_iter().map(|Encoded { part, rows, body }| async move {
        let stored = publisher.create(epoch, &layout.part(epoch, part), body).await?;
        Ok(PartReport { part, rows, bytes: stored.bytes, md5: stored.md5 })
    });
    futures::future::try_join_all(puts).await
}

/// The parts that have rows, ascending.
fn encode(sets: &[EpochRows], publisher: &Publisher, parts: u32) -> Result<Vec<Encoded>> {
    let mut encoder = Encoder { publisher, open: BTreeMap::new(), error: None };
    for set in sets {
        set.rows.for_each(&mut |row| encoder.row(row, parts));
    }
    match encoder.error {
        Some(error) => Err(error),
        None => {
            let publication = &publisher.publication;
            Ok(encoder.open.into_iter().map(|(part, open)| open.close(part, publication)).collect())
        }
    }
}

struct Encoder<'a> {
    publisher: &'a Publisher,
    open: BTreeMap<u32, OpenPart>,
    error: Option<Error>,
}

/// A part whose rows are still coming.
struct OpenPart {
    body: BodyWriter,
    chunk: Vec<u8>,
    rows: u64,
    /// Rows that wait to be sorted by word.
    unsorted: Vec<(Box<[u8]>, i64)>,
}

impl Encoder<'_> {
    fn row(&mut self, row: Row<'_>, parts: u32) {
        match row {
            Row::Count { hash, word, count } => {
                self.refuse_negative(word, count);
                let publication = &self.publisher.publication;
                let open = self.open(words::part(hash, parts));
                match publication.order {
                    RowOrder::Hash => open.encode(word, count, publication),
                    RowOrder::Word => open.unsorted.push((word.into(), count)),
                }
            }
            Row::Ranked { word, count } => {
                self.refuse_negative(word, count);
                let publication = &self.publisher.publication;
                self.open(0).encode(word, count, publication);
            }
            Row::Line { part, line } => self.open(part).line(line),
        }
    }

    fn open(&mut self, part: u32) -> &mut OpenPart {
        let open = self.open.entry(part).or_insert_with(|| OpenPart {
            body: BodyWriter::new(self.publisher.runtime().clone()),
            chunk: Vec::new(),
            rows: 0,
            unsorted: Vec::new(),
        });
        open.rows += 1;
        open
    }

    fn refuse_negative(&mut self, word: &[u8], count: i64) {
        if count < 0 && self.error.is_none() {
            self.error = Some(negative(word, count));
        }
    }
}

fn negative(word: &[u8], count: i64) -> Error {
    let word = String::from_utf8_lossy(word);
    let message = format!("the result holds the row {word:?} {count} times");
    Error::new(ErrorKind::Failed, message)
        .hint("the dataflow definition retracts what it never inserted: correct it")
}

impl OpenPart {
    fn encode(&mut self, word: &[u8], count: i64, publication: &Publication) {
        publication.format.row(word, count, &mut self.chunk);
        self.keep_chunks_small();
    }

    /// A line is raw bytes in every format.
    fn line(&mut self, line: &[u8]) {
        self.chunk.extend_from_slice(line);
        self.chunk.push(b'\n');
        self.keep_chunks_small();
    }

    fn keep_chunks_small(&mut self) {
        if self.chunk.len() >= CHUNK_BYTES {
            let full = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES + 4096));
            self.body.push(full.into());
        }
    }

    fn close(mut self, part: u32, publication: &Publication) -> Encoded {
        let mut unsorted = std::mem::take(&mut self.unsorted);
        unsorted.sort_unstable();
        unsorted.iter().for_each(|(word, count)| self.encode(word, *count, publication));
        self.body.push(self.chunk.into());
        Encoded { part, rows: self.rows, body: self.body.finish() }
    }
}
