//! Counts as positions in a dictionary: most counts of an epoch are small and few.
//!
//! Positions are written as runs. A run is one value that repeats, or groups of eight values with
//! as many bits each as the largest position of the dictionary needs.

use hashbrown::HashMap;

use super::thrift::put_varint;

/// The length of a group.
const GROUP: usize = 8;

/// A run of packed groups has fewer than this, so that its head is one byte.
const GROUPS_MAX: usize = 64;

/// The values of a column, each once, in the order in which they came.
#[derive(Debug, Default)]
pub struct Dictionary {
    positions: HashMap<i64, u32, foldhash::fast::RandomState>,
    values: Vec<i64>,
}

impl Dictionary {
    /// Returns the position of `value`, which is added if it is new.
    pub fn position(&mut self, value: i64) -> u32 {
        let next = self.values.len() as u32;
        *self.positions.entry(value).or_insert_with(|| {
            self.values.push(value);
            next
        })
    }

    /// Returns the values in order.
    pub fn values(&self) -> &[i64] {
        &self.values
    }

    /// Returns the content of a data page: the bits of a position, and the positions.
    pub fn page(&self, positions: &[u32]) -> Vec<u8> {
        let largest = self.values.len().saturating_sub(1) as u32;
        let bits = u32::BITS - largest.leading_zeros();
        let mut page = vec![bits as u8];
        put_runs(positions, bits, &mut page);
        page
    }
}

/// Appends positions as runs.
///
/// A value repeats from a group on whose eight values are equal, or if it is all that is left and
/// no packed group precedes it. Other groups are packed.
fn put_runs(positions: &[u32], bits: u32, out: &mut Vec<u8>) {
    // The groups from `packed` to `at` are not written yet.
    let (mut packed, mut at) = (0, 0);
    while at < positions.len() {
        let rest = &positions[at..];
        let repeats = rest.iter().take_while(|position| **position == rest[0]).count();
        if repeats >= GROUP || (repeats == rest.len() && packed == at) {
            put_packed(&positions[packed..at], bits, out);
            put_varint((repeats as u64) << 1, out);
            let bytes = bits.div_ceil(8) as usize;
            out.extend_from_slice(&rest[0].to_le_bytes()[..bytes]);
            at += repeats;
            packed = at;
            continue;
        }
        at = (at + GROUP).min(positions.len());
        if (at - packed) / GROUP + 1 >= GROUPS_MAX {
            put_packed(&positions[packed..at], bits, out);
            packed = at;
        }
    }
    put_packed(&positions[packed..], bits, out);
}

/// Appends a run of packed groups, the last of which is filled up with zeros.
fn put_packed(positions: &[u32], bits: u32, out: &mut Vec<u8>) {
    if positions.is_empty() {
        return;
    }
    let groups = positions.len().div_ceil(GROUP);
    out.push((groups as u8) << 1 | 1);
    let end = out.len() + groups * bits as usize;
    let (mut held, mut held_bits) = (0_u64, 0);
    for position in positions {
        held |= u64::from(*position) << held_bits;
        held_bits += bits;
        while held_bits >= 8 {
            out.push(held as u8);
            held >>= 8;
            held_bits -= 8;
        }
    }
    if held_bits > 0 {
        out.push(held as u8);
    }
    out.resize(end, 0);
}
