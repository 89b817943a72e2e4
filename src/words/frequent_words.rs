//! Frequent words, whose counts are kept apart from those of all others.
//!
//! A few thousand words are most of nearly every text. In the table their slots lie far apart, in
//! more memory than a second-level cache has. Here they lie together: a word takes 16 bytes, and is
//! found by one multiply and one comparison. All other words go on to the table or the list.
//!
//! Words are chosen from a table's counts. A multiply of a word's bytes gives its only place. If
//! several words have the same place, the most frequent is chosen. Only words of up to 7 bytes are
//! chosen, since frequent words are short. A choice is used if it finds a quarter of all
//! occurrences; otherwise the search would cost more than it saves.

use super::hash::{Key, SPREAD, TinyKey};
use super::split::{GROUP_MAX, GROUP_MIN, ended_words};

/// Number of places: 64 KiB, a small part of a second-level cache.
const PLACES: usize = 1 << 12;

/// At least one of this many occurrences must be of a chosen word.
const OCCURRENCES_MAX: u64 = 4;

/// Occurrences after which words are chosen for the first time. The next choices come after twice
/// as many each.
const FIRST_REVIEW: u64 = 1 << 18;

/// The same if there is a choice of the epoch before.
const NEXT_REVIEW: u64 = 1 << 20;

/// Least number of searches that judge a choice.
const JUDGED_MIN: u64 = 1 << 16;

/// Words of a text that are not frequent: fewer than [`GROUP_MIN`], and those of one more group.
pub struct OtherWords {
    keys: [Key; OtherWords::MAX],
    len: usize,
}

impl OtherWords {
    const MAX: usize = 2 * GROUP_MAX;

    /// Begins without words.
    pub fn new() -> OtherWords {
        OtherWords { keys: [Key { lo: 0, hi: 0 }; OtherWords::MAX], len: 0 }
    }

    /// Returns true if there are enough words for their cache misses to overlap.
    #[inline(always)]
    pub fn is_group(&self) -> bool {
        self.len >= GROUP_MIN
    }

    /// Returns the words, which are removed.
    #[inline(always)]
    pub fn take(&mut self) -> &[Key] {
        &self.keys[..std::mem::take(&mut self.len)]
    }
}

/// Numbers of words of up to 15 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sifted {
    /// All of them.
    pub words: u64,
    /// Those that are chosen ones.
    pub found: u64,
}

/// Counts the words that are chosen.
pub trait Sieve {
    /// True if there may be chosen words.
    const CHOSEN: bool;

    /// Counts the chosen ones of some words, which are given as to
    /// [`WordSink::ended`](super::split::WordSink::ended). Adds the others of up to
    /// `short_bytes_max` bytes to `others`, which must not be a group, and calls `long` with those
    /// of more.
    fn sift<const CR: bool>(
        &mut self,
        text: (&[u8], usize, &[usize]),
        short_bytes_max: usize,
        others: &mut OtherWords,
        long: impl FnMut(&[u8]),
    ) -> Sifted;
}

/// No words are chosen.
pub struct NoneChosen;

impl Sieve for NoneChosen {
    const CHOSEN: bool = false;

    fn sift<const CR: bool>(
        &mut self,
        _: (&[u8], usize, &[usize]),
        _: usize,
        _: &mut OtherWords,
        _: impl FnMut(&[u8]),
    ) -> Sifted {
        Sifted::default()
    }
}

/// The places of chosen words: the word, as a [`TinyKey`], and its count. A word of 0 is none.
type Places = [[u64; 2]; PLACES];

impl Sieve for Places {
    const CHOSEN: bool = true;

    #[inline(always)]
    fn sift<const CR: bool>(
        &mut self,
        (padded, start, ends): (&[u8], usize, &[usize]),
        short_bytes_max: usize,
        others: &mut OtherWords,
        mut long: impl FnMut(&[u8]),
    ) -> Sifted {
        let (mut words, mut len) = (0, others.len);
        // A loop, since a closure of this size is not inlined.
        for (start, end) in ended_words::<CR>(padded, start, ends) {
            let length = end - start;
            if length <= short_bytes_max {
                let key = Key::load(padded, start, length);
                // Written for a chosen word, too: which words are chosen cannot be predicted.
                others.keys[len % OtherWords::MAX] = key;
                len += usize::from(!add(self, key));
                words += 1;
            } else {
                long(&padded[start..end]);
            }
        }
        let found = words - (len - others.len) as u64;
        others.len = len;
        Sifted { words, found }
    }
}

