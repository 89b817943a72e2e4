//! Memory of encoded rows, kept for the next epoch.
//!
//! A chunk is written once from end to end. In fresh memory that costs a page fault every 4 KiB.

use std::mem;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;

use super::format::CHUNK_BYTES;

/// The smallest and the greatest memory of a chunk that is kept.
const KEPT_BYTES: std::ops::RangeInclusive<usize> = CHUNK_BYTES / 8..=CHUNK_BYTES * 5 / 4;

/// Most chunks that a process keeps: 10 MiB.
const KEPT_MAX: usize = 32;

/// The kept chunks of this process.
static SPARE: SpareChunks = SpareChunks(Mutex::new(Vec::new()));

/// Returns a kept chunk, if there is one.
pub fn take() -> Option<Vec<u8>> {
    SPARE.lock().pop()
}

/// Returns the bytes of a chunk. Its memory is kept when the last clone of them is dropped.
pub fn bytes(chunk: Vec<u8>) -> Bytes {
    SPARE.bytes(chunk)
}

/// Returns the bytes of a chunk that may have far more memory than bytes, as the last one of a
/// part. They take only their own length then, by which results that wait are counted.
pub fn last_bytes(mut chunk: Vec<u8>) -> Bytes {
    if !KEPT_BYTES.contains(&chunk.capacity()) {
        chunk.shrink_to_fit();
    }
    if chunk.capacity() / 2 <= chunk.len() {
        return bytes(chunk);
    }
    let exact = Bytes::copy_from_slice(&chunk);
    drop(bytes(chunk));
    exact
}

/// Empty chunks.
struct SpareChunks(Mutex<Vec<Vec<u8>>>);

impl SpareChunks {
    /// Locks the chunks.
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        // Chunks are put and taken as a whole, so a panic elsewhere leaves nothing half-done.
        self.0.lock().unwrap_or_else(|held| held.into_inner())
    }

    fn bytes(&'static self, chunk: Vec<u8>) -> Bytes {
        if KEPT_BYTES.contains(&chunk.capacity()) {
            Bytes::from_owner(KeptChunk { chunk, spare: self })
        } else {
            chunk.into()
        }
    }
}

/// A chunk whose memory is kept when it is dropped.
struct KeptChunk {
    chunk: Vec<u8>,
    spare: &'static SpareChunks,
}

impl AsRef<[u8]> for KeptChunk {
    fn as_ref(&self) -> &[u8] {
        &self.chunk
    }
}

impl Drop for KeptChunk {
    fn drop(&mut self) {
        let mut chunk = mem::take(&mut self.chunk);
        chunk.clear();
        let mut spare = self.spare.lock();
        if spare.len() < KEPT_MAX {
            spare.push(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_is_kept_after_its_last_clone() {
        let spare: &SpareChunks = Box::leak(Box::new(SpareChunks(Mutex::default())));
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        chunk.extend_from_slice(b"tide");
        let bytes = spare.bytes(chunk);
        let clone = bytes.slice(1..);
        drop(bytes);
        assert!(spare.lock().is_empty() && clone == "ide");
        drop(clone);
        let kept = spare.lock().pop().expect("it is kept");
        assert!(kept.is_empty() && kept.capacity() >= CHUNK_BYTES);
    }

    #[test]
    fn kept_chunks_have_a_limit() {
        let spare: &SpareChunks = Box::leak(Box::new(SpareChunks(Mutex::default())));
        let make = |capacity| spare.bytes(Vec::with_capacity(capacity));
        drop([make(100), make(4 << 20)]);
        assert!(spare.lock().is_empty(), "too small, too large");
        drop((0..2 * KEPT_MAX).map(|_| make(CHUNK_BYTES)).collect::<Vec<_>>());
        assert_eq!(spare.lock().len(), KEPT_MAX);
    }
}
