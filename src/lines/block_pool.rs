//! The pool: a bound on the bytes of blocks, and buffers that are used again.
//!
//! A fresh 256 KiB buffer costs a page fault every 4 KiB, some 7 % of the whole program, so buffers
//! of the standard size go back on a stack when the last clone of their block is dropped. The bound
//! is a semaphore with a permit per KiB; it is what holds the sender back when counting is slower
//! than the network.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Text bytes that a buffer of the standard size holds.
pub const STANDARD_BYTES: usize = 256 << 10;

/// Number of zero bytes that follow the text of a block, so that a vector load may read past it.
pub const PAD_BYTES: usize = 64;

/// Bytes after a buffer's capacity: room for one line end that the stream lacks, and the pad.
const TAIL_BYTES: usize = 1 + PAD_BYTES;

/// Bytes that one permit stands for.
const PERMIT_BYTES: usize = 1 << 10;

/// Recycles the buffers of blocks and bounds the bytes of those that are alive. Clones share it.
#[derive(Clone)]
pub struct BlockPool {
    /// The bound and the free buffers.
    shared: Arc<PoolState>,
}

struct PoolState {
    /// One permit for each KiB.
    room: Arc<Semaphore>,
    /// Number of all permits.
    permits_max: u32,
    /// Buffers of the standard size that are not in use.
    free: Mutex<Vec<Vec<u8>>>,
    /// Most of them that are kept.
    free_max: usize,
}

impl BlockPool {
    /// The bound that [`BlockPool::default`] has, in bytes.
    pub const BYTES_MAX_DEFAULT: usize = 8 << 20;

    /// A pool whose blocks, and buffers being read into, take at most `bytes_max` bytes together.
    ///
    /// A buffer that alone is larger, for a line longer than the pool, waits until it is the only
    /// one: the bound gives way to it rather than stop the stream for ever.
    pub fn new(bytes_max: usize) -> Self {
        let permits = (bytes_max / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        let permits_max = u32::try_from(permits).unwrap_or(u32::MAX);
        BlockPool {
            shared: Arc::new(PoolState {
                room: Arc::new(Semaphore::new(permits_max as usize)),
                permits_max,
                free: Mutex::default(),
                free_max: (bytes_max / STANDARD_BYTES).max(1),
            }),
        }
    }

    /// Bytes now counted against the bound, in steps of 1 KiB; 0 when no block is alive.
    pub fn bytes_in_use(&self) -> usize {
        let free = self.shared.room.available_permits();
        (self.shared.permits_max as usize).saturating_sub(free) * PERMIT_BYTES
    }

    /// Waits for room for a buffer of `capacity` bytes. In order of asking, so no reader starves.
    pub async fn room(&self, capacity: usize) -> Option<OwnedSemaphorePermit> {
        let room = Arc::clone(&self.shared.room);
        // The semaphore is never closed, so there is no error to report.
        room.acquire_many_owned(self.permits(capacity)).await.ok()
    }

    /// Waits for the room that a splitter asked for. In order of asking, so no reader starves.
    pub async fn grant(&self, request: RoomRequest) -> RoomGrant {
        let RoomRequest { capacity } = request;
        RoomGrant { capacity, permit: self.room(capacity).await }
    }

    /// Grants the room that a splitter asked for if there is some now.
    pub fn try_grant(&self, request: RoomRequest) -> Option<RoomGrant> {
        let RoomRequest { capacity } = request;
        self.try_room(capacity).map(|permit| RoomGrant { capacity, permit: Some(permit) })
    }

    /// Takes all room, so that nothing is read until what is returned is dropped. In order of
    /// asking; meanwhile no other gets any.
    pub async fn pause(&self) -> Option<OwnedSemaphorePermit> {
        self.room(usize::MAX).await
    }

    /// Room for a buffer of `capacity` bytes if there is some now.
    pub fn try_room(&self, capacity: usize) -> Option<OwnedSemaphorePermit> {
        let room = Arc::clone(&self.shared.room);
        room.try_acquire_many_owned(self.permits(capacity)).ok()
    }

    /// Permits for `capacity` bytes, never more than there are: else an over-long line would wait
    /// for ever.
    fn permits(&self, capacity: usize) -> u32 {
        u32::try_from(capacity.div_ceil(PERMIT_BYTES))
            .unwrap_or(u32::MAX)
            .clamp(1, self.shared.permits_max)
    }

    /// A buffer with room for `capacity` bytes of any content; a used one if it is of the standard
    /// size.
    pub(crate) fn buffer(&self, capacity: usize, permit: Option<OwnedSemaphorePermit>) -> Buffer {
        let used = if capacity == STANDARD_BYTES {
            self.shared.free().pop()
        } else {
            if capacity > STANDARD_BYTES {
                // A line that long needs the memory more than a stack of idle buffers does.
                self.shared.free().clear();
            }
            None
        };
        Buffer {
            bytes: used.unwrap_or_else(|| vec![0; capacity + TAIL_BYTES]),
            permit,
            pool: Some(self.clone()),
        }
    }

    /// A buffer of exactly `text`, which takes over as much of `permit` as it needs.
    pub(crate) fn exact(&self, text: &[u8], permit: Option<&mut OwnedSemaphorePermit>) -> Buffer {
        let permits = self.permits(text.len()) as usize;
        let mut buffer = Buffer::unpooled(text);
        buffer.permit = permit.and_then(|permit| permit.split(permits));
        buffer
    }
}

/// The room that a splitter needs for its next read.
#[derive(Clone, Copy, Debug)]
pub struct RoomRequest {
    /// Bytes of the buffer that is asked for.
    pub(crate) capacity: usize,
}

/// Room for the next read of a splitter.
#[derive(Debug)]
pub struct RoomGrant {
    /// Bytes of the buffer that is granted.
    pub(crate) capacity: usize,
    /// The share of the bound; `None` beyond it.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

impl Default for BlockPool {
    fn default() -> Self {
        BlockPool::new(BlockPool::BYTES_MAX_DEFAULT)
    }
}

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockPool")
            .field("bytes_in_use", &self.bytes_in_use())
            .finish_non_exhaustive()
    }
}

