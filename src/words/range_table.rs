//! The table of one range: slots for words of up to 7 bytes, slots for those of up to 15, and the
//! side table for all others.
//!
//! Words come in lists. Their slots are prefetched in groups before the first is counted, so that
//! the cache misses of a group overlap.

use super::drain_sink::DrainSink;
use super::hash::{Key, TinyKey};
use super::overflow_table::OverflowTable;
use super::slots::{SlotKey, Slots};
use super::split::GROUP_MIN;

/// Words with their counts. They drain ascending by (hash, word).
#[derive(Debug)]
pub struct RangeTable {
    tiny: Slots<TinyKey>,
    short: Slots<Key>,
    /// Longer words, and words that were crafted to share a slot.
    side: OverflowTable,
}

/// Numbers of homes: of words of up to 7 bytes, and of words of up to 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeHomes {
    pub tiny: usize,
    pub short: usize,
}

impl RangeHomes {
    /// Returns the memory in bytes of slots with so many homes, about.
    pub fn bytes(self) -> usize {
        self.tiny * size_of::<<TinyKey as SlotKey>::Slot>()
            + self.short * size_of::<<Key as SlotKey>::Slot>()
    }
}

impl RangeTable {
    /// Makes an empty table. `scale` is that of [`Slots::new`].
    pub fn new(scale: u64, homes: RangeHomes) -> RangeTable {
        RangeTable {
            tiny: Slots::new(scale, homes.tiny),
            short: Slots::new(scale, homes.short),
            side: OverflowTable::default(),
        }
    }

    /// Returns the number of distinct words.
    pub fn len(&self) -> usize {
        self.tiny.len() + self.short.len() + self.side.len()
    }

    /// Returns the allocated memory in bytes, used or not.
    pub fn heap_bytes(&self) -> usize {
        self.tiny.heap_bytes() + self.short.heap_bytes() + self.side.heap_bytes()
    }

    /// Returns the numbers of homes.
    pub fn homes(&self) -> RangeHomes {
        RangeHomes { tiny: self.tiny.capacity(), short: self.short.capacity() }
    }

    /// Returns the least numbers of homes that the present words do not grow.
    pub fn homes_needed(&self) -> RangeHomes {
        RangeHomes {
            tiny: Slots::<TinyKey>::capacity_for(self.tiny.len()),
            short: Slots::<Key>::capacity_for(self.short.len()),
        }
    }

    /// Adds `count` (not 0) to a short word.
    pub fn add(&mut self, key: Key, count: u64) {
        let RangeTable { tiny, short, side } = self;
        let hash = key.hash();
        let is_added = if key.is_tiny() {
            side.make_room(tiny, Key::is_tiny, 1);
            tiny.add(tiny.homes().of(hash), TinyKey::of(key), count)
        } else {
            side.make_room(short, |key| !key.is_tiny(), 1);
            short.add(short.homes().of(hash), key, count)
        };
        if !is_added {
            side.add_key(key, count);
        }
    }

    /// Adds `count` (not 0) to a word of more than 15 bytes.
    pub fn add_long(&mut self, word: &[u8], count: u64) {
        self.side.add(word, count);
    }

    /// Adds 1 to each word of a list.
    pub fn add_list(&mut self, list: &[u64]) {
        // If there is a word for each cache line, most lines are needed.
        if self.homes().bytes() / 64 <= list.len() {
            self.tiny.fetch();
            self.short.fetch();
        }
        let RangeTable { tiny, short, side } = self;
        let mut rest = list;
        while !rest.is_empty() {
            let (group, after) = rest.split_at(rest.len().min(GROUP_MIN));
            if group.iter().fold(TinyKey::MARK, |all, number| all & number) != 0 {
                let words = group.iter().map(|number| TinyKey(*number));
                side.make_room(tiny, Key::is_tiny, group.len());
                add_all(tiny, side, words);
                rest = after;
            } else {
                rest = add_mixed(tiny, short, side, rest);
            }
        }
    }

    /// Gives `to` every word once, ascending by (hash, word). Afterwards the table must be
    /// [reset](Self::reset).
    pub fn drain(&mut self, to: &mut impl DrainSink) {
        let mut longer = self.side.take_sorted();
        let mut short = self.short.ascending().peekable();
        for tiny in self.tiny.ascending() {
            while let Some(word) = short.next_if(|word| word.is_before(&tiny)) {
                longer.give_short(word, to);
            }
            longer.give_short(tiny, to);
        }
        short.for_each(|word| longer.give_short(word, to));
        longer.rest(to);
    }

    /// Removes all words, and changes the numbers of homes.
    pub fn reset(&mut self, homes: RangeHomes) {
        // All of them together must not keep what crafted words took.
        self.side = OverflowTable::default();
        self.tiny.reset(homes.tiny);
        self.short.reset(homes.short);
    }
}

/// Adds 1 to each word of a group of one kind, whose slots have room.
#[inline(always)]
fn add_all<K: SlotKey>(
    slots: &mut Slots<K>,
    side: &mut OverflowTable,
    words: impl Iterator<Item = K> + Clone,
) {
    let mut homes = [0; GROUP_MIN];
    let mapping = slots.homes();
    for (home, word) in homes.iter_mut().zip(words.clone()) {
        *home = mapping.of(word.key().hash());
        slots.prefetch(*home);
    }
    for (&home, word) in homes.iter().zip(words) {
        if !slots.add(home, word, 1) {
            side.add_key(word.key(), 1);
        }
    }
}

/// Adds 1 to each of the first words of a list, and returns the rest.
fn add_mixed<'a>(
    tiny: &mut Slots<TinyKey>,
    short: &mut Slots<Key>,
    side: &mut OverflowTable,
    list: &'a [u64],
) -> &'a [u64] {
    let mut tiny_words = [TinyKey(0); GROUP_MIN];
    let mut short_words = [Key::of(b""); GROUP_MIN];
    let (mut tiny_len, mut short_len, mut at) = (0, 0, 0);
    while at < list.len() && tiny_len + short_len < GROUP_MIN {
        let (first, second) = (list[at], list.get(at + 1).copied().unwrap_or(0));
        // Both are written: which of the two it is cannot be predicted.
        let is_tiny = usize::from(first & TinyKey::MARK != 0);
        tiny_words[tiny_len] = TinyKey(first);
        short_words[short_len] = Key { lo: second, hi: first };
        tiny_len += is_tiny;
        short_len += 1 - is_tiny;
        at += 2 - is_tiny;
    }
    side.make_room(tiny, Key::is_tiny, tiny_len);
    add_all(tiny, side, tiny_words[..tiny_len].iter().copied());
    side.make_room(short, |key| !key.is_tiny(), short_len);
    add_all(short, side, short_words[..short_len].iter().copied());
    list.get(at..).unwrap_or_default()
}
