//! Rows of words that need no escapes, without a branch for each byte.
//!
//! Nearly all words are short, and contain no byte that a format escapes or quotes. Their rows are
//! made of copies of fixed lengths: a copy of a length that is not known costs a call. All other
//! rows are those of [`Format::row`].

use super::Format;
use crate::operators::Run;
use crate::words::{Key, SHORT_BYTES_MAX};

/// The room that is made for a row, of which it takes a part.
const ROW_ROOM: usize = 64;

/// Rows for which room is made at a time.
const ROWS_AT_A_TIME: usize = 256;

/// Rows for which room is made after a row that is not plain: such rows often come together.
const ROWS_AFTER_OTHER: usize = 8;

/// The greatest count of a plain row.
const COUNT_MAX: u64 = 99_999_999;

/// A byte repeated is so many times the byte.
const EACH: u64 = u64::MAX / 255;

/// The form of plain rows of a format.
#[derive(Clone, Copy, Debug)]
pub struct PlainForm {
    before: Piece<16>,
    between: Piece<16>,
    after: Piece<8>,
    /// Bytes below are not plain.
    least: u8,
    /// True if bytes above 0x7E are not plain.
    is_ascii: bool,
    /// Two more bytes that are not plain.
    escaped: [u8; 2],
}

/// A text, followed by zeros.
#[derive(Clone, Copy, Debug)]
struct Piece<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Piece<N> {
    const fn of(text: &[u8]) -> Piece<N> {
        let mut bytes = [0; N];
        let mut at = 0;
        while at < text.len() {
            bytes[at] = text[at];
            at += 1;
        }
        Piece { bytes, len: text.len() }
    }
}

impl Format {
    /// Returns the form of plain rows; `None` for a format that is no text.
    pub fn plain_form(self) -> Option<PlainForm> {
        let form = |before, between, after, least, is_ascii, escaped| {
            let (before, between, after) =
                (Piece::of(before), Piece::of(between), Piece::of(after));
            Some(PlainForm { before, between, after, least, is_ascii, escaped })
        };
        match self {
            Format::Python => form(b"('", b"', ", b")\n", b' ', true, *b"'\\"),
            Format::Scala => form(b"(", b",", b")\n", 0, false, *b"\n\n"),
            Format::Tsv => form(b"", b"\t", b"\n", 0, false, *b"\n\n"),
            // CR and LF are below the blank.
            Format::Csv => form(b"", b",", b"\n", b' ', false, *b",\""),
            Format::Jsonl => form(b"{\"word\":\"", b"\",\"count\":", b"}\n", b' ', true, *b"\"\\"),
            Format::Parquet => None,
        }
    }
}

impl PlainForm {
    /// Returns true if no byte of the word is escaped or quoted. It may also return false for a
    /// word that needs no escape, as one with a byte of 0x7F or above in `jsonl`.
    #[inline(always)]
    fn is_plain(&self, key: Key) -> bool {
        /// The top bit of each byte.
        const TOP: u64 = EACH << 7;
        // Each test sets the top bit of some byte if, and only if, there is such a byte.
        let not_plain = |bytes: u64| {
            let low = bytes.wrapping_sub(EACH * u64::from(self.least)) & !bytes;
            let high = if self.is_ascii { bytes.wrapping_add(EACH) | bytes } else { 0 };
            let equal = |byte: u8| {
                let other = bytes ^ (EACH * u64::from(byte));
                other.wrapping_sub(EACH) & !other
            };
            (low | high | equal(self.escaped[0]) | equal(self.escaped[1])) & TOP
        };
        let [first, second] = key.filled_with(b'a');
        not_plain(first) | not_plain(second) == 0
    }

    /// Writes the row of a plain word, whose text `text` begins with. Returns the row's length.
    #[inline(always)]
    fn write(&self, row: &mut [u8; ROW_ROOM], text: &[u8; 16], len: usize, count: u32) -> usize {
        // The masks change nothing. With them the compiler sees that all places are in the room.
        row[..16].copy_from_slice(&self.before.bytes);
        let mut at = self.before.len & 15;
        row[at..at + 16].copy_from_slice(text);
        at += len & 15;
        row[at..at + 16].copy_from_slice(&self.between.bytes);
        at += self.between.len & 15;
        let (digits, number) = digits(count);
        row[at..at + 8].copy_from_slice(&digits);
        at += number & 15;
        row[at..at + 8].copy_from_slice(&self.after.bytes);
        at + (self.after.len & 7)
    }
}

