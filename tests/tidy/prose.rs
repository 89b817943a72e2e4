//! Words: doc comments state what an item is or does, and test names are short.

use super::{ALL, Source, each, none, sources};

/// First words of a doc comment that make it a riddle: the subject is missing.
const OPENINGS: &[&str] = &["What", "Whether", "That", "Of", "Who", "Why", "Has"];

/// Words that stand for a thing which has a name, or make a person of it.
const VAGUE: &[&str] = &[
    "nobody",
    "somebody",
    "everybody",
    "anybody",
    "whoever",
    "everyone",
    "someone",
    "tells",
    "told",
];

/// Most words in the name of a test: unit, condition, expectation.
const TEST_NAME_WORDS_MAX: usize = 8;

/// Returns the text of a comment line and true for a doc comment, or `None` for code.
fn comment(line: &str) -> Option<(&str, bool)> {
    let rest = line.trim_start().strip_prefix("//")?;
    let doc = rest.strip_prefix(['/', '!']);
    Some((doc.unwrap_or(rest).trim_start(), doc.is_some()))
}

fn word_faults(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let mut in_comment = false;
    for (number, line) in (1..).zip(source.text.lines()) {
        let Some((text, is_doc)) = comment(line) else {
            in_comment = false;
            continue;
        };
        let first = text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        if is_doc && !in_comment && OPENINGS.contains(&first) {
            faults
                .push(format!("{}:{number}: a doc comment that begins with {first}", source.path));
        }
        if text.split(|c: char| !c.is_alphanumeric()).any(|word| word == "behind") {
            faults.push(format!("{}:{number}: behind; say after, or lagging", source.path));
        }
        let lower = text.to_lowercase();
        let words = lower.split(|c: char| !c.is_alphanumeric());
        if let Some(word) = words.into_iter().find(|word| VAGUE.contains(word)) {
            faults.push(format!("{}:{number}: {word}; name the thing", source.path));
        }
        in_comment = !text.is_empty();
    }
    faults
}

fn test_name_faults(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let mut is_test = false;
    for (number, line) in (1..).zip(source.text.lines().map(str::trim)) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) else { continue };
        is_test = false;
        let name = rest.split(['(', '<']).next().unwrap_or_default();
        if name.split('_').count() > TEST_NAME_WORDS_MAX {
            faults.push(format!("{}:{number}: {name} has more than 8 words", source.path));
        }
    }
    faults
}

#[test]
fn doc_comments_state_what_items_do() {
    none(each(&sources(ALL), word_faults));
}

#[test]
fn test_names_are_short() {
    none(each(&sources(ALL), test_name_faults));
}

#[test]
fn planted_riddles_are_found() {
    let faults = |text: &str| word_faults(&Source::new("src/x.rs", text)).len();
    assert_eq!(faults("    /// What it is."), 1);
    assert_eq!(faults("//! Whether it was asked for."), 1);
    assert_eq!(faults("/// Returns the words.\n/// That is all."), 0, "inside a paragraph");
    assert_eq!(faults("/// Of the words.\n///\n/// That is one more."), 2);
    assert_eq!(faults("// That is why.\n/// Whatever."), 0);
    assert_eq!(faults("// the record behind it"), 1);
    assert_eq!(faults("// Nobody waits."), 1);
    assert_eq!(faults("let told = 1;"), 0, "not a comment");
}

#[test]
fn planted_long_test_name_is_found() {
    let faults = |text: &str| test_name_faults(&Source::new("src/x.rs", text)).len();
    assert_eq!(faults("#[test]\nfn a_b_c_d_e_f_g_h() {}"), 0);
    assert_eq!(faults("#[test]\nfn a_b_c_d_e_f_g_h_i() {}\nfn a_b_c_d_e_f_g_h_i() {}"), 1);
}
