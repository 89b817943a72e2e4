//! Short words in slots that stand in hash order.
//!
//! A word's home is the top bits of its hash, and a word whose home is taken goes to the next free
//! slot above it. So the slots between two free ones hold exactly the words whose homes lie there:
//! walking the array and sorting each such cluster (a few slots) gives all words in hash order. Growth
//! uses the order too: home h becomes 2h or 2h + 1, so the words move up in one pass from the top,
//! inside the same allocation, and the peak is the new size, not the new plus the old.
//!
//! There is no wrap: [`PROBES_MAX`] more slots stand behind the last home. They also bound the search.
//! A word that finds no slot within that many is refused and belongs to the caller's side table, so
//! words crafted to share a home cost a fixed number of probes each. No word ever leaves a slot, so a
//! window that was full stays full, and a refused word is refused until the slots grow.

use super::hash::Key;
use super::simd;
use std::mem;

/// Slots that are looked at for one word.
pub(super) const PROBES_MAX: usize = 96;

/// Slots of an empty table.
pub(super) const CAPACITY_MIN: usize = 1 << 12;

const FREE: Slot = [0; 3];

/// The two halves of a key, and its count: 0 in a free slot. (An array, not a struct, for which the
/// standard library asks the system for zeroed memory.)
type Slot = [u64; 3];

/// Words of up to 15 bytes with their counts.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    used: usize,
    scale: u64,
    shift: u32,
}

impl Slots {
    /// No words, with room for `capacity` homes, a power of two. All hashes times `scale` must be
    /// in order where the hashes are: 1, or P if all words are of one of P parts.
    pub(super) fn new(scale: u32, capacity: usize) -> Slots {
        Slots {
            slots: vec![FREE; capacity + PROBES_MAX],
            used: 0,
            scale: u64::from(scale),
            shift: u64::BITS - capacity.trailing_zeros(),
        }
    }

    /// Distinct words.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Homes.
    pub(super) fn capacity(&self) -> usize {
        self.slots.len() - PROBES_MAX
    }

    /// Bytes allocated.
    pub(super) fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    /// Whether `more` new words would load the slots above 5/8 (beyond it, searches get long).
    #[inline(always)]
    pub(super) fn is_full_for(&self, more: usize) -> bool {
        (self.used + more) * 8 > self.capacity() * 5
    }

    /// Where the search for a word of this hash begins.
    #[inline(always)]
    pub(super) fn home(&self, hash: u64) -> usize {
        (hash.wrapping_mul(self.scale) >> self.shift) as usize
    }

    /// Asks for the memory at `home`.
    #[inline(always)]
    pub(super) fn prefetch(&self, home: usize) {
        simd::prefetch(&self.slots, home);
    }

    /// Adds `count` (not 0) to the word at `home`; false if there is no slot for it.
    #[inline(always)]
    pub(super) fn add(&mut self, home: usize, key: Key, count: u64) -> bool {
        for slot in &mut self.slots[home..home + PROBES_MAX] {
            let [lo, hi, counted] = slot;
            if *lo == key.lo && *hi == key.hi && *counted != 0 {
                *counted += count;
                return true;
            }
            if *counted == 0 {
                *slot = [key.lo, key.hi, count];
                self.used += 1;
                return true;
            }
        }
        false
    }

    /// Doubles the homes. `refused` takes the words that now find no slot.
    #[cold]
    pub(super) fn grow(&mut self, mut refused: impl FnMut(Key, u64)) {
        let old_len = self.slots.len();
        let len = self.capacity() * 2 + PROBES_MAX;
        self.slots.reserve_exact(len - old_len);
        self.slots.resize(len, FREE);
        self.shift -= 1;
        self.used = 0;
        let mut put = |slots: &mut Slots, [lo, hi, count]: Slot| {
            let key = Key { lo, hi };
            if count != 0 && !slots.add(slots.home(key.hash()), key, count) {
                refused(key, count);
            }
        };
        // From here up, a word's new home is above its slot, whatever its way from its old home was.
        let bottom = old_len.min(2 * PROBES_MAX);
        for at in (bottom..old_len).rev() {
            let slot = mem::replace(&mut self.slots[at], FREE);
            put(self, slot);
        }
        let rest = self.slots[..bottom].to_vec();
        self.slots[..bottom].fill(FREE);
        for slot in rest {
            put(self, slot);
        }
    }

    /// Gives every word once, ascending by (hash, word), and frees its slot.
    pub(super) fn drain(&mut self, mut emit: impl FnMut(u64, Key, u64)) {
        let mut cluster: Vec<(u64, Key, u64)> = Vec::new();
        self.used = 0;
        for slot in &mut self.slots {
            let [lo, hi, count] = *slot;
            if count != 0 {
                let key = Key { lo, hi };
                cluster.push((key.hash(), key, count));
                *slot = FREE;
            } else if !cluster.is_empty() {
                empty_in_order(&mut cluster, &mut emit);
            }
        }
        empty_in_order(&mut cluster, &mut emit);
    }
}

fn empty_in_order(cluster: &mut Vec<(u64, Key, u64)>, emit: &mut impl FnMut(u64, Key, u64)) {
    if cluster.len() > 1 {
        cluster.sort_unstable_by(|(hash, key, _), (other_hash, other, _)| {
            hash.cmp(other_hash)
                .then_with(|| key.rank().cmp(&other.rank()))
        });
    }
    for (hash, key, count) in cluster.drain(..) {
        emit(hash, key, count);
    }
}
