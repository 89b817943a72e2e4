//! Record batches as brokers store them, taken apart into lines.
//!
//! An answer to a fetch holds batches one after the other; the last one may be cut off. A batch is
//! checked by its CRC, decompressed as a stream, and its values are appended to [`Chunk`]s: each
//! value as one line, in order of offsets. Control records are passed over, and so are the records
//! of transactions that were aborted: the answer lists these with the producer and the first offset
//! of each, and a control record ends one.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::error_kinds::BrokerFailure;
use super::records::{RecordReader, Value};
use super::wire_types::WireReader;

/// Bytes of lines that are handed on at once. Every read into a splitter has room for so many, so
/// that a chunk of this size never lies on both sides of a cut.
pub const CHUNK_BYTES: usize = 64 << 10;

/// Bytes from the beginning of a batch to the end of its length.
const LENGTH_END: usize = 12;
/// Bytes from the beginning of a batch to what its CRC covers.
const CHECKED_START: usize = 21;
/// Bytes from the beginning of a batch to its records.
const HEADER_BYTES: usize = 61;

/// Lines of one partition, and the position after them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Whole lines, each with its end.
    pub text: Vec<u8>,
    /// Offset of the next record that is not in the text.
    pub next: i64,
    /// Values that were too long, with the offset of the last one.
    pub skipped: Option<(u64, i64)>,
}

/// An aborted transaction: the producer, and the offset of its first record.
pub type Aborted = (i64, i64);

/// The batches of one partition in one answer, from a position on.
#[derive(Debug)]
pub struct Batches {
    /// The bytes that are not taken apart yet.
    left: Bytes,
    /// Offset of the next record that is wanted.
    position: i64,
    /// Records from here on are not wanted.
    until: Option<i64>,
    /// Aborted transactions that have not begun, by their first offset.
    aborted: VecDeque<Aborted>,
    /// Producers whose open transaction is an aborted one.
    aborting: BTreeSet<i64>,
    /// Largest value that is counted. A longer one is skipped: it would have to be held as a whole.
    value_bytes_max: usize,
    /// The batch whose records are being read.
    open: Option<OpenBatch>,
    /// A failure that is reported after the lines before it.
    failed: Option<BrokerFailure>,
}

/// The batch whose records are being read.
#[derive(Debug)]
struct OpenBatch {
    /// Reads the records of the batch, decompressed.
    records: RecordReader,
    /// The offset of the first record: those of the others are relative to it.
    base: i64,
    /// Records that were not read.
    left: i32,
    /// The offset after the batch. Compaction may have removed its last records.
    end: i64,
}

/// The header of a batch.
struct Header {
    /// The offset of the first record.
    base: i64,
    /// The offset after the last record, also of those that compaction has removed.
    end: i64,
    /// Codec in bits 0 to 2, transactional in bit 4, control in bit 5.
    attributes: i16,
    /// The id of the producer, by which aborted transactions are known.
    producer: i64,
    /// Number of records in the batch; negative in a damaged one.
    records: i32,
}

impl Header {
    /// Returns the number of the codec: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    fn codec(&self) -> i16 {
        self.attributes & 7
    }

    /// Returns true if the records belong to a transaction, which may have been aborted.
    fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Returns true for a batch that ends a transaction and has no lines.
    fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }
}

impl Batches {
    /// The batches in `bytes`, an answer to a fetch from `position` on. Records at `until` and
    /// after it are left out, and values of more than `value_bytes_max`.
    pub fn new(
        bytes: Bytes,
        position: i64,
        until: Option<i64>,
        mut aborted: Vec<Aborted>,
        value_bytes_max: usize,
    ) -> Batches {
        aborted.sort_by_key(|(_, first)| *first);
        Batches {
            left: bytes,
            position,
            until,
            aborted: aborted.into(),
            aborting: BTreeSet::new(),
            value_bytes_max,
            open: None,
            failed: None,
        }
    }

