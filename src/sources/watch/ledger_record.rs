//! The records of a ledger, and how they stand in its file.
//!
//! ```text
//! len u32 | crc32c u32 | kind u8 | fields          all numbers little-endian
//! ```

use super::found_file::{FileFacts, FoundFile, NameHash, Version};

/// Bytes before the payload of a record.
pub const FRAME: usize = 8;
/// Longest payload: a name of an object has up to 1,024 bytes, a name of a file up to 255.
const PAYLOAD_MAX: usize = 16 << 10;
/// The version of the encoding, stated by the first record.
const FORMAT: u8 = 1;

/// One record of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerRecord {
    /// The first record. The next file that is begun has at least this number.
    Header { next_number: u64 },
    /// A file that is not read: it was read before, or was there at the start.
    Known { name: NameHash, version: Version },
    /// A file whose reading has begun.
    Begun { number: u64, file: FoundFile },
    /// A name that is no longer there.
    Gone { name: NameHash },
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
            LedgerRecord::Known { name, version } => {
                out.push(1);
                out.extend_from_slice(&name.to_le_bytes());
                out.extend_from_slice(&version.0.to_le_bytes());
            }
            LedgerRecord::Begun { number, file } => {
                out.push(2);
                let FileFacts { bytes, version, inode, .. } = file.facts;
                for field in [*number, bytes, version.0, inode] {
                    out.extend_from_slice(&field.to_le_bytes());
                }
                out.extend_from_slice(&file.name);
            }
            LedgerRecord::Gone { name } => {
                out.push(3);
                out.extend_from_slice(&name.to_le_bytes());
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
            let number = number.try_into().ok().filter(|_| *format == FORMAT)?;
            LedgerRecord::Header { next_number: u64::from_le_bytes(number) }
        }
        1 => {
            let name = wide(next()?, next()?);
            LedgerRecord::Known { name, version: Version(next()?) }
        }
        2 => {
            let number = next()?;
            let (bytes, version, inode) = (next()?, Version(next()?), next()?);
            let facts = FileFacts { bytes, version, inode, ..FileFacts::default() };
            LedgerRecord::Begun { number, file: FoundFile { name: fields.to_vec(), facts } }
        }
        3 => LedgerRecord::Gone { name: wide(next()?, next()?) },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_and_flips_do_not() {
        let facts = FileFacts { bytes: 7, version: Version(8), inode: 9, ..FileFacts::default() };
        let file = FoundFile { name: b"a\xff b".to_vec(), facts };
        for record in [
            LedgerRecord::Header { next_number: 1 << 40 },
            LedgerRecord::Known { name: 3 << 70, version: Version(5) },
            LedgerRecord::Begun { number: 2, file },
            LedgerRecord::Gone { name: 3 << 70 },
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
