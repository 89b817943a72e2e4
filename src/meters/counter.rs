//! A number that only grows, and a clock that can be stopped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A number that only grows. Any thread may add to it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        // The number orders nothing else, so no stronger ordering is needed.
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Returns the number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Adds up the time between its starts and stops. One thread at a time starts it; any reads it.
#[derive(Debug)]
pub struct Stopwatch {
    /// The origin of times.
    epoch: Instant,
    /// The time that was measured so far, in nanoseconds.
    total_ns: AtomicU64,
    /// Nanoseconds from `epoch` to the start, plus one; 0 while it stands.
    since_ns: AtomicU64,
}

impl Default for Stopwatch {
    fn default() -> Self {
        let (total_ns, since_ns) = (AtomicU64::default(), AtomicU64::default());
        Stopwatch { epoch: Instant::now(), total_ns, since_ns }
    }
}

impl Stopwatch {
    /// Runs until the returned value is dropped.
    pub fn run(&self) -> Running<'_> {
        self.since_ns.store(self.now_ns() + 1, Ordering::Relaxed);
        Running(self)
    }

    /// Returns the time that it has run, the present run included.
    pub fn elapsed(&self) -> Duration {
        let since = self.since_ns.load(Ordering::Relaxed);
        let present = if since == 0 { 0 } else { (self.now_ns() + 1).saturating_sub(since) };
        Duration::from_nanos(self.total_ns.load(Ordering::Relaxed) + present)
    }

    /// Returns the time since the origin in nanoseconds.
    fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }
}

/// A stopwatch that runs.
#[derive(Debug)]
pub struct Running<'a>(&'a Stopwatch);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let since = self.0.since_ns.swap(0, Ordering::Relaxed);
        let ran = (self.0.now_ns() + 1).saturating_sub(since);
        self.0.total_ns.fetch_add(ran, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopwatch_counts_its_present_run() {
        let watch = Stopwatch::default();
        assert_eq!(watch.elapsed(), Duration::ZERO);
        let running = watch.run();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        let present = watch.elapsed();
        assert!(present >= Duration::from_millis(2));
        drop(running);
        let total = watch.elapsed();
        assert!(total >= present);
        assert_eq!(watch.elapsed(), total, "it stands");
    }
}
