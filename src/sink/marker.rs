//! `_SUCCESS`: the object whose presence commits an epoch, and which says whose it is.
//!
//! Spark leaves the file empty; Hadoop's S3A committers put JSON into it, and so do we. The marker
//! names every part with length and MD5, so a reader can check what it was promised, and the job,
//! so a restart can tell its own epochs from a stranger's.

use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;

/// The content of a marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The program that wrote it.
    pub program: String,
    /// Hash of the job's identity: all that shapes bytes.
    pub job: String,
    /// The epoch.
    pub epoch: Epoch,
    /// Lines that ended in the epoch.
    pub lines: u64,
    /// Words counted in the epoch.
    pub words: u64,
    /// Rows published, over all parts.
    pub rows: u64,
    /// The parts, ascending; none where the result is empty.
    pub parts: Vec<MarkedPart>,
}

/// One part as its marker promises it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkedPart {
    /// Its name within the epoch's directory.
    pub name: String,
    /// Rows in it.
    pub rows: u64,
    /// Its length.
    pub bytes: u64,
    /// MD5 of its bytes, in lower-case hexadecimal digits.
    pub md5: String,
}

impl Marker {
    /// The bytes of the object: one line of JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads a marker; `None` for one that another program wrote, which may well be empty.
    pub fn parse(bytes: &[u8]) -> Option<Marker> {
        serde_json::from_slice(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_reads_back_and_a_foreign_one_is_known_as_such() {
        let part = MarkedPart {
            name: "part-00000".into(),
            rows: 1,
            bytes: 9,
            md5: "6f5902ac237024bdd0c176cb93063dc4".into(),
        };
        let marker = Marker {
            program: "wordtide".into(),
            job: "ab".into(),
            epoch: 10,
            lines: 1,
            words: 2,
            rows: 1,
            parts: vec![part],
        };
        assert_eq!(Marker::parse(&marker.to_bytes()), Some(marker));
        assert_eq!(Marker::parse(b""), None, "Spark's marker is empty");
    }
}
