//! The epochs that have a directory below the prefix.

use futures::stream::{self, StreamExt, TryStreamExt};

use super::find_marker::find_marker;
use super::marker_json::Marker;
use super::object_names::{EpochSearch, Layout, MARKER};
use crate::epoch::{self, AHEAD_MAX_MS, Epoch};
use crate::error::{Error, ErrorKind, Result};
use crate::outputs::retry_start::StartRetrier;
use crate::store::Store;

/// So many of the newest epochs are looked at for markers of others, so many at a time: a prefix
/// may hold any number of epochs that are named after a clock which ran ahead.
const MARKERS_MAX: usize = 16;
/// How many markers are asked for at the same time.
const MARKERS_AT_A_TIME: usize = 8;

/// A place in the output and time from which on epochs are of interest to a start.
#[derive(Clone, Copy, Debug)]
pub struct NamedEpochs<'a> {
    /// Retries requests to the store.
    pub retrier: &'a StartRetrier,
    /// The store of the output.
    pub store: &'a dyn Store,
    /// The names of the epochs' folders.
    pub layout: &'a Layout,
    /// Older epochs are left alone: names follow the clock.
    pub from: Epoch,
    /// Unix milliseconds by the job's clock.
    pub wall_ms: u64,
    /// Length of an epoch.
    pub interval_ms: u64,
}

impl NamedEpochs<'_> {
    /// Returns the newest epoch that has a directory, committed or not. New epochs begin after it,
    /// so nothing that stands there is ever written into.
    pub async fn newest(&self) -> Result<Option<Epoch>> {
        let (epochs, ignored) = self.epochs().await?;
        if let Some(name) = ignored {
            tracing::warn!(
                "{name} is more than a day ahead of the clock or no time at all: it and others \
                 like it are ignored; see who made it, and this machine's clock"
            );
        }
        Ok(epochs.last().map(|(epoch, _)| *epoch))
    }

    /// Returns the epochs that have a directory, ascending, with its name, and one name of those
    /// that are far from now.
    ///
    /// An epoch is at most a day ahead of the clock, or follows another one within one interval:
    /// runs that are started again within an interval take the names that follow.
    async fn epochs(&self) -> Result<(Vec<(Epoch, String)>, Option<String>)> {
        let NamedEpochs { retrier, store, layout, from, wall_ms, interval_ms } = *self;
        let search = EpochSearch { store, layout, from };
        let mut near = Vec::new();
        let mut now_ms = wall_ms;
        for group in retrier.run(|| search.groups()).await? {
            for (epoch, dir) in retrier.run(|| search.epochs(&group)).await? {
                if !epoch::is_plausible(epoch, now_ms) {
                    // Later groups are farther away: they are not listed.
                    return Ok((near, Some(dir)));
                }
                let follows = epoch.saturating_add(interval_ms).saturating_sub(AHEAD_MAX_MS);
                now_ms = now_ms.max(follows);
                near.push((epoch, dir));
            }
        }
        // A clock that was set back has named the epochs of a day after those of the next.
        near.sort_unstable();
        Ok((near, None))
    }

    /// Refuses to start after another job that has committed an epoch a short while ago and of
    /// which nothing else is known: it may be of a release, or on a store, without claims.
    ///
    /// `is_known` holds for the state ids of this job and of those whose end is known.
    pub async fn refuse_foreign(&self, job: &str, is_known: impl Fn(&str) -> bool) -> Result<()> {
        let (epochs, _) = self.epochs().await?;
        let newest = epochs.into_iter().rev().take(MARKERS_MAX);
        let newest = newest.map(|(_, dir)| format!("{dir}{MARKER}"));
        let found: Vec<_> = stream::iter(newest)
            .map(async |key| {
                Ok::<_, Error>((find_marker(self.retrier, self.store, &key).await?, key))
            })
            .buffered(MARKERS_AT_A_TIME)
            .try_collect()
            .await?;
        for (bytes, key) in found {
            let Some(bytes) = bytes else { continue };
            let is_own = Marker::parse(&bytes).is_some_and(|marker| {
                marker.job == job && marker.state.as_deref().is_none_or(&is_known)
            });
            if !is_own {
                return Err(recent(&key, &Marker::owner_of(&bytes)));
            }
        }
        Ok(())
    }
}

