//! Python's `repr` of a string, as Python 3.11 prints it.
//!
//! The characters that Python prints as they are come from a frozen table, [`printable`].

use super::{append, bytes_without};

pub mod printable;

/// True for the bytes that Python prints as they are in every string.
static PLAIN: [bool; 256] = bytes_without(b' '..=b'~', b'\'');

/// Appends `word` as Python 3.11's `repr` prints a string.
pub fn repr(word: &[u8], out: &mut Vec<u8>) {
    if word.iter().all(|&byte| PLAIN[byte as usize]) {
        out.push(b'\'');
        append(word, out);
        out.push(b'\'');
        return;
    }
    let quote = match word.contains(&b'\'') && !word.contains(&b'"') {
        true => '"',
        false => '\'',
    };
    out.push(quote as u8);
    for chunk in word.utf8_chunks() {
        escape(chunk.valid(), quote, out);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(quote as u8);
}

/// Appends `text`, which is inside `quote`s, with Python's escapes.
fn escape(text: &str, quote: char, out: &mut Vec<u8>) {
    // Text without escapes is copied in runs: `text[copied..at]` is such a run.
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

/// Appends `x1f`, `u200d` or `U000e0001`: the shortest form for `code`.
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
