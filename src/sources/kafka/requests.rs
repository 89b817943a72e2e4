//! The three requests of a consumer without a group: where partitions lie, where they begin and
//! end, and their records.
//!
//! | request | versions | gives |
//! | --- | --- | --- |
//! | Metadata | 4, 12 | brokers, the id of the topic (12), leaders of partitions |
//! | ListOffsets | as the broker has | the first offset, or the high watermark |
//! | Fetch | up to 11, 13 | batches; by the id of the topic (13) |
//!
//! The newer versions have compact arrays and tagged fields. Fields that are read and not used are
//! replicas, racks, leader epochs and times of throttling.

use bytes::Bytes;

use super::super::host_port::HostPort;
use super::batches::Aborted;
use super::broker::{Api, BrokerConnection};
use super::client_properties::FetchLimits;
use super::error_kinds::{BrokerFailure, ErrorCode};
use super::wire_types::{WireReader, WireWriter};

/// The oldest version of the metadata request, and the one that has the id of a topic.
const METADATA_VERSIONS: (i16, i16) = (4, 12);

/// The newest version of a fetch that names the topic, and the one that states its id.
const FETCH_VERSIONS: (i16, i16) = (11, 13);

/// The brokers of a cluster, and one topic.
#[derive(Clone, Debug, Default)]
pub struct TopicMetadata {
    /// Brokers by their ids.
    pub brokers: Vec<(i32, HostPort)>,
    /// The id of the topic; zeros if the broker is too old to have one.
    pub topic_id: [u8; 16],
    /// Partitions in order.
    pub partitions: Vec<PartitionMetadata>,
}

/// One partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// The number of the partition.
    pub partition: i32,
    /// Its leader; negative while there is none.
    pub leader: i32,
}

/// Asks where the partitions of `topic` lie. The topic is not created.
///
/// # Errors
///
/// `Code` for a topic that is not there or not to be read.
pub async fn metadata(
    connection: &mut BrokerConnection,
    topic: &str,
) -> Result<TopicMetadata, BrokerFailure> {
    let (plain, flexible) = METADATA_VERSIONS;
    let version = if connection.version(Api::Metadata)? >= flexible { flexible } else { plain };
    let mut body = WireWriter::default();
    if version == flexible {
        body.uvarint(2).raw(&[0; 16]).compact_string(topic).no_tags();
        // No topic is created, and rights are not asked for.
        body.i8(0).i8(0).no_tags();
    } else {
        body.array(1).string(topic).i8(0);
    }
    let answer = connection.ask(Api::Metadata, version, &body.into_bytes()).await?;
    let reader = WireReader::new(&answer);
    if version == flexible { flexible_metadata(reader) } else { plain_metadata(reader) }
}

/// Reads an answer of a version with compact arrays and tagged fields.
fn flexible_metadata(mut reader: WireReader<'_>) -> Result<TopicMetadata, BrokerFailure> {
    let mut found = TopicMetadata::default();
    reader.i32()?;
    for _ in 0..reader.compact_array()? {
        let node = reader.i32()?;
        let host = reader.compact_string()?;
        found.brokers.push((node, broker_address(host, reader.i32()?)?));
        reader.compact_string()?;
        reader.skip_tags()?;
    }
    reader.compact_string()?;
    reader.i32()?;
    for _ in 0..reader.compact_array()? {
        let code = reader.i16()?;
        reader.compact_string()?;
        found.topic_id = reader.uuid()?;
        reader.i8()?;
        for _ in 0..reader.compact_array()? {
            reader.i16()?;
            let (partition, leader) = (reader.i32()?, reader.i32()?);
            reader.i32()?;
            for _ in 0..3 {
                let nodes = reader.compact_array()?;
                reader.raw(4 * nodes)?;
            }
            reader.skip_tags()?;
            found.partitions.push(PartitionMetadata { partition, leader });
        }
        reader.i32()?;
        reader.skip_tags()?;
        ErrorCode::check(code)?;
    }
    complete(found)
}

