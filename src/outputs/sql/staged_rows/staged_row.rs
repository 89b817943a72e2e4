//! One staged row, as a session sends it.

/// The length of a key.
pub const KEY_BYTES: usize = 32;

/// One row on its way into a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StagedRow<'a> {
    /// A word.
    Word {
        /// Its key.
        key: &'a [u8; KEY_BYTES],
        /// Its count.
        count: i64,
        /// The word.
        word: &'a [u8],
    },
    /// A line.
    Line {
        /// Its number in the epoch, from 0.
        number: i64,
        /// The line.
        line: &'a [u8],
    },
}
