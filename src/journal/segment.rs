//! Segments: one file each, a header and then records until the next segment begins.
//!
//! The header states whose journal it is and, beside that, how things stood when the segment began:
//! how far the log was on disk, where the last EpochEnd and Committed record stand, which
//! connections were open. So a restart reads the last segment or two and never the whole log.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::disk::File;
use super::fields::Fields;
use super::record::{ALL_CONNECTIONS, LASTING};

/// Bytes of a segment before its first record.
pub const HEADER: u64 = 4096;
/// Most connections whose ids a header lists. Of more, it only states how many they are.
pub const CONNECTIONS_LISTED_MAX: usize = 256;
/// Longest id of a source in bytes.
pub const SOURCE_ID_BYTES_MAX: usize = 256;

/// The first bytes of every segment.
const MAGIC: &[u8; 8] = b"wtj-log\n";
/// The version of the format.
const VERSION: u32 = 1;
/// The value that stands for a missing number.
const NONE: u64 = u64::MAX;

/// Whose journal this is. A restart must come with the same facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Name of the source: the journal's folder bears it too.
    pub source: String,
    /// P: parts per epoch, which belongs to the job's identity.
    pub parts: u32,
    /// Batch interval in milliseconds.
    pub interval_ms: u64,
}

/// How things stood at a position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentState {
    /// Everything before is on disk.
    pub synced: u64,
    /// The newest epoch whose end is recorded.
    pub last_epoch_end: Option<u64>,
    /// The newest epoch that was known to be committed.
    pub last_committed: Option<u64>,
    /// Connections with Data and without StreamEnd, those that last left out.
    pub connections: BTreeSet<u64>,
    /// There are open connections beside these.
    pub more_connections: bool,
    /// One more than the greatest connection id met.
    pub next_connection: u64,
}

impl SegmentState {
    /// Notes that a connection has bytes.
    pub fn opened(&mut self, connection: u64) {
        if connection & LASTING == 0 {
            self.connections.insert(connection);
        }
        self.next_connection = self.next_connection.max((connection & !LASTING) + 1);
    }

    /// Notes that a connection, or all of them, have ended.
    pub fn ended(&mut self, connection: u64) {
        if connection == ALL_CONNECTIONS {
            self.connections.clear();
            self.more_connections = false;
        } else {
            self.connections.remove(&connection);
        }
    }
}

/// Returns the id of a journal as messages, notes and states have it: in hexadecimal digits.
pub fn id_digits(id: u128) -> String {
    format!("{id:032x}")
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The id that names the journal.
    pub id: u128,
    /// The position of the segment's first byte in the log.
    pub base: u64,
    /// The facts that a restart must come with.
    pub facts: Facts,
    /// The state that the records before this segment give.
    pub standing: SegmentState,
    /// The length of the file, which never changes: a shorter one was truncated. It is 0 in
    /// segments of releases that did not state it.
    pub bytes: u64,
}

