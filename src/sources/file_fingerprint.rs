//! Fingerprints: recognize a file that is read further after a restart.
//!
//! A hash of everything read so far would have to be computed again at each restart, over
//! gigabytes. So it is of the two places that differ if the file was replaced, rotated or cut
//! short: its first bytes, and the last ones before the offset.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Most bytes of either place.
const PLACE_BYTES: u64 = 64 << 10;

/// The fingerprint of a file up to an offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(pub(super) u64);

impl Fingerprint {
    /// Returns the fingerprint of the first `offset` bytes of `file`, or `None` if it has fewer.
    pub fn of(file: &File, offset: u64) -> io::Result<Option<Fingerprint>> {
        let mut bytes = vec![0; offset.min(PLACE_BYTES) as usize];
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        hash.update(&offset.to_le_bytes());
        for from in [0, offset.saturating_sub(PLACE_BYTES)] {
            match file.read_exact_at(&mut bytes, from) {
                Ok(()) => hash.update(&bytes),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(Fingerprint(hash.digest())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grown_file_is_same_replaced_one_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lines");
        let of = |content: &[u8], offset| {
            std::fs::write(&path, content).expect("a file");
            Fingerprint::of(&File::open(&path).expect("it is there"), offset).expect("it is read")
        };
        let long = vec![b'a'; 200_000];
        let known = of(&long, 150_000).expect("long enough");
        assert_eq!(of(&[&long[..], b"more"].concat(), 150_000), Some(known));
        assert_ne!(of(&[b"b", &long[1..]].concat(), 150_000), Some(known));
        assert_eq!(of(&long[..149_999], 150_000), None);
        assert_eq!(of(b"", 0), of(b"anything", 0), "nothing was read of it yet");
    }
}
