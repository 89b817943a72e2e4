//! Slots for short words, kept in hash order.
//!
//! A word's home is the top bits of its hash, and a word whose home is taken goes to the next free
//! slot above it. So the slots between two free ones hold exactly the words whose homes lie there:
//! walking the array and sorting each such cluster (a few slots) gives all words in hash order.
//! Growth uses the order too: home h becomes 2h or 2h + 1, so the words move up in one pass from
//! the top, inside the same allocation. The peak is the new size, not the new plus the old, and no
//! memory is touched for the first time twice, which is what growth would cost most.
//!
//! A table beyond the caches is read at random: nearly each word then costs a miss of the cache and
//! one of the address translation, of which [`simd::advise_huge_pages`] takes the second away.
//!
//! There is no wrap-around: [`PROBES_MAX`] more slots follow the last home. They also bound the
//! search. A word that finds no slot within that many is refused and belongs to the caller's side
//! table, so words crafted to share a home cost a fixed number of probes each. No word ever leaves
//! a slot, so a window that was full stays full, and a refused word is refused until the slots
//! grow.

use super::hash::Key;
use super::simd::{self, HUGE_BYTES_MIN};
use std::mem;
use std::ops::Range;

/// Most slots that are probed for one word.
pub const PROBES_MAX: usize = 96;

/// Number of homes of an empty table.
pub const CAPACITY_MIN: usize = 1 << 12;

const FREE: Slot = [0; 3];

/// The two halves of a key, and its count: 0 in a free slot. (An array, not a struct, for which the
/// standard library asks the system for zeroed memory.)
type Slot = [u64; 3];

/// Words of up to 15 bytes with their counts.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<Slot>,
    used: usize,
    homes: Homes,
}

/// The mapping from hashes to homes.
#[derive(Clone, Copy, Debug)]
pub struct Homes {
    scale: u64,
    shift: u32,
}

impl Homes {
    /// Returns the home of a word with this hash: the slot at which its search begins.
    #[inline(always)]
    pub fn of(self, hash: u64) -> usize {
        (hash.wrapping_mul(self.scale) >> self.shift) as usize
    }
}

impl Slots {
    /// Makes empty slots with `capacity` homes, a power of two. All hashes times `scale` must be
    /// in order where the hashes are: 1, or P if all words are of one of P parts.
    pub fn new(scale: u64, capacity: usize) -> Slots {
        Slots {
            slots: free_slots(capacity),
            used: 0,
            homes: Homes { scale, shift: u64::BITS - capacity.trailing_zeros() },
        }
    }

    /// Returns the capacity to which `words` words grow the slots.
    pub fn capacity_for(words: usize) -> usize {
        (words * 8).div_ceil(5).next_power_of_two().max(CAPACITY_MIN)
    }

    /// Returns the memory in bytes that slots with `capacity` homes take.
    pub fn bytes_of(capacity: usize) -> usize {
        (capacity + PROBES_MAX) * size_of::<Slot>()
    }

    /// Returns the number of distinct words.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Returns the number of homes.
    pub fn capacity(&self) -> usize {
        self.slots.len() - PROBES_MAX
    }

    /// Returns the allocated memory in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    /// Returns true if `more` new words would load the slots above 5/8, where searches get long.
    #[inline(always)]
    pub fn is_full_for(&self, more: usize) -> bool {
        (self.used + more) * 8 > self.capacity() * 5
    }

    /// Returns the mapping from hashes to homes. It is valid until the slots grow.
    #[inline(always)]
    pub fn homes(&self) -> Homes {
        self.homes
    }

    /// Prefetches the first two slots at `home`, where nearly every word is. They usually lie in
    /// two cache lines, and a miss without a prefetch costs most.
    #[inline(always)]
    pub fn prefetch(&self, home: usize) {
        simd::prefetch(&self.slots, home);
        simd::prefetch(&self.slots, home + 2);
    }

