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
