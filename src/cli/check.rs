//! `wordtide check`: will the output take an epoch?

use std::path::PathBuf;

use super::flags::JobFlags;
use super::{failed, log, print, run};
use crate::epoch::SystemClock;
use crate::error::Result;
use crate::store::{
    ConditionalPuts, Environment, StoreFacts, StoreProbe, Target, Versioning, open,
};

/// Puts, lists, reads back and deletes one object under the prefix; tells how the store was
/// reached.
pub(super) fn run(flags: &JobFlags) -> Result<()> {
    log::install(&flags.watch);
    let target: Target = flags.output.to.as_deref().unwrap_or(run::DEFAULT_TO).parse()?;
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| failed("cannot start the runtime for requests", error))?;
    let tidy = Tidy::before(&target);
    let Some(store) = open(&target, &run::store(&flags.store), &Environment::of_process())? else {
        return print(b"standard output: nothing to check\n");
    };
    let facts = runtime.block_on(async {
        let conditional_puts = StoreProbe::beside(target.prefix()).run(&*store).await?;
        Ok::<StoreFacts, crate::Error>(StoreFacts { conditional_puts, ..store.facts().await })
    });
    tidy.after();
    let facts = facts?;
    print(report(&target, &store.describe(), &facts).as_bytes())
}

/// Directories that a check of a local output makes: object stores have none.
struct Tidy(Vec<PathBuf>);

impl Tidy {
    fn before(target: &Target) -> Tidy {
        let Target::Local { root, .. } = target else { return Tidy(Vec::new()) };
        let made = [root.join("_wordtide"), root.clone()];
        Tidy(made.into_iter().filter(|dir| !dir.exists()).collect())
    }

    fn after(self) {
        // One that is not empty is in use by somebody, and stays.
        self.0.iter().for_each(|dir| drop(std::fs::remove_dir(dir)));
    }
}

fn report(target: &Target, place: &str, facts: &StoreFacts) -> String {
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
    lines.iter().map(|(name, fact)| format!("{name:12}{fact}\n")).collect()
}
