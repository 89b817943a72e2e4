//! Cuts and drops lines that are too long. Pure functions on slices.

use memchr::{memchr2, memrchr};

/// A cut of an over-long line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Number of bytes from the front that are whole lines now; 0 if nothing precedes a discarded
    /// word.
    pub text_bytes: usize,
    /// Number of line ends put into them. None of them ends the line itself.
    pub cuts: usize,
    /// True if the rest is the beginning of a word that is already too long.
    pub oversized: bool,
}

/// Cuts `line`, an over-long line (or the rest of one) without a line end so far, by turning spaces
/// into line ends. Returns `None` if the next byte must be known first.
///
/// The rest after the cut is never empty: a rest that turns out to be the end of the line would
/// otherwise be taken for an empty word. Only the last word and the spaces around it are read.
pub fn cut(line: &mut [u8], word_bytes_max: usize) -> Option<Cut> {
    let last_word_end = line.iter().rposition(|&byte| byte != b' ').map_or(0, |at| at + 1);
    match line.len() - last_word_end {
        0 => cut_before_word(line, line.len(), word_bytes_max),
        // One space: the line may end after it, so it must stay. Waiting for the next byte instead
        // would let a sender fill the memory with packets that each end in a space.
        1 => cut_before_word(line, last_word_end, usize::MAX),
        // Nothing but spaces: the next word would decide whether Scala counts them, and the limit
        // does not allow to wait for it.
        spaces if last_word_end == 0 => {
            line[spaces - 2] = b'\n';
            Some(Cut { text_bytes: spaces - 1, cuts: 1, oversized: false })
        }
        // The first space separates the word; the next word decides about the other spaces.
        _ => {
            line[last_word_end] = b'\n';
            Some(Cut { text_bytes: last_word_end + 1, cuts: 1, oversized: false })
        }
    }
}

/// Cuts before the word that ends at `word_end`: each space of the run before it becomes a line
/// end.
fn cut_before_word(line: &mut [u8], word_end: usize, word_bytes_max: usize) -> Option<Cut> {
    let word_start = memrchr(b' ', &line[..word_end]).map_or(0, |at| at + 1);
    let oversized = word_end - word_start > word_bytes_max;
    if word_start == 0 && !oversized {
        return None;
    }
    let run_start =
        line[..word_start].iter().rposition(|&byte| byte != b' ').map_or(0, |at| at + 1);
    line[run_start..word_start].fill(b'\n');
    Some(Cut { text_bytes: word_start, cuts: word_start - run_start, oversized })
}

/// Returns the position after the line end at `at`, and whether a `\n` may still follow its `\r`.
pub fn past_line_end(text: &[u8], at: usize) -> (usize, bool) {
    match (text[at], text.get(at + 1)) {
        (b'\r', Some(b'\n')) => (at + 2, false),
        (b'\r', None) => (at + 1, true),
        _ => (at + 1, false),
    }
}

/// Separates a `\r` that ends a line from a `\n` that was moved after it, to `at`. The two would be
/// read as one line end, so the `\r` becomes a `\n`, and so does each `\r` before it.
pub fn unglue(text: &mut [u8], mut at: usize) {
    while at > 0 && text.get(at - 1..=at) == Some(b"\r\n") {
        at -= 1;
        text[at] = b'\n';
    }
}

/// Moves the lines of `text` that are within `line_bytes_max` to its front. Returns the number of
/// bytes that they take, and the number of lines dropped.
pub fn drop_long_lines(text: &mut [u8], line_bytes_max: usize) -> (usize, u64) {
    let (mut read, mut kept, mut dropped) = (0, 0, 0);
    while let Some(length) = memchr2(b'\n', b'\r', &text[read..]) {
        let (next, _) = past_line_end(text, read + length);
        if length > line_bytes_max {
            dropped += 1;
        } else {
            text.copy_within(read..next, kept);
            unglue(text, kept);
            kept += next - read;
        }
        read = next;
    }
    (kept, dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_text(line: &str) -> Option<(String, String, usize, bool)> {
        let mut line = line.as_bytes().to_vec();
        let cut = cut(&mut line, 4)?;
        let rest = line.split_off(cut.text_bytes);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Some((text(line), text(rest), cut.cuts, cut.oversized))
    }

    fn cut_into(
        text: &str,
        rest: &str,
        cuts: usize,
        oversized: bool,
    ) -> Option<(String, String, usize, bool)> {
        Some((text.to_owned(), rest.to_owned(), cuts, oversized))
    }

    #[test]
    fn a_line_is_cut_before_its_last_word() {
        assert_eq!(cut_text("a b cc"), cut_into("a b\n", "cc", 1, false));
    }

    #[test]
    fn spaces_before_a_word_become_empty_lines() {
        assert_eq!(cut_text("a   b"), cut_into("a\n\n\n", "b", 3, false));
        assert_eq!(cut_text("  b"), cut_into("\n\n", "b", 2, false));
    }

    #[test]
    fn last_space_of_a_line_stays() {
        assert_eq!(cut_text("a b "), cut_into("a\n", "b ", 1, false));
        assert_eq!(cut_text("abcdefgh "), None);
        assert_eq!(cut_text("b  "), cut_into("b\n", " ", 1, false));
        assert_eq!(cut_text("    "), cut_into("  \n", " ", 1, false));
    }

    #[test]
    fn open_word_is_oversized_above_the_limit() {
        assert_eq!(cut_text("a 12345"), cut_into("a\n", "12345", 1, true));
        assert_eq!(cut_text("12345"), cut_into("", "12345", 0, true));
        assert_eq!(cut_text("1234"), None);
    }

    #[test]
    fn lines_that_come_together_keep_their_own_ends() {
        let mut text = *b"a\r\rabcd\n\nb\n";
        assert_eq!(drop_long_lines(&mut text, 3), (6, 1));
        assert_eq!(&text[..6], b"a\n\n\nb\n");
    }

    #[test]
    fn only_lines_above_the_limit_are_dropped() {
        let mut text = *b"ab\r\nabc\r\n\rabc\nabcd\nx\r";
        assert_eq!(drop_long_lines(&mut text, 3), (16, 1));
        assert_eq!(&text[..16], b"ab\r\nabc\r\n\rabc\nx\r");
    }
}
