//! An index of OpenSearch or Elasticsearch as the output of a job.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, ready};
use reqwest::Method;
use serde_json::{Value, json};

use super::claim_documents::ClaimDocuments;
use super::documents::{
    IndexNames, claims_index, index_of, marker_fields, other_type, row_fields, word_id,
};
use super::epoch_writer::SearchWriter;
use super::http_client::SearchClient;
use super::write_mode::RowMode;
use crate::epoch::{AHEAD_MAX_MS, Epoch};
use crate::error::{Error, ErrorKind, Result};
use crate::outputs::commit_evidence::CommitEvidence;
use crate::outputs::foreign_epoch::foreign_epoch;
use crate::outputs::objects::{
    Claim, ClaimAttempt, ClaimKeys, Layout, ObjectChangelog, ObjectForm, Ownership, Publisher,
};
use crate::outputs::output::{Claiming, OpenWriter, Output, OutputStart, WriterSettings};
use crate::outputs::owner::{Owner, Standing};
use crate::outputs::retry_start::StartRetrier;
use crate::outputs::sql::{SqlSettings, WriteMode};
use crate::store::local::LocalStore;
use crate::store::{Environment, SearchTarget, StoreErrorKind, StoreResult, StoreSettings};

/// Most states whose epochs are separated in an index.
const STATES_MAX: usize = 10_000;

/// Most epochs that one request deletes. A query may name 65,536 values.
const CLEARED_AT_A_TIME: usize = 4_096;

/// An index, opened for a run.
#[derive(Debug)]
pub struct SearchOutput {
    /// The server and the index, as `--to` names them.
    target: SearchTarget,
    /// The names of the indexes that belong to it.
    names: IndexNames,
    /// The client of the server.
    client: SearchClient,
    /// The claims, which are documents too.
    claims: Arc<ClaimDocuments>,
    /// The names in the changelog, which is in the state folder.
    form: ObjectForm,
    /// How rows come into the index.
    mode: RowMode,
    /// Retries the requests of the start.
    retrier: StartRetrier,
}

impl SearchOutput {
    /// Opens the index of `target`. Asks no server yet.
    ///
    /// # Errors
    ///
    /// `Configuration` if a certificate or the credentials cannot be used.
    pub fn open(
        target: &SearchTarget,
        settings: &StoreSettings,
        form: ObjectForm,
        rows: &SqlSettings,
        retrier: StartRetrier,
    ) -> Result<Self> {
        let client = SearchClient::new(target, settings, &Environment::of_process())?;
        let names = IndexNames::of(&target.index);
        let claims = ClaimDocuments { client: client.clone(), index: names.claims.clone() };
        let (target, claims, mode) = (target.clone(), Arc::new(claims), RowMode::of(rows));
        Ok(SearchOutput { target, names, client, claims, form, mode, retrier })
    }

    /// Returns the names of claims on the index.
    fn claim_keys(&self) -> ClaimKeys {
        ClaimKeys::of(&Layout::new(self.names.rows.clone(), None))
    }

    /// Returns an attempt of a start to claim the index.
    fn attempt<'a>(&'a self, start: &OutputStart<'a>) -> ClaimAttempt<'a> {
        let (retrier, keys) = (&self.retrier, self.claim_keys());
        let (store, ids) = (&*self.claims, start.ids);
        ClaimAttempt { retrier, store, keys, ids, take_over: start.take_over }
    }

    /// Returns the fields of an index, or those of each index of an alias; `None` if there is no
    /// such index.
    async fn fields(&self, index: &str) -> StoreResult<Option<Vec<Value>>> {
        match self.client.send(Method::GET, &format!("{index}/_mapping"), None).await {
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
            // Several, by the names of indexes, if the name is that of an alias.
            found => Ok(found?.as_object().map(|indexes| {
                indexes.values().map(|index| index["mappings"]["properties"].clone()).collect()
            })),
        }
    }

