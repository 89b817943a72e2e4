//! Positions of sources that are read again, on their way from the source logs to the markers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::lock;
use crate::epoch::Epoch;

/// The positions of some sources at the end of one epoch, by the names of the sources, each in the
/// encoding of its source.
pub type SourcePositions = BTreeMap<String, Vec<u8>>;

/// The positions at the ends of the epochs in flight. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct EpochPositions(Arc<Mutex<BTreeMap<Epoch, SourcePositions>>>);

impl EpochPositions {
    /// Notes where the source called `name` was at the end of `epoch`.
    pub fn note(&self, epoch: Epoch, name: &str, positions: &[u8]) {
        let mut epochs = lock(&self.0);
        epochs.entry(epoch).or_default().insert(name.to_owned(), positions.to_vec());
    }

    /// Takes the positions at the end of `epoch`; none if they were taken. Those of earlier epochs
    /// are dropped.
    pub fn take(&self, epoch: Epoch) -> SourcePositions {
        let mut epochs = lock(&self.0);
        let later = epochs.split_off(&(epoch + 1));
        std::mem::replace(&mut *epochs, later).remove(&epoch).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_taken_once_by_epoch() {
        let positions = EpochPositions::default();
        for epoch in [10, 20, 30] {
            positions.note(epoch, "kafka lines", &[epoch as u8]);
        }
        assert_eq!(positions.take(20), SourcePositions::from([("kafka lines".into(), vec![20])]));
        assert!(positions.take(20).is_empty() && positions.take(10).is_empty());
        assert_eq!(positions.take(30).len(), 1);
    }
}
