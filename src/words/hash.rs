//! The 64-bit hash of a word, and the 16-byte key of a short word.
//!
//! The hash is part of the output format: it determines the part of a word and the order of rows,
//! so the same input gives the same bytes on every machine and in every release. The vectors in the
//! tests freeze it. It has no seed and reads bytes as little-endian on every machine.
//!
//! A word of up to 15 bytes is one 16-byte key. Its hash is one folded multiply of the key's two
//! halves, multiplied by an odd number. The last multiply is needed because slots and parts are
//! taken from the top bits, and the fold alone leaves a pattern there: numbers in even steps,
//! written as letters, then collide (up to 9 probes for a word, where 1.9 are expected).
//!
//! The known weakness of a folded multiply is a factor that crafted input makes zero, since the
//! hash then no longer depends on the other half. Here neither factor can be zero: the top byte of
//! the first constant is 0xFF, which does not occur in UTF-8, and the top byte of the second is
//! above every length. Collisions can still be crafted, as for any fixed hash. The module `slots`
//! bounds their cost.
//!
//! Most words have at most 7 bytes, and those are one 8-byte [`TinyKey`] with the same hash.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The longest word that is held as a [`Key`].
pub const SHORT_BYTES_MAX: usize = 15;

/// The longest word that is held as a [`TinyKey`].
pub const TINY_BYTES_MAX: usize = 7;

/// The constants that the halves of a key are folded with: the multipliers of MurmurHash3's
/// finalizer.
const FOLD: [u64; 2] = [0xFF51_AFD7_ED55_8CCD, 0xC4CE_B9FE_1A85_EC53];

/// The factor that spreads the fold's bits to the top: 2^64 over the golden ratio, odd.
pub(super) const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// The seed of the hash of words above [`SHORT_BYTES_MAX`].
const LONG_SEED: u64 = 0x776F_7264_7469_6465;

/// A word of up to 15 bytes: its bytes, zeros, and its length in the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The first eight bytes.
    pub lo: u64,
    /// The last eight bytes.
    pub hi: u64,
}

impl Key {
    /// Returns the key of `word`, which has at most [`SHORT_BYTES_MAX`] bytes.
    pub fn of(word: &[u8]) -> Key {
        let mut bytes = [0; 16];
        bytes[..word.len()].copy_from_slice(word);
        bytes[SHORT_BYTES_MAX] = word.len() as u8;
        Key::from_bytes(bytes)
    }

    /// Returns the key of `padded[at..at + len]`, with one 16-byte load. `padded` must have `at +
    /// 16` bytes, and `len` must be at most [`SHORT_BYTES_MAX`].
    #[inline(always)]
    pub fn load(padded: &[u8], at: usize, len: usize) -> Key {
        // Not `copy_from_slice`: with several codegen units that is a call, for each word.
        let bytes = padded[at..at + 16].first_chunk::<16>().copied().unwrap_or_default();
        let text = u128::from_le_bytes(bytes) & TEXT_MASKS[len & SHORT_BYTES_MAX];
        Key { lo: text as u64, hi: (text >> 64) as u64 | (len as u64) << 56 }
    }

    /// Returns the key with these bytes.
    #[inline(always)]
    pub fn from_bytes(bytes: [u8; 16]) -> Key {
        let whole = u128::from_le_bytes(bytes);
        Key { lo: whole as u64, hi: (whole >> 64) as u64 }
    }

    /// Returns the 16 bytes: the word, zeros, its length.
    #[inline(always)]
    pub fn to_bytes(self) -> [u8; 16] {
        (self.lo as u128 | (self.hi as u128) << 64).to_le_bytes()
    }

    /// Returns the word as a little-endian number, with `byte` in place of all bytes after it.
    #[inline(always)]
    pub fn filled_with(self, byte: u8) -> [u64; 2] {
        let text = self.lo as u128 | (self.hi as u128) << 64;
        let mask = TEXT_MASKS[self.length()];
        let filled = (text & mask) | (u128::from_le_bytes([byte; 16]) & !mask);
        [filled as u64, (filled >> 64) as u64]
    }