    /// Checks the fields of an index. Returns true if the index is there.
    ///
    /// Fails with `Configuration` if a field of a name that rows use has another type.
    async fn check_index(&self, index: &str, wanted: &Value) -> Result<bool> {
        let found = self.retrier.run(|| self.fields(index)).await?;
        for fields in found.iter().flatten() {
            if let Some(field) = other_type(fields, wanted) {
                let (there, here) = (&fields[field]["type"], &wanted[field]["type"]);
                let message = format!(
                    "the index {index} has the field {field:?} of type {there}, and not {here}"
                );
                return Err(Error::new(ErrorKind::Configuration, message)
                    .hint("nothing was changed; give --to an index of its own"));
            }
        }
        Ok(found.is_some())
    }

    /// Looks at one document of the index of rows, whose id shows how it was written: that of an
    /// upsert is made of the word alone.
    ///
    /// Fails with `Configuration` if it was written by another `--write`.
    async fn check_mode(&self) -> Result<()> {
        let index = &self.names.rows;
        let find = || async {
            self.client.refresh(index).await?;
            let any = json!({"size": 1, "query": {"exists": {"field": "epoch"}}});
            let path = format!("{index}/_search?allow_partial_search_results=false");
            self.client.send(Method::POST, &path, Some(any)).await
        };
        let find = || async {
            match find().await {
                Err(error) if error.kind == StoreErrorKind::NotFound => Ok(Value::Null),
                found => found,
            }
        };
        let hit = &self.retrier.run(find).await?["hits"]["hits"][0];
        let Some(id) = hit["_id"].as_str() else { return Ok(()) };
        // Rows that are lines are only ever appended.
        let word = hit["_source"]["word"].as_str();
        let is_upsert = word.is_some_and(|word| id == word_id(word.as_bytes()));
        if is_upsert == self.mode.is_upsert() {
            return Ok(());
        }
        let flag = self.mode.flag();
        let other = if is_upsert { WriteMode::Upsert } else { WriteMode::Append };
        let message = format!("the index {index} was filled by --write {other}, not {flag}");
        Err(Error::new(ErrorKind::Configuration, message).hint(format!(
            "nothing was changed; give --write {other}, or --to an index of its own"
        )))
    }

    /// Refuses an index with epochs of another job to a run that replaces documents: it would
    /// delete theirs. The markers of all epochs are grouped by the state that wrote them.
    ///
    /// Fails with `Configuration`, naming the state.
    async fn refuse_foreign(
        &self,
        start: &OutputStart<'_>,
        former: Option<&Standing>,
    ) -> Result<()> {
        if !self.mode.is_upsert() || start.take_over {
            return Ok(());
        }
        let epochs = &self.names.epochs;
        let states = json!({
            "size": 0,
            "aggs": {"states": {"terms": {"field": "state", "size": STATES_MAX}}},
        });
        let find = || async {
            let path = format!("{epochs}/_search?allow_partial_search_results=false");
            match self.client.refresh(epochs).await {
                Ok(()) => self.client.send(Method::POST, &path, Some(states.clone())).await,
                Err(error) if error.kind == StoreErrorKind::NotFound => Ok(Value::Null),
                Err(error) => Err(error),
            }
        };
        let found = self.retrier.run(find).await?;
        // The jobs that this one took the index from.
        let own = former.map(|former| &former.owner);
        let own = own.filter(|owner| start.ids.contains(&owner.state));
        let is_own = |state: &str| {
            start.ids.contains(state) || own.is_some_and(|owner| owner.has_been(state))
        };
        let states = found["aggregations"]["states"]["buckets"].as_array().into_iter().flatten();
        let foreign = states.filter_map(|bucket| bucket["key"].as_str()).find(|key| !is_own(key));
        let Some(state) = foreign else { return Ok(()) };
        let message = format!(
            "the index {} is another job's: it holds epochs of state {state}",
            self.names.rows
        );
        Err(Error::new(ErrorKind::Configuration, message).hint(
            "nothing was changed; give --to an index of its own, or --take-over to end that job \
             and go on in its index",
        ))
    }

