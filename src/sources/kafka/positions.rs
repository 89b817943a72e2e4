//! Positions in the partitions of a topic, as the ends of epochs record them.
//!
//! A payload names the topic by its id and each partition of a share with two offsets: where the
//! run began to read it, and the next record that was not read. From the ends of two epochs follows
//! which records lie between them in this share, also for a partition that was met in between, and
//! where other shares have read some of them meanwhile.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result};
use crate::hex_varint::{put_varint, take_varint};

/// The form of the payload, its first byte.
const FORM: u8 = 1;

/// The position of a partition that is known and not begun: it begins after the newest record.
const PENDING: i64 = -1;

/// Where the job is in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionPosition {
    /// Offset of the first record that the run wanted.
    pub began: i64,
    /// Offset of the next record that was not read.
    pub next: i64,
}

impl PartitionPosition {
    /// A partition that is to begin after the newest record.
    pub const AT_LATEST: PartitionPosition = PartitionPosition { began: PENDING, next: PENDING };

    /// A partition that begins at `offset`.
    pub fn at(offset: i64) -> PartitionPosition {
        PartitionPosition { began: offset, next: offset }
    }

    /// Returns true unless the partition is still to begin.
    pub fn has_begun(self) -> bool {
        self.began != PENDING
    }
}

/// A value that was being read when an epoch ended: longer than one read of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenValue {
    /// The number of the partition.
    pub partition: i32,
    /// The offset of its record.
    pub offset: i64,
    /// Bytes of its lines that the log had taken.
    pub taken: u64,
}

/// For some partitions, the first offset of a range and the one after its last.
pub type Ranges = BTreeMap<i32, (i64, i64)>;

/// Positions in all partitions of a share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// The id of the topic; zeros while it is not known.
    pub topic_id: [u8; 16],
    /// For each partition, the next offset, and what the records before it have left.
    pub partitions: BTreeMap<i32, PartitionPosition>,
    /// The value that a cut has divided, if one has.
    pub open: Option<OpenValue>,
}

impl Positions {
    /// Returns the payload that an end of an epoch records.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = vec![FORM];
        payload.extend(self.topic_id);
        put_varint(self.partitions.len() as u64, &mut payload);
        for (partition, position) in &self.partitions {
            put_varint(*partition as u64, &mut payload);
            // One more, so that a partition that has not begun is 0.
            put_varint((position.began + 1) as u64, &mut payload);
            put_varint((position.next - position.began) as u64, &mut payload);
        }
        if let Some(open) = self.open {
            put_varint(open.partition as u64, &mut payload);
            put_varint(open.offset as u64, &mut payload);
            put_varint(open.taken, &mut payload);
        }
        payload
    }

    /// Reads a payload back; `None` for an empty one.
    ///
    /// # Errors
    ///
    /// `Disk` for one that cannot be read.
    pub fn decode(payload: &[u8]) -> Result<Option<Positions>> {
        if payload.is_empty() {
            return Ok(None);
        }
        parse(payload).map(Some).ok_or_else(|| {
            Error::new(ErrorKind::Disk, "the journal holds positions in Kafka that cannot be read")
                .hint("a newer version may have written them; give another --state to begin anew")
        })
    }

    /// Takes over the later position of each partition from `other`, which was recorded later. If
    /// the topic was created again in between, only its positions count.
    pub fn merge(&mut self, other: Positions) {
        let unknown = [0; 16];
        if other.topic_id != self.topic_id && other.topic_id != unknown {
            if self.topic_id != unknown {
                self.partitions.clear();
            }
            self.topic_id = other.topic_id;
        }
        for (partition, theirs) in other.partitions {
            let own = self.partitions.entry(partition).or_insert(theirs);
            if theirs.next > own.next {
                *own = theirs;
            }
        }
        if let Some(open) = other.open {
            // The share that read its beginning reads its end, too.
            if let Some(position) = self.partitions.get_mut(&open.partition) {
                position.next = position.next.max(open.offset + 1);
            }
        }
    }

    /// Returns what lies between here and the later positions `end`, where that is more than
    /// nothing, and notes where each partition of `end` begins.
    pub fn ranges_to(&mut self, end: &Positions) -> Ranges {
        if self.topic_id != end.topic_id && self.topic_id != [0; 16] {
            // The topic was created again before that.
            self.partitions.clear();
        }
        self.topic_id = end.topic_id;
        let mut ranges = Ranges::new();
        for (partition, recorded) in &end.partitions {
            if !recorded.has_begun() {
                continue;
            }
            let known = self.partitions.entry(*partition).or_insert(PartitionPosition::AT_LATEST);
            // What lies before the beginning was read by others, or in a former run.
            if known.next < recorded.began {
                *known = PartitionPosition::at(recorded.began);
            }
            if known.next < recorded.next {
                ranges.insert(*partition, (known.next, recorded.next));
            }
        }
        ranges
    }

    /// Begins a run here.
    pub fn begin(&mut self) {
        self.partitions.values_mut().for_each(|position| position.began = position.next);
    }

    /// Keeps the partitions of one share only.
    pub fn keep_share(&mut self, share: usize, of: usize) {
        self.partitions.retain(|partition, _| is_of_share(*partition, share, of));
    }
}