/// Reads an answer of an older version, which has no id of the topic.
fn plain_metadata(mut reader: WireReader<'_>) -> Result<TopicMetadata, BrokerFailure> {
    let mut found = TopicMetadata::default();
    reader.i32()?;
    for _ in 0..reader.array()? {
        let node = reader.i32()?;
        let host = reader.string()?;
        found.brokers.push((node, broker_address(host, reader.i32()?)?));
        reader.string()?;
    }
    reader.string()?;
    reader.i32()?;
    for _ in 0..reader.array()? {
        let code = reader.i16()?;
        reader.string()?;
        reader.i8()?;
        for _ in 0..reader.array()? {
            reader.i16()?;
            let (partition, leader) = (reader.i32()?, reader.i32()?);
            for _ in 0..2 {
                let nodes = reader.array()?;
                reader.raw(4 * nodes)?;
            }
            found.partitions.push(PartitionMetadata { partition, leader });
        }
        ErrorCode::check(code)?;
    }
    complete(found)
}

/// Sorts the partitions.
///
/// Fails with `Code` for a topic without any, which is being created: it is asked for again.
fn complete(mut found: TopicMetadata) -> Result<TopicMetadata, BrokerFailure> {
    if found.partitions.is_empty() {
        return Err(BrokerFailure::Code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    }
    found.partitions.sort_by_key(|known| known.partition);
    Ok(found)
}

/// Returns the address of a broker.
///
/// Fails with `Malformed` for a port that is none.
fn broker_address(host: String, port: i32) -> Result<HostPort, BrokerFailure> {
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    let port = port.ok_or(BrokerFailure::Malformed("a broker has no port"))?;
    Ok(HostPort { host, port })
}

/// A place in a partition that a broker is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionPlace {
    /// The first record that is still there.
    Earliest,
    /// The high watermark: after the last record that is safe on the replicas.
    Latest,
}

/// Asks the leader of `partition` for the offset of a place.
///
/// # Errors
///
/// `Code` as the broker answers.
pub async fn offset_at(
    connection: &mut BrokerConnection,
    topic: &str,
    partition: i32,
    place: PartitionPlace,
) -> Result<i64, BrokerFailure> {
    let version = connection.version(Api::ListOffsets)?;
    let timestamp = match place {
        PartitionPlace::Earliest => -2,
        PartitionPlace::Latest => -1,
    };
    let mut body = WireWriter::default();
    body.i32(-1).i8(0).array(1).string(topic).array(1).i32(partition).i64(timestamp);
    let answer = connection.ask(Api::ListOffsets, version, &body.into_bytes()).await?;
    let mut reader = WireReader::new(&answer);
    reader.i32()?;
    for _ in 0..reader.array()? {
        reader.string()?;
        for _ in 0..reader.array()? {
            let answered = reader.i32()?;
            ErrorCode::check(reader.i16()?)?;
            reader.i64()?;
            let offset = reader.i64()?;
            if answered == partition && offset >= 0 {
                return Ok(offset);
            }
        }
    }
    Err(BrokerFailure::Malformed("an answer does not name the partition that was asked for"))
}

/// The name of a topic, and its id; zeros where the brokers have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicName {
    /// The name, for older versions.
    pub name: String,
    /// The id, which versions from 13 on take in place of the name.
    pub id: [u8; 16],
}

/// The answer of one partition.
#[derive(Debug)]
pub struct FetchedPartition {
    /// The number of the partition.
    pub partition: i32,
    /// The error of the partition; 0 for none.
    pub code: ErrorCode,
    /// The transactions in the records that were aborted.
    pub aborted: Vec<Aborted>,
    /// Batches, the last of which may be cut off.
    pub records: Bytes,
}

/// Fetches records of partitions of `topic` that one broker leads, each from an offset on. A topic
/// whose id is known is fetched by its id: the broker refuses then to answer with the records of
/// another one that was created under the name.
///
/// # Errors
///
/// Those of a request. An error of one partition is in its answer.
pub async fn fetch(
    connection: &mut BrokerConnection,
    topic: &TopicName,
    partitions: &[(i32, i64)],
    limits: &FetchLimits,
) -> Result<Vec<FetchedPartition>, BrokerFailure> {
    let (by_name, by_id) = FETCH_VERSIONS;
    let version = connection.version(Api::Fetch)?;
    if version >= by_id && topic.id != [0; 16] {
        let body = fetch_by_id_body(&topic.id, partitions, limits);
        let answer = connection.ask(Api::Fetch, by_id, &body).await?;
        return fetched_by_id(&answer);
    }
    let version = version.min(by_name);
    let body = fetch_body(version, &topic.name, partitions, limits);
    let answer = connection.ask(Api::Fetch, version, &body).await?;
    fetched(version, &answer)
}

