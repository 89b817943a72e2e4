//! Slots for short words, kept in hash order.
//!
//! A word's home is the top bits of its hash, and a word whose home is taken goes to the next free
//! slot above it. So the slots between two free ones hold exactly the words whose homes lie there:
//! reading the array a stretch at a time (`ascending`) gives all words in hash order.
//! Growth uses the order too: home h becomes 2h or 2h + 1, so the words move up in one pass from
//! the top, inside the same allocation (from 128 KiB on). The peak is the new size, not the new
//! plus the old, and no memory is touched for the first time twice, which is what growth would cost
//! most.
//!
//! A slot takes 24 bytes, or 16 if all words have up to 7 bytes. Four of those fit a cache line.
//!
//! A table beyond the caches is read at random: nearly each word then costs a miss of the cache and
//! one of the address translation, of which [huge pages](simd::advise_if_large) take the second
//! away.
//!
//! There is no wrap-around: [`PROBES_MAX`] more slots follow the last home. They also bound the
//! search. A word that finds no slot within that many is refused and belongs to the caller's side
//! table, so words crafted to share a home cost a fixed number of probes each. No word ever leaves
//! a slot, so a window that was full stays full, and a refused word is refused until the slots
//! grow.

use super::hash::{Key, TinyKey};
use super::simd;
use std::fmt::Debug;
use std::mem;

/// Most slots that are probed for one word.
pub const PROBES_MAX: usize = 96;

/// A word as its slot stores it.
pub trait SlotKey: Copy + Debug {
    /// The key and its count. (An array, not a struct, for which the standard library asks the
    /// system for zeroed memory.)
    type Slot: Copy + Debug;

    /// A slot without a word.
    const FREE: Self::Slot;

    /// Makes the key of a word, which must be short enough.
    fn of(key: Key) -> Self;

    /// Returns the 16-byte key.
    fn key(self) -> Key;

    /// Returns the slot of the word with this count, which is not 0.
    fn slot(self, count: u64) -> Self::Slot;

    /// Returns the word of a slot and its count: 0 for a free slot.
    fn read(slot: &Self::Slot) -> (Self, u64);

    /// Returns true if the slot is free.
    fn is_free(slot: &Self::Slot) -> bool;

    /// Returns true if the slot holds this word.
    fn is_in(self, slot: &Self::Slot) -> bool;

    /// Returns true if the key of the slot is another one. The slot may be free.
    fn differs(self, slot: &Self::Slot) -> bool;

    /// Adds to the count of a slot that is not free.
    fn add(slot: &mut Self::Slot, count: u64);
}

impl SlotKey for TinyKey {
    type Slot = [u64; 2];

    const FREE: [u64; 2] = [0; 2];

    #[inline(always)]
    fn of(key: Key) -> TinyKey {
        TinyKey::of(key)
    }

    #[inline(always)]
    fn key(self) -> Key {
        TinyKey::key(self)
    }

    #[inline(always)]
    fn slot(self, count: u64) -> [u64; 2] {
        [self.0, count]
    }

    #[inline(always)]
    fn read(&[key, count]: &[u64; 2]) -> (TinyKey, u64) {
        (TinyKey(key), count)
    }

    #[inline(always)]
    fn is_free(slot: &[u64; 2]) -> bool {
        slot[0] == 0
    }

    #[inline(always)]
    fn is_in(self, slot: &[u64; 2]) -> bool {
        slot[0] == self.0
    }

    #[inline(always)]
    fn differs(self, slot: &[u64; 2]) -> bool {
        slot[0] != self.0
    }

    #[inline(always)]
    fn add(slot: &mut [u64; 2], count: u64) {
        slot[1] += count;
    }
}

impl SlotKey for Key {
    type Slot = [u64; 3];

    const FREE: [u64; 3] = [0; 3];

    #[inline(always)]
    fn of(key: Key) -> Key {
        key
    }

    #[inline(always)]
    fn key(self) -> Key {
        self
    }

