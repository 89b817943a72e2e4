//! The least and the greatest value of pages and of a column, by which readers pass over pages.
//!
//! Values above 64 bytes are cut: the least to a prefix of itself, the greatest to the prefix that
//! is greater than all values that begin as it does.

use bytes::Bytes;

/// The longest value in metadata, unless no shorter one is greater.
const VALUE_BYTES_MAX: usize = 64;

/// A value of a column that has an order.
pub trait Bounded: Ord + Clone {
    /// Returns the value as it is in metadata, and true if it was not cut. `is_text` is true for
    /// text, which is cut between characters.
    fn least(&self, is_text: bool) -> (Vec<u8>, bool);

    /// Returns a value in metadata that is not less than this one, and true if it is this one.
    fn greatest(&self, is_text: bool) -> (Vec<u8>, bool);
}

impl Bounded for i64 {
    fn least(&self, _: bool) -> (Vec<u8>, bool) {
        (self.to_le_bytes().to_vec(), true)
    }

    fn greatest(&self, is_text: bool) -> (Vec<u8>, bool) {
        self.least(is_text)
    }
}

impl Bounded for Bytes {
    fn least(&self, is_text: bool) -> (Vec<u8>, bool) {
        cut(self, |bytes| match is_text.then(|| std::str::from_utf8(bytes)) {
            Some(Ok(text)) => Some(text[..text.floor_char_boundary(VALUE_BYTES_MAX)].into()),
            _ => Some(bytes[..VALUE_BYTES_MAX].to_vec()),
        })
    }

    fn greatest(&self, is_text: bool) -> (Vec<u8>, bool) {
        cut(self, |bytes| match is_text.then(|| std::str::from_utf8(bytes)) {
            Some(Ok(text)) => next_text(&text[..text.floor_char_boundary(VALUE_BYTES_MAX)]),
            _ => next_bytes(&bytes[..VALUE_BYTES_MAX]),
        })
    }
}

/// Cuts a long value by `shorten`. The value stays as it is if there is no shorter one.
fn cut(bytes: &[u8], shorten: impl FnOnce(&[u8]) -> Option<Vec<u8>>) -> (Vec<u8>, bool) {
    let short = if bytes.len() > VALUE_BYTES_MAX { shorten(bytes) } else { None };
    short.map_or_else(|| (bytes.to_vec(), true), |short| (short, false))
}

/// Returns the shortest text after all that begin with `text` and that has the length of its last
/// character or less; nothing if no character of it has a next one of the same length.
fn next_text(text: &str) -> Option<Vec<u8>> {
    text.char_indices().rev().find_map(|(start, last)| {
        let next = char::from_u32(u32::from(last) + 1)?;
        let fits = next.len_utf8() == last.len_utf8();
        fits.then(|| format!("{}{next}", &text[..start]).into_bytes())
    })
}

/// Returns bytes after all that begin with `bytes`: bytes of 255 become 0, and the one before them
/// is increased. Returns nothing if all are 255.
fn next_bytes(bytes: &[u8]) -> Option<Vec<u8>> {
    let last = bytes.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut next = bytes.to_vec();
    next[last] += 1;
    next[last + 1..].fill(0);
    Some(next)
}

/// The bounds of a column and of its pages.
#[derive(Debug)]
pub struct ColumnBounds<T> {
    is_text: bool,
    /// Those of the page that is being filled.
    page: Option<(T, T)>,
    /// Those of the page before it.
    last: Option<(T, T)>,
    /// Those of all pages.
    all: Option<(T, T)>,
    /// False after a page whose bounds are less, or greater, than those of the page before it.
    ascending: bool,
    descending: bool,
    /// Those of each page, in metadata.
    pages: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<T: Bounded> ColumnBounds<T> {
    /// Returns the bounds of no value.
    pub fn new(is_text: bool) -> Self {
        let (page, last, all) = (None, None, None);
        let (ascending, descending, pages) = (true, true, Vec::new());
        Self { is_text, page, last, all, ascending, descending, pages }
    }

    /// Takes a value of the page into account.
    pub fn add(&mut self, value: &T) {
        widen(&mut self.page, value, value);
    }

    /// Ends the page.
    pub fn end_page(&mut self) {
        let Some((least, greatest)) = self.page.take() else { return };
        widen(&mut self.all, &least, &greatest);
        if let Some((last_least, last_greatest)) = &self.last {
            self.ascending &= *last_least <= least && *last_greatest <= greatest;
            self.descending &= *last_least >= least && *last_greatest >= greatest;
        }
        self.pages.push((least.least(self.is_text).0, greatest.greatest(self.is_text).0));
        self.last = Some((least, greatest));
    }

    /// Returns the bounds of the column and of its pages. There was a value.
    pub fn finish(self) -> WrittenBounds {
        let is_text = self.is_text;
        let order = match (self.ascending, self.descending) {
            (true, _) => 1,
            (false, true) => 2,
            (false, false) => 0,
        };
        let (least, greatest) = self.all.map_or_else(Default::default, |(least, greatest)| {
            (least.least(is_text), greatest.greatest(is_text))
        });
        WrittenBounds { least, greatest, order, pages: self.pages }
    }
}

/// Widens a range of values by another.
fn widen<T: Ord + Clone>(range: &mut Option<(T, T)>, least: &T, greatest: &T) {
    match range {
        None => *range = Some((least.clone(), greatest.clone())),
        Some((low, high)) => {
            if least < low {
                *low = least.clone();
            }
            if greatest > high {
                *high = greatest.clone();
            }
        }
    }
}

/// The bounds of a column as they are in metadata.
#[derive(Debug)]
pub struct WrittenBounds {
    /// The least value, and true if it was not cut.
    pub least: (Vec<u8>, bool),
    /// The greatest value, and true if it was not cut.
    pub greatest: (Vec<u8>, bool),
    /// The order of the pages: none, ascending or descending.
    pub order: i32,
    /// The bounds of each page.
    pub pages: Vec<(Vec<u8>, Vec<u8>)>,
}
