//! A word's 64-bit hash, and the 16-byte key of a short word that it is made of.
//!
//! The hash is part of what the program promises: it decides a word's part and the order of lines in
//! an output file, so the same input gives the same bytes on every machine and in every release. It
//! is frozen by the vectors below, has no seed, and reads bytes as little-endian everywhere.
//!
//! Words of up to 15 bytes are one 16-byte key, and their hash is one folded multiply of its halves.
//! The known weakness of that construction is a factor that crafted input makes zero, after which the
//! other half no longer matters. Here neither can be: the top byte of the first constant is 0xFF, which
//! no UTF-8 text holds, and the top byte of the second is above every length. Collisions can be
//! crafted nevertheless, as for any fixed hash; `slots` bounds what they cost.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The longest word that is held as a [`Key`].
pub(super) const SHORT_BYTES_MAX: usize = 15;

/// What the two halves of a key are folded with: the multipliers of MurmurHash3's finalizer.
const FOLD: [u64; 2] = [0xFF51_AFD7_ED55_8CCD, 0xC4CE_B9FE_1A85_EC53];

/// The seed of the hash of words above [`SHORT_BYTES_MAX`].
const LONG_SEED: u64 = 0x776F_7264_7469_6465;

/// A word of up to 15 bytes: its bytes, zeros, and its length in the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) lo: u64,
    pub(super) hi: u64,
}

impl Key {
    /// The key of `word`, which has at most [`SHORT_BYTES_MAX`] bytes.
    pub(super) fn of(word: &[u8]) -> Key {
        let mut bytes = [0; 16];
        bytes[..word.len()].copy_from_slice(word);
        bytes[SHORT_BYTES_MAX] = word.len() as u8;
        Key::from_bytes(bytes)
    }

    /// The key of `padded[at..at + len]`, with one 16-byte load: `at + 16` must be in `padded`, and
    /// `len` at most [`SHORT_BYTES_MAX`].
    #[inline(always)]
    pub(super) fn load(padded: &[u8], at: usize, len: usize) -> Key {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&padded[at..at + 16]);
        let text = u128::from_le_bytes(bytes) & TEXT_MASKS[len & SHORT_BYTES_MAX];
        Key {
            lo: text as u64,
            hi: (text >> 64) as u64 | (len as u64) << 56,
        }
    }

    fn from_bytes(bytes: [u8; 16]) -> Key {
        let whole = u128::from_le_bytes(bytes);
        Key {
            lo: whole as u64,
            hi: (whole >> 64) as u64,
        }
    }

    /// The 16 bytes: the word, zeros, its length.
    #[inline(always)]
    pub(super) fn to_bytes(self) -> [u8; 16] {
        (self.lo as u128 | (self.hi as u128) << 64).to_le_bytes()
    }

    /// The word's length in bytes.
    #[inline(always)]
    pub(super) fn len(self) -> usize {
        (self.hi >> 56) as usize & SHORT_BYTES_MAX
    }

    /// The word's [`hash`].
    #[inline(always)]
    pub(super) fn hash(self) -> u64 {
        let product = (self.lo ^ FOLD[0]) as u128 * (self.hi ^ FOLD[1]) as u128;
        product as u64 ^ (product >> 64) as u64
    }

    /// A number that orders keys as their words' bytes do: a word that is the beginning of another
    /// is told apart by its length, which stands behind the zeros.
    pub(super) fn rank(self) -> u128 {
        u128::from_be_bytes(self.to_bytes())
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

/// The word's hash: the same for ever and on every machine. It is not seeded and not
/// cryptographic: equal hashes of different words exist and can be made.
#[inline]
pub fn hash(word: &[u8]) -> u64 {
    if word.len() <= SHORT_BYTES_MAX {
        Key::of(word).hash()
    } else {
        xxh3_64_with_seed(word, LONG_SEED)
    }
}

/// The part of `parts` that a word of this hash belongs to: 0 to `parts - 1`, rising with the hash,
/// so that a table drained in hash order is already cut by part.
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
        ("", 0x293F_502D_8E03_7815),
        ("a", 0xFF99_E7BC_4330_0412),
        ("b", 0x4976_15A6_B3AF_DF65),
        ("the", 0x21C0_4F31_5964_8D3C),
        ("of", 0xCD4E_A33B_77B6_A4DD),
        ("and", 0x1AD7_3CAF_D1C9_0938),
        ("é", 0xC022_BD8B_EBED_DF61),
        ("日本語", 0x7431_108F_EB6F_66A2),
        ("eight888", 0x9FA1_A0EC_EAC3_3DB7),
        ("nine99999", 0x653E_1AAA_805E_7A67),
        ("😀😀😀", 0x558A_069A_EEFA_34D7),
        ("thirteen13131", 0x21DC_C098_5CD9_A2EF),
        ("fourteen141414", 0x9E62_63FB_BBEF_6624),
        ("fifteen15151515", 0xCBE9_CF39_8692_0E68),
        ("sixteen161616161", 0xC69A_6602_DA8A_2A96),
        ("seventeen17171717", 0xCF3B_EF84_F3FD_14F3),
        ("an-rfc-2119-keyword-of-some-length", 0xD8EB_E6A1_A118_1619),
        ("�", 0x0CE7_220F_F951_BCC7),
        ("0", 0x1472_CE1A_DCD1_C213),
        ("'", 0xE7AA_F036_D4C1_57D8),
        ("Zürich,", 0x8BBA_5B77_8A74_DF58),
    ];

    #[test]
    fn hashes_are_what_they_always_were() {
        for (word, expected) in FROZEN {
            assert_eq!(
                hash(word.as_bytes()),
                expected,
                "the hash of {word:?} changed"
            );
        }
    }

    #[test]
    fn parts_rise_with_the_hash_and_cover_all() {
        for parts in [1, 2, 3, 7, 64, u32::MAX] {
            assert_eq!(part(0, parts), 0);
            assert_eq!(part(u64::MAX, parts), parts - 1);
        }
        let cut = (0..=300_u64)
            .map(|step| part(step << 55, 3))
            .collect::<Vec<_>>();
        assert!(cut.is_sorted());
    }

    #[test]
    fn common_short_words_spread_evenly() {
        const HOMES: usize = 256;
        let mut words = [0_u32; HOMES];
        for number in 0..HOMES * 400 {
            words[part(hash(format!("{number:x}").as_bytes()), HOMES as u32) as usize] += 1;
        }
        // 400 each with a deviation of 20: nine deviations are no accident.
        assert!(
            words.iter().all(|here| here.abs_diff(400) < 180),
            "{words:?}"
        );
    }

    proptest! {
        #[test]
        fn a_key_loaded_in_place_is_the_key_of_the_word(
            text in prop::collection::vec(any::<u8>(), 32),
            at in 0..=16_usize,
            len in 0..=SHORT_BYTES_MAX,
        ) {
            let key = Key::load(&text, at, len);
            let word = &text[at..at + len];
            prop_assert_eq!(key, Key::of(word));
            prop_assert_eq!(&key.to_bytes()[..key.len()], word);
            prop_assert_eq!(key.hash(), hash(word));
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
