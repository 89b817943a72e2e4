//! The flags that were given, for messages and checks which arise far from the parser.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// A place, other than the command line, in which a setting was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SettingOrigin {
    /// The settings file at this path.
    File(PathBuf),
    /// The environment variable of this name.
    Variable(String),
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingOrigin::File(path) => write!(f, "{}", path.display()),
            SettingOrigin::Variable(name) => f.write_str(name),
        }
    }
}

impl SettingOrigin {
    /// The stronger of two places has the greater rank.
    pub fn rank(&self) -> u8 {
        match self {
            SettingOrigin::File(_) => 1,
            SettingOrigin::Variable(_) => 2,
        }
    }
}

/// Long flags that were found in other places than the command line, for messages: errors arise
/// far from here.
static FOUND: Mutex<Vec<(String, SettingOrigin)>> = Mutex::new(Vec::new());
/// Long flags that were typed.
static TYPED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Keeps the flags of this process: the long names of those in other places, and of those that were
/// typed.
pub fn keep(found: &[(String, SettingOrigin)], typed: BTreeSet<String>) {
    *FOUND.lock().unwrap_or_else(PoisonError::into_inner) = found.to_vec();
    *TYPED.lock().unwrap_or_else(PoisonError::into_inner) = typed;
}

/// Returns from where the flags come that `message` names, for those that were not typed, unless
/// the message names the place itself.
pub fn note(message: &str) -> Option<String> {
    let found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    note_of(message, &found)
}

/// Returns true if the flag `weak` was found in a weaker place than `strong`, of which it is known
/// that it is given. The line is the strongest place.
pub fn is_weaker(weak: &str, strong: &str) -> bool {
    let found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let rank = |flag: &str| {
        let place = found.iter().find(|(known, _)| known == flag).map(|(_, place)| place.rank());
        place.unwrap_or(u8::MAX)
    };
    rank(weak) < rank(strong)
}

/// Returns true if the flag was typed.
pub fn was_typed(flag: &str) -> bool {
    TYPED.lock().unwrap_or_else(PoisonError::into_inner).contains(flag)
}

/// Returns true if the flag was not typed but found in another place.
pub fn was_found(flag: &str) -> bool {
    let found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    found.iter().any(|(known, _)| known == flag)
}

/// Returns a note for an error of the parser: which of the flags it names were not typed, and where
/// they come from.
pub fn note_of(message: &str, found: &[(String, SettingOrigin)]) -> Option<String> {
    let named = found
        .iter()
        .filter(|(flag, place)| names_flag(message, flag) && !message.contains(&place.to_string()));
    let notes: Vec<String> = named.map(|(flag, at)| format!("--{flag} is from {at}")).collect();
    (!notes.is_empty()).then(|| notes.join(", "))
}

/// Returns true if `text` holds `--flag` as a whole word.
fn names_flag(text: &str, flag: &str) -> bool {
    let flag = format!("--{flag}");
    text.match_indices(&flag).any(|(at, _)| {
        let next = text[at + flag.len()..].chars().next();
        !next.is_some_and(|next| next == '-' || next.is_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_named_as_whole_words() {
        assert!(names_flag("give --state a folder", "state") && names_flag("--state", "state"));
        assert!(!names_flag("--state-dir", "state") && !names_flag("no state", "state"));
        let found = [("epochs".to_owned(), SettingOrigin::Variable("WORDTIDE_EPOCHS".to_owned()))];
        let note = note_of("give --epochs at least 1", &found);
        assert_eq!(note.as_deref(), Some("--epochs is from WORDTIDE_EPOCHS"));
        assert_eq!(note_of("give --epoch", &found), None);
    }
}
