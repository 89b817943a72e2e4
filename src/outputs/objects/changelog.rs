//! The changelog as objects in `_wordtide/`, beside the results.

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};

use super::put_objects::Publisher;
use crate::epoch::Epoch;
use crate::error::Result;
use crate::outputs::changelog::{ChangelogStore, StoredChange};
use crate::store::{Body, Listing, StoreResult};

/// Stores a changelog as objects. Readers of results ignore them.
#[derive(Clone, Debug)]
pub struct ObjectChangelog {
    /// Stores objects beside the results, or in the state folder.
    publisher: Publisher,
    /// The directory of all changelogs, with its slash.
    dir: String,
}

impl ObjectChangelog {
    /// Returns the place of changelogs beside the objects of `publisher`.
    pub fn new(publisher: Publisher) -> ObjectChangelog {
        let dir = format!("{}/", publisher.form.layout.own_dir());
        ObjectChangelog { publisher, dir }
    }

    /// Returns the key of the object, or the directory, with this name.
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.dir)
    }

    /// Stores an object and makes its name durable.
    async fn put(&self, name: String, bytes: Vec<u8>) -> Result<()> {
        let key = self.key(&name);
        self.publisher.put(&key, Body::from(bytes)).await?;
        let dir = key.rsplit_once('/').map_or("", |(dir, _)| dir);
        self.publisher.seal(dir).await
    }
}

impl ChangelogStore for ObjectChangelog {
    /// Lists the objects in a directory, page by page.
    fn list<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<Vec<StoredChange>>> {
        async move {
            let prefix = format!("{}/", self.key(dir));
            let (mut found, mut after) = (Vec::new(), None::<String>);
            loop {
                let ask = Listing::new(&prefix).after(after.as_deref());
                let page = self.publisher.store().list(ask).await?;
                found.extend(page.items.into_iter().filter_map(|entry| {
                    let name = entry.key.strip_prefix(&self.dir)?.to_owned();
                    Some(StoredChange { name, bytes: entry.bytes })
                }));
                after = page.next;
                if after.is_none() {
                    return Ok(found);
                }
            }
        }
        .boxed()
    }

    /// Reads an object of the length that its listing gave.
    fn read<'a>(&'a self, stored: &'a StoredChange) -> BoxFuture<'a, StoreResult<Bytes>> {
        async move { self.publisher.store().get(&self.key(&stored.name), stored.bytes).await }
            .boxed()
    }

    /// Stores the change of a part in an epoch, which is durable when this returns.
    fn write_change(
        &self,
        _epoch: Epoch,
        name: String,
        bytes: Vec<u8>,
    ) -> BoxFuture<'_, Result<()>> {
        self.put(name, bytes).boxed()
    }

    /// Stores a merge of changes.
    fn write_base(&self, name: String, bytes: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        self.put(name, bytes).boxed()
    }

    /// Removes an object that a merge holds. One that is missing is no error.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        async move { self.publisher.store().delete(&self.key(name)).await }.boxed()
    }

    /// Removes all objects in a directory.
    fn clear<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        async move { self.publisher.store().clear(&self.key(dir)).await.map(drop) }.boxed()
    }

    /// Removes the temporaries that a crash left in a directory.
    fn sweep<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        async move { self.publisher.store().sweep(&self.key(dir)).await }.boxed()
    }

    /// Returns the key, for messages.
    fn place(&self, name: &str) -> String {
        self.key(name)
    }
}