/// Writes what precedes the topics of a fetch.
fn fetch_head(body: &mut WireWriter, limits: &FetchLimits) {
    let wait_ms = limits.wait_max.as_millis() as i32;
    body.i32(-1).i32(wait_ms).i32(1).i32(limits.bytes_max).i8(limits.read_committed.into());
}

/// Returns the body of a fetch that names the topic by its id.
fn fetch_by_id_body(id: &[u8; 16], partitions: &[(i32, i64)], limits: &FetchLimits) -> Vec<u8> {
    let mut body = WireWriter::default();
    fetch_head(&mut body, limits);
    // No session: a full fetch each time.
    body.i32(0).i32(-1).compact_array(1).raw(id).compact_array(partitions.len());
    for (partition, offset) in partitions {
        // No epoch of a leader, and no log of one's own that might differ from the leader's.
        body.i32(*partition).i32(-1).i64(*offset).i32(-1).i64(-1);
        body.i32(limits.partition_bytes_max).no_tags();
    }
    body.no_tags().compact_array(0).compact_string("").no_tags();
    body.into_bytes()
}

/// Reads the answer to a fetch that named the topic by its id.
fn fetched_by_id(answer: &Bytes) -> Result<Vec<FetchedPartition>, BrokerFailure> {
    let mut reader = WireReader::new(answer);
    let mut partitions = Vec::new();
    reader.i32()?;
    ErrorCode::check(reader.i16()?)?;
    reader.i32()?;
    for _ in 0..reader.compact_array()? {
        reader.uuid()?;
        for _ in 0..reader.compact_array()? {
            let partition = reader.i32()?;
            let code = ErrorCode(reader.i16()?);
            // The high watermark, the end of what is committed, and the first offset.
            reader.raw(24)?;
            let mut aborted = Vec::new();
            for _ in 0..reader.compact_array()? {
                aborted.push((reader.i64()?, reader.i64()?));
                reader.skip_tags()?;
            }
            reader.i32()?;
            let records = answer.slice_ref(reader.compact_bytes()?);
            reader.skip_tags()?;
            partitions.push(FetchedPartition { partition, code, aborted, records });
        }
        reader.skip_tags()?;
    }
    Ok(partitions)
}

/// Returns the body of a fetch that names the topic by its name.
fn fetch_body(
    version: i16,
    topic: &str,
    partitions: &[(i32, i64)],
    limits: &FetchLimits,
) -> Vec<u8> {
    let mut body = WireWriter::default();
    fetch_head(&mut body, limits);
    if version >= 7 {
        // No session: a full fetch each time.
        body.i32(0).i32(-1);
    }
    body.array(1).string(topic).array(partitions.len());
    for (partition, offset) in partitions {
        body.i32(*partition);
        if version >= 9 {
            body.i32(-1);
        }
        body.i64(*offset);
        if version >= 5 {
            body.i64(-1);
        }
        body.i32(limits.partition_bytes_max);
    }
    if version >= 7 {
        body.array(0);
    }
    if version >= 11 {
        body.string("");
    }
    body.into_bytes()
}

