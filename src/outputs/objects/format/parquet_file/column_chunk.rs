//! One column of a row group: its pages, and what metadata has about it.
//!
//! A page of values ends with the batch of rows that brings it to 20,000 rows or to 1 MiB. Texts
//! are plain: each after its length. Counts are positions in a dictionary, whose page precedes the
//! others, until it has 1 MiB; those that follow are plain, too.

use std::io;

use bytes::Bytes;

use super::bounds::{ColumnBounds, WrittenBounds};
use super::dictionary::Dictionary;
use super::file_sink::FileSink;
use super::page_codec::PageCodec;
use super::thrift::ThriftWriter;

/// The limits of a page are looked at after as many rows, or after as much text.
const BATCH_ROWS: usize = 1024;

/// A page ends with the batch that reaches one of these limits.
const PAGE_ROWS: usize = 20_000;
const PAGE_BYTES: usize = 1 << 20;

/// The length of the dictionary from which values are plain.
const DICTIONARY_BYTES: usize = 1 << 20;

/// The number of an encoding in metadata.
pub const PLAIN: i32 = 0;
/// The encoding of levels, which is named though there are none.
pub const RUNS: i32 = 3;
/// The encoding of positions in a dictionary.
pub const DICTIONARY: i32 = 8;

/// The kind of a page in metadata.
pub const DATA_PAGE: i32 = 0;
/// A page that has the values of a dictionary.
pub const DICTIONARY_PAGE: i32 = 2;

/// Where a page of values is.
#[derive(Clone, Copy, Debug)]
pub struct PageLocation {
    /// The position of its head in the file.
    pub offset: u64,
    /// The length of the page with its head.
    pub bytes: usize,
    /// Its first row in the row group.
    pub first_row: usize,
    /// The length of its texts; 0 for counts.
    pub text_bytes: usize,
}

/// A column that is written, as metadata describes it.
#[derive(Debug)]
pub struct WrittenColumn {
    /// The number of the codec.
    pub codec: i32,
    /// The number of rows.
    pub rows: usize,
    /// The length of the pages with their heads, before and after compression.
    pub plain_bytes: usize,
    /// See `plain_bytes`.
    pub stored_bytes: usize,
    /// The position of the dictionary's page.
    pub dictionary: Option<u64>,
    /// The pages of values.
    pub pages: Vec<PageLocation>,
    /// Kind, encoding and number of consecutive pages.
    pub page_kinds: Vec<(i32, i32, i32)>,
    /// The bounds of values.
    pub bounds: WrittenBounds,
}

/// Pages that are compressed, and their place in the file.
struct Pages<'f> {
    sink: &'f mut FileSink,
    codec: PageCodec,
    rows: usize,
    plain_bytes: usize,
    stored_bytes: usize,
    dictionary: Option<u64>,
    locations: Vec<PageLocation>,
    kinds: Vec<(i32, i32, i32)>,
}

/// A page of values whose place is not known yet.
struct PageOfValues {
    encoding: i32,
    rows: usize,
    plain_bytes: usize,
    text_bytes: usize,
    content: Vec<u8>,
}

impl<'f> Pages<'f> {
    fn new(sink: &'f mut FileSink, codec: PageCodec) -> Self {
        let (rows, plain_bytes, stored_bytes, dictionary) = (0, 0, 0, None);
        let (locations, kinds) = (Vec::new(), Vec::new());
        Self { sink, codec, rows, plain_bytes, stored_bytes, dictionary, locations, kinds }
    }

    /// Compresses a page of values.
    fn compress(
        &mut self,
        encoding: i32,
        rows: usize,
        text_bytes: usize,
        content: Vec<u8>,
    ) -> io::Result<PageOfValues> {
        let plain_bytes = content.len();
        let content = self.codec.compress(content)?;
        Ok(PageOfValues { encoding, rows, plain_bytes, text_bytes, content })
    }

