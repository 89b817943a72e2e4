//! The error of a result that holds less than nothing of a row.

use crate::error::{Error, ErrorKind};

/// Returns the error of a row with a negative count.
pub fn negative(word: &[u8], count: i64) -> Error {
    let word = String::from_utf8_lossy(word);
    let message = format!("the result holds the row {word:?} {count} times");
    Error::new(ErrorKind::Failed, message)
        .hint("the dataflow definition retracts what it never inserted: correct it")
}