/// Returns true if a partition belongs to this share of all.
pub fn is_of_share(partition: i32, share: usize, of: usize) -> bool {
    usize::try_from(partition).is_ok_and(|partition| partition % of == share)
}

/// Parses positions of the newest form; `None` for any other bytes.
fn parse(payload: &[u8]) -> Option<Positions> {
    let (form, rest) = payload.split_first()?;
    if *form != FORM {
        return None;
    }
    let (topic_id, mut rest) = rest.split_first_chunk::<16>()?;
    let mut positions = Positions { topic_id: *topic_id, ..Positions::default() };
    for _ in 0..take_varint(&mut rest)? {
        let partition = i32::try_from(take_varint(&mut rest)?).ok()?;
        let began = i64::try_from(take_varint(&mut rest)?).ok()? - 1;
        let next = began.checked_add(i64::try_from(take_varint(&mut rest)?).ok()?)?;
        positions.partitions.insert(partition, PartitionPosition { began, next });
    }
    if !rest.is_empty() {
        let partition = i32::try_from(take_varint(&mut rest)?).ok()?;
        let offset = i64::try_from(take_varint(&mut rest)?).ok()?;
        positions.open = Some(OpenValue { partition, offset, taken: take_varint(&mut rest)? });
    }
    rest.is_empty().then_some(positions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(list: &[(i32, i64, i64)]) -> Positions {
        let partitions = list
            .iter()
            .map(|&(partition, began, next)| (partition, PartitionPosition { began, next }))
            .collect();
        Positions { topic_id: [7; 16], partitions, open: None }
    }

    #[test]
    fn payload_is_read_back() {
        let mut all = positions(&[(0, 0, 0), (1, 5, 1 << 50), (2, -1, -1), (900, 127, 128)]);
        assert_eq!(Positions::decode(&all.encode()).expect("positions"), Some(all.clone()));
        all.open = Some(OpenValue { partition: 1, offset: 1 << 50, taken: 70_000 });
        let payload = all.encode();
        assert_eq!(Positions::decode(&payload).expect("positions"), Some(all));
        assert_eq!(Positions::decode(&[]).expect("none"), None);
        for cut in [payload.len() - 1, 20, 5] {
            assert!(Positions::decode(&payload[..cut]).is_err(), "{cut}");
        }
        assert!(Positions::decode(&[FORM + 1; 40]).is_err());
    }

    #[test]
    fn merge_takes_later_position_of_each() {
        let mut merged = positions(&[(0, 0, 10), (1, 0, 20)]);
        merged.merge(positions(&[(1, 0, 15), (2, 3, 30)]));
        assert_eq!(merged, positions(&[(0, 0, 10), (1, 0, 20), (2, 3, 30)]));
        let mut half_read = positions(&[(0, 0, 12)]);
        half_read.open = Some(OpenValue { partition: 0, offset: 12, taken: 9 });
        merged.merge(half_read);
        assert_eq!(merged.partitions[&0].next, 13);
        let mut created_again = positions(&[(0, 0, 3)]);
        created_again.topic_id = [8; 16];
        merged.merge(created_again.clone());
        assert_eq!(merged, created_again);
    }

    #[test]
    fn ranges_lie_between_two_ends() {
        let mut here = positions(&[(0, 0, 10), (1, -1, -1), (2, 5, 9)]);
        let end = positions(&[(0, 0, 15), (1, 70, 71), (2, 5, 8), (3, 40, 44), (4, -1, -1)]);
        let ranges = here.ranges_to(&end);
        assert_eq!(ranges, Ranges::from([(0, (10, 15)), (1, (70, 71)), (3, (40, 44))]));
        assert_eq!(here.partitions[&3], PartitionPosition::at(40));
        // Nothing goes back.
        assert_eq!(here.partitions[&2].next, 9);
    }

    #[test]
    fn range_leaves_out_what_other_shares_read() {
        let mut taken_over = positions(&[(0, 0, 70), (1, -1, -1)]);
        taken_over.begin();
        assert_eq!(taken_over, positions(&[(0, 70, 70), (1, -1, -1)]));
        let end = positions(&[(0, 70, 75)]);
        // The journal is new, or it is old and others have read the topic since.
        for mut here in [Positions::default(), positions(&[(0, 0, 20)])] {
            assert_eq!(here.ranges_to(&end), Ranges::from([(0, (70, 75))]));
        }
    }

    #[test]
    fn share_keeps_partitions_by_remainder() {
        let mut share = positions(&[(0, 0, 1), (1, 0, 1), (2, 0, 1), (3, 0, 1)]);
        share.keep_share(1, 2);
        assert_eq!(share, positions(&[(1, 0, 1), (3, 0, 1)]));
    }
}
