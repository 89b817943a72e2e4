//! The correct counts, computed by the simplest code.
//!
//! Counts are compared by a sum that is linear in them: the hash of each word times its count. Any
//! wrong count changes the sum, and the sums of epochs add up to the sum of the text for any cuts.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use super::super::failed;
use super::committed_epochs::{CountedEpoch, parts};
use crate::error::{Error, ErrorKind, Result};

/// The hasher of the maps below; not that of the table which is judged.
type Hasher = foldhash::fast::RandomState;

/// The sum of some counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// Words counted.
    pub words: u64,
    /// Distinct words; of several epochs, the sum.
    pub rows: u64,
    sum: u64,
}

impl Truth {
    /// Counts the words of whole lines, split at single spaces.
    pub fn of(text: &[u8]) -> Truth {
        let mut counts: HashMap<&[u8], u64, Hasher> = HashMap::default();
        for line in text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n') {
            line.split(|byte| *byte == b' ').for_each(|word| *counts.entry(word).or_default() += 1);
        }
        Truth::sum(counts.iter().map(|(word, count)| (*word, *count)))
    }

    /// Returns the counts of a text that is `times` as long.
    pub fn times(self, times: u64) -> Truth {
        let (words, sum) = (self.words * times, self.sum.wrapping_mul(times));
        Truth { words, rows: self.rows, sum }
    }

    /// Returns the counts of this text and another. Rows are a sum as of two epochs.
    pub fn and(self, other: Truth) -> Truth {
        Truth {
            words: self.words + other.words,
            rows: self.rows + other.rows,
            sum: self.sum.wrapping_add(other.sum),
        }
    }

    fn sum<'a>(counts: impl Iterator<Item = (&'a [u8], u64)>) -> Truth {
        let mut truth = Truth::default();
        counts.for_each(|(word, count)| truth.add(word, count));
        truth
    }

    fn add(&mut self, word: &[u8], count: u64) {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(word);
        self.words += count;
        self.rows += 1;
        self.sum = self.sum.wrapping_add(hash.wrapping_mul(count));
    }

    /// Reads the `word<TAB>count` lines of a file.
    ///
    /// # Errors
    ///
    /// `Failed` if the file cannot be read, or holds another line.
    pub fn of_file(path: &Path) -> Result<Truth> {
        let mut truth = Truth::default();
        each_row(path, |word, count| truth.add(word, count))?;
        Ok(truth)
    }

    /// Adds up the rows of these epochs.
    ///
    /// # Errors
    ///
    /// Those of [`Truth::of_file`].
    pub fn of_epochs(epochs: &[CountedEpoch]) -> Result<Truth> {
        let mut truth = Truth::default();
        for part in epochs.iter().map(|epoch| parts(&epoch.dir)).collect::<Result<Vec<_>>>()? {
            for path in part {
                each_row(&path, |word, count| truth.add(word, count))?;
            }
        }
        Ok(truth)
    }

    /// Takes the last row of each word in these epochs.
    ///
    /// # Errors
    ///
    /// Those of [`Truth::of_file`].
    pub fn of_last_rows(epochs: &[CountedEpoch]) -> Result<Truth> {
        let mut counts: HashMap<Box<[u8]>, u64, Hasher> = HashMap::default();
        for epoch in epochs {
            for path in parts(&epoch.dir)? {
                each_row(&path, |word, count| match counts.get_mut(word) {
                    Some(known) => *known = count,
                    None => drop(counts.insert(word.into(), count)),
                })?;
            }
        }
        Ok(Truth::sum(counts.iter().map(|(word, count)| (&word[..], *count))))
    }

    /// Returns true if these are the counts of `text`, possibly in several epochs.
    pub fn agrees(&self, text: &Truth) -> bool {
        self.sums_to(text) && self.rows >= text.rows
    }

    /// Returns true if these are the counts of `text`, whose rows are not known.
    pub fn sums_to(&self, text: &Truth) -> bool {
        (self.words, self.sum) == (text.words, text.sum)
    }
}

/// Calls `take` with each row of a file.
fn each_row(path: &Path, mut take: impl FnMut(&[u8], u64)) -> Result<()> {
    let unreadable = |error: io::Error| failed(&format!("cannot read {}", path.display()), error);
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(unreadable)?);
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line).map_err(unreadable)? > 0 {
        let (word, count) = row(&line).ok_or_else(|| {
            let line = String::from_utf8_lossy(&line).into_owned();
            Error::new(ErrorKind::Failed, format!("{}: {line:?} is no row", path.display()))
        })?;
        take(word, count);
        line.clear();
    }
    Ok(())
}

/// Returns the word and the count of a line.
fn row(line: &[u8]) -> Option<(&[u8], u64)> {
    let row = line.strip_suffix(b"\n")?;
    let tab = memchr::memrchr(b'\t', row)?;
    Some((&row[..tab], std::str::from_utf8(&row[tab + 1..]).ok()?.parse().ok()?))
}

/// Returns the first number in a file: what `wc -w` printed.
///
/// # Errors
///
/// `Failed` if the file cannot be read or holds no number.
pub fn printed_number(path: &Path) -> Result<u64> {
    let unreadable = |error: io::Error| failed(&format!("cannot read {}", path.display()), error);
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let number = text.split_whitespace().next().and_then(|number| number.parse().ok());
    number.ok_or_else(|| Error::new(ErrorKind::Failed, format!("{text:?} holds no number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes an epoch with these rows below `dir`.
    fn epoch(dir: &Path, epoch_ms: u64, rows: &str) -> CountedEpoch {
        let dir = dir.join(format!("counts-{epoch_ms}"));
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("part-00000"), rows).expect("a part");
        CountedEpoch { epoch_ms, lines: 1, named_ms: 0.0, dir }
    }

    #[test]
    fn right_counts_agree_in_any_epochs() {
        let dir = tempfile::tempdir().expect("a directory");
        let truth = Truth::of(b"the tide the\nsea tide\n");
        assert_eq!((truth.words, truth.rows), (5, 3));
        let epochs =
            [epoch(dir.path(), 1, "the\t2\ntide\t1\n"), epoch(dir.path(), 2, "sea\t1\ntide\t1\n")];
        let written = Truth::of_epochs(&epochs).expect("rows");
        assert!(written.agrees(&truth) && !written.agrees(&truth.times(2)));
        assert_eq!(Truth::of(b"a\na\n"), Truth::of(b"a\n").times(2));
    }

    #[test]
    fn any_wrong_count_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let truth = Truth::of(b"the tide the sea\n");
        for rows in
            ["the\t2\ntide\t2\n", "the\t1\ntide\t2\nsea\t1\n", "the\t2\ntide\t1\nSea\t1\n", ""]
        {
            let written = Truth::of_epochs(&[epoch(dir.path(), 1, rows)]).expect("rows");
            assert!(!written.agrees(&truth), "{rows:?}");
        }
        for rows in ["the\n", "the\tx\n", "the\t2"] {
            assert!(Truth::of_epochs(&[epoch(dir.path(), 1, rows)]).is_err(), "{rows:?}");
        }
    }

    #[test]
    fn last_rows_replace_earlier_ones() {
        let dir = tempfile::tempdir().expect("a directory");
        let epochs = [epoch(dir.path(), 1, "the\t1\nsea\t1\n"), epoch(dir.path(), 2, "the\t2\n")];
        let written = Truth::of_last_rows(&epochs).expect("rows");
        assert_eq!(written, Truth::of(b"the sea the\n"));
    }
}
