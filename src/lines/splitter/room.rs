//! The room of a splitter whose reader does other things while it waits for it.

use super::LineSplitter;
use crate::lines::block_pool::{RoomGrant, RoomRequest};

/// Longest unfinished line that a splitter puts aside if it is one of many.
const CARRY_BYTES_OF_MANY: usize = 64 << 10;

impl LineSplitter {
    /// Returns the room that the next read needs, for `BlockPool::grant`; `None` if the splitter
    /// has it. For a reader that does other things while it waits.
    pub fn room_wanted(&mut self) -> Option<RoomRequest> {
        (!self.is_ready()).then(|| RoomRequest { capacity: self.capacity_wanted() })
    }

    /// Takes the room that [`LineSplitter::room_wanted`] asked for. Nothing was fed in between.
    pub fn accept(&mut self, RoomGrant { capacity, permit }: RoomGrant) {
        self.seat(capacity, permit);
    }

    /// Gives room back that nothing was read into. What was fed and not taken must be part of an
    /// unfinished line.
    pub fn release(&mut self) {
        let Some(mut buffer) = self.buffer.take() else { return };
        buffer.permit = None;
        if self.filled - self.start <= self.carry_bytes_max {
            self.put_aside(&buffer);
        } else {
            self.buffer = Some(buffer);
        }
    }

    /// Puts longer unfinished lines aside than usual, so that many splitters hold little: each
    /// would else keep a whole buffer.
    pub fn be_one_of_many(&mut self) {
        self.carry_bytes_max = CARRY_BYTES_OF_MANY;
    }
}
