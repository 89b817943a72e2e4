//! Claims as documents: the few operations of a store that claims need.
//!
//! Documents are read by their id, which always gives the newest one. A search sees what was there
//! at the last refresh, so a listing refreshes first.

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, ready};
use reqwest::Method;
use serde_json::{Value, json};

use super::http_client::SearchClient;
use crate::store::{
    Body, Listing, ObjectEntry, Page, Store, StoreError, StoreErrorKind, StoreResult, Stored,
};

/// Claims of one output, in an index of their own.
#[derive(Clone, Debug)]
pub struct ClaimDocuments {
    /// The client of the server.
    pub client: SearchClient,
    /// The index.
    pub index: String,
}

impl ClaimDocuments {
    /// Returns the path of a document, or of `operation` on it.
    fn path(&self, operation: &str, key: &str) -> String {
        // Keys are of letters, digits, `-`, `_` and `/`, and begin with `_`.
        let id = key.trim_start_matches('_').replace('/', "-");
        format!("{}/{operation}/{id}", self.index)
    }

    /// Stores a document by `operation`.
    async fn write(&self, operation: &str, key: &str, body: &Body) -> StoreResult<Stored> {
        let bytes = text_of(body)?;
        let document = json!({"key": key, "text": bytes});
        self.client.send(Method::PUT, &self.path(operation, key), Some(document)).await?;
        Ok(stored(body))
    }

    /// Returns the text of a document.
    async fn read(&self, key: &str) -> StoreResult<Bytes> {
        let answer = self.client.send(Method::GET, &self.path("_doc", key), None).await?;
        match answer["_source"]["text"].as_str() {
            Some(text) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            None => Err(StoreError::new(StoreErrorKind::NotFound, format!("{key} is not there"))),
        }
    }
}

/// Returns the bytes of a claim, which are JSON.
fn text_of(body: &Body) -> StoreResult<String> {
    let unreadable = |error: &dyn std::fmt::Display| {
        StoreError::new(StoreErrorKind::Invalid, format!("a claim cannot be written: {error}"))
    };
    let bytes = body.load().map_err(|error| unreadable(&error))?.concat();
    String::from_utf8(bytes).map_err(|error| unreadable(&error))
}

/// Returns what a store states of a stored object. A server of documents has no entity tag.
fn stored(body: &Body) -> Stored {
    Stored { bytes: body.bytes(), md5: body.md5_hex(), etag: None }
}

impl Store for ClaimDocuments {
    /// Writes a document, also over one that is there.
    fn put<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, StoreResult<Stored>> {
        async move { self.write("_doc", key, &body).await }.boxed()
    }

    /// Creates a document.
    ///
    /// Fails with `Exists` if there is one with other content.
    fn put_new<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, StoreResult<Stored>> {
        async move {
            match self.write("_create", key, &body).await {
                Err(error) if error.kind == StoreErrorKind::Exists => {
                    // It may be from an attempt whose answer was lost.
                    let is_own = self.read(key).await? == text_of(&body)?;
                    if is_own { Ok(stored(&body)) } else { Err(error) }
                }
                written => written,
            }
        }
        .boxed()
    }

    /// Reads a document by its id.
    ///
    /// Fails with `NotFound` if there is none, and with `Invalid` for a longer one.
    fn get<'a>(&'a self, key: &'a str, bytes_max: u64) -> BoxFuture<'a, StoreResult<Bytes>> {
        async move {
            let bytes = self.read(key).await?;
            if bytes.len() as u64 > bytes_max {
                let place = self.describe();
                let message =
                    format!("{key} in {place} is longer than the {bytes_max} bytes asked for");
                return Err(StoreError::new(StoreErrorKind::Invalid, message));
            }
            Ok(bytes)
        }
        .boxed()
    }

    /// Lists the documents whose ids begin with a prefix.
    fn list<'a>(&'a self, ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<ObjectEntry>>> {
        async move {
            let (client, index) = (&self.client, &self.index);
            let mut search = json!({
                "size": ask.limit,
                "query": {"prefix": {"key": ask.prefix}},
                "sort": [{"key": "asc"}],
            });
            if let Some(after) = ask.after {
                search["search_after"] = json!([after]);
            }
            let found = match client.refresh(index).await {
                Ok(()) => {
                    client.send(Method::POST, &format!("{index}/_search"), Some(search)).await
                }
                Err(error) => Err(error),
            };
            let found = match found {
                // There is no claim yet.
                Err(error) if error.kind == StoreErrorKind::NotFound => Value::Null,
                found => found?,
            };
            let hits = found["hits"]["hits"].as_array().map(Vec::as_slice).unwrap_or_default();
            let key = |hit: &Value| hit["_source"]["key"].as_str().map(str::to_owned);
            let items: Vec<ObjectEntry> = hits
                .iter()
                .filter_map(key)
                .map(|key| ObjectEntry { key, bytes: 0, modified: None, etag: None })
                .collect();
            let is_full = items.len() >= ask.limit;
            let next = items.last().filter(|_| is_full).map(|last| last.key.clone());
            Ok(Page { items, next })
        }
        .boxed()
    }

    /// Returns nothing: claims have no folders.
    fn list_dirs<'a>(&'a self, _ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<String>>> {
        ready(Ok(Page { items: Vec::new(), next: None })).boxed()
    }

    /// Deletes a document. One that is missing is no error.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        async move {
            match self.client.send(Method::DELETE, &self.path("_doc", key), None).await {
                Err(error) if error.kind != StoreErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        }
        .boxed()
    }

    /// Does nothing: claims have no folders.
    fn clear<'a>(&'a self, _dir: &'a str) -> BoxFuture<'a, StoreResult<u64>> {
        ready(Ok(0)).boxed()
    }

    /// Does nothing: a document is durable when the server answers.
    fn seal<'a>(&'a self, _dir: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        ready(Ok(())).boxed()
    }

    /// Returns server and index.
    fn describe(&self) -> String {
        format!("{}/{}", self.client.base(), self.index)
    }
}
