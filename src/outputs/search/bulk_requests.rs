//! Rows as bulk requests.
//!
//! A server answers each item of a request by itself. Items that it refuses for now are sent again,
//! without the others. An item that exists already, or in a newer version, counts as stored: it is
//! from an earlier attempt whose answer was lost, since no other job writes the documents of this
//! run.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;

use super::documents::{push_count, push_line, push_word};
use super::http_client::{SearchClient, reason};
use super::write_mode::RowMode;
use crate::epoch::Epoch;
use crate::operators::RowKind;
use crate::outputs::objects::RowBatch;
use crate::store::{StoreError, StoreErrorKind, StoreResult};

/// The documents of one bulk request, each with the lines that create it.
#[derive(Debug, Default)]
pub struct BulkItems {
    /// One item a row: the line of the action, then the document.
    items: Vec<Bytes>,
}

impl BulkItems {
    /// Returns the documents of a batch of rows, of which the first is number `row` of `part`.
    pub fn of(
        (epoch, mode): (Epoch, RowMode),
        (part, row): (u32, u64),
        kind: RowKind,
        batch: &RowBatch,
    ) -> Self {
        let mut text = Vec::new();
        let mut ends = Vec::with_capacity(batch.texts.len());
        let rows = batch.texts.iter().zip(&batch.counts).zip(row..);
        for ((bytes, count), row) in rows {
            match kind {
                RowKind::Counts if mode.is_upsert() => push_word(epoch, bytes, *count, &mut text),
                RowKind::Counts => push_count(epoch, bytes, *count, &mut text),
                RowKind::Lines => push_line(epoch, part, row, bytes, &mut text),
            }
            ends.push(text.len());
        }
        let text = Bytes::from(text);
        let mut start = 0;
        let item = |end| text.slice(std::mem::replace(&mut start, end)..end);
        BulkItems { items: ends.into_iter().map(item).collect() }
    }
}

/// Documents that are not stored yet.
#[derive(Debug)]
pub struct PendingItems(Mutex<BulkItems>);

impl PendingItems {
    /// Returns `items`, none of them stored.
    pub fn new(items: BulkItems) -> PendingItems {
        PendingItems(Mutex::new(items))
    }

    /// Sends what is not stored yet in one request. Succeeds if all of it is stored then.
    ///
    /// # Errors
    ///
    /// `Unavailable` if items are to be sent again, `Denied` if the server takes no documents,
    /// `Invalid` for a document that it never takes, and the errors of the request.
    pub async fn send(&self, client: &SearchClient, index: &str) -> StoreResult<()> {
        let items = {
            let pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            pending.items.clone()
        };
        if items.is_empty() {
            return Ok(());
        }
        let body = Bytes::from(items.concat());
        let path = format!("{index}/_bulk?filter_path=items.*.status,items.*.error.reason");
        let content_type = "application/x-ndjson";
        let answer = client.send_bytes(Method::POST, &path, Some(body), content_type).await?;
        let (left, error) = judge(&answer, items)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).items = left;
        error.map_or(Ok(()), Err)
    }
}

/// Returns the items that are not stored, and the gravest error among those of the items.
///
/// # Errors
///
/// `Unavailable` for an answer that does not fit the request.
fn judge(answer: &Value, items: Vec<Bytes>) -> StoreResult<(Vec<Bytes>, Option<StoreError>)> {
    let results = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    if results.len() != items.len() {
        let message = format!("{} items were answered with {}", items.len(), results.len());
        return Err(StoreError::new(StoreErrorKind::Unavailable, message).indeterminate());
    }
    let (mut left, mut worst) = (Vec::new(), None::<StoreError>);
    for (item, result) in items.into_iter().zip(results) {
        let result = result.get("create").or(result.get("index")).unwrap_or(&Value::Null);
        let kind = match result["status"].as_u64().unwrap_or(0) {
            200..=299 | 409 => continue,
            401 | 403 => StoreErrorKind::Denied,
            // The index has been removed, or is being made.
            404 => StoreErrorKind::NotFound,
            408 | 429 | 500.. | 0 => StoreErrorKind::Unavailable,
            _ => StoreErrorKind::Invalid,
        };
        left.push(item);
        let is_worse = worst.as_ref().is_none_or(|worst| {
            kind == StoreErrorKind::Invalid && worst.kind != StoreErrorKind::Invalid
        });
        if is_worse {
            let reason = reason(result.to_string().as_bytes());
            worst = Some(StoreError::new(kind, format!("a document was refused: {reason}")));
        }
    }
    Ok((left, worst))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn statuses(statuses: &[u64]) -> Value {
        let item = |status: &u64| json!({"create": {"status": status, "error": {"reason": "r"}}});
        json!({"errors": true, "items": statuses.iter().map(item).collect::<Vec<_>>()})
    }

    fn items(count: usize) -> Vec<Bytes> {
        (0..count).map(|item| Bytes::from(item.to_string())).collect()
    }

    #[test]
    fn refused_items_remain_with_the_gravest_error() {
        let (left, error) = judge(&statuses(&[201, 429, 409, 503, 200]), items(5)).expect("fits");
        assert_eq!(left, ["1", "3"]);
        assert_eq!(error.map(|error| error.kind), Some(StoreErrorKind::Unavailable));
        let (left, error) = judge(&statuses(&[429, 400, 403]), items(3)).expect("fits");
        assert_eq!(left.len(), 3);
        assert_eq!(error.map(|error| error.kind), Some(StoreErrorKind::Invalid));
        let (left, error) = judge(&statuses(&[201, 409]), items(2)).expect("fits");
        assert!(left.is_empty() && error.is_none());
        judge(&statuses(&[201]), items(2)).expect_err("one item has no answer");
    }
}