impl Header {
    /// Returns the header as it stands in the file: fields, padding, checksum.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER as usize);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.facts.parts.to_le_bytes());
        let standing = &self.standing;
        for number in [
            self.base,
            self.facts.interval_ms,
            standing.synced,
            standing.last_epoch_end.unwrap_or(NONE),
            standing.last_committed.unwrap_or(NONE),
            standing.next_connection,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        // A count above the ids that fit states that there are more.
        let listed = standing.connections.len();
        let count = match standing.more_connections {
            true => listed.max(CONNECTIONS_LISTED_MAX) + 1,
            false => listed,
        };
        out.extend_from_slice(&(count as u32).to_le_bytes());
        for connection in standing.connections.iter().take(CONNECTIONS_LISTED_MAX) {
            out.extend_from_slice(&connection.to_le_bytes());
        }
        out.extend_from_slice(&(self.facts.source.len() as u32).to_le_bytes());
        out.extend_from_slice(self.facts.source.as_bytes());
        // Earlier releases read nothing after the source.
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.resize(HEADER as usize, 0);
        let crc = crc32c::crc32c(&out[12..]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` for anything that is not a header of this version for a segment that begins at
    /// `base`.
    pub fn decode(bytes: &[u8], base: u64) -> Option<Header> {
        let mut fields = Fields(bytes.get(..HEADER as usize)?);
        if fields.take(8)? != MAGIC || fields.u32()? != crc32c::crc32c(&bytes[12..HEADER as usize])
        {
            return None;
        }
        if fields.u32()? != VERSION {
            return None;
        }
        let id = u128::from_le_bytes(fields.take(16)?.try_into().ok()?);
        let parts = fields.u32()?;
        let own_base = fields.u64()?;
        let interval_ms = fields.u64()?;
        let synced = fields.u64()?;
        let last_epoch_end = Some(fields.u64()?).filter(|&p| p != NONE);
        let last_committed = Some(fields.u64()?).filter(|&p| p != NONE);
        let next_connection = fields.u64()?;
        let count = fields.u32()? as usize;
        let mut connections = BTreeSet::new();
        for _ in 0..count.min(CONNECTIONS_LISTED_MAX) {
            connections.insert(fields.u64()?);
        }
        let more_connections = count > CONNECTIONS_LISTED_MAX;
        let source_bytes = fields.u32()? as usize;
        let source = String::from_utf8(fields.take(source_bytes)?.to_vec()).ok()?;
        let bytes = fields.u64()?;
        let header = Header {
            id,
            base,
            facts: Facts { source, parts, interval_ms },
            standing: SegmentState {
                synced,
                last_epoch_end,
                last_committed,
                connections,
                more_connections,
                next_connection,
            },
            bytes,
        };
        (own_base == base).then_some(header)
    }

    /// The first of the checksum of every record of this journal.
    pub fn seed(id: u128) -> u32 {
        crc32c::crc32c(&id.to_le_bytes())
    }
}

/// Name of the segment whose first record stands at `base`.
pub fn name(base: u64) -> String {
    format!("{base:020}.wtj")
}

/// The first position of the segment of that name, `None` if it is no segment's name.
pub fn base(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wtj")?;
    let all_digits = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| digits.parse().ok()).flatten()
}

/// Name of a preallocated file that is no segment yet. A number is used once, so that a rename
/// which was lost in a crash cannot hit the next spare.
pub fn spare_name(number: u64) -> String {
    format!("spare-{number}")
}

/// The number of the spare of that name.
pub fn spare_number(name: &str) -> Option<u64> {
    name.strip_prefix("spare-")?.parse().ok()
}

/// Reads until `buffer` is full or the file ends; returns how much it got.
pub fn read_full(file: &dyn File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(offset + filled as u64, &mut buffer[filled..])? {
            0 => break,
            got => filled += got,
        }
    }
    Ok(filled)
}

/// The header of a segment file, `None` if it cannot be trusted.
pub fn read_header(file: &Arc<dyn File>, base: u64) -> io::Result<Option<Header>> {
    let mut bytes = vec![0; HEADER as usize];
    let got = read_full(&**file, 0, &mut bytes)?;
    Ok(Header::decode(&bytes[..got], base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_read_back_and_flips_are_seen() {
        let header = Header {
            id: 7 << 100,
            base: 4711,
            facts: Facts { source: "tcp-localhost-9999".to_owned(), parts: 3, interval_ms: 10_000 },
            standing: SegmentState {
                synced: 4000,
                last_epoch_end: Some(12),
                last_committed: None,
                connections: [1, 5].into(),
                more_connections: false,
                next_connection: 6,
            },
            bytes: 1 << 20,
        };
        let mut bytes = header.encode();
        assert_eq!(bytes.len() as u64, HEADER);
        assert_eq!(Header::decode(&bytes, 4711), Some(header));
        assert_eq!(Header::decode(&bytes, 4712), None);
        for at in 0..bytes.len() {
            bytes[at] ^= 0x10;
            assert_eq!(Header::decode(&bytes, 4711), None, "byte {at}");
            bytes[at] ^= 0x10;
        }
        assert_eq!(Header::decode(&bytes[..4095], 4711), None);
    }

    #[test]
    fn a_full_header_fits_into_its_place() {
        let header = Header {
            id: 1,
            base: 0,
            facts: Facts { source: "s".repeat(SOURCE_ID_BYTES_MAX), parts: 1, interval_ms: 1 },
            standing: SegmentState {
                connections: (0..CONNECTIONS_LISTED_MAX as u64).collect(),
                ..SegmentState::default()
            },
            bytes: u64::MAX,
        };
        assert_eq!(Header::decode(&header.encode(), 0), Some(header.clone()));
        let mut more = header;
        more.standing.connections.insert(CONNECTIONS_LISTED_MAX as u64);
        let decoded = Header::decode(&more.encode(), 0).expect("a header");
        assert_eq!(decoded.standing.connections.len(), CONNECTIONS_LISTED_MAX);
        assert!(decoded.standing.more_connections);
    }

    #[test]
    fn only_names_of_twenty_digits_are_segments() {
        assert_eq!(base(&name(42)), Some(42));
        for other in ["lock", "42.wtj", "spare-1", "+0000000000000000042.wtj"] {
            assert_eq!(base(other), None, "{other}");
        }
        assert_eq!(spare_number(&spare_name(3)), Some(3));
    }
}
