//! The figures of the journals of one process, which are read where they are kept.

use std::fmt;
use std::sync::Mutex;

use super::lock;
use super::snapshot::JournalFigures;

/// Returns bytes held and bytes not synced of one journal.
type Gauge = Box<dyn Fn() -> (u64, u64) + Send>;

/// The figures of the journals of one process.
#[derive(Default)]
pub struct JournalMeter {
    /// The limit in bytes, and a gauge for each journal.
    gauges: Mutex<(u64, Vec<Gauge>)>,
}

impl fmt::Debug for JournalMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalMeter").field("figures", &self.figures()).finish()
    }
}

impl JournalMeter {
    /// Sets the limit of all journals together.
    pub fn set_bytes_max(&self, bytes_max: u64) {
        lock(&self.gauges).0 = bytes_max;
    }

    /// Adds a journal by a function that returns the bytes that it holds and those of them that
    /// are not synced.
    pub fn add(&self, gauge: impl Fn() -> (u64, u64) + Send + 'static) {
        lock(&self.gauges).1.push(Box::new(gauge));
    }

    /// Returns the sums over all journals.
    pub fn figures(&self) -> JournalFigures {
        let gauges = lock(&self.gauges);
        let sum = |sums: (u64, u64), gauge: &Gauge| {
            let (held, unsynced) = gauge();
            (sums.0 + held, sums.1 + unsynced)
        };
        let (bytes, unsynced_bytes) = gauges.1.iter().fold((0, 0), sum);
        JournalFigures { bytes, unsynced_bytes, max_bytes: gauges.0 }
    }
}
