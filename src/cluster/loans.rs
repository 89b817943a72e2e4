//! What two processes of one host have lent each other: blocks that lie in the lender's memory.
//!
//! The lender offers its memory by the number of its process and of the file in it. Whether the
//! other can open and map that is found out by trying: it may run under another user, in another
//! container or on another host, where the same numbers lead to nothing, or to something that does
//! not bear the tag. Nothing is sent until it has answered; where it cannot, text goes through the
//! socket.
//!
//! A block that is lent is held here until its slot comes back. A link lends no more than its share
//! of the slots, so that a slow process cannot keep them all from the fast ones.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::lines::{Block, BlockHead, BlockPool, LentMemory, Returns, Tag};

/// Where a process finds another's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    process_id: u32,
    descriptor: i32,
    slots: u32,
    tag: Tag,
}

impl Offer {
    /// The memory of `pool`, if it can be shared.
    pub(super) fn of(pool: &BlockPool) -> Option<Offer> {
        let memory = pool.memory()?;
        Some(Offer {
            process_id: std::process::id(),
            descriptor: memory.descriptor(),
            slots: memory.slots(),
            tag: memory.tag(),
        })
    }

    /// As many bytes as the head of a block.
    pub(super) fn encode(&self) -> [u8; BlockHead::BYTES] {
        let mut bytes = [0; BlockHead::BYTES];
        bytes[..4].copy_from_slice(&self.process_id.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.descriptor.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.slots.to_le_bytes());
        bytes[12..28].copy_from_slice(&self.tag);
        bytes
    }

    /// Reads it back.
    pub(super) fn decode(bytes: &[u8; BlockHead::BYTES]) -> Offer {
        let (numbers, _) = bytes.as_chunks::<4>();
        let mut tag = Tag::default();
        tag.copy_from_slice(&bytes[12..28]);
        Offer {
            process_id: u32::from_le_bytes(numbers[0]),
            descriptor: i32::from_le_bytes(numbers[1]),
            slots: u32::from_le_bytes(numbers[2]),
            tag,
        }
    }

    /// The memory that was offered, if this process can see it.
    pub(super) fn open(&self) -> Option<LentMemory> {
        let path = format!("/proc/{}/fd/{}", self.process_id, self.descriptor);
        let opened = std::fs::metadata(&path).and_then(|found| match found.is_file() {
            true => File::open(&path),
            // Where the numbers mean something else, that may be a pipe, which opens when it likes.
            false => Err(io::Error::other("it is no file")),
        });
        let memory = opened.and_then(|file| LentMemory::new(file, self.slots, self.tag));
        if let Err(cause) = &memory {
            tracing::debug!("blocks come through the socket, {path} is out of reach: {cause}");
        }
        memory.ok()
    }
}

/// The loans of one link, in both directions.
#[derive(Debug)]
pub(super) struct Loans {
    processes: usize,
    state: Mutex<State>,
    /// What this process has borrowed.
    borrowed: Returns,
    /// Wakes who writes to the link.
    notify: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    offer: Offered,
    /// With its slot, each block that this process has lent.
    lent: Vec<(u32, Block)>,
    /// Most blocks that may be lent.
    lent_max: usize,
    /// What is to be answered to the other's offer.
    owed_answer: Option<bool>,
    peer_ended: bool,
}

/// What has become of this process's offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Offered {
    /// There is none, or the other process cannot see that memory.
    #[default]
    Refused,
    Unanswered,
    Accepted,
}

impl Loans {
    /// None, on a link between two of so many processes.
    pub(super) fn new(processes: usize) -> Loans {
        let notify = Arc::new(Notify::new());
        let wake = Arc::clone(&notify);
        let borrowed = Returns::new(Arc::new(move || wake.notify_one()));
        Loans { processes, state: Mutex::default(), borrowed, notify }
    }

    /// Wakes who writes to the link.
    pub(super) fn notify(&self) {
        self.notify.notify_one();
    }

    /// Waits until there may be something to write.
    pub(super) async fn notified(&self) {
        self.notify.notified().await;
    }

    /// Lends a block to the other process; none if it cannot read it where it lies.
    pub(super) fn lend(&self, block: &Block) -> Option<(u32, u32)> {
        let mut state = self.lock();
        let place = block.slot().filter(|_| state.offer == Offered::Accepted)?;
        state.lent.push((place.0, block.clone()));
        Some(place)
    }

    /// Whether one more block may be sent, or lent.
    pub(super) fn has_room(&self) -> bool {
        let state = self.lock();
        match state.offer {
            Offered::Refused => true,
            Offered::Unanswered => false,
            Offered::Accepted => state.lent.len() < state.lent_max,
        }
    }

    /// The other process has given a slot back.
    pub(super) fn returned(&self, slot: u32) {
        self.update(|state| {
            let at = state.lent.iter().position(|(lent, _)| *lent == slot);
            at.map(|at| state.lent.swap_remove(at))
        });
    }

    /// This process offers its memory to the other.
    pub(super) fn offer(&self, offer: &Offer) {
        let mut state = self.lock();
        state.offer = Offered::Unanswered;
        state.lent_max = (offer.slots as usize / self.processes).max(2);
    }

    /// The other process has tried to read it.
    pub(super) fn answered(&self, can_read: bool) {
        let offer = if can_read { Offered::Accepted } else { Offered::Refused };
        self.update(|state| state.offer = offer);
    }

    /// This process has tried to read the other's memory, and is to say so.
    pub(super) fn answer(&self, can_read: bool) {
        self.update(|state| state.owed_answer = Some(can_read));
    }

    /// That answer, if it is still to be given; it is from now on.
    pub(super) fn owed_answer(&self) -> Option<bool> {
        self.lock().owed_answer.take()
    }

    /// What was borrowed and is to be given back.
    pub(super) fn returns(&self) -> &Returns {
        &self.borrowed
    }

    /// The other process lends nothing more.
    pub(super) fn peer_ended(&self) {
        self.update(|state| state.peer_ended = true);
    }

    /// Whether nothing borrowed is still here, and nothing more can come.
    pub(super) fn is_settled(&self) -> bool {
        self.lock().peer_ended && self.borrowed.is_settled()
    }

    /// Changes the state and wakes who writes to the link. What `change` returns is dropped without
    /// the lock.
    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) {
        let mut state = self.lock();
        let changed = change(&mut state);
        drop(state);
        drop(changed);
        self.notify();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one step: the state is whole whatever its last user did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_leads_to_its_memory_and_another_tag_to_none() {
        let pool = BlockPool::shared(1 << 20, [7; 16]).expect("memory that can be shared");
        let offer = Offer::of(&pool).expect("it is shared");
        assert_eq!(Offer::decode(&offer.encode()), offer);
        assert!(offer.open().is_some());
        assert!(Offer { tag: [8; 16], ..offer }.open().is_none());
        assert!(Offer { slots: offer.slots - 1, ..offer }.open().is_none());
        let heap = Offer::of(&BlockPool::new(1 << 20));
        assert_eq!(heap, None);
    }
}
