//! The side table: words longer than 15 bytes, and words that were crafted to share a slot.
//!
//! Their bytes are stored in one arena. The index uses a hash with a random seed that is unknown
//! outside, so words crafted to share a [`hash`] are found here as quickly as any others. Words are
//! sorted only when the table is drained.

use super::ascending::HashedKey;
use super::drain_sink::DrainSink;
use super::hash::{Key, SHORT_BYTES_MAX, hash};
use super::slots::{SlotKey, Slots};
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use std::hash::{BuildHasher, Hasher};
use std::mem;

/// Largest arena in bytes, and largest index in words, that are kept when the table is emptied.
const KEPT_MAX: usize = 1 << 16;

/// Returns true if an allocation of `capacity`, of which `used` was used, is worth keeping.
fn is_kept(capacity: usize, used: usize) -> bool {
    capacity <= KEPT_MAX && capacity <= used.saturating_mul(8)
}

/// Words in an arena, found by a seeded hash.
#[derive(Debug, Default)]
pub struct OverflowTable {
    index: HashTable<OverflowWord>,
    arena: Vec<u8>,
    seed: RandomState,
}

/// A word in the arena, and its count.
#[derive(Clone, Copy, Debug)]
struct OverflowWord {
    start: usize,
    len: usize,
    count: u64,
}

impl OverflowWord {
    fn word<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        &arena[self.start..self.start + self.len]
    }
}

impl OverflowTable {
    /// Returns the number of distinct words.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Returns the allocated memory in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.index.allocation_size() + self.arena.capacity()
    }

    /// Adds `count` to `word`.
    pub fn add(&mut self, word: &[u8], count: u64) {
        let OverflowTable { index, arena, seed } = self;
        let place = seeded_hash(seed, word);
        if let Some(entry) = index.find_mut(place, |entry| entry.word(arena) == word) {
            entry.count += count;
            return;
        }
        let entry = OverflowWord { start: arena.len(), len: word.len(), count };
        arena.extend_from_slice(word);
        index.insert_unique(place, entry, |entry| seeded_hash(seed, entry.word(arena)));
    }

    /// Removes every short word that `take` accepts.
    fn give_back(&mut self, mut take: impl FnMut(Key, u64) -> bool) {
        let OverflowTable { index, arena, .. } = self;
        index.retain(|entry| {
            entry.len > SHORT_BYTES_MAX || !take(Key::of(entry.word(arena)), entry.count)
        });
    }

    /// Makes room in `slots` for `more` words. The short words of this table are those that their
    /// slots refused: after growth those that belong to `slots`, by `takes`, are tried again.
    #[inline(always)]
    pub fn make_room<K: SlotKey>(
        &mut self,
        slots: &mut Slots<K>,
        takes: impl Fn(Key) -> bool,
        more: usize,
    ) {
        if slots.is_full_for(more) {
            self.grow(slots, takes, more);
        }
    }

    #[cold]
    fn grow<K: SlotKey>(&mut self, slots: &mut Slots<K>, takes: impl Fn(Key) -> bool, more: usize) {
        while slots.is_full_for(more) {
            let mut refused: Vec<(Key, u64)> = Vec::new();
            slots.grow(|key, count| refused.push((key, count)));
            self.give_back(|key, count| {
                takes(key) && slots.add(slots.homes().of(key.hash()), K::of(key), count)
            });
            for (key, count) in refused {
                self.add_key(key, count);
            }
        }
    }

    /// Adds `count` to a word that its slots refused.
    #[cold]
    pub fn add_key(&mut self, key: Key, count: u64) {
        self.add(&key.to_bytes()[..key.length()], count);
    }

    /// Removes and returns all words, ascending by (hash, word).
    pub fn take_sorted(&mut self) -> SortedWords {
        let arena = mem::take(&mut self.arena);
        let words = self.index.len();
        let mut entries: Vec<(u64, OverflowWord)> =
            self.index.drain().map(|entry| (hash(entry.word(&arena)), entry)).collect();
        if !is_kept(self.index.capacity(), words) {
            self.index = HashTable::new();
        }
        entries.sort_unstable_by(|(hash, entry), (other_hash, other)| {
            hash.cmp(other_hash).then_with(|| entry.word(&arena).cmp(other.word(&arena)))
        });
        SortedWords { entries, next: 0, arena }
    }

    /// Keeps the arena of a drained side table, if it is small.
    pub fn reuse(&mut self, drained: SortedWords) {
        let mut arena = drained.arena;
        if is_kept(arena.capacity(), arena.len()) {
            arena.clear();
            self.arena = arena;
        }
    }
}

/// Returns the seeded hash of a word.
fn seeded_hash(seed: &RandomState, word: &[u8]) -> u64 {
    let mut hasher = seed.build_hasher();
    hasher.write(word);
    hasher.finish()
}

/// A drained side table: words ascending by (hash, word).
pub struct SortedWords {
    entries: Vec<(u64, OverflowWord)>,
    next: usize,
    arena: Vec<u8>,
}

impl SortedWords {
    /// Returns the hash of the next word.
    #[inline(always)]
    fn next_hash(&self) -> Option<u64> {
        self.entries.get(self.next).map(|(hash, _)| *hash)
    }

    /// Gives `to` the words that are less than (`hash`, `word`).
    fn before(&mut self, hash: u64, word: &[u8], to: &mut impl DrainSink) {
        while let Some((next_hash, entry)) = self.entries.get(self.next) {
            let next = entry.word(&self.arena);
            if (*next_hash, next) >= (hash, word) {
                return;
            }
            to.word(*next_hash, next, entry.count);
            self.next += 1;
        }
    }

    /// Gives `to` the words that are less than a short word, and then that.
    #[inline(always)]
    pub fn give_short(&mut self, short: HashedKey, to: &mut impl DrainSink) {
        let HashedKey { hash, key, count } = short;
        if self.next_hash().is_some_and(|next| next <= hash) {
            self.before(hash, &key.to_bytes()[..key.length()], to);
        }
        to.short(hash, key, count);
    }

    /// Gives `to` the remaining words.
    pub fn rest(&mut self, to: &mut impl DrainSink) {
        for (hash, entry) in &self.entries[self.next..] {
            to.word(*hash, entry.word(&self.arena), entry.count);
        }
        self.next = self.entries.len();
    }
}
