//! Decodes bytes that may be ill-formed UTF-8, exactly as Spark's receiver does.
//!
//! Spark reads its socket through OpenJDK's UTF-8 decoder, which replaces ill-formed bytes by
//! U+FFFD. The number of U+FFFD decides which words are equal, so the rule must be the same to the
//! byte: one for each maximal prefix of a well-formed sequence, as Unicode advises and as
//! [`String::from_utf8_lossy`] does, with one exception. A surrogate encoded by itself, `ED A0..BF`
//! with or without its third byte, is *one* U+FFFD to Java, but two or three to Rust and Python.
//!
//! A sequence cut by a line's end, a space or the end of the input is one U+FFFD, and neither LF,
//! CR nor a space ever continues one. So decoding a word, its line or the whole stream gives the
//! same.

use std::borrow::Cow;

/// The UTF-8 of U+FFFD, the replacement character.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// Returns `text` as OpenJDK's UTF-8 decoder reads it, encoded as well-formed UTF-8.
///
/// Well-formed text is borrowed. Ill-formed text grows to at most three times its size.
///
/// ```
/// use wordtide::internals::words::decode::java_lossy;
///
/// assert_eq!(java_lossy(b"caf\xc3"), "caf\u{fffd}".as_bytes());
/// assert_eq!(java_lossy(b"\xed\xa0\x80"), "\u{fffd}".as_bytes());
/// ```
pub fn java_lossy(text: &[u8]) -> Cow<'_, [u8]> {
    let Err(mut error) = std::str::from_utf8(text) else {
        return Cow::Borrowed(text);
    };
    let mut decoded = Vec::with_capacity(text.len() + REPLACEMENT.len());
    let mut rest = text;
    loop {
        let (valid, ill_formed) = rest.split_at(error.valid_up_to());
        decoded.extend_from_slice(valid);
        decoded.extend_from_slice(REPLACEMENT);
        let replaced =
            encoded_surrogate(ill_formed).or(error.error_len()).unwrap_or(ill_formed.len());
        rest = &ill_formed[replaced..];
        match std::str::from_utf8(rest) {
            Ok(_) => {
                decoded.extend_from_slice(rest);
                return Cow::Owned(decoded);
            }
            Err(next) => error = next,
        }
    }
}