    /// Returns the offset of the next record that is wanted.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Returns the next lines, some [`CHUNK_BYTES`] or one longer value; `None` when there are no
    /// more. Positions move over what holds no line, also in a chunk without text.
    ///
    /// # Errors
    ///
    /// `Malformed` for a batch that is damaged, after the lines before it.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, BrokerFailure> {
        if let Some(failure) = self.failed.take() {
            return Err(failure);
        }
        let before = self.position;
        let mut chunk = Chunk::default();
        if let Err(failure) = self.fill(&mut chunk) {
            if self.position == before {
                return Err(failure);
            }
            self.failed = Some(failure);
        }
        chunk.next = self.position;
        let is_empty = chunk.text.is_empty() && self.position == before;
        Ok((!is_empty).then_some(chunk))
    }

    /// Fills a chunk with what there is.
    fn fill(&mut self, chunk: &mut Chunk) -> Result<(), BrokerFailure> {
        loop {
            if self.until.is_some_and(|until| self.position >= until) {
                self.left = Bytes::new();
                self.open = None;
                return Ok(());
            }
            if self.open.is_none() && !self.open_next()? || self.read_records(chunk)? {
                return Ok(());
            }
        }
    }

    /// Reads records of the open batch until it ends or the chunk is full; returns true if it is.
    fn read_records(&mut self, chunk: &mut Chunk) -> Result<bool, BrokerFailure> {
        let Some(batch) = &mut self.open else { return Ok(false) };
        while batch.left > 0 {
            let room = CHUNK_BYTES.saturating_sub(chunk.text.len());
            let record = batch.records.head()?;
            let offset = batch.base.saturating_add(i64::from(record.offset_delta));
            if offset < self.position {
                batch.records.skip(&record)?;
                batch.left -= 1;
                continue;
            }
            if self.until.is_some_and(|until| offset >= until) {
                // What lies before has been read: the rest of the range holds no records.
                self.position = self.until.unwrap_or(offset);
                return Ok(false);
            }
            let len = match record.value {
                Value::Null => 0,
                Value::Bytes(len) => len,
            };
            if len + 2 > room && !chunk.text.is_empty() {
                batch.records.hold(record);
                return Ok(true);
            }
            match record.value {
                Value::Bytes(len) if len <= self.value_bytes_max => {
                    let whole = chunk.text.len();
                    if len > CHUNK_BYTES {
                        // Doubling would take twice as much.
                        chunk.text.reserve_exact(len + 1);
                    }
                    let read = batch.records.value_into(&record, &mut chunk.text);
                    read.inspect_err(|_| chunk.text.truncate(whole))?;
                    end_line(&mut chunk.text, len);
                }
                Value::Bytes(_) => {
                    let skipped = chunk.skipped.map_or(0, |(count, _)| count);
                    chunk.skipped = Some((skipped + 1, offset));
                    batch.records.skip(&record)?;
                }
                Value::Null => batch.records.skip(&record)?,
            }
            batch.left -= 1;
            self.position = offset + 1;
            if chunk.text.len() >= CHUNK_BYTES {
                return Ok(true);
            }
        }
        self.position = self.position.max(batch.end);
        self.open = None;
        Ok(false)
    }

    /// Opens the next batch whose records are wanted; returns false if there is none.
    fn open_next(&mut self) -> Result<bool, BrokerFailure> {
        loop {
            let Some((header, records)) = self.next_batch()? else { return Ok(false) };
            self.begin_aborted(header.end);
            if header.end <= self.position {
                // A broker may answer from the beginning of a stored run of batches.
                if header.is_control() {
                    self.end_transaction(&header, records)?;
                }
                continue;
            }
            let is_wanted = if header.is_control() {
                self.end_transaction(&header, records.clone())?;
                false
            } else {
                !(header.is_transactional() && self.aborting.contains(&header.producer))
            };
            if !is_wanted {
                self.position = header.end;
                if self.until.is_some_and(|until| until <= header.end) {
                    return Ok(false);
                }
                continue;
            }
            let records = RecordReader::new(header.codec(), records)?;
            let Header { base, end, records: left, .. } = header;
            self.open = Some(OpenBatch { records, base, left, end });
            return Ok(true);
        }
    }

    /// Takes the next whole batch: its header and its records, which may be compressed.
    fn next_batch(&mut self) -> Result<Option<(Header, Bytes)>, BrokerFailure> {
        if self.left.len() < HEADER_BYTES {
            return Ok(None);
        }
        let mut reader = WireReader::new(&self.left);
        let base = reader.i64()?;
        let len = reader.i32()?;
        let _leader_epoch = reader.i32()?;
        if reader.i8()? != 2 {
            return Err(BrokerFailure::Malformed(
                "the partition holds records in the format of Kafka before 0.11, which cannot be \
                 read",
            ));
        }
        let end = LENGTH_END + usize::try_from(len).unwrap_or(0);
        if end < HEADER_BYTES {
            return Err(BrokerFailure::Malformed("a batch is shorter than its header"));
        }
        if end > self.left.len() {
            // Cut off by the limit of the fetch.
            self.left = Bytes::new();
            return Ok(None);
        }
        let crc = reader.i32()? as u32;
        let attributes = reader.i16()?;
        let last_delta = reader.i32()?;
        let _timestamps = reader.raw(16)?;
        let producer = reader.i64()?;
        let _epoch_and_sequence = reader.raw(6)?;
        let records = reader.i32()?;
        let batch = self.left.split_to(end);
        if crc32c::crc32c(&batch[CHECKED_START..]) != crc {
            return Err(BrokerFailure::Malformed("the CRC of a batch does not fit its bytes"));
        }
        let end = base.saturating_add(i64::from(last_delta)).saturating_add(1);
        let header = Header { base, end, attributes, producer, records };
        Ok(Some((header, batch.slice(HEADER_BYTES..))))
    }

    /// Notes the aborted transactions that begin before `end`.
    fn begin_aborted(&mut self, end: i64) {
        while let Some(&(producer, first)) = self.aborted.front() {
            if first >= end {
                break;
            }
            self.aborting.insert(producer);
            self.aborted.pop_front();
        }
    }

    /// Ends the transaction that a control batch ends, if it is an aborted one.
    fn end_transaction(&mut self, header: &Header, records: Bytes) -> Result<(), BrokerFailure> {
        let mut records = RecordReader::new(header.codec(), records)?;
        for _ in 0..header.records {
            if records.control_type()? == Some(ABORT) {
                self.aborting.remove(&header.producer);
            }
        }
        Ok(())
    }
}

/// The type of the control record that ends an aborted transaction.
const ABORT: i16 = 0;

/// Ends the line that a value of `len` bytes, the last of the text, makes. A value that ends with a
/// line end has it already; after `\r`, a `\n` keeps the next value from being taken for the rest
/// of it.
fn end_line(text: &mut Vec<u8>, len: usize) {
    if len == 0 || text.last() != Some(&b'\n') {
        text.push(b'\n');
    }
}
