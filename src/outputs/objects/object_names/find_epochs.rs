//! Finds the folders of epochs below a prefix, from an epoch on.
//!
//! A prefix may hold years of epochs. Names are listed from the first one that can matter, level by
//! level, and a level of many folders is listed one group after the other, so that a caller can
//! stop: in Hive's layout a group is a date.

use futures::stream::{self, StreamExt, TryStreamExt};

use super::Layout;
use super::hive::{DATE, EPOCH, HOUR, is_date, is_hour};
use crate::epoch::Epoch;
use crate::store::{Listing, Store, StoreResult};

/// So many folders are listed at a time.
const LISTINGS_AT_A_TIME: usize = 8;

/// A search for the folders of epochs from `from` on.
#[derive(Clone, Copy, Debug)]
pub struct EpochSearch<'a> {
    /// The store that holds the folders.
    pub store: &'a dyn Store,
    /// The names of the folders.
    pub layout: &'a Layout,
    /// Older epochs are not looked for.
    pub from: Epoch,
}

/// Folders that are listed together.
#[derive(Clone, Debug)]
pub struct SearchGroup(Option<String>);

impl EpochSearch<'_> {
    /// Returns the groups, ascending by the time of their epochs.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn groups(&self) -> StoreResult<Vec<SearchGroup>> {
        let Some((hive, base)) = self.layout.as_hive() else { return Ok(vec![SearchGroup(None)]) };
        let (date, _) = hive.first(self.from);
        let prefix = format!("{base}{DATE}");
        let mut dates = self.list(&prefix, &format!("{prefix}{date}")).await?;
        dates.retain(|dir| is_date(name(dir)));
        Ok(dates.into_iter().map(|dir| SearchGroup(Some(dir))).collect())
    }

    /// Returns the epochs of a group with the names of their folders, ascending.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn epochs(&self, group: &SearchGroup) -> StoreResult<Vec<(Epoch, String)>> {
        let found = match (self.layout.as_hive(), group) {
            (Some((hive, base)), SearchGroup(Some(dir))) => {
                let (date, hour) = hive.first(self.from);
                let first = format!("{base}{DATE}{date}/{HOUR}{hour}");
                let mut hours = self.list(&format!("{dir}{HOUR}"), &first).await?;
                hours.retain(|dir| is_hour(name(dir)));
                self.list_each(hours).await?
            }
            _ => {
                let after = self.layout.dir(self.from.saturating_sub(1));
                self.list(&self.layout.dir_prefix(), &after).await?
            }
        };
        let epoch = |dir: String| self.layout.epoch_of(&dir).map(|epoch| (epoch, dir));
        let mut epochs: Vec<_> = found.into_iter().filter_map(epoch).collect();
        epochs.retain(|(epoch, _)| *epoch >= self.from);
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// Lists the epochs in each of these hours.
    async fn list_each(&self, hours: Vec<String>) -> StoreResult<Vec<String>> {
        let before = self.from.saturating_sub(1);
        let listed: Vec<Vec<String>> = stream::iter(hours)
            .map(async |dir| {
                let prefix = format!("{dir}{EPOCH}");
                self.list(&prefix, &format!("{prefix}{before}")).await
            })
            .buffered(LISTINGS_AT_A_TIME)
            .try_collect()
            .await?;
        Ok(listed.concat())
    }

    /// Lists all folders that begin with `prefix` and come after `after`.
    async fn list(&self, prefix: &str, after: &str) -> StoreResult<Vec<String>> {
        let mut after = Some(after.to_owned());
        let mut dirs = Vec::new();
        while let Some(name) = after {
            let page = self.store.list_dirs(Listing::new(prefix).after(Some(&name))).await?;
            dirs.extend(page.items);
            after = page.next;
        }
        Ok(dirs)
    }
}

/// Returns the last name of a listed folder, which ends in a slash.
fn name(dir: &str) -> &str {
    let dir = dir.trim_end_matches('/');
    dir.rsplit_once('/').map_or(dir, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::super::time_zone::time_zone;
    use super::*;
    use crate::store::memory::MemoryStore;

    const HOUR_MS: u64 = 3_600_000;
    /// 2026-11-29T10:00:00Z.
    const NOW: Epoch = 1_795_946_400_000;

    fn layout(zone: &str) -> Layout {
        Layout::hive("a/counts", time_zone(zone).expect(zone), 10_000)
    }

    async fn put(store: &MemoryStore, key: &str) {
        store.put(key, "x".into()).await.expect("memory");
    }

    async fn found(store: &MemoryStore, layout: &Layout, from: Epoch) -> Vec<Epoch> {
        let search = EpochSearch { store, layout, from };
        let mut found = Vec::new();
        for group in search.groups().await.expect("dates") {
            found.extend(search.epochs(&group).await.expect("epochs").into_iter().map(|(e, _)| e));
        }
        found
    }

    #[tokio::test(flavor = "current_thread")]
    async fn epochs_of_every_zone_are_found() {
        for zone in ["UTC", "Asia/Shanghai", "Pacific/Kiritimati", "Etc/GMT+12"] {
            let (store, theirs) = (MemoryStore::new(), layout(zone));
            for hour in 0..100 {
                put(&store, &theirs.part(NOW + hour * HOUR_MS, 0)).await;
            }
            for foreign in ["date=2026-11-30/hour=xx/epoch=1", "date=now/hour=00/epoch=1", "x/y"] {
                put(&store, &format!("a/counts/{foreign}/part-00000")).await;
            }
            let expected: Vec<Epoch> = (40..100).map(|hour| NOW + hour * HOUR_MS).collect();
            let from = NOW + 40 * HOUR_MS;
            assert_eq!(found(&store, &layout("Europe/Berlin"), from).await, expected, "{zone}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn years_of_history_are_not_listed() {
        let (store, layout) = (MemoryStore::new(), layout("Europe/Berlin"));
        for hour in 0..365 * 24 {
            put(&store, &layout.part(NOW - hour * HOUR_MS, 0)).await;
        }
        let before = store.log().len();
        assert_eq!(found(&store, &layout, NOW - 2 * HOUR_MS).await.len(), 3);
        let asked = store.log().len() - before;
        assert!(asked <= 30, "{asked} requests");
    }
}
