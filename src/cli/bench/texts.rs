//! The texts of a bench: a piece in memory, sent as often as the size asks for.

use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use super::super::flags::TextChoice;
use super::check_counts::Truth;
use crate::error::{Error, ErrorKind, Result};
use crate::words::{WordOptions, decode::java_lossy};

/// Largest piece of a text. A longer text is this piece again and again.
pub const PIECE_MIB_MAX: u64 = 256;

/// A text, with its counts.
#[derive(Clone, Debug)]
pub struct BenchText {
    /// The name in reports.
    pub name: String,
    /// Whole lines of UTF-8, each ended by a line feed.
    pub piece: Arc<Vec<u8>>,
    /// The number of times that the piece is sent.
    pub repeats: u64,
    /// The counts of the piece.
    once: Truth,
    /// True for a text that was made here: no two spaces follow one another.
    pub is_generated: bool,
}

impl BenchText {
    /// Makes or reads a text of `mib`.
    ///
    /// # Errors
    ///
    /// `Configuration` if the file cannot be used.
    pub fn load(choice: &TextChoice, mib: u64, seed: u64) -> Result<BenchText> {
        let piece_bytes = piece_bytes(mib);
        let (piece, is_generated) = match choice {
            TextChoice::Generated(corpus) => (corpus.text(piece_bytes, seed), true),
            TextChoice::File(path) => (of_file(path, piece_bytes)?, false),
        };
        Ok(BenchText::new(choice.name(), piece, mib << 20, is_generated))
    }

    /// Checks a text that is a file, before anything runs.
    ///
    /// # Errors
    ///
    /// Those of [`BenchText::load`].
    pub fn check(choice: &TextChoice, mib: u64) -> Result<()> {
        match choice {
            TextChoice::Generated(_) => Ok(()),
            TextChoice::File(path) => of_file(path, piece_bytes(mib)).map(drop),
        }
    }

    fn new(name: String, piece: Vec<u8>, bytes: u64, is_generated: bool) -> BenchText {
        let repeats = bytes.div_ceil(piece.len() as u64).max(1);
        // A piece can be longer than asked for by less than a line, and is then sent once.
        let repeats = if bytes <= PIECE_MIB_MAX << 20 { 1 } else { repeats };
        let once = Truth::of(&piece);
        BenchText { name, piece: Arc::new(piece), repeats, once, is_generated }
    }

    /// Returns the reason why DuckDB would not read the lines of the text as they are.
    pub fn unsuited_to_duckdb(&self) -> Option<&'static str> {
        let is_other = |byte: &u8| *byte < b' ' && !matches!(byte, b'\n' | b'\t');
        if self.is_generated {
            return None;
        }
        if self.piece.starts_with(b"\n") || memchr::memmem::find(&self.piece, b"\n\n").is_some() {
            return Some("it skips empty lines");
        }
        let has_control = self.piece.iter().any(is_other);
        has_control.then_some("the text has control bytes, which it may take for separators")
    }

    /// Returns the least and the most words that `wc -w` may count in a piece, in the C locale.
    ///
    /// Words are split at white space of ASCII. A word without a byte that can be printed counts in
    /// some releases of it.
    pub fn words_of_wc(&self) -> RangeInclusive<u64> {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
        let words = || self.piece.split(is_space).filter(|word| !word.is_empty());
        let is_printed = |word: &&[u8]| word.iter().any(u8::is_ascii_graphic);
        words().filter(is_printed).count() as u64..=words().count() as u64
    }

    /// Returns the size of all that is sent, in MiB, rounded.
    pub fn mib(&self) -> u64 {
        (self.bytes() + (1 << 19)) >> 20
    }

    /// Returns the number of bytes that are sent.
    pub fn bytes(&self) -> u64 {
        self.piece.len() as u64 * self.repeats
    }

    /// Returns the counts of all that is sent.
    pub fn truth(&self) -> Truth {
        self.once.times(self.repeats)
    }

    /// Returns the number of lines in a piece.
    pub fn lines(&self) -> usize {
        memchr::memchr_iter(b'\n', &self.piece).count()
    }

    /// Returns the piece, sent once.
    pub fn once(&self) -> BenchText {
        self.repeated(1)
    }

    /// Returns the piece, sent so many times.
    pub fn repeated(&self, repeats: u64) -> BenchText {
        BenchText { repeats, ..self.clone() }
    }

    /// Returns whole lines of at most so many bytes from the beginning; one line at least.
    pub fn beginning(&self, bytes_max: usize) -> BenchText {
        let end = self.piece.len().min(bytes_max);
        let end = memchr::memrchr(b'\n', &self.piece[..end])
            .or_else(|| memchr::memchr(b'\n', &self.piece))
            .map_or(self.piece.len(), |last| last + 1);
        BenchText::new(self.name.clone(), self.piece[..end].to_vec(), 0, self.is_generated)
    }
}

