//! The text of one row in each format, with quotes and escapes.

use super::{Format, append, bytes_without, python_repr};

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
