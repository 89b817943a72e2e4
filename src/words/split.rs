//! Splits text into words, by each [`Split`] rule.
//!
//! [`Split::Space`] is the hot rule: word ends come as 64-bit masks, are collected, and go on in
//! groups large enough for a table to have many cache misses under way at once. Both rare cases are
//! noticed by the same scan and cost nothing until met: from the first carriage return on, the
//! second byte of a CR LF is skipped; at the first byte above 0x7F the rest of the block is checked
//! to be UTF-8, and if it is not, the rest is decoded, from the beginning of the word that is open.
//!
//! The other rules go word by word over text that is known to be valid.

use super::decode::java_lossy;
use super::simd::{self, WINDOW_BYTES, WINDOWS_MAX};
use super::{PAD_BYTES, Split, WordOptions};
use std::borrow::Cow;
use unicode_segmentation::UnicodeSegmentation;

/// Number of word ends from which a group is passed on.
pub const GROUP_MIN: usize = 32;

/// Number of ends that are written at once: so many calls of `put` are in `push`.
const STRIDE: usize = 8;

/// Most word ends in a group: a power of two that holds a nearly full group, the ends of one more
/// window, and the ends that a stride writes past them.
pub const GROUP_MAX: usize = 128;
const _: () =
    assert!(GROUP_MAX.is_power_of_two() && GROUP_MAX >= GROUP_MIN + WINDOW_BYTES + STRIDE);

/// Receives the words of a text.
pub trait WordSink {
    /// Receives the words of `padded` that begin at `start` and end before each of `ends` in turn
    /// (at most [`GROUP_MAX`]). Returns the beginning of the next word. With `CR`, a line feed that
    /// follows a carriage return ends no word.
    fn ended<const CR: bool>(&mut self, padded: &[u8], start: usize, ends: &[usize]) -> usize;

    /// Receives one word.
    fn word(&mut self, word: &[u8]);
}

/// Passes the words of a block to `sink`. `padded` is the block's text, `text_len` bytes, and
/// [`PAD_BYTES`] zeros or more.
pub fn words_into(padded: &[u8], text_len: usize, options: &WordOptions, sink: &mut impl WordSink) {
    assert!(padded.len() >= text_len + PAD_BYTES, "a block lacks its padding");
    let text = &padded[..text_len];
    match (options.split, options.lowercase) {
        (Split::Space, false) => {
            if let Some(rest) = spaced(padded, text_len, false, sink) {
                let decoded = repad(&java_lossy(&text[rest..]));
                spaced(&decoded, decoded.len() - PAD_BYTES, true, sink);
            }
        }
        (Split::Space, true) => {
            let lower = repad(plain(text, true).as_bytes());
            spaced(&lower, lower.len() - PAD_BYTES, true, sink);
        }
        (Split::SpaceScala, lowercase) => spaced_scala(plain(text, lowercase).as_bytes(), sink),
        (Split::Whitespace, lowercase) => plain(text, lowercase)
            .split(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c))
            .filter(|word| !word.is_empty())
            .for_each(|word| sink.word(word.as_bytes())),
        // Lower case comes after the split: it looks at neighbours, which here may be no space.
        (Split::UnicodeWords, false) => {
            plain(text, false).unicode_words().for_each(|word| sink.word(word.as_bytes()));
        }
        (Split::UnicodeWords, true) => plain(text, false)
            .unicode_words()
            .for_each(|word| sink.word(word.to_lowercase().as_bytes())),
    }
}

/// Returns the beginning and the end of each word: see [`WordSink::ended`].
#[inline(always)]
pub fn ended_words<'a, const CR: bool>(
    padded: &'a [u8],
    mut start: usize,
    ends: &'a [usize],
) -> impl Iterator<Item = (usize, usize)> + 'a {
    ends.iter().filter_map(move |&end| {
        let word = (start, end);
        start = end + 1;
        let is_cr_lf = CR && end > 0 && padded[end] == b'\n' && padded[end - 1] == b'\r';
        (!is_cr_lf).then_some(word)
    })
}

/// Returns the beginning of the word after those that end before `ends`.
#[inline(always)]
pub fn next_start(start: usize, ends: &[usize]) -> usize {
    ends.last().map_or(start, |end| end + 1)
}