    #[inline(always)]
    fn slot(self, count: u64) -> [u64; 3] {
        [self.lo, self.hi, count]
    }

    #[inline(always)]
    fn read(&[lo, hi, count]: &[u64; 3]) -> (Key, u64) {
        (Key { lo, hi }, count)
    }

    #[inline(always)]
    fn is_free(slot: &[u64; 3]) -> bool {
        slot[2] == 0
    }

    #[inline(always)]
    fn is_in(self, slot: &[u64; 3]) -> bool {
        (slot[0] ^ self.lo) | (slot[1] ^ self.hi) == 0 && slot[2] != 0
    }

    #[inline(always)]
    fn differs(self, slot: &[u64; 3]) -> bool {
        (slot[0] ^ self.lo) | (slot[1] ^ self.hi) != 0
    }

    #[inline(always)]
    fn add(slot: &mut [u64; 3], count: u64) {
        slot[2] += count;
    }
}

/// Words of one kind with their counts.
#[derive(Debug)]
pub struct Slots<K: SlotKey> {
    pub(super) slots: Vec<K::Slot>,
    pub(super) used: usize,
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

impl<K: SlotKey> Slots<K> {
    /// Makes empty slots with `capacity` homes, a power of two above 1. All hashes times `scale`
    /// must be in order where the hashes are: 1, or R if all words are of one of R equal ranges.
    pub fn new(scale: u64, capacity: usize) -> Slots<K> {
        Slots {
            // The system gives zeroed memory, which is not touched here.
            slots: simd::zeros_mapped(K::FREE, capacity + PROBES_MAX),
            used: 0,
            homes: Homes { scale, shift: shift(capacity) },
        }
    }

