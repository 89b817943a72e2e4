//! Tests of the publisher.

use std::pin::pin;
use std::time::Duration;

use futures::future::join;

use super::super::format::Format;
use super::super::object_names::Layout;
use super::super::part_encoding::Encoding;
use super::*;
use crate::error::ErrorKind;
use crate::file_lock::LockPatience;
use crate::settings::{EmptyEpochs, RowOrder};
use crate::store::ResultsLimits;
use crate::store::local::LocalStore;
use crate::store::stdout::StdoutStore;

/// Returns the publisher of a job without state to `store`.
pub fn publisher(store: impl Store) -> Publisher {
    let encoding = Encoding::new(Format::Tsv, None);
    let form = ObjectForm { layout: Layout::new("c", None), encoding };
    let publication = Publication {
        order: RowOrder::Hash,
        empty_epochs: EmptyEpochs::Write,
        job: "test".to_owned(),
        state: "test".to_owned(),
        started: 0,
    };
    Publisher::new(form, publication, Arc::new(store), Handle::current())
}

#[tokio::test]
async fn store_without_syncs_waits_for_no_round() {
    let publisher = publisher(StdoutStore::new("_SUCCESS"));
    let rounds = SyncRounds::none();
    let part = publisher.create_part(10, "c-10/part-00000", "a".into(), (&rounds, None));
    tokio::time::timeout(Duration::from_secs(10), part).await.expect("no wait").unwrap();
}

#[tokio::test]
async fn begun_part_waits_for_round_and_checks_owner() {
    let root = tempfile::tempdir().unwrap();
    let (part, rounds) = (root.path().join("c-10/part-00000"), SyncRounds::none());
    let locked = LocalStore::open(root.path()).unwrap();
    let lock = locked.lock_prefix("c", "", &LockPatience::default()).unwrap();
    let (path, locked) = (lock.path().to_owned(), Ownership::Locked(Arc::new(lock)));
    let publisher = publisher(LocalStore::open(root.path()).unwrap()).owned(locked, None);
    let (key, body) = ("c-10/part-00000", Body::from("a"));
    let begun = publisher.begin_part(key, &body);
    assert!(part.exists() && begun.is_some());
    let mut stored = pin!(publisher.create_part(10, key, body.clone(), (&rounds, begun)));
    assert!(futures::poll!(&mut stored).is_pending(), "its round has not begun");
    rounds.begin(10);
    stored.await.unwrap();

    std::fs::remove_file(path).unwrap();
    let begun = publisher.begin_part("c-10/part-00001", &body);
    let refused = publisher.create_part(10, "c-10/part-00001", body, (&rounds, begun)).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Configuration);
    assert!(!root.path().join("c-10/part-00001").exists());
}

#[tokio::test]
async fn wait_for_round_is_no_silence() {
    let root = tempfile::tempdir().unwrap();
    let folder = Some(root.path().join("results"));
    // A permit of memory for one body.
    let limits = ResultsLimits { memory_bytes_max: 1, disk_bytes_max: 1 << 20, folder };
    let results = PendingResults::new(limits);
    let publisher = publisher(LocalStore::open(root.path()).unwrap());
    let mut publisher = publisher.bounded_by(results.clone());
    publisher.retrier.silence_max = Duration::from_millis(1);
    let rounds = SyncRounds::none();
    let body = Body::from("waits on disk");
    results.admit(&body);
    results.set_away(true);
    while !body.is_on_disk() {
        let moved = results.watch();
        let _ = tokio::time::timeout(Duration::from_millis(10), moved).await;
    }
    results.set_away(false);
    let part = publisher.create_part(10, "c-10/part-00000", body.clone(), (&rounds, None));
    let others = async {
        // Many times the silence that is reported.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let limit = Duration::from_secs(10);
        let mut level = results.level();
        let at_hand = level.wait_for(|level| !level.is_away);
        let at_hand = tokio::time::timeout(limit, at_hand).await.map(drop);
        at_hand.expect("the wait for others is no silence");
        let room = tokio::time::timeout(limit, results.room_to_read(&body)).await;
        drop(room.expect("no part holds memory while it waits"));
        rounds.begin(10);
    };
    let (stored, ()) = join(part, others).await;
    assert_eq!(stored.unwrap().bytes, body.bytes());
}
