//! Formats of rows: encodes a word and its count as one line of text, or as columns.
//!
//! [`Format::Python`] and [`Format::Scala`] give the same bytes as Spark's `saveAsTextFiles` in its
//! Python and its Scala program. Python prints a word by `repr`, which the module `python_repr`
//! implements. The other formats are for readers that do not expect Spark's. [`Format::Parquet`] is
//! no text: its rows are gathered as bytes (`columns`), of which `parquet_file` makes a file.
//! Text may be compressed as a whole (`compression`).
//!
//! A word is decoded before and is well-formed UTF-8. No other word causes a panic: `python` and
//! `jsonl`, whose rows must be text, replace ill-formed bytes by U+FFFD, and the other formats
//! write them unchanged.
//!
//! An epoch has millions of rows, and nearly all words are short and plain ASCII. Rows of such
//! words are written without a look at each byte (`plain_rows`).

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::named_values::named_values;

mod columns;
mod compression;
mod parquet_file;
mod plain_rows;
mod python_repr;

pub use columns::ROW_BYTES_MAX;
pub use columns::{RowBatch, RowReader, begin as begin_columns, push_row, read as read_rows};
pub use compression::Compression;
pub use compression::compress;
pub use parquet_file::encode as encode_parquet;
pub use plain_rows::{PlainForm, append_rows};

/// The length of the chunks of encoded rows. A part is never one allocation.
pub const CHUNK_BYTES: usize = 256 << 10;

/// The format of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `('a', 2)`, as in Spark's Python program, by the rules of Python 3.11's `repr`.
    #[default]
    Python,
    /// `(a,2)`, as in Spark's Scala and Java programs. Nothing is quoted or escaped.
    Scala,
    /// The word, a TAB, the count. A word may contain a TAB: the count follows the last one.
    Tsv,
    /// `a,2`, without a header, quoted by RFC 4180. The line ends in LF, as in all formats.
    Csv,
    /// `{"word":"a","count":2}`, one JSON object a line.
    Jsonl,
    /// A Parquet file with the columns `word` and `count`, or `line`.
    Parquet,
}

named_values!(Format, "--format",
    Python => "python", Scala => "scala", Tsv => "tsv", Csv => "csv", Jsonl => "jsonl",
    Parquet => "parquet");

impl Format {
    /// Appends the row of `word`, well-formed UTF-8, and its `count` to `out`, ended by LF. Appends
    /// nothing in a format that is no text.
    ///
    /// A word never contains LF or CR, since they end lines. `scala` and `tsv` would write them
    /// unchanged, and `csv` in quotes.
    pub fn row(self, word: &[u8], count: i64, out: &mut Vec<u8>) {
        match self {
            Format::Python => {
                out.push(b'(');
                python_repr::repr(word, out);
                count_between(b", ", count, b")\n", out);
            }
            Format::Scala => {
                out.push(b'(');
                append(word, out);
                count_between(b",", count, b")\n", out);
            }
            Format::Tsv => {
                append(word, out);
                count_between(b"\t", count, b"\n", out);
            }
            Format::Csv => {
                csv_field(word, out);
                count_between(b",", count, b"\n", out);
            }
            Format::Jsonl => {
                out.extend_from_slice(b"{\"word\":");
                json_string(word, out);
                count_between(b",\"count\":", count, b"}\n", out);
            }
            Format::Parquet => {}
        }
    }
}

/// The longest count: `i64::MIN` with its sign.
const COUNT_BYTES_MAX: usize = 20;

/// Room for a count and the bytes around it.
const TAIL_BYTES: usize = 32;

/// True for the bytes of well-formed UTF-8 that JSON strings contain unescaped.
static JSON_PLAIN: [bool; 256] = bytes_without(b' '..=b'\xff', b'"');

/// Returns a table with true for the bytes of `range`, except for `quote` and the backslash.
const fn bytes_without(range: RangeInclusive<u8>, quote: u8) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = *range.start() as usize;
    while byte <= *range.end() as usize {
        table[byte] = true;
        byte += 1;
    }
    table[quote as usize] = false;
    table[b'\\' as usize] = false;
    table
}

/// Appends `word`, in quotes if RFC 4180 requires them.
fn csv_field(word: &[u8], out: &mut Vec<u8>) {
    if !word.iter().any(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n')) {
        append(word, out);
        return;
    }
    out.push(b'"');
    for part in word.split_inclusive(|&byte| byte == b'"') {
        out.extend_from_slice(part);
        if part.ends_with(b"\"") {
            out.push(b'"');
        }
    }
    out.push(b'"');
}

/// Appends `word` as a JSON string.
fn json_string(word: &[u8], out: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(word);
    if text.bytes().all(|byte| JSON_PLAIN[byte as usize]) {
        out.push(b'"');
        append(text.as_bytes(), out);
        out.push(b'"');
    } else {
        // Unlike serializing to a writer, printing a value cannot fail.
        let value = serde_json::Value::from(text.into_owned());
        out.extend_from_slice(value.to_string().as_bytes());
    }
}

/// Most bytes that are appended without a call.
const FEW_BYTES: usize = 16;

/// Appends bytes. Copies of a fixed length need no call, which would take longer than a short word.
#[inline]
fn append(bytes: &[u8], out: &mut Vec<u8>) {
    let length = bytes.len();
    let mut few = [0; FEW_BYTES];
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        _ if length > FEW_BYTES => return out.extend_from_slice(bytes),
        // Two pieces, which may overlap.
        (Some(head), Some(tail)) if length <= 8 => {
            few[..4].copy_from_slice(head);
            few[length - 4..length].copy_from_slice(tail);
        }
        (Some(_), Some(_)) => {
            few[..8].copy_from_slice(&bytes[..8]);
            few[length - 8..length].copy_from_slice(&bytes[length - 8..]);
        }
        _ => few.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from),
    }
    out.extend_from_slice(&few);
    out.truncate(out.len() - FEW_BYTES + length);
}

/// Appends `before`, the count in decimal and `after`, in one copy of a fixed length.
fn count_between<const B: usize, const A: usize>(
    before: &[u8; B],
    count: i64,
    after: &[u8; A],
    out: &mut Vec<u8>,
) {
    const { assert!(B + COUNT_BYTES_MAX + A <= TAIL_BYTES) };
    // Filled from its end, since the last digit is computed first.
    let mut tail = [0; 2 * TAIL_BYTES];
    let mut first = TAIL_BYTES - A;
    tail[first..TAIL_BYTES].copy_from_slice(after);
    let mut rest = count.unsigned_abs();
    loop {
        first -= 1;
        tail[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if count < 0 {
        first -= 1;
        tail[first] = b'-';
    }
    first -= B;
    tail[first..first + B].copy_from_slice(before);
    out.extend_from_slice(&tail[first..first + TAIL_BYTES]);
    out.truncate(out.len() - first);
}

#[cfg(test)]
mod tests;