    /// Adds `count` (not 0) to the word at `home`. Returns false if there is no slot for it.
    #[inline(always)]
    pub fn add(&mut self, home: usize, key: Key, count: u64) -> bool {
        let window = &mut self.slots[home..home + PROBES_MAX];
        // Most words are in their first or second slot: picked without a branch, since which of the
        // two it is cannot be predicted.
        let second = usize::from((window[0][0] ^ key.lo) | (window[0][1] ^ key.hi) != 0);
        let [lo, hi, counted] = &mut window[second];
        if (*lo ^ key.lo) | (*hi ^ key.hi) == 0 && *counted != 0 {
            *counted += count;
            return true;
        }
        for slot in window {
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

    /// Doubles the number of homes. `refused` is called with the words that find no slot then.
    #[cold]
    pub fn grow(&mut self, mut refused: impl FnMut(Key, u64)) {
        let old_len = self.slots.len();
        let len = self.capacity() * 2 + PROBES_MAX;
        self.slots.reserve_exact(len - old_len);
        if len * size_of::<Slot>() >= HUGE_BYTES_MIN {
            simd::advise_huge_pages(&self.slots);
        }
        self.slots.resize(len, FREE);
        self.homes.shift -= 1;
        self.used = 0;
        let mut put = |slots: &mut Slots, [lo, hi, count]: Slot| {
            let key = Key { lo, hi };
            if count != 0 && !slots.add(slots.homes.of(key.hash()), key, count) {
                refused(key, count);
            }
        };
        // From here up, the new home of a word is above its slot, however far its slot is from its
        // old home.
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

    /// Calls `emit` with every word once, ascending by (hash, word). Afterwards words cannot be
    /// found until the slots are [cleared](Self::clear), because clusters are sorted in place.
    pub fn drain(&mut self, mut emit: impl FnMut(u64, Key, u64)) {
        let mut cluster = 0..0;
        for at in 0..self.slots.len() {
            if self.slots[at][2] == 0 {
                self.give_in_order(cluster, &mut emit);
                cluster = at + 1..at + 1;
            } else {
                cluster.end = at + 1;
            }
        }
        self.give_in_order(cluster, &mut emit);
    }

    /// Sorts a cluster and calls `emit` with its words.
    fn give_in_order(&mut self, cluster: Range<usize>, emit: &mut impl FnMut(u64, Key, u64)) {
        let cluster = &mut self.slots[cluster];
        if cluster.len() > 1 {
            cluster.sort_unstable_by(|&[lo, hi, _], &[other_lo, other_hi, _]| {
                let (key, other) = (Key { lo, hi }, Key { lo: other_lo, hi: other_hi });
                let by_word = || key.rank().cmp(&other.rank());
                key.hash().cmp(&other.hash()).then_with(by_word)
            });
        }
        for &[lo, hi, count] in &*cluster {
            let key = Key { lo, hi };
            emit(key.hash(), key, count);
        }
    }

    /// Frees all slots, and changes the number of homes.
    pub fn reset(&mut self, capacity: usize) {
        if capacity == self.capacity() {
            self.clear();
        } else {
            *self = Slots::new(self.homes.scale, capacity);
        }
    }

    /// Frees all slots.
    pub fn clear(&mut self) {
        self.slots.fill(FREE);
        self.used = 0;
    }
}

/// Allocates free slots for `capacity` homes.
fn free_slots(capacity: usize) -> Vec<Slot> {
    let slots = vec![FREE; capacity + PROBES_MAX];
    if size_of_val(&*slots) >= HUGE_BYTES_MIN {
        simd::advise_huge_pages(&slots);
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A word whose home is `home` of `CAPACITY_MIN`, made distinct by `number`.
    fn key_at(home: usize, number: u64) -> Key {
        (0..)
            .map(|salt: u64| Key { lo: number << 32 | salt, hi: 8 << 56 })
            .find(|key| key.hash() >> 52 == home as u64)
            .expect("some number has that hash")
    }

    /// Adds words, growing as a table would; what was refused is counted apart.
    fn filled(scale: u64, keys: &[Key]) -> (Slots, usize) {
        let mut slots = Slots::new(scale, CAPACITY_MIN);
        let mut refused = 0;
        for &key in keys {
            if slots.is_full_for(1) {
                slots.grow(|_, _| refused += 1);
            }
            refused += usize::from(!slots.add(slots.homes().of(key.hash()), key, 1));
        }
        (slots, refused)
    }

    #[test]
    fn words_of_one_home_stop_at_last_probe() {
        let keys: Vec<Key> = (0..300).map(|number| key_at(77, number)).collect();
        let (slots, refused) = filled(1, &keys);
        assert_eq!((slots.len(), refused), (PROBES_MAX, 300 - PROBES_MAX));
        let farthest = slots.slots.iter().rposition(|slot| slot[2] != 0);
        assert_eq!(farthest, Some(77 + PROBES_MAX - 1));
    }

    #[test]
    fn words_of_the_last_home_follow_it() {
        let last = CAPACITY_MIN - 1;
        let keys: Vec<Key> = (0..20).map(|number| key_at(last, number)).collect();
        let (mut slots, _) = filled(1, &keys);
        let mut hashes = Vec::new();
        slots.drain(|hash, _, _| hashes.push(hash));
        assert_eq!(hashes.len(), 20);
        assert!(hashes.is_sorted());
    }

    #[test]
    fn growth_keeps_words_that_crowd_the_lowest_homes() {
        let mut slots = Slots::new(1, CAPACITY_MIN);
        let keys: Vec<Key> = (0..180).map(|number| key_at(number as usize / 60, number)).collect();
        let mut kept = BTreeMap::new();
        for &key in &keys {
            if slots.add(slots.homes().of(key.hash()), key, 3) {
                kept.insert((key.hash(), key.rank()), 3);
            }
        }
        slots.grow(|key, _| {
            kept.remove(&(key.hash(), key.rank()));
        });
        let mut drained = Vec::new();
        slots.drain(|hash, key, count| drained.push(((hash, key.rank()), count)));
        assert!(kept.len() > PROBES_MAX);
        assert_eq!(drained, kept.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn words_of_one_part_spread_evenly() {
        let parts = 16;
        let keys: Vec<Key> = (0..400_000)
            .map(|number| Key { lo: number, hi: 8 << 56 })
            .filter(|key| super::super::part(key.hash(), parts) == 5)
            .collect();
        let (mut slots, refused) = filled(parts.into(), &keys);
        assert_eq!((slots.len(), refused), (keys.len(), 0));
        let mut hashes = Vec::new();
        slots.drain(|hash, _, _| hashes.push(hash));
        assert!(hashes.is_sorted());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn counts_and_order_survive_growth(
            numbers in prop::collection::vec((0..9000_u64, 1..9_u64), 2000..7000),
        ) {
            let mut slots = Slots::new(1, CAPACITY_MIN);
            let mut expected = BTreeMap::new();
            for (number, count) in numbers {
                let key = Key::of(number.to_string().as_bytes());
                if slots.is_full_for(1) {
                    slots.grow(|_, _| panic!("ordinary words were refused"));
                }
                prop_assert!(slots.add(slots.homes().of(key.hash()), key, count));
                *expected.entry((key.hash(), key.rank())).or_insert(0) += count;
            }
            prop_assert_eq!(slots.len(), expected.len());
            let mut drained = Vec::new();
            slots.drain(|hash, key, count| drained.push(((hash, key.rank()), count)));
            prop_assert_eq!(drained, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
