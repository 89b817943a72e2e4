//! The words that do not fit a slot: those above 15 bytes, and those that crafted input piles up.
//!
//! Their bytes stand in one arena. They are found by a hash with a random seed, which nobody
//! outside knows, so that words made to share a [`hash`] are as quick to find here as any others;
//! order comes in only when the table is drained.

use super::hash::{SHORT_BYTES_MAX, hash};
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use std::hash::{BuildHasher, Hasher};
use std::mem;

/// Bytes of text that an emptied arena keeps, and words that an emptied index keeps room for.
const KEPT_MAX: usize = 1 << 16;

/// Whether room for `capacity` is worth keeping after `used` of it was.
fn is_kept(capacity: usize, used: usize) -> bool {
    capacity <= KEPT_MAX && capacity <= used.saturating_mul(8)
}

#[derive(Debug, Default)]
pub(super) struct Side {
    index: HashTable<Entry>,
    arena: Vec<u8>,
    seed: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    len: usize,
    count: u64,
}

impl Entry {
    fn word<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        &arena[self.start..self.start + self.len]
    }
}

impl Side {
    /// Distinct words.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes allocated.
    pub(super) fn heap_bytes(&self) -> usize {
        self.index.allocation_size() + self.arena.capacity()
    }

    /// Adds `count` to `word`.
    pub(super) fn add(&mut self, word: &[u8], count: u64) {
        let Side { index, arena, seed } = self;
        let place = place(seed, word);
        if let Some(entry) = index.find_mut(place, |entry| entry.word(arena) == word) {
            entry.count += count;
            return;
        }
        let entry = Entry { start: arena.len(), len: word.len(), count };
        arena.extend_from_slice(word);
        index.insert_unique(place, entry, |entry| self::place(seed, entry.word(arena)));
    }

    /// Drops every short word that `take` accepts.
    pub(super) fn give_back(&mut self, mut take: impl FnMut(&[u8], u64) -> bool) {
        let Side { index, arena, .. } = self;
        index.retain(|entry| entry.len > SHORT_BYTES_MAX || !take(entry.word(arena), entry.count));
    }

    /// Takes all words out, ascending by (hash, word).
    pub(super) fn take_sorted(&mut self) -> Sorted {
        let arena = mem::take(&mut self.arena);
        let words = self.index.len();
        let mut entries: Vec<(u64, Entry)> =
            self.index.drain().map(|entry| (hash(entry.word(&arena)), entry)).collect();
        if !is_kept(self.index.capacity(), words) {
            self.index = HashTable::new();
        }
        entries.sort_unstable_by(|(hash, entry), (other_hash, other)| {
            hash.cmp(other_hash).then_with(|| entry.word(&arena).cmp(other.word(&arena)))
        });
        Sorted { entries, next: 0, arena }
    }

    /// Takes the room of a drained side table back, if it is small.
    pub(super) fn reuse(&mut self, drained: Sorted) {
        let mut arena = drained.arena;
        if is_kept(arena.capacity(), arena.len()) {
            arena.clear();
            self.arena = arena;
        }
    }
}

fn place(seed: &RandomState, word: &[u8]) -> u64 {
    let mut hasher = seed.build_hasher();
    hasher.write(word);
    hasher.finish()
}

/// A drained side table: words ascending by (hash, word).
pub(super) struct Sorted {
    entries: Vec<(u64, Entry)>,
    next: usize,
    arena: Vec<u8>,
}

impl Sorted {
    /// The hash of the next word.
    #[inline(always)]
    pub(super) fn next_hash(&self) -> Option<u64> {
        self.entries.get(self.next).map(|(hash, _)| *hash)
    }

    /// Gives the words that stand before (`hash`, `word`).
    pub(super) fn before(
        &mut self,
        hash: u64,
        word: &[u8],
        emit: &mut impl FnMut(u64, &[u8], u64),
    ) {
        while let Some((next_hash, entry)) = self.entries.get(self.next) {
            let next = entry.word(&self.arena);
            if (*next_hash, next) >= (hash, word) {
                return;
            }
            emit(*next_hash, next, entry.count);
            self.next += 1;
        }
    }

    /// Gives the words that are left.
    pub(super) fn rest(&mut self, emit: &mut impl FnMut(u64, &[u8], u64)) {
        for (hash, entry) in &self.entries[self.next..] {
            emit(*hash, entry.word(&self.arena), entry.count);
        }
        self.next = self.entries.len();
    }
}
