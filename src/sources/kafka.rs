//! A topic of Apache Kafka as a source: a record's value is one line.
//!
//! ```text
//! scout ──► where the leaders are          one task
//! fetcher ─► batches ─► chunks of lines    one task per broker
//! reading ─► source log                    one task per share, which owns the log
//! ```
//!
//! A topic is read in as many shares as there are processes: share `i` of `n` has the partitions
//! whose number leaves `i` when divided by `n`. No consumer group is used. The positions of each
//! partition are in the journal, in the record that ends an epoch, so a restart reads every record
//! exactly once, whatever the number of processes is then.
//!
//! The client is written here. It speaks the four requests that a consumer without a group needs,
//! and two more for SASL, and leaves nothing to be installed.

mod batches;
mod broker;
mod client_properties;
mod codecs;
mod consumer;
mod error_kinds;
mod fetcher;
mod find_leaders;
mod positions;
mod read_topic;
mod records;
mod requests;
mod sasl;
mod tls_settings;
mod wire_types;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::host_port::HostPort;
use crate::error::{Error, ErrorKind, Result};
use positions::Positions;

pub use client_properties::KafkaProperties;
pub use read_topic::read;

/// The beginning of the name of a topic as a source.
const PREFIX: &str = "kafka ";
/// Stands between the name of a topic and the number of a share.
const SHARE: &str = " share ";

/// Longest name of a topic.
const TOPIC_BYTES_MAX: usize = 249;

/// Where a topic is begun that was never read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KafkaStart {
    /// After the newest record.
    Latest,
    /// At the oldest record.
    Earliest,
}

/// A topic of Kafka, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaTopic {
    /// Brokers that are asked first; they name the others.
    pub(crate) brokers: Vec<HostPort>,
    /// The name of the topic.
    pub(crate) topic: String,
    /// `None` is the newest record, or the oldest one for a job that reads once.
    start: Option<KafkaStart>,
    /// The settings of the client, as `--kafka-config` gives them.
    properties: KafkaProperties,
    /// The share that is read, and how many there are.
    share: (usize, usize),
    /// Positions that shares of a former run have recorded.
    known: Option<Positions>,
    /// Only what a former run recorded is read.
    is_recovery_only: bool,
}

impl KafkaTopic {
    /// Sets where the topic is begun that was never read.
    #[must_use]
    pub fn start(mut self, start: KafkaStart) -> Self {
        self.start = Some(start);
        self
    }

    /// Sets the settings of the client.
    #[must_use]
    pub fn properties(mut self, properties: KafkaProperties) -> Self {
        self.properties = properties;
        self
    }

    /// Checks the settings, and the files that they name.
    ///
    /// # Errors
    ///
    /// `Usage` for settings that cannot be; `Configuration` for a file that cannot be read.
    pub(crate) fn check(&self) -> Result<()> {
        self.properties.check().map(drop)
    }

    /// Returns this share with the positions that shares of a former run have recorded, as
    /// [`merged_positions`] gives them; none for a topic that was never read.
    ///
    /// # Errors
    ///
    /// `Disk` for positions that cannot be read.
    pub(crate) fn known(mut self, merged: &[u8]) -> Result<KafkaTopic> {
        self.known = Positions::decode(merged)?;
        Ok(self)
    }

    /// Returns a topic of which only what a former run recorded is read.
    pub(crate) fn recovery_only(mut self) -> KafkaTopic {
        self.is_recovery_only = true;
        self
    }

    /// Returns the name that all shares of a topic have in common, given that of one of them in
    /// the list of sources; `None` for another kind of source.
    pub(crate) fn base_name(source: &str) -> Option<String> {
        let topic = source.strip_prefix(PREFIX)?;
        let Some((topic, share)) = topic.split_once(SHARE) else { return Some(topic.to_owned()) };
        // Several of one name are separated by their numbers.
        let number = share.split_once(" (").map(|(_, number)| format!(" ({number}"));
        Some(format!("{topic}{}", number.unwrap_or_default()))
    }

    /// Returns the shares for `processes` processes.
    pub(crate) fn shares(&self, processes: usize) -> impl Iterator<Item = KafkaTopic> + use<'_> {
        (0..processes).map(move |share| KafkaTopic { share: (share, processes), ..self.clone() })
    }
}