/// Adds 1 to a chosen word. Returns false if it is not one.
#[inline(always)]
fn add(places: &mut Places, key: Key) -> bool {
    // A word of 8 to 15 bytes is looked up by a half without the mark, which no place has.
    let word = if key.is_tiny() { TinyKey::of(key).0 } else { key.hi };
    let place = &mut places[place(word)];
    let is_here = place[0] == word;
    place[1] += u64::from(is_here);
    is_here
}

/// Returns the place of a word.
#[inline(always)]
fn place(word: u64) -> usize {
    (word.wrapping_mul(SPREAD) >> (u64::BITS - PLACES.trailing_zeros())) as usize
}

/// The chosen words, if any, with counts that are still to be given to a table.
#[derive(Clone, Debug, Default)]
pub struct FrequentWords {
    places: Option<Box<Places>>,
    /// Occurrences since the last drain.
    words: u64,
    /// Occurrences that were searched for here since the choice, or since it was judged.
    searched: u64,
    /// Those of them that were found.
    found: u64,
    /// Number of occurrences at which the next choice is due.
    review_at: u64,
}

impl FrequentWords {
    /// Returns true if it is time to choose.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.words >= self.review_at.max(FIRST_REVIEW)
    }

    /// Returns the allocated memory in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.places.as_ref().map_or(0, |_| size_of::<Places>())
    }

    /// Returns true if words were counted since the last drain that may be chosen.
    pub fn has_words(&self) -> bool {
        self.words > 0
    }

    /// Returns true if there are counts that are to be given.
    pub fn has_counts(&self) -> bool {
        let mut places = self.places.iter().flat_map(|places| places.iter());
        places.any(|place| place[1] > 0)
    }

    /// Takes the places out, to be given back by [`put_back`](Self::put_back).
    pub fn take_places(&mut self) -> Option<Box<Places>> {
        self.places.take()
    }

    /// Gives the places back. Of `words` words, `found` were chosen ones.
    pub fn put_back(&mut self, places: Option<Box<Places>>, words: u64, found: u64) {
        self.words += words;
        self.searched += if places.is_some() { words } else { 0 };
        self.found += found;
        self.places = places;
    }

    /// Chooses the most frequent of `counted`, which are all words of the epoch so far. Counts must
    /// have been [given](Self::give).
    pub fn choose(&mut self, counted: impl Iterator<Item = (Key, u64)>) {
        debug_assert!(self.places.iter().all(|at| at.iter().all(|place| place[1] == 0)));
        let mut places = self.places.take().unwrap_or_else(|| Box::new([[0; 2]; PLACES]));
        places.fill([0; 2]);
        let (mut all, mut chosen) = (0, 0);
        for (key, count) in counted {
            all += count;
            let word = TinyKey::of(key).0;
            let place = &mut places[place(word)];
            if key.is_tiny() && count > place[1] {
                chosen += count - place[1];
                *place = [word, count];
            }
        }
        (self.review_at, self.searched, self.found) = (2 * self.words, 0, 0);
        // Longer words are not among those of `counted`.
        if chosen > 0 && chosen * OCCURRENCES_MAX >= all.max(self.words) {
            places.iter_mut().for_each(|place| place[1] = 0);
            self.places = Some(places);
        }
    }

    /// Calls `give` with each chosen word that occurred since the last call, and its count.
    pub fn give(&mut self, mut give: impl FnMut(Key, u64)) {
        let places = self.places.iter_mut().flat_map(|places| places.iter_mut());
        for [word, count] in places.filter(|place| place[1] > 0) {
            give(TinyKey(*word).key(), std::mem::take(count));
        }
    }

    /// Notes a drain. A choice that found too few is dropped.
    pub fn drained(&mut self) {
        if self.searched >= JUDGED_MIN {
            if self.found * OCCURRENCES_MAX < self.searched {
                self.places = None;
            }
            (self.searched, self.found) = (0, 0);
        }
        self.words = 0;
        self.review_at = if self.places.is_some() { NEXT_REVIEW } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(frequent: &mut FrequentWords) -> Vec<(Vec<u8>, u64)> {
        let mut given = Vec::new();
        frequent.give(|key, count| given.push((key.to_bytes()[..key.length()].to_vec(), count)));
        given.sort();
        given
    }

    /// Looks words up, and returns how many were chosen ones.
    fn look_up(frequent: &mut FrequentWords, words: &[&[u8]]) -> usize {
        let mut places = frequent.take_places();
        let found = |word: &&&[u8]| places.as_mut().is_some_and(|at| add(at, Key::of(word)));
        let found = words.iter().filter(found).count();
        frequent.put_back(places, words.len() as u64, found as u64);
        found
    }

    #[test]
    fn chosen_words_are_counted_until_given() {
        let mut frequent = FrequentWords::default();
        let words: [&[u8]; 5] = [b"the", b"", b"seven77", b"eight888", b"fifteen15151515"];
        assert_eq!(look_up(&mut frequent, &words), 0, "none is chosen");
        frequent.choose(words.iter().map(|word| (Key::of(word), 5)));
        assert_eq!(look_up(&mut frequent, &words), 3);
        assert_eq!(look_up(&mut frequent, &[b"the", b"th", b"the\0", b"eight88"]), 1);
        let expected = [(b"".to_vec(), 1), (b"seven77".to_vec(), 1), (b"the".to_vec(), 2)];
        assert_eq!(given(&mut frequent), expected);
        assert_eq!(given(&mut frequent), []);
    }

    #[test]
    fn place_goes_to_most_frequent_word() {
        let words: Vec<Key> = (0..15_000).map(|n: u32| Key::of(n.to_string().as_bytes())).collect();
        let counts = || words.iter().enumerate().map(|(at, key)| (*key, at as u64 % 1000));
        let mut frequent = FrequentWords::default();
        frequent.choose(counts());
        let mut best = [0; PLACES];
        for (key, count) in counts() {
            let best = &mut best[place(TinyKey::of(key).0)];
            *best = count.max(*best);
        }
        let mut places = frequent.take_places().expect("they have a quarter of all words");
        for (key, count) in counts().filter(|(_, count)| *count > 0) {
            let is_chosen = add(&mut places, key);
            assert!(!is_chosen || count == best[place(TinyKey::of(key).0)]);
        }
        assert!(places.iter().filter(|place| place[1] > 0).count() > PLACES * 9 / 10);
    }

    #[test]
    fn choice_with_too_few_words_is_not_used() {
        let mut frequent = FrequentWords::default();
        let long = [(Key::of(b"eight888"), 31), (Key::of(b"the"), 10)];
        frequent.choose(long.into_iter());
        assert_eq!(look_up(&mut frequent, &[b"the"]), 0);
        frequent.drained();
        let short = [(Key::of(b"eight888"), 30), (Key::of(b"the"), 10)];
        frequent.choose(short.into_iter());
        assert_eq!(look_up(&mut frequent, &[b"the"]), 1);
        frequent.drained();
        frequent.put_back(None, 100, 0);
        frequent.choose(short.into_iter());
        assert_eq!(look_up(&mut frequent, &[b"the"]), 0, "60 longer words");
    }

    #[test]
    fn choice_that_finds_too_few_is_dropped() {
        let mut frequent = FrequentWords::default();
        frequent.choose([(Key::of(b"the"), 1)].into_iter());
        for (searched, found, is_kept) in [
            (JUDGED_MIN - 1, 0, true),
            (1, JUDGED_MIN / 4, true),
            (JUDGED_MIN, JUDGED_MIN / 4 - 1, false),
        ] {
            let places = frequent.take_places();
            frequent.put_back(places, searched, found);
            frequent.drained();
            assert_eq!(frequent.heap_bytes() > 0, is_kept, "{found} of {searched}");
        }
    }

    #[test]
    fn choice_is_due_after_twice_the_words() {
        let mut frequent = FrequentWords::default();
        let due_at = |frequent: &mut FrequentWords| {
            let mut due_at = Vec::new();
            for at in 1..=8_u64 {
                let places = frequent.take_places();
                frequent.put_back(places, FIRST_REVIEW / 2, FIRST_REVIEW / 2);
                if frequent.is_due() {
                    due_at.push(at);
                    frequent.choose([(Key::of(b"the"), u64::MAX >> 8)].into_iter());
                }
            }
            frequent.drained();
            due_at
        };
        assert_eq!(due_at(&mut frequent), [2, 4, 8]);
        assert_eq!(due_at(&mut frequent), [8], "the choice of the epoch before is there");
    }
}
