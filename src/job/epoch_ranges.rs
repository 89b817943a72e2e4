//! Ascending epochs as runs of equal steps: how they travel between the processes.
//!
//! A job of 10 ms that was away from its store for a quarter of an hour has 100,000 epochs to
//! agree on. Most follow one another at the same distance, so a few numbers name them all. For use
//! as `#[serde(with = "epoch_ranges")]`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::epoch::Epoch;

/// Most epochs that a message may name: a damaged run must not fill the memory.
const EPOCHS_MAX: u64 = 64 << 20;

/// The first epoch of a run, the distance between two, and their number.
type EpochRange = (Epoch, u64, u64);

/// Writes ascending epochs as a sequence of runs.
pub fn serialize<'a, C, S>(epochs: &'a C, serializer: S) -> Result<S::Ok, S::Error>
where
    &'a C: IntoIterator<Item = &'a Epoch>,
    S: Serializer,
{
    runs(epochs.into_iter().copied()).serialize(serializer)
}

/// Reads the epochs that [`serialize`] wrote.
///
/// Fails if there are too many, or one is above the greatest number.
pub fn deserialize<'de, C, D>(deserializer: D) -> Result<C, D::Error>
where
    C: FromIterator<Epoch>,
    D: Deserializer<'de>,
{
    let runs = Vec::<EpochRange>::deserialize(deserializer)?;
    let total = runs.iter().try_fold(0u64, |total, (_, _, count)| total.checked_add(*count));
    if total.is_none_or(|total| total > EPOCHS_MAX) {
        return Err(D::Error::custom("too many epochs"));
    }
    let epochs = runs.into_iter().flat_map(|(first, step, count)| {
        let at = move |k: u64| step.checked_mul(k).and_then(|after| first.checked_add(after));
        (0..count).map(at)
    });
    epochs.collect::<Option<C>>().ok_or_else(|| D::Error::custom("an epoch out of range"))
}

/// Returns the fewest runs that a single pass finds.
fn runs(epochs: impl Iterator<Item = Epoch>) -> Vec<EpochRange> {
    let mut runs: Vec<EpochRange> = Vec::new();
    for epoch in epochs {
        if let Some((first, step, count)) = runs.last_mut() {
            // The second epoch of a run settles its step.
            let expected = match *count {
                1 => Some(epoch),
                _ => step.checked_mul(*count).and_then(|after| first.checked_add(after)),
            };
            if expected == Some(epoch) && epoch > *first {
                if *count == 1 {
                    *step = epoch - *first;
                }
                *count += 1;
                continue;
            }
        }
        runs.push((epoch, 0, 1));
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Epochs(#[serde(with = "super")] Vec<Epoch>);

    #[test]
    fn equal_steps_take_one_run() {
        let epochs: Vec<Epoch> = (0..100_000).map(|k| 1_795_345_210_000 + 10 * k).collect();
        let json = serde_json::to_string(&Epochs(epochs.clone())).expect("JSON");
        assert_eq!(json, "[[1795345210000,10,100000]]");
        assert_eq!(serde_json::from_str::<Epochs>(&json).expect("epochs"), Epochs(epochs));
    }

    #[test]
    fn damaged_runs_are_refused() {
        for json in ["[[0,1,18446744073709551615]]", "[[18446744073709551615,1,2]]", "[[1,2]]"] {
            serde_json::from_str::<Epochs>(json).expect_err(json);
        }
    }

    proptest! {
        #[test]
        fn any_epochs_survive(epochs in proptest::collection::btree_set(any::<u64>(), 0..40)) {
            let epochs: BTreeSet<Epoch> = epochs;
            let sent = Epochs(epochs.into_iter().collect());
            let json = serde_json::to_string(&sent).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<Epochs>(&json).expect("epochs"), sent);
        }
    }
}