    /// Writes a page of values.
    fn put(&mut self, page: &PageOfValues) -> io::Result<()> {
        let mut head = head(DATA_PAGE, page.plain_bytes, page.content.len())?;
        head.begin(5);
        head.i32(1, page.rows as i32);
        head.i32(2, page.encoding);
        head.i32(3, RUNS);
        head.i32(4, RUNS);
        head.end();
        let (offset, bytes) = self.put_page(head, page.plain_bytes, &page.content);
        match self.kinds.last_mut() {
            Some((DATA_PAGE, encoding, pages)) if *encoding == page.encoding => *pages += 1,
            _ => self.kinds.push((DATA_PAGE, page.encoding, 1)),
        }
        let (first_row, text_bytes) = (self.rows, page.text_bytes);
        self.locations.push(PageLocation { offset, bytes, first_row, text_bytes });
        self.rows += page.rows;
        Ok(())
    }

    /// Writes the page of a dictionary, before all others.
    fn put_dictionary(&mut self, values: &[i64]) -> io::Result<()> {
        let content: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let plain_bytes = content.len();
        let content = self.codec.compress(content)?;
        let mut head = head(DICTIONARY_PAGE, plain_bytes, content.len())?;
        head.begin(7);
        head.i32(1, values.len() as i32);
        head.i32(2, PLAIN);
        head.bool(3, false);
        head.end();
        self.dictionary = Some(self.put_page(head, plain_bytes, &content).0);
        self.kinds.push((DICTIONARY_PAGE, PLAIN, 1));
        Ok(())
    }

    /// Writes head and content of a page. Returns its position and its length.
    fn put_page(&mut self, head: ThriftWriter, plain: usize, content: &[u8]) -> (u64, usize) {
        let head = head.finish();
        let offset = self.sink.written();
        self.sink.put(&head);
        self.sink.put(content);
        self.plain_bytes += head.len() + plain;
        self.stored_bytes += head.len() + content.len();
        (offset, head.len() + content.len())
    }

    /// Returns what metadata has about the column.
    fn finish(self, bounds: WrittenBounds) -> WrittenColumn {
        WrittenColumn {
            codec: self.codec.number(),
            rows: self.rows,
            plain_bytes: self.plain_bytes,
            stored_bytes: self.stored_bytes,
            dictionary: self.dictionary,
            pages: self.locations,
            page_kinds: self.kinds,
            bounds,
        }
    }
}

/// Begins the head of a page. Fails if the page has more than 2 GiB.
fn head(kind: i32, plain: usize, stored: usize) -> io::Result<ThriftWriter> {
    let length = |bytes| i32::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge);
    let mut head = ThriftWriter::new();
    head.i32(1, kind);
    head.i32(2, length(plain)?);
    head.i32(3, length(stored)?);
    Ok(head)
}

/// The column of words or lines.
pub struct TextColumn<'f> {
    pages: Pages<'f>,
    bounds: ColumnBounds<Bytes>,
    /// The page that is being filled.
    page: Vec<u8>,
    rows: usize,
    text_bytes: usize,
}

impl<'f> TextColumn<'f> {
    /// Begins the column in `sink`. `is_text` is true for UTF-8.
    pub fn new(sink: &'f mut FileSink, codec: PageCodec, is_text: bool) -> Self {
        let (pages, bounds) = (Pages::new(sink, codec), ColumnBounds::new(is_text));
        Self { pages, bounds, page: Vec::new(), rows: 0, text_bytes: 0 }
    }

    /// Appends rows.
    ///
    /// # Errors
    ///
    /// Those of the compressor.
    pub fn write(&mut self, texts: &[Bytes]) -> io::Result<()> {
        for batch in texts.chunks(BATCH_ROWS) {
            for part in batch.chunks(rows_within_page(batch)) {
                self.add(part);
                if self.rows >= PAGE_ROWS || self.page.len() >= PAGE_BYTES {
                    self.end_page()?;
                }
            }
        }
        Ok(())
    }

    /// Adds rows to the page.
    fn add(&mut self, texts: &[Bytes]) {
        for text in texts {
            self.bounds.add(text);
            self.page.extend_from_slice(&(text.len() as u32).to_le_bytes());
            self.page.extend_from_slice(text);
            self.text_bytes += text.len();
        }
        self.rows += texts.len();
    }

