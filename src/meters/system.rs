//! Memory, processor time and open files of this process, as the kernel counts them.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// The figures of this process that the kernel keeps. A figure that cannot be read is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SystemFigures {
    /// User and system time.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Virtual memory.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Unix time of the start of the process.
    pub start_seconds: f64,
    /// Open files.
    pub open_files: u64,
    /// Limit of open files.
    pub open_files_max: u64,
}

/// Returns the resident memory of this process.
pub fn memory_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages(&statm, 1)
}

/// Returns the figures of this process.
pub fn read() -> SystemFigures {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
    // The list is read while it is open itself.
    let open_files = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
    SystemFigures {
        cpu_seconds: (field(&stat, 14) + field(&stat, 15)) / ticks,
        resident_bytes: pages(&statm, 1),
        virtual_bytes: pages(&statm, 0),
        threads: field(&stat, 20) as u64,
        start_seconds: boot.unwrap_or(0.0) + field(&stat, 22) / ticks,
        open_files: open_files.saturating_sub(1),
        open_files_max: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
    }
}

/// Returns field `number` of a `stat`, counted from 1. The second one, the name of the program, is
/// in parentheses and may hold anything.
fn field(stat: &str, number: usize) -> f64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let value = after_name.split_whitespace().nth(number.saturating_sub(3));
    value.and_then(|value| value.parse().ok()).unwrap_or(0.0)
}

/// Returns field `at` of a `statm`, which counts pages, in bytes.
fn pages(statm: &str, at: usize) -> u64 {
    let value = statm.split_whitespace().nth(at).and_then(|pages| pages.parse::<u64>().ok());
    value.unwrap_or(0) * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_the_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 140 150 0 0 20 0 6 0 4200 9 9";
        assert_eq!((field(stat, 14), field(stat, 15)), (140.0, 150.0));
        assert_eq!((field(stat, 20), field(stat, 22)), (6.0, 4200.0));
        assert_eq!(field("", 14), 0.0);
    }

    #[test]
    fn figures_of_this_process_are_there() {
        let figures = read();
        assert!(figures.resident_bytes > 1 << 20 && figures.virtual_bytes > 1 << 20);
        assert!(figures.threads >= 1 && figures.open_files >= 1);
        assert!(figures.start_seconds > 1e9);
    }
}
