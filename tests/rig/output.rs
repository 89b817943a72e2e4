//! Reads an output back by the rules of its contract, written down here a second time.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
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
    /// The text of its parts, in order: uncompressed, and Parquet as in `--format tsv`.
    pub(crate) parts: Vec<Vec<u8>>,
    /// The names and the bytes of its parts as they are stored.
    pub(crate) stored: Vec<(String, Vec<u8>)>,
}

impl Output {
    /// Reads `<root>/<prefix>-<ms>[.<suffix>]/…` and `<root>/<prefix>/date=…/hour=…/epoch=<ms>/…`;
    /// fails on whatever should not be there.
    pub(crate) fn read(root: &Path, prefix: &str, suffix: Option<&str>) -> Output {
        let (folder, name) = prefix.rsplit_once('/').unwrap_or((".", prefix));
        let mut output = Output::default();
        for (file_name, path) in entries(&root.join(folder)) {
            if let Some(epoch) = epoch_of(&file_name, name, suffix) {
                output.add(epoch, &path);
            }
        }
        let named =
            |level: &'static str| move |(name, _): &(String, PathBuf)| name.starts_with(level);
        for (_, date) in entries(&root.join(prefix)).into_iter().filter(named("date=")) {
            for (_, hour) in entries(&date).into_iter().filter(named("hour=")) {
                for (file_name, path) in entries(&hour) {
                    let epoch = file_name.strip_prefix("epoch=").expect("a folder of an epoch");
                    output.add(epoch.parse().expect("a number"), &path);
                }
            }
        }
        output
    }

    /// Reads the folder of an epoch.
    fn add(&mut self, epoch: u64, path: &Path) {
        if path.join("_SUCCESS").exists() {
            let other = self.epochs.insert(epoch, Epoch::read(epoch, path));
            assert!(other.is_none(), "epoch {epoch} is there twice");
        } else {
            self.uncommitted.push(epoch);
        }
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
        let (mut parts, mut stored) = (Vec::new(), Vec::new());
        for (index, promised) in promised.iter().enumerate() {
            let name = promised["name"].as_str().expect("a name").to_owned();
            let extension = name.strip_prefix(&format!("part-{index:05}"));
            let extension = extension.expect("parts are numbered from 0");
            let bytes = fs::read(path.join(&name)).expect("every part that the marker names");
            let text = decoded(extension, &bytes);
            check(promised, &bytes, &text, &format!("{place}/{name}"));
            parts.push(text);
            stored.push((name, bytes));
        }
        let rows: u64 = promised.iter().map(|part| number(&part["rows"])).sum();
        assert_eq!(number(&marker["rows"]), rows, "rows of all parts in {place}");
        assert_eq!(tree(path).len(), parts.len() + 1, "more than parts and a marker in {place}");
        Epoch { marker, parts, stored }
    }

    /// The rows of all parts, in the order in which they stand.
    pub(crate) fn rows(&self) -> Vec<String> {
        let text = String::from_utf8(self.parts.concat()).expect("rows are text");
        text.split_terminator('\n').map(str::to_owned).collect()
    }
}

/// The entries of a folder by their names; none if it is not there.
fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("an entry"));
    let named = entries
        .map(|entry| (entry.file_name().into_string().expect("names are text"), entry.path()));
    named.collect()
}

/// The text in the bytes of a part whose name ends in `extension`.
fn decoded(extension: &str, bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    match extension {
        "" => text.extend_from_slice(bytes),
        ".gz" => {
            let mut decoder = flate2::read::GzDecoder::new(bytes);
            decoder.read_to_end(&mut text).expect("a gzip member");
            assert!(decoder.into_inner().is_empty(), "bytes after the member");
        }
        ".zst" => {
            let decoder = zstd::stream::read::Decoder::new(bytes).expect("memory");
            decoder.single_frame().read_to_end(&mut text).expect("a zstd frame");
        }
        ".parquet" => {
            let file = SerializedFileReader::new(bytes::Bytes::copy_from_slice(bytes));
            for row in file.expect("a Parquet file").get_row_iter(None).expect("rows") {
                let row = row.expect("a row");
                match row.get_column_iter().map(|(name, _)| &name[..]).collect::<Vec<_>>()[..] {
                    ["word", "count"] => {
                        let (word, count) = (row.get_string(0), row.get_long(1));
                        let word = word.expect("a word");
                        text.extend_from_slice(
                            format!("{word}\t{}", count.expect("a count")).as_bytes(),
                        );
                    }
                    ["line"] => text.extend_from_slice(row.get_bytes(0).expect("a line").data()),
                    ref other => panic!("columns {other:?}"),
                }
                text.push(b'\n');
            }
        }
        other => panic!("no part ends in {other}"),
    }
    text
}

/// Holds the bytes of a part, and its text, against what its marker promises.
fn check(promised: &Value, bytes: &[u8], text: &[u8], place: &str) {
    assert_eq!(number(&promised["bytes"]), bytes.len() as u64, "length of {place}");
    let rows = text.iter().filter(|&&byte| byte == b'\n').count() as u64;
    assert_eq!(number(&promised["rows"]), rows, "rows in {place}");
    assert!(text.is_empty() || text.ends_with(b"\n"), "the last row of {place} has no end");
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