    /// Returns the length of the word in bytes.
    #[inline(always)]
    pub fn length(self) -> usize {
        (self.hi >> 56) as usize & SHORT_BYTES_MAX
    }

    /// Returns true if the word has at most [`TINY_BYTES_MAX`] bytes.
    #[inline(always)]
    pub fn is_tiny(self) -> bool {
        self.hi >> 56 <= TINY_BYTES_MAX as u64
    }

    /// Returns true if the bytes between the word and its length are zeros, as in each key of a
    /// word.
    #[inline]
    pub fn has_zeros_after_word(self) -> bool {
        let text = self.lo as u128 | ((self.hi & (u64::MAX >> 8)) as u128) << 64;
        text & !TEXT_MASKS[self.length()] == 0
    }

    /// Returns the [`hash`] of the word.
    #[inline(always)]
    pub fn hash(self) -> u64 {
        let product = (self.lo ^ FOLD[0]) as u128 * (self.hi ^ FOLD[1]) as u128;
        (product as u64 ^ (product >> 64) as u64).wrapping_mul(SPREAD)
    }

    /// Returns a number that orders keys as the bytes of their words do. A word that is a prefix of
    /// another is less, because its length follows the zeros.
    pub fn rank(self) -> u128 {
        u128::from_be_bytes(self.to_bytes())
    }
}

/// A word of up to 7 bytes: its bytes, zeros, and its length in the last byte, whose top bit is
/// set. So no key is 0, and none begins as the second half of a [`Key`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TinyKey(pub u64);

impl TinyKey {
    /// The bit that is set in each tiny key.
    pub const MARK: u64 = 1 << 63;
    /// The byte of mark and length.
    const LEN_BYTE: u64 = 0xFF << 56;

    /// Returns the tiny key of a word of at most [`TINY_BYTES_MAX`] bytes.
    #[inline(always)]
    pub fn of(key: Key) -> TinyKey {
        TinyKey(key.lo | key.hi | TinyKey::MARK)
    }

    /// Returns the key of the word.
    #[inline(always)]
    pub fn key(self) -> Key {
        Key { lo: self.0 & !TinyKey::LEN_BYTE, hi: self.0 & TinyKey::LEN_BYTE & !TinyKey::MARK }
    }
}

/// Element n keeps the first n bytes of a little-endian load.
const TEXT_MASKS: [u128; 16] = {
    let mut masks = [0; 16];
    let mut len = 0;
    while len < 16 {
        masks[len] = (1 << (8 * len)) - 1;
        len += 1;
    }
    masks
};

/// Returns the hash of a word. It is the same on every machine and in every release.
///
/// The hash has no seed and is not cryptographic: different words with equal hashes can be made.
#[inline]
pub fn hash(word: &[u8]) -> u64 {
    if word.len() <= SHORT_BYTES_MAX {
        Key::of(word).hash()
    } else {
        xxh3_64_with_seed(word, LONG_SEED)
    }
}

/// Returns the [`hash`] of the word `padded[at..at + len]`, with one load if it is short. 16 bytes
/// must follow `at`, whatever they are.
#[inline(always)]
pub fn hash_at(padded: &[u8], at: usize, len: usize) -> u64 {
    if len <= SHORT_BYTES_MAX {
        Key::load(padded, at, len).hash()
    } else {
        xxh3_64_with_seed(&padded[at..at + len], LONG_SEED)
    }
}