/// Reads the answer to a fetch that named the topic by its name.
fn fetched(version: i16, answer: &Bytes) -> Result<Vec<FetchedPartition>, BrokerFailure> {
    let mut reader = WireReader::new(answer);
    let mut partitions = Vec::new();
    reader.i32()?;
    if version >= 7 {
        ErrorCode::check(reader.i16()?)?;
        reader.i32()?;
    }
    for _ in 0..reader.array()? {
        reader.string()?;
        for _ in 0..reader.array()? {
            let partition = reader.i32()?;
            let code = ErrorCode(reader.i16()?);
            // The high watermark, and the end of what is committed.
            reader.raw(16)?;
            if version >= 5 {
                reader.i64()?;
            }
            let mut aborted = Vec::new();
            for _ in 0..reader.array()? {
                aborted.push((reader.i64()?, reader.i64()?));
            }
            if version >= 11 {
                reader.i32()?;
            }
            let records = answer.slice_ref(reader.bytes()?);
            partitions.push(FetchedPartition { partition, code, aborted, records });
        }
    }
    Ok(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_of_both_kinds_is_read() {
        let mut plain = WireWriter::default();
        plain.i32(0).array(1).i32(7).string("kafka").i32(9092).i16(-1);
        plain.string("cluster").i32(7).array(1).i16(0).string("lines").i8(0).array(2);
        for (partition, leader) in [(1, -1), (0, 7)] {
            plain.i16(0).i32(partition).i32(leader).array(1).i32(7).array(0);
        }
        let found = plain_metadata(WireReader::new(&plain.into_bytes())).expect("metadata");
        let address = HostPort { host: "kafka".to_owned(), port: 9092 };
        assert_eq!(found.brokers, [(7, address.clone())]);
        let leaders: Vec<_> = found.partitions.iter().map(|at| (at.partition, at.leader)).collect();
        assert_eq!(leaders, [(0, 7), (1, -1)]);

        let mut flexible = WireWriter::default();
        flexible.i32(0).uvarint(2).i32(7).compact_string("kafka").i32(9092).uvarint(0).no_tags();
        flexible.compact_string("cluster").i32(7).uvarint(2).i16(0).compact_string("lines");
        flexible.raw(&[9; 16]).i8(0).uvarint(2).i16(0).i32(0).i32(7).i32(3);
        flexible.uvarint(2).i32(7).uvarint(1).uvarint(1).no_tags().i32(0).no_tags().no_tags();
        let found = flexible_metadata(WireReader::new(&flexible.into_bytes())).expect("metadata");
        assert_eq!((found.topic_id, found.brokers), ([9; 16], vec![(7, address)]));
        assert_eq!(found.partitions, [PartitionMetadata { partition: 0, leader: 7 }]);
    }

    #[test]
    fn topic_without_partitions_is_unknown() {
        let mut plain = WireWriter::default();
        plain.i32(0).array(0).string("cluster").i32(7);
        plain.array(1).i16(3).string("lines").i8(0).array(0);
        let failure = plain_metadata(WireReader::new(&plain.into_bytes())).expect_err("no topic");
        assert!(matches!(failure, BrokerFailure::Code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)));
    }

    #[test]
    fn answer_to_fetch_by_id_is_read() {
        let mut answer = WireWriter::default();
        answer.i32(0).i16(0).i32(0).compact_array(1).raw(&[9; 16]).compact_array(2);
        answer.i32(2).i16(0).i64(90).i64(80).i64(10);
        answer.compact_array(1).i64(5).i64(70).no_tags().i32(-1);
        answer.uvarint(8).raw(b"batches").no_tags();
        // No list of transactions, no records, and a tag: where the leader is.
        answer.i32(3).i16(6).i64(-1).i64(-1).i64(-1).uvarint(0).i32(-1).uvarint(0);
        answer.uvarint(1).uvarint(1).uvarint(3).raw(b"tag").no_tags().no_tags();
        let found = fetched_by_id(&Bytes::from(answer.into_bytes())).expect("an answer");
        let first = &found[0];
        assert_eq!((first.partition, first.code), (2, ErrorCode(0)));
        assert_eq!((&first.aborted[..], &first.records[..]), (&[(5, 70)][..], &b"batches"[..]));
        assert_eq!((found[1].partition, found[1].code), (3, ErrorCode(6)));
        assert!(found[1].aborted.is_empty() && found[1].records.is_empty());
    }

    #[test]
    fn answer_to_fetch_is_read_in_each_version() {
        for version in 4..=11 {
            let mut answer = WireWriter::default();
            answer.i32(0);
            if version >= 7 {
                answer.i16(0).i32(0);
            }
            answer.array(1).string("lines").array(1).i32(2).i16(0).i64(90).i64(80);
            if version >= 5 {
                answer.i64(10);
            }
            answer.array(1).i64(5).i64(70);
            if version >= 11 {
                answer.i32(-1);
            }
            answer.bytes(b"batches");
            let answer = Bytes::from(answer.into_bytes());
            let found = fetched(version, &answer).expect("an answer");
            assert_eq!((found[0].partition, found[0].code), (2, ErrorCode(0)));
            assert_eq!(
                (&found[0].aborted[..], &found[0].records[..]),
                (&[(5, 70)][..], &b"batches"[..])
            );
        }
    }
}
