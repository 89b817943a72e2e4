//! The records of a ledger, and how they stand in its file.
//!
//! ```text
//! len u32 | crc32c u32 | kind u8 | fields          all numbers little-endian
//! ```

use super::found_file::{FileFacts, FileId, FileState, FoundFile, NameHash, Version};

/// Bytes before the payload of a record.
pub const FRAME: usize = 8;
/// Longest payload: a name of an object has up to 1,024 bytes, a name of a file up to 255.
const PAYLOAD_MAX: usize = 16 << 10;
/// The version of the encoding, stated by the first record.
const FORMAT: u8 = 2;

/// One record of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerRecord {
    /// The first record. The next file that is begun has at least this number.
    Header { next_number: u64 },
    /// A file that is not read: it was read before, or was there at the start.
    Known { name: NameHash, state: FileState },
    /// A file whose reading has begun.
    Begun { number: u64, file: FoundFile },
    /// A name that is no longer there.
    Gone { name: NameHash },
    /// A file that is not read any more has another name now.
    Renamed(RenamedFile),
}

/// A known file that has another name now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenamedFile {
    /// The name that it had.
    pub from: NameHash,
    /// The name that it has.
    pub name: Vec<u8>,
    /// The state in which it was read or left out.
    pub state: FileState,
}

impl LedgerRecord {
    /// Appends the whole record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME]);
        match self {
            LedgerRecord::Header { next_number } => {
                out.extend_from_slice(&[0, FORMAT]);
                out.extend_from_slice(&next_number.to_le_bytes());
            }
            LedgerRecord::Known { name, state } => {
                out.push(1);
                out.extend_from_slice(&name.to_le_bytes());
                encode_state(*state, out);
            }
            LedgerRecord::Begun { number, file } => {
                out.push(4);
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&file.facts.bytes.to_le_bytes());
                encode_state(file.facts.state(), out);
                out.extend_from_slice(&file.name);
            }
            LedgerRecord::Gone { name } => {
                out.push(3);
                out.extend_from_slice(&name.to_le_bytes());
            }
            LedgerRecord::Renamed(RenamedFile { from, name, state }) => {
                out.push(5);
                out.extend_from_slice(&from.to_le_bytes());
                encode_state(*state, out);
                out.extend_from_slice(name);
            }
        }
        let payload = &out[start + FRAME..];
        let (len, crc) = (payload.len() as u32, crc32c::crc32c(payload));
        out[start..start + 4].copy_from_slice(&len.to_le_bytes());
        out[start + 4..start + FRAME].copy_from_slice(&crc.to_le_bytes());
    }

    /// Decodes the record at the beginning of `bytes`; returns it with its length. Returns `None`
    /// for bytes that are no whole record.
    pub fn decode(bytes: &[u8]) -> Option<(LedgerRecord, usize)> {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (crc, rest) = rest.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len) as usize;
        let payload = rest.get(..len).filter(|_| len <= PAYLOAD_MAX)?;
        if crc32c::crc32c(payload) != u32::from_le_bytes(*crc) {
            return None;
        }
        Some((decode_payload(payload)?, FRAME + len))
    }
}

/// Appends the fields of a state to `out`.
fn encode_state(state: FileState, out: &mut Vec<u8>) {
    let FileState { version, id } = state;
    for field in [version.0, id.inode, id.born_ns] {
        out.extend_from_slice(&field.to_le_bytes());
    }
}

/// Decodes the payload of a record; `None` if it is none.
fn decode_payload(payload: &[u8]) -> Option<LedgerRecord> {
    let (kind, mut fields) = payload.split_first()?;
    let mut next = || {
        let (field, rest) = fields.split_first_chunk::<8>()?;
        fields = rest;
        Some(u64::from_le_bytes(*field))
    };
    let wide = |low: u64, high: u64| u128::from(high) << 64 | u128::from(low);
    Some(match kind {
        0 => {
            let (format, number) = payload[1..].split_first()?;
            let number = number.try_into().ok().filter(|_| (1..=FORMAT).contains(format))?;
            LedgerRecord::Header { next_number: u64::from_le_bytes(number) }
        }
        1 => {
            let (name, version) = (wide(next()?, next()?), Version(next()?));
            // Format 1 had no identity here, and no time of creation in the record of kind 2.
            let inode = next().unwrap_or_default();
            let id = FileId { inode, born_ns: next().unwrap_or_default() };
            LedgerRecord::Known { name, state: FileState { version, id } }
        }
        2 | 4 => {
            let number = next()?;
            let (bytes, version, inode) = (next()?, Version(next()?), next()?);
            let id = FileId { inode, born_ns: if *kind == 4 { next()? } else { 0 } };
            let facts = FileFacts { bytes, version, id, ..FileFacts::default() };
            LedgerRecord::Begun { number, file: FoundFile { name: fields.to_vec(), facts } }
        }
        3 => LedgerRecord::Gone { name: wide(next()?, next()?) },
        5 => {
            let (from, version) = (wide(next()?, next()?), Version(next()?));
            let id = FileId { inode: next()?, born_ns: next()? };
            let state = FileState { version, id };
            LedgerRecord::Renamed(RenamedFile { from, name: fields.to_vec(), state })
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_and_flips_do_not() {
        let state = FileState { version: Version(8), id: FileId { inode: 9, born_ns: 10 } };
        let FileState { version, id } = state;
        let facts = FileFacts { bytes: 7, version, id, ..FileFacts::default() };
        let file = FoundFile { name: b"a\xff b".to_vec(), facts };
        let renamed = RenamedFile { from: 3 << 70, name: file.name.clone(), state };
        for record in [
            LedgerRecord::Header { next_number: 1 << 40 },
            LedgerRecord::Known { name: 3 << 70, state },
            LedgerRecord::Begun { number: 2, file },
            LedgerRecord::Gone { name: 3 << 70 },
            LedgerRecord::Renamed(renamed),
        ] {
            let mut out = b"before".to_vec();
            record.encode(&mut out);
            let whole = &mut out[6..];
            assert_eq!(LedgerRecord::decode(whole), Some((record, whole.len())));
            assert_eq!(LedgerRecord::decode(&whole[..whole.len() - 1]), None);
            for bit in 0..whole.len() * 8 {
                whole[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(LedgerRecord::decode(whole), None, "bit {bit}");
                whole[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}
