//! The content of `_SUCCESS`, the marker whose presence commits an epoch.
//!
//! Spark leaves the file empty. Hadoop's S3A committers write JSON into it, and so does this
//! program. The marker names every part with length and MD5, so that a reader can check them. It
//! names the job and its state id, so that a restart can distinguish its own epochs from those of
//! another job, also of one with the same flags.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;

/// The version of the marker's format that this release writes, and the newest it reads.
pub const MARKER_FORMAT: u32 = 1;

/// The longest marker that is read. A marker of another program may have any length.
pub const MARKER_BYTES_MAX: u64 = 64 << 20;

/// The content of a marker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The version of this format. It is 0 in markers of releases that wrote none.
    #[serde(default)]
    pub format: u32,
    /// Name and version of the program that wrote the marker.
    pub program: String,
    /// Hash of the job's identity, which is all that determines the bytes.
    pub job: String,
    /// The job's state id. It is missing in markers of releases without state ids.
    #[serde(default)]
    pub state: Option<String>,
    /// Unix milliseconds of the run's start, by the clock of process 0.
    #[serde(default)]
    pub started: Option<u64>,
    /// The epoch.
    pub epoch: Epoch,
    /// Lines that ended in the epoch.
    pub lines: u64,
    /// Words counted in the epoch.
    pub words: u64,
    /// Rows published, over all parts.
    pub rows: u64,
    /// The parts, ascending. Empty if the result is.
    pub parts: Vec<MarkedPart>,
    /// For each topic of Kafka, the offset of the next record of each partition at the epoch's end.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kafka: BTreeMap<String, BTreeMap<i32, i64>>,
}

/// The entry of a part in the marker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Returns the bytes of the object: one line of JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("plain values have a JSON form");
        bytes.push(b'\n');
        bytes
    }

    /// Parses a marker. Returns `None` for a marker of another program or of a later release.
    pub fn parse(bytes: &[u8]) -> Option<Marker> {
        let marker: Marker = serde_json::from_slice(bytes).ok()?;
        (marker.format <= MARKER_FORMAT).then_some(marker)
    }

    /// Returns true if `bytes` are the marker of the same rows by the same state. Another run of
    /// the job wrote it then: a request of a run that was killed may arrive after the next has
    /// begun.
    pub fn is_repeated_by(&self, bytes: &[u8]) -> bool {
        let repeated = |other: Marker| {
            let other = Marker { program: self.program.clone(), started: self.started, ..other };
            other == *self
        };
        self.state.is_some() && Marker::parse(bytes).is_some_and(repeated)
    }

    /// Returns a description of the writer of the marker with these bytes.
    pub fn owner_of(bytes: &[u8]) -> String {
        match (Marker::parse(bytes), Marker::later_format(bytes)) {
            (Some(marker), _) => marker.to_string(),
            (None, Some(number)) => {
                format!("a later release (marker format {number}, known up to {MARKER_FORMAT})")
            }
            _ => "another program".to_owned(),
        }
    }

    /// Returns the number of the marker's format if it is of a later release.
    pub fn later_format(bytes: &[u8]) -> Option<u64> {
        let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        value.get("format")?.as_u64().filter(|number| *number > u64::from(MARKER_FORMAT))
    }
}

impl fmt::Display for Marker {
    /// Names the job that wrote the marker.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {}", self.job)?;
        if let Some(state) = &self.state {
            write!(f, " with state {state}")?;
        }
        self.started.map_or(Ok(()), |started| write!(f, ", started {started}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_reads_back() {
        let part = MarkedPart {
            name: "part-00000".into(),
            rows: 1,
            bytes: 9,
            md5: "6f5902ac237024bdd0c176cb93063dc4".into(),
        };
        let marker = Marker {
            format: MARKER_FORMAT,
            program: "wordtide".into(),
            job: "ab".into(),
            state: Some("cd".into()),
            started: Some(5),
            epoch: 10,
            lines: 1,
            words: 2,
            rows: 1,
            parts: vec![part],
            kafka: BTreeMap::from([("lines".into(), BTreeMap::from([(0, 7), (10, 0)]))]),
        };
        assert_eq!(Marker::parse(&marker.to_bytes()), Some(marker));
        assert_eq!(Marker::parse(b""), None, "Spark's marker is empty");
    }

    #[test]
    fn marker_of_former_run_repeats_the_rows() {
        let marker = Marker { state: Some("ab".into()), started: Some(5), ..Marker::default() };
        let former = Marker { started: Some(4), program: "wordtide 0".into(), ..marker.clone() };
        assert!(marker.is_repeated_by(&former.to_bytes()));
        let others = [
            Marker { state: Some("cd".into()), ..former.clone() },
            Marker { epoch: 1, ..former.clone() },
            Marker { words: 1, ..former.clone() },
            Marker { parts: vec![MarkedPart::default()], ..former },
        ];
        assert!(others.iter().all(|other| !marker.is_repeated_by(&other.to_bytes())));
        let without = Marker { state: None, ..marker };
        assert!(!without.is_repeated_by(&without.to_bytes()), "any job may have written it");
    }

    #[test]
    fn markers_of_other_releases_are_recognized() {
        let old = br#"{"program":"wordtide 0.1.0","job":"ab","epoch":10,"lines":1,"words":2,
            "rows":0,"parts":[]}"#;
        let marker = Marker::parse(old).expect("a release without state ids");
        assert_eq!((marker.format, marker.state), (0, None));
        let later = br#"{"format":7,"program":"wordtide 9","job":"ab","epoch":10,"lines":1,
            "words":2,"rows":0,"parts":[]}"#;
        assert_eq!(Marker::parse(later), None);
        assert!(Marker::owner_of(later).contains("format 7"));
        assert_eq!(Marker::owner_of(b""), "another program");
        assert_eq!(Marker::owner_of(old), "job ab");
    }
}