/// Returns the length of the encoded surrogate that `text` begins with, with or without its third
/// byte.
fn encoded_surrogate(text: &[u8]) -> Option<usize> {
    match text {
        [0xed, 0xa0..=0xbf, 0x80..=0xbf, ..] => Some(3),
        [0xed, 0xa0..=0xbf, ..] => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule read the slow way: at each byte, the longest part that begins some sequence.
    fn by_the_longest_part(text: &[u8]) -> String {
        let mut decoded = String::new();
        let mut at = 0;
        while at < text.len() {
            let mut state = State::Start;
            let mut end = at;
            while end < text.len() && state != State::Whole {
                let next = state.step(text[end]);
                if next == State::Wrong {
                    break;
                }
                (state, end) = (next, end + 1);
            }
            match std::str::from_utf8(&text[at..end]) {
                Ok(character) if state == State::Whole => decoded.push_str(character),
                _ => decoded.push('\u{fffd}'),
            }
            at = end.max(at + 1);
        }
        decoded
    }

    /// How far into one sequence; `Need(n, low, high)` wants n more bytes, the next in low..=high.
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        Start,
        Need(u8, u8, u8),
        Whole,
        Wrong,
    }

    impl State {
        fn step(self, byte: u8) -> State {
            match (self, byte) {
                (State::Start, 0x00..=0x7f) => State::Whole,
                (State::Start, 0xc2..=0xdf) => State::Need(1, 0x80, 0xbf),
                (State::Start, 0xe0) => State::Need(2, 0xa0, 0xbf),
                // Surrogates are let through here: that is Java's exception.
                (State::Start, 0xe1..=0xef) => State::Need(2, 0x80, 0xbf),
                (State::Start, 0xf0) => State::Need(3, 0x90, 0xbf),
                (State::Start, 0xf1..=0xf3) => State::Need(3, 0x80, 0xbf),
                (State::Start, 0xf4) => State::Need(3, 0x80, 0x8f),
                (State::Need(more, low, high), _) if (low..=high).contains(&byte) => match more {
                    1 => State::Whole,
                    _ => State::Need(more - 1, 0x80, 0xbf),
                },
                _ => State::Wrong,
            }
        }
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(java_lossy(bytes).into_owned()).unwrap()
    }

    /// Bytes near every border of the rule, so that random strings meet all of its branches.
    fn bytes_near_borders() -> impl Strategy<Value = Vec<u8>> {
        let borders = vec![
            b'a', b' ', b'\n', 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf,
            0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff,
        ];
        prop::collection::vec(
            prop_oneof![3 => prop::sample::select(borders), 1 => any::<u8>()],
            0..12,
        )
    }

    #[test]
    fn well_formed_text_is_borrowed() {
        for valid in ["", "a", "a\u{fffd}b", "\u{e9}\u{4e2d}\u{1f600}\0"] {
            let bytes = valid.as_bytes();
            assert!(matches!(java_lossy(bytes), Cow::Borrowed(text) if text == bytes), "{valid}");
        }
    }

    #[test]
    fn each_maximal_ill_formed_part_is_one_replacement() {
        assert_eq!(text(b"\xff\xfe"), "\u{fffd}\u{fffd}");
        assert_eq!(text(b"\xc0\xaf"), "\u{fffd}\u{fffd}");
        assert_eq!(text(b"\xe0\x80\x80"), "\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(text(b"\xf0\x9f\x98x"), "\u{fffd}x");
        assert_eq!(text(b"\xf4\x90\x80\x80"), "\u{fffd}\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(text(b"\xe2\x82\xe2\x82\xac"), "\u{fffd}\u{20ac}");
    }

    #[test]
    fn cut_sequence_is_one_replacement() {
        for cut in [&b"\xc3"[..], b"\xe2\x82", b"\xf0\x9f", b"\xf0\x9f\x98", b"\xed\x9f"] {
            for end in ["", "\n", "\r", " "] {
                let whole = [b"x", cut, end.as_bytes()].concat();
                assert_eq!(text(&whole), format!("x\u{fffd}{end}"), "{whole:x?}");
            }
        }
    }

    #[test]
    fn encoded_surrogate_is_one_replacement() {
        assert_eq!(text(b"\xed\xa0\x80"), "\u{fffd}");
        assert_eq!(text(b"\xed\xbf\xbf"), "\u{fffd}");
        assert_eq!(text(b"a\xed\xa0"), "a\u{fffd}");
        assert_eq!(text(b"\xed\xa0\n"), "\u{fffd}\n");
        assert_eq!(text(b"\xed\xa0\xed\xb0\x80\x80"), "\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(text(b"\xed\xa0\xbd\xed\xb8\x80"), "\u{fffd}\u{fffd}");
        assert_eq!(text(b"\xed\x9f\xbf\xee\x80\x80"), "\u{d7ff}\u{e000}");
    }

    #[test]
    fn three_byte_strings_are_decoded_by_the_rule() {
        for first in 0xc0..=0xff {
            for second in 0x7f..=0xff {
                for third in [0x0a, 0x7f, 0x80, 0xbf, 0xc0, 0xed] {
                    let bytes = [first, second, third];
                    assert_eq!(text(&bytes), by_the_longest_part(&bytes), "{bytes:x?}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn any_bytes_are_decoded_by_the_rule(bytes in bytes_near_borders()) {
            prop_assert_eq!(text(&bytes), by_the_longest_part(&bytes));
        }

        #[test]
        fn words_decode_as_the_whole_does(bytes in bytes_near_borders()) {
            for separator in [b' ', b'\n'] {
                let apart: Vec<_> = bytes.split(|&b| b == separator).map(java_lossy).collect();
                prop_assert_eq!(&apart.join(&separator)[..], &java_lossy(&bytes)[..]);
            }
        }

        #[test]
        fn decoded_text_is_well_formed_and_bounded(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let decoded = java_lossy(&bytes);
            prop_assert!(decoded.len() <= 3 * bytes.len());
            prop_assert_eq!(java_lossy(&decoded), Cow::Borrowed(&decoded[..]));
        }
    }
}
