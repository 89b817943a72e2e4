//! Lines out of counts: one row of text for each word, in the format the reader expects.
//!
//! [`Format::Python`] and [`Format::Scala`] are, to the byte, what Spark's `saveAsTextFiles` writes
//! from the Python and from the Scala program. Python prints a word as its `repr` does, so part of
//! this module is that function, with the table of printable characters frozen (`printable`). The
//! other formats are for readers that were not written against Spark.
//!
//! A word has been decoded before it comes here and is well-formed UTF-8. Should it not be, nothing
//! panics: `python` and `jsonl`, whose rows must be text, put U+FFFD for what is ill-formed, and
//! the other formats pass the bytes through.
//!
//! Rows are written by the million in an epoch, and nearly all words are plain ASCII: those are
//! recognised in one pass and copied in one go.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

mod printable;

/// How a word and its count become a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `('a', 2)`: what Spark's Python program writes, by the rules of Python 3.11's `repr`.
    #[default]
    Python,
    /// `(a,2)`: what Spark's Scala and Java programs write; nothing is quoted or escaped.
    Scala,
    /// The word as it is, a TAB, the count. A word may hold a TAB: the count follows the last one.
    Tsv,
    /// `a,2`, without a header and quoted by RFC 4180; but the line ends in LF, as in all formats.
    Csv,
    /// `{"word":"a","count":2}`, one JSON object a line.
    Jsonl,
}

impl Format {
    /// Every format, in the order in which help lists them.
    pub const ALL: [Format; 5] =
        [Format::Python, Format::Scala, Format::Tsv, Format::Csv, Format::Jsonl];

    /// The name on the command line and in settings.
    pub fn name(self) -> &'static str {
        match self {
            Format::Python => "python",
            Format::Scala => "scala",
            Format::Tsv => "tsv",
            Format::Csv => "csv",
            Format::Jsonl => "jsonl",
        }
    }

    /// Appends the row of `word`, well-formed UTF-8, and its `count` to `out`, ended by LF.
    ///
    /// A word never holds LF or CR, since those end lines. If it did, `scala` and `tsv` would pass
    /// them through, and `csv` too, in quotes.
    pub fn row(self, word: &[u8], count: i64, out: &mut Vec<u8>) {
        match self {
            Format::Python => {
                out.push(b'(');
                python_repr(word, out);
                count_between(b", ", count, b")\n", out);
            }
            Format::Scala => {
                out.push(b'(');
                out.extend_from_slice(word);
                count_between(b",", count, b")\n", out);
            }
            Format::Tsv => {
                out.extend_from_slice(word);
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
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let known = Format::ALL.into_iter().find(|format| format.name() == name);
        known.ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("format {name:?} is not known"))
                .hint(format!("give --format one of {}", Format::ALL.map(Format::name).join(", ")))
        })
    }
}

/// The longest count: `i64::MIN`, its sign included.
const COUNT_BYTES_MAX: usize = 20;

/// Room for a count and what stands around it.
const TAIL_BYTES: usize = 32;

/// The bytes that Python prints as they are, whatever stands around them.
static PYTHON_PLAIN: [bool; 256] = bytes_without(b' '..=b'~', b'\'');

/// The bytes of well-formed UTF-8 that JSON takes as they are.
static JSON_PLAIN: [bool; 256] = bytes_without(b' '..=b'\xff', b'"');

/// A table that holds for the bytes of `range`, but not for `quote` and the backslash.
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

/// Appends `word` as Python 3.11's `repr` prints a string.
fn python_repr(word: &[u8], out: &mut Vec<u8>) {
    if word.iter().all(|&byte| PYTHON_PLAIN[byte as usize]) {
        out.push(b'\'');
        out.extend_from_slice(word);
        out.push(b'\'');
        return;
    }
    let quote = match word.contains(&b'\'') && !word.contains(&b'"') {
        true => '"',
        false => '\'',
    };
    out.push(quote as u8);
    for chunk in word.utf8_chunks() {
        python_escape(chunk.valid(), quote, out);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(quote as u8);
}

/// Appends `text` with a backslash before what Python puts one before, inside `quote`s.
fn python_escape(text: &str, quote: char, out: &mut Vec<u8>) {
    // What needs no escape is copied in runs: `text[copied..at]` is such a run.
    let mut copied = 0;
    for (at, character) in text.char_indices() {
        let printable = match character {
            ' '..='~' => character != quote && character != '\\',
            _ => printable::is_printable(character),
        };
        if printable {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[copied..at]);
        copied = at + character.len_utf8();
        out.push(b'\\');
        match character {
            '\t' => out.push(b't'),
            '\n' => out.push(b'n'),
            '\r' => out.push(b'r'),
            '\\' => out.push(b'\\'),
            _ if character == quote => out.push(quote as u8),
            _ => hexadecimal(character as u32, out),
        }
    }
    out.extend_from_slice(&text.as_bytes()[copied..]);
}

/// Appends `x1f`, `u200d` or `U000e0001`, whichever is the shortest that holds `code`.
fn hexadecimal(code: u32, out: &mut Vec<u8>) {
    let (kind, digits) = match code {
        0..=0xff => (b'x', 2),
        0x100..=0xffff => (b'u', 4),
        _ => (b'U', 8),
    };
    out.push(kind);
    for digit in (0..digits).rev() {
        let digit = (code >> (4 * digit)) & 0xf;
        out.push(b"0123456789abcdef"[digit as usize]);
    }
}

/// Appends `word`, between quotes if RFC 4180 asks for them.
fn csv_field(word: &[u8], out: &mut Vec<u8>) {
    if !word.iter().any(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n')) {
        out.extend_from_slice(word);
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
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Printing a value cannot fail, serialising into a writer could: no error is invented here.
        let value = serde_json::Value::from(text.into_owned());
        out.extend_from_slice(value.to_string().as_bytes());
    }
}

/// Appends `before`, the count in decimal and `after`, in one go.
fn count_between<const B: usize, const A: usize>(
    before: &[u8; B],
    count: i64,
    after: &[u8; A],
    out: &mut Vec<u8>,
) {
    const { assert!(B + COUNT_BYTES_MAX + A <= TAIL_BYTES) };
    // Filled from its end, since the digits come out last first.
    let mut tail = [0; TAIL_BYTES];
    let mut first = TAIL_BYTES - A;
    tail[first..].copy_from_slice(after);
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
    out.extend_from_slice(&tail[first..]);
}

#[cfg(test)]
mod tests;
