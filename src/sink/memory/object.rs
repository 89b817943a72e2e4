//! The bytes of a kept change: whose it is, the run's columns, and a checksum of it all.

use timely::dataflow::channels::ContainerBytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::operators::{Change, Run};
use crate::store::{StoreError, StoreErrorKind};

/// What every object begins with; the last byte is the version.
const MAGIC: [u8; 8] = *b"wordrun\x01";
/// Magic, counts and part, how long it lasts (0 for ever); behind the run its checksum.
const HEAD_BYTES: usize = 24;
const SUM_BYTES: usize = 8;

pub(super) fn encode(change: &Change) -> Vec<u8> {
    let Change { counts, part, lasts_ms, run } = change;
    let mut bytes = Vec::with_capacity(HEAD_BYTES + run.length_in_bytes() + SUM_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&counts.to_le_bytes());
    bytes.extend_from_slice(&part.to_le_bytes());
    bytes.extend_from_slice(&lasts_ms.unwrap_or(0).to_le_bytes());
    run.into_bytes(&mut bytes);
    let sum = xxh3_64(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// The change, or `None` of bytes that are not what was written.
pub(super) fn decode(bytes: &[u8]) -> Option<Change> {
    let (content, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM_BYTES)?)?;
    if sum != xxh3_64(content).to_le_bytes() || !content.starts_with(&MAGIC) {
        return None;
    }
    let (head, run) = content.split_at_checked(HEAD_BYTES)?;
    let number =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let lasts_ms = u64::from(number(16)) | u64::from(number(20)) << 32;
    let lasts_ms = (lasts_ms > 0).then_some(lasts_ms);
    Some(Change { counts: number(8), part: number(12), lasts_ms, run: Run::read(run) })
}

pub(super) fn damaged(key: &str) -> StoreError {
    let message = format!("{key} is damaged: it is not what was stored there");
    StoreError::new(StoreErrorKind::Disk, message).hint(
        "bring it back from a copy, or give another --state to begin the totals or windows anew",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> Change {
        let mut run = Run { epoch: 10, ..Run::default() };
        for (hash, word, count) in [(1, "a", 3), (2, "", -1), (9, "zebra", 1 << 40)] {
            run.push(hash, word.as_bytes(), count);
        }
        Change { counts: 1, part: 2, lasts_ms: Some(1 << 33), run }
    }

    #[test]
    fn a_change_reads_back() {
        for lasts_ms in [None, Some(20), Some(1 << 33)] {
            let change = Change { lasts_ms, ..change() };
            let back = decode(&encode(&change)).expect("it is whole");
            assert_eq!(format!("{back:?}"), format!("{change:?}"));
        }
    }

    #[test]
    fn a_flipped_bit_or_a_missing_byte_is_noticed() {
        let bytes = encode(&change());
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(decode(&flipped).is_none(), "byte {at}");
            assert!(decode(&bytes[..at]).is_none(), "{at} bytes");
        }
    }
}