/// Splits at spaces: the hot rule.
///
/// Stops at text that is not UTF-8, unless `is_utf8` is set, and then returns the beginning of the
/// first word that was not passed on.
fn spaced(
    padded: &[u8],
    text_len: usize,
    mut is_utf8: bool,
    sink: &mut impl WordSink,
) -> Option<usize> {
    let windows = &padded.as_chunks::<WINDOW_BYTES>().0[..text_len.div_ceil(WINDOW_BYTES)];
    let mut group = Group { ends: [0; GROUP_MAX], len: 0, start: 0, cr: false };
    let mut masks = [0; WINDOWS_MAX];
    for (chunk, windows) in windows.chunks(WINDOWS_MAX).enumerate() {
        let seen = simd::scan(windows, &mut masks);
        if seen.high && !is_utf8 {
            group.give(padded, sink);
            if std::str::from_utf8(&padded[group.start..text_len]).is_err() {
                return Some(group.start_after_line_end(padded));
            }
            is_utf8 = true;
        }
        group.cr |= seen.cr;
        let mut at = chunk * WINDOWS_MAX * WINDOW_BYTES;
        for &mask in &masks[..windows.len()] {
            group.push(at, mask);
            if group.len >= GROUP_MIN {
                group.give(padded, sink);
            }
            at += WINDOW_BYTES;
        }
    }
    if text_len > 0 && !matches!(padded[text_len - 1], b'\n' | b'\r') {
        group.push(text_len, 1);
    }
    group.give(padded, sink);
    None
}

/// Word ends that were found and not passed on.
struct Group {
    ends: [usize; GROUP_MAX],
    len: usize,
    /// The beginning of the first word.
    start: usize,
    /// True if a carriage return may be among the ends.
    cr: bool,
}

impl Group {
    /// Adds the ends of the window at `at`.
    #[inline(always)]
    fn push(&mut self, at: usize, mut mask: u64) {
        // A stride at a time, whether there are so many or not: a loop as long as the ends are many
        // would be mispredicted once a window.
        let mut len = self.len;
        self.len += mask.count_ones() as usize;
        while mask != 0 {
            // Written out, since a loop is not unrolled where code is built for size.
            let (ends, len) = (&mut self.ends, &mut len);
            mask = put(ends, len, at, mask);
            mask = put(ends, len, at, mask);
            mask = put(ends, len, at, mask);
            mask = put(ends, len, at, mask);
            mask = put(ends, len, at, mask);
            mask = put(ends, len, at, mask);
            mask = put(ends, len, at, mask);
            mask = put(ends, len, at, mask);
        }
    }

    #[inline(always)]
    fn give(&mut self, padded: &[u8], sink: &mut impl WordSink) {
        let ends = &self.ends[..self.len];
        self.start = match self.cr {
            false => sink.ended::<false>(padded, self.start, ends),
            true => sink.ended::<true>(padded, self.start, ends),
        };
        self.len = 0;
    }

    /// Returns the beginning of the open word. A line feed there may be the second half of a line
    /// end whose first half was passed on; it is skipped.
    fn start_after_line_end(&self, padded: &[u8]) -> usize {
        match self.start.checked_sub(1) {
            Some(before) if padded[before] == b'\r' && padded[self.start] == b'\n' => {
                self.start + 1
            }
            _ => self.start,
        }
    }
}

/// Writes the lowest end of a mask at `len`, and returns the mask without it.
#[inline(always)]
fn put(ends: &mut [usize; GROUP_MAX], len: &mut usize, at: usize, mask: u64) -> u64 {
    ends[*len % GROUP_MAX] = at + mask.trailing_zeros() as usize;
    *len += 1;
    mask & mask.wrapping_sub(1)
}

/// Splits by Scala's rule: spaces at the end of a line are ignored; an empty line is one empty
/// word.
fn spaced_scala(text: &[u8], sink: &mut impl WordSink) {
    let mut rest = text;
    while let Some(end) = memchr::memchr2(b'\n', b'\r', rest).or_else(|| whole(rest)) {
        let line = &rest[..end];
        let cr_lf = rest[end..].starts_with(b"\r\n");
        rest = rest.get(end + 1 + usize::from(cr_lf)..).unwrap_or_default();
        let Some(last) = line.iter().rposition(|byte| *byte != b' ') else {
            if line.is_empty() {
                sink.word(line);
            }
            continue;
        };
        line[..=last].split(|byte| *byte == b' ').for_each(|word| sink.word(word));
    }
}

/// Returns the end of a last line without a line end.
fn whole(rest: &[u8]) -> Option<usize> {
    (!rest.is_empty()).then_some(rest.len())
}

/// Returns `text` as valid text, in lower case if asked for.
///
/// Lower-casing a block equals lower-casing its words: spaces and line ends are not letters, and
/// the rule looks at neighbouring letters only.
fn plain(text: &[u8], lowercase: bool) -> Cow<'_, str> {
    let text = match java_lossy(text) {
        Cow::Borrowed(text) => String::from_utf8_lossy(text),
        Cow::Owned(text) => Cow::Owned(String::from_utf8_lossy(&text).into_owned()),
    };
    match lowercase {
        true => Cow::Owned(text.to_lowercase()),
        false => text,
    }
}

/// Returns a copy of `text` with its padding.
fn repad(text: &[u8]) -> Vec<u8> {
    let mut padded = Vec::with_capacity(text.len() + PAD_BYTES);
    padded.extend_from_slice(text);
    padded.resize(text.len() + PAD_BYTES, 0);
    padded
}