    /// Makes an index if it is missing. One that another start makes meanwhile will do.
    async fn make_index(&self, index: &str, request: Value) -> Result<()> {
        if self.retrier.run(|| self.fields(index)).await?.is_some() {
            return Ok(());
        }
        self.retrier
            .run(|| async {
                match self.client.send(Method::PUT, index, Some(request.clone())).await {
                    // Another start was quicker, or the answer was lost.
                    Err(error) if error.kind == StoreErrorKind::Invalid => {
                        self.fields(index).await?.map(drop).ok_or(error)
                    }
                    made => made.map(drop),
                }
            })
            .await
    }

    /// Returns the greatest epoch in an index from `from` on, up to `until`; `None` without index
    /// or documents. The index is refreshed first, or the newest documents could be missed.
    async fn greatest(&self, index: &str, from: Epoch, until: Epoch) -> StoreResult<Option<Epoch>> {
        let search = json!({
            "size": 0,
            "query": {"range": {"epoch": {"gte": from, "lte": until}}},
            "aggs": {"newest": {"max": {"field": "epoch"}}},
        });
        let found = match self.client.refresh(index).await {
            Ok(()) => {
                // An answer without a shard could miss the newest epoch.
                let path = format!("{index}/_search?allow_partial_search_results=false");
                self.client.send(Method::POST, &path, Some(search)).await
            }
            Err(error) => Err(error),
        };
        match found {
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
            found => Ok(found?["aggregations"]["newest"]["value"].as_f64().map(|max| max as u64)),
        }
    }
}

