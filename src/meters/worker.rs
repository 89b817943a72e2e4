//! The figures of one worker.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::Counter;
use super::snapshot::WorkerFigures;

/// The figures of one worker, on cache lines of their own: two workers never write to the same.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerMeter {
    /// The index of the worker among all.
    index: usize,
    /// Words counted.
    pub words: Counter,
    /// The kernel's account of the worker's thread; `None` where there is none.
    account: Option<File>,
    /// The last value that was read from `account`, in nanoseconds: it outlives the thread.
    busy_ns: std::sync::atomic::AtomicU64,
}

impl WorkerMeter {
    /// Returns the meter of worker `index`, which runs on the calling thread.
    pub fn of_this_thread(index: usize) -> WorkerMeter {
        // The kernel counts the time anyway, so the worker itself does nothing for it.
        let account = File::open("/proc/thread-self/schedstat").ok();
        WorkerMeter { index, account, ..WorkerMeter::default() }
    }

    /// Returns the index of the worker among all workers of the cluster.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns the processor time that the worker has used: a parked worker uses none.
    pub fn busy(&self) -> Duration {
        use std::sync::atomic::Ordering::Relaxed;
        if let Some(busy_ns) = self.account.as_ref().and_then(run_ns) {
            self.busy_ns.fetch_max(busy_ns, Relaxed);
        }
        Duration::from_nanos(self.busy_ns.load(Relaxed))
    }

    /// Returns the state of the worker as plain values.
    pub fn figures(&self, process: usize) -> WorkerFigures {
        let busy_seconds = self.busy().as_secs_f64();
        WorkerFigures { worker: self.index, process, busy_seconds }
    }
}

/// Reads the first number of a `schedstat`: nanoseconds on a processor. The file of a thread that
/// has ended cannot be read.
fn run_ns(account: &File) -> Option<u64> {
    let mut text = [0; 64];
    let bytes = account.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..bytes]).ok()?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_outlives_the_thread() {
        let meter = std::thread::scope(|scope| {
            let work = || {
                let meter = WorkerMeter::of_this_thread(3);
                let began = std::time::Instant::now();
                while began.elapsed() < Duration::from_millis(20) {
                    std::hint::spin_loop();
                }
                meter.busy();
                meter
            };
            scope.spawn(work).join().expect("no panic")
        });
        let busy = meter.busy();
        assert_eq!(meter.index(), 3);
        assert!(meter.account.is_none() || busy > Duration::ZERO);
        assert_eq!(meter.busy(), busy);
    }
}