impl fmt::Display for KafkaTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.topic)?;
        match self.share {
            (_, 1) => Ok(()),
            (share, of) => write!(f, "{SHARE}{share} of {of}"),
        }
    }
}

/// Returns, for each topic, the offset of the next record of each of its partitions, given what its
/// shares have recorded.
///
/// # Errors
///
/// `Disk` for positions that cannot be read.
pub(crate) fn topic_offsets(
    recorded: &BTreeMap<String, Vec<u8>>,
) -> Result<BTreeMap<String, BTreeMap<i32, i64>>> {
    let mut topics: BTreeMap<String, Positions> = BTreeMap::new();
    for (source, payload) in recorded {
        let Some(topic) = KafkaTopic::base_name(source) else { continue };
        if let Some(positions) = Positions::decode(payload)? {
            // A value that is not whole yet ends in a later epoch.
            topics.entry(topic).or_default().merge(Positions { open: None, ..positions });
        }
    }
    let offsets = topics.into_iter().map(|(topic, positions)| {
        let begun = positions.partitions.iter().filter(|(_, at)| at.has_begun());
        (topic, begun.map(|(partition, at)| (*partition, at.next)).collect())
    });
    Ok(offsets.collect())
}

/// Returns the positions that a start goes on from, of those that the shares of a topic have
/// recorded, in order of their epochs.
///
/// # Errors
///
/// `Disk` for positions that cannot be read.
pub(crate) fn merged_positions<'a>(recorded: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>> {
    let mut merged: Option<Positions> = None;
    for payload in recorded {
        if let Some(positions) = Positions::decode(payload)? {
            merged.get_or_insert_default().merge(positions);
        }
    }
    Ok(merged.map(|merged| merged.encode()).unwrap_or_default())
}

impl FromStr for KafkaTopic {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let usage = |why: &str| {
            Error::new(ErrorKind::Usage, format!("{text:?} is not a Kafka topic: {why}"))
                .hint("give --kafka as HOST:PORT,HOST:PORT/TOPIC, for example localhost:9092/lines")
        };
        let (brokers, topic) =
            text.trim().rsplit_once('/').ok_or_else(|| usage("it has no `/` before the topic"))?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if topic.is_empty() || topic == "." || topic == ".." || !topic.chars().all(is_plain) {
            return Err(usage("the topic's name has letters, digits, `.`, `_` and `-` only"));
        }
        if topic.len() > TOPIC_BYTES_MAX {
            return Err(usage("the topic's name is too long"));
        }
        let address = |address: &str| {
            let address = address.trim();
            let parsed = address.parse::<HostPort>();
            parsed.map_err(|_| usage(&format!("{address:?} is not the HOST:PORT of a broker")))
        };
        Ok(KafkaTopic {
            brokers: brokers.split(',').map(address).collect::<Result<_>>()?,
            topic: topic.to_owned(),
            start: None,
            properties: KafkaProperties::default(),
            share: (0, 1),
            known: None,
            is_recovery_only: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::positions::{OpenValue, PartitionPosition};
    use super::*;

    #[test]
    fn offsets_of_all_shares_are_in_one_list() {
        let recorded = |partitions: &[(i32, i64)], open| {
            let at = |&(partition, next)| (partition, PartitionPosition::at(next));
            let partitions = partitions.iter().map(at).collect();
            Positions { topic_id: [7; 16], partitions, open }.encode()
        };
        let open = OpenValue { partition: 1, offset: 20, taken: 5 };
        let sources = BTreeMap::from([
            ("kafka lines share 0 of 2".to_owned(), recorded(&[(0, 10), (2, 30)], None)),
            ("kafka lines share 1 of 2".to_owned(), recorded(&[(1, 20), (3, -1)], Some(open))),
            ("kafka other".to_owned(), recorded(&[(0, 5)], None)),
            ("stdin".to_owned(), vec![9]),
        ]);
        let offsets = topic_offsets(&sources).expect("positions");
        let lines = BTreeMap::from([(0, 10), (1, 20), (2, 30)]);
        let other = BTreeMap::from([(0, 5)]);
        let expected = [("lines".to_owned(), lines), ("other".to_owned(), other)];
        assert_eq!(offsets, expected.into(), "not begun: none; a value that is open: its offset");
    }
}