/// Returns the most bytes of the piece of a text of `mib`.
fn piece_bytes(mib: u64) -> usize {
    (mib.min(PIECE_MIB_MAX) << 20) as usize
}

/// Reads the beginning of a file, and repeats it until it has so many bytes.
fn of_file(path: &Path, piece_bytes: usize) -> Result<Vec<u8>> {
    let name = path.display();
    let unusable = |why: &str| {
        Error::new(ErrorKind::Configuration, format!("{name} {why}")).hint("give another --corpus")
    };
    let mut raw = Vec::new();
    File::open(path)
        .and_then(|file| file.take(piece_bytes as u64).read_to_end(&mut raw))
        .map_err(|error| unusable(&format!("cannot be read: {error}")).cause(error))?;
    if raw.len() == piece_bytes {
        // The last line may go on in the file.
        let end = memchr::memrchr(b'\n', &raw).ok_or_else(|| unusable("has a line too long"))?;
        raw.truncate(end + 1);
    }
    let lines = plain(&raw);
    if lines.is_empty() {
        return Err(unusable("is empty"));
    }
    let longest = lines.split(|byte| matches!(byte, b' ' | b'\n')).map(<[u8]>::len).max();
    if longest.is_some_and(|longest| longest > WordOptions::default().word_bytes_max) {
        return Err(unusable("has a word of more than 1 MiB, which is not counted"));
    }
    let times = (piece_bytes / lines.len()).max(1);
    Ok(lines.repeat(times))
}

/// Returns the lines of a file as all programs understand them: in UTF-8, ended by line feeds.
fn plain(raw: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(raw.len() + 1);
    let mut bytes = raw.iter().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' if bytes.peek() == Some(&&b'\n') => {}
            b'\r' => lines.push(b'\n'),
            _ => lines.push(*byte),
        }
    }
    if lines.last().is_some_and(|last| *last != b'\n') {
        lines.push(b'\n');
    }
    if std::str::from_utf8(&lines).is_ok() { lines } else { java_lossy(&lines).into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_a_piece_repeated() {
        let text = BenchText::new("some".to_owned(), b"a b\n".repeat(1 << 20), 1 << 30, true);
        assert_eq!((text.repeats, text.bytes()), (256, 1 << 30));
        assert_eq!((text.truth().words, text.truth().rows), (2 << 28, 2));
        assert_eq!(text.once().bytes(), 4 << 20);
        assert_eq!(text.beginning(10).piece.as_slice(), b"a b\na b\n");
        assert_eq!(text.beginning(1).piece.as_slice(), b"a b\n", "never nothing");
    }

    #[test]
    fn small_file_is_repeated_in_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lines");
        std::fs::write(&path, b"a\r\nb\rc\xff").expect("a file");
        let text = BenchText::load(&TextChoice::File(path), 1, 1).expect("a text");
        assert!(text.piece.starts_with("a\nb\nc\u{fffd}\na\nb\n".as_bytes()));
        assert!(text.bytes() > 1_000_000 && text.bytes() <= 1 << 20 && text.mib() == 1);
        assert_eq!(text.unsuited_to_duckdb(), None);
    }

    #[test]
    fn words_of_wc_are_split_at_white_space() {
        let words = |text: &str| {
            let piece = text.as_bytes().to_vec();
            BenchText::new("some".to_owned(), piece, 0, false).words_of_wc()
        };
        assert_eq!(words("a  b\tc\n\n d\x0be\x0c\n"), 5..=5);
        assert_eq!(words("d\u{e9}j\u{e0}\u{a0}vu\n"), 1..=1);
        assert_eq!(words("a \u{e9} \x01\n"), 1..=3);
    }

    #[test]
    fn duckdb_is_left_out_for_the_real_reason() {
        let reason = |text: &str| {
            let piece = text.as_bytes().to_vec();
            BenchText::new("some".to_owned(), piece, 0, false).unsuited_to_duckdb()
        };
        assert!(reason("a\n\nb\n").is_some_and(|reason| reason.contains("empty lines")));
        assert!(reason("a\x01b\n").is_some_and(|reason| reason.contains("control bytes")));
        assert_eq!(reason("a\tb\n"), None);
    }

    #[test]
    fn unusable_texts_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "").expect("a file");
        let error = BenchText::load(&TextChoice::File(empty), 1, 1).expect_err("nothing to count");
        assert_eq!(error.kind(), ErrorKind::Configuration);
    }
}