    /// Returns the least capacity that `words` words do not grow.
    pub fn capacity_for(words: usize) -> usize {
        (words * 8).div_ceil(5).next_power_of_two()
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
        self.slots.len() * size_of::<K::Slot>()
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

    /// Prefetches the first slots at `home`, where nearly every word is.
    #[inline(always)]
    pub fn prefetch(&self, home: usize) {
        simd::prefetch(&self.slots, home);
        // Two slots of 24 bytes usually lie in two cache lines, and a miss without a prefetch costs
        // most. Of slots of 16 bytes most pairs lie in one.
        if size_of::<K::Slot>() > 16 {
            simd::prefetch(&self.slots, home + 2);
        }
    }

    /// Reads a word of each cache line in order, which is faster than to fetch them at random.
    pub fn fetch(&self) {
        let step = 64 / size_of::<K::Slot>();
        let free = self.slots.iter().step_by(step).filter(|slot| K::is_free(slot)).count();
        std::hint::black_box(free);
    }

    /// Adds `count` (not 0) to the word at `home`. Returns false if there is no slot for it.
    #[inline(always)]
    pub fn add(&mut self, home: usize, key: K, count: u64) -> bool {
        let window = &mut self.slots[home..home + PROBES_MAX];
        // Most words are in their first or second slot: picked without a branch, since which of the
        // two it is cannot be predicted.
        let second = usize::from(key.differs(&window[0]));
        let slot = &mut window[second];
        if key.is_in(slot) {
            K::add(slot, count);
            return true;
        }
        for slot in window {
            if key.is_in(slot) {
                K::add(slot, count);
                return true;
            }
            if K::is_free(slot) {
                *slot = key.slot(count);
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
        simd::resize_mapped(&mut self.slots, len, K::FREE);
        self.homes.shift -= 1;
        self.used = 0;
        let mut put = |slots: &mut Slots<K>, slot: K::Slot| {
            let (word, count) = K::read(&slot);
            let is_kept =
                K::is_free(&slot) || slots.add(slots.homes().of(word.key().hash()), word, count);
            if !is_kept {
                refused(word.key(), count);
            }
        };
        // From here up, the new home of a word is above its slot, however far its slot is from its
        // old home.
        let bottom = old_len.min(2 * PROBES_MAX);
        for at in (bottom..old_len).rev() {
            let slot = mem::replace(&mut self.slots[at], K::FREE);
            put(self, slot);
        }
        let rest = self.slots[..bottom].to_vec();
        self.slots[..bottom].fill(K::FREE);
        for slot in rest {
            put(self, slot);
        }
    }

    /// Frees all slots, and changes the number of homes. Memory of the first slots is kept.
    pub fn reset(&mut self, capacity: usize) {
        if self.used > 0 {
            self.slots.fill(K::FREE);
            self.used = 0;
        }
        if capacity != self.capacity() {
            let len = capacity + PROBES_MAX;
            if len < self.slots.len() && simd::has_room_apart(&self.slots) {
                // Their room is not shortened, so their memory would stay.
                self.slots = Vec::new();
                self.slots = simd::zeros_mapped(K::FREE, len);
            } else {
                simd::resize_mapped(&mut self.slots, len, K::FREE);
            }
            self.homes.shift = shift(capacity);
        }
    }
}

/// Returns the shift that leaves the home of a hash.
fn shift(capacity: usize) -> u32 {
    u64::BITS - capacity.trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const CAPACITY: usize = 1 << 12;

    /// A word whose home is `home` of `CAPACITY`, made distinct by `number`.
    fn key_at(home: usize, number: u64) -> Key {
        (0..)
            .map(|salt: u64| Key { lo: number << 32 | salt, hi: 8 << 56 })
            .find(|key| key.hash() >> 52 == home as u64)
            .expect("some number has that hash")
    }

    /// Adds words, growing as a table would; what was refused is counted apart.
    fn filled(scale: u64, keys: &[Key]) -> (Slots<Key>, usize) {
        let mut slots = Slots::new(scale, CAPACITY);
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
        let last = CAPACITY - 1;
        let keys: Vec<Key> = (0..20).map(|number| key_at(last, number)).collect();
        let (mut slots, _) = filled(1, &keys);
        let hashes: Vec<u64> = slots.ascending().map(|word| word.hash).collect();
        assert_eq!(hashes.len(), 20);
        assert!(hashes.is_sorted());
    }

    #[test]
    fn growth_keeps_words_that_crowd_the_lowest_homes() {
        let mut slots = Slots::<Key>::new(1, CAPACITY);
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
        let drained: Vec<_> =
            slots.ascending().map(|word| ((word.hash, word.key.rank()), word.count)).collect();
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
        let hashes: Vec<u64> = slots.ascending().map(|word| word.hash).collect();
        assert!(hashes.is_sorted());
    }

    /// Adds words to slots of one kind, and compares counts and order with those of a map.
    fn check_counts<K: SlotKey>(words: impl Iterator<Item = (Key, u64)>) {
        let mut slots = Slots::<K>::new(1, CAPACITY);
        let mut expected = BTreeMap::new();
        for (key, count) in words {
            if slots.is_full_for(1) {
                slots.grow(|_, _| panic!("ordinary words were refused"));
            }
            let word = K::of(key);
            assert!(slots.add(slots.homes().of(key.hash()), word, count));
            *expected.entry((key.hash(), key.rank())).or_insert(0) += count;
        }
        assert_eq!(slots.len(), expected.len());
        let drained: Vec<_> =
            slots.ascending().map(|word| ((word.hash, word.key.rank()), word.count)).collect();
        assert_eq!(drained, expected.into_iter().collect::<Vec<_>>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn counts_and_order_survive_growth(
            numbers in prop::collection::vec((0..9000_u64, 1..9_u64), 2000..7000),
        ) {
            let words = |prefix: &'static str| {
                numbers.iter().map(move |(number, count)| {
                    (Key::of(format!("{prefix}{number}").as_bytes()), *count)
                })
            };
            check_counts::<TinyKey>(words(""));
            check_counts::<Key>(words("long-er-"));
        }
    }
}
