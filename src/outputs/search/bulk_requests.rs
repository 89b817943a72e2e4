//! Rows as bulk requests.
//!
//! A server answers each item of a request by itself. Items that it refuses for now are sent again,
//! without the others. An item that exists already, or in a newer version, counts as stored: it is
//! from an earlier attempt whose answer was lost, since no other job writes the documents of this
//! run.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use reqwest::Method;
use serde::Deserialize;

use super::documents::{push_count, push_line, push_word};
use super::http_client::{SearchClient, shortened};
use super::write_mode::RowMode;
use crate::epoch::Epoch;
use crate::operators::RowKind;
use crate::outputs::objects::RowBatch;
use crate::store::{StoreError, StoreErrorKind, StoreResult};

/// The length of an item beside the text of its row, for the first allocation.
const ITEM_BYTES: usize = 176;

/// The documents of one bulk request, each with the lines that create it.
///
/// They are one text, which is the body of the request: a request that is repeated as a whole, as
/// after an outage, copies nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BulkItems {
    /// One item a row: the line of the action, then the document.
    text: Bytes,
    /// The end of each item in the text.
    ends: Vec<usize>,
}

impl BulkItems {
    /// Returns the documents of a batch of rows, of which the first is number `row` of `part`.
    pub fn of(
        (epoch, mode): (Epoch, RowMode),
        (part, row): (u32, u64),
        kind: RowKind,
        batch: &RowBatch,
    ) -> Self {
        let count = batch.texts.len();
        let mut text = Vec::with_capacity(count * ITEM_BYTES + batch.text_bytes);
        let mut ends = Vec::with_capacity(count);
        let rows = batch.texts.iter().zip(&batch.counts).zip(row..);
        for ((bytes, count), row) in rows {
            match kind {
                RowKind::Counts if mode.is_upsert() => push_word(epoch, bytes, *count, &mut text),
                RowKind::Counts => push_count(epoch, bytes, *count, &mut text),
                RowKind::Lines => push_line(epoch, part, row, bytes, &mut text),
            }
            ends.push(text.len());
        }
        BulkItems { text: text.into(), ends }
    }

    /// Returns the place of each item in the text.
    fn places(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| start..*end)
    }

    /// Returns the items that `is_kept` returns true for, given their numbers.
    fn only(&self, is_kept: impl Fn(usize) -> bool) -> BulkItems {
        let (mut text, mut ends) = (BytesMut::new(), Vec::new());
        for (_, place) in self.places().enumerate().filter(|(number, _)| is_kept(*number)) {
            text.extend_from_slice(&self.text[place]);
            ends.push(text.len());
        }
        BulkItems { text: text.freeze(), ends }
    }
}

/// The part of an answer that is read. A request has thousands of items, so this keeps no tree of
/// values: that would take ten times the memory of the request.
#[derive(Debug, Default, Deserialize)]
struct BulkAnswer {
    /// One result for each item, in their order.
    #[serde(default)]
    items: Vec<ItemAnswer>,
}

/// The result of an item, under the name of its action.
#[derive(Debug, Deserialize)]
enum ItemAnswer {
    /// A document of `--write append`.
    #[serde(rename = "create")]
    Create(ItemResult),
    /// A document of `--write upsert`.
    #[serde(rename = "index")]
    Index(ItemResult),
}

/// The result of an item.
#[derive(Debug, Deserialize)]
struct ItemResult {
    /// The status, as of a request of its own.
    #[serde(default)]
    status: u16,
    /// The error, if there was one.
    #[serde(default)]
    error: ItemError,
}

