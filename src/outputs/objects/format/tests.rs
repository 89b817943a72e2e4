use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

/// The row of `word`, without its line end.
fn row(format: Format, word: impl AsRef<[u8]>, count: i64) -> String {
    let mut out = b"before ".to_vec();
    format.row(word.as_ref(), count, &mut out);
    let row = out.strip_prefix(b"before ").unwrap();
    let row = row.strip_suffix(b"\n").unwrap();
    String::from_utf8(row.to_vec()).unwrap()
}

/// The word as the Python format prints it.
fn repr(word: impl AsRef<[u8]>) -> String {
    let row = row(Format::Python, word, 1);
    let repr = row.strip_prefix('(').unwrap().strip_suffix(", 1)").unwrap();
    repr.to_owned()
}

/// The ranges of code points that Python 3.11's own `repr` escapes by number.
fn escaped_by_python() -> Vec<(u32, u32)> {
    include_str!("../../../../tests/data/python-repr/escaped.txt")
        .lines()
        .map(|line| {
            let (first, last) = line.split_once(' ').unwrap();
            let code = |text| u32::from_str_radix(text, 16).unwrap();
            (code(first), code(last))
        })
        .collect()
}

#[test]
fn each_format_writes_its_line() {
    assert_eq!(row(Format::Python, "a", 2), "('a', 2)");
    assert_eq!(row(Format::Scala, "a", 2), "(a,2)");
    assert_eq!(row(Format::Tsv, "a", 2), "a\t2");
    assert_eq!(row(Format::Csv, "a", 2), "a,2");
    assert_eq!(row(Format::Jsonl, "a", 2), r#"{"word":"a","count":2}"#);
}

#[test]
fn empty_word_has_a_line_in_each_format() {
    assert_eq!(row(Format::Python, "", 3), "('', 3)");
    assert_eq!(row(Format::Scala, "", 3), "(,3)");
    assert_eq!(row(Format::Tsv, "", 3), "\t3");
    assert_eq!(row(Format::Csv, "", 3), ",3");
    assert_eq!(row(Format::Jsonl, "", 3), r#"{"word":"","count":3}"#);
}

#[test]
fn extreme_counts_are_written_in_full() {
    for count in [0, 7, 10, 99, 100, 1_234_567, -1, i64::MAX, i64::MIN] {
        assert_eq!(row(Format::Tsv, "", count), format!("\t{count}"));
    }
}

#[test]
fn python_chooses_the_quote_that_saves_a_backslash() {
    assert_eq!(repr("say"), "'say'");
    assert_eq!(repr("don't"), r#""don't""#);
    assert_eq!(repr(r#"say"hi""#), r#"'say"hi"'"#);
    assert_eq!(repr(r#"don't"say"#), r#"'don\'t"say'"#);
    assert_eq!(repr("'"), r#""'""#);
}

#[test]
fn python_escapes_backslash_tab_and_control_characters() {
    assert_eq!(repr(r"C:\n"), r"'C:\\n'");
    assert_eq!(repr(r"it's\"), r#""it's\\""#);
    assert_eq!(repr("a\tb"), r"'a\tb'");
    assert_eq!(repr("\0\x1f\x7f"), r"'\x00\x1f\x7f'");
    assert_eq!(repr("\n\r"), r"'\n\r'");
}

#[test]
fn python_escapes_by_the_shortest_number() {
    assert_eq!(repr("\u{80}\u{a0}\u{ad}"), r"'\x80\xa0\xad'");
    assert_eq!(repr("\u{378}\u{200d}\u{3000}\u{feff}"), r"'\u0378\u200d\u3000\ufeff'");
    assert_eq!(repr("\u{e000}\u{ffff}\u{e0001}\u{10ffff}"), r"'\ue000\uffff\U000e0001\U0010ffff'");
    assert_eq!(
        repr("caf\u{e9} e\u{301} \u{4e2d}\u{fffd}\u{1f600}"),
        "'caf\u{e9} e\u{301} \u{4e2d}\u{fffd}\u{1f600}'"
    );
}

#[test]
fn characters_newer_than_unicode_14_are_escaped() {
    assert_eq!(repr("\u{1fae8}"), r"'\U0001fae8'");
    assert_eq!(repr("\u{1fae0}"), "'\u{1fae0}'");
}

#[test]
fn every_character_is_escaped_as_by_python() {
    let mut escaped = escaped_by_python();
    assert_eq!(escaped.len(), 701, "ranges that Python 3.11 escapes");
    // Surrogates are no characters to Rust; the words never hold one.
    assert!(escaped.iter().any(|&(first, last)| first <= 0xd800 && 0xdfff <= last));
    escaped.reverse();
    for character in '\0'..=char::MAX {
        let code = character as u32;
        while escaped.last().is_some_and(|&(_, last)| last < code) {
            escaped.pop();
        }
        let is_escaped = escaped.last().is_some_and(|&(first, _)| first <= code);
        assert_eq!(python_repr::printable::is_printable(character), !is_escaped, "U+{code:04X}");
    }
}

#[test]
fn nothing_that_rust_calls_unprintable_is_printed() {
    // Rust knows a newer Unicode, in which more is printable, never less.
    for character in '\u{80}'..=char::MAX {
        let by_rust = format!("a{character}").escape_debug().to_string();
        if by_rust.contains('\\') {
            assert!(!python_repr::printable::is_printable(character), "U+{:04X}", character as u32);
        }
    }
}

#[test]
fn scala_and_tsv_change_nothing_in_a_word() {
    let word = "\t'\"\\,(\u{a0}\u{200d}\0";
    assert_eq!(row(Format::Scala, word, 1), format!("({word},1)"));
    assert_eq!(row(Format::Tsv, word, 1), format!("{word}\t1"));
}

#[test]
fn csv_quotes_only_as_the_rfc_requires() {
    assert_eq!(row(Format::Csv, " a\tb ", 1), " a\tb ,1");
    assert_eq!(row(Format::Csv, "it's", 1), "it's,1");
    assert_eq!(row(Format::Csv, "a,b", 1), r#""a,b",1"#);
    assert_eq!(row(Format::Csv, r#""a""b"#, 1), r#""""a""""b",1"#);
    assert_eq!(row(Format::Csv, "a\rb", 1), "\"a\rb\",1");
    assert_eq!(row(Format::Csv, "a\nb", 1), "\"a\nb\",1");
}

#[test]
fn json_escapes_what_json_must() {
    assert_eq!(row(Format::Jsonl, "\"\\\t\u{1}", 1), r#"{"word":"\"\\\t\u0001","count":1}"#);
    assert_eq!(
        row(Format::Jsonl, "\u{e9}\u{1f600}\u{2028}", 1),
        "{\"word\":\"\u{e9}\u{1f600}\u{2028}\",\"count\":1}"
    );
}

#[test]
fn ill_formed_word_never_panics() {
    let word = b"a\xff\xc3";
    for (format, expected) in [
        (Format::Python, "('a\u{fffd}\u{fffd}', 1)\n".as_bytes()),
        (Format::Scala, b"(a\xff\xc3,1)\n"),
        (Format::Tsv, b"a\xff\xc3\t1\n"),
        (Format::Csv, b"a\xff\xc3,1\n"),
        (Format::Jsonl, "{\"word\":\"a\u{fffd}\u{fffd}\",\"count\":1}\n".as_bytes()),
    ] {
        let mut out = Vec::new();
        format.row(word, 1, &mut out);
        assert_eq!(out, expected, "{format}");
    }
}

#[test]
fn format_has_one_name_everywhere() {
    for format in Format::ALL {
        assert_eq!(format.name().parse::<Format>().unwrap(), format);
        assert_eq!(format.to_string(), format.name());
        let json = serde_json::to_string(&format).unwrap();
        assert_eq!(json, format!("{:?}", format.name()));
        assert_eq!(serde_json::from_str::<Format>(&json).unwrap(), format);
    }
}

#[test]
fn unknown_format_lists_the_known_ones() {
    let error = "Python".parse::<Format>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_eq!(
        error.to_string(),
        "format \"Python\" is not known; give --format one of python, scala, tsv, csv, jsonl, \
         parquet"
    );
}

#[test]
fn each_ascii_character_follows_the_rules() {
    for character in '\0'..='\x7f' {
        let word = character.to_string();
        let json: serde_json::Value = serde_json::from_str(&row(Format::Jsonl, &word, 1)).unwrap();
        assert_eq!(json["word"], word);
        let expected = match character {
            '\t' => r"'\t'".to_owned(),
            '\n' => r"'\n'".to_owned(),
            '\r' => r"'\r'".to_owned(),
            '\\' => r"'\\'".to_owned(),
            '\'' => r#""'""#.to_owned(),
            ' '..='~' => format!("'{character}'"),
            _ => format!("'\\x{:02x}'", character as u32),
        };
        assert_eq!(repr(&word), expected);
        let csv = csv_fields(&row(Format::Csv, &word, 1));
        assert_eq!(csv, [word.as_str(), "1"]);
    }
}

/// The fields of one CSV record, read as RFC 4180 describes them.
fn csv_fields(record: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut rest = record.chars().peekable();
    while let Some(character) = rest.next() {
        let field = fields.last_mut().unwrap();
        match character {
            '"' if quoted && rest.next_if_eq(&'"').is_some() => field.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => field.push(character),
        }
    }
    fields
}

proptest! {
    #[test]
    fn csv_row_reads_back(
        word in r#"[,"' \t\r\na-zé😀]{0,8}"#,
        count: i64,
    ) {
        prop_assert_eq!(csv_fields(&row(Format::Csv, &word, count)), [word, count.to_string()]);
    }

    #[test]
    fn json_row_reads_back(word: String, count: i64) {
        let row = row(Format::Jsonl, &word, count);
        let read: serde_json::Value = serde_json::from_str(&row).unwrap();
        prop_assert_eq!(read, serde_json::json!({"word": word, "count": count}));
    }

    #[test]
    fn rows_end_in_their_only_line_feed(
        word in prop::collection::vec(any::<u8>(), 0..16),
        count: i64,
    ) {
        let word: Vec<u8> = word.into_iter().filter(|&byte| byte != b'\n').collect();
        for format in Format::ALL.into_iter().filter(|format| *format != Format::Parquet) {
            let mut out = Vec::new();
            format.row(&word, count, &mut out);
            let ends = out.iter().enumerate().filter(|&(_, &byte)| byte == b'\n');
            prop_assert_eq!(ends.map(|(at, _)| at).collect::<Vec<_>>(), [out.len() - 1]);
        }
    }
}

#[test]
fn words_of_each_length_are_written_whole() {
    let letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN";
    for length in 0..=letters.len() {
        let (word, count) = (&letters[..length], 10_i64.pow(length as u32 / 3));
        assert_eq!(row(Format::Python, word, count), format!("('{word}', {count})"));
        assert_eq!(row(Format::Scala, word, count), format!("({word},{count})"));
        assert_eq!(row(Format::Tsv, word, count), format!("{word}\t{count}"));
        assert_eq!(row(Format::Csv, word, count), format!("{word},{count}"));
        let json = format!(r#"{{"word":"{word}","count":{count}}}"#);
        assert_eq!(row(Format::Jsonl, word, count), json);
    }
}
