//! Encodes a change as the bytes of an object: head, columns of the run, checksum.

use timely::dataflow::channels::ContainerBytes;
use xxhash_rust::xxh3::xxh3_64;

use super::change_links::LinkedChange;
use crate::operators::{PartChange, Run};
use crate::store::{StoreError, StoreErrorKind};
use crate::words;

/// The first bytes of a base, and of a change of a release that did not name the change before it.
/// The last one is the version.
const MAGIC: [u8; 8] = *b"wordrun\x01";
/// The length of its head: magic, counts, part, and the time for which it lasts (0 for ever).
const HEAD_BYTES: usize = 24;
/// The first bytes of a change.
const LINKED_MAGIC: [u8; 8] = *b"wordrun\x02";
/// The length of its head, which ends with the epoch of the change before it.
const LINKED_HEAD_BYTES: usize = HEAD_BYTES + 8;
/// The length of the checksum after the run.
const SUM_BYTES: usize = 8;

/// Returns the bytes of a change.
pub fn encode(linked: &LinkedChange) -> Vec<u8> {
    let LinkedChange { change, before } = linked;
    let PartChange { counts, part, lasts_ms, run } = change;
    let mut bytes = Vec::with_capacity(LINKED_HEAD_BYTES + run.length_in_bytes() + SUM_BYTES);
    bytes.extend_from_slice(before.map_or(&MAGIC, |_| &LINKED_MAGIC));
    bytes.extend_from_slice(&counts.to_le_bytes());
    bytes.extend_from_slice(&part.to_le_bytes());
    bytes.extend_from_slice(&lasts_ms.unwrap_or(0).to_le_bytes());
    if let Some(before) = before {
        bytes.extend_from_slice(&before.to_le_bytes());
    }
    run.into_bytes(&mut bytes);
    let sum = xxh3_64(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// Returns the change in `bytes`, which may come from anyone.
///
/// # Errors
///
/// The fault of the bytes, as a fragment of a sentence.
pub fn decode(bytes: &[u8]) -> Result<LinkedChange, &'static str> {
    let sum_at = bytes.len().checked_sub(SUM_BYTES).ok_or("it is too short")?;
    let (content, sum) = bytes.split_at(sum_at);
    let is_linked = content.starts_with(&LINKED_MAGIC);
    if !is_linked && !content.starts_with(&MAGIC) {
        return Err("it does not begin as a change does");
    }
    if sum != xxh3_64(content).to_le_bytes() {
        return Err("its checksum is wrong");
    }
    let head_bytes = if is_linked { LINKED_HEAD_BYTES } else { HEAD_BYTES };
    let (head, run) = content.split_at_checked(head_bytes).ok_or("it is too short")?;
    let number =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let long = |at: usize| u64::from(number(at)) | u64::from(number(at + 4)) << 32;
    let (lasts_ms, before) = (Some(long(16)).filter(|ms| *ms > 0), is_linked.then(|| long(24)));
    let run = Run::parse(run)?;
    // Anyone can compute the checksum, and part and worker of a word depend on its hash.
    if run.words.iter().any(|word| word.hash != words::hash(word.word)) {
        return Err("the hash of a word is wrong");
    }
    let change = PartChange { counts: number(8), part: number(12), lasts_ms, run };
    Ok(LinkedChange { change, before })
}

/// Returns the error of an object with other content than was stored under its key.
pub fn damaged(key: &str, reason: &str) -> StoreError {
    let message = format!("{key} is damaged: {reason}");
    StoreError::new(StoreErrorKind::Disk, message).hint(
        "bring it back from a copy, or give another --state to begin the totals or windows anew",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> LinkedChange {
        let mut run = Run { epoch: 10, ..Run::default() };
        let words = [("a", 3), ("", -1), ("zebra", 1 << 40)];
        let mut hashed = words.map(|(word, count)| (words::hash(word.as_bytes()), word, count));
        hashed.sort_unstable();
        hashed.iter().for_each(|(hash, word, count)| run.push(*hash, word.as_bytes(), *count));
        let change = PartChange { counts: 1, part: 2, lasts_ms: Some(1 << 33), run };
        LinkedChange { change, before: Some(1 << 41) }
    }

    #[test]
    fn a_change_reads_back() {
        for lasts_ms in [None, Some(20), Some(1 << 33)] {
            for before in [None, Some(0), Some(1 << 41)] {
                let change = PartChange { lasts_ms, ..change().change };
                let linked = LinkedChange { change, before };
                let back = decode(&encode(&linked)).expect("it is whole");
                assert_eq!(format!("{back:?}"), format!("{linked:?}"));
            }
        }
    }

    #[test]
    fn change_with_damage_is_refused() {
        let bytes = encode(&change());
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(decode(&flipped).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn change_with_forged_checksum_never_panics() {
        use proptest::collection::vec;
        use proptest::num::u8::ANY;
        let good = encode(&change());
        let content = good.len() - SUM_BYTES;
        proptest::proptest!(|(
            changes in vec((0..content, ANY), 1..4),
            length in 0..=content,
            is_whole in proptest::bool::ANY,
        )| {
            let mut forged = good[..content].to_vec();
            changes.into_iter().for_each(|(at, byte)| forged[at] = byte);
            forged.truncate(if is_whole { content } else { length });
            let sum = xxh3_64(&forged);
            forged.extend_from_slice(&sum.to_le_bytes());
            if let Ok(change) = decode(&forged) {
                let again = decode(&encode(&change)).map(|again| again.change.part);
                assert_eq!(again, Ok(change.change.part));
            }
        });
    }
}