/// The error of an item.
#[derive(Debug, Default, Deserialize)]
struct ItemError {
    /// A sentence.
    #[serde(default)]
    reason: Option<String>,
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
        let items = self.left();
        if items.ends.is_empty() {
            return Ok(());
        }
        let path = format!("{index}/_bulk?filter_path=items.*.status,items.*.error.reason");
        let content_type = "application/x-ndjson";
        let body = Some(items.text.clone());
        let answer = client.send_bytes(Method::POST, &path, body, content_type).await?;
        let (left, error) = judge(answer, &items)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = left;
        error.map_or(Ok(()), Err)
    }

    /// Returns what is not stored yet. It shares the text.
    fn left(&self) -> BulkItems {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Returns the items that are not stored, and the gravest error among those of the items.
///
/// # Errors
///
/// `Unavailable` for an answer that does not fit the request.
fn judge(answer: BulkAnswer, items: &BulkItems) -> StoreResult<(BulkItems, Option<StoreError>)> {
    let (results, sent) = (answer.items, items.ends.len());
    if results.len() != sent {
        let message = format!("{sent} items were answered with {}", results.len());
        return Err(StoreError::new(StoreErrorKind::Unavailable, message).indeterminate());
    }
    let (mut is_left, mut worst) = (vec![false; sent], None::<StoreError>);
    for (is_left, result) in is_left.iter_mut().zip(results) {
        let (ItemAnswer::Create(result) | ItemAnswer::Index(result)) = result;
        let kind = match result.status {
            200..=299 | 409 => continue,
            401 | 403 => StoreErrorKind::Denied,
            // The index has been removed, or is being made.
            404 => StoreErrorKind::NotFound,
            408 | 429 | 500.. | 0 => StoreErrorKind::Unavailable,
            _ => StoreErrorKind::Invalid,
        };
        *is_left = true;
        let is_worse = worst.as_ref().is_none_or(|worst| {
            kind == StoreErrorKind::Invalid && worst.kind != StoreErrorKind::Invalid
        });
        if is_worse {
            let status = result.status;
            let reason = result.error.reason.unwrap_or_else(|| format!("status {status}"));
            let message = format!("a document was refused: {}", shortened(&reason));
            worst = Some(StoreError::new(kind, message));
        }
    }
    let left = if worst.is_none() { BulkItems::default() } else { items.only(|n| is_left[n]) };
    Ok((left, worst))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn statuses(statuses: &[u64]) -> BulkAnswer {
        let item = |status: &u64| json!({"create": {"status": status, "error": {"reason": "r"}}});
        answer(json!({"errors": true, "items": statuses.iter().map(item).collect::<Vec<_>>()}))
    }

    fn answer(answer: Value) -> BulkAnswer {
        serde_json::from_value(answer).expect("an answer")
    }

    fn items(numbers: &[usize]) -> BulkItems {
        let mut items = (String::new(), Vec::new());
        for number in numbers {
            items.0 += &"x".repeat(*number);
            items.1.push(items.0.len());
        }
        BulkItems { text: items.0.into(), ends: items.1 }
    }

    #[test]
    fn refused_items_remain_with_the_gravest_error() {
        let five = items(&[1, 2, 3, 4, 5]);
        let (left, error) = judge(statuses(&[201, 429, 409, 503, 200]), &five).expect("fits");
        assert_eq!(left, items(&[2, 4]));
        assert_eq!(error.map(|error| error.kind), Some(StoreErrorKind::Unavailable));
        let three = items(&[3, 0, 1]);
        let (left, error) = judge(statuses(&[429, 400, 403]), &three).expect("fits");
        assert_eq!(left, three);
        assert_eq!(error.map(|error| error.kind), Some(StoreErrorKind::Invalid));
        let (left, error) = judge(statuses(&[201, 409]), &items(&[1, 1])).expect("fits");
        assert!(left == BulkItems::default() && error.is_none());
        judge(statuses(&[201]), &items(&[1, 1])).expect_err("one item has no answer");
    }

    #[test]
    fn answers_are_read_by_what_is_needed() {
        let one = items(&[1]);
        let other = json!({"took": 3, "items": [{"index": {"_id": "a", "status": 429}}]});
        let (left, error) = judge(answer(other), &one).expect("fits");
        assert_eq!(left, one);
        assert_eq!(error.expect("an error").message, "a document was refused: status 429");
        let without = judge(answer(json!({})), &one).expect_err("no item");
        assert!(without.kind == StoreErrorKind::Unavailable, "{without}");
    }

    #[test]
    fn repeated_request_copies_no_document() {
        let pending = PendingItems::new(items(&[5, 5]));
        assert_eq!(pending.left().text.as_ptr(), pending.left().text.as_ptr());
    }
}
