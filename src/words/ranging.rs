//! The division of hashes into ranges.

use std::ops::Range;

/// Least number of ranges of all processes of a host. Each of 8 million words' ranges then takes
/// 1 MiB of slots.
const RANGES_MIN: usize = 256;

/// Least number of ranges of one process.
const PROCESS_RANGES_MIN: usize = 16;

/// The division of all hashes into ranges, and of ranges into those of each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranging {
    /// Number of ranges, a power of two.
    ranges: usize,
    processes: usize,
}

impl Ranging {
    /// Divides the hashes among `processes` processes.
    pub fn new(processes: usize) -> Ranging {
        let ranges = (processes * PROCESS_RANGES_MIN).next_power_of_two().max(RANGES_MIN);
        Ranging { ranges, processes }
    }

    /// Returns the number of ranges.
    pub fn ranges(self) -> usize {
        self.ranges
    }

    /// Returns true if several processes divide the hashes.
    pub fn is_divided(self) -> bool {
        self.processes > 1
    }

    /// Returns the process that counts the words of a range.
    #[inline]
    pub fn process(self, range: usize) -> usize {
        range * self.processes / self.ranges
    }

    /// Returns the ranges of a process.
    pub fn of_process(self, process: usize) -> Range<usize> {
        let first = |process: usize| (process * self.ranges).div_ceil(self.processes);
        first(process)..first(process + 1)
    }

    /// Returns the shift that leaves the range of a hash.
    pub fn shift(self) -> u32 {
        u64::BITS - self.ranges.trailing_zeros()
    }
}