/// Returns the part, from 0 to `parts - 1`, of a word with this hash.
///
/// The part grows with the hash, so a table that drains in hash order visits the parts in order.
#[inline]
pub fn part(hash: u64, parts: u32) -> u32 {
    ((hash as u128 * parts as u128) >> 64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Words and their hashes. They never change: outputs that exist depend on them.
    const FROZEN: [(&str, u64); 21] = [
        ("", 0xDA6D_1E46_7585_05B9),
        ("a", 0x211C_E3E4_E01D_0D7A),
        ("b", 0x7DE2_E35C_9BD4_3F49),
        ("the", 0xCB0E_8BD6_A100_A5EC),
        ("of", 0x467D_0127_94B8_9221),
        ("and", 0x639D_A531_0824_E198),
        ("é", 0x9478_CD6E_43C0_4EF5),
        ("日本語", 0x4F44_2108_4EAD_E34A),
        ("eight888", 0x92BB_C572_73CE_B403),
        ("nine99999", 0xF83C_E3A1_C5CF_EE73),
        ("😀😀😀", 0xA6D7_995F_BB44_79A3),
        ("thirteen13131", 0x7123_1DED_B2DC_219B),
        ("fourteen141414", 0x9084_0D91_C284_D0F4),
        ("fifteen15151515", 0xFBA4_C96C_8B05_8E88),
        ("sixteen161616161", 0xC69A_6602_DA8A_2A96),
        ("seventeen17171717", 0xCF3B_EF84_F3FD_14F3),
        ("an-rfc-2119-keyword-of-some-length", 0xD8EB_E6A1_A118_1619),
        ("�", 0xF7CF_A129_55AA_E053),
        ("0", 0x54F5_09CE_3DB4_1F8F),
        ("'", 0xC26B_411C_A6D8_D4B8),
        ("Zürich,", 0x10C3_670C_2F34_F238),
    ];

    #[test]
    fn hashes_equal_the_frozen_vectors() {
        for (word, expected) in FROZEN {
            assert_eq!(hash(word.as_bytes()), expected, "the hash of {word:?} changed");
        }
    }

    #[test]
    fn parts_rise_with_the_hash_and_cover_all() {
        for parts in [1, 2, 3, 7, 64, u32::MAX] {
            assert_eq!(part(0, parts), 0);
            assert_eq!(part(u64::MAX, parts), parts - 1);
        }
        let cut = (0..=300_u64).map(|step| part(step << 55, 3)).collect::<Vec<_>>();
        assert!(cut.is_sorted());
    }

    /// Checks steps at which a fold without the last multiply has many collisions.
    #[test]
    fn numbers_in_even_steps_spread_evenly() {
        const HOMES: usize = 16_384;
        for step in [1, 28, 404, 416, 940, 65_536] {
            let mut words = vec![0_u32; HOMES];
            for number in (0..).step_by(step).take(HOMES) {
                let mut letters = Vec::new();
                let mut rest: u64 = number;
                while rest > 0 || letters.is_empty() {
                    letters.push(b'a' + (rest % 26) as u8);
                    rest /= 26;
                }
                words[part(hash(&letters), HOMES as u32) as usize] += 1;
            }
            // For random homes the expected sum of squares is 2 for each home, with a deviation of
            // 0.011.
            let squares: u32 = words.iter().map(|here| here * here).sum();
            assert!(squares.abs_diff(2 * HOMES as u32) < HOMES as u32 / 10, "{step}: {squares}");
        }
    }

    proptest! {
        #[test]
        fn loaded_key_is_the_key_of_the_word(
            text in prop::collection::vec(any::<u8>(), 32),
            at in 0..=16_usize,
            len in 0..=SHORT_BYTES_MAX,
        ) {
            let key = Key::load(&text, at, len);
            let word = &text[at..at + len];
            prop_assert_eq!(key, Key::of(word));
            prop_assert_eq!(&key.to_bytes()[..key.length()], word);
            prop_assert_eq!(key.hash(), hash(word));
            prop_assert_eq!(hash_at(&text, at, len), hash(word));
            prop_assert_eq!(key.is_tiny(), len <= TINY_BYTES_MAX);
            if key.is_tiny() {
                prop_assert_eq!(TinyKey::of(key).key(), key);
            }
        }

        #[test]
        fn keys_are_ranked_as_their_words_are(
            one in prop::collection::vec(0..3_u8, 0..=SHORT_BYTES_MAX),
            other in prop::collection::vec(0..3_u8, 0..=SHORT_BYTES_MAX),
        ) {
            prop_assert_eq!(Key::of(&one).rank().cmp(&Key::of(&other).rank()), one.cmp(&other));
        }
    }
}