/// Returns the error of an epoch that another job committed just now.
fn recent(key: &str, owner: &str) -> Error {
    let message = format!("{key} was committed by another job a short while ago: {owner}");
    Error::new(ErrorKind::Configuration, message)
        .hint("give --to a prefix of its own, or --take-over if that job has ended for good")
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::store::Body;
    use crate::store::memory::MemoryStore;

    const FIRST: Epoch = 1_795_345_210_000;

    async fn commit(store: &MemoryStore, layout: &Layout, epoch: Epoch, job: &str, state: &str) {
        let (program, job, state) = ("wordtide".to_owned(), job.to_owned(), Some(state.to_owned()));
        let marker = Marker { program, job, state, epoch, ..Marker::default() };
        store.put(&layout.marker(epoch), Body::from(marker.to_bytes())).await.unwrap();
    }

    fn since<'a>(store: &'a MemoryStore, layout: &'a Layout, from: Epoch) -> NamedEpochs<'a> {
        static RETRIER: LazyLock<StartRetrier> = LazyLock::new(StartRetrier::default);
        let (wall_ms, interval_ms) = (FIRST + 30_000, 10_000);
        NamedEpochs { retrier: &RETRIER, store, layout, from, wall_ms, interval_ms }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn recent_marker_of_another_job_stops_start() {
        let (store, layout) = (MemoryStore::new(), Layout::new("a/counts", Some("txt".into())));
        commit(&store, &layout, FIRST, "theirs", "x").await;
        commit(&store, &layout, FIRST + 10_000, "ours", "y").await;
        store.put(&layout.part(FIRST + 20_000, 0), "('x', 1)\n".into()).await.unwrap();
        let check =
            async |from| since(&store, &layout, from).refuse_foreign("ours", |id| id == "y").await;
        check(FIRST + 10_000).await.unwrap();
        let error = check(FIRST).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        for said in [layout.marker(FIRST).as_str(), "job theirs with state x", "--take-over"] {
            assert!(text.contains(said), "{text}");
        }
        commit(&store, &layout, FIRST + 10_000, "ours", "z").await;
        check(FIRST + 10_000).await.expect_err("a job with the same flags is another one, too");
        store.put(&layout.marker(FIRST + 20_000), Body::from_chunks([])).await.unwrap();
        check(FIRST + 20_000).await.expect_err("Spark's empty marker is another's too");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn long_future_costs_bounded_number_of_requests() {
        let (store, layout) = (MemoryStore::new(), Layout::new("counts", None));
        for epoch in FIRST..FIRST + 100 {
            commit(&store, &layout, epoch, "ours", "y").await;
        }
        let before = store.log().len();
        since(&store, &layout, FIRST).refuse_foreign("ours", |_| true).await.unwrap();
        let asked = store.log().len() - before;
        assert_eq!(asked, 1 + MARKERS_MAX, "one listing and the newest markers");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn names_far_from_now_are_ignored() {
        let (store, layout) = (MemoryStore::new(), Layout::new("counts", None));
        for epoch in [9_300_000_000_000_000_000, 18_446_744_073_709_540_000, 4_102_444_800_000] {
            store.put(&layout.part(epoch, 0), "".into()).await.unwrap();
        }
        assert_eq!(since(&store, &layout, FIRST).newest().await.unwrap(), None);
        store.put(&layout.part(FIRST + 70_000, 0), "".into()).await.unwrap();
        assert_eq!(since(&store, &layout, FIRST).newest().await.unwrap(), Some(FIRST + 70_000));
    }
}
