//! Where the text of blocks lies: on the heap, or where other processes of the host see it too.
//!
//! Text that goes to another process through a socket is copied twice, and the kernel spends a
//! tenth of a whole run on that. So a pool may keep its buffers in a file that lies in memory
//! ([`SharedMemory`]), as slots of one buffer each. Another process maps the same pages
//! ([`LentMemory`]), is told the number of a slot, and makes a block of it without a copy.
//!
//! A reference to mapped memory is sound only while nobody writes there. That hangs on four things:
//! a slot is written by who holds it as a buffer, and a block makes it immutable; who lends a block
//! holds a clone until the slot comes back ([`Returns`]); a borrower maps slots only to read; and
//! the file is sealed, so that nobody else can write to it and nobody at all can shorten it, which
//! the borrower checks before it believes the rest.

#![allow(unsafe_code, reason = "maps memory; without, two processes take 10 % more time")]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{Mmap, MmapMut, MmapOptions};

use super::pool::BUFFER_BYTES;

/// Distance of slots, a multiple of the pages of any machine that has pages of 64 KiB or less.
const SLOT_BYTES: u64 = (BUFFER_BYTES as u64).next_multiple_of(64 << 10);

/// What tells this memory from any other: random, at the end of the file.
pub type Tag = [u8; 16];

/// The memory of one buffer.
pub(super) enum Memory {
    Heap(Vec<u8>),
    Slot(u32, MmapMut),
}

impl Memory {
    /// `bytes` zeros on the heap.
    pub(super) fn heap(bytes: usize) -> Memory {
        Memory::Heap(vec![0; bytes])
    }

    /// Which slot of a shared memory it is.
    pub(super) fn slot(&self) -> Option<u32> {
        match self {
            Memory::Heap(_) => None,
            Memory::Slot(index, _) => Some(*index),
        }
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::Heap(Vec::new())
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Memory::Heap(bytes) => bytes,
            Memory::Slot(_, bytes) => bytes,
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Memory::Heap(bytes) => bytes,
            Memory::Slot(_, bytes) => bytes,
        }
    }
}

/// The file in memory that holds the slots of a pool.
#[derive(Debug)]
pub struct SharedMemory {
    file: File,
    slots: u32,
    tag: Tag,
}

impl SharedMemory {
    /// Memory of `slots` buffers, and the buffers.
    #[cfg(target_os = "linux")]
    pub(super) fn new(slots: u32, tag: Tag) -> io::Result<(SharedMemory, Vec<Memory>)> {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("wordtide-blocks", flags)?);
        let tag_at = u64::from(slots) * SLOT_BYTES;
        file.write_all_at(&tag, tag_at)?;
        let map = |slot: u32| {
            // SAFETY: each slot is mapped once for writing, here; others map it for reading and
            // only look while a block of it is lent to them, see the module.
            let bytes = unsafe { mapping(slot).map_mut(&file) }?;
            Ok(Memory::Slot(slot, bytes))
        };
        let buffers = (0..slots).map(map).collect::<io::Result<Vec<_>>>()?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE;
        fcntl_add_seals(&file, seals | SealFlags::SEAL)?;
        Ok((SharedMemory { file, slots, tag }, buffers))
    }

    /// There is none on this system.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn new(_slots: u32, _tag: Tag) -> io::Result<(SharedMemory, Vec<Memory>)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Number of buffers.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// The number under which this process has the file open.
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// What tells it from any other.
    pub fn tag(&self) -> Tag {
        self.tag
    }
}

fn mapping(slot: u32) -> MmapOptions {
    let mut mapping = MmapOptions::new();
    mapping.offset(u64::from(slot) * SLOT_BYTES).len(BUFFER_BYTES);
    mapping
}

/// The shared memory of another process, as this one sees it.
pub struct LentMemory {
    file: File,
    mapped: Vec<Option<Arc<Mmap>>>,
}

impl LentMemory {
    /// The memory in `file`, which shall be that of `slots` buffers and bear `tag`.
    ///
    /// # Errors
    /// Where it is another file, or one that somebody could write to or shorten.
    #[cfg(target_os = "linux")]
    pub fn new(file: File, slots: u32, tag: Tag) -> io::Result<LentMemory> {
        use rustix::fs::{SealFlags, fcntl_get_seals};
        let tag_at = u64::from(slots) * SLOT_BYTES;
        let sealed = SealFlags::SHRINK | SealFlags::FUTURE_WRITE;
        let mut found = Tag::default();
        let is_ours = fcntl_get_seals(&file)?.contains(sealed)
            && file.metadata()?.len() == tag_at + tag.len() as u64
            && file.read_exact_at(&mut found, tag_at).is_ok()
            && found == tag;
        if !is_ours {
            return Err(io::Error::other("it is not the memory that was offered"));
        }
        Ok(LentMemory { file, mapped: vec![None; slots as usize] })
    }