    fn end_page(&mut self) -> io::Result<()> {
        self.bounds.end_page();
        let (content, rows) = (std::mem::take(&mut self.page), std::mem::take(&mut self.rows));
        let text_bytes = std::mem::take(&mut self.text_bytes);
        let page = self.pages.compress(PLAIN, rows, text_bytes, content)?;
        self.pages.put(&page)
    }

    /// Writes the last page.
    ///
    /// # Errors
    ///
    /// Those of the compressor.
    pub fn finish(mut self) -> io::Result<WrittenColumn> {
        if self.rows > 0 {
            self.end_page()?;
        }
        Ok(self.pages.finish(self.bounds.finish()))
    }
}

/// Returns how many rows of a batch are added before the limits of the page are looked at: those
/// up to the first that makes more than a page of them.
fn rows_within_page(batch: &[Bytes]) -> usize {
    let mut bytes = 0;
    let mut ends = batch.iter().map(|text| {
        bytes += size_of::<u32>() + text.len();
        bytes
    });
    ends.position(|end| end > PAGE_BYTES).map_or(batch.len(), |last| last + 1)
}

/// The column of counts.
pub struct CountColumn<'f> {
    pages: Pages<'f>,
    bounds: ColumnBounds<i64>,
    /// The dictionary, until it is too large.
    dictionary: Option<Dictionary>,
    /// The page that is being filled: positions in the dictionary, or values.
    positions: Vec<u32>,
    plain: Vec<u8>,
    rows: usize,
    /// Pages that follow the dictionary.
    waiting: Vec<PageOfValues>,
}

impl<'f> CountColumn<'f> {
    /// Begins the column in `sink`.
    pub fn new(sink: &'f mut FileSink, codec: PageCodec) -> Self {
        let (pages, bounds) = (Pages::new(sink, codec), ColumnBounds::new(false));
        let (dictionary, positions, plain) = (Some(Dictionary::default()), Vec::new(), Vec::new());
        Self { pages, bounds, dictionary, positions, plain, rows: 0, waiting: Vec::new() }
    }

    /// Appends rows.
    ///
    /// # Errors
    ///
    /// Those of the compressor.
    pub fn write(&mut self, counts: &[i64]) -> io::Result<()> {
        for batch in counts.chunks(BATCH_ROWS) {
            batch.iter().for_each(|count| self.bounds.add(count));
            match &mut self.dictionary {
                Some(known) => {
                    self.positions.extend(batch.iter().map(|count| known.position(*count)));
                }
                None => self.plain.extend(batch.iter().flat_map(|count| count.to_le_bytes())),
            }
            self.rows += batch.len();
            if self.rows >= PAGE_ROWS {
                self.end_page()?;
            }
            let known = self.dictionary.as_ref().map_or(0, |known| known.values().len());
            if known * size_of::<i64>() >= DICTIONARY_BYTES {
                self.end_dictionary()?;
            }
        }
        Ok(())
    }

    fn end_page(&mut self) -> io::Result<()> {
        self.bounds.end_page();
        let rows = std::mem::take(&mut self.rows);
        if let Some(known) = &self.dictionary {
            let content = known.page(&self.positions);
            self.positions.clear();
            self.waiting.push(self.pages.compress(DICTIONARY, rows, 0, content)?);
            return Ok(());
        }
        let content = std::mem::take(&mut self.plain);
        let page = self.pages.compress(PLAIN, rows, 0, content)?;
        self.pages.put(&page)
    }

    /// Writes the dictionary and the pages that use it. Later values are plain.
    fn end_dictionary(&mut self) -> io::Result<()> {
        if self.rows > 0 {
            self.end_page()?;
        }
        if let Some(known) = self.dictionary.take() {
            self.pages.put_dictionary(known.values())?;
        }
        std::mem::take(&mut self.waiting).iter().try_for_each(|page| self.pages.put(page))
    }

    /// Writes the pages that are left.
    ///
    /// # Errors
    ///
    /// Those of the compressor.
    pub fn finish(mut self) -> io::Result<WrittenColumn> {
        self.end_dictionary()?;
        Ok(self.pages.finish(self.bounds.finish()))
    }
}
