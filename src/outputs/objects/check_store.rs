//! Tries out an object store, for `wordtide check`.

use std::path::PathBuf;

use crate::epoch::SystemClock;
use crate::error::Result;
use crate::store::{ConditionalPuts, Store, StoreFacts, StoreProbe, Target, Versioning};

/// Puts, lists, reads back and deletes one object under the prefix. Returns how the store was
/// reached.
pub async fn check(
    target: &Target,
    store: &dyn Store,
    made: &Made,
) -> Result<Vec<(&'static str, String)>> {
    if *target == Target::Stdout {
        return Ok(Vec::new());
    }
    let conditional_puts = StoreProbe::beside(target.prefix()).run(store).await;
    let facts = match conditional_puts {
        Ok(conditional_puts) => Ok(StoreFacts { conditional_puts, ..store.facts().await }),
        Err(error) => Err(error),
    };
    made.remove();
    Ok(report(target, &store.describe(), &facts?))
}

/// The directories of a local output that were not there before it was opened. Object stores have
/// none.
#[derive(Debug)]
pub struct Made(Vec<PathBuf>);

impl Made {
    /// Returns the directories that will be made for `target`.
    pub fn before(target: &Target) -> Made {
        let Target::Local { root, .. } = target else { return Made(Vec::new()) };
        let made = [root.join("_wordtide"), root.clone()];
        Made(made.into_iter().filter(|dir| !dir.exists()).collect())
    }

    /// Removes those that are empty.
    fn remove(&self) {
        // One that is not empty is in use, and stays.
        self.0.iter().for_each(|dir| drop(std::fs::remove_dir(dir)));
    }
}

/// Returns names and values of what was found.
fn report(target: &Target, place: &str, facts: &StoreFacts) -> Vec<(&'static str, String)> {
    let mut lines = vec![("output", target.to_string()), ("store", place.to_owned())];
    let mut tell = |name, fact: Option<&str>| {
        lines.extend(fact.map(|fact| (name, fact.to_owned())));
    };
    tell("endpoint", facts.endpoint.as_deref());
    tell("region", facts.region.as_deref());
    tell("addressing", facts.addressing);
    tell("signature", facts.signature);
    tell("credentials", facts.credentials);
    let skew = facts.skew_ms(SystemClock::new().wall());
    let skew = skew.map(|ms| format!("{:+.1} s against the store", ms as f64 / 1e3));
    tell("clock", skew.as_deref());
    tell(
        "versioning",
        match facts.versioning {
            Versioning::Enabled => {
                Some("enabled: every retry leaves an old version that is paid for")
            }
            Versioning::Suspended => Some("suspended"),
            Versioning::Off => Some("off"),
            Versioning::Unknown => None,
        },
    );
    tell(
        "create",
        match facts.conditional_puts {
            ConditionalPuts::Honoured => Some("refused where an object exists"),
            ConditionalPuts::Ignored => Some(
                "not refused where an object exists: nothing but you keeps a second job from \
                 overwriting this one's objects",
            ),
            ConditionalPuts::Unknown => None,
        },
    );
    lines.push(("result", "one object was put, listed, read back and deleted".to_owned()));
    lines
}