impl Output for SearchOutput {
    /// Asks the server for its version, and compares the fields of the indexes that are there.
    ///
    /// Fails with `Configuration` if an index has other fields or was filled by another `--write`,
    /// or the rights do not suffice, and with `Temporary` if the server is out of reach for a
    /// while.
    fn probe(&self, _warns: bool) -> BoxFuture<'_, Result<()>> {
        async move {
            self.retrier.run(|| self.client.send(Method::GET, "", None)).await?;
            self.check_index(&self.names.rows, &row_fields()).await?;
            self.check_mode().await?;
            self.check_index(&self.names.epochs, &marker_fields()).await.map(drop)
        }
        .boxed()
    }

    /// Reads the newest claim, and watches that of another run for renewals.
    fn standing<'a>(
        &'a self,
        start: &'a OutputStart<'a>,
    ) -> BoxFuture<'a, Result<Option<Standing>>> {
        async move { self.attempt(start).stand().await }.boxed()
    }

    /// Creates the next claim, then the indexes that are missing.
    ///
    /// Returns `Lost` if another start was faster.
    fn claim<'a>(
        &'a self,
        start: &'a OutputStart<'a>,
        former: Option<&'a Standing>,
        _recent: Epoch,
    ) -> BoxFuture<'a, Result<Claiming>> {
        async move {
            self.refuse_foreign(start, former).await?;
            self.make_index(&self.names.claims, claims_index()).await?;
            let owner = Owner::new(start.publication, &start.run, start.interval_ms);
            let Some(claim) = self.attempt(start).take(former, owner).await? else {
                return Ok(Claiming::Lost);
            };
            self.make_index(&self.names.rows, index_of(&row_fields())).await?;
            self.make_index(&self.names.epochs, index_of(&marker_fields())).await?;
            Ok(Claiming::Taken(Box::new(claim)))
        }
        .boxed()
    }

    /// Looks the marker document of an epoch up.
    ///
    /// Fails with `Configuration` for the marker of another job.
    fn is_committed<'a>(
        &'a self,
        start: &'a OutputStart<'a>,
        evidence: &'a CommitEvidence,
        epoch: Epoch,
    ) -> BoxFuture<'a, Result<bool>> {
        async move {
            let path = format!("{}/_doc/{epoch}", self.names.epochs);
            let found = self.retrier.run(|| async {
                match self.client.send(Method::GET, &path, None).await {
                    Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
                    found => found.map(Some),
                }
            });
            let Some(found) = found.await? else {
                return Ok(evidence.settled.is_some_and(|settled| epoch <= settled));
            };
            let marker = &found["_source"];
            let is_own = marker["job"] == start.publication.job.as_str()
                && marker["state"].as_str().is_some_and(|state| evidence.ids.contains(state));
            if is_own {
                return Ok(true);
            }
            let text = |field: &str| marker[field].as_str().unwrap_or("?").to_owned();
            let owner = format!("job {} with state {}", text("job"), text("state"));
            Err(foreign_epoch(&path, &owner, evidence))
        }
        .boxed()
    }

    /// Deletes the rows of epochs without marker, which bear their numbers. A request names many
    /// epochs: each refreshes the index, which takes longer than the deletion.
    fn clear<'a>(&'a self, epochs: &'a [Epoch]) -> BoxFuture<'a, Result<()>> {
        if self.mode.is_upsert() {
            // The epoch, or a later one, writes over what is there.
            return ready(Ok(())).boxed();
        }
        async move {
            let (client, index) = (&self.client, &self.names.rows);
            for some in epochs.chunks(CLEARED_AT_A_TIME) {
                let query = json!({"terms": {"epoch": some}});
                let delete = || async {
                    // An attempt that crashed may have written since the last refresh.
                    let deleted = match client.refresh(index).await {
                        Ok(()) => client.delete_where(index, &query).await,
                        Err(error) => Err(error),
                    };
                    match deleted {
                        // There is nothing to delete.
                        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(()),
                        deleted => deleted,
                    }
                };
                self.retrier.run(delete).await?;
            }
            Ok(())
        }
        .boxed()
    }

    /// Returns the greatest epoch of rows and markers from `from` on that is not far in the future.
    fn newest<'a>(
        &'a self,
        start: &'a OutputStart<'a>,
        from: Epoch,
    ) -> BoxFuture<'a, Result<Option<Epoch>>> {
        async move {
            let until = start.wall_ms.saturating_add(AHEAD_MAX_MS);
            let rows = self.retrier.run(|| self.greatest(&self.names.rows, from, until)).await?;
            let epochs =
                self.retrier.run(|| self.greatest(&self.names.epochs, from, until)).await?;
            Ok(rows.max(epochs))
        }
        .boxed()
    }

    /// Returns the writer of a run. The changelog goes into the state folder.
    fn writer(&self, run: WriterSettings) -> Result<OpenWriter> {
        let ownership = match run.claim.clone() {
            Some(standing) => {
                let (store, keys) = (Arc::clone(&self.claims) as _, self.claim_keys());
                Ownership::Claimed(Claim::new(store, keys, standing, run.is_first))
            }
            None => Ownership::Unshared,
        };
        // A changelog is not searched, and its objects may be too large for a document.
        let changelog = match &run.state {
            Some(state) => {
                let (form, publication) = (self.form.clone(), run.publication.clone());
                let store = Arc::new(LocalStore::open(state)?);
                let publisher = Publisher::new(form, publication, store, run.runtime.clone());
                let publisher = publisher.bounded_by(run.results.clone());
                Some(ObjectChangelog::new(publisher.metered(run.meters.clone())))
            }
            None => None,
        };
        let (client, names) = (self.client.clone(), self.names.clone());
        Ok(OpenWriter {
            writer: Arc::new(SearchWriter::new(client, names, ownership, self.mode, run)),
            changelog: changelog.map(|changelog| Arc::new(changelog) as _),
        })
    }

    /// Asks for version and fields, and writes nothing: the facts for `wordtide check`.
    ///
    /// Fails as [`Output::probe`] does.
    fn check(&self) -> BoxFuture<'_, Result<Vec<(&'static str, String)>>> {
        async move {
            let server = self.retrier.run(|| self.client.send(Method::GET, "", None)).await?;
            let version = &server["version"];
            let product = version["distribution"].as_str().unwrap_or("elasticsearch");
            let number = version["number"].as_str().unwrap_or("of an unknown version");
            let exists = self.check_index(&self.names.rows, &row_fields()).await?;
            self.check_mode().await?;
            self.check_index(&self.names.epochs, &marker_fields()).await?;
            let result =
                if exists { "is there, with the fields of rows" } else { "is made by a run" };
            Ok(vec![
                ("output", self.target.to_string()),
                ("server", format!("{product} {number}")),
                ("index", format!("{} {result}", self.names.rows)),
                ("result", "the server was asked, and nothing was written".to_owned()),
            ])
        }
        .boxed()
    }
}
