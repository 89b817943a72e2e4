//! The oracle: Spark's word count, slow, sequential and obvious.
//!
//! Every later test compares with it, so it shares nothing with the program: its own line splitter,
//! its own decoder, its own `repr`, none of them written with speed in mind. What makes it right is
//! that it reproduces what a real Spark wrote (`tests/data/spark-cases`), case by case.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use wordtide::internals::outputs::format::Format;
use wordtide::internals::words::decode::java_lossy;

/// How often each word occurs; the word is decoded text.
pub(crate) type Counts = BTreeMap<Vec<u8>, u64>;

/// The lines that Java's `BufferedReader.readLine` finds: each ended by LF, CR or CR LF, and what
/// follows the last end, unless that is nothing.
pub(crate) fn lines(input: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    for (at, &byte) in input.iter().enumerate() {
        match byte {
            b'\n' if at > 0 && input[at - 1] == b'\r' => {}
            b'\n' | b'\r' => lines.push(std::mem::take(&mut line)),
            _ => line.push(byte),
        }
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// Python's `line.split(" ")`: n spaces make n + 1 words, empty ones among them.
pub(crate) fn words_python(line: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word = Vec::new();
    for &byte in line {
        match byte {
            b' ' => words.push(std::mem::take(&mut word)),
            _ => word.push(byte),
        }
    }
    words.push(word);
    words
}

/// Scala's `line.split(" ")`: Python's words without the empty ones at the end; but a line without
/// any space is one word, even if it is empty.
pub(crate) fn words_scala(line: &[u8]) -> Vec<Vec<u8>> {
    let mut words = words_python(line);
    if line.contains(&b' ') {
        while words.last().is_some_and(Vec::is_empty) {
            words.pop();
        }
    }
    words
}

/// Counts the words that `split` finds in the lines of `input`.
pub(crate) fn count(input: &[u8], split: fn(&[u8]) -> Vec<Vec<u8>>) -> Counts {
    let mut counts = Counts::new();
    for line in lines(input) {
        for word in split(&line) {
            *counts.entry(decode(&word).into_bytes()).or_default() += 1;
        }
    }
    counts
}

/// The result of Java's UTF-8 decoder for `bytes`: U+FFFD for each ill-formed part.
///
/// The lead byte states how long the character should be. Bytes are added to its value while the
/// value can still come out right for that length; where it cannot, what was read is one U+FFFD.
pub(crate) fn decode(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = bytes;
    while let Some(&lead) = rest.first() {
        let (used, character) = match lead {
            0x00..=0x7f => (1, char::from(lead)),
            0xc2..=0xdf => sequence(rest, 2, 0x80, 0x7ff),
            0xe0..=0xef => sequence(rest, 3, 0x800, 0xffff),
            0xf0..=0xf4 => sequence(rest, 4, 0x1_0000, 0x10_ffff),
            _ => (1, '\u{fffd}'),
        };
        text.push(character);
        rest = &rest[used..];
    }
    text
}

/// How many bytes to take from the front of `bytes`, and the character they are: one of `length`
/// bytes with a value in `least..=most`, or U+FFFD for those that only began one.
fn sequence(bytes: &[u8], length: usize, least: u32, most: u32) -> (usize, char) {
    let mut value = u32::from(bytes[0]) & (0x7f >> length);
    for used in 1..length {
        let Some(byte) = bytes.get(used).filter(|&&byte| byte & 0xc0 == 0x80) else {
            return (used, '\u{fffd}');
        };
        value = (value << 6) | u32::from(byte & 0x3f);
        let to_come = 6 * (length - 1 - used);
        let (lowest, highest) = (value << to_come, ((value + 1) << to_come) - 1);
        if highest < least || lowest > most {
            return (used, '\u{fffd}');
        }
    }
    // A surrogate is whole here but no character: Java replaces its bytes together.
    (length, char::from_u32(value).unwrap_or('\u{fffd}'))
}

/// The lines that Spark's Python program saves, without line ends, in the order of the words.
pub(crate) fn rows_python(counts: &Counts) -> Vec<String> {
    let mut rows = Vec::new();
    for (word, count) in counts {
        rows.push(format!("({}, {count})", repr(&text(word))));
    }
    rows
}

/// The lines that Spark's Scala program saves, without line ends, in the order of the words.
pub(crate) fn rows_scala(counts: &Counts) -> Vec<String> {
    let mut rows = Vec::new();
    for (word, count) in counts {
        rows.push(format!("({},{count})", text(word)));
    }
    rows
}

fn text(word: &[u8]) -> String {
    String::from_utf8(word.to_vec()).expect("a counted word is decoded")
}

/// Python 3.11's `repr` of a string.
fn repr(word: &str) -> String {
    let double = word.contains('\'') && !word.contains('"');
    let inner: String = word.chars().map(|c| repr_of_one(c, double)).collect();
    if double { format!("\"{inner}\"") } else { format!("'{inner}'") }
}

fn repr_of_one(character: char, double: bool) -> String {
    let code = u32::from(character);
    let escaped = ESCAPED.iter().any(|&(first, last)| first <= code && code <= last);
    match character {
        '\\' => r"\\".to_owned(),
        '\'' if !double => r"\'".to_owned(),
        '\t' => r"\t".to_owned(),
        '\n' => r"\n".to_owned(),
        '\r' => r"\r".to_owned(),
        _ if !escaped => character.to_string(),
        _ if code < 0x100 => format!("\\x{code:02x}"),
        _ if code < 0x1_0000 => format!("\\u{code:04x}"),
        _ => format!("\\U{code:08x}"),
    }
}

/// First and last code point of each range that Python 3.11 escapes, as its own `repr` has it.
static ESCAPED: LazyLock<Vec<(u32, u32)>> = LazyLock::new(|| {
    let code = |text| u32::from_str_radix(text, 16).expect("hexadecimal");
    include_str!("data/python-repr/escaped.txt")
        .lines()
        .map(|line| line.split_once(' ').expect("first and last"))
        .map(|(first, last)| (code(first), code(last)))
        .collect()
});

/// One run of a real Spark.
pub(crate) struct Case {
    /// The folder's name.
    pub(crate) name: String,
    /// The bytes that were sent.
    pub(crate) input: Vec<u8>,
    /// The lines of the Python program, sorted, without line ends.
    pub(crate) python: Vec<String>,
    /// The lines of the Scala program, sorted, without line ends.
    pub(crate) scala: Vec<String>,
}

/// All runs of a real Spark, by name.
pub(crate) fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/spark-cases");
    let read = |path: &Path| {
        fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
    };
    let mut cases = Vec::new();
    for entry in fs::read_dir(&root).expect("the cases are in the repository") {
        let folder = entry.expect("an entry").path();
        if folder.is_dir() {
            cases.push(Case {
                name: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                input: read(&folder.join("input.bin")),
                python: sorted_lines(read(&folder.join("expected.txt"))),
                scala: sorted_lines(read(&folder.join("expected-scala.txt"))),
            });
        }
    }
    assert_eq!(cases.len(), 36, "cases in {}", root.display());
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// The lines of an object, each ended by LF and by nothing else, sorted: equal if and only if the
/// multisets are.
pub(crate) fn sorted_lines(object: Vec<u8>) -> Vec<String> {
    let text = String::from_utf8(object).expect("Spark writes UTF-8");
    let mut lines: Vec<String> = text.split_terminator('\n').map(str::to_owned).collect();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line has no end");
    lines.sort();
    lines
}

pub(crate) fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort();
    rows
}

/// The output of the program for `counts`, one row after the other.
fn rows_of_the_program(format: Format, counts: &Counts) -> Vec<u8> {
    let mut object = Vec::new();
    for (word, &count) in counts {
        format.row(word, i64::try_from(count).expect("small"), &mut object);
    }
    object
}

#[test]
fn the_oracle_writes_what_spark_in_python_wrote() {
    for case in cases() {
        let rows = rows_python(&count(&case.input, words_python));
        assert_eq!(sorted(rows), case.python, "case {}", case.name);
    }
}

#[test]
fn the_oracle_writes_what_spark_in_scala_wrote() {
    for case in cases() {
        let rows = rows_scala(&count(&case.input, words_scala));
        assert_eq!(sorted(rows), case.scala, "case {}", case.name);
    }
}

#[test]
fn program_formats_every_case_as_spark() {
    for case in cases() {
        let python = rows_of_the_program(Format::Python, &count(&case.input, words_python));
        assert_eq!(sorted_lines(python), case.python, "case {}", case.name);
        let scala = rows_of_the_program(Format::Scala, &count(&case.input, words_scala));
        assert_eq!(sorted_lines(scala), case.scala, "case {}", case.name);
    }
}

#[test]
fn program_decodes_every_case_as_oracle() {
    for case in cases() {
        let decoded = java_lossy(&case.input);
        assert_eq!(decoded, decode(&case.input).as_bytes(), "case {}", case.name);
    }
}

#[test]
fn line_ends_at_lf_cr_or_both() {
    let found = lines(b"a\nb\rc\r\nd\n\re\r\r\nf");
    assert_eq!(found, ["a", "b", "c", "d", "", "e", "", "f"].map(Vec::from));
    assert_eq!(lines(b"\x0b\x0c\xc2\x85\xe2\x80\xa8").len(), 1);
    assert!(lines(b"").is_empty());
}

#[test]
fn languages_differ_in_empty_last_words() {
    for (line, python, scala) in [
        ("", &[""][..], &[""][..]),
        ("   ", &["", "", "", ""], &[]),
        (" a  b ", &["", "a", "", "b", ""], &["", "a", "", "b"]),
        ("a\tb", &["a\tb"], &["a\tb"]),
    ] {
        assert_eq!(
            words_python(line.as_bytes()),
            python.iter().map(|w| Vec::from(*w)).collect::<Vec<_>>()
        );
        assert_eq!(
            words_scala(line.as_bytes()),
            scala.iter().map(|w| Vec::from(*w)).collect::<Vec<_>>()
        );
    }
}

proptest! {
    #[test]
    fn python_rows_are_those_of_oracle(
        words in prop::collection::btree_map(r#"[\PC\p{C}'"\\\t]{0,6}"#, any::<u32>(), 0..8),
    ) {
        let counts: Counts = words.into_iter().map(|(word, n)| (word.into(), n.into())).collect();
        let mut expected = rows_python(&counts).join("\n");
        expected.extend((!counts.is_empty()).then_some('\n'));
        let rows = rows_of_the_program(Format::Python, &counts);
        prop_assert_eq!(String::from_utf8(rows).expect("text"), expected);
    }

    #[test]
    fn any_bytes_are_decoded_as_by_the_oracle(
        bytes in prop::collection::vec(
            prop_oneof![any::<u8>(), 0x80..=0xbf_u8, 0xe0..=0xf5_u8],
            0..24,
        ),
    ) {
        let decoded = String::from_utf8(java_lossy(&bytes).into_owned());
        prop_assert_eq!(decoded.expect("text"), decode(&bytes));
    }
}