/// Returns the decimal digits of a number up to [`COUNT_MAX`], and how many there are.
#[inline(always)]
fn digits(number: u32) -> ([u8; 8], usize) {
    // Halves of four digits, quarters of two, and single digits, all in one number, in which the
    // first digit is lowest. Divisions are multiplications that are exact in their range.
    let (high, low) = (u64::from(number / 10_000), u64::from(number % 10_000));
    let halves = high | low << 32;
    let hundreds = ((halves * 10_486) >> 20) & 0x7F_0000_007F;
    let quarters = hundreds + ((halves - 100 * hundreds) << 16);
    let tens = ((quarters * 103) >> 10) & 0x000F_000F_000F_000F;
    let single = tens + ((quarters - 10 * tens) << 8);
    // The last digit is printed if it is 0, too.
    let zeros = (single | 1 << 56).trailing_zeros() / 8;
    (((single | (EACH * u64::from(b'0'))) >> (8 * zeros)).to_le_bytes(), 8 - zeros as usize)
}

/// Appends the row of each word of `run` at the indexes from `from` to `to`, until `out` has
/// `full` bytes or a count is negative. Returns the index after the last row.
pub fn append_rows(
    (format, form): (Format, &PlainForm),
    run: &Run,
    (from, to): (usize, usize),
    full: usize,
    out: &mut Vec<u8>,
) -> usize {
    let bytes = &run.words.bytes[..];
    let mut start = run.words.start(from);
    let (mut next, mut at_a_time) = (from, ROWS_AT_A_TIME);
    while next < to && out.len() < full {
        let stop = to.min(next + at_a_time);
        let mut at = out.len();
        out.resize(at + ROW_ROOM * (stop - next), 0);
        while next < stop {
            let (end, count) = (run.words.end(next), run.counts[next] as u64);
            let len = end - start;
            let (Some(text), Some(row)) =
                (bytes[start..].first_chunk(), out[at..].first_chunk_mut())
            else {
                break;
            };
            if len > SHORT_BYTES_MAX
                || count > COUNT_MAX
                || !form.is_plain(Key::load(bytes, start, len))
            {
                break;
            }
            at += form.write(row, text, len, count as u32);
            (start, next) = (end, next + 1);
        }
        out.truncate(at);
        at_a_time = ROWS_AT_A_TIME;
        if next < stop {
            let (end, count) = (run.words.end(next), run.counts[next]);
            if count < 0 {
                return next;
            }
            format.row(&bytes[start..end], count, out);
            (start, next, at_a_time) = (end, next + 1, ROWS_AFTER_OTHER);
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Words of all kinds: plain, with bytes that formats escape, long, not UTF-8, empty.
    fn word() -> impl Strategy<Value = Vec<u8>> {
        let plain = prop::collection::vec(b'a'..=b'z', 0..20);
        let special = prop::sample::select(b"ab'\"\\,\t\r\n\x00\x1f \x7e\x7f\x80\xff()".to_vec());
        prop_oneof![
            4 => plain,
            2 => prop::collection::vec(special, 0..20),
            1 => prop::collection::vec(any::<u8>(), 0..40),
            1 => any::<String>().prop_map(String::into_bytes),
        ]
    }

    fn count() -> impl Strategy<Value = i64> {
        prop_oneof![0..20_i64, 0..2 * COUNT_MAX as i64, 0..=i64::MAX, Just(COUNT_MAX as i64)]
    }

    fn run(rows: &[(Vec<u8>, i64)]) -> Run {
        let mut run = Run::default();
        rows.iter().for_each(|(word, count)| run.push(0, word, *count));
        run
    }

    proptest! {
        #[test]
        fn rows_at_once_equal_rows_one_by_one(
            rows in prop::collection::vec((word(), count()), 0..600),
            full in 1..5000_usize,
        ) {
            let run = run(&rows);
            for format in Format::ALL {
                let Some(form) = format.plain_form() else { continue };
                let mut expected = Vec::new();
                rows.iter().for_each(|(word, count)| format.row(word, *count, &mut expected));
                let (mut found, mut chunk, mut at) = (Vec::new(), Vec::new(), 0);
                while at < rows.len() {
                    at = append_rows((format, &form), &run, (at, rows.len()), full, &mut chunk);
                    found.append(&mut chunk);
                }
                prop_assert_eq!(&found, &expected, "{}", format);
            }
        }

        #[test]
        fn digits_equal_decimal_text(number in 0..=COUNT_MAX as u32) {
            let (digits, count) = digits(number);
            prop_assert_eq!(std::str::from_utf8(&digits[..count]).unwrap(), number.to_string());
        }
    }

    #[test]
    fn digits_of_each_length_are_all_there() {
        for number in [0, 1, 9, 10, 99, 100, 9_999, 10_000, 10_001, 99_990_000, 99_999_999] {
            let (digits, count) = digits(number);
            assert_eq!(digits[..count], *number.to_string().as_bytes());
        }
    }

    #[test]
    fn rows_stop_before_a_negative_count() {
        let rows = [(b"a".to_vec(), 1), (b"b".to_vec(), -1), (b"c".to_vec(), 1)];
        let form = Format::Tsv.plain_form().expect("text");
        let mut out = Vec::new();
        let rows = (run(&rows), (0, 3));
        assert_eq!(append_rows((Format::Tsv, &form), &rows.0, rows.1, 100, &mut out), 1);
        assert_eq!(out, b"a\t1\n");
    }
}
