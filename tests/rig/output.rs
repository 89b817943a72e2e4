//! Reads an output back by the rules of its contract, written down here a second time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use md5::{Digest, Md5};
use serde_json::Value;

use crate::oracle::Counts;

/// The committed epochs below a prefix, each checked against its marker.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) epochs: BTreeMap<u64, Epoch>,
    /// Directories of epochs that bear no marker.
    pub(crate) uncommitted: Vec<u64>,
}

/// A committed epoch.
#[derive(Debug)]
pub(crate) struct Epoch {
    pub(crate) marker: Value,
    /// The bytes of its parts, in order.
    pub(crate) parts: Vec<Vec<u8>>,
}

impl Output {
    /// Reads `<root>/<prefix>-<ms>[.<suffix>]/…`; fails on whatever should not be there.
    pub(crate) fn read(root: &Path, prefix: &str, suffix: Option<&str>) -> Output {
        let (folder, name) = prefix.rsplit_once('/').unwrap_or((".", prefix));
        let mut output = Output::default();
        let Ok(entries) = fs::read_dir(root.join(folder)) else { return output };
        for entry in entries {
            let entry = entry.expect("an entry");
            let file_name = entry.file_name().into_string().expect("names are text");
            let Some(epoch) = epoch_of(&file_name, name, suffix) else { continue };
            if entry.path().join("_SUCCESS").exists() {
                output.epochs.insert(epoch, Epoch::read(epoch, &entry.path()));
            } else {
                output.uncommitted.push(epoch);
            }
        }
        output
    }

    /// The rows of all epochs together, sorted: compare as a multiset.
    pub(crate) fn rows(&self) -> Vec<String> {
        let mut rows: Vec<String> = self.epochs.values().flat_map(Epoch::rows).collect();
        rows.sort();
        rows
    }

    /// Returns the sum of all epochs, which are written with `--format tsv`.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for row in self.rows() {
            let (word, count) = row.rsplit_once('\t').expect("a row of --format tsv");
            *counts.entry(word.into()).or_default() += count.parse::<u64>().expect("a count");
        }
        counts
    }

    /// The sum of a figure over all markers.
    pub(crate) fn total(&self, figure: &str) -> u64 {
        self.epochs.values().map(|epoch| number(&epoch.marker[figure])).sum()
    }

    /// The last epoch alone.
    pub(crate) fn newest(mut self) -> Output {
        let newest = self.epochs.pop_last();
        Output { epochs: newest.into_iter().collect(), ..self }
    }

    /// The one epoch there is.
    pub(crate) fn only(&self) -> &Epoch {
        assert_eq!(self.epochs.len(), 1, "epochs {:?}", self.epochs.keys());
        self.epochs.values().next().expect("one epoch")
    }
}

fn epoch_of(file_name: &str, name: &str, suffix: Option<&str>) -> Option<u64> {
    let rest = file_name.strip_prefix(name)?.strip_prefix('-')?;
    let digits = match suffix {
        Some(suffix) => rest.strip_suffix(&format!(".{suffix}"))?,
        None => rest,
    };
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl Epoch {
    fn read(epoch: u64, path: &Path) -> Epoch {
        let place = path.display();
        let marker = fs::read(path.join("_SUCCESS")).expect("a marker");
        let marker: Value = serde_json::from_slice(&marker)
            .unwrap_or_else(|error| panic!("the marker in {place} is no JSON: {error}"));
        assert_eq!(number(&marker["epoch"]), epoch, "the marker in {place} is of another epoch");
        let promised = marker["parts"].as_array().expect("a list of parts").clone();
        let mut parts = Vec::new();
        for (index, promised) in promised.iter().enumerate() {
            let name = format!("part-{index:05}");
            assert_eq!(promised["name"], *name, "parts of {place} are numbered from 0");
            let bytes = fs::read(path.join(&name)).expect("every part that the marker names");
            check(promised, &bytes, &format!("{place}/{name}"));
            parts.push(bytes);
        }
        let rows: u64 = promised.iter().map(|part| number(&part["rows"])).sum();
        assert_eq!(number(&marker["rows"]), rows, "rows of all parts in {place}");
        assert_eq!(tree(path).len(), parts.len() + 1, "more than parts and a marker in {place}");
        Epoch { marker, parts }
    }

    /// The rows of all parts, in the order in which they stand.
    pub(crate) fn rows(&self) -> Vec<String> {
        let text = String::from_utf8(self.parts.concat()).expect("rows are text");
        text.split_terminator('\n').map(str::to_owned).collect()
    }
}

/// Holds the bytes of a part against what its marker promises.
fn check(promised: &Value, bytes: &[u8], place: &str) {
    assert_eq!(number(&promised["bytes"]), bytes.len() as u64, "length of {place}");
    let rows = bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
    assert_eq!(number(&promised["rows"]), rows, "rows in {place}");
    assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "the last row of {place} has no end");
    let digest: String = Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(promised["md5"], *digest, "MD5 of {place}");
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

/// The names of all that lies below `root`, sorted, directories with a slash.
pub(crate) fn tree(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let Ok(entries) = fs::read_dir(root) else { return names };
    for entry in entries {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().expect("a type").is_dir() {
            names.extend(tree(&entry.path()).into_iter().map(|inner| format!("{name}/{inner}")));
            names.push(format!("{name}/"));
        } else {
            names.push(name);
        }
    }
    names.sort();
    names
}
