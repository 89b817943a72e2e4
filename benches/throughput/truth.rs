//! The correct counts, computed by the simplest code.
//!
//! Counts are compared by a sum that is linear in them: the hash of each word times its count. Any
//! wrong count changes the sum, and the sums of epochs add up to the sum of the text for any cuts.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::Result;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Truth {
    pub(crate) words: u64,
    /// Distinct words; of several epochs, the sum.
    pub(crate) rows: u64,
    sum: u64,
}

impl Truth {
    /// Counts the words of whole lines, split at single spaces.
    pub(crate) fn of(text: &[u8]) -> Truth {
        let mut counts: HashMap<&[u8], u64> = HashMap::new();
        for line in text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n') {
            line.split(|byte| *byte == b' ').for_each(|word| *counts.entry(word).or_default() += 1);
        }
        let mut truth = Truth::default();
        counts.iter().for_each(|(word, count)| truth.add(word, *count));
        truth
    }

    fn add(&mut self, word: &[u8], count: u64) {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(word);
        self.words += count;
        self.rows += 1;
        self.sum = self.sum.wrapping_add(hash.wrapping_mul(count));
    }

    /// Reads back the `word<TAB>count` lines of a file, or of all parts of all epochs below a
    /// directory.
    pub(crate) fn written(place: &Path) -> Result<Truth> {
        let mut truth = Truth::default();
        truth.read(place)?;
        Ok(truth)
    }

    fn read(&mut self, place: &Path) -> Result<()> {
        if place.is_dir() {
            for entry in std::fs::read_dir(place)? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if path.is_dir() || name.starts_with("part-") {
                    self.read(&path)?;
                }
            }
            return Ok(());
        }
        let mut file = BufReader::with_capacity(1 << 20, std::fs::File::open(place)?);
        let mut line = Vec::new();
        while file.read_until(b'\n', &mut line)? > 0 {
            let row = line.strip_suffix(b"\n").ok_or("a row without an end")?;
            let tab = memchr::memrchr(b'\t', row).ok_or("a row without a count")?;
            self.add(&row[..tab], std::str::from_utf8(&row[tab + 1..])?.parse()?);
            line.clear();
        }
        Ok(())
    }

    /// Returns true if these are the counts of `other`, possibly in other epochs.
    pub(crate) fn agrees(&self, other: &Truth) -> bool {
        (self.words, self.sum) == (other.words, other.sum) && self.rows >= other.rows
    }
}