    /// There is none on this system.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(target_os = "linux"))]
    pub fn new(_file: File, _slots: u32, _tag: Tag) -> io::Result<LentMemory> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Borrows `bytes` bytes at `start` of a slot, which is given back to `returns`.
    pub(super) fn borrow(
        &mut self,
        slot: u32,
        (start, bytes): (usize, usize),
        returns: &Returns,
    ) -> io::Result<Lent> {
        let bad = || io::Error::other(format!("there is no text {start}+{bytes} in slot {slot}"));
        let end = start.checked_add(bytes).filter(|end| *end <= BUFFER_BYTES).ok_or_else(bad)?;
        let mapped = self.mapped.get_mut(slot as usize).ok_or_else(bad)?;
        let map = match mapped {
            Some(map) => Arc::clone(map),
            None => {
                // SAFETY: the file cannot become shorter, and its owner, the only one who can
                // write, does not while the slot is lent, see the module.
                let map = Arc::new(unsafe { mapping(slot).map(&self.file) }?);
                Arc::clone(mapped.insert(map))
            }
        };
        returns.slots().borrowed += 1;
        Ok(Lent { map, start, end, slot, returns: returns.clone() })
    }
}

impl fmt::Debug for LentMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LentMemory").field("slots", &self.mapped.len()).finish_non_exhaustive()
    }
}

/// Text in another process's memory; it is given back with the value.
pub(super) struct Lent {
    map: Arc<Mmap>,
    start: usize,
    end: usize,
    slot: u32,
    returns: Returns,
}

impl Deref for Lent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[self.start..self.end]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut slots = self.returns.slots();
        slots.borrowed -= 1;
        slots.to_return.push(self.slot);
        let is_due = slots.borrowed == 0 || slots.to_return.len() >= Returns::BATCH;
        drop(slots);
        if is_due {
            (self.returns.wake)();
        }
    }
}

/// Slots that were borrowed and are to be given back. Clones share them.
#[derive(Clone)]
pub struct Returns {
    slots: Arc<Mutex<Slots>>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

#[derive(Debug, Default)]
struct Slots {
    borrowed: usize,
    to_return: Vec<u32>,
}

impl Returns {
    /// Slots that go back together while others are still here: each message wakes two threads.
    const BATCH: usize = 4;

    /// None yet; `wake` is called when there are some.
    pub fn new(wake: Arc<dyn Fn() + Send + Sync>) -> Returns {
        Returns { slots: Arc::default(), wake }
    }

    /// The slots that are to be given back.
    pub fn take(&self) -> Vec<u32> {
        std::mem::take(&mut self.slots().to_return)
    }

    /// Whether everything has been given back.
    pub fn is_settled(&self) -> bool {
        let slots = self.slots();
        slots.borrowed == 0 && slots.to_return.is_empty()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Two numbers and a list are whole whatever their last user did.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Returns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Returns").field("slots", &*self.slots()).finish_non_exhaustive()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn sees(memory: &SharedMemory) -> io::Result<LentMemory> {
        let file = File::from(memory.file.as_fd().try_clone_to_owned()?);
        LentMemory::new(file, memory.slots, memory.tag)
    }

    #[test]
    fn what_a_slot_holds_is_seen_where_it_is_lent() {
        let (memory, mut buffers) = SharedMemory::new(3, [7; 16]).unwrap();
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let returns = Returns::new(Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        let mut seen = sees(&memory).unwrap();
        buffers[2][5..9].copy_from_slice(b"text");
        let lent = seen.borrow(2, (5, 4), &returns).unwrap();
        assert_eq!(&*lent, b"text");
        assert!(!returns.is_settled());
        drop(lent);
        assert_eq!((woken.load(Ordering::Relaxed), returns.take()), (1, vec![2]));
        assert!(returns.is_settled());
    }

    #[test]
    fn a_few_slots_go_back_together() {
        let (memory, _buffers) = SharedMemory::new(8, [7; 16]).unwrap();
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let returns = Returns::new(Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        let mut seen = sees(&memory).unwrap();
        let mut lent: Vec<_> =
            (0..8).map(|slot| seen.borrow(slot, (0, 1), &returns).unwrap()).collect();
        lent.truncate(8 - Returns::BATCH + 1);
        assert_eq!(woken.load(Ordering::Relaxed), 0);
        lent.pop();
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert_eq!(returns.take(), [5, 6, 7, 4]);
        lent.clear();
        assert_eq!(returns.take().len(), 8 - Returns::BATCH);
    }

    #[test]
    fn a_place_that_is_none_is_refused() {
        let (memory, _buffers) = SharedMemory::new(2, [7; 16]).unwrap();
        let returns = Returns::new(Arc::new(|| {}));
        let mut seen = sees(&memory).unwrap();
        let places =
            [(2, 0, 1), (0, BUFFER_BYTES, 1), (1, 0, BUFFER_BYTES + 1), (1, 1, usize::MAX)];
        for (slot, start, bytes) in places {
            assert!(seen.borrow(slot, (start, bytes), &returns).is_err(), "{slot} {start} {bytes}");
        }
        assert!(returns.is_settled());
    }

    #[test]
    fn memory_that_somebody_could_change_is_not_believed() {
        let tag = [7; 16];
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&tag, SLOT_BYTES).unwrap();
        assert!(LentMemory::new(file, 1, tag).is_err());
        let (memory, _buffers) = SharedMemory::new(1, tag).unwrap();
        assert!(memory.file.set_len(0).is_err());
        assert!(memory.file.write_all_at(b"x", 0).is_err());
        assert!(sees(&SharedMemory { tag: [8; 16], ..memory }).is_err());
    }
}
