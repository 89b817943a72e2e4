//! The words of slots, in the order of their hashes.
//!
//! A word is in its home or at most [`PROBES_MAX`] slots above it, so the slots are nearly in order
//! already. They are read a stretch at a time. A stretch ends at a free slot, if one is near: no
//! word after that slot is less than one before it.

use super::hash::Key;
use super::slots::{PROBES_MAX, SlotKey, Slots};

/// Slots that are read at a time.
const STRETCH: usize = 128;

/// Most slots that a stretch is made longer in search of a free slot.
const LONGER_MAX: usize = 64;

/// A word with its hash and its count.
#[derive(Clone, Copy, Debug)]
pub struct HashedKey {
    /// The hash of the word.
    pub hash: u64,
    /// The word.
    pub key: Key,
    /// Its count.
    pub count: u64,
}

impl HashedKey {
    /// Returns true if this word comes before `other`.
    #[inline(always)]
    pub fn is_before(&self, other: &HashedKey) -> bool {
        self.hash < other.hash || (self.hash == other.hash && self.key.rank() < other.key.rank())
    }
}

/// The words of slots, ascending by (hash, word). Frees the slots that it reads.
pub struct Ascending<'a, K: SlotKey> {
    slots: &'a mut Slots<K>,
    /// Index of the first slot that was not read.
    at: usize,
    /// Words that were read, in order up to `len`.
    words: Vec<HashedKey>,
    /// Number of words that were read.
    len: usize,
    /// Number of words that are final: no word that is still to be read comes before them.
    ready: usize,
    /// Index of the next word.
    next: usize,
}

impl<K: SlotKey> Slots<K> {
    /// Returns the words ascending by (hash, word), to be taken one by one. Slots are freed as they
    /// are read. Words cannot be found between the first and the last.
    pub fn ascending(&mut self) -> Ascending<'_, K> {
        let none = HashedKey { hash: 0, key: Key { lo: 0, hi: 0 }, count: 0 };
        let words = vec![none; PROBES_MAX + STRETCH + LONGER_MAX];
        Ascending { slots: self, at: 0, words, len: 0, ready: 0, next: 0 }
    }
}

impl<K: SlotKey> Ascending<'_, K> {
    /// Reads slots until a word is ready. Returns false if there are no more words.
    fn read(&mut self) -> bool {
        self.words.copy_within(self.ready..self.len, 0);
        (self.len, self.next, self.ready) = (self.len - self.ready, 0, 0);
        while self.ready == 0 && self.at < self.slots.slots.len() {
            let sorted = self.len;
            self.read_stretch();
            self.sort_from(sorted);
            self.ready = self.count_ready();
        }
        if self.ready == 0 {
            self.slots.used = 0;
        }
        self.ready > 0
    }

    /// Reads a stretch of slots. At most [`PROBES_MAX`] words must be there.
    #[inline(always)]
    fn read_stretch(&mut self) {
        let rest = &mut self.slots.slots[self.at..];
        let longest = rest.len().min(STRETCH + LONGER_MAX);
        let mut end = rest.len().min(STRETCH);
        while end < longest && !K::is_free(&rest[end]) {
            end += 1;
        }
        let mut len = self.len;
        for slot in &mut rest[..end] {
            let (word, count) = K::read(slot);
            let key = word.key();
            // Written for a free slot, too: which slots are free cannot be predicted.
            self.words[len] = HashedKey { hash: key.hash(), key, count };
            len += usize::from(!K::is_free(slot));
            *slot = K::FREE;
        }
        (self.len, self.at) = (len, self.at + end);
    }

    /// Returns the number of words that are final.
    #[inline(always)]
    fn count_ready(&self) -> usize {
        let slots = &self.slots.slots;
        // If the next slot is free, no later word is less than one that was read.
        if slots.get(self.at).is_none_or(K::is_free) {
            return self.len;
        }
        let homes = self.slots.homes();
        let first_home = (self.at + 1).saturating_sub(PROBES_MAX);
        self.words[..self.len].partition_point(|word| homes.of(word.hash) < first_home)
    }

    /// Sorts the words, of which the first `sorted` are in order. Most are.
    #[inline(always)]
    fn sort_from(&mut self, sorted: usize) {
        let words = &mut self.words[..self.len];
        for at in sorted.max(1)..words.len() {
            let word = words[at];
            let mut to = at;
            while to > 0 && word.is_before(&words[to - 1]) {
                words[to] = words[to - 1];
                to -= 1;
            }
            if to < at {
                words[to] = word;
            }
        }
    }
}

impl<K: SlotKey> Iterator for Ascending<'_, K> {
    type Item = HashedKey;

    #[inline(always)]
    fn next(&mut self) -> Option<HashedKey> {
        if self.next == self.ready && !self.read() {
            return None;
        }
        self.next += 1;
        self.words[..self.ready].get(self.next - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words whose homes are `homes` of 4096.
    fn words_at(homes: std::ops::Range<u64>, count: usize) -> Vec<Key> {
        let keys = (0..).map(|number: u64| Key { lo: number, hi: 8 << 56 });
        keys.filter(|key| homes.contains(&(key.hash() >> 52))).take(count).collect()
    }

    #[test]
    fn crowded_words_come_in_order_once() {
        // No slot is free for longer than a stretch may be, and words are far from their homes.
        for (homes, count) in [(100..700, 640), (4000..4096, 150), (0..2, 96), (900..901, 40)] {
            let mut slots = Slots::<Key>::new(1, 4096);
            let mut expected = Vec::new();
            for key in words_at(homes, count) {
                if slots.add(slots.homes().of(key.hash()), key, 3) {
                    expected.push((key.hash(), key.rank()));
                }
            }
            expected.sort_unstable();
            assert!(expected.len() > count * 9 / 10);
            let found: Vec<_> =
                slots.ascending().map(|word| (word.hash, word.key.rank())).collect();
            assert_eq!(found, expected);
            assert!(slots.len() == 0 && slots.slots.iter().all(Key::is_free), "all are freed");
            assert!(slots.ascending().next().is_none());
        }
    }

    #[test]
    fn words_left_over_do_not_survive_a_reset() {
        let mut slots = Slots::<Key>::new(1, 4096);
        for key in words_at(0..4096, 300) {
            assert!(slots.add(slots.homes().of(key.hash()), key, 1));
        }
        assert!(slots.ascending().next().is_some());
        slots.reset(4096);
        assert!(slots.len() == 0 && slots.ascending().next().is_none());
    }
}
