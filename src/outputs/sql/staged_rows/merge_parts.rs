//! Reads staged rows back: lines part after part, words in the order of their keys.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::io;

use super::staged_row::{KEY_BYTES, StagedRow};
use crate::operators::RowKind;
use crate::outputs::objects::{RowBatch, RowReader, read_rows};
use crate::store::Body;

/// The most parts that are merged at a time. Each has a batch of rows in memory. More parts are
/// merged group by group.
const MERGED_MAX: usize = 16;
/// A batch ends with the row that reaches one of these limits.
const BATCH_ROWS: usize = 8 << 10;
const BATCH_TEXT_BYTES: usize = 1 << 20;

/// Reads staged rows batch by batch, so that an epoch on disk never is in memory as a whole.
pub struct StagedReader {
    /// Words with counts, or lines.
    kind: RowKind,
    /// The parts that were not begun.
    parts: std::vec::IntoIter<Body>,
    /// The parts that are being merged.
    open: Vec<OpenPart>,
    /// The key of the next row of each of them, and its place in `open`.
    heads: BinaryHeap<Reverse<([u8; KEY_BYTES], usize)>>,
    /// The number of the next line.
    number: i64,
}

impl fmt::Debug for StagedReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StagedReader").field("number", &self.number).finish_non_exhaustive()
    }
}

impl StagedReader {
    /// Returns a reader at the first row of `parts`, each of which is sorted.
    pub fn new(kind: RowKind, parts: Vec<Body>) -> StagedReader {
        let (open, heads) = (Vec::new(), BinaryHeap::new());
        StagedReader { kind, parts: parts.into_iter(), open, heads, number: 0 }
    }

    /// Calls `visit` with the rows of the next batch. Returns false after the last one. It blocks.
    ///
    /// # Errors
    ///
    /// Those of reading a body that is on disk, and those of `visit`.
    pub fn next_batch<E>(
        &mut self,
        mut visit: impl FnMut(StagedRow<'_>) -> Result<(), E>,
    ) -> Result<bool, E>
    where
        E: From<io::Error>,
    {
        let (mut rows, mut text_bytes) = (0, 0);
        while rows < BATCH_ROWS && text_bytes < BATCH_TEXT_BYTES {
            let Some(Reverse((key, place))) = self.heads.pop() else {
                if self.open_more()? {
                    continue;
                }
                break;
            };
            let part = &mut self.open[place];
            let (text, count) = part.row();
            visit(match self.kind {
                RowKind::Counts => StagedRow::Word { key: &key, count, word: &text[KEY_BYTES..] },
                RowKind::Lines => StagedRow::Line { number: self.number, line: text },
            })?;
            rows += 1;
            text_bytes += text.len();
            self.number += 1;
            part.at += 1;
            if let Some(key) = part.head(self.kind)? {
                self.heads.push(Reverse((key, place)));
            }
        }
        Ok(rows > 0)
    }

    /// Begins with the next parts. Returns false if there are none.
    fn open_more(&mut self) -> io::Result<bool> {
        // Lines stay in the order of their parts.
        let most = if self.kind == RowKind::Lines { 1 } else { MERGED_MAX };
        self.open.clear();
        for body in self.parts.by_ref().take(most) {
            let mut part =
                OpenPart { rows: read_rows(&body)?.1, batch: RowBatch::default(), at: 0 };
            if let Some(key) = part.head(self.kind)? {
                self.heads.push(Reverse((key, self.open.len())));
                self.open.push(part);
            }
        }
        Ok(!self.open.is_empty() || self.parts.len() > 0)
    }
}

/// A part that is being read.
struct OpenPart {
    /// The rest of its rows.
    rows: RowReader,
    /// The rows that are at hand.
    batch: RowBatch,
    /// The place of the next row in the batch.
    at: usize,
}

impl OpenPart {
    /// Returns text and count of the next row, which [`OpenPart::head`] has found.
    fn row(&self) -> (&[u8], i64) {
        (&self.batch.texts[self.at], self.batch.counts[self.at])
    }

    /// Returns the key of the next row; `None` after the last one. Lines have none, and are alike.
    fn head(&mut self, kind: RowKind) -> io::Result<Option<[u8; KEY_BYTES]>> {
        if self.at >= self.batch.texts.len() {
            self.rows.fill(&mut self.batch)?;
            self.at = 0;
        }
        let Some(text) = self.batch.texts.get(self.at) else { return Ok(None) };
        match (kind, text.first_chunk()) {
            (RowKind::Lines, _) => Ok(Some([0; KEY_BYTES])),
            (RowKind::Counts, Some(key)) => Ok(Some(*key)),
            (RowKind::Counts, None) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
