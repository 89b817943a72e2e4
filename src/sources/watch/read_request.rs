//! A request to read a file, and the ways in which that ends.

use std::io;

use super::found_file::FoundFile;

/// A file to be read.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// The file to read.
    pub file: FoundFile,
    /// Where to begin in its text, if it was read before.
    pub again_from: Option<u64>,
}

/// How reading a file has ended.
#[derive(Debug)]
pub enum FileEnd {
    /// All of it was read.
    Whole,
    /// It is not there any more.
    Gone,
    /// It is not the file that was found.
    Changed,
    /// It cannot be read, or not further.
    Unreadable(String),
    /// It does not decompress further.
    Damaged(String),
}

/// Returns the end for a file that cannot be opened or read.
pub fn cannot_read(error: &io::Error) -> FileEnd {
    match error.kind() {
        io::ErrorKind::NotFound => FileEnd::Gone,
        io::ErrorKind::InvalidData => FileEnd::Changed,
        _ => FileEnd::Unreadable(error.to_string()),
    }
}
