//! The rule by which one more epoch may be cut: epochs in flight are bounded.

use std::collections::VecDeque;

use crate::epoch::Epoch;

/// Epochs that may be in flight while the store is out of reach.
const AWAY_MAX: usize = 1024;

/// The length in bytes from which the results of an epoch are large: [`EpochRoom`].
const LARGE_RESULTS_BYTES: u64 = 32 << 20;

/// Epochs that may be in flight if results are large.
const LARGE_MAX: usize = 2;

/// The bounds of epochs in flight: those that are cut and not committed.
///
/// While the store takes objects, a small number may be, and the open epoch grows if commits are
/// slow. While it is out of reach, epochs whose results are encoded only wait, at the cost of a
/// file each, and an open epoch that grew for all that time could take any amount of memory. Of
/// epochs that are not counted and encoded yet, half as many may be in flight: more of them, each
/// with fewer lines, would cost a process that lags still more.
///
/// Large results are those of many distinct words. An epoch with few lines then has nearly as many
/// rows as one with many, so another one is cut only when the one before is encoded, and the one
/// before that is committed. Memory holds one snapshot and hardly more than one result.
#[derive(Clone, Debug)]
pub struct EpochRoom {
    /// Most epochs in flight while the store answers.
    in_flight_max: usize,
    /// For each process but 0, the newest epoch that it has encoded.
    encoded_elsewhere: Vec<Epoch>,
}

impl EpochRoom {
    /// Begins in a job of `processes` processes, of which none has encoded anything.
    pub fn new(in_flight_max: usize, processes: usize) -> EpochRoom {
        EpochRoom { in_flight_max, encoded_elsewhere: vec![0; processes.saturating_sub(1)] }
    }

    /// Notes that the process with the index `from` has encoded `epoch` and all before it. A late
    /// report, or one of a process that is not in the job, changes nothing.
    pub fn encoded(&mut self, from: usize, epoch: Epoch) {
        let known = from.checked_sub(1).and_then(|other| self.encoded_elsewhere.get_mut(other));
        if let Some(known) = known {
            *known = epoch.max(*known);
        }
    }

    /// Returns true if one more epoch may be in flight beside these. Process 0 has encoded the
    /// epochs up to `encoded`, the last of them as `bytes`; `results_may_wait` is true while the
    /// store is out of reach and results of more epochs find room.
    pub fn is_left(
        &self,
        in_flight: &VecDeque<Epoch>,
        (encoded, bytes): (Epoch, u64),
        results_may_wait: bool,
    ) -> bool {
        let is_large = bytes >= LARGE_RESULTS_BYTES;
        let in_flight_max = if is_large { LARGE_MAX } else { self.in_flight_max };
        let encoded = self.encoded_elsewhere.iter().fold(encoded, |all, here| all.min(*here));
        let uncounted = in_flight.iter().filter(|epoch| **epoch > encoded).count();
        let most = if results_may_wait { AWAY_MAX } else { in_flight_max };
        uncounted < in_flight_max.div_ceil(2) && in_flight.len() < most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_that_lags_leaves_no_room() {
        // The store is out of reach and process 0 has encoded everything.
        let in_flight = VecDeque::from([10, 20, 30]);
        let is_left = |room: &EpochRoom| room.is_left(&in_flight, (30, 0), true);
        assert!(is_left(&EpochRoom::new(4, 1)));
        let mut room = EpochRoom::new(4, 3);
        assert!(!is_left(&room));
        room.encoded(1, 30);
        assert!(!is_left(&room), "the other has encoded nothing");
        room.encoded(2, 10);
        assert!(!is_left(&room));
        room.encoded(2, 20);
        assert!(is_left(&room));
        room.encoded(2, 10);
        room.encoded(0, 99);
        room.encoded(7, 99);
        assert!(is_left(&room));
        let four = VecDeque::from([10, 20, 30, 40]);
        assert!(!room.is_left(&four, (30, 0), true), "two are uncounted");
    }

    #[test]
    fn store_out_of_reach_leaves_more_room() {
        let room = EpochRoom::new(4, 1);
        let in_flight: VecDeque<Epoch> = (1..=4).collect();
        assert!(!room.is_left(&in_flight, (4, 0), false));
        assert!(room.is_left(&in_flight, (4, 0), true));
        let full: VecDeque<Epoch> = (1..=AWAY_MAX as Epoch).collect();
        assert!(!room.is_left(&full, (Epoch::MAX, 0), true));
    }

    #[test]
    fn large_results_leave_room_for_two() {
        let room = EpochRoom::new(20, 1);
        let is_left = |in_flight: &[Epoch], encoded, bytes, may_wait| {
            let in_flight: VecDeque<Epoch> = in_flight.iter().copied().collect();
            room.is_left(&in_flight, (encoded, bytes), may_wait)
        };
        assert!(is_left(&[2, 3, 4], 2, LARGE_RESULTS_BYTES - 1, false));
        assert!(is_left(&[2], 2, LARGE_RESULTS_BYTES, false));
        assert!(!is_left(&[3], 2, LARGE_RESULTS_BYTES, false), "one is uncounted");
        assert!(!is_left(&[2, 3], 3, LARGE_RESULTS_BYTES, false), "two are not committed");
        assert!(is_left(&[2, 3], 3, LARGE_RESULTS_BYTES, true), "the store is away");
        assert!(!is_left(&[2, 3], 2, LARGE_RESULTS_BYTES, true));
    }
}
