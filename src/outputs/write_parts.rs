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

use super::changelog::Changelog;
use super::completions::Completions;
use super::objects::{Publication, Publisher};
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::operators::{Context, EpochRows, Grid, Row, Rows, Tally};
use crate::settings::RowOrder;
use crate::store::{Body, BodyWriter};
use crate::supervise::supervise;
use crate::words;

/// The length of the chunks of encoded rows. A part is never one allocation.
const CHUNK_BYTES: usize = 256 << 10;

/// The report of one worker on the parts of one epoch that it has stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The epoch.
    pub epoch: Epoch,
    /// Lines and words that the worker read and counted in it.
    pub tally: Tally,
    /// The stored parts: the parts of the worker that have rows.
    pub parts: Vec<PartReport>,
    /// False if the epoch publishes no result, because no window ends with it.
    pub publishes: bool,
    /// Milliseconds from the completion of the epoch at the worker until all parts were durable.
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

/// A part that is not stored yet.
struct Encoded {
    part: u32,
    rows: u64,
    body: Body,
}

/// Stores the rows of every ticked epoch and its changes of totals and windows. Sends a [`Report`]
/// when all of them are durable.
///
/// Only ticked epochs are written. Rows at other times are dropped; an example is the retraction of
/// a window that ends at a time without an epoch.
pub fn write_parts<'s>(
    rows: Rows<'s>,
    publisher: Publisher,
    changelog: Option<Changelog>,
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
                changelog,
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

/// The state of the operator.
struct Writer {
    /// Rows of epochs that are not complete yet.
    open: BTreeMap<Epoch, Vec<EpochRows>>,
    /// Epochs that will be written, with the capability for their reports.
    ticked: BTreeMap<Epoch, Capability<Epoch>>,
    /// Epochs whose parts are being stored. A capability is dropped after its parts are durable.
    writing: BTreeMap<Epoch, Capability<Epoch>>,
    completions: Completions<Report>,
    publisher: Publisher,
    /// Stores the changes of totals and windows. `None` in a job without state.
    changelog: Option<Changelog>,
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
        let (changelog, changes) = (self.changelog.clone(), self.context.changes.take(epoch));
        let store_changes = async move {
            match changelog {
                Some(changelog) => changelog.store(changes).await,
                None => Ok(()),
            }
        };
        let write = async move {
            let (parts, ()) = futures::try_join!(store(&publisher, epoch, parts), store_changes)?;
            let write_ms = started.elapsed().as_millis() as u64;
            completions.complete(Report { epoch, tally, parts, publishes, write_ms });
            Ok(())
        };
        supervise(&self.failure, self.publisher.runtime(), "write", write);
    }
}

/// Stores parts, all at the same time.
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

/// Returns the parts that have rows, ascending.
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

/// Encodes the rows of one epoch.
struct Encoder<'a> {
    publisher: &'a Publisher,
    open: BTreeMap<u32, OpenPart>,
    /// The first error of a row.
    error: Option<Error>,
}

/// A part to which rows are being added.
struct OpenPart {
    body: BodyWriter,
    chunk: Vec<u8>,
    rows: u64,
    /// Rows that wait to be sorted by word.
    unsorted: Vec<(Box<[u8]>, i64)>,
}

impl Encoder<'_> {
    /// Adds a row to its part.
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

    /// Returns the part with the number `part` and counts one more row of it.
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

    /// Notes an error if a count is negative.
    fn refuse_negative(&mut self, word: &[u8], count: i64) {
        if count < 0 && self.error.is_none() {
            self.error = Some(negative(word, count));
        }
    }
}

/// Returns the error of a row with a negative count.
fn negative(word: &[u8], count: i64) -> Error {
    let word = String::from_utf8_lossy(word);
    let message = format!("the result holds the row {word:?} {count} times");
    Error::new(ErrorKind::Failed, message)
        .hint("the dataflow definition retracts what it never inserted: correct it")
}

impl OpenPart {
    /// Adds the row of a word.
    fn encode(&mut self, word: &[u8], count: i64, publication: &Publication) {
        publication.format.row(word, count, &mut self.chunk);
        self.flush_full_chunk();
    }

    /// Adds a line, which is raw bytes in every format.
    fn line(&mut self, line: &[u8]) {
        self.chunk.extend_from_slice(line);
        self.chunk.push(b'\n');
        self.flush_full_chunk();
    }

    /// Moves the chunk to the body if it is full.
    fn flush_full_chunk(&mut self) {
        if self.chunk.len() >= CHUNK_BYTES {
            let full = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES + 4096));
            self.body.push(full.into());
        }
    }

    /// Returns the part. Adds the rows that are sorted by word first.
    fn close(mut self, part: u32, publication: &Publication) -> Encoded {
        let mut unsorted = std::mem::take(&mut self.unsorted);
        unsorted.sort_unstable();
        unsorted.iter().for_each(|(word, count)| self.encode(word, *count, publication));
        self.body.push(self.chunk.into());
        Encoded { part, rows: self.rows, body: self.body.finish() }
    }
}