impl PoolState {
    /// Locks the free buffers.
    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        // A stack of byte buffers is whole whatever its last user did.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes with their share of the bound. Dropping it gives both back.
pub(crate) struct Buffer {
    /// `capacity` bytes of text and the tail, all initialized.
    pub bytes: Vec<u8>,
    /// The share of the bound; none while a splitter keeps an unfinished line in it.
    pub permit: Option<OwnedSemaphorePermit>,
    /// The pool to give the buffer back to; `None` for one outside any pool.
    pool: Option<BlockPool>,
}

impl Buffer {
    /// A buffer of exactly `text` that no pool knows.
    pub fn unpooled(text: &[u8]) -> Buffer {
        let mut bytes = Vec::with_capacity(text.len() + TAIL_BYTES);
        bytes.extend_from_slice(text);
        bytes.resize(text.len() + TAIL_BYTES, 0);
        Buffer { bytes, permit: None, pool: None }
    }

    /// Bytes of text that fit.
    pub fn capacity(&self) -> usize {
        self.bytes.len() - TAIL_BYTES
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // The buffer goes back before its permit (a field, dropped after this), so that a task that
        // waits for the room finds the buffer too.
        let Some(pool) = &self.pool else { return };
        if self.capacity() == STANDARD_BYTES {
            let mut free = pool.shared.free();
            if free.len() < pool.shared.free_max {
                free.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_above_pool_waits_for_empty_pool() {
        let pool = BlockPool::new(1 << 20);
        let small = pool.try_room(1).unwrap();
        assert!(pool.try_room(64 << 20).is_none());
        drop(small);
        let large = pool.try_room(64 << 20).unwrap();
        assert!(pool.try_room(1).is_none());
        drop(large);
        assert_eq!(pool.bytes_in_use(), 0);
    }

    #[test]
    fn standard_buffer_is_used_again() {
        let pool = BlockPool::new(1 << 20);
        let first = pool.buffer(STANDARD_BYTES, pool.try_room(STANDARD_BYTES));
        let address = first.bytes.as_ptr();
        assert_eq!(pool.bytes_in_use(), STANDARD_BYTES);
        drop(first);
        assert_eq!(pool.bytes_in_use(), 0);
        let second = pool.buffer(STANDARD_BYTES, None);
        assert_eq!(second.bytes.as_ptr(), address);
    }

    #[test]
    fn exact_buffer_keeps_only_its_share() {
        let pool = BlockPool::new(1 << 20);
        let mut permit = pool.try_room(STANDARD_BYTES);
        let exact = pool.exact(b"one short line\n", permit.as_mut());
        drop(permit);
        assert_eq!(pool.bytes_in_use(), PERMIT_BYTES);
        drop(exact);
        assert_eq!(pool.bytes_in_use(), 0);
    }

    #[test]
    fn idle_buffers_never_exceed_the_bound() {
        let pool = BlockPool::new(2 * STANDARD_BYTES);
        let all: Vec<Buffer> = (0..5).map(|_| pool.buffer(STANDARD_BYTES, None)).collect();
        drop(all);
        assert_eq!(pool.shared.free().len(), 2);
        drop(pool.buffer(STANDARD_BYTES + 1, None));
        assert!(pool.shared.free().is_empty());
    }
}
